"""What ControlNets are shown of a design, and where a style may draw."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from tambour.base.model import Prompt
from tambour.config import Recipe
from tambour.drawing.sampler import Condition, MaskedStyleGuidance
from tambour.imaging.conditions import canny_condition, chroma_key, stitch_reach, tile_condition
from tambour.imaging.tensors import to_tensor


@dataclass(frozen=True)
class Structure:
    """The structure of one design.

    Attributes:
        shown: condition pictures (1, 3, H, W) in [0, 1] by kind of ControlNet.
        plain, inside: where the style is held to the stitches, what the base alone is shown, and (1, 1, H, W) of 0 and
            1; else None.
    """

    shown: Mapping[str, torch.Tensor]
    plain: Mapping[str, torch.Tensor] | None = None
    inside: torch.Tensor | None = None


def structure_of(flat: Image.Image, inside: np.ndarray, kinds: Iterable[str], kernel: int, recipe: Recipe) -> Structure:
    """The conditions of a design.

    Args:
        flat: the design on the fabric's colour, RGB.
        inside: (H, W) bool, where it is stitched.
        kernel: of the tile condition's blur, px.
        recipe: its `masked_style`: the style's passes see the design on a ground that it cannot be confused with.
    """
    low, high = recipe.sampling.canny_low, recipe.sampling.canny_high

    def conditions(image: Image.Image) -> dict[str, torch.Tensor]:
        make = {"tile": lambda: tile_condition(image, kernel), "canny": lambda: canny_condition(image, low, high)}
        return {kind: (to_tensor(make[kind]()) + 1) / 2 for kind in kinds}

    if not recipe.masked_style:
        return Structure(conditions(flat))
    within = torch.from_numpy(stitch_reach(inside))[None, None]
    return Structure(conditions(chroma_key(flat, inside)), conditions(flat), within)


def told(structures: Sequence[Structure], scales: Mapping[str, float], plain: Prompt, recipe: Recipe) -> dict:
    """The arguments `conditions` and `masked_style` of `sample` for a batch of designs.

    Args:
        scales: of the ControlNets, by kind.
        plain: what the base hears where it draws alone, of batch 1.
    """

    def batch(pictures: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, Condition]:
        return {kind: Condition(torch.cat([p[kind] for p in pictures]), scale) for kind, scale in scales.items()}

    outside = None
    if structures[0].inside is not None:
        inside = torch.cat([structure.inside for structure in structures])
        bare = batch([structure.plain for structure in structures])
        outside = MaskedStyleGuidance(plain, bare, inside, recipe.sampling.style_guidance)
    return {"conditions": batch([structure.shown for structure in structures]), "masked_style": outside}

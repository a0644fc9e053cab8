"""What ControlNets are shown of a design, and where a style may draw (method, sections 6 and 11)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from tambour.base import Base, Prompt
from tambour.config import Edges, Recipe, Sampling
from tambour.drawing.sampler import Condition, MaskedStyleGuidance, windowed
from tambour.imaging.conditions import canny_condition, chroma_key, stitch_reach, tile_condition
from tambour.imaging.tensors import to_tensor


def controlnet_scales(edges: Edges) -> dict[str, float]:
    """The ControlNets that a setting of the edges draws under, by kind, with the scale of each."""
    return {kind: getattr(edges, kind) for kind in ("tile", "canny") if getattr(edges, kind) > 0}


def tile_kernel(sampling: Sampling, base: Base, size: tuple[int, int], longer: int | None = None) -> int:
    """Gaussian kernel of the tile condition for pictures of (width, height) px, px.

    The recipe gives it at `sampling.size`. It scales with the picture; where that is drawn in windows, with those.

    Args:
        longer: the longer side that was asked for, where padding changed it.
    """
    seen = base.native if windowed(base, size) else longer or max(size)
    return round(sampling.blur_kernel * seen / sampling.size)


def condition_pictures(
    image: Image.Image, kinds: Iterable[str], kernel: int, sampling: Sampling
) -> dict[str, Image.Image]:
    """What ControlNets of these kinds are shown of a picture, RGB; `kernel`: of the tile condition's blur, px."""
    low, high = sampling.canny_low, sampling.canny_high
    make = {"tile": lambda: tile_condition(image, kernel), "canny": lambda: canny_condition(image, low, high)}
    return {kind: make[kind]() for kind in kinds}


@dataclass(frozen=True)
class StructureConditions:
    """What ControlNets are shown of one design.

    Attributes:
        styled: condition pictures (1, 3, H, W) in [0, 1] by kind of ControlNet.
        plain, inside: with a masked style, what the base alone is shown, and where the style counts, (1, 1, H, W) of 0
            and 1; else None.
    """

    styled: Mapping[str, torch.Tensor]
    plain: Mapping[str, torch.Tensor] | None = None
    inside: torch.Tensor | None = None


def structure_conditions(
    flat: Image.Image, inside: np.ndarray, kinds: Iterable[str], kernel: int, recipe: Recipe
) -> StructureConditions:
    """The conditions of a design.

    Args:
        flat: the design on the fabric's colour, RGB.
        inside: (H, W) bool, where it is stitched.
        kernel: of the tile condition's blur, px.
        recipe: its `masked_style`: the style's passes see the design on a ground that it cannot be confused with.
    """

    def conditions(image: Image.Image) -> dict[str, torch.Tensor]:
        pictures = condition_pictures(image, kinds, kernel, recipe.sampling)
        return {kind: (to_tensor(picture) + 1) / 2 for kind, picture in pictures.items()}

    if not recipe.masked_style:
        return StructureConditions(conditions(flat))
    within = torch.from_numpy(stitch_reach(inside))[None, None]
    return StructureConditions(conditions(chroma_key(flat, inside)), conditions(flat), within)


def batch_conditions(
    pictures: Sequence[Mapping[str, torch.Tensor]], scales: Mapping[str, float]
) -> dict[str, Condition]:
    """Condition pictures of several designs, by kind, as one batch with the scale of each kind."""
    return {kind: Condition(torch.cat([p[kind] for p in pictures]), scale) for kind, scale in scales.items()}


def masked_style_guidance(
    structures: Sequence[StructureConditions], scales: Mapping[str, float], content: Prompt, recipe: Recipe
) -> MaskedStyleGuidance | None:
    """What holds the style to the stitches of a batch of designs; None: it draws everywhere.

    Args:
        scales: of the ControlNets, by kind.
        content: the prompt of the base where it draws alone, of batch 1.
    """
    if structures[0].inside is None:
        return None
    inside = torch.cat([structure.inside for structure in structures])
    plain = batch_conditions([structure.plain or {} for structure in structures], scales)
    return MaskedStyleGuidance(content, plain, inside, recipe.sampling.style_guidance)

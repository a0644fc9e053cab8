"""A pair -> latents, prompts and conditions, encoded once for the whole picture; batches are aligned crops of them."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from tambour.base import Base, Prompt
from tambour.config import Recipe
from tambour.imaging.conditions import canny_condition, chroma_key, stitch_reach, tile_condition
from tambour.imaging.regions import find_regions
from tambour.imaging.tensors import to_tensor

_LEAST_SHARE = 0.5  # crops are drawn where they hold at least this share of the stitches of the fullest one


@dataclass(frozen=True)
class EncodedPair:
    """A design and its embroidery, aligned, ready to be drawn from.

    Attributes:
        design, embroidery: scaled latents (1, c, H / f, W / f).
        c_des, c_emb: the prompts "a <des>" and "a <des> in [emb] style", batch 1.
        size: (H, W), px.
        window: (height, width) of a crop, px; the whole size where nothing is cropped.
        places: (top, left) of the crops that may be drawn, px, multiples of the base's; the fullest one first.
        condition: the ControlNet's condition picture of the design, (1, 3, H, W) in [0, 1]; None: no ControlNet.
        condition_kind: that ControlNet's kind, "tile", or "canny" where the design is an edge map.
        keyed_condition: that of the design on a chroma-keyed ground, for the passes of the style; None: `condition`.
        stitches: (1, 1, H / f, W / f), how much an error of theirs counts there; None: the same everywhere.
    """

    design: torch.Tensor
    embroidery: torch.Tensor
    c_des: Prompt
    c_emb: Prompt
    size: tuple[int, int]
    window: tuple[int, int]
    places: tuple[tuple[int, int], ...]
    condition: torch.Tensor | None = None
    condition_kind: str = "tile"
    keyed_condition: torch.Tensor | None = None
    stitches: torch.Tensor | None = None


@dataclass(frozen=True)
class Batch:
    """Crops of pairs; every tensor has B rows. See `EncodedPair`.

    Attributes:
        design, embroidery: latents (B, c, h, w).
        time_ids: (B, 6).
        condition, keyed_condition: (B, 3, h f, w f) in [0, 1], or None.
        stitches: (B, 1, h, w), or None.
    """

    design: torch.Tensor
    embroidery: torch.Tensor
    c_des: Prompt
    c_emb: Prompt
    time_ids: torch.Tensor
    condition: torch.Tensor | None = None
    condition_kind: str = "tile"
    keyed_condition: torch.Tensor | None = None
    stitches: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.design)


def training_side(recipe: Recipe) -> int:
    """Side of the square crops that a recipe trains on, px; without crops, the longer side of the reference."""
    return min(recipe.crop or recipe.resolution, recipe.resolution)


def encode_pair(
    base: Base,
    design: Image.Image,
    embroidery: Image.Image,
    words: str,
    recipe: Recipe,
    mask: Image.Image | None = None,
) -> EncodedPair:
    """Encode a pair and its prompts; see `EncodedPair`.

    Args:
        design, embroidery: RGB of one size, whose sides are multiples of the base's `pixel_multiple`.
        words: a description of the design, the <des> of the prompts.
        mask: "L", 255 where there are stitches; None: every place counts the same, or, where the recipe wants
            `masked_style`, the mask is read from the design.
    """
    assert design.size == embroidery.size, (design.size, embroidery.size)
    height, width = embroidery.height, embroidery.width
    window = (min(recipe.crop or height, height), min(recipe.crop or width, width))
    multiple = base.pixel_multiple
    assert not any(side % multiple for side in (height, width, *window)), (height, width, window, multiple)
    latents, condition, keyed_condition, stitches = base.encode_image(to_tensor(design)), None, None, None

    def condition_of(flat: Image.Image) -> torch.Tensor:
        if recipe.training_controlnet == "canny":
            picture = canny_condition(flat, recipe.sampling.canny_low, recipe.sampling.canny_high)
        else:
            picture = tile_condition(flat, recipe.training_kernel)
        return (to_tensor(picture).to(base.device, base.dtype) + 1) / 2

    if recipe.training.tile:
        condition = condition_of(design)
    if recipe.masked_style:
        inside = find_regions(np.asarray(design)).labels > 0 if mask is None else np.asarray(mask.convert("L")) > 127
        within = torch.from_numpy(stitch_reach(inside)).to(base.device)
        stitches = F.interpolate(within[None, None], latents.shape[2:], mode="area")
        keyed_condition = condition_of(chroma_key(design, inside)) if recipe.training.tile else None
    return EncodedPair(
        design=latents,
        embroidery=base.encode_image(to_tensor(embroidery)),
        c_des=base.encode_prompt([recipe.prompts.content.format(words)]),
        c_emb=base.encode_prompt([recipe.prompts.style.format(words)]),
        size=(height, width),
        window=window,
        places=find_places(mask, (height, width), window, multiple),
        condition=condition,
        keyed_condition=keyed_condition,
        condition_kind=recipe.training_controlnet or "tile",
        stitches=stitches,
    )


def find_places(
    mask: Image.Image | None, size: tuple[int, int], window: tuple[int, int], multiple: int
) -> tuple[tuple[int, int], ...]:
    """Corners (top, left) on the grid of `multiple` px where a window is worth training on; the fullest one first."""
    stitches = np.ones(size, np.uint8) if mask is None else (np.asarray(mask.convert("L")) > 127).astype(np.uint8)
    sums = cv2.integral(stitches)  # (H + 1, W + 1)
    tops, lefts = (np.arange(0, whole - part + 1, multiple) for whole, part in zip(size, window, strict=True))
    bottoms, rights = tops + window[0], lefts + window[1]
    filled = sums[np.ix_(bottoms, rights)] - sums[np.ix_(tops, rights)]
    filled = filled - sums[np.ix_(bottoms, lefts)] + sums[np.ix_(tops, lefts)]
    off_centre = np.hypot(*np.meshgrid(tops - tops.mean(), lefts - lefts.mean(), indexing="ij"))
    order = np.lexsort((off_centre.ravel(), -filled.ravel()))
    order = order[filled.ravel()[order] >= _LEAST_SHARE * filled.max()]
    return tuple((int(tops[i // len(lefts)]), int(lefts[i % len(lefts)])) for i in order)


def crop(base: Base, pair: EncodedPair, places: Sequence[tuple[int, int]]) -> Batch:
    """Windows of a pair at some places, with SDXL's micro-conditioning: the size of the whole and the crop's corner."""
    height, width = pair.window
    f = base.vae_factor

    def cut(whole: torch.Tensor, scale: int) -> torch.Tensor:
        pieces = [
            whole[..., top // scale : (top + height) // scale, left // scale : (left + width) // scale]
            for top, left in places
        ]
        return torch.cat(pieces)

    return Batch(
        design=cut(pair.design, f),
        embroidery=cut(pair.embroidery, f),
        c_des=pair.c_des.expand(len(places)),
        c_emb=pair.c_emb.expand(len(places)),
        time_ids=torch.cat([base.time_ids(height, width, place, pair.size) for place in places]),
        condition=None if pair.condition is None else cut(pair.condition, 1),
        condition_kind=pair.condition_kind,
        keyed_condition=None if pair.keyed_condition is None else cut(pair.keyed_condition, 1),
        stitches=None if pair.stitches is None else cut(pair.stitches, f),
    )


def draw(base: Base, pairs: Sequence[EncodedPair], count: int, generator: torch.Generator) -> Batch:
    """`count` crops at random places, each of a random one of the pairs, whose windows are of one size."""
    if len(pairs) == 1:
        picks = torch.randint(len(pairs[0].places), (count,), generator=generator)
        return crop(base, pairs[0], [pairs[0].places[i] for i in picks])
    rows = []
    for pick in torch.randint(len(pairs), (count,), generator=generator):
        rows.append(draw(base, [pairs[pick]], 1, generator))
    return functools.reduce(join, rows)


def join(first: Batch, second: Batch) -> Batch:
    """Two batches of one shape as one."""

    def both(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return torch.cat([a, b])

    def maybe_both(a: torch.Tensor | None, b: torch.Tensor | None) -> torch.Tensor | None:
        return None if a is None else both(a, b)

    def prompts(a: Prompt, b: Prompt) -> Prompt:
        return Prompt(both(a.embeds, b.embeds), both(a.pooled, b.pooled))

    return Batch(
        design=both(first.design, second.design),
        embroidery=both(first.embroidery, second.embroidery),
        c_des=prompts(first.c_des, second.c_des),
        c_emb=prompts(first.c_emb, second.c_emb),
        time_ids=both(first.time_ids, second.time_ids),
        condition=maybe_both(first.condition, second.condition),
        condition_kind=first.condition_kind,
        keyed_condition=maybe_both(first.keyed_condition, second.keyed_condition),
        stitches=maybe_both(first.stitches, second.stitches),
    )

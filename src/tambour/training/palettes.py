"""The reference in other colours: colour is content, so more than one palette is learnt from (method, section 12)."""

from __future__ import annotations

import colorsys
from collections.abc import Iterator

import numpy as np
from PIL import Image

from tambour.guides.photo.relief import contrast_of
from tambour.guides.photo.yarn import in_stitches
from tambour.imaging.regions import find_regions
from tambour.pair.flat import Pair

_PALE, _CLOTH, _DARK = 0.25, 0.15, 0.15  # shares of new colours; the rest is anything strong
_LEAST = 20  # px; smaller areas keep their colour


def recoloured(pair: Pair, fabric: tuple[int, int, int], rng: np.random.Generator, count: int = 1) -> Iterator[Pair]:
    """The pair, `count` times, with every colour of its design exchanged, in the embroidery too; the ground stays.

    Stitches are as light and dark as those of such yarn (`guides.photo.tones.YarnToneCurve`). A quarter of the new
    colours are pale, some are dark and some nearly the fabric's, so that a style does not learn such regions as bare.

    Args:
        fabric: RGB.
        rng: draws the colours.
    """
    if not count:
        return
    design, embroidery = (np.asarray(image.convert("RGB")) for image in (pair.design, pair.embroidery))
    inside = np.asarray(pair.mask.convert("L")) > 127
    regions = find_regions(np.dstack([design, np.where(inside, 255, 0).astype(np.uint8)]))
    _, colour_of = np.unique(regions.colours[1:].round(3), axis=0, return_inverse=True)
    colour_of = np.concatenate([[-1], colour_of.ravel()])[regions.labels]  # (H, W): number of a pixel's colour
    areas = [colour_of == number for number in range(colour_of.max() + 1)]
    areas = [here for here in areas if here.sum() >= _LEAST]
    changed = np.any(areas, axis=0) if areas else np.zeros(inside.shape, bool)
    relief = contrast_of(embroidery, design, inside)
    for _ in range(count):
        flat = design.copy()
        for here in areas:
            flat[here] = np.uint8(255 * _colour(fabric, rng))
        dyed = in_stitches(*relief, flat, inside, fabric)
        stitched = np.where(changed[..., None], dyed, embroidery)
        yield Pair(Image.fromarray(flat), Image.fromarray(stitched), pair.mask)


def _colour(fabric: tuple[int, int, int], rng: np.random.Generator) -> np.ndarray:
    """RGB in [0, 1]."""
    kind = rng.random()
    if kind < _CLOTH:
        return (np.array(fabric) / 255 + rng.normal(0, 0.04, 3)).clip(0, 1)
    saturation, value = (0.3, 1.0), (0.3, 1.0)
    if kind < _CLOTH + _PALE:
        saturation, value = (0.0, 0.25), (0.85, 1.0)
    elif kind < _CLOTH + _PALE + _DARK:
        saturation, value = (0.0, 0.8), (0.05, 0.3)
    return np.array(colorsys.hsv_to_rgb(rng.random(), rng.uniform(*saturation), rng.uniform(*value)))

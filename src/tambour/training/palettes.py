"""The reference in other colours: colour is content, so a style should be learnt from more than one palette (ours)."""

from __future__ import annotations

import colorsys

import numpy as np
from PIL import Image

from tambour.pair.flat import Pair
from tambour.stitch.regions import find_regions

GAMMA = 2.2
_PALE, _CLOTH, _DARK = 0.25, 0.15, 0.15  # shares of new colours; the rest is anything strong
_SHEEN = 0.7  # how much of a highlight stays white
_BRIGHTEST = 2.2  # times its region's mean light, from which on light counts as a highlight
_LEAST = 20  # px; smaller areas keep their colour


def recoloured(pair: Pair, fabric: tuple[int, int, int], dice: np.random.Generator) -> Pair:
    """The pair with every colour of its design exchanged for another one, in the embroidery too; the ground stays.

    Thread keeps its shading: as light that falls on a surface of the new colour, or as what is added to it, whichever
    is stronger: relief shows on pale thread, but a thread's shine does not darken with its dye. A quarter of the new
    colours are pale, some are dark and some nearly the fabric's, so that a style does not learn such regions as bare.

    Args:
        fabric: RGB.
        dice: draws the colours.
    """
    design, embroidery = (np.asarray(image.convert("RGB")) for image in (pair.design, pair.embroidery))
    inside = np.where(np.asarray(pair.mask.convert("L")) > 127, 255, 0).astype(np.uint8)
    regions = find_regions(np.dstack([design, inside]))
    flat, stitched = design.copy(), embroidery.astype(np.float32) / 255
    _, colour_of = np.unique(regions.colours[1:].round(3), axis=0, return_inverse=True)
    colour_of = np.concatenate([[-1], colour_of.ravel()])[regions.labels]  # (H, W): number of a pixel's colour
    for number in range(colour_of.max() + 1):
        here = colour_of == number
        if here.sum() < _LEAST:
            continue
        new = _colour(fabric, dice)
        flat[here], stitched[here] = np.uint8(255 * new), _dyed(stitched[here], new)
    return Pair(Image.fromarray(flat), Image.fromarray(np.uint8(255 * stitched + 0.5)), pair.mask)


def _dyed(thread: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """Pixels (N, 3) of thread of one colour, in [0, 1], in another; their mean becomes about that colour."""
    mean, light = thread.mean(0), thread**GAMMA
    shade = (light.mean(1) + 0.01) / ((mean**GAMMA).mean() + 0.01)
    highlight = np.maximum(light - (mean**GAMMA) * 1.8, 0)
    lit = colour**GAMMA * np.minimum(shade, _BRIGHTEST)[:, None] + _SHEEN * highlight
    lit = lit.clip(0, 1) ** (1 / GAMMA)
    added = (colour + (thread - mean).mean(1, keepdims=True)).clip(0, 1)
    return lit if lit.mean(1).std() >= added.mean(1).std() else added


def _colour(fabric: tuple[int, int, int], dice: np.random.Generator) -> np.ndarray:
    """RGB in [0, 1]."""
    kind = dice.random()
    if kind < _CLOTH:
        return (np.array(fabric) / 255 + dice.normal(0, 0.04, 3)).clip(0, 1)
    saturation, value = (0.3, 1.0), (0.3, 1.0)
    if kind < _CLOTH + _PALE:
        saturation, value = (0.0, 0.25), (0.85, 1.0)
    elif kind < _CLOTH + _PALE + _DARK:
        saturation, value = (0.0, 0.8), (0.05, 0.3)
    return np.array(colorsys.hsv_to_rgb(dice.random(), dice.uniform(*saturation), dice.uniform(*value)))

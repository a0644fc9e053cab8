"""Picture -> its edge map: the A of pairs whose colours are style (method, section 7)."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
from PIL import Image

from tambour.config import Recipe
from tambour.imaging.conditions import canny_condition
from tambour.imaging.geometry import flatten
from tambour.pair.flat import Pair, make_design

EDGE_MAPS = ("canny", "outline", "filled")  # what recipes draw from edges
_THICK = 5  # px: lines are thinner than that


def edge_map(picture: Image.Image, recipe: Recipe) -> Image.Image:
    """White edges on black, RGB, of the picture's size, as the recipe's `design_kind` says.

    "canny": of the picture as it is. Else of the flat colours found under it, so that neither stitches nor brush
    strokes leave lines; it stands in for HED, which needs weights. A line drawing (thin, of two tones, dark on light or
    light on dark) is an edge map already: Canny would draw every line twice.
    """
    lines = find_lines(picture)
    if lines is not None:
        return Image.fromarray(np.repeat(lines.astype(np.uint8)[..., None] * 255, 3, 2))
    if recipe.design_kind != "canny":
        picture = make_design(picture).design
    return canny_condition(picture, recipe.sampling.canny_low, recipe.sampling.canny_high)


def find_lines(picture: Image.Image) -> np.ndarray | None:
    """Where the lines of a line drawing are, (H, W) bool; None: the picture is none."""
    pixels = np.asarray(flatten(picture)).astype(int)
    grey, colour = pixels.mean(2), np.ptp(pixels, axis=2)
    tones = ((grey < 64) | (grey > 191)).mean()
    if tones < 0.9 or (colour > 48).mean() > 0.02:
        return None
    light = grey > 127
    lines = light if light.mean() < 0.5 else ~light
    thick = cv2.morphologyEx(lines.astype(np.uint8), cv2.MORPH_OPEN, np.ones((_THICK, _THICK), np.uint8))
    return lines if 0 < lines.mean() < 0.3 and thick.sum() < 0.05 * lines.sum() else None


def edged(pair: Pair, recipe: Recipe, own: bool) -> Pair:
    """The pair; where the recipe draws from edges, with the edge map as its design.

    Args:
        own: the design is the user's; else it was found under the picture, and "canny" looks at that instead.
    """
    if recipe.flat:
        return pair
    picture = pair.embroidery if recipe.design_kind == "canny" and not own else pair.design
    return replace(pair, design=edge_map(picture, recipe))

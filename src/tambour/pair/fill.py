"""Outlines -> a flat design: closed areas in a reference's colours (method, section 14; the paper shows edges alone).

A base that was hardly trained on edge maps alone cannot tell inside from outside in them. With the areas filled, sketch
colorization and appearance transfer (method, section 7) are embroidery again. Which area takes which colour nobody can
know from lines; shares follow the reference, and neighbours differ where they can.
"""

from __future__ import annotations

import cv2
import numpy as np
from PIL import Image

from tambour.config import Recipe
from tambour.imaging.geometry import flatten
from tambour.imaging.nearest import fill_from_nearest
from tambour.imaging.regions import find_regions
from tambour.pair.edges import edge_map

Palette = tuple[tuple[int, int, int, float], ...]  # red, green, blue (0 to 255) and share of the stitched area

_RARE = 0.01  # share of a colour that is none of a palette's
_GAP = 1 / 170  # of the longer side: lines nearer than that meet
_SPECK = 1 / 4000  # of the picture: smaller areas are part of a line


def palette_of(design: Image.Image, mask: np.ndarray) -> Palette:
    """The colours of a flat design inside a mask (H, W) bool, the most common first."""
    regions = find_regions(np.dstack([np.asarray(flatten(design)), np.where(mask, 255, 0).astype(np.uint8)]))
    sizes = np.bincount(regions.labels.ravel(), minlength=len(regions.colours))[1:]
    colours = np.rint(255 * regions.colours[1:]).astype(int)
    names, which = np.unique(colours, axis=0, return_inverse=True)
    share = np.bincount(which.ravel(), sizes, len(names)) / max(1, sizes.sum())
    order = [n for n in np.argsort(-share, kind="stable") if share[n] >= _RARE]
    return tuple((int(names[n][0]), int(names[n][1]), int(names[n][2]), round(float(share[n]), 4)) for n in order)


def filled(design: Image.Image, fabric: tuple[int, int, int], recipe: Recipe, palette: Palette) -> Image.Image:
    """What a design's outlines enclose, each area in a colour of the palette, RGBA; what is outside is transparent.

    Args:
        design: a line drawing, or a picture, of which the edge map is taken. What it says is transparent stays so.
        fabric: RGB, under a transparent design. palette: not empty.
    """
    lines = np.asarray(edge_map(flatten(design, fabric), recipe))[..., 0] > 127
    solid = np.ones(lines.shape, np.uint8)
    if design.mode == "RGBA":
        solid = (np.asarray(design)[..., 3] > 127).astype(np.uint8)
        lines = lines | ((solid > 0) & (cv2.erode(solid, np.ones((3, 3), np.uint8)) == 0))
    areas = areas_of(lines)
    sizes = np.bincount(areas.ravel())
    bare = np.bincount(areas.ravel(), solid.ravel()) < 0.5 * sizes
    bare[0] = True
    wanted = np.array([share for *_, share in palette]) * sizes[~bare].sum()
    neighbours, chosen = _neighbours(areas, len(sizes)), np.full(len(sizes), -1)
    for area in np.argsort(-sizes, kind="stable"):
        if bare[area]:
            continue
        taken = set(chosen[neighbours[area]])
        free = [n for n in range(len(palette)) if n not in taken] or range(len(palette))
        chosen[area] = max(free, key=lambda n: wanted[n])
        wanted[chosen[area]] -= sizes[area]
    colours = np.zeros((len(sizes), 4), np.uint8)
    colours[~bare, :3] = np.array([colour for *colour, _ in palette], np.uint8)[chosen[~bare]]
    colours[~bare, 3] = 255
    return Image.fromarray(colours[areas])


def _neighbours(areas: np.ndarray, count: int) -> list[np.ndarray]:
    """By area, those that come within 2 px of it."""
    height, width = areas.shape
    pairs = []
    for y, x in np.argwhere(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))) - 2:
        here = areas[max(0, -y) : height - max(0, y), max(0, -x) : width - max(0, x)].astype(np.int64)
        there = areas[max(0, y) : height + min(0, y), max(0, x) : width + min(0, x)]
        pairs.append(np.unique((here * count + there)[here != there]))
    one, other = np.divmod(np.unique(np.concatenate(pairs)), count)
    return np.split(other, np.searchsorted(one, np.arange(1, count)))


def areas_of(lines: np.ndarray) -> np.ndarray:
    """What lines (H, W) bool enclose: (H, W) int32, areas from 1 on; 0 is what reaches the picture's border.

    Small gaps are closed; strokes drawn as two lines are areas; lines belong to the nearest area.
    """
    height, width = lines.shape
    gap = 2 * max(1, round(_GAP * max(lines.shape))) + 1
    framed = np.pad(lines, gap).astype(np.uint8)
    barrier = cv2.dilate(framed, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (gap, gap)))
    count, wide = cv2.connectedComponents(1 - barrier, connectivity=4)
    _, enclosed = cv2.connectedComponents(1 - framed, connectivity=4)
    narrow = (enclosed > 0) & ~np.isin(enclosed, np.unique(enclosed[wide > 0]))
    labels = np.where(narrow, enclosed + count - 1, wide)
    ground, sizes = wide[0, 0], np.bincount(labels.ravel())
    small = sizes < max(4, _SPECK * height * width)
    small[[0, ground]] = True, False
    labels[small[labels]] = 0
    labels = fill_from_nearest(labels, labels > 0)[gap:-gap, gap:-gap]
    names = np.unique(labels[labels != ground])
    renumbered = np.zeros(labels.max() + 1, np.int32)
    renumbered[names] = np.arange(1, len(names) + 1)
    return renumbered[labels]

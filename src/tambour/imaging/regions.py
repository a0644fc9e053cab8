"""A flat design -> regions of one colour: a label map, the colours, and where the fabric shows."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from tambour.imaging.components import components
from tambour.imaging.nearest import fill_from_nearest
from tambour.imaging.palette import histogram_palette


@dataclass(frozen=True)
class Regions:
    """The connected regions of one colour in a design.

    Attributes:
        labels: (H, W) int32; 0 is bare fabric, 1 to R are regions.
        colours: (R + 1, 3) float32 sRGB in [0, 1] by label; colours[0] is the design's background.
    """

    labels: np.ndarray
    colours: np.ndarray


def find_regions(pixels: np.ndarray, background: str = "auto", limit: int = 16, speck: float = 4) -> Regions:
    """Split a design into regions.

    Args:
        pixels: (H, W, 3 or 4) uint8 RGB(A). Alpha below one half is bare fabric.
        background: "auto": an opaque design whose border is nearly all of one colour shows fabric there;
            "stitch": everything is stitched.
        limit: most colours that are told apart.
        speck: px; smaller regions are given to their neighbours.
    """
    rgb = np.ascontiguousarray(pixels[..., :3])
    height, width = rgb.shape[:2]
    stitched = pixels[..., 3] >= 128 if pixels.shape[2] == 4 else np.ones((height, width), bool)
    transparent = not stitched.all()
    palette, nearest = histogram_palette(rgb, stitched, limit)
    labels = np.where(stitched, nearest + 1, 0).astype(np.int32)  # colour number + 1; 0: transparent
    labels = fill_from_nearest(labels, _has_breadth(labels, 2 if max(height, width) <= 384 else 3), 3)

    paper = 0
    if background == "auto" and not transparent:
        edge = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
        common = int(np.bincount(edge).argmax())
        if (edge == common).mean() >= 0.7 and len(palette) > 1:
            paper = common

    # connected components of each colour, specks dropped
    speck = min(speck, 0.01 * height * width)
    connected = np.zeros((height, width), np.int32)
    speckled = np.zeros((height, width), bool)
    colours = [palette[paper - 1] if paper else np.ones(3, np.float32)]
    for colour in range(1, len(palette) + 1):
        mask = (labels == colour).view(np.uint8)
        x0, y0, w, h = cv2.boundingRect(mask)
        if w == 0:
            continue
        box = np.s_[y0 : y0 + h, x0 : x0 + w]
        parts = components(mask[box].view(bool), connectivity=8)
        numbers = np.zeros(len(parts) + 1, np.int32)
        for part in range(1, len(parts) + 1):
            px, py, pw, ph = parts.boxes[part]
            outer = px + x0 == 0 or py + y0 == 0 or px + pw + x0 == width or py + ph + y0 == height
            if colour == paper and outer:
                continue
            if parts.areas[part] < speck:
                numbers[part] = -1
            else:
                numbers[part] = len(colours)
                colours.append(palette[colour - 1])
        found = numbers[parts.labels]
        speckled[box] |= found < 0
        connected[box] += np.maximum(found, 0)
    if speckled.any():
        connected = fill_from_nearest(connected, ~speckled, 3)
    return Regions(connected, np.asarray(colours, np.float32))


def _has_breadth(labels: np.ndarray, size: int) -> np.ndarray:
    """(H, W) bool: the pixel lies in a size x size block of its own label (anti-aliased slivers do not)."""
    height, width = labels.shape
    if min(height, width) < 2 * size:
        return np.ones(labels.shape, bool)
    same = np.ones((height - size + 1, width - size + 1), bool)
    corner = labels[: height - size + 1, : width - size + 1]
    for dy in range(size):
        for dx in range(size):
            same &= labels[dy : dy + corner.shape[0], dx : dx + corner.shape[1]] == corner
    wide = np.zeros(labels.shape, np.uint8)
    wide[: corner.shape[0], : corner.shape[1]] = same
    return cv2.dilate(wide, np.ones((size, size), np.uint8), anchor=(size - 1, size - 1)).astype(bool)

"""A flat design -> regions of one colour: a label map, the colours, and where the fabric shows."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np


@dataclass(frozen=True)
class Regions:
    """labels: (H, W) int32, 0 is bare fabric, 1.. are connected regions; colours: (R + 1, 3) float32 sRGB in [0, 1],
    colours[0] is the design's background."""

    labels: np.ndarray
    colours: np.ndarray


def find_regions(pixels: np.ndarray, background: str = "auto", limit: int = 16, speck: float = 4) -> Regions:
    """Split a design into regions.

    Args:
        pixels: (H, W, 3 or 4) uint8 RGB(A). Alpha below one half is bare fabric.
        background: "auto": an opaque design whose border is nearly all of one colour shows fabric there;
            "stitch": everything is stitched.
        limit: most colours kept.
        speck: px; smaller regions are given to their neighbours.
    """
    rgb = np.ascontiguousarray(pixels[..., :3])
    height, width = rgb.shape[:2]
    stitched = pixels[..., 3] >= 128 if pixels.shape[2] == 4 else np.ones((height, width), bool)
    transparent = not stitched.all()
    palette, nearest = _palette(rgb, stitched, limit)
    labels = np.where(stitched, nearest + 1, 0).astype(np.int32)  # colour number + 1; 0: transparent
    labels = _fill_from_neighbours(labels, ~_has_breadth(labels, 2 if max(height, width) <= 384 else 3))

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
        count, parts, stats, _ = cv2.connectedComponentsWithStats(mask[box], connectivity=8)
        numbers = np.zeros(count, np.int32)
        for part in range(1, count):
            px, py, pw, ph, area = stats[part]
            outer = px + x0 == 0 or py + y0 == 0 or px + pw + x0 == width or py + ph + y0 == height
            if colour == paper and outer:
                continue
            if area < speck:
                numbers[part] = -1
            else:
                numbers[part] = len(colours)
                colours.append(palette[colour - 1])
        found = numbers[parts]
        speckled[box] |= found < 0
        connected[box] += np.maximum(found, 0)
    if speckled.any():
        connected = _fill_from_neighbours(connected, speckled)
    return Regions(connected, np.asarray(colours, np.float32))


def _palette(rgb: np.ndarray, stitched: np.ndarray, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """Greedy palette on a 5-bit histogram: (K, 3) float32 in [0, 1], and each pixel's nearest entry (H, W) int32."""
    red, green, blue = (channel.astype(np.uint16) >> 3 for channel in cv2.split(rgb))
    bins = (red << 10) | (green << 5) | blue
    thin = np.s_[:: 1 + (bins.size > 400_000), :: 1 + (bins.size > 400_000)]  # a quarter of a large picture is enough
    counts = np.bincount(bins[thin][stitched[thin]], minlength=32768)
    if not counts.any():
        return np.zeros((1, 3), np.float32), np.zeros(bins.shape, np.int32)
    used = np.flatnonzero(np.bincount(bins.ravel(), minlength=32768))
    points = np.stack([used >> 10, (used >> 5) & 31, used & 31], 1).astype(np.float32) * (8 / 255) + 4 / 255
    left = counts[used].astype(np.float64)
    total, centres = left.sum(), []
    while len(centres) < limit and left.max() > max(3, 0.0015 * total):
        centre = points[left.argmax()]
        centres.append(centre)
        left[((points - centre) ** 2).sum(1) < 0.15**2] = 0
    centres = np.asarray(centres if centres else [points[left.argmax()]])
    index = ((points[:, None] - centres[None]) ** 2).sum(2).argmin(1)
    table = np.zeros(32768, np.int32)
    table[used] = index
    nearest = table.take(bins)
    # the exact colour: the mean of the pixels near each centre
    close = ((points - centres[index]) ** 2).sum(1) < 0.12**2
    exact = np.zeros(32768, bool)
    exact[used[close]] = True
    chosen = stitched[thin] & exact[bins[thin]]
    which = nearest[thin][chosen]
    weight = np.maximum(np.bincount(which, minlength=len(centres)), 1)
    means = [np.bincount(which, weights=rgb[..., c][thin][chosen], minlength=len(centres)) / weight for c in range(3)]
    return (np.stack(means, 1) / 255).astype(np.float32), nearest


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


def _fill_from_neighbours(labels: np.ndarray, holes: np.ndarray) -> np.ndarray:
    """Give the pixels of `holes` the label of the nearest pixel outside them."""
    if not holes.any() or holes.all():
        return labels
    _, nearest = cv2.distanceTransformWithLabels(holes.view(np.uint8), cv2.DIST_L2, 3, labelType=cv2.DIST_LABEL_PIXEL)
    lookup = np.zeros(int(nearest.max()) + 1, np.int32)
    lookup[nearest[~holes]] = labels[~holes]
    return np.where(holes, lookup[nearest], labels)

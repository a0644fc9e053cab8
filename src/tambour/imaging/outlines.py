"""Outlines of regions, and the outline point nearest to each pixel."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from tambour.imaging.components import label_borders
from tambour.imaging.nearest import nearest_dots


@dataclass(frozen=True)
class Contours:
    """The outline point nearest to each pixel.

    Attributes:
        nearest: (H, W) int32, its row of `points`.
        depth: (H, W) float32, px to it.
        points: (N, 6) float32: smoothed x and y, tangent x and y, arc length in px, radians turned inwards so far.
    """

    nearest: np.ndarray
    depth: np.ndarray
    points: np.ndarray

    def arc(self, where: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Arc length (M,) and outline point (M, 6) of the pixels with flat indices `where`."""
        near = self.points.take(self.nearest.ravel().take(where), 0)
        return near[:, 4] + (x - near[:, 0]) * near[:, 2] + (y - near[:, 1]) * near[:, 3], near


def edge_distance(labels: np.ndarray) -> np.ndarray:
    """(H, W) labels -> (H, W) float32: px to the nearest border between two labels; the picture's own is none."""
    padded = cv2.copyMakeBorder(labels, 1, 1, 1, 1, cv2.BORDER_REPLICATE)
    border = label_borders(padded)
    if not border.any():
        return np.full(labels.shape, float(sum(labels.shape)), np.float32)
    return cv2.distanceTransform((~border).view(np.uint8), cv2.DIST_L2, 5)[1:-1, 1:-1]


def trace_contours(labels: np.ndarray, colours: int, smoothing: float = 2.5) -> Contours:
    """Region labels (H, W) int, below `colours` -> the point of any outline, holes' too, nearest to each pixel."""
    points = [  # per outline: (n, 8) x, y, smoothed x, y, tangent x, y, arc, turn
        np.column_stack([ring.dots, ring.points, ring.tangent, ring.arc, ring.turn]).astype(np.float32)
        for ring in trace_rings(labels, colours, smoothing)
    ]
    table = np.concatenate(points) if points else np.zeros((1, 8), np.float32)
    depth, nearest, which = nearest_dots(table[:, :2].astype(np.intp), labels.shape)
    return Contours(nearest, depth, table[which, 2:])


@dataclass(frozen=True)
class Ring:
    """One closed outline of n points, the region on its left.

    Attributes:
        dots: (n, 2) int, x and y of the pixels.
        points, tangent: (n, 2), smoothed.
        arc: (n,) px from the first point.
        turn: (n,) radians turned inwards so far (negative), as in `Contours`.
        length: px.
    """

    dots: np.ndarray
    points: np.ndarray
    tangent: np.ndarray
    arc: np.ndarray
    turn: np.ndarray
    length: float


def trace_rings(labels: np.ndarray, colours: int, smoothing: float) -> Iterator[Ring]:
    """Every region's outline, holes too, smoothed by `smoothing` px; `labels` (H, W) int, below `colours`."""
    boxes = _boxes(labels, colours)
    for label in range(1, colours):
        x0, y0, x1, y1 = boxes[label]
        if x1 <= x0:
            continue
        mask = cv2.copyMakeBorder(
            (labels[y0:y1, x0:x1] == label).view(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0
        )
        outlines, _ = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE, offset=(x0 - 1, y0 - 1))
        for outline in outlines:
            dots = outline[:, 0].astype(np.float32)
            # the outline of a hole lies on the pixels around the hole, which are the region's own
            smooth = _smooth_ring(dots, min(smoothing, len(dots) / 8))
            tangent = np.roll(smooth, -1, 0) - np.roll(smooth, 1, 0)
            tangent /= np.maximum(np.linalg.norm(tangent, axis=1, keepdims=True), 1e-6)
            steps = np.linalg.norm(np.diff(smooth, axis=0, append=smooth[:1]), axis=1)
            arc = np.cumsum(steps) - steps
            # OpenCV keeps the region on the left of an outline, holes included, so inward turns are negative here
            turn = -np.unwrap(np.arctan2(tangent[:, 1], tangent[:, 0]))
            yield Ring(outline[:, 0], smooth, tangent, arc, turn, float(steps.sum()))


def _boxes(labels: np.ndarray, count: int) -> np.ndarray:
    """(count, 4) x0, y0, x1, y1 of every label, from the labels' rows and columns."""
    boxes = np.zeros((count, 4), np.int64)
    boxes[:, :2] = max(labels.shape)
    y, x = np.nonzero(labels)
    which = labels[y, x]
    if len(which):
        order = np.argsort(which, kind="stable")
        which, y, x = which[order], y[order], x[order]
        starts = np.flatnonzero(np.diff(which, prepend=-1))
        names = which[starts]
        boxes[names, 0] = np.minimum.reduceat(x, starts)
        boxes[names, 1] = y[starts]
        boxes[names, 2] = np.maximum.reduceat(x, starts) + 1
        boxes[names, 3] = np.maximum.reduceat(y, starts) + 1
    return boxes


def _smooth_ring(dots: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian smoothing along a closed polyline (n, 2)."""
    if sigma < 0.3:
        return dots.copy()
    reach = min(len(dots), int(4 * sigma) + 1)
    wrapped = np.concatenate([dots[-reach:], dots, dots[:reach]])
    smooth = cv2.GaussianBlur(wrapped, (1, 2 * int(3 * sigma) + 1), sigmaX=1, sigmaY=sigma)
    return smooth[reach : reach + len(dots)]

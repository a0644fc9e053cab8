"""Thread coordinates: how far along (u) and across (v) the threads a pixel lies, and which way they run.

Everything here is in pixels of the picture; a thread frame holds flat arrays over the M pixels of one pass.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tambour.imaging.outlines import Contours


@dataclass
class ThreadFrame:
    """u, v: (M,) float32 px along and across the threads; tx, ty: (M,) unit tangent; depth: (M,) px to the edge;
    label: (M,) int32 region; x, y: (M,) float32 pixel."""

    u: np.ndarray
    v: np.ndarray
    tx: np.ndarray
    ty: np.ndarray
    depth: np.ndarray
    label: np.ndarray
    x: np.ndarray
    y: np.ndarray

    def part(self, span: slice) -> ThreadFrame:
        """The pixels of `span` alone."""
        return ThreadFrame(*(getattr(self, name)[span] for name in self.__dataclass_fields__))


def straight_frame(labels: np.ndarray, depth: np.ndarray, where: np.ndarray, angles: np.ndarray) -> ThreadFrame:
    """Parallel threads; `angles` (R + 1,) degrees by label. `where`: (M,) flat indices of the pixels."""
    label = labels.ravel()[where]
    y, x = np.divmod(where, labels.shape[1])
    x, y = x.astype(np.float32), y.astype(np.float32)
    radians = np.radians(angles)
    tx, ty = np.cos(radians).astype(np.float32)[label], np.sin(radians).astype(np.float32)[label]
    return ThreadFrame(x * tx + y * ty, y * tx - x * ty, tx, ty, depth.ravel()[where], label, x, y)


def contour_frame(
    labels: np.ndarray, depth: np.ndarray, where: np.ndarray, contours: Contours, pitch: float
) -> ThreadFrame:
    """Rows of `pitch` px that follow the outline; stitches keep their length round bends. An infinite pitch
    leaves u the arc length of the outline itself."""
    y, x = (a.astype(np.float32) for a in np.divmod(where, labels.shape[1]))
    v = contours.depth.ravel().take(where)
    arc, near = contours.arc(where, x, y)
    # a parallel curve at depth d is shorter by d times the angle turned: u = arc - d * turn
    if np.isfinite(pitch):
        middle = (np.floor(v / np.float32(pitch)) + np.float32(0.5)) * np.float32(pitch)
        arc -= middle * near[:, 5]
    tx, ty = np.ascontiguousarray(near[:, 2]), np.ascontiguousarray(near[:, 3])
    return ThreadFrame(arc, v, tx, ty, depth.ravel().take(where), labels.ravel().take(where), x, y)


def principal_angles(labels: np.ndarray, count: int) -> np.ndarray:
    """(count,) degrees of each region's longest direction, from its second moments."""
    stride = max(1, max(labels.shape) // 256)
    small = labels[::stride, ::stride]
    y, x = np.nonzero(small)
    which = small[y, x]
    x, y = x.astype(np.float64), y.astype(np.float64)
    total = np.maximum(np.bincount(which, minlength=count), 1)

    def mean(values: np.ndarray) -> np.ndarray:
        return np.bincount(which, weights=values, minlength=count) / total

    mx, my = mean(x), mean(y)
    xx, yy, xy = mean(x * x) - mx * mx, mean(y * y) - my * my, mean(x * y) - mx * my
    return np.degrees(0.5 * np.arctan2(2 * xy, xx - yy))

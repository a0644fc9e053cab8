"""Where the pixels of a design lie in their regions: how far from the border, and which way the region runs."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from tambour.imaging.orientation import directions
from tambour.imaging.regions import find_regions

FACES = 8  # directions in which borders face
ORIENTATIONS = ("picture", "border", "axis")
_ROUND = 2.0  # px, over which a border's direction is averaged


@dataclass(frozen=True)
class RegionGeometry:
    """Where pixels lie in their regions; arrays (H, W).

    Attributes:
        labels: region, 0 outside of all.
        colours: (R + 1, 3) RGB in [0, 1] by region.
        distance: px to the region's border.
        angles: direction by orientation, radians in [0, pi), x to the right, y down.
    """

    labels: np.ndarray
    colours: np.ndarray
    distance: np.ndarray
    angles: dict[str, np.ndarray]


def region_geometry(design: np.ndarray, inside: np.ndarray) -> RegionGeometry:
    """Where the pixels of a flat design (H, W, 3) uint8 lie, of those `inside` (H, W) bool."""
    regions = find_regions(np.dstack([design, np.where(inside, 255, 0).astype(np.uint8)]))
    labels = regions.labels
    border = np.zeros(labels.shape, bool)
    for axis in (0, 1):
        step = np.diff(labels, axis=axis) != 0
        border |= np.pad(step, [(axis == 0, 0), (axis == 1, 0)]) | np.pad(step, [(0, axis == 0), (0, axis == 1)])
    distance = cv2.distanceTransform((~border).astype(np.uint8), cv2.DIST_L2, 5)  # enormous where there is no border
    distance = np.minimum(distance, max(labels.shape)) * (labels > 0)
    smooth = cv2.GaussianBlur(distance, (0, 0), 3)
    along = directions(smooth, (labels > 0).astype(np.float32), 5)[0]
    axis = np.zeros(labels.shape, np.float32)
    rows, columns = np.indices(labels.shape, np.float32)
    for label in range(1, len(regions.colours)):
        here = labels == label
        if here.any():
            x, y = columns[here] - columns[here].mean(), rows[here] - rows[here].mean()
            axis[here] = 0.5 * np.arctan2(2 * (x * y).mean(), (x * x).mean() - (y * y).mean())
    angles = {"picture": np.zeros_like(axis), "border": along, "axis": axis}
    return RegionGeometry(labels, regions.colours, distance, {name: angle % np.pi for name, angle in angles.items()})


def facing(region: RegionGeometry) -> np.ndarray:
    """(H, W) float32: the direction from the nearest border inwards, of `FACES` to a whole turn."""
    smooth = cv2.GaussianBlur(region.distance.astype(np.float32), (0, 0), _ROUND)
    right, down = cv2.Sobel(smooth, cv2.CV_32F, 1, 0), cv2.Sobel(smooth, cv2.CV_32F, 0, 1)
    return (np.arctan2(down, right) * (FACES / (2 * np.pi)) % FACES).astype(np.float32)

"""Label maps: connected components of a mask, and the borders between labels."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np


@dataclass(frozen=True)
class Components:
    """The connected parts of a mask, numbered from 1; number 0 is what the mask leaves out.

    Attributes:
        labels: (H, W) int32, the number of each pixel's part.
        boxes: (N + 1, 4) int32, left, top, width, height by number, px.
        areas: (N + 1,) int32, px by number.
    """

    labels: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray

    def __len__(self) -> int:
        """How many parts there are, number 0 not counted."""
        return len(self.areas) - 1

    def meeting(self, where: np.ndarray) -> np.ndarray:
        """(N + 1,) bool: the parts with pixels in `where` (H, W) bool; False for number 0."""
        found = np.bincount(self.labels[where], minlength=len(self.areas)) > 0
        found[0] = False
        return found


def components(mask: np.ndarray, connectivity: int = 4) -> Components:
    """The connected parts of a mask (H, W) bool.

    Args:
        connectivity: 4 (pixels touch at a side) or 8 (at a corner too).
    """
    _, labels, stats, _ = cv2.connectedComponentsWithStats(
        np.ascontiguousarray(mask).view(np.uint8), connectivity=connectivity
    )
    return Components(labels, stats[:, :4], stats[:, 4])


def label_borders(labels: np.ndarray, both_sides: bool = True) -> np.ndarray:
    """(H, W) labels -> (H, W) bool: pixels beside one of another label, above, below, left or right.

    Args:
        both_sides: False: of two such neighbours only the right or lower one, which makes borders one pixel wide.
    """
    border = np.zeros(labels.shape, bool)
    across, down = labels[:, 1:] != labels[:, :-1], labels[1:] != labels[:-1]
    border[:, 1:] |= across
    border[1:] |= down
    if both_sides:
        border[:, :-1] |= across
        border[:-1] |= down
    return border

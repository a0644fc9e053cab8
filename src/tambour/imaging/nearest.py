"""Nearest known pixel: how far it is, which one it is, and filling holes from it."""

from __future__ import annotations

import cv2
import numpy as np


def nearest_known(known: np.ndarray, mask_size: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """(H, W) bool, at least one True -> distance to the nearest True, (H, W) float32 px, and its flat index, (H, W).

    Args:
        mask_size: 3 or 5, px: of the chamfer mask that distances are measured with; 5 is the more exact one.
    """
    distance, label = _labelled(known, mask_size)
    index = np.zeros(int(label.max()) + 1, np.intp)
    index[label[known]] = np.flatnonzero(known)
    return distance, index[label]


def fill_from_nearest(values: np.ndarray, known: np.ndarray, mask_size: int = 5) -> np.ndarray:
    """Give every pixel that is not `known` the value of the nearest one that is.

    Args:
        values: (H, W) or (H, W, C) of any type.
        known: (H, W) bool; where it is True everywhere or nowhere, `values` come back as they are.
        mask_size: as for `nearest_known`.
    """
    if known.all() or not known.any():
        return values
    _, index = nearest_known(known, mask_size)
    return values.reshape(-1, *values.shape[2:])[index]


def nearest_dots(dots: np.ndarray, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The nearest of some pixels to every pixel of a picture.

    Args:
        dots: (N, 2) int, x and y in px. Of several at one place the last one counts.
        shape: (H, W), px.

    Returns: distance (H, W) float32 px; a label of the nearest dot (H, W) int32; its row of `dots` by label.
    """
    column, row = dots.T
    known = np.zeros(shape, bool)
    known[row, column] = True
    distance, label = _labelled(known)
    which = np.zeros(int(label.max()) + 1, np.intp)
    which[label[row, column]] = np.arange(len(dots))
    return distance, label, which


def _labelled(known: np.ndarray, mask_size: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """(H, W) bool -> distance to the nearest True, float32 px, and a label of that pixel, int32 from 1."""
    holes = (~known).view(np.uint8)
    return cv2.distanceTransformWithLabels(holes, cv2.DIST_L2, mask_size, labelType=cv2.DIST_LABEL_PIXEL)

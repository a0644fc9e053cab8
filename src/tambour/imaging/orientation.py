"""Structure tensors: which way the lines of a picture run, and how parallel they are.

A tensor is an array (H, W, 3) float32 in double-angle form, with gx and gy the Sobel derivatives:
(gx^2 - gy^2, 2 gx gy, gx^2 + gy^2). The first two are the cosine and sine of twice the gradient's angle times its
energy, so that opposite gradients add up when tensors are averaged; the third is the energy. Angles are in radians,
x to the right, y down.
"""

from __future__ import annotations

import cv2
import numpy as np


def structure_tensor(values: np.ndarray, weight: np.ndarray | None = None, sigma: float = 0.0) -> np.ndarray:
    """Values (H, W) or (H, W, C) float32, any unit -> structure tensor (H, W, 3) float32, summed over channels.

    Args:
        weight: (H, W), what each pixel's tensor counts; None: 1.
        sigma: of the Gaussian window that tensors are averaged over, px; 0: none.
    """
    gx, gy = cv2.Sobel(values, cv2.CV_32F, 1, 0), cv2.Sobel(values, cv2.CV_32F, 0, 1)
    xx, yy = gx * gx, gy * gy
    parts = [xx - yy, 2 * gx * gy, xx + yy]
    if values.ndim == 3:
        parts = [part.sum(2) for part in parts]
    tensor = cv2.merge(parts)
    if weight is not None:
        tensor *= np.asarray(weight, np.float32)[..., None]
    return cv2.GaussianBlur(tensor, (0, 0), sigma) if sigma else tensor


def gradient_angle(tensor: np.ndarray) -> np.ndarray:
    """(..., 3) tensor -> (...) radians in [-pi / 2, pi / 2]: the direction of steepest change, across lines."""
    return 0.5 * np.arctan2(tensor[..., 1], tensor[..., 0])


def line_angle(tensor: np.ndarray) -> np.ndarray:
    """(..., 3) tensor -> (...) radians in [-pi / 2, pi / 2]: the direction along lines; 0 where there are none."""
    return 0.5 * np.arctan2(0 - tensor[..., 1], 0 - tensor[..., 0])


def anisotropy(tensor: np.ndarray) -> np.ndarray:
    """(..., 3) tensor -> (...): the difference of its eigenvalues, how much energy agrees on one direction."""
    return np.hypot(tensor[..., 0], tensor[..., 1])


def coherence(tensor: np.ndarray, floor: float = 1e-3) -> np.ndarray:
    """(..., 3) tensor -> (...) in [0, 1): its anisotropy as a share of its energy; 1: all gradients are parallel.

    Args:
        floor: energy that is added, so that a flat place is not called parallel.
    """
    return anisotropy(tensor) / (tensor[..., 2] + floor)


def directions(values: np.ndarray, weight: np.ndarray, sigma: float) -> tuple[np.ndarray, np.ndarray]:
    """`line_angle` and `anisotropy` of a picture's lines, (H, W) each; arguments as for `structure_tensor`."""
    tensor = structure_tensor(values, weight, sigma)
    return line_angle(tensor), anisotropy(tensor)

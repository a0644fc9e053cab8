"""A picture -> its local lightness contrast, which shading and dark or light yarn do not change."""

from __future__ import annotations

import cv2
import numpy as np
from PIL import Image

from tambour.imaging.colour import rgb_to_lab
from tambour.imaging.geometry import flatten


def rgb_array(image: np.ndarray | Image.Image) -> np.ndarray:
    """A PIL picture or a (H, W, 3) uint8 array -> (H, W, 3) uint8."""
    return np.asarray(flatten(image)) if isinstance(image, Image.Image) else np.ascontiguousarray(image)


def contrast_map(rgb: np.ndarray, mask: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """(H, W, 3) uint8 -> local lightness contrast and weights in [0, 1], both (H, W) float32.

    Shading multiplies reflectance, so in L* it scales with L* + 16: dividing by that makes thread relief look the
    same on dark and on light yarn. Weights fall where smoothed colour changes fast: at the design's own borders.
    """
    lab = rgb_to_lab(rgb)
    inside = np.ones(lab.shape[:2], np.float32) if mask is None else np.asarray(mask, np.float32)
    if not inside.any():
        inside = np.ones_like(inside)
    size = lab.shape[1::-1]
    # all smoothing is done at a quarter of the size: it only has to remove the stitches
    small = tuple(max(1, round(side / 4)) for side in size)
    cover = cv2.GaussianBlur(cv2.resize(inside, small, interpolation=cv2.INTER_AREA), (0, 0), 2.5)
    low = cv2.GaussianBlur(cv2.resize(lab[..., 0] * inside, small, interpolation=cv2.INTER_AREA), (0, 0), 2.5)
    low = cv2.resize(low / np.maximum(cover, 1e-3), size, interpolation=cv2.INTER_LINEAR)
    contrast = (lab[..., 0] - low) / (low + 16) * inside
    smooth = cv2.GaussianBlur(cv2.resize(lab, small, interpolation=cv2.INTER_AREA), (0, 0), 1.25)
    slope = (
        cv2.Sobel(smooth, cv2.CV_32F, 1, 0, scale=1 / 32) ** 2 + cv2.Sobel(smooth, cv2.CV_32F, 0, 1, scale=1 / 32) ** 2
    )
    slope = cv2.dilate(slope.sum(2), np.ones((5, 5), np.uint8))
    slope = cv2.resize(slope, size, interpolation=cv2.INTER_LINEAR)  # (L* a* b* steps a px)^2
    return contrast, inside / (1 + slope**2)


def around_of(lightness: np.ndarray, contrast: np.ndarray) -> np.ndarray:
    """L* and local contrast of places -> L* of their surroundings: the inverse of `contrast_map`; all of one shape."""
    return (lightness - 16 * contrast) / (1 + contrast)

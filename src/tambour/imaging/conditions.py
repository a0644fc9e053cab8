"""What ControlNets are fed with, as RGB pictures: blurred colours, edges, a design on a chroma-keyed ground."""

from __future__ import annotations

import cv2
import numpy as np
from PIL import Image

from tambour.errors import InputError
from tambour.imaging.colour import rgb_to_lab
from tambour.imaging.geometry import flatten

_KEY_COLOURS = ((255, 0, 255), (0, 255, 0), (255, 0, 0), (0, 0, 255), (255, 255, 0), (0, 255, 255), (0, 0, 0),
                (255, 255, 255), (128, 128, 128), (120, 60, 20))  # fmt: skip
STITCH_REACH = 4  # px beyond its design that a stitch and its shadow may lie


def chroma_key(design: Image.Image, inside: np.ndarray) -> Image.Image:
    """A flat design -> RGB, its ground in a colour far from all of its own: nothing in it can be taken for bare fabric.

    Args:
        inside: (H, W) bool, where there are stitches.
    """
    rgb, best = np.asarray(design.convert("RGB")), 0
    if inside.any():
        own = rgb_to_lab(rgb[inside][:: max(1, int(inside.sum()) // 4000)][None])[0]  # (N, 3)
        keys = rgb_to_lab(np.array([_KEY_COLOURS], np.uint8))[0]
        apart = np.linalg.norm(own[None] - keys[:, None], axis=2)  # (keys, N)
        best = int(np.quantile(apart, 0.01, axis=1).argmax())
    return Image.fromarray(np.where(inside[..., None], rgb, np.uint8(_KEY_COLOURS[best])))


def stitch_reach(inside: np.ndarray) -> np.ndarray:
    """A design's area (H, W) bool -> where its stitches may lie, (H, W) float32 of 0 and 1: `STITCH_REACH` px more."""
    side = 2 * STITCH_REACH + 1
    return cv2.dilate(inside.astype(np.float32), np.ones((side, side), np.uint8))


def tile_condition(image: Image.Image, kernel: int = 15) -> Image.Image:
    """Gaussian-blurred RGB picture for ControlNet-Tile; `kernel` px (odd; an even one is raised by one; 0, 1: none)."""
    if kernel < 0:
        raise InputError(f"A blur kernel of {kernel} px is not possible.", "It must be 0 or more.")
    kernel += kernel % 2 == 0 and kernel > 0
    rgb = np.asarray(flatten(image))
    return Image.fromarray(cv2.GaussianBlur(rgb, (kernel, kernel), 0) if kernel > 1 else rgb)


def canny_condition(image: Image.Image, low: int = 100, high: int = 200) -> Image.Image:
    """White Canny edges on black, RGB, for ControlNet-Canny; thresholds in 0..255 steps of gradient.

    An edge map, pure white lines under 5 px on pure black, is given back: Canny would draw each of its lines twice.
    """
    grey = np.asarray(flatten(image).convert("L"))
    white = np.uint8(grey == 255)
    if (white.any() and np.isin(grey, (0, 255)).all()
            and not cv2.morphologyEx(white, cv2.MORPH_OPEN, np.ones((5, 5), np.uint8)).any()):  # fmt: skip
        edges = grey
    else:
        edges = cv2.Canny(grey, low, high)
    return Image.fromarray(np.repeat(edges[..., None], 3, axis=2))

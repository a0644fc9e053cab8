"""Colour: sRGB, CIELAB, and colours taken from a design."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
from PIL import Image

if TYPE_CHECKING:
    pass
from tambour.imaging.geometry import flatten

# --- colour and conditions ----------------------------------------------------------------------------------------


def rgb_to_lab(rgb: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8, or float in [0, 1], sRGB -> (H, W, 3) float32 CIELAB (L 0..100, a and b about -128..127)."""
    values = np.asarray(rgb)
    values = values.astype(np.float32) / 255 if values.dtype == np.uint8 else values.astype(np.float32)
    return cv2.cvtColor(values, cv2.COLOR_RGB2Lab)


def lab_to_rgb(lab: np.ndarray) -> np.ndarray:
    """(H, W, 3) CIELAB -> (H, W, 3) uint8 sRGB, clipped to the gamut."""
    values = cv2.cvtColor(np.asarray(lab, np.float32), cv2.COLOR_Lab2RGB)
    return (values.clip(0, 1) * 255).round().astype(np.uint8)


def correct_colours(result: Image.Image, design: Image.Image) -> Image.Image:
    """Keep L of `result`, take a and b from `design` (CIELAB; method, section 6). The design is resized to fit."""
    design = flatten(design)
    if design.size != result.size:
        design = design.resize(result.size, Image.Resampling.LANCZOS)
    lab = rgb_to_lab(np.asarray(design))
    lab[..., 0] = rgb_to_lab(np.asarray(flatten(result)))[..., 0]
    return Image.fromarray(lab_to_rgb(lab))

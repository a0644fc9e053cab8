"""Colour: sRGB, linear light and CIELAB, differences between colours, and colours taken over from a design."""

from __future__ import annotations

import cv2
import numpy as np
from PIL import Image

from tambour.imaging.geometry import flatten

LUMINANCE = np.float32([0.2126, 0.7152, 0.0722])  # of linear sRGB: `linear @ LUMINANCE` is Y


# --- conversions --------------------------------------------------------------------------------------------------


def rgb_to_lab(rgb: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8, or float in [0, 1], sRGB -> (H, W, 3) float32 CIELAB (L 0..100, a and b about -128..127)."""
    values = np.asarray(rgb)
    values = values.astype(np.float32) / 255 if values.dtype == np.uint8 else values.astype(np.float32)
    return cv2.cvtColor(values, cv2.COLOR_RGB2Lab)


def lab_to_rgb(lab: np.ndarray) -> np.ndarray:
    """(H, W, 3) CIELAB -> (H, W, 3) uint8 sRGB, clipped to the gamut."""
    values = cv2.cvtColor(np.asarray(lab, np.float32), cv2.COLOR_Lab2RGB)
    return (values.clip(0, 1) * 255).round().astype(np.uint8)


def srgb_to_linear(srgb: np.ndarray) -> np.ndarray:
    """sRGB values in [0, 1], of any shape -> linear light in [0, 1] (IEC 61966-2-1)."""
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def linear_to_srgb(linear: np.ndarray) -> np.ndarray:
    """Linear light in [0, 1], of any shape -> sRGB values in [0, 1]."""
    return np.where(linear <= 0.0031308, linear * 12.92, 1.055 * np.maximum(linear, 1e-6) ** (1 / 2.4) - 0.055)


def luminance_of_lightness(lightness: np.ndarray) -> np.ndarray:
    """L* in 0..100, of any shape -> luminance Y in [0, 1], that of white being 1 (CIE 1976)."""
    return np.where(lightness > 8, ((lightness + 16) / 116) ** 3, lightness / 903.3)


def correct_colours(result: Image.Image, design: Image.Image) -> Image.Image:
    """Keep L of `result`, take a and b from `design` (CIELAB; method, section 6). The design is resized to fit."""
    design = flatten(design)
    if design.size != result.size:
        design = design.resize(result.size, Image.Resampling.LANCZOS)
    lab = rgb_to_lab(np.asarray(design))
    lab[..., 0] = rgb_to_lab(np.asarray(flatten(result)))[..., 0]
    return Image.fromarray(lab_to_rgb(lab))


# --- differences --------------------------------------------------------------------------------------------------


def split_shading(off: np.ndarray, mean: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lab differences (..., 3) around `mean` -> their squares (...): what light explains, and what it does not.

    Light on one colour moves it on a ray through (L, a, b) = (-16, 0, 0).
    """
    ray = mean + np.array([16, 0, 0], np.float32)
    along = _dot(off, ray) ** 2 / _dot(ray, ray)
    return along, np.maximum(_dot(off, off) - along, 0)


def shading_difference(off: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Squared Lab difference in which shading counts half: (..., 3) differences around `mean` -> (...)."""
    along, hue = split_shading(off, mean)
    return hue + along / 4


def ciede2000(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """CIEDE2000 (Sharma, Wu and Dalal 2005) of (..., 3) CIELAB colours -> (...)."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    chroma = (np.hypot(a[..., 1], a[..., 2]) + np.hypot(b[..., 1], b[..., 2])) / 2
    g = 0.5 * (1 - np.sqrt(chroma**7 / (chroma**7 + 25.0**7)))
    a1, a2 = (1 + g) * a[..., 1], (1 + g) * b[..., 1]
    c1, c2 = np.hypot(a1, a[..., 2]), np.hypot(a2, b[..., 2])
    h1, h2 = np.arctan2(a[..., 2], a1) % (2 * np.pi), np.arctan2(b[..., 2], a2) % (2 * np.pi)
    coloured = c1 * c2 > 0
    turn = np.where(coloured, (h2 - h1 + np.pi) % (2 * np.pi) - np.pi, 0)
    dl, dc, dh = b[..., 0] - a[..., 0], c2 - c1, 2 * np.sqrt(c1 * c2) * np.sin(turn / 2)
    light, c = (a[..., 0] + b[..., 0]) / 2, (c1 + c2) / 2
    wide = np.abs(h1 - h2) > np.pi
    h = np.where(wide, (h1 + h2 + np.where(h1 + h2 < 2 * np.pi, 2 * np.pi, -2 * np.pi)) / 2, (h1 + h2) / 2)
    h = np.where(coloured, h, h1 + h2)
    cosines = ((-0.17, 1, -30), (0.24, 2, 0), (0.32, 3, 6), (-0.20, 4, -63))
    t = 1 + sum(k * np.cos(n * h + np.radians(shift)) for k, n, shift in cosines)
    rotation = (
        -2 * np.sqrt(c**7 / (c**7 + 25.0**7)) * np.sin(np.radians(60 * np.exp(-(((np.degrees(h) - 275) / 25) ** 2))))
    )
    sl = 1 + 0.015 * (light - 50) ** 2 / np.sqrt(20 + (light - 50) ** 2)
    sc, sh = 1 + 0.045 * c, 1 + 0.015 * c * t
    return np.sqrt((dl / sl) ** 2 + (dc / sc) ** 2 + (dh / sh) ** 2 + rotation * (dc / sc) * (dh / sh))


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Product summed over the three channels: (..., 3), (..., 3) -> (...); far faster than `sum(-1)`."""
    return a[..., 0] * b[..., 0] + a[..., 1] * b[..., 1] + a[..., 2] * b[..., 2]

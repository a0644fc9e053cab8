"""A design's colours as its yarn shows them: in stitches, in light and shade, over fabric that shows through."""

from __future__ import annotations

import cv2
import numpy as np

from tambour.guides.photo.geometry import RegionGeometry, facing
from tambour.guides.photo.relief import OPEN, RIM, Relief
from tambour.guides.photo.tones import YarnToneCurve
from tambour.imaging.colour import (
    LUMINANCE,
    lab_to_rgb,
    linear_to_srgb,
    luminance_of_lightness,
    rgb_to_lab,
    srgb_to_linear,
)

_SHINE = 1.8  # times what a flat colour reflects, from which on light counts as a highlight
_RAISED_DEPTH = 3  # px under a border, that say how raised it is
_THREAD = 0.35  # contrast in open work that is all thread


# -- in colours -------------------------------------------------------------------------------------------------------


def shown_colours(cover: float, flat: np.ndarray, inside: np.ndarray, fabric: tuple[int, int, int]) -> np.ndarray:
    """A flat design (H, W, 3) uint8 in the mean colours that it shows: in open work, mixed with the fabric's."""
    if cover >= OPEN:
        return flat
    ground = rgb_to_lab(np.uint8([[fabric]]))[0, 0]
    mixed = lab_to_rgb(ground + cover * (rgb_to_lab(flat) - ground))
    return np.where(inside[..., None], mixed, flat)


def yarn_colours(colours: np.ndarray, flat: np.ndarray, picture: np.ndarray) -> np.ndarray:
    """Colours of open work, (H, W, 3) uint8: those shown on average, where the picture is light those of the thread.

    Args:
        colours: from `shown_colours`.
        flat: the design, thread alone.
        picture: the embroidered result.
    """
    mixed, light = rgb_to_lab(colours), rgb_to_lab(picture)[..., :1]
    thread = np.clip((light - mixed[..., :1]) / (mixed[..., :1] + 16) / _THREAD, 0, 1)
    return lab_to_rgb(mixed + thread * (rgb_to_lab(flat) - mixed))


def raised(contrast: np.ndarray, relief: Relief, region: RegionGeometry) -> np.ndarray:
    """Contrast (H, W) with borders as raised as the photo's: its rim, less and less up to `RIM` px under them.

    And less where it is weaker than the stitches are, for then it says little, and they go on to the border.
    """
    power = float(np.square(relief.contrast[relief.clear]).mean())
    share = min(1.0, float(np.square(relief.rim[:_RAISED_DEPTH]).mean()) / max(power, 1e-6))
    around = np.c_[relief.rim, relief.rim[:, :1]].astype(np.float32)
    depth = np.clip(region.distance, 0, RIM - 1).astype(np.float32)
    rim_contrast = cv2.remap(around, facing(region), depth, cv2.INTER_LINEAR)
    share = share * np.clip(1 - region.distance / RIM, 0, 1) * (region.labels > 0)
    return contrast + share * (rim_contrast - contrast)


def in_stitches(
    contrast: np.ndarray,
    tones: YarnToneCurve,
    cover: float,
    flat: np.ndarray,
    inside: np.ndarray,
    fabric: tuple[int, int, int],
) -> np.ndarray:
    """A flat design in this contrast (H, W), tones and cover of a relief: (H, W, 3) uint8; else as `stitched`."""
    colours = shown_colours(cover, flat, inside, fabric)
    lab = rgb_to_lab(colours)
    if cover >= OPEN:
        return relit(colours, tones.shown(contrast, lab[..., 0]))
    light = np.clip(lab[..., 0] + contrast * (lab[..., 0] + 16), 0, 100)
    lit = lab_to_rgb(np.dstack([light, lab[..., 1:]]))
    return lab_to_rgb(np.dstack([light, rgb_to_lab(yarn_colours(colours, flat, lit))[..., 1:]]))


def relit(colours: np.ndarray, lightness: np.ndarray) -> np.ndarray:
    """Yarn of these colours (..., 3) uint8, light and shade on it so that it shows this L* (...): (..., 3) uint8.

    Light and shade multiply what a colour reflects; what is brighter than `_SHINE` times the colour is a highlight, the
    light's own colour, and is added. Channels are cut at white, as in a photo.
    """
    linear = srgb_to_linear(colours.astype(np.float32) / 255)
    wanted = luminance_of_lightness(np.asarray(lightness, np.float32))
    own = np.maximum(linear @ LUMINANCE, 1e-4)
    lit = linear * np.minimum(wanted / own, _SHINE)[..., None] + np.maximum(wanted - _SHINE * own, 0)[..., None]
    return np.rint(255 * linear_to_srgb(np.clip(lit, 0, 1))).astype(np.uint8)

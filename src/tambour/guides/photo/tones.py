"""How the contrast of stitches depends on the lightness of their yarn."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from tambour.imaging.colour import luminance_of_lightness

SHARES = (0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98)  # of places that are darker
PLAIN, SPAN = 40.0, 35.0  # L* of the yarn on which contrast is kept, and of a step of it
_STEPS = (-0.8, 1.7)  # of `SPAN`: L* 12 to 99
_AS_LIGHT = 0.6  # of what it takes for stitches on white yarn to reflect as much light as their flat colour
_FALL = 12.0  # L*; so much lower at most
_BRIGHT = 0.9  # of `SHARES`: the highlights that pale yarn makes room for


@dataclass(frozen=True)
class YarnToneCurve:
    """How contrast depends on yarn: its quantiles (at `SHARES` of all places) as a line over the yarn's lightness.

    Attributes:
        level: on yarn of L* `PLAIN`.
        tilt: what `SPAN` steps of L* more add.
    """

    level: tuple[float, ...] = (0.0,) * len(SHARES)
    tilt: tuple[float, ...] = (0.0,) * len(SHARES)

    def on(self, contrast: np.ndarray, lightness: np.ndarray) -> np.ndarray:
        """What yarn of this L* shows where yarn of `PLAIN` shows this contrast; both shapes broadcast."""
        steps = np.clip((lightness - PLAIN) / SPAN, *_STEPS)
        return contrast + np.interp(contrast, self.level, self.tilt) * steps

    def shown(self, contrast: np.ndarray, lightness: np.ndarray) -> np.ndarray:
        """L* (...) that yarn of these flat colours' `lightness` (...) shows with this contrast (...) on `PLAIN`.

        Stitches vary about an L* part of the way to where they reflect as much light as the flat colour (gaps look
        darker than highlights make up for; less so on dark yarn, whose highlights are the light's own), and half as far
        below as pale yarn's highlights would need to fit under white.
        """
        around = np.interp(lightness, *self._around)
        return np.clip(around + self.on(contrast, lightness) * (around + 16), 0, 100)

    @cached_property
    def _around(self) -> tuple[np.ndarray, np.ndarray]:
        """L* of flat colours, and that about which their stitches vary."""
        flat = np.arange(1.0, 101.0)
        contrast = self.on(np.array(self.level), flat[:, None])  # (100, Q)
        middles = np.add(SHARES[1:], SHARES[:-1]) / 2
        weight = np.diff([0, *middles, 1])
        around = flat
        for _ in range(8):
            seen = luminance_of_lightness(np.clip(around[:, None] + contrast * (around[:, None] + 16), 0, 100)) @ weight
            around = np.minimum((around + 16) * np.cbrt(luminance_of_lightness(flat) / seen) - 16, flat)
        around, bright = flat + _AS_LIGHT * flat / 100 * (around - flat), contrast[:, SHARES.index(_BRIGHT)]
        around = around - np.maximum(around - (100 - 16 * bright) / (1 + bright), 0) / 2
        return flat, np.maximum(around, flat - _FALL)

"""Drawn stitches: SDEdit starts from the design rendered in the stitch that was fitted to the photo (section 8)."""

from __future__ import annotations

from collections.abc import Generator

import cv2
import numpy as np
from PIL import Image

from tambour.guides import Canvas, Guide, Start, register
from tambour.imaging.colour import lab_to_rgb, rgb_to_lab
from tambour.stitch import Fabric, Stitch, render
from tambour.style import Style

_REACH = 7  # px: twice what is drawn anew beyond the edge of a design


@register
class Stitches(Guide):
    """The design in the stitch fitted to the reference; bare fabric stays as it is drawn."""

    name = "stitches"

    @classmethod
    def lacking(cls, style: Style) -> tuple[str, str] | None:
        if style.stitch is None:
            return "This style has no stitch fitted to its reference.", "Use --guide none, or learn it again."
        return None

    def start(self, canvas: Canvas, seed: int) -> Generator[float, None, Start]:
        yield from ()
        return Start(Image.fromarray(self.rendered(canvas, seed)), bare_fabric(canvas.inside))

    def rendered(self, canvas: Canvas, seed: int) -> np.ndarray:
        """(H, W, 3) uint8: the design in the fitted stitch, on fabric of the style's colour."""
        design, fabric = canvas.design, self.style.fabric
        cloth = Fabric(colour=fabric) if design.mode == "RGBA" else Fabric()
        drawn = np.asarray(render(design, Stitch(**(self.style.stitch or {})), cloth, seed=seed).image)
        bare = bare_fabric(canvas.inside) > 0.99
        if design.mode == "RGBA" and bare.any():  # the style knows how the fabric looks, which is lighter than drawn
            lab = rgb_to_lab(drawn)
            lab += rgb_to_lab(np.array([[fabric]], np.uint8))[0, 0] - lab[bare].mean(0)
            drawn = np.where(canvas.inside[..., None], drawn, lab_to_rgb(lab))
        return drawn


def bare_fabric(inside: np.ndarray) -> np.ndarray:
    """Where the start's fabric stays, (H, W) float32 in [0, 1]: ground that neither stitches nor their shadows reach.

    Blocks that learnt stitches draw stitches everywhere; what is not embroidered is none of their business.
    """
    away = cv2.erode((~inside).astype(np.float32), np.ones((_REACH, _REACH), np.uint8))
    return cv2.GaussianBlur(away, (0, 0), _REACH / 4)

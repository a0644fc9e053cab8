"""Felt: fluff of two sizes, no yarns."""

from __future__ import annotations

import numpy as np

from tambour.stitch.cloth import Cloth, FabricKind, smooth_noise


def draw(cloth: Cloth) -> tuple[np.ndarray, np.ndarray]:
    """Fine and coarse fluff."""
    scale, contrast = cloth.px_per_mm, cloth.fabric.contrast
    fluff = smooth_noise(cloth.shape, cloth.rng, max(1.6, 0.12 * scale))
    fluff = fluff + smooth_noise(cloth.shape, cloth.rng, max(4.0, 0.4 * scale))
    return fluff * np.float32(0.12 * contrast), cloth.tone + fluff * np.float32(0.012 * contrast)


KIND = FabricKind(name="felt", order=3, share=0.13, pitch=(0.5, 0.5), draw=draw)

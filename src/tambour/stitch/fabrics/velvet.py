"""Velvet: a nap that lies this way and that."""

from __future__ import annotations

import numpy as np

from tambour.stitch.cloth import Cloth, FabricKind, smooth_noise


def draw(cloth: Cloth) -> tuple[np.ndarray, np.ndarray]:
    """Broad and middling tones of the nap, and a fine pile."""
    shape, rng, scale, contrast = cloth.shape, cloth.rng, cloth.px_per_mm, cloth.fabric.contrast
    nap = smooth_noise(shape, rng, 3 * scale)
    nap = nap + np.float32(0.6) * smooth_noise(shape, rng, 0.9 * scale, stretch=2)
    pile = smooth_noise(shape, rng, max(1.6, 0.1 * scale))
    shade = np.float32(0.07) * nap + np.float32(0.03) * pile
    return pile * np.float32(0.18 * contrast), cloth.tone * (1 + np.float32(contrast) * shade)


KIND = FabricKind(name="velvet", order=9, share=0.05, pitch=(0.5, 0.5), draw=draw)

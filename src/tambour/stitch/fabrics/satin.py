"""Satin: fine floats along the picture under broad soft light."""

from __future__ import annotations

import numpy as np

from tambour.stitch.cloth import Cloth, FabricKind, smooth_noise


def draw(cloth: Cloth) -> tuple[np.ndarray, np.ndarray]:
    """Floats twelve times as long as wide."""
    scale, contrast = cloth.px_per_mm, cloth.fabric.contrast
    light = smooth_noise(cloth.shape, cloth.rng, 5 * scale) * np.float32(0.05)
    floats = smooth_noise(cloth.shape, cloth.rng, max(1.6, cloth.fabric.pitch * scale), stretch=12)
    tone = cloth.tone * (1 + contrast * (light + np.float32(0.03) * floats))
    return floats * np.float32(0.1 * contrast), tone


KIND = FabricKind(name="satin", order=6, share=0.08, pitch=(0.12, 0.25), draw=draw)

"""Plain: no structure at all."""

from __future__ import annotations

import numpy as np

from tambour.stitch.cloth import Cloth, FabricKind


def draw(cloth: Cloth) -> tuple[np.ndarray, np.ndarray]:
    """Flat, with nothing but the cloth's broad tones."""
    return np.zeros(cloth.shape, np.float32), cloth.tone


KIND = FabricKind(name="plain", order=5, share=0.08, pitch=(0.5, 0.5), draw=draw)

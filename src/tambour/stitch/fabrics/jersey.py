"""Jersey: columns of V-shaped meshes, as a plain knit shows."""

from __future__ import annotations

import numpy as np

from tambour.stitch.cloth import Cloth, FabricKind


def draw(cloth: Cloth) -> tuple[np.ndarray, np.ndarray]:
    """Two legs a mesh, each a round thread."""
    height, width = cloth.shape
    x = np.arange(width, dtype=np.float32) / np.float32(cloth.pitch)
    side = np.abs(2 * (x - np.floor(x)) - 1)  # 0 in the middle of a column, 1 between two
    y = np.arange(height, dtype=np.float32) / np.float32(0.72 * cloth.pitch)
    phase = y[:, None] + np.float32(0.9) * side[None]
    phase -= np.floor(phase)
    leg = (1 - np.square(2 * side - 1))[None]
    level = leg * (np.float32(0.2) + np.float32(0.8) * np.sqrt(np.maximum(1 - np.square(2 * phase - 1), 0)))
    tone = cloth.tone * (1 + np.float32(0.17) * cloth.fade * (level - np.float32(0.45)))
    return np.float32(0.09 * cloth.pitch) * cloth.fade * level, tone


KIND = FabricKind(name="jersey", order=7, share=0.08, pitch=(0.6, 1.1), draw=draw)

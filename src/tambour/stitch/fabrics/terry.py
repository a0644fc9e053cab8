"""Terry: rows of small loops, each leaning its own way."""

from __future__ import annotations

import numpy as np

from tambour.stitch.cloth import Cloth, FabricKind


def draw(cloth: Cloth) -> tuple[np.ndarray, np.ndarray]:
    """Rings in rows staggered by half."""
    shape, pitch, contrast = cloth.shape, cloth.pitch, cloth.fabric.contrast
    rows, columns = int(shape[0] / (0.8 * pitch)) + 3, int(shape[1] / pitch) + 3
    lean = cloth.rng.random((3, rows, columns), dtype=np.float32) - np.float32(0.5)
    y, x = np.arange(shape[0], dtype=np.float32)[:, None], np.arange(shape[1], dtype=np.float32)[None]
    row = np.floor(y / np.float32(0.8 * pitch)).astype(np.int32)
    v = y / np.float32(0.8 * pitch) - row.astype(np.float32)
    u = x / np.float32(pitch) + (row & 1).astype(np.float32) * np.float32(0.5)
    column = np.floor(u).astype(np.int32)
    u = u - column.astype(np.float32) - np.float32(0.5)
    loop = (row * np.int32(columns) + column).ravel()
    dx, dy, high = (part.ravel().take(loop, mode="wrap").reshape(shape) for part in lean)
    u = u + dx * (v - np.float32(0.5)) * np.float32(0.9) + np.float32(0.2) * dy
    ring = np.square(np.abs(u) * 2 - np.float32(0.42)) * 5 + np.square(v - np.float32(0.5)) * 3
    level = np.maximum(1 - ring, 0) * (1 + high)
    tone = cloth.tone * (1 + np.float32(0.16 * contrast) * (level - np.float32(0.45)))
    return level * np.float32(0.1 * pitch * contrast), tone


KIND = FabricKind(name="terry", order=8, share=0.05, pitch=(0.7, 1.2), draw=draw)

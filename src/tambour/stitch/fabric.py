"""Bare fabric: a weak, regular relief and tone. Never white noise."""

from __future__ import annotations

import cv2
import numpy as np

from tambour.stitch.parameters import Fabric


def fabric_surface(
    fabric: Fabric, shape: tuple[int, int], px_per_mm: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Relief in px and tone (a factor about 1), both (H, W) float32."""
    height, width = shape
    tone = _cloud(shape, rng, max(48.0, 4 * px_per_mm)) * np.float32(0.006) + 1
    pitch = max(fabric.pitch * px_per_mm, 2.0)
    fade = np.float32(fabric.contrast * np.clip((pitch - 2) / 3, 0, 1))
    if fabric.kind == "plain" or fade == 0:
        return np.zeros(shape, np.float32), tone
    if fabric.kind == "felt":
        fluff = _cloud(shape, rng, max(1.6, 0.12 * px_per_mm)) + _cloud(shape, rng, max(4.0, 0.4 * px_per_mm))
        return fluff * np.float32(0.12 * fabric.contrast), tone + fluff * np.float32(0.012 * fabric.contrast)
    x = np.arange(width, dtype=np.float32) / np.float32(pitch)
    y = np.arange(height, dtype=np.float32) / np.float32(pitch)
    column, row = np.floor(x).astype(np.int32), np.floor(y).astype(np.int32)
    across_warp, across_weft = 2 * (x - column) - 1, 2 * (y - row) - 1  # [-1, 1] over a yarn
    yarn_x = 1 + 0.05 * (rng.random(column.max() + 1, dtype=np.float32)[column] - 0.5)
    yarn_y = 1 + 0.05 * (rng.random(row.max() + 1, dtype=np.float32)[row] - 0.5)
    if fabric.kind == "aida":
        hole = np.exp(-6 * (1 - np.abs(across_warp)))[None] * np.exp(-6 * (1 - np.abs(across_weft)))[:, None]
        bars = 0.5 * (np.cos(3 * np.pi * across_warp)[None] + np.cos(3 * np.pi * across_weft)[:, None])
        relief = np.float32(0.05 * pitch) * fade * (bars * 0.5 - 3 * hole)
        return relief.astype(np.float32), tone * (1 - 0.75 * fade * hole + 0.02 * fade * bars).astype(np.float32)
    diagonal = (
        (column[None] + row[:, None]) % 2 == 0 if fabric.kind == "weave" else (column[None] - row[:, None]) % 3 == 0
    )
    warp = (1 - across_warp**2)[None] * (1 - 0.6 * across_weft**2)[:, None]
    weft = (1 - across_weft**2)[:, None] * (1 - 0.6 * across_warp**2)[None]
    level = np.where(diagonal, warp, weft * (1 if fabric.kind == "weave" else 0.7)).astype(np.float32)
    yarn = np.where(diagonal, yarn_x[None], yarn_y[:, None])
    tone = tone * (1 + fade * (yarn - 1)) * (1 + np.float32(0.12) * fade * (level - np.float32(0.5)))
    return np.float32(0.11 * pitch) * fade * level, tone.astype(np.float32)


def _cloud(shape: tuple[int, int], rng: np.random.Generator, size: float) -> np.ndarray:
    """Smooth random field of unit deviation whose blobs are `size` px."""
    rows, columns = int(shape[0] / size) + 3, int(shape[1] / size) + 3
    coarse = rng.standard_normal((rows, columns)).astype(np.float32)
    return cv2.resize(coarse, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC)

"""Bare fabric: a weak, regular relief and tone. Never white noise."""

from __future__ import annotations

import cv2
import numpy as np

from tambour.imaging.nearest import nearest_known
from tambour.stitch.parameters import Fabric


def fabric_surface(
    fabric: Fabric, shape: tuple[int, int], px_per_mm: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Relief in px and tone (a factor about 1), both (H, W) float32."""
    height, width = shape
    tone = smooth_noise(shape, rng, max(48.0, 4 * px_per_mm)) * np.float32(0.006) + 1
    pitch = max(fabric.pitch * px_per_mm, 2.0)
    fade = np.float32(fabric.contrast * np.clip((pitch - 2) / 3, 0, 1))
    if fabric.kind == "plain" or fade == 0:
        return np.zeros(shape, np.float32), tone
    if fabric.kind == "felt":
        fluff = smooth_noise(shape, rng, max(1.6, 0.12 * px_per_mm)) + smooth_noise(
            shape, rng, max(4.0, 0.4 * px_per_mm)
        )
        return fluff * np.float32(0.12 * fabric.contrast), tone + fluff * np.float32(0.012 * fabric.contrast)
    if fabric.kind in ("satin", "velvet"):
        return _sheen(fabric, shape, px_per_mm, rng, tone)
    if fabric.kind == "terry":
        return _loops(fabric.contrast, pitch, shape, rng, tone)
    x = np.arange(width, dtype=np.float32) / np.float32(pitch)
    y = np.arange(height, dtype=np.float32) / np.float32(pitch)
    column, row = np.floor(x).astype(np.int32), np.floor(y).astype(np.int32)
    if fabric.kind == "jersey":
        return _meshes(fade, pitch, x, row, tone)
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


def _sheen(fabric: Fabric, shape, px_per_mm: float, rng: np.random.Generator, tone) -> tuple[np.ndarray, np.ndarray]:
    """Satin: fine floats along the picture under broad soft light. Velvet: a nap that lies this way and that."""
    if fabric.kind == "satin":
        light = smooth_noise(shape, rng, 5 * px_per_mm) * np.float32(0.05)
        floats = smooth_noise(shape, rng, max(1.6, fabric.pitch * px_per_mm), stretch=12)
        return floats * np.float32(0.1 * fabric.contrast), tone * (
            1 + fabric.contrast * (light + np.float32(0.03) * floats)
        )
    nap = smooth_noise(shape, rng, 3 * px_per_mm) + np.float32(0.6) * smooth_noise(
        shape, rng, 0.9 * px_per_mm, stretch=2
    )
    pile = smooth_noise(shape, rng, max(1.6, 0.1 * px_per_mm))
    shade = np.float32(0.07) * nap + np.float32(0.03) * pile
    return pile * np.float32(0.18 * fabric.contrast), tone * (1 + np.float32(fabric.contrast) * shade)


def _meshes(fade, pitch: float, x: np.ndarray, row: np.ndarray, tone: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Jersey: columns of V-shaped meshes, as a plain knit shows; `x` in columns, `row` one for each px."""
    side = np.abs(2 * (x - np.floor(x)) - 1)  # 0 in the middle of a column, 1 between two
    y = np.arange(len(row), dtype=np.float32) / np.float32(0.72 * pitch)
    phase = y[:, None] + np.float32(0.9) * side[None]
    phase -= np.floor(phase)
    leg = (1 - np.square(2 * side - 1))[None]
    level = leg * (np.float32(0.2) + np.float32(0.8) * np.sqrt(np.maximum(1 - np.square(2 * phase - 1), 0)))
    return np.float32(0.09 * pitch) * fade * level, tone * (1 + np.float32(0.17) * fade * (level - np.float32(0.45)))


def _loops(contrast: float, pitch: float, shape, rng: np.random.Generator, tone) -> tuple[np.ndarray, np.ndarray]:
    """Terry: rows of small loops, each leaning its own way."""
    rows, columns = int(shape[0] / (0.8 * pitch)) + 3, int(shape[1] / pitch) + 3
    lean = rng.random((3, rows, columns), dtype=np.float32) - np.float32(0.5)
    y, x = np.arange(shape[0], dtype=np.float32)[:, None], np.arange(shape[1], dtype=np.float32)[None]
    row = np.floor(y / np.float32(0.8 * pitch)).astype(np.int32)
    v = y / np.float32(0.8 * pitch) - row.astype(np.float32)
    u = x / np.float32(pitch) + (row & 1).astype(np.float32) * np.float32(0.5)
    column = np.floor(u).astype(np.int32)
    u = u - column.astype(np.float32) - np.float32(0.5)
    name = (row * np.int32(columns) + column).ravel()
    dx, dy, high = (part.ravel().take(name, mode="wrap").reshape(shape) for part in lean)
    u = u + dx * (v - np.float32(0.5)) * np.float32(0.9) + np.float32(0.2) * dy
    ring = np.square(np.abs(u) * 2 - np.float32(0.42)) * 5 + np.square(v - np.float32(0.5)) * 3
    level = np.maximum(1 - ring, 0) * (1 + high)
    return (
        level * np.float32(0.1 * pitch * contrast),
        tone * (1 + np.float32(0.16 * contrast) * (level - np.float32(0.45))),
    )


def pucker(labels: np.ndarray, amount: float, px_per_mm: float, rng: np.random.Generator) -> np.ndarray:
    """Folds that run away from the stitches and fade in a few mm: (H, W) float32 px, 0 under the stitches."""
    bare = labels == 0
    if not bare.any() or bare.all():
        return np.zeros(labels.shape, np.float32)
    away, nearest = nearest_known(~bare)
    waves = smooth_noise(labels.shape, rng, 1.4 * px_per_mm)
    folds = cv2.GaussianBlur(waves.take(nearest), (0, 0), max(0.25 * px_per_mm, 1.0))
    return folds * np.exp(away * np.float32(-1 / (3.0 * px_per_mm))) * bare * np.float32(0.32 * amount * px_per_mm)


def smooth_noise(shape: tuple[int, int], rng: np.random.Generator, size: float, stretch: float = 1.0) -> np.ndarray:
    """Smooth random field of unit deviation whose blobs are `size` px, `stretch` times as wide as high."""
    rows, columns = int(shape[0] / size) + 3, int(shape[1] / (size * stretch)) + 3
    coarse = rng.standard_normal((rows, columns)).astype(np.float32)
    return cv2.resize(coarse, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC)

"""The record of a kind of fabric, and what the draw functions of fabrics share.

Each file of `fabrics/` makes one record. Fabric is a weak, regular relief and tone; never white noise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from tambour.stitch.parameters import Fabric


@dataclass(frozen=True)
class Cloth:
    """What a draw function gets: the fabric's values, (height, width) px, scale, tone and a generator.

    `tone`: (H, W) float32, a factor about 1 that varies slowly over the cloth.
    """

    fabric: Fabric
    shape: tuple[int, int]
    px_per_mm: float
    tone: np.ndarray
    rng: np.random.Generator

    @property
    def pitch(self) -> float:
        """Distance of two yarns in px, 2 or more."""
        return max(self.fabric.pitch * self.px_per_mm, 2.0)

    @cached_property
    def fade(self) -> np.float32:
        """Contrast of the structure: 0 where it is too fine to be drawn."""
        return np.float32(self.fabric.contrast * np.clip((self.pitch - 2) / 3, 0, 1))


@dataclass(frozen=True, kw_only=True)
class FabricKind:
    """One kind of fabric.

    Attributes:
        name: as in `Fabric.kind`; its file's name.
        order: place among the kinds; random draws go by it, so a new kind takes the next number.
        share: how often `sample_fabric` draws it, beside the others' shares.
        pitch: mm, lowest and highest that `sample_fabric` draws.
        draw: cloth -> relief in px and tone (a factor about 1), both (H, W) float32.
    """

    name: str
    order: int
    share: float
    pitch: tuple[float, float]
    draw: Callable[[Cloth], tuple[np.ndarray, np.ndarray]]


class Yarns:
    """Columns (warp) and rows (weft) of square cloth: yarn number of every pixel column and row, place across the yarn
    in [-1, 1], and every yarn's own tone about 1."""

    def __init__(self, cloth: Cloth) -> None:
        height, width = cloth.shape
        x = np.arange(width, dtype=np.float32) / np.float32(cloth.pitch)
        y = np.arange(height, dtype=np.float32) / np.float32(cloth.pitch)
        self.column, self.row = np.floor(x).astype(np.int32), np.floor(y).astype(np.int32)
        self.across_warp, self.across_weft = 2 * (x - self.column) - 1, 2 * (y - self.row) - 1
        self.warp_tone = 1 + 0.05 * (cloth.rng.random(self.column.max() + 1, dtype=np.float32)[self.column] - 0.5)
        self.weft_tone = 1 + 0.05 * (cloth.rng.random(self.row.max() + 1, dtype=np.float32)[self.row] - 0.5)


def woven(cloth: Cloth, yarns: Yarns, warp_shows: np.ndarray, weft_level: float) -> tuple[np.ndarray, np.ndarray]:
    """Relief and tone of crossing yarns: the warp where `warp_shows` (H, W), else the weft, `weft_level` times as
    high."""
    warp = (1 - yarns.across_warp**2)[None] * (1 - 0.6 * yarns.across_weft**2)[:, None]
    weft = (1 - yarns.across_weft**2)[:, None] * (1 - 0.6 * yarns.across_warp**2)[None]
    level = np.where(warp_shows, warp, weft * weft_level).astype(np.float32)
    yarn = np.where(warp_shows, yarns.warp_tone[None], yarns.weft_tone[:, None])
    tone = cloth.tone * (1 + cloth.fade * (yarn - 1)) * (1 + np.float32(0.12) * cloth.fade * (level - np.float32(0.5)))
    return np.float32(0.11 * cloth.pitch) * cloth.fade * level, tone.astype(np.float32)


def smooth_noise(shape: tuple[int, int], rng: np.random.Generator, size: float, stretch: float = 1.0) -> np.ndarray:
    """Smooth random field of unit deviation whose blobs are `size` px, `stretch` times as wide as high."""
    rows, columns = int(shape[0] / size) + 3, int(shape[1] / (size * stretch)) + 3
    coarse = rng.standard_normal((rows, columns)).astype(np.float32)
    return cv2.resize(coarse, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC)

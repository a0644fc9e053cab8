"""What the draw functions of stitch families share: the threads they return, repeatable noise, common shapes.

A draw function takes f, a `ThreadFrame` (px along and across the threads), the stitch, its thread width and stitch
length in px and a `HashNoise`, and returns `Threads`. It works on all M pixels at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tambour.stitch.thread_frame import ThreadFrame

if TYPE_CHECKING:
    from tambour.stitch.parameters import Stitch

PI2 = np.float32(2 * np.pi)


@dataclass
class Threads:
    """Surface at M pixels: height px; tx, ty unit fibre tangent in the plane; tint: brightness factor about 1;
    cover: 0 fabric to 1 thread; thread: (M,) int32 id; shine: weight of mirror-like light (sequins, beads, metal), None
    for fibres alone; fibre: weight of the fibres' light where there is shine too; centre: px along and across to the
    middle of the piece (a bead, a seed), where pieces stand alone and are left out rather than cut."""

    height: np.ndarray
    tx: np.ndarray
    ty: np.ndarray
    tint: np.ndarray
    cover: np.ndarray
    thread: np.ndarray
    shine: np.ndarray | None = None
    fibre: np.ndarray | None = None
    centre: tuple[np.ndarray, np.ndarray] | None = None


class HashNoise:
    """Random numbers in [0, 1) by integer coordinates: the same integers always give the same number."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.table = rng.random(8192, dtype=np.float32)
        tile = rng.standard_normal((128, 128), dtype=np.float32)
        frequency = np.fft.fftfreq(128).astype(np.float32)
        square = frequency[:, None] ** 2 + frequency[None, :65] ** 2
        band = np.exp(-2 * np.pi**2 * square) - np.exp(-2 * (2.6 * np.pi) ** 2 * square)  # blurs of 1 and 2.6 px
        self.fibres = np.fft.irfft2(np.fft.rfft2(tile) * band).astype(np.float32)  # wraps around
        self.fibres /= self.fibres.std()

    def __call__(self, first: np.ndarray, second: np.ndarray | int = 0, salt: int = 0) -> np.ndarray:
        """One number for each pair of integers; another `salt` gives an independent one."""
        key = first * np.int32(1597) + second * np.int32(2833) + np.int32(salt * 3571)
        key ^= key >> 7
        return self.table.take(key & 8191)

    def fibre(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Band-limited noise at pixels, like single fibres: zero mean, unit deviation."""
        return self.fibres.ravel().take(((y.astype(np.int32) & 127) << 7) | (x.astype(np.int32) & 127))


def round_profile(a: np.ndarray) -> np.ndarray:
    """Height of a round thread over its across coordinate a in [-1, 1]."""
    return np.sqrt(np.maximum(1 - a * a, 0))


def split(value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whole part (int32) and fraction."""
    whole = np.floor(value)
    return whole.astype(np.int32), value - whole


def ply_ridges(a: np.ndarray, u: np.ndarray, width: float, stitch: Stitch) -> np.ndarray:
    """Height of twisted plies, slanted ridges along a thread, in units of its radius; fades when too fine to be drawn.

    a: across in [-1, 1]; u: px along.
    """
    period = 1.15 * width
    strength = 0.2 * stitch.twist * np.clip((period - 3) / 4, 0, 1)
    filament = 0.05 * np.clip((width - 6) / 4, 0, 1)
    if strength + filament < 0.01:
        return np.zeros_like(u)
    turn = PI2 / period * u
    ridges = np.float32(strength) * np.cos(turn + np.float32(2.6) * a)
    ridges += np.float32(filament) * np.cos(np.float32(0.4) * turn + np.float32(9.5) * a)
    return ridges * (1 - a * a)


def thread_tint(noise: HashNoise, first: np.ndarray, second: np.ndarray | int, stitch: Stitch) -> np.ndarray:
    """Brightness factor about 1 of the thread with these two ids."""
    return 1 + np.float32(0.3 * stitch.colour_variation) * (noise(first, second, 11) - 0.5)


def line(f: ThreadFrame, stitch: Stitch, width: float, length: float, noise: HashNoise) -> Threads:
    """A region too narrow for its family: slanted stitches along it. `f.v` is 0 at its edge, 1 in its middle."""
    a = 1 - np.minimum(f.v, 1)
    part, s = split(f.u / np.float32(1.5 * width) + np.float32(0.4) * f.v)
    notch = np.sqrt(np.minimum(np.minimum(s, 1 - s) * 5, 1))
    height = 0.5 * width * round_profile(a) * (0.6 + 0.4 * notch)
    return Threads(height, f.tx, f.ty, thread_tint(noise, part, f.label, stitch), np.ones_like(a), part)

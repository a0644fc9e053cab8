"""Seed stitch: short stitches scattered over the cloth, each lying its own way."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from tambour.stitch.family import THREAD_BORDER, Family, Fit, Ranges, Words, thread_pitch
from tambour.stitch.surface import HashNoise, Threads, ply_ridges, round_profile, thread_tint
from tambour.stitch.thread_frame import ThreadFrame

if TYPE_CHECKING:
    from tambour.stitch.parameters import Stitch


def draw(f: ThreadFrame, stitch: Stitch, width: float, length: float, noise: HashNoise) -> Threads:
    """Short stitches of two strands side by side, scattered, each lying its own way."""
    radius = np.float32(0.5 * width)
    cell = np.float32(0.66 * length / stitch.density)
    half = np.float32(max(min(0.5 * length, 0.8 * cell - width), 0.5 * width))  # 0.8: the reach seen from four cells
    column0 = np.floor(f.u / cell - np.float32(0.5)).astype(np.int32)
    row0 = np.floor(f.v / cell - np.float32(0.5)).astype(np.int32)

    def stitch_of(row: np.ndarray, column: np.ndarray) -> tuple[np.ndarray, ...]:
        """A cell's stitch as seen from the pixels: px from its middle, its direction, px along, px to its strands."""
        piece = row * np.int32(37) + column
        x = f.u - (column.astype(np.float32) + np.float32(0.3) + np.float32(0.4) * noise(piece, 0, 51)) * cell
        y = f.v - (row.astype(np.float32) + np.float32(0.3) + np.float32(0.4) * noise(piece, 0, 52)) * cell
        turn = np.float32(np.pi) * noise(piece, 0, 53)
        c, q = np.cos(turn), np.sin(turn)
        along, strand = x * c + y * q, np.abs(y * c - x * q) - np.float32(0.9) * radius
        over = np.maximum(np.abs(along) - (half - np.float32(0.7) * radius), 0)
        return x, y, c, q, along, strand, np.sqrt(strand * strand + over * over), piece

    lowest, which = np.full_like(f.u, 1e9), np.zeros_like(row0)
    for cell_number in range(4):
        *_, distance, piece = stitch_of(row0 + np.int32(cell_number >> 1), column0 + np.int32(cell_number & 1))
        distance -= radius * noise(piece, 0, 54) * (distance < radius)  # of two that cross, one lies on top
        which[distance < lowest] = cell_number
        np.minimum(lowest, distance, out=lowest)
    x, y, c, q, along, strand, distance, piece = stitch_of(row0 + (which >> 1), column0 + (which & 1))
    body = round_profile(np.minimum(distance / radius, 1))
    lift = np.float32(0.25) + np.float32(0.5) * noise(piece, 0, 54)
    arch = np.maximum(1 - np.square(along / half), 0) * lift + lift
    height = radius * (body * (1 + ply_ridges(strand / radius, along, width, stitch)) + arch * (body > 0))
    cover = np.clip(radius - distance + np.float32(0.5), 0, 1)
    tx, ty = f.tx * c - f.ty * q, f.ty * c + f.tx * q
    return Threads(height, tx, ty, thread_tint(noise, piece, 0, stitch), cover, piece, centre=(-x, -y))


FAMILY = Family(
    name="seed",
    order=9,
    draw=draw,
    row_pitch=thread_pitch,
    typical=dict(thread_width=0.38, stitch_length=1.5, density=0.9, sheen=0.35, twist=0.6),
    ranges=Ranges(
        thread_width=(0.34, 0.5),
        length_ratio=(2.9, 4.2),
        sheen=(0.1, 0.6),
        twist=(0.3, 0.9),
        pile=(0, 0.3),
        density=(0.85, 1.1),
        angle_fields=("constant",),
        axis_turn=0.0,
        grid=False,
        straight_from=math.inf,
        thread=True,
        bordered=False,
    ),
    words=Words(caption="seed stitch", long_caption=None, plain="seed stitch", size="thread"),
    border=THREAD_BORDER,
    pile_drawn=False,
    dye=0.65,
    fit=Fit(
        ratios=(3.4, 5.5),
        width_scale=0.8,
        shaped_field=None,
        rarity=0.2,
        chosen_on=None,
        direction="none",
        rows_repeat=False,
    ),
)

"""French knots, packed like cells of a honeycomb."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from tambour.stitch.family import THREAD_BORDER, Family, Fit, Ranges, Words
from tambour.stitch.surface import HashNoise, Threads, round_profile, split, thread_tint
from tambour.stitch.thread_frame import ThreadFrame

if TYPE_CHECKING:
    from tambour.stitch.parameters import Stitch


def row_pitch(stitch: Stitch, width: float, length: float) -> float:
    """Distance of two rows in px, closer than the knots of one row."""
    return 0.87 * length / stitch.density


def draw(f: ThreadFrame, stitch: Stitch, width: float, length: float, noise: HashNoise) -> Threads:
    """French knots packed on a jittered hexagonal grid: a little dome of thread wound round itself.

    `length`: diameter of a knot; `width`: of the thread that makes it.
    """
    size = length / stitch.density
    radius = np.float32(0.56 * size)
    row0 = np.floor(f.v / np.float32(0.87 * size)).astype(np.int32)
    nearest = np.full_like(f.u, 1e9)
    dx, dy, knot_row, knot_column = np.zeros_like(f.u), np.zeros_like(f.u), np.zeros_like(row0), np.zeros_like(row0)
    for step in (-1, 0, 1):
        row = row0 + np.int32(step)
        shift = (row & 1) * np.float32(0.5)
        column = np.floor(f.u / np.float32(size) - shift).astype(np.int32)
        jx, jy = noise(row, column, 21) - np.float32(0.5), noise(row, column, 22) - np.float32(0.5)
        x = f.u - (column + shift + np.float32(0.5) + np.float32(0.24) * jx) * np.float32(size)
        y = f.v - (row + np.float32(0.5) + np.float32(0.24) * jy) * np.float32(0.87 * size)
        d = x * x + y * y
        closer = d < nearest
        nearest = np.where(closer, d, nearest)
        dx, dy = np.where(closer, x, dx), np.where(closer, y, dy)
        knot_row, knot_column = np.where(closer, row, knot_row), np.where(closer, column, knot_column)
    scale = 0.9 + 0.2 * noise(knot_row, knot_column, 23)
    r = np.sqrt(nearest) / (radius * scale)
    turn = np.arctan2(dy, dx) * np.float32(1 / (2 * np.pi)) + noise(knot_row, knot_column, 24)
    coils = np.float32(np.clip(radius / width, 1.2, 3))
    _, t = split(r * coils - turn)
    strand = round_profile(2 * t - 1)
    dome = round_profile(np.minimum(r, 1))
    inside = np.minimum(r, 1)
    height = (
        radius
        * (0.85 * dome + 0.55 / coils * strand * (0.35 + 0.65 * dome) - 0.3 * np.exp(-np.square(r / 0.22)))
        * (r < 1)
    )
    radial = 1 / np.maximum(np.sqrt(nearest), np.float32(0.5))
    cx, cy = -dy * radial, dx * radial
    tx, ty = f.tx * cx - f.ty * cy, f.ty * cx + f.tx * cy
    cover = np.clip((1 - r) * radius + np.float32(0.5), 0, 1)
    tint = thread_tint(noise, knot_row, knot_column, stitch) * (1 - np.float32(0.12) * inside * inside)
    return Threads(height, tx, ty, tint, cover, knot_row * np.int32(37) + knot_column)


FAMILY = Family(
    name="knot",
    order=6,
    draw=draw,
    row_pitch=row_pitch,
    typical=dict(thread_width=0.3, stitch_length=0.95, sheen=0.35, twist=0.5),
    ranges=Ranges(
        thread_width=(0.26, 0.38),
        length_ratio=(2.6, 3.6),
        sheen=(0.15, 0.6),
        twist=(0.3, 0.8),
        pile=(0, 0.3),
        density=(0.92, 1.1),
        angle_fields=("constant", "contour"),
        axis_turn=0.0,
        grid=False,
        straight_from=math.inf,
        thread=True,
        bordered=False,
    ),
    words=Words(caption="french knots", long_caption=None, plain="french knots", size="piece length"),
    border=THREAD_BORDER,
    pile_drawn=False,
    dye=0.65,
    fit=Fit(
        ratios=(2.6, 3.4),
        width_scale=0.7,
        shaped_field=None,
        rarity=0.05,
        chosen_on="points",
        direction="none",
        rows_repeat=False,
    ),
)

"""Sequins: shiny discs in rows that overlap like scales."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from tambour.stitch.family import THREAD_BORDER, Family, Fit, Ranges, Words
from tambour.stitch.surface import HashNoise, Threads, thread_tint
from tambour.stitch.thread_frame import ThreadFrame

if TYPE_CHECKING:
    from tambour.stitch.parameters import Stitch


def row_pitch(stitch: Stitch, width: float, length: float) -> float:
    """Distance of two rows in px."""
    return 0.87 * length / stitch.density


def draw(f: ThreadFrame, stitch: Stitch, width: float, length: float, noise: HashNoise) -> Threads:
    """Shiny discs sewn in rows that overlap like scales, each with a hole and its own small tilt.

    `length`: diameter of a disc; `width`: of the thread that sews it on.
    """
    radius = np.float32(0.5 * length)
    spacing, rise = np.float32(0.94 * length / stitch.density), np.float32(0.62 * length / stitch.density)
    row0 = np.floor(f.v / rise).astype(np.int32)
    height, tint = np.zeros_like(f.u), np.ones_like(f.u)
    shine, cover = np.zeros_like(f.u), np.zeros_like(f.u)
    thread = np.zeros_like(row0)
    for step in (-1, 0, 1):  # later rows lie on top
        row = row0 + np.int32(step)
        shift = (row & 1) * np.float32(0.5)
        column = np.floor(f.u / spacing - shift).astype(np.int32)
        x = (
            f.u
            - (column + shift + np.float32(0.5)) * spacing
            + (noise(row, column, 31) - np.float32(0.5)) * (0.1 * radius)
        )
        y = f.v - (row + np.float32(0.5)) * rise + (noise(row, column, 32) - np.float32(0.5)) * (0.1 * radius)
        r = np.sqrt(x * x + y * y) / radius
        on = r < 1
        lean_x, lean_y = noise(row, column, 33) - np.float32(0.5), noise(row, column, 34) - np.float32(0.5)
        hole = np.float32(1) - np.clip((np.float32(0.17) - r) * radius + np.float32(0.5), 0, 1)
        rim = np.clip((r - np.float32(0.84)) * 8, 0, 1)
        surface = radius * np.float32(0.42) + np.float32(0.26) * y + np.float32(0.5) * (lean_x * x + lean_y * y)
        surface = surface + radius * (
            np.float32(0.13) * r * r - np.float32(0.05) * rim * rim - np.float32(0.25) * (1 - hole)
        )
        height = np.where(on, np.maximum(surface, 0.1), height)
        new_tint = thread_tint(noise, row, column, stitch) * (np.float32(0.3) + np.float32(0.7) * hole)
        tint = np.where(on, new_tint, tint)
        shine = np.where(on, hole, shine)
        cover = np.maximum(cover, np.clip((1 - r) * radius + np.float32(0.5), 0, 1))
        thread = np.where(on, row * np.int32(37) + column, thread)
    return Threads(height, f.tx, f.ty, tint, cover, thread, shine)


FAMILY = Family(
    name="sequin",
    order=8,
    draw=draw,
    row_pitch=row_pitch,
    typical=dict(thread_width=0.3, stitch_length=1.5, sheen=0.9, twist=0.2),
    ranges=Ranges(
        thread_width=(0.25, 0.35),
        length_ratio=(4.0, 6.5),
        sheen=(0.6, 1.0),
        twist=(0.0, 0.5),
        pile=(0, 0.05),
        density=(0.92, 1.1),
        angle_fields=("constant",),
        axis_turn=0.0,
        grid=False,
        straight_from=math.inf,
        thread=False,
        bordered=False,
    ),
    words=Words(caption="sequins", long_caption=None, plain="sequins", size="piece length"),
    border=THREAD_BORDER,
    pile_drawn=False,
    dye=0.65,
    fit=Fit(
        ratios=(4.5, 6.0),
        width_scale=0.7,
        shaped_field=None,
        rarity=0.2,
        chosen_on="points",
        direction="constant",
        rows_repeat=False,
    ),
)

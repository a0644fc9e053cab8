"""Chain stitch: rows of loops, each begun inside the one before."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from tambour.stitch.family import THREAD_BORDER, Family, Fit, Ranges, Words
from tambour.stitch.surface import HashNoise, Threads, ply_ridges, round_profile, split, thread_tint
from tambour.stitch.thread_frame import ThreadFrame

if TYPE_CHECKING:
    from tambour.stitch.parameters import Stitch


def row_pitch(stitch: Stitch, width: float, length: float) -> float:
    """Distance of two rows in px: the width of a loop."""
    return 2.8 * width / stitch.density


def draw(f: ThreadFrame, stitch: Stitch, width: float, length: float, noise: HashNoise) -> Threads:
    """Rows of teardrop loops; each begins inside the round end of the one before and lies over it.

    `length`: one loop.
    """
    pitch = row_pitch(stitch, width, length)
    row, across = split(f.v / pitch)
    off = (across - np.float32(0.5)) * pitch
    part, s = split(f.u / length + noise(row, f.label, 1))
    total, bulge = 1.3 * length, 0.5 * pitch - 0.5 * width
    grid = np.linspace(0, 1, 257)
    shape = bulge * np.sin(np.pi * grid**1.25) ** 0.75
    slope = np.gradient(shape, total / 256)
    cosine = (1 / np.sqrt(1 + slope**2)).astype(np.float32)
    sine = (slope * cosine).astype(np.float32)
    shape = shape.astype(np.float32)
    radius = np.float32(0.5 * width)
    side = np.sign(off)
    height = np.zeros_like(s)
    tx, ty, cover = f.tx.copy(), f.ty.copy(), np.zeros_like(s)
    loop = part.copy()
    for back in (1, 0):  # the loop before, then the one on top
        x = s + np.float32(back)
        index = np.minimum(x * np.float32(256 * length / total), 256).astype(np.int32)
        c, q = cosine.take(index), sine.take(index)
        distance = np.abs(np.abs(off) - shape.take(index)) * np.maximum(c, np.float32(0.35))
        past = np.maximum(x * np.float32(length) - np.float32(total - 0.2 * width), 0)
        distance = np.sqrt(distance * distance + past * past)
        a = distance / radius
        body = round_profile(np.minimum(a, 1))
        rise = np.float32(0.75) * np.maximum(1 - x * np.float32(1.1 * length / total), 0) + np.float32(0.25)
        new = radius * (body * (1 + ply_ridges(a, x * np.float32(length), width, stitch)) + rise * (body > 0))
        top = new > height
        if back:
            top = body > 0
        height = np.where(top, new, height)
        px, py = c, side * q
        tx = np.where(top, f.tx * px - f.ty * py, tx)
        ty = np.where(top, f.ty * px + f.tx * py, ty)
        cover = np.maximum(cover, np.clip(radius - distance + np.float32(0.5), 0, 1))
        loop = np.where(top, part - np.int32(back), loop)
    return Threads(height, tx, ty, thread_tint(noise, row, loop, stitch), cover, row)


FAMILY = Family(
    name="chain",
    order=4,
    draw=draw,
    row_pitch=row_pitch,
    typical=dict(thread_width=0.38, stitch_length=1.4, angle_field="contour", sheen=0.4, twist=0.5),
    ranges=Ranges(
        thread_width=(0.33, 0.44),
        length_ratio=(3.2, 4.4),
        sheen=(0.1, 0.6),
        twist=(0.3, 0.8),
        pile=(0, 0.3),
        density=(0.92, 1.1),
        angle_fields=("contour", "contour", "constant"),
        axis_turn=0.0,
        grid=False,
        straight_from=math.inf,
        thread=True,
        bordered=False,
    ),
    words=Words(caption="chain stitch", long_caption=None, plain="chain stitch", size="thread"),
    border=THREAD_BORDER,
    pile_drawn=False,
    dye=0.65,
    fit=Fit(
        ratios=(3.4, 5.5),
        width_scale=1.0,
        shaped_field="contour",
        rarity=0.12,
        chosen_on="threads",
        direction="contour",
        rows_repeat=False,
    ),
)

"""Running stitch: dashed rows with the fabric between them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from tambour.stitch.family import THREAD_BORDER, Family, Fit, Ranges, Words, thread_pitch
from tambour.stitch.surface import HashNoise, Threads, ply_ridges, round_profile, split, thread_tint
from tambour.stitch.thread_frame import ThreadFrame

if TYPE_CHECKING:
    from tambour.stitch.parameters import Stitch


def draw(f: ThreadFrame, stitch: Stitch, width: float, length: float, noise: HashNoise) -> Threads:
    """Dashed rows with the fabric between them."""
    pitch = width / stitch.density
    radius = np.float32(0.5 * width)
    row, across = split(f.v / pitch)
    part, s = split(f.u / length + (row & 1) * np.float32(0.5) + np.float32(0.16) * noise(row, f.label, 1))
    drift = np.float32(0.12 * width) * (noise(row, f.label, 3) - 0.5)
    slant = np.float32(0.16 * width) * (noise(row, part, 4) - 0.5) * (2 * s - 1)
    off = (across - np.float32(0.5)) * pitch + drift + slant
    tip = np.float32(max(0.35 * length, 0.5 * length - 1.15 * radius))  # px from the middle to where the end rounds off
    over = np.maximum(np.abs(s - np.float32(0.5)) * np.float32(length) - tip + np.float32(0.15 * radius), 0)
    distance = np.sqrt(off * off + over * over)
    body = round_profile(np.minimum(distance / radius, 1))
    arch = 1 - np.square(2 * s - 1)
    height = radius * body * (1.15 + 0.55 * arch + ply_ridges(off / radius, f.u, width, stitch))
    cover = np.clip(radius - distance + np.float32(0.5), 0, 1)
    return Threads(height, f.tx, f.ty, thread_tint(noise, row, part, stitch), cover, row)


FAMILY = Family(
    name="running",
    order=5,
    draw=draw,
    row_pitch=thread_pitch,
    typical=dict(thread_width=0.5, stitch_length=2.2, density=0.7, angle=0.0, sheen=0.3, twist=0.6),
    ranges=Ranges(
        thread_width=(0.42, 0.66),
        length_ratio=(3.2, 6.5),
        sheen=(0.1, 0.6),
        twist=(0.3, 0.9),
        pile=(0, 0.3),
        density=(0.55, 0.85),
        angle_fields=("constant", "contour", "axis"),
        axis_turn=0.0,
        grid=False,
        straight_from=math.inf,
        thread=True,
        bordered=False,
    ),
    words=Words(caption="running stitch", long_caption=None, plain="running stitch", size="thread"),
    border=THREAD_BORDER,
    pile_drawn=False,
    dye=0.65,
    fit=Fit(
        ratios=(3.4, 5.5),
        width_scale=1.0,
        shaped_field="axis",
        rarity=0.1,
        chosen_on="threads",
        direction="contour",
        rows_repeat=True,
    ),
)

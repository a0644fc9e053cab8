"""Tatami fill: rows of short stitches staggered like bricks."""

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
    """Rows of short stitches whose ends are staggered like bricks; the needle leaves a dark point at each end."""
    pitch = width / stitch.density
    row, across = split(f.v / pitch)
    a = 2 * across - 1
    stagger = (row % 3).astype(np.float32) * np.float32(1 / 3) + np.float32(0.12) * noise(row, f.label, 1)
    part, s = split(f.u / length + stagger)
    end = np.minimum(s, 1 - s) * (2 * length / width)
    bow = round_profile(1 - np.minimum(end / 1.6, 1))  # the stitch dives into the cloth
    pinch = 1 / (0.62 + 0.38 * np.minimum(end, 1))  # and narrows
    body = round_profile(np.minimum(np.abs(a) * pinch, 1))
    arch = 1 - np.square(2 * s - 1)
    lift = 0.14 * (noise(row, part, 2) - 0.5)
    height = 0.5 * width * (body * bow + 0.25 * arch + (ply_ridges(a, f.u, width, stitch) + lift) * bow)
    return Threads(height, f.tx, f.ty, thread_tint(noise, row, part, stitch), np.ones_like(a), row)


FAMILY = Family(
    name="tatami",
    order=2,
    draw=draw,
    row_pitch=thread_pitch,
    typical=dict(thread_width=0.5, stitch_length=2.4, angle=20.0, sheen=0.5, twist=0.45),
    ranges=Ranges(
        thread_width=(0.38, 0.66),
        length_ratio=(3.5, 7.5),
        sheen=(0.2, 0.8),
        twist=(0.2, 0.8),
        pile=(0, 0.3),
        density=(0.92, 1.1),
        angle_fields=("constant", "constant", "axis"),
        axis_turn=0.0,
        grid=False,
        straight_from=math.inf,
        thread=True,
        bordered=True,
    ),
    words=Words(caption="tatami fill stitch", long_caption=None, plain="tatami stitch", size="thread"),
    border=THREAD_BORDER,
    pile_drawn=False,
    dye=0.65,
    fit=Fit(
        ratios=(3.4, 5.5),
        width_scale=1.0,
        shaped_field="axis",
        rarity=0.0,
        chosen_on="threads",
        direction="axis",
        rows_repeat=True,
    ),
)

"""Satin stitch: long parallel threads over a padded region."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from tambour.stitch.family import THREAD_BORDER, Family, Fit, Ranges, Words, thread_pitch
from tambour.stitch.surface import PI2, HashNoise, Threads, ply_ridges, round_profile, split, thread_tint
from tambour.stitch.thread_frame import ThreadFrame

if TYPE_CHECKING:
    from tambour.stitch.parameters import Stitch


def draw(f: ThreadFrame, stitch: Stitch, width: float, length: float, noise: HashNoise) -> Threads:
    """Long parallel threads over a padded region, split only where a thread would be too long.

    `length`: where long threads are split.
    """
    pitch = width / stitch.density
    sway = np.float32(0.1 * pitch) * np.sin(PI2 / (9 * width) * f.u + f.v * np.float32(0.7 / pitch))
    row, across = split((f.v + sway) / pitch)
    a = 2 * across - 1
    _, s = split(f.u / length + noise(row, f.label, 1) * np.float32(7))
    end = np.minimum(s, 1 - s) * (2 * length / width)  # radii from a split
    notch = np.sqrt(np.minimum(end, 1))
    lift = 0.16 * (noise(row, f.label, 2) - 0.5)
    pad = 1 - np.square(1 - np.minimum(f.depth / np.float32(2.6 * width), 1))
    height = (
        0.5
        * width
        * (0.8 * round_profile(a) * (0.55 + 0.45 * notch) + ply_ridges(a, f.u, width, stitch) + lift + 1.3 * pad)
    )
    return Threads(height, f.tx, f.ty, thread_tint(noise, row, f.label, stitch), np.ones_like(a), row)


FAMILY = Family(
    name="satin",
    order=1,
    draw=draw,
    row_pitch=thread_pitch,
    typical=dict(thread_width=0.5, stitch_length=14.0, angle_field="axis", sheen=0.8, twist=0.3, pile=0.05),
    ranges=Ranges(
        thread_width=(0.36, 0.68),
        length_ratio=(18, 40),
        sheen=(0.5, 1.0),
        twist=(0.1, 0.6),
        pile=(0, 0.15),
        density=(0.92, 1.1),
        angle_fields=("axis", "axis", "constant"),
        axis_turn=0.0,
        grid=False,
        straight_from=math.inf,
        thread=True,
        bordered=True,
    ),
    words=Words(caption="satin stitch", long_caption=None, plain="satin stitch", size="thread"),
    border=THREAD_BORDER,
    pile_drawn=False,
    dye=0.65,
    fit=Fit(
        ratios=(28.0,),
        width_scale=1.0,
        shaped_field="axis",
        rarity=0.0,
        chosen_on="threads",
        direction="axis",
        rows_repeat=True,
    ),
)

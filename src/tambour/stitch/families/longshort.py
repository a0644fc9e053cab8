"""Long and short stitch: shading in silk."""

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
    """Shading in silk: long stitches of unequal length that grow out of each other without a seam, in flowing tones.

    `length`: the mean; single stitches differ.
    """
    pitch = width / stitch.density
    sway = np.sin(PI2 / (26 * width) * f.u + np.float32(0.37 / pitch) * f.v)
    sway += np.sin(PI2 / (15 * width) * f.u - np.float32(0.71 / pitch) * f.v)
    row, across = split(f.v / pitch + np.float32(0.17) * sway)
    a = 2 * across - 1
    start = np.float32(7) * noise(row, f.label, 1)
    place = f.u / np.float32(length) + start
    part = np.floor(place).astype(np.int32)
    whole = part.astype(np.float32)
    ends = [whole + np.float32(k - 0.42) + np.float32(0.84) * noise(row, part + np.int32(k), 71) for k in (-1, 0, 1, 2)]
    before, after = place < ends[1], place >= ends[2]
    first = np.where(before, ends[0], np.where(after, ends[2], ends[1]))
    last = np.where(before, ends[1], np.where(after, ends[3], ends[2]))
    part = part - before.astype(np.int32) + after.astype(np.int32)
    rising, falling = (np.clip(g * np.float32(length / width), 0, None) for g in (place - first, last - place))
    point = np.minimum(rising / np.float32(0.8), 1)  # comes up through the stitch before
    tail = np.minimum(falling / np.float32(3.5), 1)  # and tapers into the next
    body = round_profile(np.minimum(np.abs(a) / (np.float32(0.5) + np.float32(0.5) * tail), 1))
    bow = (np.float32(0.6) + np.float32(0.4) * np.sqrt(point)) * (np.float32(0.75) + np.float32(0.25) * tail)
    lift = np.float32(0.22) * (noise(row, part, 2) - np.float32(0.5))
    height = 0.5 * width * (0.85 * body * bow + ply_ridges(a, f.u, width, stitch) + lift + np.float32(0.5))
    middle = (np.float32(0.5) * (first + last) - start) * np.float32(PI2 / 4.6)
    flow = np.cos(middle + np.float32(6.3) * noise(f.label, 0, 72))
    tint = thread_tint(noise, row, part, stitch) + np.float32(0.5 * stitch.colour_variation) * flow
    return Threads(height, f.tx, f.ty, tint, np.ones_like(a), row * np.int32(31) + part)


FAMILY = Family(
    name="longshort",
    order=11,
    draw=draw,
    row_pitch=thread_pitch,
    typical=dict(
        thread_width=0.45,
        stitch_length=4.5,
        angle=90.0,
        angle_field="axis",
        sheen=0.75,
        twist=0.2,
        pile=0.05,
        colour_variation=0.4,
    ),
    ranges=Ranges(
        thread_width=(0.36, 0.6),
        length_ratio=(7.0, 13.0),
        sheen=(0.4, 1.0),
        twist=(0.1, 0.5),
        pile=(0, 0.15),
        density=(0.92, 1.1),
        angle_fields=("axis", "axis", "constant"),
        axis_turn=90.0,
        grid=False,
        straight_from=math.inf,
        thread=True,
        bordered=False,
    ),
    words=Words(caption="long and short stitch", long_caption=None, plain="long and short stitch", size="thread"),
    border=THREAD_BORDER,
    pile_drawn=False,
    dye=0.65,
    fit=Fit(
        ratios=(10.0,),
        width_scale=1.0,
        shaped_field="axis",
        rarity=0.2,
        chosen_on=None,
        direction="axis",
        rows_repeat=False,
    ),
)

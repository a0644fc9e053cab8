"""Cross stitch: two diagonal stitches a cell of a square grid."""

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
    """Distance of two rows in px: a cell."""
    return length


def draw(f: ThreadFrame, stitch: Stitch, width: float, length: float, noise: HashNoise) -> Threads:
    """Two diagonal stitches a cell; the upper ones all slant the same way.

    `length`: side of a cell.
    """
    column, x = split(f.u / length)
    row, y = split(f.v / length)
    half = np.float32(length / np.sqrt(2))
    x, y = (x - np.float32(0.5)) * half, (y - np.float32(0.5)) * half
    radius = np.float32(0.5 * width * min(max(stitch.density, 0.7), 1.3) * 1.15)
    reach = half - np.float32(0.75) * radius
    root = np.float32(np.sqrt(0.5))
    best = None
    for sign, lift in ((1, 0.0), (-1, 0.85)):
        along, off = x - sign * y, x + sign * y  # along runs (1, -sign) / sqrt 2
        bend = np.float32(0.25) * radius * (noise(column, row, 5 + sign) - 0.5)
        off = off + bend
        over = np.maximum(np.abs(along) - (reach - radius), 0)
        distance = np.sqrt(off * off + over * over)
        body = round_profile(np.minimum(distance / radius, 1))
        arch = np.maximum(1 - np.square(along / half), 0)
        height = radius * body * (1 + ply_ridges(off / radius, along, width, stitch)) + radius * np.float32(
            lift + 0.35
        ) * arch * (body > 0)
        cover = np.clip(radius - distance + np.float32(0.5), 0, 1)
        tx, ty = root * (f.tx + sign * f.ty), root * (f.ty - sign * f.tx)
        tint = thread_tint(noise, column, row + 7919 * sign, stitch)
        if best is None:
            best = [height, cover, tx, ty, tint]
        else:
            top = height > best[0]
            best = [np.where(top, height, best[0]), np.maximum(cover, best[1])] + [
                np.where(top, new, old) for new, old in zip((tx, ty, tint), best[2:], strict=True)
            ]
    height, cover, tx, ty, tint = best
    return Threads(height, tx, ty, tint, cover, column * np.int32(31) + row)


FAMILY = Family(
    name="cross",
    order=3,
    draw=draw,
    row_pitch=row_pitch,
    typical=dict(thread_width=0.42, stitch_length=1.3, sheen=0.25, twist=0.5),
    ranges=Ranges(
        thread_width=(0.34, 0.54),
        length_ratio=(2.8, 3.4),
        sheen=(0.1, 0.5),
        twist=(0.2, 0.9),
        pile=(0, 0.4),
        density=(0.92, 1.1),
        angle_fields=("constant",),
        axis_turn=0.0,
        grid=True,
        straight_from=math.inf,
        thread=True,
        bordered=False,
    ),
    words=Words(caption="cross stitch", long_caption=None, plain="cross stitch", size="thread"),
    border=THREAD_BORDER,
    pile_drawn=False,
    dye=0.65,
    fit=Fit(
        ratios=(3.1,),
        width_scale=1.0,
        shaped_field=None,
        rarity=0.08,
        chosen_on="points",
        direction="none",
        rows_repeat=False,
    ),
)

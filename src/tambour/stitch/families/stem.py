"""Stem stitch: rows like rope."""

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
    """Distance of two rows in px: stitches lie on a slant."""
    return 1.2 * width / stitch.density


def draw(f: ThreadFrame, stitch: Stitch, width: float, length: float, noise: HashNoise) -> Threads:
    """Rows like rope: each stitch begins beside the middle of the one before and crosses the row on a slant."""
    pitch, radius = np.float32(row_pitch(stitch, width, length)), np.float32(0.5 * width)
    row, across = split(f.v / pitch)
    off = (across - np.float32(0.5)) * pitch
    part, s = split(f.u / np.float32(0.5 * length) + np.float32(7) * noise(row, f.label, 1))
    lean = np.float32(0.6 * width)
    c = np.float32(1 / np.hypot(1, lean / length))
    q = np.float32(lean / length) * c
    height, cover, tint = np.zeros_like(s), np.zeros_like(s), np.ones_like(s)
    for back in (1, 0):
        t = (s + np.float32(back)) * np.float32(0.5)  # 0 to 1 along the stitch
        x = (t - np.float32(0.5)) * np.float32(length)
        y = (off - (t - np.float32(0.5)) * lean) * c
        over = np.maximum(np.abs(x) - np.float32(max(0.5 * length - 0.7 * radius, 0.2 * length)), 0)
        distance = np.sqrt(y * y + over * over)
        body = round_profile(np.minimum(distance / radius, 1))
        arch = 1 - np.square(2 * t - 1)
        number = part - np.int32(back)
        new = radius * (
            body * (np.float32(0.85) + ply_ridges(y / radius, x, width, stitch))
            + (np.float32(0.75) * arch + np.float32(0.2) * t) * (body > 0)
        )
        top = new > height
        height = np.where(top, new, height)
        tint = np.where(top, thread_tint(noise, row, number, stitch), tint)
        cover = np.maximum(cover, np.clip(radius - distance + np.float32(0.5), 0, 1))
    return Threads(height, f.tx * c - f.ty * q, f.ty * c + f.tx * q, tint, cover, row)


FAMILY = Family(
    name="stem",
    order=14,
    draw=draw,
    row_pitch=row_pitch,
    typical=dict(thread_width=0.48, stitch_length=3.0, angle_field="contour", sheen=0.45, twist=0.5),
    ranges=Ranges(
        thread_width=(0.4, 0.62),
        length_ratio=(5.5, 9.0),
        sheen=(0.2, 0.7),
        twist=(0.3, 0.8),
        pile=(0, 0.25),
        density=(0.92, 1.1),
        angle_fields=("contour", "contour", "constant"),
        axis_turn=0.0,
        grid=False,
        straight_from=math.inf,
        thread=True,
        bordered=False,
    ),
    words=Words(caption="stem stitch", long_caption=None, plain="stem stitch", size="thread"),
    border=THREAD_BORDER,
    pile_drawn=False,
    dye=0.65,
    fit=Fit(
        ratios=(6.0, 8.0),
        width_scale=1.0,
        shaped_field="contour",
        rarity=0.2,
        chosen_on=None,
        direction="contour",
        rows_repeat=False,
    ),
)

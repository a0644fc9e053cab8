"""Couched cord, as in goldwork: a metal cord held down by small stitches."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from tambour.stitch.family import THREAD_BORDER, Family, Fit, Ranges, Words, thread_pitch
from tambour.stitch.surface import HashNoise, Threads, round_profile, split, thread_tint
from tambour.stitch.thread_frame import ThreadFrame

if TYPE_CHECKING:
    from tambour.stitch.parameters import Stitch


def draw(f: ThreadFrame, stitch: Stitch, width: float, length: float, noise: HashNoise) -> Threads:
    """Goldwork: a twisted metal cord laid along rows and held down by small stitches of sewing thread across it.

    `width`: of the cord; `length`: distance of the stitches that hold it.
    """
    pitch, radius = np.float32(width / stitch.density), np.float32(0.5 * width)
    row, across = split(f.v / pitch)
    off = (across - np.float32(0.5)) * pitch
    shift = (row & 1).astype(np.float32) * np.float32(0.5) + np.float32(0.12) * noise(row, f.label, 1)
    part, s = split(f.u / np.float32(length) + shift)
    thin = np.float32(max(0.13 * width, 0.8))  # half the sewing thread
    t = (s - np.float32(0.5)) * np.float32(length) + np.float32(0.3) * off
    pull = np.exp(-np.square(t / (2 * thin)))
    a = np.clip(off / radius * (1 + np.float32(0.14) * pull), -1, 1)
    dome = round_profile(a)
    helix = f.u / np.float32(0.5 * width) + np.float32(0.62) * np.arcsin(a) + noise(row, f.label, 2)
    ply, q = split(helix)
    strand = round_profile(2 * q - 1)
    deep = np.float32(0.16 + 0.3 * stitch.twist)
    height = radius * (dome * (np.float32(0.8) - deep + deep * strand) - np.float32(0.16) * pull * dome)
    lean = np.float32(0.62)  # the plies' slope
    c, q = np.float32(1 / np.sqrt(1 + 0.62**2)), lean * np.float32(1 / np.sqrt(1 + 0.62**2))
    tx, ty = f.tx * c + f.ty * q, f.ty * c - f.tx * q
    cover = np.clip(radius - np.abs(off) + np.float32(0.5), 0, 1)
    tint = thread_tint(noise, row, ply, stitch) * (np.float32(0.78) + np.float32(0.27) * strand)
    over = np.abs(t) < thin
    held = radius * np.float32(0.62) * round_profile(np.clip(off / (np.float32(1.1) * radius), -1, 1))
    held += thin * (np.float32(0.2) + round_profile(np.minimum(np.abs(t) / thin, 1)))
    height = np.where(over, held, height)
    tx, ty = np.where(over, -f.ty, tx), np.where(over, f.tx, ty)
    tint = np.where(over, thread_tint(noise, row, part, stitch) * np.float32(0.6), tint)
    metal = ~over * np.float32(0.5)
    fibre = np.where(over, np.float32(0.3), np.float32(0.9))
    return Threads(height, tx, ty, tint, cover, row, metal, fibre)


FAMILY = Family(
    name="cord",
    order=12,
    draw=draw,
    row_pitch=thread_pitch,
    typical=dict(thread_width=0.85, stitch_length=2.6, angle_field="contour", sheen=0.85, twist=0.6, pile=0.0),
    ranges=Ranges(
        thread_width=(0.65, 1.1),
        length_ratio=(2.4, 4.2),
        sheen=(0.6, 1.0),
        twist=(0.3, 0.9),
        pile=(0, 0.05),
        density=(0.88, 1.02),
        angle_fields=("contour", "contour", "constant"),
        axis_turn=0.0,
        grid=False,
        straight_from=math.inf,
        thread=True,
        bordered=False,
    ),
    words=Words(caption="couched metal cord", long_caption=None, plain="couched cord", size="thread"),
    border=THREAD_BORDER,
    pile_drawn=False,
    dye=0.65,
    fit=Fit(
        ratios=(2.6, 3.8),
        width_scale=1.6,
        shaped_field="contour",
        rarity=0.2,
        chosen_on=None,
        direction="contour",
        rows_repeat=False,
    ),
)

"""Sashiko: running stitches along both ways of a grid, the cloth their ground."""

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
    """Running stitches along both ways of a grid, every other one on the right side: steps, crosses and flowers of
    which the cloth is the ground. The rows' phases mirror each other every six, so that the pattern repeats.

    `length`: one stitch, a side of the grid.
    """
    mesh, radius = np.float32(1.12 * length / stitch.density), np.float32(0.5 * width)
    half = np.float32(0.5 * min(length, mesh)) - np.float32(0.1) * radius
    best = None
    for turn, (along, across) in enumerate(((f.u, f.v), (f.v, f.u))):
        wire, off = split(across / mesh + np.float32(0.5))
        part, s = split(along / mesh)
        mirrored = np.abs((wire % 6) - np.int32(3))
        phase = (noise(mirrored, turn, 81) > np.float32(0.5)).astype(np.int32)
        visible = ((part + phase) & 1) == 0
        drift = np.float32(0.14) * (noise(wire, part, 82 + turn) - np.float32(0.5))
        off = (off - np.float32(0.5)) * mesh + drift * radius
        x = (s - np.float32(0.5)) * mesh
        over = np.maximum(np.abs(x) - (half - radius), 0)
        distance = np.sqrt(off * off + over * over)
        body = round_profile(np.minimum(distance / radius, 1)) * visible
        arch = np.maximum(1 - np.square(x / half), 0)
        height = radius * (
            body * (1.1 + ply_ridges(off / radius, x, width, stitch)) + np.float32(0.5) * arch * (body > 0)
        )
        cover = np.clip(radius - distance + np.float32(0.5), 0, 1) * visible
        tx, ty = (f.tx, f.ty) if turn == 0 else (-f.ty, f.tx)
        these = [height, tx, ty, thread_tint(noise, wire, part * np.int32(2) + np.int32(turn), stitch), cover]
        if best is None:
            best, thread = these, wire
        else:
            top = cover > best[4]
            best = [np.where(top, new, old) for new, old in zip(these, best, strict=True)]
            thread = np.where(top, wire + np.int32(4096), thread)
    return Threads(*best, thread)


FAMILY = Family(
    name="sashiko",
    order=13,
    draw=draw,
    row_pitch=thread_pitch,
    typical=dict(thread_width=0.42, stitch_length=1.3, sheen=0.2, twist=0.6),
    ranges=Ranges(
        thread_width=(0.36, 0.52),
        length_ratio=(2.6, 3.8),
        sheen=(0.05, 0.4),
        twist=(0.3, 0.9),
        pile=(0, 0.3),
        density=(0.85, 1.05),
        angle_fields=("constant",),
        axis_turn=0.0,
        grid=True,
        straight_from=math.inf,
        thread=True,
        bordered=False,
    ),
    words=Words(caption="sashiko", long_caption=None, plain="sashiko", size="thread"),
    border=THREAD_BORDER,
    pile_drawn=False,
    dye=0.25,
    fit=Fit(
        ratios=(2.8, 3.6),
        width_scale=1.0,
        shaped_field=None,
        rarity=0.2,
        chosen_on=None,
        direction="contour",
        rows_repeat=False,
    ),
)

"""Chenille: thick cords of close loops, soft and fuzzy."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from tambour.stitch.family import Border, Family, Fit, Ranges, Words, thread_pitch
from tambour.stitch.surface import HashNoise, Threads, round_profile, split, thread_tint
from tambour.stitch.thread_frame import ThreadFrame

if TYPE_CHECKING:
    from tambour.stitch.parameters import Stitch


def draw(f: ThreadFrame, stitch: Stitch, width: float, length: float, noise: HashNoise) -> Threads:
    """Thick cords of close loops, soft and fuzzy.

    `width`: of a cord; `length`: four times the distance of the loops along it.
    """
    pitch = width / stitch.density
    fuzz = noise.fibre(f.x, f.y)
    row, across = split(f.v / pitch + np.float32(0.03 * stitch.pile) * fuzz)
    a = 2 * across - 1
    cord = round_profile(a)
    step = max(0.25 * length, 2.0)
    bow = np.float32(0.9) * (1 - cord)
    lean = np.float32(0.35) * a
    loop, s = split(
        f.u / np.float32(step) + bow + lean + noise(row, f.label, 1) + np.float32(0.05 * stitch.pile) * fuzz
    )
    c = 2 * s - 1
    lift = noise(row, loop, 2)
    height = 0.5 * pitch * cord * (0.82 + 0.18 * lift) + np.float32(0.55 * step) * round_profile(c) * (0.5 + 0.5 * cord)
    height += np.float32(0.5 * stitch.pile * min(0.05 * width, 1)) * fuzz
    bend = a * np.float32(0.8)
    norm = 1 / np.sqrt(1 + bend * bend)
    px, py = -bend * norm, norm  # loops lie across the cord
    tx, ty = f.tx * px - f.ty * py, f.ty * px + f.tx * py
    tint = thread_tint(noise, row, loop, stitch) * (
        np.float32(0.72) + np.float32(0.34) * round_profile(c) + np.float32(0.035 * stitch.pile) * fuzz
    )
    return Threads(height, tx, ty, tint, np.ones_like(a), row)


FAMILY = Family(
    name="chenille",
    order=7,
    draw=draw,
    row_pitch=thread_pitch,
    typical=dict(thread_width=1.0, stitch_length=1.5, angle_field="contour", sheen=0.1, twist=0.2, pile=0.7),
    ranges=Ranges(
        thread_width=(0.75, 1.3),
        length_ratio=(1.2, 1.9),
        sheen=(0.0, 0.2),
        twist=(0.0, 0.5),
        pile=(0.4, 1.0),
        density=(0.92, 1.1),
        angle_fields=("contour", "contour", "constant"),
        axis_turn=0.0,
        grid=False,
        straight_from=math.inf,
        thread=True,
        bordered=True,
    ),
    words=Words(caption="chenille embroidery", long_caption=None, plain="chenille", size="thread"),
    border=Border(width=0.8, least=0.0, thread=0.5),
    pile_drawn=True,
    dye=0.65,
    fit=Fit(
        ratios=(1.3, 1.8),
        width_scale=1.6,
        shaped_field="contour",
        rarity=0.14,
        chosen_on="threads",
        direction="contour",
        rows_repeat=True,
    ),
)

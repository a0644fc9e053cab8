"""Glass beads strung in rows: round ones, and bugles."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tambour.stitch.family import THREAD_BORDER, Family, Fit, Ranges, Words, thread_pitch
from tambour.stitch.surface import HashNoise, Threads, split, thread_tint
from tambour.stitch.thread_frame import ThreadFrame

if TYPE_CHECKING:
    from tambour.stitch.parameters import Stitch


def draw(f: ThreadFrame, stitch: Stitch, width: float, length: float, noise: HashNoise) -> Threads:
    """Glass beads strung in rows: round where as long as wide, bugles where longer; each sits a little askew.

    `width`: diameter; `length`: along the row.
    """
    pitch, spacing = np.float32(width / stitch.density), np.float32(1.04 * length)
    row, across = split(f.v / pitch)
    part, s = split(f.u / spacing + noise(row, f.label, 1))
    x, y = (s - np.float32(0.5)) * spacing, (across - np.float32(0.5)) * pitch
    scale = np.float32(0.9) + np.float32(0.1) * noise(row, part, 61)
    middle = np.float32(0.07 * width) * (noise(row, part, 62) - np.float32(0.5))
    askew = np.float32(0.16 * min(1, width / length))
    y = y - middle + askew * (noise(row, part, 63) - np.float32(0.5)) * x
    radius, half = np.float32(0.5 * width) * scale, np.float32(0.5 * length) * scale
    cap = np.minimum(np.float32(0.95) * half, radius * np.clip(1 - np.float32(0.2) * half / radius, 0.35, 0.85))
    over = np.maximum(np.abs(x) - half + cap, 0) / cap
    a = y / radius
    r = a * a + over * over
    dome = np.sqrt(np.maximum(1 - r, 0))
    height = radius * (np.float32(0.3) + np.float32(0.85) * dome) * (r < 1)
    # glass: the wall is seen through at the rim, the hole as a darker line along the middle
    core = np.exp(-np.square(a * np.float32(1 / 0.2))) * (1 - over)
    tint = thread_tint(noise, row, part, stitch) * (np.float32(0.8) + np.float32(0.4) * dome - np.float32(0.16) * core)
    cover = np.clip((1 - np.sqrt(r)) * np.minimum(radius, cap) + np.float32(0.5), 0, 1)
    shine = np.float32(1.7) * (r < 1)
    return Threads(height, f.tx, f.ty, tint, cover, row * np.int32(37) + part, shine, centre=(-x, -y))


FAMILY = Family(
    name="bead",
    order=10,
    draw=draw,
    row_pitch=thread_pitch,
    typical=dict(thread_width=1.2, stitch_length=1.05, angle_field="contour", sheen=0.8, twist=0.0, pile=0.0),
    ranges=Ranges(
        thread_width=(0.9, 1.6),
        length_ratio=(0.8, 2.6),
        sheen=(0.5, 1.0),
        twist=(0.0, 0.1),
        pile=(0, 0.0),
        density=(0.92, 1.02),
        angle_fields=("contour", "contour", "constant"),
        axis_turn=0.0,
        grid=False,
        straight_from=1.4,
        thread=False,
        bordered=False,
    ),
    words=Words(caption="glass beads", long_caption=(1.7, "bugle beads"), plain="beads", size="piece width"),
    border=THREAD_BORDER,
    pile_drawn=False,
    dye=0.65,
    fit=Fit(
        ratios=(0.9, 2.4),
        width_scale=2.2,
        shaped_field="contour",
        rarity=0.2,
        chosen_on=None,
        direction="contour",
        rows_repeat=False,
    ),
)

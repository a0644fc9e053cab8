"""The fourteen families: from thread coordinates to the threads' surface, one function each, vectorised over pixels.

Every function takes a `ThreadFrame` (px), the stitch, its measures in px and a `Dice`, and returns `Threads`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tambour.stitch.parameters import Stitch
from tambour.stitch.thread_frame import ThreadFrame

PI2 = np.float32(2 * np.pi)


@dataclass
class Threads:
    """Surface at M pixels: height px; tx, ty unit fibre tangent in the plane; tint: brightness factor about 1;
    cover: 0 fabric to 1 thread; thread: (M,) int32 id; shine: weight of mirror-like light (sequins, beads, metal), None
    for fibres alone; fibre: weight of the fibres' light where there is shine too; centre: px along and across to the
    middle of the piece (a bead, a seed), where pieces stand alone and are left out rather than cut."""

    height: np.ndarray
    tx: np.ndarray
    ty: np.ndarray
    tint: np.ndarray
    cover: np.ndarray
    thread: np.ndarray
    shine: np.ndarray | None = None
    fibre: np.ndarray | None = None
    centre: tuple[np.ndarray, np.ndarray] | None = None


class Dice:
    """Numbers in [0, 1) by integer names: the same name always gives the same number."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.table = rng.random(8192, dtype=np.float32)
        tile = rng.standard_normal((128, 128), dtype=np.float32)
        frequency = np.fft.fftfreq(128).astype(np.float32)
        square = frequency[:, None] ** 2 + frequency[None, :65] ** 2
        fibres = np.exp(-2 * np.pi**2 * square) - np.exp(-2 * (2.6 * np.pi) ** 2 * square)  # blurs of 1 and 2.6 px
        self.noise = np.fft.irfft2(np.fft.rfft2(tile) * fibres).astype(np.float32)  # wraps around
        self.noise /= self.noise.std()

    def __call__(self, first: np.ndarray, second: np.ndarray | int = 0, salt: int = 0) -> np.ndarray:
        name = first * np.int32(1597) + second * np.int32(2833) + np.int32(salt * 3571)
        name ^= name >> 7
        return self.table.take(name & 8191)

    def fuzz(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Structured fibre noise at pixels, zero mean, unit deviation."""
        return self.noise.ravel().take(((y.astype(np.int32) & 127) << 7) | (x.astype(np.int32) & 127))


def _round(a: np.ndarray) -> np.ndarray:
    """Height of a round thread over its across coordinate a in [-1, 1]."""
    return np.sqrt(np.maximum(1 - a * a, 0))


def _split(value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whole part (int32) and fraction."""
    whole = np.floor(value)
    return whole.astype(np.int32), value - whole


def _plies(a: np.ndarray, u: np.ndarray, width: float, stitch: Stitch) -> np.ndarray:
    """Twisted plies: slanted ridges along a thread, in units of its radius; fades when too fine to be drawn."""
    period = 1.15 * width
    strength = 0.2 * stitch.twist * np.clip((period - 3) / 4, 0, 1)
    filament = 0.05 * np.clip((width - 6) / 4, 0, 1)
    if strength + filament < 0.01:
        return np.zeros_like(u)
    turn = PI2 / period * u
    ridges = np.float32(strength) * np.cos(turn + np.float32(2.6) * a)
    ridges += np.float32(filament) * np.cos(np.float32(0.4) * turn + np.float32(9.5) * a)
    return ridges * (1 - a * a)


def _tint(dice: Dice, first: np.ndarray, second: np.ndarray | int, stitch: Stitch) -> np.ndarray:
    return 1 + np.float32(0.3 * stitch.colour_variation) * (dice(first, second, 11) - 0.5)


def satin(f: ThreadFrame, stitch: Stitch, width: float, length: float, dice: Dice) -> Threads:
    """Long parallel threads over a padded region, split only where a thread would be too long."""
    pitch = width / stitch.density
    sway = np.float32(0.1 * pitch) * np.sin(PI2 / (9 * width) * f.u + f.v * np.float32(0.7 / pitch))
    row, across = _split((f.v + sway) / pitch)
    a = 2 * across - 1
    _, s = _split(f.u / length + dice(row, f.label, 1) * np.float32(7))
    end = np.minimum(s, 1 - s) * (2 * length / width)  # radii from a split
    notch = np.sqrt(np.minimum(end, 1))
    lift = 0.16 * (dice(row, f.label, 2) - 0.5)
    pad = 1 - np.square(1 - np.minimum(f.depth / np.float32(2.6 * width), 1))
    height = 0.5 * width * (0.8 * _round(a) * (0.55 + 0.45 * notch) + _plies(a, f.u, width, stitch) + lift + 1.3 * pad)
    return Threads(height, f.tx, f.ty, _tint(dice, row, f.label, stitch), np.ones_like(a), row)


def tatami(f: ThreadFrame, stitch: Stitch, width: float, length: float, dice: Dice) -> Threads:
    """Rows of short stitches whose ends are staggered like bricks; the needle leaves a dark point at each end."""
    pitch = width / stitch.density
    row, across = _split(f.v / pitch)
    a = 2 * across - 1
    stagger = (row % 3).astype(np.float32) * np.float32(1 / 3) + np.float32(0.12) * dice(row, f.label, 1)
    part, s = _split(f.u / length + stagger)
    end = np.minimum(s, 1 - s) * (2 * length / width)
    bow = _round(1 - np.minimum(end / 1.6, 1))  # the stitch dives into the cloth
    pinch = 1 / (0.62 + 0.38 * np.minimum(end, 1))  # and narrows
    body = _round(np.minimum(np.abs(a) * pinch, 1))
    arch = 1 - np.square(2 * s - 1)
    lift = 0.14 * (dice(row, part, 2) - 0.5)
    height = 0.5 * width * (body * bow + 0.25 * arch + (_plies(a, f.u, width, stitch) + lift) * bow)
    return Threads(height, f.tx, f.ty, _tint(dice, row, part, stitch), np.ones_like(a), row)


def running(f: ThreadFrame, stitch: Stitch, width: float, length: float, dice: Dice) -> Threads:
    """Dashed rows with the fabric between them."""
    pitch = width / stitch.density
    radius = np.float32(0.5 * width)
    row, across = _split(f.v / pitch)
    part, s = _split(f.u / length + (row & 1) * np.float32(0.5) + np.float32(0.16) * dice(row, f.label, 1))
    drift = np.float32(0.12 * width) * (dice(row, f.label, 3) - 0.5)
    slant = np.float32(0.16 * width) * (dice(row, part, 4) - 0.5) * (2 * s - 1)
    off = (across - np.float32(0.5)) * pitch + drift + slant
    tip = np.float32(max(0.35 * length, 0.5 * length - 1.15 * radius))  # px from the middle to where the end rounds off
    over = np.maximum(np.abs(s - np.float32(0.5)) * np.float32(length) - tip + np.float32(0.15 * radius), 0)
    distance = np.sqrt(off * off + over * over)
    body = _round(np.minimum(distance / radius, 1))
    arch = 1 - np.square(2 * s - 1)
    height = radius * body * (1.15 + 0.55 * arch + _plies(off / radius, f.u, width, stitch))
    cover = np.clip(radius - distance + np.float32(0.5), 0, 1)
    return Threads(height, f.tx, f.ty, _tint(dice, row, part, stitch), cover, row)


def cross(f: ThreadFrame, stitch: Stitch, width: float, length: float, dice: Dice) -> Threads:
    """Two diagonal stitches a cell; the upper ones all slant the same way."""
    column, x = _split(f.u / length)
    row, y = _split(f.v / length)
    half = np.float32(length / np.sqrt(2))
    x, y = (x - np.float32(0.5)) * half, (y - np.float32(0.5)) * half
    radius = np.float32(0.5 * width * min(max(stitch.density, 0.7), 1.3) * 1.15)
    reach = half - np.float32(0.75) * radius
    root = np.float32(np.sqrt(0.5))
    best = None
    for sign, lift in ((1, 0.0), (-1, 0.85)):
        along, off = x - sign * y, x + sign * y  # along runs (1, -sign) / sqrt 2
        bend = np.float32(0.25) * radius * (dice(column, row, 5 + sign) - 0.5)
        off = off + bend
        over = np.maximum(np.abs(along) - (reach - radius), 0)
        distance = np.sqrt(off * off + over * over)
        body = _round(np.minimum(distance / radius, 1))
        arch = np.maximum(1 - np.square(along / half), 0)
        height = radius * body * (1 + _plies(off / radius, along, width, stitch)) + radius * np.float32(
            lift + 0.35
        ) * arch * (body > 0)
        cover = np.clip(radius - distance + np.float32(0.5), 0, 1)
        tx, ty = root * (f.tx + sign * f.ty), root * (f.ty - sign * f.tx)
        tint = _tint(dice, column, row + 7919 * sign, stitch)
        if best is None:
            best = [height, cover, tx, ty, tint]
        else:
            top = height > best[0]
            best = [np.where(top, height, best[0]), np.maximum(cover, best[1])] + [
                np.where(top, now, old) for now, old in zip((tx, ty, tint), best[2:], strict=True)
            ]
    height, cover, tx, ty, tint = best
    return Threads(height, tx, ty, tint, cover, column * np.int32(31) + row)


def chain(f: ThreadFrame, stitch: Stitch, width: float, length: float, dice: Dice) -> Threads:
    """Rows of teardrop loops; each begins inside the round end of the one before and lies over it."""
    pitch = 2.8 * width / stitch.density
    row, across = _split(f.v / pitch)
    off = (across - np.float32(0.5)) * pitch
    part, s = _split(f.u / length + dice(row, f.label, 1))
    total, bulge = 1.3 * length, 0.5 * pitch - 0.5 * width
    grid = np.linspace(0, 1, 257)
    shape = bulge * np.sin(np.pi * grid**1.25) ** 0.75
    slope = np.gradient(shape, total / 256)
    cosine = (1 / np.sqrt(1 + slope**2)).astype(np.float32)
    sine = (slope * cosine).astype(np.float32)
    shape = shape.astype(np.float32)
    radius = np.float32(0.5 * width)
    side = np.sign(off)
    height = np.zeros_like(s)
    tx, ty, cover = f.tx.copy(), f.ty.copy(), np.zeros_like(s)
    loop = part.copy()
    for back in (1, 0):  # the loop before, then the one on top
        x = s + np.float32(back)
        index = np.minimum(x * np.float32(256 * length / total), 256).astype(np.int32)
        c, q = cosine.take(index), sine.take(index)
        distance = np.abs(np.abs(off) - shape.take(index)) * np.maximum(c, np.float32(0.35))
        past = np.maximum(x * np.float32(length) - np.float32(total - 0.2 * width), 0)
        distance = np.sqrt(distance * distance + past * past)
        a = distance / radius
        body = _round(np.minimum(a, 1))
        rise = np.float32(0.75) * np.maximum(1 - x * np.float32(1.1 * length / total), 0) + np.float32(0.25)
        new = radius * (body * (1 + _plies(a, x * np.float32(length), width, stitch)) + rise * (body > 0))
        top = new > height
        if back:
            top = body > 0
        height = np.where(top, new, height)
        px, py = c, side * q
        tx = np.where(top, f.tx * px - f.ty * py, tx)
        ty = np.where(top, f.ty * px + f.tx * py, ty)
        cover = np.maximum(cover, np.clip(radius - distance + np.float32(0.5), 0, 1))
        loop = np.where(top, part - np.int32(back), loop)
    return Threads(height, tx, ty, _tint(dice, row, loop, stitch), cover, row)


def knot(f: ThreadFrame, stitch: Stitch, width: float, length: float, dice: Dice) -> Threads:
    """French knots packed on a jittered hexagonal grid: a little dome of thread wound round itself."""
    size = length / stitch.density
    radius = np.float32(0.56 * size)
    row0 = np.floor(f.v / np.float32(0.87 * size)).astype(np.int32)
    nearest = np.full_like(f.u, 1e9)
    dx, dy, name_r, name_c = np.zeros_like(f.u), np.zeros_like(f.u), np.zeros_like(row0), np.zeros_like(row0)
    for step in (-1, 0, 1):
        row = row0 + np.int32(step)
        shift = (row & 1) * np.float32(0.5)
        column = np.floor(f.u / np.float32(size) - shift).astype(np.int32)
        jx, jy = dice(row, column, 21) - np.float32(0.5), dice(row, column, 22) - np.float32(0.5)
        x = f.u - (column + shift + np.float32(0.5) + np.float32(0.24) * jx) * np.float32(size)
        y = f.v - (row + np.float32(0.5) + np.float32(0.24) * jy) * np.float32(0.87 * size)
        d = x * x + y * y
        closer = d < nearest
        nearest = np.where(closer, d, nearest)
        dx, dy = np.where(closer, x, dx), np.where(closer, y, dy)
        name_r, name_c = np.where(closer, row, name_r), np.where(closer, column, name_c)
    scale = 0.9 + 0.2 * dice(name_r, name_c, 23)
    r = np.sqrt(nearest) / (radius * scale)
    turn = np.arctan2(dy, dx) * np.float32(1 / (2 * np.pi)) + dice(name_r, name_c, 24)
    coils = np.float32(np.clip(radius / width, 1.2, 3))
    _, t = _split(r * coils - turn)
    strand = _round(2 * t - 1)
    dome = _round(np.minimum(r, 1))
    inside = np.minimum(r, 1)
    height = (
        radius
        * (0.85 * dome + 0.55 / coils * strand * (0.35 + 0.65 * dome) - 0.3 * np.exp(-np.square(r / 0.22)))
        * (r < 1)
    )
    radial = 1 / np.maximum(np.sqrt(nearest), np.float32(0.5))
    cx, cy = -dy * radial, dx * radial
    tx, ty = f.tx * cx - f.ty * cy, f.ty * cx + f.tx * cy
    cover = np.clip((1 - r) * radius + np.float32(0.5), 0, 1)
    tint = _tint(dice, name_r, name_c, stitch) * (1 - np.float32(0.12) * inside * inside)
    return Threads(height, tx, ty, tint, cover, name_r * np.int32(37) + name_c)


def chenille(f: ThreadFrame, stitch: Stitch, width: float, length: float, dice: Dice) -> Threads:
    """Thick cords of close loops, soft and fuzzy."""
    pitch = width / stitch.density
    fuzz = dice.fuzz(f.x, f.y)
    row, across = _split(f.v / pitch + np.float32(0.03 * stitch.pile) * fuzz)
    a = 2 * across - 1
    cord = _round(a)
    step = max(0.25 * length, 2.0)
    bow = np.float32(0.9) * (1 - cord)
    lean = np.float32(0.35) * a
    loop, s = _split(
        f.u / np.float32(step) + bow + lean + dice(row, f.label, 1) + np.float32(0.05 * stitch.pile) * fuzz
    )
    c = 2 * s - 1
    lift = dice(row, loop, 2)
    height = 0.5 * pitch * cord * (0.82 + 0.18 * lift) + np.float32(0.55 * step) * _round(c) * (0.5 + 0.5 * cord)
    height += np.float32(0.5 * stitch.pile * min(0.05 * width, 1)) * fuzz
    bend = a * np.float32(0.8)
    norm = 1 / np.sqrt(1 + bend * bend)
    px, py = -bend * norm, norm  # loops lie across the cord
    tx, ty = f.tx * px - f.ty * py, f.ty * px + f.tx * py
    tint = _tint(dice, row, loop, stitch) * (
        np.float32(0.72) + np.float32(0.34) * _round(c) + np.float32(0.035 * stitch.pile) * fuzz
    )
    return Threads(height, tx, ty, tint, np.ones_like(a), row)


def sequin(f: ThreadFrame, stitch: Stitch, width: float, length: float, dice: Dice) -> Threads:
    """Shiny discs sewn in rows that overlap like scales, each with a hole and its own small tilt."""
    radius = np.float32(0.5 * length)
    spacing, rise = np.float32(0.94 * length / stitch.density), np.float32(0.62 * length / stitch.density)
    row0 = np.floor(f.v / rise).astype(np.int32)
    height, tint = np.zeros_like(f.u), np.ones_like(f.u)
    shine, cover = np.zeros_like(f.u), np.zeros_like(f.u)
    thread = np.zeros_like(row0)
    for step in (-1, 0, 1):  # later rows lie on top
        row = row0 + np.int32(step)
        shift = (row & 1) * np.float32(0.5)
        column = np.floor(f.u / spacing - shift).astype(np.int32)
        x = (
            f.u
            - (column + shift + np.float32(0.5)) * spacing
            + (dice(row, column, 31) - np.float32(0.5)) * (0.1 * radius)
        )
        y = f.v - (row + np.float32(0.5)) * rise + (dice(row, column, 32) - np.float32(0.5)) * (0.1 * radius)
        r = np.sqrt(x * x + y * y) / radius
        on = r < 1
        lean_x, lean_y = dice(row, column, 33) - np.float32(0.5), dice(row, column, 34) - np.float32(0.5)
        hole = np.float32(1) - np.clip((np.float32(0.17) - r) * radius + np.float32(0.5), 0, 1)
        rim = np.clip((r - np.float32(0.84)) * 8, 0, 1)
        surface = radius * np.float32(0.42) + np.float32(0.26) * y + np.float32(0.5) * (lean_x * x + lean_y * y)
        surface = surface + radius * (
            np.float32(0.13) * r * r - np.float32(0.05) * rim * rim - np.float32(0.25) * (1 - hole)
        )
        height = np.where(on, np.maximum(surface, 0.1), height)
        new_tint = _tint(dice, row, column, stitch) * (np.float32(0.3) + np.float32(0.7) * hole)
        tint = np.where(on, new_tint, tint)
        shine = np.where(on, hole, shine)
        cover = np.maximum(cover, np.clip((1 - r) * radius + np.float32(0.5), 0, 1))
        thread = np.where(on, row * np.int32(37) + column, thread)
    return Threads(height, f.tx, f.ty, tint, cover, thread, shine)


def seed(f: ThreadFrame, stitch: Stitch, width: float, length: float, dice: Dice) -> Threads:
    """Short stitches of two strands side by side, scattered, each lying its own way."""
    radius = np.float32(0.5 * width)
    cell = np.float32(0.66 * length / stitch.density)
    half = np.float32(max(min(0.5 * length, 0.8 * cell - width), 0.5 * width))  # 0.8: the reach seen from four cells
    column0 = np.floor(f.u / cell - np.float32(0.5)).astype(np.int32)
    row0 = np.floor(f.v / cell - np.float32(0.5)).astype(np.int32)

    def lies(row: np.ndarray, column: np.ndarray) -> tuple[np.ndarray, ...]:
        """A cell's stitch as seen from the pixels: px from its middle, its direction, px along, px to its strands."""
        name = row * np.int32(37) + column
        x = f.u - (column.astype(np.float32) + np.float32(0.3) + np.float32(0.4) * dice(name, 0, 51)) * cell
        y = f.v - (row.astype(np.float32) + np.float32(0.3) + np.float32(0.4) * dice(name, 0, 52)) * cell
        turn = np.float32(np.pi) * dice(name, 0, 53)
        c, q = np.cos(turn), np.sin(turn)
        along, strand = x * c + y * q, np.abs(y * c - x * q) - np.float32(0.9) * radius
        over = np.maximum(np.abs(along) - (half - np.float32(0.7) * radius), 0)
        return x, y, c, q, along, strand, np.sqrt(strand * strand + over * over), name

    lowest, which = np.full_like(f.u, 1e9), np.zeros_like(row0)
    for cell_number in range(4):
        *_, distance, name = lies(row0 + np.int32(cell_number >> 1), column0 + np.int32(cell_number & 1))
        distance -= radius * dice(name, 0, 54) * (distance < radius)  # of two that cross, one lies on top
        which[distance < lowest] = cell_number
        np.minimum(lowest, distance, out=lowest)
    x, y, c, q, along, strand, distance, name = lies(row0 + (which >> 1), column0 + (which & 1))
    body = _round(np.minimum(distance / radius, 1))
    lift = np.float32(0.25) + np.float32(0.5) * dice(name, 0, 54)
    arch = np.maximum(1 - np.square(along / half), 0) * lift + lift
    height = radius * (body * (1 + _plies(strand / radius, along, width, stitch)) + arch * (body > 0))
    cover = np.clip(radius - distance + np.float32(0.5), 0, 1)
    tx, ty = f.tx * c - f.ty * q, f.ty * c + f.tx * q
    return Threads(height, tx, ty, _tint(dice, name, 0, stitch), cover, name, centre=(-x, -y))


def bead(f: ThreadFrame, stitch: Stitch, width: float, length: float, dice: Dice) -> Threads:
    """Glass beads strung in rows: round where as long as wide, bugles where longer; each sits a little askew."""
    pitch, spacing = np.float32(width / stitch.density), np.float32(1.04 * length)
    row, across = _split(f.v / pitch)
    part, s = _split(f.u / spacing + dice(row, f.label, 1))
    x, y = (s - np.float32(0.5)) * spacing, (across - np.float32(0.5)) * pitch
    scale = np.float32(0.9) + np.float32(0.1) * dice(row, part, 61)
    middle = np.float32(0.07 * width) * (dice(row, part, 62) - np.float32(0.5))
    askew = np.float32(0.16 * min(1, width / length))
    y = y - middle + askew * (dice(row, part, 63) - np.float32(0.5)) * x
    radius, half = np.float32(0.5 * width) * scale, np.float32(0.5 * length) * scale
    cap = np.minimum(np.float32(0.95) * half, radius * np.clip(1 - np.float32(0.2) * half / radius, 0.35, 0.85))
    over = np.maximum(np.abs(x) - half + cap, 0) / cap
    a = y / radius
    r = a * a + over * over
    dome = np.sqrt(np.maximum(1 - r, 0))
    height = radius * (np.float32(0.3) + np.float32(0.85) * dome) * (r < 1)
    # glass: the wall is seen through at the rim, the hole as a darker line along the middle
    core = np.exp(-np.square(a * np.float32(1 / 0.2))) * (1 - over)
    tint = _tint(dice, row, part, stitch) * (np.float32(0.8) + np.float32(0.4) * dome - np.float32(0.16) * core)
    cover = np.clip((1 - np.sqrt(r)) * np.minimum(radius, cap) + np.float32(0.5), 0, 1)
    shine = np.float32(1.7) * (r < 1)
    return Threads(height, f.tx, f.ty, tint, cover, row * np.int32(37) + part, shine, centre=(-x, -y))


def longshort(f: ThreadFrame, stitch: Stitch, width: float, length: float, dice: Dice) -> Threads:
    """Shading in silk: long stitches of unequal length that grow out of each other without a seam, in flowing tones."""
    pitch = width / stitch.density
    sway = np.sin(PI2 / (26 * width) * f.u + np.float32(0.37 / pitch) * f.v)
    sway += np.sin(PI2 / (15 * width) * f.u - np.float32(0.71 / pitch) * f.v)
    row, across = _split(f.v / pitch + np.float32(0.17) * sway)
    a = 2 * across - 1
    start = np.float32(7) * dice(row, f.label, 1)
    place = f.u / np.float32(length) + start
    part = np.floor(place).astype(np.int32)
    whole = part.astype(np.float32)
    ends = [whole + np.float32(k - 0.42) + np.float32(0.84) * dice(row, part + np.int32(k), 71) for k in (-1, 0, 1, 2)]
    before, after = place < ends[1], place >= ends[2]
    first = np.where(before, ends[0], np.where(after, ends[2], ends[1]))
    last = np.where(before, ends[1], np.where(after, ends[3], ends[2]))
    part = part - before.astype(np.int32) + after.astype(np.int32)
    rising, falling = (np.clip(g * np.float32(length / width), 0, None) for g in (place - first, last - place))
    point = np.minimum(rising / np.float32(0.8), 1)  # comes up through the stitch before
    tail = np.minimum(falling / np.float32(3.5), 1)  # and tapers into the next
    body = _round(np.minimum(np.abs(a) / (np.float32(0.5) + np.float32(0.5) * tail), 1))
    bow = (np.float32(0.6) + np.float32(0.4) * np.sqrt(point)) * (np.float32(0.75) + np.float32(0.25) * tail)
    lift = np.float32(0.22) * (dice(row, part, 2) - np.float32(0.5))
    height = 0.5 * width * (0.85 * body * bow + _plies(a, f.u, width, stitch) + lift + np.float32(0.5))
    middle = (np.float32(0.5) * (first + last) - start) * np.float32(PI2 / 4.6)
    flow = np.cos(middle + np.float32(6.3) * dice(f.label, 0, 72))
    tint = _tint(dice, row, part, stitch) + np.float32(0.5 * stitch.colour_variation) * flow
    return Threads(height, f.tx, f.ty, tint, np.ones_like(a), row * np.int32(31) + part)


def cord(f: ThreadFrame, stitch: Stitch, width: float, length: float, dice: Dice) -> Threads:
    """Goldwork: a twisted metal cord laid along rows and held down by small stitches of sewing thread across it."""
    pitch, radius = np.float32(width / stitch.density), np.float32(0.5 * width)
    row, across = _split(f.v / pitch)
    off = (across - np.float32(0.5)) * pitch
    shift = (row & 1).astype(np.float32) * np.float32(0.5) + np.float32(0.12) * dice(row, f.label, 1)
    part, s = _split(f.u / np.float32(length) + shift)
    thin = np.float32(max(0.13 * width, 0.8))  # half the sewing thread
    t = (s - np.float32(0.5)) * np.float32(length) + np.float32(0.3) * off
    pull = np.exp(-np.square(t / (2 * thin)))
    a = np.clip(off / radius * (1 + np.float32(0.14) * pull), -1, 1)
    dome = _round(a)
    helix = f.u / np.float32(0.5 * width) + np.float32(0.62) * np.arcsin(a) + dice(row, f.label, 2)
    ply, q = _split(helix)
    strand = _round(2 * q - 1)
    deep = np.float32(0.16 + 0.3 * stitch.twist)
    height = radius * (dome * (np.float32(0.8) - deep + deep * strand) - np.float32(0.16) * pull * dome)
    lean = np.float32(0.62)  # the plies' slope
    c, q = np.float32(1 / np.sqrt(1 + 0.62**2)), lean * np.float32(1 / np.sqrt(1 + 0.62**2))
    tx, ty = f.tx * c + f.ty * q, f.ty * c - f.tx * q
    cover = np.clip(radius - np.abs(off) + np.float32(0.5), 0, 1)
    tint = _tint(dice, row, ply, stitch) * (np.float32(0.78) + np.float32(0.27) * strand)
    over = np.abs(t) < thin
    held = radius * np.float32(0.62) * _round(np.clip(off / (np.float32(1.1) * radius), -1, 1))
    held += thin * (np.float32(0.2) + _round(np.minimum(np.abs(t) / thin, 1)))
    height = np.where(over, held, height)
    tx, ty = np.where(over, -f.ty, tx), np.where(over, f.tx, ty)
    tint = np.where(over, _tint(dice, row, part, stitch) * np.float32(0.6), tint)
    metal = ~over * np.float32(0.5)
    fibre = np.where(over, np.float32(0.3), np.float32(0.9))
    return Threads(height, tx, ty, tint, cover, row, metal, fibre)


def sashiko(f: ThreadFrame, stitch: Stitch, width: float, length: float, dice: Dice) -> Threads:
    """Running stitches along both ways of a grid, every other one on the right side: steps, crosses and flowers of
    which the cloth is the ground. The rows' phases mirror each other every six, so that the pattern repeats."""
    mesh, radius = np.float32(1.12 * length / stitch.density), np.float32(0.5 * width)
    half = np.float32(0.5 * min(length, mesh)) - np.float32(0.1) * radius
    best = None
    for turn, (along, across) in enumerate(((f.u, f.v), (f.v, f.u))):
        wire, off = _split(across / mesh + np.float32(0.5))
        part, s = _split(along / mesh)
        mirrored = np.abs((wire % 6) - np.int32(3))
        phase = (dice(mirrored, turn, 81) > np.float32(0.5)).astype(np.int32)
        shown = ((part + phase) & 1) == 0
        drift = np.float32(0.14) * (dice(wire, part, 82 + turn) - np.float32(0.5))
        off = (off - np.float32(0.5)) * mesh + drift * radius
        x = (s - np.float32(0.5)) * mesh
        over = np.maximum(np.abs(x) - (half - radius), 0)
        distance = np.sqrt(off * off + over * over)
        body = _round(np.minimum(distance / radius, 1)) * shown
        arch = np.maximum(1 - np.square(x / half), 0)
        height = radius * (body * (1.1 + _plies(off / radius, x, width, stitch)) + np.float32(0.5) * arch * (body > 0))
        cover = np.clip(radius - distance + np.float32(0.5), 0, 1) * shown
        tx, ty = (f.tx, f.ty) if turn == 0 else (-f.ty, f.tx)
        now = [height, tx, ty, _tint(dice, wire, part * np.int32(2) + np.int32(turn), stitch), cover]
        if best is None:
            best, name = now, wire
        else:
            top = cover > best[4]
            best = [np.where(top, new, old) for new, old in zip(now, best, strict=True)]
            name = np.where(top, wire + np.int32(4096), name)
    return Threads(*best, name)


def stem(f: ThreadFrame, stitch: Stitch, width: float, length: float, dice: Dice) -> Threads:
    """Rows like rope: each stitch begins beside the middle of the one before and crosses the row on a slant."""
    pitch, radius = np.float32(1.2 * width / stitch.density), np.float32(0.5 * width)
    row, across = _split(f.v / pitch)
    off = (across - np.float32(0.5)) * pitch
    part, s = _split(f.u / np.float32(0.5 * length) + np.float32(7) * dice(row, f.label, 1))
    lean = np.float32(0.6 * width)
    c = np.float32(1 / np.hypot(1, lean / length))
    q = np.float32(lean / length) * c
    height, cover, tint, name = np.zeros_like(s), np.zeros_like(s), np.ones_like(s), part
    for back in (1, 0):
        t = (s + np.float32(back)) * np.float32(0.5)  # 0 to 1 along the stitch
        x = (t - np.float32(0.5)) * np.float32(length)
        y = (off - (t - np.float32(0.5)) * lean) * c
        over = np.maximum(np.abs(x) - np.float32(max(0.5 * length - 0.7 * radius, 0.2 * length)), 0)
        distance = np.sqrt(y * y + over * over)
        body = _round(np.minimum(distance / radius, 1))
        arch = 1 - np.square(2 * t - 1)
        this = part - np.int32(back)
        new = radius * (
            body * (np.float32(0.85) + _plies(y / radius, x, width, stitch))
            + (np.float32(0.75) * arch + np.float32(0.2) * t) * (body > 0)
        )
        top = new > height
        height, name = np.where(top, new, height), np.where(top, this, name)
        tint = np.where(top, _tint(dice, row, this, stitch), tint)
        cover = np.maximum(cover, np.clip(radius - distance + np.float32(0.5), 0, 1))
    return Threads(height, f.tx * c - f.ty * q, f.ty * c + f.tx * q, tint, cover, row)


def line(f: ThreadFrame, stitch: Stitch, width: float, length: float, dice: Dice) -> Threads:
    """A line too narrow for the family: slanted stitches laid along it. `f.v` is 0 at its edge, 1 in its middle."""
    a = 1 - np.minimum(f.v, 1)
    part, s = _split(f.u / np.float32(1.5 * width) + np.float32(0.4) * f.v)
    notch = np.sqrt(np.minimum(np.minimum(s, 1 - s) * 5, 1))
    height = 0.5 * width * _round(a) * (0.6 + 0.4 * notch)
    return Threads(height, f.tx, f.ty, _tint(dice, part, f.label, stitch), np.ones_like(a), part)


DRAW = {"satin": satin, "tatami": tatami, "cross": cross, "chain": chain, "running": running, "knot": knot,
        "chenille": chenille, "sequin": sequin, "seed": seed, "bead": bead, "longshort": longshort, "cord": cord,
        "sashiko": sashiko, "stem": stem, "line": line}  # fmt: skip


def row_pitch(stitch: Stitch, width: float, length: float) -> float:
    """Distance of two rows in px, for fields that follow the outline."""
    if stitch.family in ("chain", "stem"):
        return (2.8 if stitch.family == "chain" else 1.2) * width / stitch.density
    if stitch.family in ("knot", "sequin"):
        return 0.87 * length / stitch.density
    return length if stitch.family == "cross" else width / stitch.density

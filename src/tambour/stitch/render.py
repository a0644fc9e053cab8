"""Design + stitch + fabric + light -> a lit picture with its height map."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import cv2
import numpy as np
from PIL import Image

from tambour.errors import InputError
from tambour.stitch import frames
from tambour.stitch.fabric import fabric_surface
from tambour.stitch.families import DRAW, Dice, row_pitch
from tambour.stitch.parameters import Fabric, Light, Stitch
from tambour.stitch.regions import Regions, find_regions

KNEE = np.float32(0.82)  # display level from which highlights are compressed
CHUNK = 1 << 15  # pixels evaluated at once: temporaries stay in the cache


@dataclass(frozen=True)
class Rendered:
    """image: RGB; height: (H, W) float32 px above the fabric; mask: (H, W) bool, stitched; labels: (H, W) int32 regions, 0 fabric."""

    image: Image.Image
    height: np.ndarray
    mask: np.ndarray
    labels: np.ndarray


@dataclass
class _Surface:
    """What the light needs, all (H, W) float32."""

    height: np.ndarray
    tx: np.ndarray
    ty: np.ndarray
    tint: np.ndarray
    cover: np.ndarray
    fibre: np.ndarray  # strength of the fibre highlight
    shine: np.ndarray  # strength of the mirror highlight


def render(
    design: Image.Image,
    stitch: Stitch,
    fabric: Fabric | None = None,
    *,
    light: Light | None = None,
    seed: int = 0,
    px_per_mm: float = 20.0,
    background: str = "auto",
    region_overrides: Mapping[int, Stitch] | None = None,
) -> Rendered:
    """Embroider a flat design.

    Args:
        design: RGB or RGBA, flat colours. Transparent parts are bare fabric.
        stitch, fabric, light: what it is made of; fabric None is a weak weave in the design's own background colour.
        seed: the same seed gives the same picture, bit for bit.
        px_per_mm: scale; a thread of 0.5 mm is 10 px wide at 20.
        background: "auto": a border of one colour is bare fabric; "stitch": an opaque design is stitched everywhere.
        region_overrides: another stitch for single regions, by their number in `Rendered.labels`.
    Raises:
        InputError: scale or background out of range.
    """
    if not 0.5 <= px_per_mm <= 400:
        raise InputError(f"px_per_mm {px_per_mm!r} is out of range.", "Give 0.5 to 400 pixels a millimetre.")
    if background not in ("auto", "stitch"):
        raise InputError(f"Background {background!r} is not known.", "Choose auto or stitch.")
    fabric, light = fabric or Fabric(), light or Light()
    if design.mode not in ("RGB", "RGBA"):
        design = design.convert("RGBA" if "transparency" in design.info or design.mode in ("LA", "PA") else "RGB")
    regions = find_regions(np.asarray(design), background, speck=0.08 * min(px_per_mm, 28) ** 2)
    rng = np.random.default_rng([seed, 0x5717C4])
    surface = _cloth(fabric, regions, px_per_mm, rng)
    tone = surface.tint
    dice = Dice(rng)
    _stitch_regions(surface, regions, stitch, dict(region_overrides or {}), px_per_mm, dice)
    cloth = np.asarray(fabric.colour, np.float32) / 255 if fabric.colour else regions.colours[0]
    image = _light(surface, tone, regions, cloth, light, stitch)
    return Rendered(Image.fromarray(image), surface.height, regions.labels > 0, regions.labels)


def _cloth(fabric: Fabric, regions: Regions, px_per_mm: float, rng: np.random.Generator) -> _Surface:
    shape = regions.labels.shape
    relief, tone = fabric_surface(fabric, shape, px_per_mm, rng)
    zero = np.zeros(shape, np.float32)
    return _Surface(relief, zero + 1, zero.copy(), tone, zero.copy(), zero.copy(), zero.copy())


def _stitch_regions(surface: _Surface, regions: Regions, stitch: Stitch, overrides: dict[int, Stitch], px_per_mm: float, dice: Dice) -> None:
    """Run one pass per different stitch (and one for its borders) and write the threads over the cloth."""
    labels, count = regions.labels, len(regions.colours)
    depth = frames.edge_distance(labels)
    # a strip of breadth b has a mean depth of b / 4
    breadth = 4 * np.bincount(labels.ravel(), weights=depth.ravel(), minlength=count) / np.maximum(np.bincount(labels.ravel(), minlength=count), 1)
    by_stitch: dict[Stitch, list[int]] = {}
    lines: list[int] = []
    for label in range(1, count):
        if breadth[label] < 1.1 * min(overrides.get(label, stitch).thread_width, 0.6) * px_per_mm:
            lines.append(label)
            continue
        by_stitch.setdefault(overrides.get(label, stitch), []).append(label)
    if lines:
        narrow = np.zeros(count, bool)
        narrow[lines] = True
        where = np.flatnonzero(narrow[labels])
        frame = frames.following(labels, depth, where, frames.trace_contours(np.where(narrow[labels], labels, 0), count), 1e6)
        half = np.maximum(breadth / 2, 1).astype(np.float32)
        frame = replace(frame, v=(frame.v + np.float32(0.5)) / half[frame.label])
        plain = replace(stitch, sheen=min(stitch.sheen, 0.5))
        _sew(surface, where, frame, labels, plain, "stem", max(float(2 * half[lines].mean()), 2.0), 1.0, dice)
    contours = None
    if any(s.border or s.angle_field == "contour" for s in by_stitch):
        contours = frames.trace_contours(labels, count)
    axes = frames.principal_angles(labels, count) if any(s.angle_field == "axis" for s in by_stitch) else None
    for kind, members in by_stitch.items():
        if len(by_stitch) == 1 and not lines:
            where = np.flatnonzero(labels)
        else:
            chosen = np.zeros(count, bool)
            chosen[members] = True
            where = np.flatnonzero(chosen[labels])
        width, length = kind.thread_width * px_per_mm, kind.stitch_length * px_per_mm
        width = max(width, 1.0)
        length = max(length, width)
        rim = np.zeros(0, np.intp)
        if kind.border:
            edge = max(3.6 * width, 6.0) if kind.family != "chenille" else 0.8 * width
            band = contours.depth.ravel()[where] < edge
            rim, where = where[band], where[~band]
        if kind.angle_field == "contour":
            frame = frames.following(labels, depth, where, contours, row_pitch(kind, width, length))
        else:
            angles = np.full(count, kind.angle) if kind.angle_field == "constant" else axes + 90 + kind.angle
            frame = frames.straight(labels, depth, where, angles)
        _sew(surface, where, frame, labels, kind, kind.family, width, length, dice)
        if len(rim):
            satin_width = 0.5 * px_per_mm if kind.family == "chenille" else width
            edging = replace(kind, family="satin", density=1.0, sheen=max(kind.sheen, 0.5), border=False)
            frame = frames.following(labels, depth, rim, contours, 1e6)
            inner = np.minimum(frame.depth, np.maximum(edge - contours.depth.ravel()[rim], 0))
            frame = replace(frame, u=frame.v, v=contours.arc.ravel()[rim], tx=-frame.ty, ty=frame.tx, depth=inner)
            _sew(surface, rim, frame, labels, edging, edging.family, max(satin_width, 1.0), 1e6, dice)


def _sew(surface: _Surface, where: np.ndarray, frame: frames.Frame, labels: np.ndarray, stitch: Stitch, geometry: str, width: float, length: float, dice: Dice) -> None:
    """Evaluate the family chunk by chunk and write the result into the surface."""
    flat = {name: getattr(surface, name).ravel() for name in surface.__dataclass_fields__}
    draw = DRAW[geometry]
    serration = np.float32(min(0.22 * width, 2.2))
    rows, columns = labels.shape
    for start in range(0, len(where), CHUNK):
        span = slice(start, start + CHUNK)
        part, place = frame.part(span), where[span]
        threads = draw(part, stitch, width, length, dice)
        # thread ends at the region's edge: each one a little shorter or longer than the next
        near = np.flatnonzero(part.depth < serration + 1.5)
        if len(near):
            short = serration * dice(threads.thread[near], part.label[near], 41)
            dx, dy = part.tx[near] * short, part.ty[near] * short
            x, y = part.x[near], part.y[near]
            lost = np.zeros(len(near), bool)
            for sign in (1, -1):
                column = np.clip(np.rint(x + sign * dx), 0, columns - 1).astype(np.intp)
                row = np.clip(np.rint(y + sign * dy), 0, rows - 1).astype(np.intp)
                lost |= labels[row, column] != part.label[near]
            threads.height[near] *= np.where(lost, 0.35, 1)
            bare = lost & (part.depth[near] < serration)
            threads.tint[near] *= np.where(bare, 0.8, 1)
        if stitch.pile > 0 and stitch.family != "chenille":
            threads.height += np.float32(0.02 * stitch.pile * min(width, 12)) * dice.fuzz(part.x, part.y)
        ease = np.minimum((part.depth + np.float32(0.7)) / np.float32(0.35 * width + 0.7), 1)  # threads come up out of the cloth
        height = threads.height * (np.float32(0.35) + np.float32(0.65) * ease) * np.float32(stitch.relief)
        cover = threads.cover
        flat["height"][place] = height * cover + flat["height"][place] * (1 - cover)
        flat["tx"][place], flat["ty"][place] = threads.tx, threads.ty
        flat["tint"][place] = threads.tint
        flat["cover"][place] = cover
        if threads.shine is None:
            flat["fibre"][place] = np.float32(stitch.sheen) * cover
        else:
            flat["shine"][place] = np.float32(0.3 + 0.7 * stitch.sheen) * threads.shine * cover


def _light(surface: _Surface, tone: np.ndarray, regions: Regions, cloth: np.ndarray, light: Light, stitch: Stitch) -> np.ndarray:
    """Shade the surface: Lambert, Kajiya-Kay fibre highlight, mirror highlight, crevice and cast shadows. (H, W, 3) uint8."""
    height = surface.height
    lx, ly, lz = light.direction()
    gx = cv2.Scharr(height, cv2.CV_32F, 1, 0, scale=1 / 32)
    gy = cv2.Scharr(height, cv2.CV_32F, 0, 1, scale=1 / 32)
    inverse = 1 / np.sqrt(1 + gx * gx + gy * gy)
    lambert = np.maximum((lz - gx * lx - gy * ly) * inverse, 0)
    # fibre highlight: tangent lifted onto the surface, T . H
    slope = gx * surface.tx + gy * surface.ty
    norm = 1 / np.sqrt(1 + slope * slope)
    hx, hy, hz = lx, ly, lz + 1
    scale = 1 / np.sqrt(hx * hx + hy * hy + hz * hz)
    along = (surface.tx * (hx * scale) + surface.ty * (hy * scale) + slope * (hz * scale)) * norm
    fibre = np.square(1 - along * along)
    fibre = np.square(np.square(fibre)) * fibre  # sin^10
    fibre *= surface.fibre * lambert * inverse
    # crevices: lower than the neighbourhood
    reach = 0.5 * max(2.0, float(np.median(height[regions.labels > 0])) if regions.labels.any() else 2.0)
    sigma = float(np.clip(reach, 1.0, 6.0))
    hollow = cv2.GaussianBlur(height, (0, 0), sigma) - height
    open_sky = np.clip(1 - hollow * np.float32(0.55 / sigma), np.float32(0.4), np.float32(1.12))
    # cast shadow: march towards the lamp
    shadow = np.zeros_like(height)
    rise = lz / np.hypot(lx, ly)
    for step in (1.5, 3.0, 5.0, 8.0):
        shift = np.float32([[1, 0, -lx / np.hypot(lx, ly) * step], [0, 1, -ly / np.hypot(lx, ly) * step]])
        moved = cv2.warpAffine(height, shift, height.shape[::-1], flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        np.maximum(shadow, moved - height - np.float32(step * rise * 0.8), out=shadow)
    lit = 1 - np.float32(0.55) * np.minimum(shadow * np.float32(0.5), 1)
    direct = (1 - light.ambient) / lz
    shade = (light.ambient + np.float32(direct) * lambert * lit) * open_sky
    spec = np.float32(0.75) * fibre * lit * open_sky
    if surface.shine.any():
        mirror = np.maximum((hz - gx * hx - gy * hy) * inverse * scale, 0)
        broad = np.square(np.square(np.square(mirror)))  # power 8
        sharp = np.square(np.square(np.square(broad)))  # power 64
        spec += (np.float32(0.35) * broad + np.float32(0.9) * sharp) * surface.shine * lit
    labels, colours = regions.labels, regions.colours
    image = colours[labels]
    cover = surface.cover[..., None]
    ground = np.where((labels > 0)[..., None], cloth + (image - cloth) * np.float32(0.65), cloth) * tone[..., None]
    image *= surface.tint[..., None]
    glow = image * np.float32(0.7) + np.float32(0.3)
    image = (ground + (image - ground) * cover) * shade[..., None] + glow * spec[..., None]
    for _ in range(2):
        image *= _gain(image, labels, colours, cloth, surface.cover)
        over = np.maximum(image - KNEE, 0)  # bright colours keep their shading: highlights approach white without reaching it
        image = np.minimum(image, KNEE) + over / (1 + over * np.float32(0.7 / (1 - KNEE)))
    return np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)


def _gain(image: np.ndarray, labels: np.ndarray, colours: np.ndarray, cloth: np.ndarray, cover: np.ndarray) -> np.ndarray:
    """Factor (H, W, 3) that brings each region's mean back to its colour."""
    flat, weight = labels.ravel(), np.where(labels > 0, cover, 1).ravel()
    count = len(colours)
    total = np.maximum(np.bincount(flat, weights=weight, minlength=count), 1)
    target = colours * np.minimum(1, np.float32(0.92) / np.maximum(colours.max(1, keepdims=True), 0.01))  # room for highlights
    target[0] = cloth
    gains = np.ones((count, 3), np.float32)
    for channel in range(3):
        mean = np.bincount(flat, weights=weight * image[..., channel].ravel(), minlength=count) / total
        gains[:, channel] = np.clip((target[:, channel] + 0.01) / (mean + 0.01), 0.7, 1.2)
    return gains[labels]

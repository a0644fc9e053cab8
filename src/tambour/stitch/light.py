"""A surface of threads and cloth under one lamp or several -> display colours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from tambour.stitch.parameters import Light

KNEE = np.float32(0.82)  # display level from which highlights are compressed
BRIGHTEST = np.float32(0.92)  # mean display level of white thread: room for its highlights
STRIP = 1 << 15  # pixels shaded at once: temporaries stay in the cache


@dataclass
class Surface:
    """What the light needs, all (H, W) float32.

    height: px above the cloth; tx, ty: unit fibre tangent; tint: brightness factor of the thread; tone: of the cloth;
    cover: 0 cloth to 1 thread; fibre, shine: strength of the fibre's and of the mirror's highlight;
    colour_phase: -1 to 1, where along its colours a variegated thread is.
    """

    height: np.ndarray
    tx: np.ndarray
    ty: np.ndarray
    tint: np.ndarray
    tone: np.ndarray
    cover: np.ndarray
    fibre: np.ndarray
    shine: np.ndarray
    colour_phase: np.ndarray


@dataclass(frozen=True)
class RegionColours:
    """Colours by region label, (R + 1, 3) float32 in [0, 1], row 0 the bare fabric.

    thread: of the threads; cloth: of the cloth between them, which open stitches give part of the thread's colour so
    that regions keep the design's; variegation: factor added to a variegated thread at the end of its colours.
    """

    thread: np.ndarray
    cloth: np.ndarray
    variegation: np.ndarray


def illuminate(surface: Surface, labels: np.ndarray, colours: RegionColours, lights: Sequence[Light]) -> np.ndarray:
    """Shade the surface: Lambert, fibre highlight after Kajiya and Kay, mirror highlight, crevices and cast shadows.

    Args:
        lights: the first one's `ambient` counts; lamps share the rest by their strength.
    Returns:
        (H, W, 3) uint8 RGB; the mean of every region is near its colour.
    """
    height = surface.height
    gx = cv2.Scharr(height, cv2.CV_32F, 1, 0, scale=1 / 32)
    gy = cv2.Scharr(height, cv2.CV_32F, 0, 1, scale=1 / 32)
    shadows = [_cast_shadow(height, light) for light in lights]
    sigma = _crevice_width(height, labels)
    around = cv2.GaussianBlur(height, (0, 0), sigma)
    glossy, varied = bool(surface.shine.any()), bool(surface.colour_phase.any())
    image = np.empty((*height.shape, 3), np.float32)
    rows = max(1, STRIP // height.shape[1])
    strips = [np.s_[top : top + rows] for top in range(0, height.shape[0], rows)]
    for strip in strips:
        part = Surface(*(getattr(surface, name)[strip] for name in Surface.__dataclass_fields__))
        lamps = [(light, shadow[strip]) for light, shadow in zip(lights, shadows, strict=True)]
        shade, spec = _shade(part, gx[strip], gy[strip], around[strip], lamps, sigma, glossy)
        image[strip] = _paint(part, labels[strip], colours, shade, spec, varied)
    for _ in range(2):
        gains = _gains(image, labels, colours, surface.cover)
        for strip in strips:
            lit = image[strip]
            lit *= gains.take(labels[strip], 0)
            over = np.maximum(lit - KNEE, 0)  # highlights approach white without reaching it
            np.minimum(lit, KNEE, out=lit)
            lit += over / (1 + over * np.float32(0.7 / (1 - KNEE)))
    return cv2.convertScaleAbs(image, alpha=255)


def _cast_shadow(height: np.ndarray, light: Light) -> np.ndarray:
    """(H, W) px by which the surface between a pixel and the lamp stands above the ray, the largest of four samples."""
    lx, ly, lz = light.direction()
    flat = max(np.hypot(lx, ly), 1e-6)
    shadow = np.zeros_like(height)
    for step in (1.5, 3.0, 5.0, 8.0):
        shift = np.float32([[1, 0, -lx / flat * step], [0, 1, -ly / flat * step]])
        moved = cv2.warpAffine(height, shift, height.shape[::-1], borderMode=cv2.BORDER_REPLICATE)
        cv2.subtract(moved, height, dst=moved)
        cv2.subtract(moved, 0.8 * step * lz / flat, dst=moved)
        cv2.max(shadow, moved, dst=shadow)
    return shadow


def _crevice_width(height: np.ndarray, labels: np.ndarray) -> float:
    """Blur in px that tells grooves from ridges: half the usual height of the threads."""
    stitched = height[::2, ::2][labels[::2, ::2] > 0]
    return float(np.clip(0.5 * np.median(stitched), 1.0, 6.0)) if len(stitched) else 1.0


def _shade(
    part: Surface, gx, gy, around, lamps: list[tuple[Light, np.ndarray]], sigma: float, glossy: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Diffuse factor and added highlight of one strip, both (h, W) float32; `lamps`: each with its shadow (h, W)."""
    ambient, total = np.float32(lamps[0][0].ambient), sum(light.strength for light, _ in lamps)
    upright = 1 / np.sqrt(1 + gx * gx + gy * gy)
    slope = gx * part.tx + gy * part.ty  # the tangent lifted onto the surface
    steep = np.sqrt(1 + slope * slope)
    open_sky = np.clip(1 - (around - part.height) * np.float32(0.55 / sigma), np.float32(0.4), np.float32(1.12))
    shade = spec = np.float32(0)
    for light, shadow in lamps:
        lx, ly, lz = (np.float32(value) for value in light.direction())
        half = np.float32([lx, ly, lz + 1]) / np.float32(np.sqrt(lx * lx + ly * ly + (lz + 1) ** 2))
        lambert = np.maximum((lz - gx * lx - gy * ly) * upright, 0)
        along = (part.tx * half[0] + part.ty * half[1] + slope * half[2]) / steep
        sine = np.square(1 - along * along)
        fibre = np.square(np.square(sine)) * sine * part.fibre * lambert * upright  # sin^10
        share = np.float32(light.strength / total)
        lit = share * (1 - np.float32(0.55) * np.minimum(shadow * np.float32(0.5), 1))
        shade = shade + (1 - ambient) / lz * lambert * lit
        spec = spec + np.float32(0.75) * fibre * lit * open_sky
        if glossy:
            mirror = np.maximum((half[2] - gx * half[0] - gy * half[1]) * upright, 0)
            broad = np.square(np.square(np.square(mirror)))  # power 8
            sharp = np.square(np.square(np.square(broad)))  # power 64
            spec += (np.float32(0.35) * broad + np.float32(0.9) * sharp) * part.shine * lit
    return (ambient + shade) * open_sky, spec


def _paint(
    part: Surface, labels: np.ndarray, colours: RegionColours, shade: np.ndarray, spec: np.ndarray, varied: bool
) -> np.ndarray:
    """(h, W, 3) lit colours of one strip."""
    cloth = colours.cloth.take(labels, 0)
    cloth *= part.tone[..., None]
    thread = colours.thread.take(labels, 0)
    thread *= part.tint[..., None]
    if varied:
        thread *= 1 + part.colour_phase[..., None] * colours.variegation.take(labels, 0)
    glow = (thread * np.float32(0.7) + np.float32(0.3)) * spec[..., None]
    thread -= cloth
    thread *= part.cover[..., None]
    thread += cloth
    thread *= shade[..., None]
    thread += glow
    return thread


def _gains(image: np.ndarray, labels: np.ndarray, colours: RegionColours, cover: np.ndarray) -> np.ndarray:
    """(R + 1, 3) factors that bring each region's mean back to its colour; measured on every other pixel when large."""
    stride = 2 if labels.size > 400_000 else 1
    image, labels, cover = (a[::stride, ::stride] for a in (image, labels, cover))
    flat, weight = labels.ravel(), np.where(labels > 0, cover, 1).ravel()
    count = len(colours.thread)
    total = np.maximum(np.bincount(flat, weights=weight, minlength=count), 1)
    brightest = np.maximum(colours.thread.max(1, keepdims=True), 0.01)
    target = colours.thread * np.minimum(1, BRIGHTEST / brightest)
    target[0] = colours.cloth[0]
    means = [np.bincount(flat, weights=weight * image[..., c].ravel(), minlength=count) / total for c in range(3)]
    return np.clip((target + 0.01) / (np.stack(means, 1) + 0.01), 0.7, 1.2).astype(np.float32)

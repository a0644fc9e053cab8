"""A surface of threads and cloth under one lamp -> display colours."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from tambour.stitch.parameters import Light
from tambour.stitch.regions import Regions

KNEE = np.float32(0.82)  # display level from which highlights are compressed
BRIGHTEST = np.float32(0.92)  # mean display level of white thread: room for its highlights
STRIP = 1 << 15  # pixels shaded at once: temporaries stay in the cache


@dataclass
class Surface:
    """What the light needs, all (H, W) float32.

    height: px above the cloth; tx, ty: unit fibre tangent; tint: brightness factor of the thread; tone: of the cloth;
    cover: 0 cloth to 1 thread; fibre, shine: strength of the fibre's and of the mirror's highlight.
    """

    height: np.ndarray
    tx: np.ndarray
    ty: np.ndarray
    tint: np.ndarray
    tone: np.ndarray
    cover: np.ndarray
    fibre: np.ndarray
    shine: np.ndarray


def illuminate(surface: Surface, regions: Regions, cloth: np.ndarray, dye: np.ndarray, light: Light) -> np.ndarray:
    """Shade the surface: Lambert, fibre highlight after Kajiya and Kay, mirror highlight, crevices and cast shadows.

    Args:
        cloth: (3,) float32 colour of the bare fabric in [0, 1].
        dye: (R + 1,) float32 by label: how far the cloth between a region's stitches takes the region's colour, so that
            open stitches keep the design's colours.
    Returns:
        (H, W, 3) uint8 RGB; the mean of every region is near its colour.
    """
    height, labels = surface.height, regions.labels
    gx = cv2.Scharr(height, cv2.CV_32F, 1, 0, scale=1 / 32)
    gy = cv2.Scharr(height, cv2.CV_32F, 0, 1, scale=1 / 32)
    shadow = _cast_shadow(height, light)
    sigma = _crevice_width(height, labels)
    around = cv2.GaussianBlur(height, (0, 0), sigma)
    glossy = bool(surface.shine.any())
    image = np.empty((*height.shape, 3), np.float32)
    ground = cloth + (regions.colours - cloth) * dye[:, None]
    ground[0] = cloth
    rows = max(1, STRIP // height.shape[1])
    strips = [np.s_[top : top + rows] for top in range(0, height.shape[0], rows)]
    for strip in strips:
        part = Surface(*(getattr(surface, name)[strip] for name in Surface.__dataclass_fields__))
        shade, spec = _shade(part, gx[strip], gy[strip], around[strip], shadow[strip], sigma, light, glossy)
        image[strip] = _paint(part, labels[strip], regions.colours, ground, shade, spec)
    for _ in range(2):
        gains = _gains(image, labels, regions.colours, cloth, surface.cover)
        for strip in strips:
            lit = image[strip]
            lit *= gains.take(labels[strip], 0)
            over = np.maximum(
                lit - KNEE, 0
            )  # highlights approach white without reaching it: bright thread keeps its shading
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
    part: Surface, gx, gy, around, shadow, sigma: float, light: Light, glossy: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Diffuse factor and added highlight of one strip, both (h, W) float32."""
    lx, ly, lz = (np.float32(value) for value in light.direction())
    half = np.float32([lx, ly, lz + 1]) / np.float32(np.sqrt(lx * lx + ly * ly + (lz + 1) ** 2))
    upright = 1 / np.sqrt(1 + gx * gx + gy * gy)
    lambert = np.maximum((lz - gx * lx - gy * ly) * upright, 0)
    slope = gx * part.tx + gy * part.ty  # the tangent lifted onto the surface
    along = (part.tx * half[0] + part.ty * half[1] + slope * half[2]) / np.sqrt(1 + slope * slope)
    sine = np.square(1 - along * along)
    fibre = np.square(np.square(sine)) * sine * part.fibre * lambert * upright  # sin^10
    open_sky = np.clip(1 - (around - part.height) * np.float32(0.55 / sigma), np.float32(0.4), np.float32(1.12))
    lit = 1 - np.float32(0.55) * np.minimum(shadow * np.float32(0.5), 1)
    shade = (np.float32(light.ambient) + np.float32(1 - light.ambient) / lz * lambert * lit) * open_sky
    spec = np.float32(0.75) * fibre * lit * open_sky
    if glossy:
        mirror = np.maximum((half[2] - gx * half[0] - gy * half[1]) * upright, 0)
        broad = np.square(np.square(np.square(mirror)))  # power 8
        sharp = np.square(np.square(np.square(broad)))  # power 64
        spec += (np.float32(0.35) * broad + np.float32(0.9) * sharp) * part.shine * lit
    return shade, spec


def _paint(
    part: Surface, labels, colours: np.ndarray, ground: np.ndarray, shade: np.ndarray, spec: np.ndarray
) -> np.ndarray:
    """(h, W, 3) lit colours of one strip; `colours` of the thread and `ground` of the cloth under it, (R + 1, 3)."""
    ground = ground.take(labels, 0)
    ground *= part.tone[..., None]
    thread = colours.take(labels, 0)
    thread *= part.tint[..., None]
    glow = (thread * np.float32(0.7) + np.float32(0.3)) * spec[..., None]
    thread -= ground
    thread *= part.cover[..., None]
    thread += ground
    thread *= shade[..., None]
    thread += glow
    return thread


def _gains(
    image: np.ndarray, labels: np.ndarray, colours: np.ndarray, cloth: np.ndarray, cover: np.ndarray
) -> np.ndarray:
    """(R + 1, 3) factors that bring each region's mean back to its colour; measured on every other pixel when large."""
    stride = 2 if labels.size > 400_000 else 1
    image, labels, cover = (a[::stride, ::stride] for a in (image, labels, cover))
    flat, weight = labels.ravel(), np.where(labels > 0, cover, 1).ravel()
    count = len(colours)
    total = np.maximum(np.bincount(flat, weights=weight, minlength=count), 1)
    target = colours * np.minimum(1, BRIGHTEST / np.maximum(colours.max(1, keepdims=True), 0.01))
    target[0] = cloth
    means = [np.bincount(flat, weights=weight * image[..., c].ravel(), minlength=count) / total for c in range(3)]
    return np.clip((target + 0.01) / (np.stack(means, 1) + 0.01), 0.7, 1.2).astype(np.float32)

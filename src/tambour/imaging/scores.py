"""Scores of a result: texture against the photo, borders and colours against the design."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image

from tambour.imaging.colour import ciede2000, rgb_to_lab
from tambour.imaging.contrast import rgb_array
from tambour.imaging.texture import texture_distance, texture_statistics

_STYLE_SCALE, _COLOUR_SCALE = 0.7, 12.0  # texture distance and CIEDE2000 at which a score falls to 1/e
HFRD_CUTOFF = 0.1  # cycles/px: "high frequency" is every period under 10 px


def _high_frequency_ratio(image: np.ndarray) -> float:
    """Share of the lightness variance above HFRD_CUTOFF cycles/px (Hann window), in [0, 1]."""
    light = rgb_to_lab(rgb_array(image))[..., 0]
    window = np.outer(np.hanning(light.shape[0] + 2)[1:-1], np.hanning(light.shape[1] + 2)[1:-1])
    light = (light - (light * window).sum() / window.sum()) * window
    power = np.abs(np.fft.rfft2(light)) ** 2
    power[:, 1 : (light.shape[1] + 1) // 2] *= 2  # the half of the spectrum that rfft2 leaves out
    f = np.hypot(np.fft.fftfreq(light.shape[0])[:, None], np.fft.rfftfreq(light.shape[1])[None])
    return float(power[f > HFRD_CUTOFF].sum() / (power.sum() + 1e-6))


def hfrd(result: np.ndarray, reference: np.ndarray) -> float:
    """High-frequency ratio difference (method, section 7): |ratio(result) - ratio(reference)|, in [0, 1], lower better.

    The ratio is the share of lightness energy (without the mean) above 0.1 cycles/px; the paper's own cut-off is not
    known, so compare only numbers made here, on pictures of one size.
    """
    return abs(_high_frequency_ratio(result) - _high_frequency_ratio(reference))


def _same_size(image: np.ndarray, like: np.ndarray) -> np.ndarray:
    """Resize `image` (H, W, ...) to the size of `like`."""
    if image.shape[:2] == like.shape[:2]:
        return image
    return cv2.resize(image, like.shape[1::-1], interpolation=cv2.INTER_AREA)


def colour_difference(
    result: np.ndarray, design: np.ndarray, mask: np.ndarray | None = None, regions: np.ndarray | None = None
) -> float:
    """Mean CIEDE2000 between region means of `result` and of `design`; 0 is the same, 100 black for white.

    A region is one colour of the design (in steps of 16) inside one cell of an 8 x 8 grid, so thread highlights average
    out while a wrong colour anywhere counts. Weighted by area; regions under 16 px (anti-aliasing) are left out.

    Args:
        regions: another picture whose colours say where regions are, where `design` is no flat one.
    """
    design = rgb_array(design)
    result = _same_size(rgb_array(result), design)
    height, width = design.shape[:2]
    grid = (np.arange(height) * 8 // height)[:, None] * 8 + (np.arange(width) * 8 // width)
    flat = design if regions is None else _same_size(rgb_array(regions), design)
    label = (flat.astype(np.int64) >> 4) @ np.array([256, 16, 1]) + 4096 * grid
    keep = np.ones((height, width), bool) if mask is None or not np.any(mask) else np.asarray(mask, bool)
    _, label = np.unique(label[keep], return_inverse=True)
    area = np.bincount(label)

    def means(image: np.ndarray) -> np.ndarray:
        lab = rgb_to_lab(image)[keep]
        return np.stack([np.bincount(label, lab[:, i]) for i in range(3)], 1) / area[:, None]

    weights = np.where(area >= 16, area, 0) if (area >= 16).any() else area
    return float(np.average(ciede2000(means(result), means(design)), weights=weights))


def _edges(image: np.ndarray, sigma: float) -> np.ndarray:
    """(H, W) bool: thin borders between colour areas, after a blur of `sigma` px that removes stitches."""
    lab = cv2.GaussianBlur(rgb_to_lab(image), (0, 0), sigma)
    gx, gy = cv2.Sobel(lab, cv2.CV_32F, 1, 0, scale=1 / 8), cv2.Sobel(lab, cv2.CV_32F, 0, 1, scale=1 / 8)
    strongest = (gx**2 + gy**2).argmax(2)[..., None]
    scale = 64 * sigma  # in steps of L* across the border, whatever the blur
    gx, gy = (np.take_along_axis(g, strongest, 2)[..., 0] * scale for g in (gx, gy))
    return cv2.Canny(gx.astype(np.int16), gy.astype(np.int16), 64 * 2.5, 64 * 5, L2gradient=True) > 0


def edge_f1(result: np.ndarray, design: np.ndarray) -> float:
    """F1 in [0, 1] of colour-area borders of `result` against those of `design`, within 1 % of the longer side.

    Both are blurred by about the width of a thread first, so that the stitches' own edges do not count.
    """
    design = rgb_array(design)
    result = _same_size(rgb_array(result), design)
    side = max(design.shape[:2])
    sigma, reach = max(1.5, side * 0.008), max(2.0, side * 0.01)
    found, wanted = _edges(result, sigma), _edges(design, sigma)
    if not wanted.any() or not found.any():
        return float(wanted.any() == found.any())

    def near(points: np.ndarray, target: np.ndarray) -> float:
        far = cv2.distanceTransform((~target).astype(np.uint8), cv2.DIST_L2, 5)
        return float((far[points] <= reach).mean())

    precision, recall = near(found, wanted), near(wanted, found)
    return 2 * precision * recall / (precision + recall + 1e-9)


@dataclass(frozen=True)
class Scores:
    """How good a result is, each in [0, 1], higher better."""

    style: float  # how like the reference's its texture is
    design: float  # how well it keeps the design's borders
    colour: float  # how well it keeps the design's colours
    total: float  # geometric mean: one failure is not made up for by the others


def style_score(distance: float) -> float:
    """Texture distance -> [0, 1]."""
    return float(np.exp(-distance / _STYLE_SCALE))


def score(
    result: np.ndarray | Image.Image,
    reference: np.ndarray | Image.Image,
    design: np.ndarray | Image.Image,
    masks: tuple[np.ndarray | None, np.ndarray | None] = (None, None),
    colours: bool = True,
) -> Scores:
    """Score a result against the embroidery it should resemble and the design it should show.

    Args:
        result, reference, design: (H, W, 3) uint8 RGB or PIL pictures, of any sizes; `reference` may also be its (D,)
            `texture_statistics`, where many results are scored.
        masks: (H, W) bool of the stitched parts of `result` and of `reference`; None: everywhere.
        colours: False: the design says nothing of them (it is an edge map), and `colour` is 1.
    """
    if not (isinstance(reference, np.ndarray) and reference.ndim == 1):
        reference = texture_statistics(reference, masks[1])
    style = style_score(texture_distance(texture_statistics(result, masks[0]), reference))
    borders = edge_f1(result, design)
    colour = float(np.exp(-colour_difference(result, design) / _COLOUR_SCALE)) if colours else 1.0
    return Scores(style, borders, colour, float((style * borders * colour) ** (1 / 3)))

"""Painted looks that the base has never seen: oil, stipple, mosaic. Flat art in, a picture of it out; NumPy and OpenCV.

The pretraining draws pencil, watercolour and halftone; these three are in none of its pictures. Lengths in px.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from tambour.imaging.components import label_borders
from tambour.imaging.orientation import structure_tensor


def look(kind: str, flat: np.ndarray, seed: int, **settings: float) -> np.ndarray:
    """Flat art in a look: (H, W, 3) uint8 RGB in and out, the same arguments the same picture.

    Args:
        kind: "flat", which changes nothing, or a name in `LOOKS`.
        settings: the look's own, by name.
    """
    if kind == "flat":
        return flat.copy()
    return LOOKS[kind](flat, np.random.default_rng([seed, sum(map(ord, kind))]), **settings)


def oil(flat: np.ndarray, rng: np.random.Generator, width: float = 12.0, relief: float = 1.0) -> np.ndarray:
    """Brush strokes, coarse ones below finer ones, that follow borders and have bristles, lit from the upper left.

    Args:
        width: of the coarse strokes.
        relief: how thick the paint is.
    """
    high, wide = flat.shape[:2]
    paint = cv2.GaussianBlur(flat, (0, 0), 2).astype(np.float32)
    thickness = np.zeros((high, wide), np.float32)
    along = _along_borders(flat, rng)
    for brush, share in ((width, 1.0), (0.6 * width, 0.5)):
        length, step = 3.2 * brush, 0.6 * brush
        places = np.stack(np.meshgrid(np.arange(0, wide, step), np.arange(0, high, step)), -1).reshape(-1, 2)
        places = rng.permutation(places)[: int(share * len(places))]
        places = places + rng.uniform(-step, step, places.shape)
        for x, y in places:
            column, row = int(np.clip(x, 0, wide - 1)), int(np.clip(y, 0, high - 1))
            turn = along[row, column] + rng.normal(0, 0.15)
            reach = rng.uniform(0.35, 0.6) * length * np.array([np.cos(turn), np.sin(turn)])
            side = np.array([-np.sin(turn), np.cos(turn)])
            colour = flat[row, column] * rng.normal(1, 0.06) + rng.normal(0, 5, 3)
            bristles = max(3, round(brush / 2))
            for offset in np.linspace(-0.5, 0.5, bristles) * brush:
                ends = (
                    np.array([x, y]) + offset * side + rng.uniform(0.75, 1, (2, 1)) * np.array([-reach, reach])
                ) * 16
                a, b = (tuple(int(v) for v in end) for end in ends)
                load = float(rng.uniform(0.4, 1.0))
                tone = np.clip(colour * (0.94 + 0.1 * load), 0, 255).tolist()
                cv2.line(paint, a, b, tone, 2, cv2.LINE_AA, 4)
                cv2.line(thickness, a, b, load, 2, cv2.LINE_8, 4)
    return _lit(paint, cv2.GaussianBlur(thickness, (0, 0), 0.8), 0.3 * relief)


def stipple(flat: np.ndarray, rng: np.random.Generator, pitch: float = 9.0, spread: float = 26.0) -> np.ndarray:
    """Dots of paint on white paper, whose colours differ and agree on the mean (after Seurat).

    Args:
        pitch: from dot to dot.
        spread: how far a dot's colour may be off, in 8-bit steps.
    """
    high, wide = flat.shape[:2]
    soft = cv2.GaussianBlur(flat, (0, 0), 1.5)
    paper = np.full(flat.shape, 244, np.float32)
    for row in range(-1, int(high / (0.8 * pitch)) + 2):
        for column in range(-1, int(wide / (0.8 * pitch)) + 2):
            x, y = np.array([column + 0.5 * (row % 2), row]) * 0.8 * pitch + rng.normal(0, 0.2 * pitch, 2)
            here = soft[int(np.clip(y, 0, high - 1)), int(np.clip(x, 0, wide - 1))].astype(np.float32)
            colour = np.clip(here + rng.normal(0, spread, 3), 0, 255).tolist()
            radius = round(16 * pitch * float(rng.uniform(0.34, 0.5)))
            cv2.circle(paper, (int(16 * x), int(16 * y)), radius, colour, -1, cv2.LINE_AA, 4)
    return paper.clip(0, 255).astype(np.uint8)


def mosaic(flat: np.ndarray, rng: np.random.Generator, tile: float = 14.0, grout: float = 2.0) -> np.ndarray:
    """Glass tiles in cement: the cells nearest to jittered points, each of one colour, bevelled and lit.

    Args:
        tile: side of a tile.
        grout: width of the gap between tiles.
    """
    high, wide = flat.shape[:2]
    grid = np.stack(np.meshgrid(np.arange(0, wide + tile, tile), np.arange(0, high + tile, tile)), -1).reshape(-1, 2)
    points = grid + rng.uniform(-0.28, 0.28, grid.shape) * tile
    seeds = np.full((high, wide), 255, np.uint8)
    spots = points.round().astype(int).clip(0, (wide - 1, high - 1))
    seeds[spots[:, 1], spots[:, 0]] = 0
    _, cell = cv2.distanceTransformWithLabels(seeds, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    border = label_borders(cell, both_sides=False)
    inward = cv2.distanceTransform((~border).view(np.uint8), cv2.DIST_L2, 5)
    count = cell.max() + 1
    area = np.maximum(np.bincount(cell.ravel(), minlength=count), 1)
    means = np.stack([np.bincount(cell.ravel(), flat[..., i].ravel(), count) / area for i in range(3)], 1)
    means = means * rng.normal(1, 0.07, (count, 1)) + rng.normal(0, 6, (count, 3))
    height = np.clip(inward - grout / 2, 0, 3) + rng.normal(0, 0.04, count)[cell] * inward
    glass = np.clip((inward - grout / 2) / 1.2, 0, 1)[..., None].astype(np.float32)
    cement = np.array([150, 146, 138], np.float32) + rng.normal(0, 6, (high, wide, 1))
    return _lit((glass * means[cell] + (1 - glass) * cement).astype(np.float32), height.astype(np.float32), 0.22)


LOOKS: dict[str, Callable[..., np.ndarray]] = {"oil": oil, "stipple": stipple, "mosaic": mosaic}


def _along_borders(flat: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(H, W) direction in radians: along the nearest borders (structure tensor), elsewhere slowly turning."""
    high, wide = flat.shape[:2]
    grey = cv2.GaussianBlur(cv2.cvtColor(flat, cv2.COLOR_RGB2GRAY).astype(np.float32), (0, 0), 3)
    tensor = structure_tensor(grey, sigma=10)[..., :2]
    slow = cv2.resize(rng.standard_normal((5, 5)).astype(np.float32), (wide, high), interpolation=cv2.INTER_CUBIC)
    tensor += 3 * np.dstack([np.cos(2 * slow), np.sin(2 * slow)])
    return np.arctan2(tensor[..., 1], tensor[..., 0]) / 2 + np.pi / 2


def _lit(paint: np.ndarray, height: np.ndarray, strength: float) -> np.ndarray:
    """A painted relief under a lamp at the upper left: (H, W, 3) float32 and (H, W) px -> uint8."""
    slope = cv2.Sobel(height, cv2.CV_32F, 1, 0) + cv2.Sobel(height, cv2.CV_32F, 0, 1)
    light = 1 + strength * np.tanh(slope / 2)
    shine = 60 * strength * np.clip(slope / 3 - 0.5, 0, 1)
    return (paint * light[..., None] + shine[..., None]).clip(0, 255).astype(np.uint8)

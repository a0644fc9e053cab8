"""Palettes: the few colours that a picture is made of, and the nearest of them to a pixel."""

from __future__ import annotations

import cv2
import numpy as np

from tambour.imaging.colour import shading_difference

COLOURS = 16  # of a photo's palette, at most
MERGE = 9.0  # palette colours closer than this (Lab steps, shading counted half) become one


def nearest_colour(pixels: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """(N, 3) pixels and (K, 3) colours of one colour space -> (N,) row of the nearest colour, by Euclidean distance."""
    return ((pixels[:, None] - colours) ** 2).sum(-1).argmin(1)


def histogram_palette(rgb: np.ndarray, counted: np.ndarray, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """The colours of flat art, (K, 3) float32 sRGB in [0, 1], and each pixel's nearest of them, (H, W) int32.

    The fullest bin of a 5-bit histogram becomes a colour and takes the bins around it, again and again. A colour is
    then the mean of the pixels near its bin.

    Args:
        rgb: (H, W, 3) uint8.
        counted: (H, W) bool, the pixels that colours are taken from.
        limit: most colours.
    """
    red, green, blue = (channel.astype(np.uint16) >> 3 for channel in cv2.split(rgb))
    bins = (red << 10) | (green << 5) | blue
    thin = np.s_[:: 1 + (bins.size > 400_000), :: 1 + (bins.size > 400_000)]  # a quarter of a large picture is enough
    counts = np.bincount(bins[thin][counted[thin]], minlength=32768)
    if not counts.any():
        return np.zeros((1, 3), np.float32), np.zeros(bins.shape, np.int32)
    used = np.flatnonzero(np.bincount(bins.ravel(), minlength=32768))
    points = np.stack([used >> 10, (used >> 5) & 31, used & 31], 1).astype(np.float32) * (8 / 255) + 4 / 255
    left = counts[used].astype(np.float64)
    total, centres = left.sum(), []
    while len(centres) < limit and left.max() > max(3, 0.0015 * total):
        centre = points[left.argmax()]
        centres.append(centre)
        left[((points - centre) ** 2).sum(1) < 0.15**2] = 0
    centres = np.asarray(centres if centres else [points[left.argmax()]])
    index = nearest_colour(points, centres)
    table = np.zeros(32768, np.int32)
    table[used] = index
    nearest = table.take(bins)
    # the exact colour: the mean of the pixels near each centre
    close = ((points - centres[index]) ** 2).sum(1) < 0.12**2
    exact = np.zeros(32768, bool)
    exact[used[close]] = True
    chosen = counted[thin] & exact[bins[thin]]
    which = nearest[thin][chosen]
    weight = np.maximum(np.bincount(which, minlength=len(centres)), 1)
    means = [np.bincount(which, weights=rgb[..., c][thin][chosen], minlength=len(centres)) / weight for c in range(3)]
    return (np.stack(means, 1) / 255).astype(np.float32), nearest


def photo_palette(lab: np.ndarray) -> np.ndarray:
    """(N, 3) flattened Lab pixels -> (K, 3) palette, 1 <= K <= COLOURS: k-means, then merging of near colours."""
    points = lab[np.linspace(0, len(lab) - 1, min(len(lab), 12_000)).astype(int)]
    centres, counts = _cluster(points, _spread_seeds(points, 32))
    counts = counts.astype(float)
    while len(centres) > 1:
        off = centres[:, None] - centres
        cost = np.sqrt(shading_difference(off, (centres[:, None] + centres) / 2))
        share = np.minimum(counts[:, None], counts) / counts.sum()
        cost *= np.clip((share / 0.01) ** 0.15, 0.6, 1.2)  # rare colours are given up sooner
        np.fill_diagonal(cost, np.inf)
        i, j = np.unravel_index(cost.argmin(), cost.shape)
        if cost[i, j] > MERGE and len(centres) <= COLOURS:
            break
        centres[i] = (counts[i] * centres[i] + counts[j] * centres[j]) / (counts[i] + counts[j])
        counts[i] += counts[j]
        centres, counts = np.delete(centres, j, 0), np.delete(counts, j)
    return centres


def distinct_colours(colours: np.ndarray, pixels: np.ndarray, most: int, apart: float) -> np.ndarray:
    """Of colours (K, 3) those that most pixels (N, 3) are nearest to: at most `most`, further than `apart` apart."""
    counts = np.bincount(nearest_colour(pixels, colours), minlength=len(colours))
    chosen: list[np.ndarray] = []
    for colour in colours[np.argsort(-counts, kind="stable")]:
        if len(chosen) < most and all(np.linalg.norm(colour - other) > apart for other in chosen):
            chosen.append(colour)
    return np.float32(chosen)


def _spread_seeds(points: np.ndarray, count: int) -> np.ndarray:
    """(N, D) points -> up to `count` far-apart seeds, each the 99.5th percentile of distance (outliers are skipped)."""
    seeds = [points.mean(0)]
    far = ((points - seeds[0]) ** 2).sum(1)
    for _ in range(count - 1):
        seeds.append(points[np.argsort(far, kind="stable")[int(0.995 * (len(far) - 1))]])
        far = np.minimum(far, ((points - seeds[-1]) ** 2).sum(1))
    return np.array(seeds)


def _cluster(points: np.ndarray, centres: np.ndarray, rounds: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """k-means from given centres -> (K, D) centres and (K,) counts; empty clusters are dropped."""
    for _ in range(rounds):
        distance = (centres**2).sum(1) - 2 * points @ centres.T
        label = distance.argmin(1)
        counts = np.bincount(label, minlength=len(centres))
        sums = np.stack([np.bincount(label, points[:, i], len(centres)) for i in range(points.shape[1])], 1)
        centres = (sums[counts > 0] / counts[counts > 0, None]).astype(np.float32)
    return centres, counts[counts > 0]

"""What a surface looks like close up, in numbers: texture statistics, and scores of a result. NumPy and OpenCV only.

Texture is measured at native pixel scale: bring pictures to the same scale (px per thread) before comparing them.
The statistics see lightness contrast only, so colour and brightness do not matter; borders between the colour areas
of a design are weighted down, so its layout hardly does. They are nearly invariant to rotation, because every
regional measure is taken along and across the local thread direction.
"""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np

from tambour.imaging.contrast import contrast_map, rgb_array
from tambour.imaging.orientation import anisotropy, structure_tensor

ORIENTATIONS = 8
LEVELS = 5  # octaves; two bands an octave, periods of 3 to 71 px
BAND_PERIODS = tuple(np.pi * 2 ** (i / 2) for i in range(2 * LEVELS))  # px, where each band is most sensitive

_TILE, _PAD = 64, 96  # px; autocorrelation is taken in tiles of 64 px, so lags reach 32 px
_MAX_TILES = 64
_RADII = np.array([1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 19, 24], np.float32)  # lags, px
_FLOOR = 2e-5  # contrast variance below which nothing is seen: about half a step of L*


@lru_cache
def _steerable(sigma: float) -> list[tuple[np.ndarray, np.ndarray, float]]:
    """The five separable parts of the 4th directional derivative of a Gaussian: (row, column, binomial) each."""
    x = np.arange(-int(4 * sigma + 0.5), int(4 * sigma + 0.5) + 1)
    u = x / sigma
    g = np.exp(-(u**2) / 2)
    hermite = [np.ones_like(u), -u, u**2 - 1, -(u**3) + 3 * u, u**4 - 6 * u**2 + 3]
    d = [(h * g).astype(np.float32) for h in hermite]
    d = [f - f.mean() if i else f for i, f in enumerate(d)]  # no response to a constant
    # the derivative along theta is sum_i C(4, i) cos^(4-i) sin^i d[4-i](x) d[i](y); unit gain at its own frequency
    w = np.exp(-2j * x / sigma)
    gain = abs((d[4] * w).sum()) * d[0].sum()
    return [(d[4 - i], d[i], float((1, 4, 6, 4, 1)[i] / gain)) for i in range(5)]


@lru_cache
def _steering(count: int) -> np.ndarray:
    """(count, 5): weights of the parts for `count` directions over half a turn."""
    angles = np.arange(count) * np.pi / count
    return np.stack([np.cos(angles) ** (4 - i) * np.sin(angles) ** i for i in range(5)], 1)


def _bands(contrast: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Oriented energies (bands, ORIENTATIONS) and local measures (bands, 5) of a contrast picture.

    The energy of a steered filter is a quadratic form of the covariance of its five parts, so no filter is ever
    steered a pixel. Local measures: skewness, excess kurtosis (log), coherence of the gradient in a small and a large
    window, and how uneven the energy is.
    """
    energies, locals_ = [], []
    for level in range(LEVELS):
        if level:
            contrast, weight = cv2.pyrDown(contrast), cv2.pyrDown(weight)
        if min(contrast.shape) < 8:  # too small for this octave: nothing is seen
            energies += [np.zeros(ORIENTATIONS)] * 2
            locals_ += [np.zeros(5)] * 2
            continue
        for sigma in (1.0, 2**0.5):
            parts = np.stack(
                [
                    cv2.sepFilter2D(contrast, cv2.CV_32F, r, c, borderType=cv2.BORDER_REFLECT) * k
                    for r, c, k in _steerable(sigma)
                ]
            )
            flat = parts.reshape(5, -1)
            total = float(weight.sum()) + 1e-6
            covariance = (flat * weight.ravel()) @ flat.T / total
            steering = _steering(ORIENTATIONS)
            energies.append(np.einsum("oi,ij,oj->o", steering, covariance, steering).clip(0))
            # isotropic band response (the trace of the derivative: d4/dx4 + 2 d4/dx2dy2 + d4/dy4) and its gradient
            band = parts[0] + parts[2] / 3 + parts[4]
            locals_.append(_local(band, weight, total))
    return np.array(energies), np.array(locals_)


def _local(band: np.ndarray, weight: np.ndarray, total: float) -> np.ndarray:
    """The five local measures of one band; see `_bands`."""
    square = band * band
    variance = float((weight * square).sum()) / total + 0.02 * _FLOOR
    seen = variance / (variance + _FLOOR)  # 0 where there is nothing but rounding
    third = float((weight * square * band).sum()) / total / variance**1.5
    fourth = float((weight * square * square).sum()) / total / variance**2
    tensor = structure_tensor(band)
    out = [np.tanh(third), np.log(max(fourth, 1.0) / 3)]
    pooled = tuple(max(1, round(side / 4)) for side in band.shape[::-1])
    tensor = cv2.resize(tensor, pooled, interpolation=cv2.INTER_AREA)
    weight = cv2.resize(weight, pooled, interpolation=cv2.INTER_AREA)
    total = float(weight.sum()) + 1e-6
    for window in (1, 9):  # about one repeat of the band, and nine
        tensor = cv2.blur(tensor, (window, window))
        power = tensor[..., 2] * weight
        mean = float(power.sum()) / total + 1e-9
        out.append(float((anisotropy(tensor) * weight).sum()) / total / mean)
        if window == 1:
            spread = float((weight * (tensor[..., 2] / mean - 1) ** 2).sum()) / total
    out.append(np.log1p(spread))
    return seen * np.array(out)


@lru_cache
def _polar() -> tuple[np.ndarray, np.ndarray]:
    """Bilinear look-up (4, 16, R) flat indices and weights of the autocorrelation at 16 directions x _RADII."""
    angles = np.arange(16) * np.pi / 16
    x, y = np.cos(angles)[:, None] * _RADII, np.sin(angles)[:, None] * _RADII
    x0, y0 = np.floor(x).astype(int), np.floor(y).astype(int)
    index, weights = [], []
    for dx in (0, 1):
        for dy in (0, 1):
            index.append((y0 + dy) % _PAD * _PAD + (x0 + dx) % _PAD)
            weights.append((1 - abs(x - x0 - dx)) * (1 - abs(y - y0 - dy)))
    return np.array(index), np.array(weights, np.float32)


def _correlate(tiles: np.ndarray) -> np.ndarray:
    """(T, h, w) -> (T, _PAD * _PAD) autocorrelation by lag, zero lag first, negative lags wrapped."""
    spectrum = np.fft.rfft2(tiles, s=(_PAD, _PAD))
    return np.fft.irfft2(spectrum.real**2 + spectrum.imag**2, s=(_PAD, _PAD)).reshape(len(tiles), -1)


@lru_cache
def _box_pairs() -> np.ndarray:
    return _correlate(np.ones((1, _TILE, _TILE), np.float32))


def _autocorrelation(contrast: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """(16, R) autocorrelation in [-1, 1] by direction from the local threads (row 0: along, row 8: across) and lag.

    Tiles are turned to their own thread direction before they are averaged, so regions stitched at different angles
    agree. 0 everywhere for noise and for nothing.
    """
    height, width = contrast.shape
    tops = np.unique(np.linspace(0, max(height - _TILE, 0), max(1, round(height / _TILE))).astype(int))
    lefts = np.unique(np.linspace(0, max(width - _TILE, 0), max(1, round(width / _TILE))).astype(int))
    places = [(t, s) for t in tops for s in lefts]
    places = [places[i] for i in np.unique(np.linspace(0, len(places) - 1, min(_MAX_TILES, len(places))).astype(int))]
    tiles = np.zeros((len(places), _TILE, _TILE), np.float32)
    masks = np.zeros_like(tiles)
    for i, (top, left) in enumerate(places):
        part = contrast[top : top + _TILE, left : left + _TILE]
        masks[i, : part.shape[0], : part.shape[1]] = weight[top : top + _TILE, left : left + _TILE]
        tiles[i, : part.shape[0], : part.shape[1]] = part
    keep = masks.mean((1, 2)) >= 0.5 * masks.mean((1, 2)).max()
    tiles, masks = tiles[keep], masks[keep]
    tiles = (tiles - ((tiles * masks).sum((1, 2)) / (masks.sum((1, 2)) + 1e-6))[:, None, None]) * masks
    product = _correlate(tiles)
    pairs = np.repeat(_box_pairs(), len(tiles), 0)  # how many pixel pairs each lag has
    holes = masks.min((1, 2)) < 0.8
    if holes.any():
        pairs[holes] = _correlate(masks[holes])
    lagged = product / np.maximum(pairs, 0.05 * pairs[:, :1])  # (T, 96 * 96) covariance by lag
    index, weights = _polar()
    power = lagged[:, 0]
    polar = (lagged[:, index] * weights).sum(1) / (power + _FLOOR)[:, None, None]  # (T, 16, R)
    along = polar[:, :, 1:7].mean(2).argmax(1)
    turned = polar[np.arange(len(polar))[:, None], (along[:, None] + np.arange(16)) % 16]
    share = np.sqrt(power * masks.mean((1, 2)))
    return (turned * share[:, None, None]).sum(0) / (share.sum() + 1e-9)


def texture_statistics(image: np.ndarray, mask: np.ndarray | None = None, oriented: bool = False) -> np.ndarray:
    """Statistics of a texture, comparable with `texture_distance`; about 15 ms for 256 x 256 px on one core.

    Args:
        image: (H, W, 3) uint8 RGB (or a PIL picture), at least 16 px a side.
        mask: (H, W) bool, where to look; None or all False: everywhere.
        oriented: append the energies by absolute direction (10 bands x 8), to fit a stitch angle.

    Returns:
        (D,) float32, scaled so that the mean absolute difference of two textures is about 1 for unlike ones.
    """
    contrast, weight = contrast_map(rgb_array(image), mask)
    energies, locals_ = _bands(contrast, weight)
    # log energy a band, and how directed each band is over the whole picture
    level = np.log10(energies.mean(1) + 0.1 * _FLOOR) - np.log10(0.1 * _FLOOR)
    slope = np.diff(level)
    lag = _autocorrelation(contrast, weight)
    lag = np.stack([lag[0], (lag[3] + lag[13]) / 2, (lag[6] + lag[10]) / 2, lag[8], lag.mean(0)])
    groups = [
        (level, 0.4),
        (slope, 0.3),
        (locals_ * (1, 0.7, 1.5, 1.5, 1), 1.0),
        (lag, 2.0),
    ]
    if oriented:
        share = energies / (energies.mean(1, keepdims=True) + _FLOOR)
        groups.append((share, 0.5))
    return np.concatenate([np.ravel(values) * (scale / np.size(values)) for values, scale in groups]).astype(np.float32)


def texture_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Distance of two `texture_statistics` (same `oriented`): 0 for the same, about 1 for unlike textures."""
    if a.shape != b.shape:
        raise ValueError(f"statistics of different kinds: {a.shape} and {b.shape}")
    return float(np.abs(a.astype(np.float64) - b).sum())


def dominant_period(image: np.ndarray, mask: np.ndarray | None = None) -> tuple[float, float]:
    """Strongest repeat of a texture: (period in px, direction in radians, [0, pi), x to the right, y down).

    The direction is the one in which the pattern repeats: threads lie across it. (0.0, 0.0) if nothing repeats.
    Periods of 2.2 to 40 px are looked for, in the contrast spectrum times frequency (which undoes its natural fall).
    """
    contrast, weight = contrast_map(rgb_array(image), mask)
    height, width = contrast.shape
    side = int(np.clip(min(height, width), 32, 128))
    window = np.hanning(side + 2)[1:-1]
    window = np.outer(window, window)
    size = 4 * side
    power = np.zeros((size, size // 2 + 1))
    for top in np.unique(
        np.linspace(0, max(height - side, 0), min(6, max(1, round(2 * height / side) - 1))).astype(int)
    ):
        for left in np.unique(
            np.linspace(0, max(width - side, 0), min(6, max(1, round(2 * width / side) - 1))).astype(int)
        ):
            part, cover = (a[top : top + side, left : left + side] for a in (contrast, weight))
            if cover.mean() < 0.5 * weight.mean():
                continue
            shaped = window[: part.shape[0], : part.shape[1]] * cover
            part = part - (part * shaped).sum() / shaped.sum()
            power += np.abs(np.fft.rfft2(part * shaped, s=(size, size))) ** 2
    fy, fx = np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None]
    f = np.hypot(fx, fy)
    power *= np.where((f > 1 / 40) & (f < 1 / 2.2), f, 0)
    total = power.sum()
    y, x = np.unravel_index(power.argmax(), power.shape)
    if total < 1e-6 or power[y, x] < 8 * total / np.count_nonzero(power):
        return 0.0, 0.0

    def vertex(left: float, middle: float, right: float) -> float:
        bend = left - 2 * middle + right
        return 0.0 if bend >= 0 else 0.5 * (left - right) / bend

    around = [power[y, max(x - 1, 0)], power[y, x], power[y, min(x + 1, power.shape[1] - 1)]]
    vx = fx[0, x] + (vertex(*around) if 0 < x < power.shape[1] - 1 else 0) / size
    vy = fy[y, 0] + vertex(power[y - 1, x], power[y, x], power[(y + 1) % size, x]) / size
    return float(1 / np.hypot(vx, vy)), float(np.arctan2(vy, vx) % np.pi)

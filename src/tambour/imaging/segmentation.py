"""A photo -> flat areas of few colours: edge-preserving flattening, a palette, a smooth labelling, and clean-up."""

from __future__ import annotations

import cv2
import numpy as np

from tambour.imaging.colour import shading_difference, split_shading
from tambour.imaging.components import components
from tambour.imaging.nearest import fill_from_nearest
from tambour.imaging.orientation import gradient_angle, structure_tensor
from tambour.imaging.palette import MERGE, photo_palette


def segment(lab: np.ndarray, sigma: float, area: float) -> tuple[np.ndarray, np.ndarray]:
    """(H, W, 3) Lab -> (H, W) labels and their (K, 3) colours: flattened below `sigma` px, no area under `area` px."""
    smooth = rolling_guidance(lab, sigma)
    colours = photo_palette(smooth.reshape(-1, 3))
    costs = np.stack([shading_difference(smooth - colour, (smooth + colour) / 2) for colour in colours])  # (K, H, W)
    labels = vote(costs, sigma / 2)
    labels = drop_seams(labels, colours, costs, smooth, sigma)
    labels = merge_mottle(labels, colours, 3 * sigma + 2)
    labels = drop_specks(labels, area)
    return drop_shades(labels, colours, 6 * area), colours


# --- flattening ---------------------------------------------------------------------------------------------------


def rolling_guidance(lab: np.ndarray, sigma: float, rounds: int = 5, edge: float = 4.0) -> np.ndarray:
    """Rolling guidance filter (Zhang et al. 2014) with a guided filter inside: what is smaller than `sigma` px goes.

    The picture is blurred, then filtered again and again with the last result as guide, which brings back the borders
    of everything that survived the blur. `edge`: step in Lab that counts as a border.
    """
    size = (2 * int(np.ceil(2 * sigma)) + 1,) * 2
    guide = cv2.GaussianBlur(lab, (0, 0), sigma)
    mean = cv2.blur(lab, size)
    for _ in range(rounds):
        centre = cv2.blur(guide, size)
        slope = (cv2.blur(guide * lab, size) - centre * mean) / (cv2.blur(guide * guide, size) - centre**2 + edge**2)
        guide = cv2.blur(slope, size) * guide + cv2.blur(mean - slope * centre, size)
    return guide


# --- labels -------------------------------------------------------------------------------------------------------


def vote(costs: np.ndarray, sigma: float, spread: float = 7.0, strength: float = 3.0, rounds: int = 6) -> np.ndarray:
    """(K, H, W) squared colour differences -> (H, W) labels that are smooth: mean field of a Potts model.

    A colour off by `spread` (Lab steps) costs half a unit, agreement with all neighbours within `sigma` px is worth
    `strength`, and no cost exceeds 6, so that a stray thread can be outvoted.
    """
    energy = np.minimum(costs / (2 * spread**2), 6).astype(np.float32)
    energy -= energy.min(0)
    belief = np.exp(-energy)
    belief /= belief.sum(0)
    for _ in range(rounds):
        support = np.stack([cv2.GaussianBlur(plane, (0, 0), max(sigma, 0.8)) for plane in belief])
        belief = np.exp(strength * (support - support.max(0)) - energy)
        belief /= belief.sum(0)
    return belief.argmax(0)


def drop_specks(labels: np.ndarray, area: float) -> np.ndarray:
    """Labels (H, W); connected areas of under `area` px take the label of the nearest larger one."""
    speck = np.zeros(labels.shape, bool)
    for k in np.unique(labels):
        parts = components(labels == k)
        small = parts.areas < area
        small[0] = False
        speck |= small[parts.labels]
    return fill_from_nearest(labels, ~speck)


def _shades(labels: np.ndarray, colours: np.ndarray, tint: float = 1.75) -> np.ndarray:
    """(K, K) bool: the same yarn in more or less light, as deep as the gap between two stitches.

    Light from yarn around tints a gap, by up to `tint` times `MERGE`. What the picture's rim mostly shows is more
    likely cloth: of its shades only those of folds count.
    """
    along, hue = split_shading(colours[:, None] - colours, (colours[:, None] + colours) / 2)
    deep = (hue < (tint * MERGE) ** 2) & (along < (7.5 * MERGE) ** 2)
    rim = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    cloth = np.bincount(rim, minlength=len(colours)).argmax()
    deep[cloth] = deep[:, cloth] = False
    return deep | (hue < MERGE**2) & (along < (4 * MERGE) ** 2)


def merge_mottle(labels: np.ndarray, colours: np.ndarray, window: float, finely: float = 0.18) -> np.ndarray:
    """Where two shades of one colour alternate finely (lit threads and the gaps between them), the commoner takes all.

    Finely: within `window` px there are `finely` pixels of common border to a pixel of the rarer shade (spots under 22
    px, lines under 11), and the rarer one is at least a sixteenth: one thin outline is left alone.
    """
    along, _ = split_shading(colours[:, None] - colours, (colours[:, None] + colours) / 2)
    shade = _shades(labels, colours)
    pairs = [(along[i, j], i, j) for i in range(len(colours)) for j in range(i) if shade[i, j]]
    labels = labels.copy()
    for _, i, j in sorted(pairs):
        one, two = (labels == i), (labels == j)
        border = np.zeros(labels.shape, np.float32)
        border[:, 1:] += (one[:, 1:] & two[:, :-1]) | (two[:, 1:] & one[:, :-1])
        border[1:] += (one[1:] & two[:-1]) | (two[1:] & one[:-1])
        if not border.any():
            continue
        a, b = (cv2.GaussianBlur(part.astype(np.float32), (0, 0), window) for part in (one, two))
        rare = np.minimum(a, b)
        mixed = (one | two) & (cv2.GaussianBlur(border, (0, 0), window) > finely * rare) & (rare > 0.06 * (a + b))
        labels[mixed] = np.where(a > b, i, j)[mixed]
    return labels


def drop_shades(labels: np.ndarray, colours: np.ndarray, area: float) -> np.ndarray:
    """Areas under `area` px that lie inside one other area and are only a lighter or darker shade of it join it.

    One as dark as the gap between two stitches (`_shades`) joins it if it has no more than half of that.
    """
    out = labels.copy()
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    off = colours[:, None] - colours
    near = np.sqrt(shading_difference(off, (colours[:, None] + colours) / 2)) < 1.5 * MERGE
    shade = _shades(labels, colours, 2.0)
    for k in np.unique(labels):
        parts = components(labels == k)
        for i in np.flatnonzero(parts.areas[1:] < area) + 1:
            x, y, w, h = parts.boxes[i]
            box = np.s_[max(0, y - 1) : y + h + 1, max(0, x - 1) : x + w + 1]
            part = parts.labels[box] == i
            ring = labels[box][(cv2.dilate(part.astype(np.uint8), cross) > 0) & ~part]
            counts = np.bincount(ring, minlength=1)
            around = int(counts.argmax())
            close = near[k, around] or (shade[k, around] and parts.areas[i] < area / 2)
            if counts[around] > 0.8 * counts.sum() and close:
                out[box][part] = around
    return out


def drop_seams(
    labels: np.ndarray, colours: np.ndarray, costs: np.ndarray, smooth: np.ndarray, sigma: float
) -> np.ndarray:
    """Remove thin strips that are only the blurred border between two areas; outlines stay.

    From a pixel of a thin strip one looks both ways across it: if the first other colours met are two different ones,
    and the strip's colour is a mixture of them, the pixel takes the nearer of the two. An outline meets one colour
    twice, or is no mixture.
    """
    reach = int(np.ceil(2 + 1.5 * sigma))
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (reach | 1, reach | 1))
    thin = np.zeros(labels.shape, bool)
    for k in np.unique(labels):
        area = (labels == k).astype(np.uint8)
        thin |= (area > cv2.morphologyEx(area, cv2.MORPH_OPEN, disc)) & (area > 0)
    y, x = np.nonzero(thin)
    angle = gradient_angle(structure_tensor(smooth, sigma=1)[y, x])
    own = labels[y, x]
    sides = []
    for sign in (-1, 1):
        met = own.copy()
        for step in range(1, reach + 2):
            across = np.rint(x + sign * step * np.cos(angle)).astype(int).clip(0, labels.shape[1] - 1)
            down = np.rint(y + sign * step * np.sin(angle)).astype(int).clip(0, labels.shape[0] - 1)
            met = np.where(met == own, labels[down, across], met)
        sides.append(met)
    left, right = sides
    line = colours[right] - colours[left]
    length = (line**2).sum(1) + 1e-6
    share = ((colours[own] - colours[left]) * line).sum(1) / length
    away = ((colours[own] - colours[left] - share[:, None] * line) ** 2).sum(1)
    seam = (left != own) & (right != own) & (left != right) & (share > 0.05) & (share < 0.95) & (away < 0.15 * length)
    nearer = np.where(costs[left, y, x] < costs[right, y, x], left, right)
    out = labels.copy()
    out[y[seam], x[seam]] = nearer[seam]
    return out


def redraw_labels(labels: np.ndarray, shape: tuple[int, int], sigma: float) -> np.ndarray:
    """Resize a label map and round its borders: each label's area is blurred and resized, the largest share wins."""
    best = np.full(shape, -np.inf, np.float32)
    out = np.zeros(shape, labels.dtype)
    for k in np.unique(labels):
        share = cv2.GaussianBlur((labels == k).astype(np.float32), (0, 0), sigma)
        share = cv2.resize(share, shape[::-1], interpolation=cv2.INTER_LINEAR)
        out[share > best] = k
        best = np.maximum(best, share)
    return out

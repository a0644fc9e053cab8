"""Embroidery photo -> (embroidery, flat design) pair, without any model (method, section 1, done by image processing).

Stitches are flattened; colours are snapped to a small palette; every pixel takes a palette colour by a vote that seeks
smoothness, which leaves uniform areas with crisp borders; what surrounds the motif is recognised as fabric.

Flattening was tried with four methods on photographs of machine patches, cross, chain and satin stitch, silk shading
and goldwork, at 700 px on one core. L0 gradient minimisation (1.2 s) keeps every strong thread and needle hole.
Relative total variation (0.7 s with a separable solver) removes stitches best, but also letters, stems and everything
else thin. Mean shift (1.2 s) hardly removes thread relief. Rolling guidance loses nothing larger than the stitch and
recovers borders; with a true bilateral filter it takes seconds, with a guided filter 0.1 s for nearly the same picture:
that one is used. What it leaves of threads is lit and shaded yarn of one colour, and `merge_mottle` takes that.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image

from tambour.imaging.colour import lab_to_rgb, rgb_to_lab, shading_difference
from tambour.imaging.components import components
from tambour.imaging.contrast import contrast_map
from tambour.imaging.geometry import flatten
from tambour.imaging.outlines import edge_distance
from tambour.imaging.palette import MERGE
from tambour.imaging.segmentation import redraw_labels, segment
from tambour.imaging.texture import dominant_period

WORK = 700  # longer side at which the photo is analysed, px
DEEP = 0.35  # of the stitches, that lie deeper in their area than one of them is large


@dataclass(frozen=True)
class Pair:
    """An aligned image analogy A : A'. All three have the photo's own size."""

    design: Image.Image  # A, RGB: uniform colours
    embroidery: Image.Image  # A', RGB: the photo
    mask: Image.Image  # L: 255 where there are stitches, 0 on bare fabric


def make_design(photo: Image.Image) -> Pair:
    """Flatten the photo of an embroidery into the design it shows; any size and aspect ratio from 16 px a side.

    Deterministic; about 2 s for 700 px on a core, 3 where large stitches are looked for in vain. The design has at most
    16 colours, each the mean of what it covers, and the bare fabric around the motif is one of them.
    """
    photo = flatten(photo)
    full = np.asarray(photo)
    scale = min(1.0, WORK / max(photo.size))
    size = tuple(max(16, round(side * scale)) for side in photo.size)
    rgb = cv2.resize(full, size, interpolation=cv2.INTER_AREA) if scale < 1 else full
    lab = rgb_to_lab(rgb)  # (H, W, 3)

    contrast = contrast_map(rgb)[0]
    half = cv2.resize(lab, (size[0] // 2, size[1] // 2), interpolation=cv2.INTER_AREA)
    bare, _ = find_fabric(*segment(half, 1.7, 8.0), half, contrast)  # roughly: to look for stitches in the right place
    bare = cv2.resize(bare.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
    period = stitch_period(rgb, bare == 0) or stitch_period(rgb)
    coarse = dominant_period(rgb, bare == 0)[0]
    labels, colours, sigma = _segmented(lab, max(period, coarse))
    if coarse > period and (edge_distance(labels)[bare == 0] > coarse).mean() < DEEP:
        labels, colours, sigma = _segmented(lab, period)  # not large stitches but motifs side by side
    bare, ground = find_fabric(labels, colours, lab, contrast)
    labels[bare] = len(colours)

    used, labels = np.unique(labels, return_inverse=True)
    labels = redraw_labels(labels.reshape(lab.shape[:2]), full.shape[:2], sigma / 2)
    full_lab = rgb_to_lab(full)
    area = np.maximum(np.bincount(labels.ravel(), minlength=len(used)), 1)
    means = np.stack([np.bincount(labels.ravel(), full_lab[..., i].ravel(), len(used)) / area for i in range(3)], 1)
    means[used == len(colours)] = ground
    design = lab_to_rgb(means[None].astype(np.float32))[0][labels]
    mask = np.where(used == len(colours), 0, 255).astype(np.uint8)[labels]
    return Pair(Image.fromarray(design), photo, Image.fromarray(mask))


def _segmented(lab: np.ndarray, period: float) -> tuple[np.ndarray, np.ndarray, float]:
    """`segment` for stitches of this period, px; and the sigma of it."""
    sigma = float(np.clip(period / 3.5, 2.0, 4.0)) * min(1.0, max(lab.shape) / 256)
    return *segment(lab, sigma, max(4 * sigma**2, 0.7 * period**2)), sigma


# --- fabric and stitches ------------------------------------------------------------------------------------------


def find_fabric(
    labels: np.ndarray, colours: np.ndarray, lab: np.ndarray, contrast: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Bare fabric around the motif in a segmented photo: (H, W) bool, and its mean Lab colour (3,).

    Fabric is the colour that the photo's border mostly shows, in all its shades, where they hang together with the
    border; and areas further in that have both its colour and its texture (`contrast`, of any size). If that is less
    than half of the border, or nearly the whole photo, or nearly nothing, the embroidery fills the photo: no fabric.
    """
    height, width = labels.shape
    contrast = cv2.resize(contrast**2, (width, height), interpolation=cv2.INTER_AREA)
    energy = np.log(cv2.GaussianBlur(contrast, (0, 0), max(height, width) / 175) + 1e-4)
    band = max(2, round(0.01 * min(height, width)))
    rim = np.ones(labels.shape, bool)
    rim[band:-band, band:-band] = False
    border = np.bincount(labels[rim], minlength=len(colours)) / rim.sum()
    main = int(border.argmax())
    off = colours - colours[main]
    shade = np.sqrt(shading_difference(off, (colours + colours[main]) / 2)) < 1.7 * MERGE
    fabric = np.zeros(labels.shape, bool)
    usual = np.median(energy[labels == main])
    for k in np.flatnonzero((border > 0.02) & (np.hypot(off[:, 1], off[:, 2]) < 12) & (np.abs(off[:, 0]) < 35)):
        shade[k] |= abs(np.median(energy[labels == k]) - usual) < 0.8  # folds, in warmer or colder light
    if border[shade].sum() < 0.5:
        return fabric, colours[main]
    inner = []  # areas that may be fabric although they do not touch the border
    for k in np.flatnonzero(shade):
        parts = components(labels == k)
        touching = parts.meeting(rim)
        fabric |= touching[parts.labels]
        inner += [parts.labels == i for i in np.flatnonzero(~touching & (parts.areas > 0.0003 * labels.size)) if i]
    usual = np.median(energy[fabric])
    colour = lab[fabric].mean(0)
    for here in inner:
        off = lab[here].mean(0) - colour
        if (
            np.sqrt(shading_difference(off, colour + off / 2)) < 1.7 * MERGE
            and abs(np.median(energy[here]) - usual) < 0.7
        ):
            fabric |= here
    ground = lab[fabric].mean(0)
    if fabric.mean() > 0.2:  # the frame of a hoop, the table at a corner: small, and cut by the border
        parts = components(~fabric)
        small = (parts.areas < 0.02 * labels.size) | (parts.areas < 0.1 * parts.areas[1:].max(initial=0))
        fabric |= (parts.meeting(rim) & small)[parts.labels]
    if not 0.03 < fabric.mean() < 0.97:
        fabric = np.zeros(labels.shape, bool)
    return fabric, ground


def stitch_period(rgb: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Median repeat of the stitches inside `mask`, px, over tiles of 64 px; 0.0 if under a tenth of the tiles repeats.

    Tiles crossed by borders of the design are left out: those would pass for coarse stitches.
    """
    contrast, weight = contrast_map(rgb, mask)
    side = 64
    window = np.outer(np.hanning(side + 2)[1:-1], np.hanning(side + 2)[1:-1]).astype(np.float32)
    f = np.hypot(np.fft.fftfreq(2 * side)[:, None], np.fft.rfftfreq(2 * side)[None])
    band = f * ((f > 1 / 18) & (f < 1 / 2.2))
    found, seen = [], 0
    for top in range(0, rgb.shape[0] - side + 1, side // 2):
        for left in range(0, rgb.shape[1] - side + 1, side // 2):
            tile = np.s_[top : top + side, left : left + side]
            if mask is not None and mask[tile].mean() < 0.5:
                continue
            seen += 1
            if weight[tile].mean() < 0.25:
                continue
            power = np.abs(np.fft.rfft2(contrast[tile] * weight[tile] * window, s=(2 * side,) * 2)) ** 2 * band
            if power.max() > 0.012 * power.sum() > 0:
                found.append(1 / f.flat[power.argmax()])
    return float(np.median(found)) if len(found) >= max(2, 0.1 * seen) else 0.0

"""A swatch: what a photo's own stitches look like close up, without their colours; and laying it out on a design.

The swatch is a few square pieces of the photo's relief (local lightness contrast) from places where nothing but
stitches is seen. Laid out anew by image quilting (Efros and Freeman 2001), it shows any design in the photo's stitches,
at the photo's scale. Stitches run as they do on the photo: they do not turn with the shapes of the design.
"""

from __future__ import annotations

import io

import cv2
import numpy as np
from PIL import Image

from tambour.guides.photo.relief import clear_of
from tambour.guides.photo.seams import before_seam
from tambour.imaging.colour import lab_to_rgb, rgb_to_lab
from tambour.imaging.contrast import contrast_map
from tambour.imaging.texture import dominant_period

PIECE = 96  # px, side of a piece of the swatch
PIECES = 6
_REACH = 100.0  # steps of grey for a contrast of 1; 0 is where a piece shows something else
_BANK = 1500  # patches that are compared
_CLOSE = 4  # patches among which chance chooses


def cut_swatch(photo: np.ndarray, design: np.ndarray, mask: np.ndarray) -> bytes:
    """The swatch of a photo as a grey PNG, pieces below each other; b"" where there is too little to see.

    Args:
        photo, design: (H, W, 3) uint8, aligned; the design's borders of colour are left out.
        mask: (H, W) bool, stitched.
    """
    side = min(PIECE, *mask.shape)
    if side < 24 or not mask.any():
        return b""
    contrast, _ = contrast_map(photo, mask)
    clear = clear_of(design, mask)
    area = side * side
    cover = _sums(clear.astype(np.float32), side) / area
    energy = _sums(np.square(contrast) * clear, side) / np.maximum(area * cover, 1)
    allowed = cover >= max(0.3, min(0.95, 0.9 * cover.max()))
    if not allowed.any():
        return b""
    strong = np.quantile(energy[allowed], 0.95)  # what is flat is fabric taken for stitches
    allowed &= (energy <= strong) & (energy >= 0.35 * strong)
    fit = np.abs(np.log(energy + 1e-9) - np.log(np.median(energy[allowed]) + 1e-9)) + 2 * (1 - cover)
    fit[~allowed] = np.inf
    pieces = []
    while len(pieces) < PIECES and np.isfinite(fit.min()):
        top, left = np.unravel_index(fit.argmin(), fit.shape)
        box = np.s_[top : top + side, left : left + side]
        grey = np.clip(np.rint(contrast[box] * _REACH) + 128, 1, 255)
        pieces.append(np.where(clear[box], grey, 0).astype(np.uint8))
        away = 2 * side // 3
        fit[max(0, top - away) : top + away, max(0, left - away) : left + away] = np.inf
    file = io.BytesIO()
    Image.fromarray(np.vstack(pieces)).save(file, "PNG", optimize=True)
    return file.getvalue()


def lay_swatch(swatch: bytes, flat: np.ndarray, inside: np.ndarray, seed: int = 0) -> np.ndarray:
    """A flat design with the swatch's stitches where `inside` (H, W) is True: (H, W, 3) uint8.

    The same seed gives the same picture; patches overlap by a third and meet where they differ least.
    """
    with Image.open(io.BytesIO(swatch)) as image:
        sheet = np.asarray(image.convert("L"))
    pieces = sheet.reshape(-1, sheet.shape[1], sheet.shape[1])
    lab = rgb_to_lab(flat)
    relief = _quilt(pieces, inside, np.random.default_rng([seed, 0x5A7C]))
    light = np.clip(lab[..., 0] + relief * (lab[..., 0] + 16), 0, 100)  # the inverse of `contrast_map`
    return lab_to_rgb(np.dstack([np.where(inside, light, lab[..., 0]), lab[..., 1:]]))


def _sums(values: np.ndarray, side: int) -> np.ndarray:
    """Sums of all windows of `side` px, by their upper left corner."""
    sums = cv2.integral(values.astype(np.float64))
    return sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]


def _patch_side(pieces: np.ndarray) -> int:
    """Side of the patches, px: some three repeats of the stitches."""
    period = float(np.median([dominant_period(np.repeat(piece[..., None], 3, 2), piece > 0)[0] for piece in pieces]))
    return int(np.clip(3 * period if period else 40, min(36, pieces.shape[1]), min(60, pieces.shape[1])))


def _quilt(pieces: np.ndarray, inside: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Relief (H, W) float32 where `inside`, from pieces (N, S, S) uint8."""
    side = _patch_side(pieces)
    over = side // 3
    step = side - over
    bank = _bank(pieces, side, rng)
    flat_bank = bank.reshape(len(bank), -1)
    power = np.square(flat_bank)
    height, width = (-(-(extent - over) // step) * step + over for extent in inside.shape)
    relief, done = np.zeros((height, width), np.float32), np.zeros((height, width), bool)
    for top in range(0, height - over, step):
        for left in range(0, width - over, step):
            box = np.s_[top : top + side, left : left + side]
            if not inside[box].any():
                continue
            old, known = relief[box], done[box]
            number = int(rng.integers(len(bank)))
            if known.any():
                seen = known.ravel().astype(np.float32)
                cost = power @ seen - 2 * flat_bank @ (old.ravel() * seen)
                number = int(cost.argsort()[:_CLOSE][rng.integers(min(_CLOSE, len(bank)))])
            new = bank[number]
            fresh, error = np.ones_like(known), np.square(old - new)
            if known[:, :over].all():
                fresh[:, :over] &= ~before_seam(error[:, :over])
            if known[:over].all():
                fresh[:over] &= ~before_seam(error[:over].T).T
            share = np.where(known, cv2.GaussianBlur(fresh.astype(np.float32), (0, 0), 1.0), 1)
            relief[box], done[box] = share * new + (1 - share) * old, True
    return relief[: inside.shape[0], : inside.shape[1]]


def _bank(pieces: np.ndarray, side: int, rng: np.random.Generator) -> np.ndarray:
    """Patches (N, side, side) of contrast from all over the pieces, those that show the most stitches."""
    contrast = np.where(pieces > 0, (pieces.astype(np.float32) - 128) / _REACH, 0)
    patches = np.lib.stride_tricks.sliding_window_view(contrast, (side, side), (1, 2))[:, ::2, ::2]
    patches = patches.reshape(-1, side, side)
    cover = np.lib.stride_tricks.sliding_window_view(pieces > 0, (side, side), (1, 2))[:, ::2, ::2].mean((3, 4)).ravel()
    energy = np.square(patches).sum((1, 2)) / np.maximum(cover * side**2, 1)
    strong = np.flatnonzero(energy >= 0.6 * np.median(energy))
    best = strong[cover[strong] >= cover[strong].max() - 0.1]
    return patches[rng.permutation(best)[:_BANK]]

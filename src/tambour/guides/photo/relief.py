"""What a photo's stitches look like and how they lie in their regions, without their colours (method, section 9).

A relief is the photo's local lightness contrast as one yarn would show it, and how other yarn would (`tones`), with the
place of every pixel in its region: how far the border is, and which way the region runs there (`geometry`). Whether
stitches keep their direction relative to the picture, to the nearest border or to the region's long axis (the
orientation) is read from the photo itself. So stitches can be found for any place of a design (`quilt`).
"""

from __future__ import annotations

import io
import json
import math
from dataclasses import dataclass, field

import cv2
import numpy as np
from PIL import Image, PngImagePlugin

from tambour.errors import StyleError
from tambour.guides.photo.geometry import FACES, ORIENTATIONS, RegionGeometry, facing, region_geometry
from tambour.guides.photo.tones import PLAIN, SHARES, SPAN, YarnToneCurve
from tambour.imaging.colour import rgb_to_lab
from tambour.imaging.contrast import around_of, contrast_map
from tambour.imaging.orientation import directions

SIDE = 512  # px; of a larger photo the part with most stitches is kept
LEAST = 64  # px; smaller ones show too little
OPEN = 0.75  # share of yarn in what a region shows, under which its fabric shows through: open work
_CONTRAST, _DISTANCE, _ANGLE = 100.0, 4.0, 256 / np.pi  # steps of grey in the file
RIM = 6  # px under a border that are kept apart
_MOST = 2.0  # contrast that is kept; on black yarn a glint, or a neighbour's light, is many times its own
_FEW = 20  # px that say nothing
_LEAST = 0.02  # of the picture: with less that shows nothing but stitches, there is no relief
_FAINT = 0.01  # contrast of a photo that shows no stitches
_WIDE = 25.0  # px; lightness is compared with what is around it in the same colour
_MAIN = 300  # px of a colour that says anything
_DISTINCT = 15.0  # steps of CIELAB between colours and fabric, under which how much shows through cannot be known
_BORDER = 8.0  # steps of CIELAB between two colours of a design
_CLIPPED = 0.85  # of what white leaves, from which on a highlight may have been brighter
_TILT = (0, 0, 0, 0, 0, -0.07, -0.08)  # half of what the benchmark's development styles have, at `SHARES`
_STIFF = 0.15  # how far yarns must spread (steps squared) to count as much as these
_PICTURE = 0.05  # how much better another orientation must fit than the picture's
_WINDOW, _APART, _FULL = 48, 16, 0.95  # px of a window whose power is taken; px between two; share that is clear
_PLAINLY = 0.65  # of another orientation's sharpness: if the picture's is less, it is not the picture


@dataclass(frozen=True)
class Relief:
    """The stitches of a photo; arrays (H, W).

    Attributes:
        contrast: lightness contrast on yarn of L* `PLAIN`, about -1 to 1; in open work the photo's own.
        clear: bool, nothing but stitches of one region is seen.
        distance, angle: see `RegionGeometry`; the angle in `orientation`.
        orientation: of `ORIENTATIONS`, that in which stitches keep their direction.
        cover: share of yarn in the colours that regions show, the rest is fabric; 1: dense, below `OPEN` open work.
        tones: how other yarn shows it.
        rim: (`RIM`, `FACES`) contrast by px under the border and by where the border faces: how borders are raised.
    """

    contrast: np.ndarray
    clear: np.ndarray
    distance: np.ndarray
    angle: np.ndarray
    orientation: str
    cover: float
    tones: YarnToneCurve = field(default_factory=YarnToneCurve)
    rim: np.ndarray | None = None

    def to_bytes(self) -> bytes:
        """A PNG: contrast, distance and angle are its colours, what is clear its opacity."""
        planes = (
            np.clip(self.contrast * _CONTRAST + 128, 0, 255),
            np.clip(self.distance * _DISTANCE, 0, 255),
            np.mod(self.angle * _ANGLE, 256).clip(0, 255),
            self.clear * 255,
        )
        pixels = np.dstack([plane.astype(np.uint8) for plane in planes]) * self.clear[..., None].astype(np.uint8)
        metadata = PngImagePlugin.PngInfo()
        metadata.add_text("orientation", self.orientation)
        metadata.add_text("cover", repr(self.cover))
        metadata.add_text("tones", json.dumps([self.tones.level, self.tones.tilt]))
        if self.rim is not None:
            metadata.add_text("rim", json.dumps(np.round(self.rim, 4).tolist()))
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG", pnginfo=metadata, optimize=True)
        return file.getvalue()

    @classmethod
    def of_bytes(cls, data: bytes) -> Relief:
        """The inverse of `to_bytes`, but for rounding.

        Raises:
            StyleError: the bytes are no relief.
        """
        try:
            with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
                orientation, cover = (
                    image.text["orientation"],
                    float(image.text.get("cover", 1)),
                )  # earlier files do not tell
                tones = np.array(json.loads(image.text.get("tones", "[]")) or np.zeros((2, len(SHARES))), float)
                rim = np.array(json.loads(image.text["rim"]), float) if "rim" in image.text else None
                if (
                    orientation not in ORIENTATIONS
                    or not 0 < cover <= 1
                    or tones.shape != (2, len(SHARES))
                    or not np.abs(tones).max() <= _MOST
                    or (rim is not None and not (rim.shape == (RIM, FACES) and np.abs(rim).max() <= _MOST))
                    or image.mode != "RGBA"
                    or not LEAST <= min(image.size) <= max(image.size) <= SIDE
                ):
                    raise ValueError("not what `to_bytes` writes")
                pixels = np.asarray(image).astype(np.float32)
        except (OSError, SyntaxError, ValueError, KeyError, AttributeError, Image.DecompressionBombError):
            raise StyleError("The style's relief cannot be read.", "Learn the style again.") from None
        clear = pixels[..., 3] > 127
        if not clear.any():
            raise StyleError("The style's relief shows no stitches.", "Learn the style again.")
        contrast = np.where(clear, (pixels[..., 0] - 128) / _CONTRAST, 0)
        distance, angle = pixels[..., 1] / _DISTANCE, (pixels[..., 2] + 0.5) / _ANGLE
        return cls(
            contrast, clear, distance, angle, orientation, cover, YarnToneCurve(*map(tuple, tones.tolist())), rim
        )


def cut_relief(photo: np.ndarray, design: np.ndarray, mask: np.ndarray) -> bytes:
    """The relief of a photo as a PNG; b"" where there is too little to see.

    Args:
        photo, design: (H, W, 3) uint8, aligned; the design's borders of colour are left out.
        mask: (H, W) bool, stitched.
    """
    clear = clear_of(design, mask)
    if clear.mean() < _LEAST or min(mask.shape) < LEAST:
        return b""
    contrast, tones, cover = contrast_of(photo, design, mask)
    local = contrast_map(photo, mask)[0]
    if float(local[clear].std()) < _FAINT:
        return b""
    region = region_geometry(design, mask)
    orientation = orientation_of(local, clear, region)
    side = tuple(min(SIDE, extent) for extent in mask.shape)
    sums = cv2.integral(clear.astype(np.uint8))
    filled = sums[side[0] :, side[1] :] - sums[: -side[0], side[1] :] - sums[side[0] :, : -side[1]]
    filled = filled + sums[: -side[0], : -side[1]]
    top, left = np.unravel_index(filled.argmax(), filled.shape)
    box = np.s_[top : top + side[0], left : left + side[1]]
    planes = (contrast[box], clear[box], region.distance[box], region.angles[orientation][box])
    return Relief(*planes, orientation, cover, tones, rim_of(contrast, region)).to_bytes()


def contrast_of(photo: np.ndarray, design: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, YarnToneCurve, float]:
    """Contrast, tones and cover of a photo's relief, everywhere in it; arguments as of `cut_relief`."""
    own, cover = _own_contrast(photo, design, mask)
    if cover < OPEN:
        return own, YarnToneCurve(), cover
    tones, contrast = _on_plain(photo, design, clear_of(design, mask), own)
    return contrast, tones, cover


def orientation_of(contrast: np.ndarray, clear: np.ndarray, region: RegionGeometry) -> str:
    """The orientation in which stitches keep their direction best.

    That in which their power is sharpest, where this is plain. Else that with the largest mean resultant length of
    twice their angle: it tells round stitches in rows (sequins), but no rows that stitches cross (chenille).
    """
    sharp = _sharpness(contrast * clear, clear, region)
    best = max(ORIENTATIONS, key=lambda name: sharp[name])
    if sharp["picture"] < _PLAINLY * sharp[best]:
        return best
    thread, weight = directions(cv2.GaussianBlur(contrast, (0, 0), 1.2), clear.astype(np.float32), 4)
    weight = np.where(clear, np.minimum(weight, np.quantile(weight[clear], 0.9)), 0)
    agreed = {
        name: abs((weight * np.exp(2j * (thread - angle))).sum()) / (weight.sum() + 1e-9)
        for name, angle in region.angles.items()
    }
    agreed["picture"] += _PICTURE
    return max(ORIENTATIONS, key=lambda name: agreed[name])


def _sharpness(contrast: np.ndarray, clear: np.ndarray, region: RegionGeometry) -> dict[str, float]:
    """By orientation: how few frequencies hold the power of windows that are turned into it, 1 if one does.

    The sum of squares of the windows' mean power spectrum; 0 where no window is full of stitches.
    """
    half, reach = _WINDOW // 2, math.ceil(_WINDOW / math.sqrt(2))
    full = cv2.blur(clear.astype(np.float32), (_WINDOW, _WINDOW), borderType=cv2.BORDER_CONSTANT) > _FULL
    centres = reach + _APART * np.argwhere(full[reach:-reach:_APART, reach:-reach:_APART])  # (N, 2): row, column
    taper = np.outer(np.hanning(_WINDOW), np.hanning(_WINDOW))
    sharp = {}
    for name, angles in region.angles.items():
        power = np.zeros((_WINDOW, _WINDOW))
        for row, column in centres:
            cosine, sine = np.cos(angles[row, column]), np.sin(angles[row, column])
            turn = np.array([[cosine, -sine], [sine, cosine]])
            turn = np.c_[turn, (column, row) - turn @ (half, half)]  # from the window to the picture
            way = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
            window = cv2.warpAffine(contrast, turn, (_WINDOW, _WINDOW), flags=way)
            own = np.square(np.abs(np.fft.fft2(window * taper)))
            power += own / (own.sum() + 1e-9)
        sharp[name] = float(np.square(power).sum() / max(power.sum(), 1e-9) ** 2)
    return sharp


def rim_of(contrast: np.ndarray, region: RegionGeometry) -> np.ndarray:
    """(`RIM`, `FACES`) median contrast (H, W) by px under a border and by where the border faces; see `facing`.

    A median, for found borders are off by a px or two: what is not the region's own comes from either side.
    """
    depth = np.where(region.labels > 0, region.distance, RIM).astype(int)
    face = np.rint(facing(region)).astype(int) % FACES
    rim = np.zeros((RIM, FACES))
    for row in range(RIM):
        rim[row] = np.median(contrast[depth == row]) if (depth == row).sum() > _FEW else 0
        for one in range(FACES):
            here = (depth == row) & (face == one)
            if here.sum() > _FEW:
                rim[row, one] = np.median(contrast[here])
    return rim.clip(-_MOST, _MOST)


def clear_of(design: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Where nothing but stitches of one colour is seen, (H, W) bool."""
    lab = rgb_to_lab(design)
    border = np.zeros(mask.shape, np.uint8)
    border[:, 1:] |= np.abs(np.diff(lab, axis=1)).sum(-1) > _BORDER
    border[1:] |= np.abs(np.diff(lab, axis=0)).sum(-1) > _BORDER
    around = np.ones((5, 5), np.uint8)
    return (cv2.erode(mask.astype(np.uint8), around) > 0) & (cv2.dilate(border, around) == 0)


def _own_contrast(photo: np.ndarray, design: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, float]:
    """Lightness contrast (H, W) with what is around in the same colour, and how much of what is seen is yarn.

    Colours of a few px keep the contrast with whatever is around (`imaging.contrast`).

    How much: colours of an embroidery lie between those of its design (yarn alone) and the fabric's; where, by least
    squares. 1 where there is no bare fabric to compare with, or where no colour differs from it.
    """
    seen, flat = rgb_to_lab(photo), rgb_to_lab(design)
    contrast = contrast_map(photo, mask)[0]
    fabric = np.median(seen[~mask], 0) if (~mask).mean() > _LEAST else None
    name, names, counts = _main_colours(design, mask)
    size = tuple(max(1, round(side / 4)) for side in mask.shape[::-1])
    away = apart = 0.0
    for one in names:
        here = name == one
        small = cv2.resize(here.astype(np.float32), size, interpolation=cv2.INTER_AREA)
        light = cv2.resize(seen[..., 0] * here, size, interpolation=cv2.INTER_AREA)
        small, light = (cv2.GaussianBlur(part, (0, 0), _WIDE / 4) for part in (small, light))
        around = cv2.resize(light / np.maximum(small, 1e-3), mask.shape[::-1], interpolation=cv2.INTER_LINEAR)
        contrast[here] = ((seen[..., 0] - around) / (around + 16))[here]
        if fabric is not None:
            yarn = flat[here].mean(0) - fabric
            away += here.sum() * float(yarn @ (seen[here].mean(0) - fabric))
            apart += here.sum() * float(yarn @ yarn)
    distinct = fabric is not None and apart > _DISTINCT**2 * counts.sum()
    return contrast, float(np.clip(away / apart, 0.1, 1)) if distinct else 1.0


def _main_colours(design: np.ndarray, where: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every pixel's colour as a number (H, W), -1 elsewhere; the numbers of `_MAIN` px or more; how many px each."""
    name = np.where(where, design.astype(np.int64) @ np.array([65536, 256, 1]), -1)
    names, counts = np.unique(name[where], return_counts=True)
    return name, names[counts >= _MAIN], counts[counts >= _MAIN]


def _on_plain(
    photo: np.ndarray, design: np.ndarray, clear: np.ndarray, contrast: np.ndarray
) -> tuple[YarnToneCurve, np.ndarray]:
    """How contrast depends on the yarn, as far as the photo's colours tell, and what yarn of L* `PLAIN` would show.

    By quantiles: in every colour the same share of places is darker. White leaves pale yarn no room for highlights, so
    what comes near it tells nothing of brighter ones.
    """
    around = np.clip(around_of(rgb_to_lab(photo)[..., 0], contrast), 1, 100)
    name, names, counts = _main_colours(design, clear)
    if not len(names):
        return YarnToneCurve(), contrast
    yarns = np.array([around[name == one].mean() for one in names])
    seen = np.array([np.quantile(contrast[name == one], SHARES) for one in names])  # (K, Q)
    room = (100 - yarns) / (yarns + 16)
    steps, weight = (yarns - PLAIN) / SPAN, counts / counts.sum()
    level, tilt = np.zeros(len(SHARES)), np.zeros(len(SHARES))
    for number in range(len(SHARES)):
        unclipped = seen[:, number] < _CLIPPED * room
        if not unclipped.any():
            unclipped = yarns == yarns.min()
        x, y, w = steps[unclipped], seen[unclipped, number], weight[unclipped]
        middle, mean = np.average(x, weights=w), np.average(y, weights=w)
        agreed = (w * (x - middle) * (y - mean)).sum() + _STIFF * _TILT[number]
        tilt[number] = agreed / ((w * (x - middle) ** 2).sum() + _STIFF)
        level[number] = mean - tilt[number] * middle
    level = np.maximum.accumulate(level + 1e-4 * np.arange(len(SHARES))).clip(-_MOST, _MOST)
    tilt = tilt.clip(-_MOST, _MOST)
    plain = contrast.copy()
    for one, quantiles in zip(names, seen, strict=True):
        here = name == one
        plain[here] += np.interp(contrast[here], quantiles, level - quantiles)
    return YarnToneCurve(tuple(level.tolist()), tuple(tilt.tolist())), plain.astype(np.float32)

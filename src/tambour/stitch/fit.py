"""Which stitch is on a photo? The nearest family and parameters by texture statistics of rendered patches.

First every family is rendered at several thread widths and proportions (an atlas that is made once a process), then
the nearest few families are refined by coordinate descent. Texture statistics see neither colour nor rotation, so the
thread direction is read from the photo's structure tensor afterwards.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from itertools import product

import cv2
import numpy as np
from PIL import Image

from tambour.errors import InputError
from tambour.stitch.parameters import FAMILIES, RANGES, Fabric, Stitch, default_stitch
from tambour.stitch.render import render
from tambour.texture import texture_distance, texture_statistics

PATCH = 192  # px, side of a rendered patch
WINDOW = 256  # px, side of the windows that are read from the photo
SCALE = 20.0  # px a mm of the patches
WIDTHS = (3.5, 5.5, 8.5, 13.0, 20.0)  # px, thread widths of the atlas
_PROPORTIONS = {"satin": (28.0,), "cross": (3.1,), "knot": (2.6, 3.4), "sequin": (4.5, 6.0), "chenille": (1.3, 1.8)}
_SHAPED = {"chain": "contour", "chenille": "contour"}  # the others: "axis"
_STEPS = {"thread_width": 0.22, "stitch_length": 0.2, "density": 0.08, "relief": 0.25, "twist": 0.25, "sheen": 0.25,
          "pile": 0.25}  # fmt: skip
_LOGARITHMIC = ("thread_width", "stitch_length")


def fit_stitch(photo: Image.Image | np.ndarray, mask: np.ndarray | None = None, *, px_per_mm: float = SCALE) -> Stitch:
    """Fit family and parameters to the stitches on a photo; about 5 s on one core, less when called again.

    Args:
        photo: RGB picture or (H, W, 3) uint8 array; threads of 3 to 25 px can be told apart.
        mask: (H, W) bool, True where there are stitches; None: everywhere.
        px_per_mm: the photo's scale. The lengths are such that `render` at this scale gives threads as wide as the
            photo's.
    Raises:
        InputError: the photo is smaller than 32 px a side.
    """
    pixels = np.asarray(photo.convert("RGB")) if isinstance(photo, Image.Image) else photo
    if min(pixels.shape[:2]) < 32:
        raise InputError(
            f"A photo of {pixels.shape[1]} x {pixels.shape[0]} px shows no stitches.", "Give 32 px a side or more."
        )
    mask = np.ones(pixels.shape[:2], bool) if mask is None or not np.any(mask) else np.asarray(mask, bool)
    target = _read(pixels, mask)
    rough = [_refine(stitch, target, _LOGARITHMIC, 2) for stitch in _leaders(target, 5)]
    rough = sorted(rough, key=lambda found: found[1])[:2]
    stitch, _ = min((_refine(stitch, target, tuple(_STEPS), 2) for stitch, _ in rough), key=lambda found: found[1])
    angle, field = _direction(pixels, mask, stitch)
    ratio = SCALE / px_per_mm
    lengths = {name: float(np.clip(getattr(stitch, name) * ratio, *RANGES[name])) for name in _LOGARITHMIC}
    return replace(stitch, angle=angle, angle_field=field, **lengths)


def _read(pixels: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Mean texture statistics (D,) of up to four well covered windows of the photo."""
    side = min(WINDOW, *pixels.shape[:2])
    cover = cv2.boxFilter(mask.astype(np.float32), -1, (side, side), anchor=(0, 0), borderType=cv2.BORDER_CONSTANT)
    cover = cover[: mask.shape[0] - side + 1, : mask.shape[1] - side + 1].copy()
    found = []
    for _ in range(4):
        top, left = np.unravel_index(cover.argmax(), cover.shape)
        if found and cover[top, left] < 0.3:
            break
        box = np.s_[top : top + side, left : left + side]
        found.append(texture_statistics(pixels[box], mask[box]))
        cover[max(0, top - side // 2) : top + side // 2, max(0, left - side // 2) : left + side // 2] = 0
    return np.mean(found, 0)


@lru_cache
def _sampler() -> Image.Image:
    """A patch with a disc, a ring and two bars: what outlines and colour borders do to a texture."""
    pixels = np.full((PATCH, PATCH, 3), (70, 120, 170), np.uint8)
    unit = PATCH / 8
    cv2.circle(pixels, (round(2.4 * unit), round(2.6 * unit)), round(2.2 * unit), (190, 70, 60), -1)
    cv2.circle(pixels, (round(2.4 * unit), round(2.6 * unit)), round(0.9 * unit), (225, 190, 90), -1)
    bar = np.int32(unit * np.float32([(4.6, 7.6), (7.6, 3.2), (6.2, 2.2), (3.4, 6.6)]))
    cv2.fillPoly(pixels, [bar], (90, 150, 90))
    cv2.rectangle(pixels, (0, round(5.8 * unit)), (round(2.6 * unit), PATCH), (150, 110, 160), -1)
    return Image.fromarray(pixels)


@lru_cache(maxsize=1024)
def _patch_statistics(stitch: Stitch) -> np.ndarray:
    """Texture statistics (D,) of a patch in `stitch`: plain for a constant angle, with shapes for the other fields."""
    plain = stitch.angle_field == "constant"
    design = Image.new("RGB", (PATCH, PATCH), (150, 120, 110)) if plain else _sampler()
    patch = render(design, stitch, Fabric("plain"), px_per_mm=SCALE, background="stitch")
    return texture_statistics(np.asarray(patch.image))


@lru_cache
def _atlas() -> tuple[tuple[Stitch, ...], np.ndarray]:
    """Every family at several widths and proportions, and their statistics (N, D)."""
    stitches = []
    for family, width, field in product(FAMILIES, WIDTHS, ("constant", "shaped")):
        if field == "shaped" and family in ("cross", "knot", "sequin"):  # worked on a grid whatever the shape
            continue
        width = width / SCALE * (1.6 if family == "chenille" else 0.7 if family in ("knot", "sequin") else 1)
        field = _SHAPED.get(family, "axis") if field == "shaped" else field
        typical = replace(default_stitch(family), angle_field=field, angle=30.0 if field == "constant" else 0.0)
        for proportion in _PROPORTIONS.get(family, (3.4, 5.5)):
            length = min(width * proportion, RANGES["stitch_length"][1])
            stitches.append(replace(typical, thread_width=width, stitch_length=length))
    return tuple(stitches), np.stack([_patch_statistics(stitch) for stitch in stitches])


def _leaders(target: np.ndarray, count: int) -> list[Stitch]:
    """The atlas' nearest stitch of each of the `count` nearest families."""
    stitches, statistics = _atlas()
    leaders: dict[str, Stitch] = {}
    for index in np.abs(statistics - target).sum(1).argsort():
        leaders.setdefault(stitches[index].family, stitches[index])
    return list(leaders.values())[:count]


def _refine(stitch: Stitch, target: np.ndarray, names: tuple[str, ...], rounds: int) -> tuple[Stitch, float]:
    """Coordinate descent on `names`, halving the steps each round: (stitch, distance)."""
    distance = texture_distance(_patch_statistics(stitch), target)
    for turn in range(rounds):
        for name in names:
            for sign in (1, -1):
                step, value = sign * _STEPS[name] / 2**turn, getattr(stitch, name)
                value = value * np.exp(step) if name in _LOGARITHMIC else value + step
                changes = {name: float(np.clip(value, *RANGES[name]))}
                if name == "thread_width":  # the proportions stay
                    changes["stitch_length"] = float(
                        np.clip(stitch.stitch_length * np.exp(step), *RANGES["stitch_length"])
                    )
                trial = replace(stitch, **changes)
                found = texture_distance(_patch_statistics(trial), target)
                if found < distance:
                    stitch, distance = trial, found
                    break
    return stitch, distance


def _direction(pixels: np.ndarray, mask: np.ndarray, stitch: Stitch) -> tuple[float, str]:
    """Thread angle in degrees and angle field, from the structure tensor at the scale of a thread.

    Threads that run one way over the whole photo give "constant"; else each region had its own direction: "axis" for
    satin and tatami, "contour" for families that are worked in rows along outlines.
    """
    grey = cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGB2GRAY).astype(np.float32)
    width = stitch.thread_width * SCALE
    fine = cv2.GaussianBlur(grey, (0, 0), max(0.8, 0.15 * width))
    gx, gy = cv2.Sobel(fine, cv2.CV_32F, 1, 0), cv2.Sobel(fine, cv2.CV_32F, 0, 1)
    inside = cv2.erode(mask.astype(np.uint8), np.ones((5, 5), np.uint8)).astype(np.float32)
    strength = np.minimum(gx * gx + gy * gy, 4 * float(np.median(gx * gx + gy * gy)) + 1) * inside
    double = 2 * np.arctan2(gy, gx)
    cosine, sine = float((strength * np.cos(double)).sum()), float((strength * np.sin(double)).sum())
    coherence = np.hypot(cosine, sine) / max(float(strength.sum()), 1e-6)
    angle = float((np.degrees(0.5 * np.arctan2(sine, cosine)) + 180) % 180 - 90)  # threads lie across the gradient
    if stitch.family in ("cross", "knot", "sequin"):
        return (0.0 if stitch.family != "sequin" else angle), "constant"
    if coherence > 0.25:
        return angle, "constant"
    return 0.0, "axis" if stitch.family in ("satin", "tatami") else "contour"

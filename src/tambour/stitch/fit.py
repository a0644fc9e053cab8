"""A photo of stitches -> the family and parameters whose rendered patches have the nearest texture statistics.

An atlas holds the statistics of every family at several thread widths and proportions (stored beside this module; made
again when the renderer has changed); the nearest few families are refined by coordinate descent. Texture statistics
see neither colour nor rotation, so the thread direction is read from the photo afterwards.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from itertools import product
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from tambour.errors import InputError
from tambour.imaging.orientation import coherence, structure_tensor
from tambour.imaging.texture import dominant_period, texture_distance, texture_statistics
from tambour.stitch.families import FAMILIES
from tambour.stitch.parameters import RANGES, Fabric, Stitch, default_stitch
from tambour.stitch.render import render

ATLAS = Path(__file__).with_name("atlas.npy")  # written by `python -m tambour.stitch.fit`
PATCH = 192  # px, side of a rendered patch
WINDOW = 192  # px, side of the windows that are read from the photo
SCALE = 20.0  # px a mm of the patches
WIDTHS = (3.5, 5.5, 8.5, 13.0, 20.0)  # px, thread widths of the atlas, for a family of scale 1
_STEPS = {"thread_width": 0.22, "stitch_length": 0.2, "density": 0.08, "relief": 0.25, "twist": 0.25, "sheen": 0.25,
          "pile": 0.25}  # fmt: skip
_LOGARITHMIC = ("thread_width", "stitch_length")


def fit_stitch(
    photo: Image.Image | np.ndarray,
    mask: np.ndarray | None = None,
    *,
    family: str | None = None,
    px_per_mm: float = SCALE,
) -> Stitch:
    """Fit family and parameters to the stitches on a photo; about 3 s on one core.

    Args:
        photo: RGB picture or (H, W, 3) uint8 array; threads of 3 to 25 px can be told apart.
        mask: (H, W) bool, True where there are stitches; None: everywhere.
        family: one of FAMILIES, where it is known; None: the one that fits best.
        px_per_mm: the photo's scale. The lengths are such that `render` at this scale gives threads as wide as the
            photo's.

    Raises:
        InputError: the photo is smaller than 32 px a side, or there is no such family.
    """
    pixels = np.asarray(photo.convert("RGB")) if isinstance(photo, Image.Image) else photo
    if min(pixels.shape[:2]) < 32:
        raise InputError(
            f"A photo of {pixels.shape[1]} x {pixels.shape[0]} px shows no stitches.", "Give 32 px a side or more."
        )
    if family is not None:
        default_stitch(family)
    mask = np.ones(pixels.shape[:2], bool) if mask is None or not np.any(mask) else np.asarray(mask, bool)
    target = _photo_statistics(pixels, mask)
    period, across = dominant_period(pixels, mask)
    nearest = _nearest_stitches(target, (family,) if family else _eligible_families(pixels, mask))
    starts = dict.fromkeys(nearest + [_with_row_period(stitch, period, 1.5) for stitch in nearest])  # without repeats
    rough: dict[str, tuple[Stitch, float]] = {}
    for stitch in starts:
        found = _refine(stitch, target, _LOGARITHMIC, 2)
        if stitch.family not in rough or found[1] < rough[stitch.family][1]:
            rough[stitch.family] = found
    best = sorted(rough.values(), key=lambda found: found[1])[:3]
    stitch, _ = min((_refine(stitch, target, tuple(_STEPS), 2) for stitch, _ in best), key=lambda found: found[1])
    stitch = _with_row_period(stitch, period, 1.4)
    angle, field = _read_direction(pixels, mask, stitch, across if period else None)
    ratio = SCALE / px_per_mm
    lengths = {name: float(np.clip(getattr(stitch, name) * ratio, *RANGES[name])) for name in _LOGARITHMIC}
    return replace(stitch, angle=angle, angle_field=field, **lengths)


def _photo_statistics(pixels: np.ndarray, mask: np.ndarray) -> np.ndarray:
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
def _shapes() -> Image.Image:
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
    design = Image.new("RGB", (PATCH, PATCH), (150, 120, 110)) if plain else _shapes()
    patch = render(design, stitch, Fabric("plain"), px_per_mm=SCALE, background="stitch")
    return texture_statistics(np.asarray(patch.image))


def _atlas_stitches() -> tuple[Stitch, ...]:
    """Every family at several thread widths and proportions."""
    stitches = []
    for family, width, shaped in product(FAMILIES.values(), WIDTHS, (False, True)):
        field = family.fit.shaped_field if shaped else "constant"
        if field is None:
            continue
        width = width / SCALE * family.fit.width_scale
        typical = replace(default_stitch(family.name), angle_field=field, angle=0.0 if shaped else 30.0)
        for ratio in family.fit.ratios:
            length = min(width * ratio, RANGES["stitch_length"][1])
            stitches.append(replace(typical, thread_width=width, stitch_length=length))
    return tuple(stitches)


def make_atlas() -> np.ndarray:
    """Statistics (N, D) of every stitch of the atlas, rendered now; some seconds."""
    return np.stack([_patch_statistics(stitch) for stitch in _atlas_stitches()])


@lru_cache
def _atlas() -> tuple[tuple[Stitch, ...], np.ndarray]:
    """The atlas' stitches and their statistics (N, D): the stored ones if they are what is rendered today."""
    stitches = _atlas_stitches()
    stored = np.load(ATLAS) if ATLAS.exists() else np.zeros((0, 0), np.float32)
    probes = range(0, len(stitches), len(stitches) // 3)
    shaped = stored.shape == (len(stitches), _patch_statistics(stitches[0]).size)
    if shaped and all(texture_distance(stored[i], _patch_statistics(stitches[i])) < 0.03 for i in probes):
        return stitches, stored
    return stitches, make_atlas()


def _eligible_families(pixels: np.ndarray, mask: np.ndarray) -> tuple[str, ...]:
    """Families that fit how parallel the threads are, in windows of some threads: the one measure on which photos and
    renderings agree. Below 0.34 it is a pattern of points and crosses, above 0.42 of threads side by side."""
    light = cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGB2LAB)[..., 0].astype(np.float32)
    inside = cv2.erode(mask.astype(np.uint8), np.ones((7, 7), np.uint8)).astype(np.float32)
    parallel = 0.0
    for sigma in (1.0, 2.0):
        fine = cv2.GaussianBlur(light, (0, 0), sigma)
        fine -= cv2.GaussianBlur(fine, (0, 0), 6 * sigma)
        tensor = structure_tensor(fine, inside, sigma=10)
        weight = np.sqrt(tensor[..., 2]) * inside
        parallel = max(parallel, float((coherence(tensor) * weight).sum() / (weight.sum() + 1e-6)))
    textures = {texture for texture, fits in (("points", parallel <= 0.42), ("threads", parallel >= 0.34)) if fits}
    return tuple(family.name for family in FAMILIES.values() if family.fit.chosen_on in textures)


def _nearest_stitches(target: np.ndarray, families: tuple[str, ...]) -> list[Stitch]:
    """The atlas' nearest stitch of each of the families."""
    stitches, statistics = _atlas()
    nearest: dict[str, Stitch] = {}
    for index in np.abs(statistics - target).sum(1).argsort():
        if stitches[index].family in families:
            nearest.setdefault(stitches[index].family, stitches[index])
    return list(nearest.values())


def _misfit(stitch: Stitch, target: np.ndarray) -> float:
    """Texture distance, plus how much better than the usual families a rare one has to be."""
    return texture_distance(_patch_statistics(stitch), target) + FAMILIES[stitch.family].fit.rarity


def _refine(stitch: Stitch, target: np.ndarray, names: tuple[str, ...], rounds: int) -> tuple[Stitch, float]:
    """Coordinate descent on `names`, halving the steps each round: (stitch, distance)."""
    distance = _misfit(stitch, target)
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
                found = _misfit(trial, target)
                if found < distance:
                    stitch, distance = trial, found
                    break
    return stitch, distance


def _read_direction(pixels: np.ndarray, mask: np.ndarray, stitch: Stitch, across: float | None) -> tuple[float, str]:
    """Thread angle in degrees and angle field. `across`: radians, the direction in which the texture repeats, or None.

    Threads that run one way over the whole photo (by the structure tensor) give "constant", with the angle across
    which the rows repeat; else each region had its own direction: the one that its family has.
    """
    direction = FAMILIES[stitch.family].fit.direction
    if direction == "none":
        return 0.0, "constant"
    grey = cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGB2GRAY).astype(np.float32)
    fine = cv2.GaussianBlur(grey, (0, 0), max(0.8, 0.15 * stitch.thread_width * SCALE))
    tensor = structure_tensor(fine)
    inside = cv2.erode(mask.astype(np.uint8), np.ones((5, 5), np.uint8)).astype(np.float32)
    power = tensor[..., 2]
    weight = np.minimum(1, 4 * float(np.median(power)) / np.maximum(power, 1e-3)) * inside  # borders count no more
    cosine, sine, energy = (float((weight * tensor[..., part]).sum()) for part in range(3))
    if direction != "constant" and np.hypot(cosine, sine) / max(energy, 1e-6) < 0.25:
        return 0.0, direction
    if across is None:
        across = 0.5 * np.arctan2(sine, cosine)
    return float((np.degrees(across) + 180) % 180 - 90), "constant"


def _with_row_period(stitch: Stitch, period: float, most: float) -> Stitch:
    """The thread width at which rows repeat every `period` px, if that is within a factor `most` of what it was."""
    ratio = period * stitch.density / (stitch.thread_width * SCALE)
    if not FAMILIES[stitch.family].fit.rows_repeat or not 1 / most < ratio < most:
        return stitch
    return replace(stitch, thread_width=float(np.clip(stitch.thread_width * ratio, *RANGES["thread_width"])))


if __name__ == "__main__":
    np.save(ATLAS, make_atlas())

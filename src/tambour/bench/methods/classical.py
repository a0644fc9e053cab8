"""Rivals without a model: PatchMatch image analogies, and optimal transport of patches.

Both are given what ours is given, the pair and the design, and both transfer *relief*: lightness of the embroidery
minus that of its design. Colour comes from the new design. (On colour itself either would copy the reference's
palette, which is known to be wrong here; this is the stronger rival.)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image

from tambour.bench.cases import Target
from tambour.bench.methods.swatch import cut_swatch, lay_swatch
from tambour.bench.methods.task import Method, Task, stitched
from tambour.imaging.colour import lab_to_rgb, rgb_to_lab
from tambour.imaging.geometry import flatten
from tambour.progress import Progress

LEVELS = 3  # of the pyramid, each half as large
_FAR = 24.0  # px at full size; further from a border it is simply the inside


@dataclass(frozen=True)
class Layer:
    """A pair or a target, as analogies see it.

    Attributes:
        guide: (H, W, G) float32: where a pixel lies (on stitches, how far from the next border of a colour area).
        relief: (H, W) float32, lightness in steps of L*; of a target the synthesis so far.
        inside: (H, W) bool, stitched.
    """

    guide: np.ndarray
    relief: np.ndarray
    inside: np.ndarray


def borders(flat: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """(H, W, 3) float32 guide of a flat picture: on stitches or not, and depth in its colour area, on either."""
    steps = (flat >> 4).astype(np.int64) @ np.array([256, 16, 1])
    change = np.zeros(steps.shape, np.uint8)
    change[:, 1:] |= steps[:, 1:] != steps[:, :-1]
    change[1:] |= steps[1:] != steps[:-1]
    depth = cv2.distanceTransform(1 - change, cv2.DIST_L2, 5)
    depth = np.minimum(depth, _FAR) / _FAR
    on = inside.astype(np.float32)
    return np.dstack([on, depth * on, depth * (1 - on)]).astype(np.float32)


def relief_of(task: Task) -> tuple[np.ndarray, np.ndarray]:
    """(H, W) lightness of the embroidery minus that of its design, and the design (H, W, 3) on the fabric."""
    design = np.asarray(flatten(task.style.design, task.style.fabric))
    embroidery = np.asarray(task.style.embroidery.convert("RGB"))
    return rgb_to_lab(embroidery)[..., 0] - rgb_to_lab(design)[..., 0], design


def shaded(flat: Image.Image, relief: np.ndarray) -> Image.Image:
    """A flat picture with a relief laid on its lightness."""
    lab = rgb_to_lab(np.asarray(flat))
    lab[..., 0] = np.clip(lab[..., 0] + relief, 0, 100)
    return Image.fromarray(lab_to_rgb(lab))


def pyramid(layer: Layer) -> list[Layer]:
    """A layer at `LEVELS` sizes, the smallest first."""
    found = [layer]
    while len(found) < LEVELS:
        last = found[-1]
        size = tuple(-(-side // 2) for side in last.relief.shape[::-1])
        guide, relief = (cv2.resize(part, size, interpolation=cv2.INTER_AREA) for part in (last.guide, last.relief))
        found.append(Layer(guide, relief, guide[..., 0] > 0.5))
    return found[::-1]


# -- image analogies --------------------------------------------------------------------------------------------------

PATCH = 9  # px, side of a patch at every level
STRIDE = 3  # px between the patches that are matched
ROUNDS = 4  # of matching and copying a level
GUIDE = 12.0  # weight of the guide against steps of L*
EVEN = 0.5  # weight of how often a place of the source is used already (Kaspar et al. 2015, section 3.2)


class Patches:
    """Patches of a layer, gathered by their centres (N, 2); `weight` 0 leaves the relief out."""

    def __init__(self, layer: Layer, weight: float = 1.0) -> None:
        self.weight = weight
        reach = PATCH // 2
        rim = ((reach, reach), (reach, reach))
        relief = np.pad(layer.relief, rim, mode="reflect")
        guide = np.pad(layer.guide, (*rim, (0, 0)), mode="reflect")
        self.relief = np.lib.stride_tricks.sliding_window_view(relief, (PATCH, PATCH))  # (H, W, P, P)
        self.guide = np.lib.stride_tricks.sliding_window_view(guide, (PATCH, PATCH), (0, 1))[..., ::4, ::4]
        self.shape = layer.relief.shape

    def features(self, at: np.ndarray) -> np.ndarray:
        """(N, 2) centres -> (N, D) float32 whose squared distances are the analogy's."""
        y, x = at.T
        relief = self.relief[y, x].reshape(len(at), -1) * self.weight
        guide = self.guide[y, x].reshape(len(at), -1) * GUIDE
        return np.concatenate([relief, guide * np.sqrt(relief.shape[1] / guide.shape[1])], 1)


def match(
    source: Patches,
    target: Patches,
    places: np.ndarray,
    grid: tuple[int, int],
    nearest: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """PatchMatch (Barnes et al. 2009, section 3): propagation and random search, all patches of the grid at once.

    Args:
        places: (N, 2) centres in the target, in rows of `grid`.
        nearest: (N, 2) centres in the source so far.

    Returns: better ones.
    """
    wanted = target.features(places)
    limit = np.array(source.shape) - 1
    used = np.zeros(source.shape, np.float32)
    np.add.at(used, tuple(nearest.T), 1)
    used = cv2.blur(used, (PATCH, PATCH))
    used /= max(float(used.mean()), 1e-6)
    first = np.square(source.features(nearest) - wanted).sum(1)
    price = EVEN * float(np.median(first))

    def costs(candidates: np.ndarray) -> np.ndarray:
        return np.square(source.features(candidates) - wanted).sum(1) + price * used[tuple(candidates.T)]

    cost = costs(nearest)

    def try_out(candidates: np.ndarray) -> None:
        nonlocal nearest, cost
        candidates = np.clip(candidates, 0, limit)
        found = costs(candidates)
        better = found < cost
        nearest, cost = np.where(better[:, None], candidates, nearest), np.where(better, found, cost)

    for _ in range(2):
        for axis in (0, 1):
            for step in (1, -1):
                shifted = np.roll(nearest.reshape(*grid, 2), step, axis)
                offset = np.zeros(2, int)
                offset[axis] = step * STRIDE
                try_out((shifted + offset).reshape(-1, 2))
        radius = max(limit)
        while radius >= 1:  # windows that shrink by half, as in section 3.2
            try_out(nearest + rng.integers(-radius, radius + 1, nearest.shape))
            radius //= 2
    return nearest


def copy(source: Layer, shape: tuple[int, int], grid: tuple[int, int], nearest: np.ndarray) -> np.ndarray:
    """The target's relief (H, W): every pixel from the match of its nearest place; means would blur."""
    y, x = np.indices(shape)
    row, column = (np.minimum((axis + STRIDE // 2) // STRIDE, n - 1) for axis, n in zip((y, x), grid, strict=True))
    found = nearest.reshape(*grid, 2)[row, column] + np.stack([y - row * STRIDE, x - column * STRIDE], -1)
    height, width = source.relief.shape
    return source.relief[np.clip(found[..., 0], 0, height - 1), np.clip(found[..., 1], 0, width - 1)]


def finer(nearest: np.ndarray, coarse: tuple[int, int], grid: tuple[int, int], limit: np.ndarray) -> np.ndarray:
    """Matches of one level as a start for the next, twice as large: (N, 2) of its own grid."""
    place = np.stack(np.meshgrid(*(np.arange(n) * STRIDE for n in coarse), indexing="ij"), -1)
    offset = (nearest.reshape(*coarse, 2) - place).astype(np.float32)
    offset = cv2.resize(offset, grid[::-1], interpolation=cv2.INTER_NEAREST)
    place = np.stack(np.meshgrid(*(np.arange(n) * STRIDE for n in grid), indexing="ij"), -1)
    return np.clip(np.rint(2 * offset).astype(int) + place, 0, limit).reshape(-1, 2)


def analogies(task: Task, learnt: None, target: Target) -> Iterator[Progress]:
    """A : A' :: B : B' by coarse-to-fine patch matching. Returns B'."""
    rng = np.random.default_rng([task.seed, 0xA7A1])
    relief, design = relief_of(task)
    sources = pyramid(Layer(borders(design, task.style.mask), relief, task.style.mask))
    flat, inside = task.flat(target), stitched(target)
    empty = np.zeros(inside.shape, np.float32)
    targets = pyramid(Layer(borders(np.asarray(flat), inside), empty, inside))
    nearest, grid, result = None, (0, 0), empty
    for level, (source, wanted) in enumerate(zip(sources, targets, strict=True)):
        shape = wanted.relief.shape
        coarse, grid = grid, tuple(-(-side // STRIDE) for side in shape)
        places = np.stack(np.meshgrid(*(np.arange(n) * STRIDE for n in grid), indexing="ij"), -1).reshape(-1, 2)
        limit = np.array(source.relief.shape) - 1
        first = nearest is None
        nearest = rng.integers(0, limit + 1, places.shape) if first else finer(nearest, coarse, grid, limit)
        for turn in range(ROUNDS):
            seen = float(turn > 0 or not first)  # at first there is nothing but the guide
            if seen:
                result = copy(source, shape, grid, nearest)
            guess = Layer(wanted.guide, result if seen else np.zeros(shape, np.float32), wanted.inside)
            nearest = match(Patches(source, seen), Patches(guess, seen), places, grid, nearest, rng)
            yield Progress("analogies", level * ROUNDS + turn + 1, LEVELS * ROUNDS)
        result = copy(source, shape, grid, nearest)
    return shaded(flat, result)


# -- optimal transport ------------------------------------------------------------------------------------------------

FILTER = 7  # px, side of the patches whose distribution is transported
TURNS = 12  # random orthonormal bases a level
STEP = 2.0  # of the mean over patches: 16 of 49 coordinates move at once, so a whole step would be 49 / 16
_QUANTILES = 512


def transport(values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The optimal map in one dimension: `values` (N,) moved to the distribution of `wanted` (M,), rank by rank."""
    shares = np.linspace(0, 1, _QUANTILES)
    have, want = (np.quantile(sample, shares) for sample in (values[:: max(1, len(values) // 20000)], wanted))
    have = have + np.arange(_QUANTILES) * 1e-9  # strictly rising
    return np.interp(values, have, want).astype(np.float32)


def sliced_transport(
    relief: np.ndarray, inside: np.ndarray, source: np.ndarray, source_inside: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """One step of sliced optimal transport (Rabin et al. 2011, section 3) of patches (Galerne et al. 2018).

    In a random orthonormal basis of patches every coordinate is moved to the source's distribution of it; pixels get
    the mean of what the patches that hold them say.
    """
    size = FILTER * FILTER
    basis, _ = np.linalg.qr(rng.standard_normal((size, size)))
    update = np.zeros_like(relief)
    for row in basis[:: size // 16]:
        kernel = row.reshape(FILTER, FILTER).astype(np.float32)
        response, wanted = (
            cv2.filter2D(image, cv2.CV_32F, kernel, borderType=cv2.BORDER_REFLECT) for image in (relief, source)
        )
        change = np.zeros_like(relief)
        change[inside] = transport(response[inside], wanted[source_inside][::3]) - response[inside]
        update += cv2.filter2D(change, cv2.CV_32F, kernel[::-1, ::-1], borderType=cv2.BORDER_REFLECT)
    return relief + STEP * update / size * inside


def optimal_transport(task: Task, learnt: None, target: Target) -> Iterator[Progress]:
    """Noise moved to the reference's distribution of patches, coarse to fine, stitches and fabric apart. Returns B'."""
    rng = np.random.default_rng([task.seed, 0x07])
    relief, design = relief_of(task)
    inside = stitched(target)
    sources = pyramid(Layer(borders(design, task.style.mask), relief, task.style.mask))
    empty = np.zeros(inside.shape, np.float32)
    targets = pyramid(Layer(borders(np.asarray(task.flat(target)), inside), empty, inside))
    result = None
    for level, (source, wanted) in enumerate(zip(sources, targets, strict=True)):
        shape = wanted.relief.shape
        noise = rng.standard_normal(shape).astype(np.float32)
        if result is None:
            result = noise * source.relief.std()
        else:
            result = cv2.resize(result, shape[::-1], interpolation=cv2.INTER_CUBIC) + noise
        for turn in range(TURNS):
            for part, known in ((wanted.inside, source.inside), (~wanted.inside, ~source.inside)):
                known = cv2.erode(known.astype(np.uint8), np.ones((FILTER, FILTER), np.uint8)).astype(bool)
                if part.any() and known.any():
                    result = sliced_transport(result, part, source.relief, known, rng)
            yield Progress("transport", level * TURNS + turn + 1, LEVELS * TURNS)
    return shaded(task.flat(target), result)


# -- image quilting ---------------------------------------------------------------------------------------------------


def quilting(task: Task, learnt: None, target: Target) -> Iterator[Progress]:
    """Pieces of the reference's relief laid side by side where they differ least. Returns the picture.

    Where the reference is too small for a swatch, that is the flat design.
    """
    yield Progress("quilting", 0, 1)
    flat = task.flat(target)
    design = np.asarray(flatten(task.style.design, task.style.fabric))
    swatch = cut_swatch(np.asarray(task.style.embroidery.convert("RGB")), design, task.style.mask)
    yield Progress("quilting", 1, 1)
    if not swatch:
        return flat
    return Image.fromarray(lay_swatch(swatch, np.asarray(flat), stitched(target), task.seed))


METHODS = (
    Method("analogies", "image analogies (PatchMatch)", "model-free", "Hertzmann et al. 2001, matched as in Barnes et "
           "al. 2009 with guides as in StyLit (Fiser et al. 2016); patches of 9 px, three levels", analogies,
           needs_base=False),
    Method("transport", "optimal transport", "model-free", "sliced optimal transport of patches: Rabin et al. 2011, "
           "Galerne et al. 2018; patches of 7 px, three levels", optimal_transport, needs_base=False),
    Method("quilting", "image quilting", "model-free", "Efros and Freeman 2001, section 2, of the relief's clearest "
           "pieces (bench/methods/swatch.py)", quilting, needs_base=False),
)  # fmt: skip

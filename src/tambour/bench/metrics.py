"""Every metric of the benchmark, with its range and where it comes from; NumPy and OpenCV only.

Pictures are (H, W, 3) uint8 RGB arrays of one size; masks (H, W) bool. `METRICS` lists what stands in the table, in
its order; `measure` computes all of it for one result. What needs a network is in `perceptual.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

from tambour.imaging.colour import rgb_to_lab
from tambour.imaging.contrast import contrast_map
from tambour.imaging.orientation import directions
from tambour.imaging.scores import HFRD_CUTOFF, colour_difference, edge_f1, hfrd
from tambour.imaging.texture import dominant_period, texture_distance, texture_statistics

VERSION = 2  # raise it when a metric changes: results kept on disk are then measured again
THREAD = 0.008  # of the longer side: a blur that wide removes stitches, as in `texture.edge_f1`
_FINE, _AROUND = 1.2, 8.0  # px: smoothing, and window, of thread directions
_FAINT = 1e-4  # difference of eigenvalues of a structure tensor (contrast squared) that says nothing
_WEAK = 0.15  # of the truth's difference of eigenvalues, under which a result shows nothing


@dataclass(frozen=True)
class Metric:
    """What a number means.

    Attributes:
        name: key in the results.
        title: head of its column.
        better: "lower" or "higher".
        low, high: its range; `high` infinite where it has no end.
        source: where it is defined.
    """

    name: str
    title: str
    better: str
    low: float
    high: float
    source: str


METRICS: tuple[Metric, ...] = (
    Metric("texture", "texture to truth", "lower", 0, np.inf,
           "tambour.imaging.texture: steerable band energies and moments (after Portilla and Simoncelli 2000) and "
           "autocorrelation by direction from the thread, inside the stitched mask; 0 the same, about 1 unlike"),
    Metric("identified", "style named", "higher", 0, 1,
           "1 if, of the truths of all styles on this design, the nearest by texture is the right style's"),
    Metric("texture_reference", "texture to reference", "lower", 0, np.inf,
           "as texture, against the reference on its own design"),
    Metric("period", "stitch period", "lower", 0, 4,
           "|log2| of the ratio of the dominant repeat of result and truth, where both have one"),
    Metric("direction", "thread direction, degrees", "lower", 0, 90,
           "mean angle between local directions (structure tensor, Bigun and Granlund 1987) of result and truth, where "
           "the truth has one; 45 by chance"),
    Metric("hfrd", "HFRD", "lower", 0, 1,
           f"paper, section 7: |high-frequency energy ratio of result - of reference|, above {HFRD_CUTOFF} cycles/px "
           "(the paper's cut-off is not known); it rewards noise, so never trust it alone"),
    Metric("colour", "CIEDE2000 to design", "lower", 0, 100,
           "mean CIEDE2000 (Sharma et al. 2005) of region means, against the flat design"),
    Metric("colour_truth", "CIEDE2000 to truth", "lower", 0, 100, "the same, against the truth"),
    Metric("colour_look", "CIEDE2000 to truth", "lower", 0, 100,
           "the same, against the truth, in the regions of the flat design; where colours are style"),
    Metric("palette", "palette to reference", "lower", 0, 1,
           "HistoGAN's histogram loss against the reference; where colours are style"),
    Metric("histogram", "histogram loss", "lower", 0, 1,
           "Hellinger distance of RGB-uv histograms (HistoGAN, Afifi et al. 2021, eq. 1 to 3), against the design"),
    Metric("edges", "edge F1", "higher", 0, 1, "F1 of colour-area borders against the design, within 1 % of the side"),
    Metric("drift", "drift, px", "lower", 0, 8,
           "mean shift of the design's coloured borders, by phase correlation (Kuglin and Hines 1975) in windows"),
    Metric("leak_colour", "colour leaked", "lower", 0, 1,
           "share of the stitched area whose colour is nearer to one only the reference has than to the design's"),
    Metric("leak_content", "content leaked", "lower", 0, 1,
           "share of the blurred result that the reference's layout explains beyond the design's own"),
)  # fmt: skip


# -- texture ----------------------------------------------------------------------------------------------------------


def period_error(result: np.ndarray, truth: np.ndarray, mask: np.ndarray) -> float:
    """|log2(period of result / period of truth)| inside the mask, at most 4; NaN where the truth repeats nothing.

    A result that repeats nothing where the truth does gets 4.
    """
    wanted, _ = dominant_period(truth, mask)
    if not wanted:
        return float("nan")
    found, _ = dominant_period(result, mask)
    return float(min(abs(np.log2(found / wanted)), 4.0)) if found else 4.0


def direction_error(result: np.ndarray, truth: np.ndarray, mask: np.ndarray) -> float:
    """Mean angle in degrees between the threads of result and truth, in [0, 90]; NaN where the truth has no direction.

    Places count by how directed the truth is there, the better half of them alike. A result that has no direction at a
    place, or a far fainter one (a blurred truth), is off by 45.
    """
    read = []
    for picture in (truth, result):
        contrast, weight = contrast_map(picture, mask)
        contrast = cv2.GaussianBlur(contrast, (0, 0), _FINE)
        read.append(directions(contrast, cv2.erode(mask.astype(np.float32), np.ones((5, 5))) * weight, _AROUND))
    (wanted, clear), (found, seen) = read
    if not mask.any() or float(clear[mask].max()) < _FAINT:
        return float("nan")
    faint = seen < np.maximum(_FAINT, _WEAK * clear)
    clear = np.minimum(clear, np.median(clear[mask]))  # borders of colour are far clearer than any thread
    off = np.degrees(np.abs((found - wanted + np.pi / 2) % np.pi - np.pi / 2))
    return float(np.average(np.where(faint, 45, off), weights=clear * mask))


def identify(statistics: np.ndarray, library: Mapping[str, np.ndarray]) -> str:
    """The style whose truth on the same design is nearest by texture.

    Args:
        statistics: `texture_statistics` of the result.
        library: style -> those of its truth on this design; not of the picture measured against.
    """
    return min(library, key=lambda name: texture_distance(statistics, library[name]))


# -- colour -----------------------------------------------------------------------------------------------------------

_BINS, _SIGMA, _SIDE = 64, 0.02, 150  # h, tau and input size of HistoGAN
_EPSILON = 1e-6


def rgb_uv_histogram(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 -> (3, 64, 64) log-chroma histogram that sums to 1 (HistoGAN, Afifi et al. 2021, eq. 1 and 2).

    u and v are log ratios of the channels in [-3, 3], counted with inverse-quadratic kernels of width 0.02 and weighted
    by the brightness sqrt(R^2 + G^2 + B^2).
    """
    height, width = image.shape[:2]
    if max(height, width) > _SIDE:
        image = cv2.resize(image, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
    pixels = image.reshape(-1, 3).astype(np.float32) / 255
    brightness = np.sqrt((pixels**2).sum(1) + _EPSILON)
    logs = np.log(pixels + _EPSILON)
    centres = np.linspace(-3, 3, _BINS, dtype=np.float32)

    def kernel(values: np.ndarray) -> np.ndarray:
        return 1 / (1 + ((values[:, None] - centres) / _SIGMA) ** 2)

    planes = []
    for one in range(3):
        u, v = (logs[:, one] - logs[:, other] for other in range(3) if other != one)
        planes.append((kernel(u) * brightness[:, None]).T @ kernel(v))
    histogram = np.stack(planes)
    return histogram / (histogram.sum() + _EPSILON)


def histogram_loss(a: np.ndarray, b: np.ndarray) -> float:
    """Hellinger distance of two RGB-uv histograms, in [0, 1] (HistoGAN, eq. 3)."""
    difference = np.sqrt(rgb_uv_histogram(a)) - np.sqrt(rgb_uv_histogram(b))
    return float(np.sqrt((difference**2).sum()) / np.sqrt(2))


def _palette(design: np.ndarray, mask: np.ndarray, least: float = 0.01) -> np.ndarray:
    """(K, 3) CIELAB of the flat colours that cover at least this share of the mask."""
    inside = design[mask] if mask.any() else design.reshape(-1, 3)
    steps = inside >> 4
    _, label, count = np.unique(steps, axis=0, return_inverse=True, return_counts=True)
    label = label.ravel()
    wanted = np.flatnonzero(count >= least * len(inside))
    if not len(wanted):
        wanted = np.array([count.argmax()])
    colours = np.stack([np.median(inside[label == k], 0) for k in wanted]).astype(np.uint8)
    return rgb_to_lab(colours[None])[0]


def leaked_colours(
    result: np.ndarray,
    design: np.ndarray,
    mask: np.ndarray,
    reference_design: np.ndarray,
    reference_mask: np.ndarray,
    fabric: Sequence[int],
) -> float:
    """Share of the stitched area coloured by the reference, in [0, 1]; 0 for the truth, about 1 for its palette.

    Means over one colour of the design inside one cell of a 16 x 16 grid are compared, in CIELAB with lightness counted
    half, so that the stitches' light and shade is not taken for another colour. Colours of the reference within 15 of
    one of the design's (the fabric included) say nothing and are left out; with none left nothing can leak: 0.
    """
    own = np.concatenate([_palette(design, mask), rgb_to_lab(np.uint8([[fabric]]))[0]])
    foreign = _palette(reference_design, reference_mask)

    def nearest(colours: np.ndarray, palette: np.ndarray) -> np.ndarray:
        return np.linalg.norm((colours[:, None] - palette[None]) * (0.5, 1, 1), axis=2).min(1)

    foreign = foreign[nearest(foreign, own) > 15]
    inside = cv2.erode(mask.astype(np.uint8), np.ones((5, 5), np.uint8)).astype(bool)
    if not len(foreign) or not inside.any():
        return 0.0
    y, x = np.indices(mask.shape)
    cell = y * 16 // mask.shape[0] * 16 + x * 16 // mask.shape[1]
    label = (design.astype(np.int64) >> 4) @ np.array([256, 16, 1]) + 4096 * cell
    _, label = np.unique(label[inside], return_inverse=True)
    area = np.bincount(label.ravel())
    lab = rgb_to_lab(result)[inside]
    means = np.stack([np.bincount(label.ravel(), lab[:, i]) for i in range(3)], 1) / area[:, None]
    return float(np.average(nearest(means, foreign) < nearest(means, own), weights=area))


# -- layout -----------------------------------------------------------------------------------------------------------


def leaked_content(result: np.ndarray, design: np.ndarray, reference_design: np.ndarray) -> float:
    """How far the reference's layout shows through, in [0, 1]: 0 for the truth, 1 for the reference itself.

    Blurred lightness and colour of the result are explained as a sum of those of the design and of the reference's
    design (least squares over all pixels and channels); this is the second one's coefficient, cut at 0 and 1.
    """
    side = max(design.shape[:2])

    def seen(image: np.ndarray) -> np.ndarray:
        lab = cv2.GaussianBlur(rgb_to_lab(image), (0, 0), 2 * THREAD * side)[::4, ::4].reshape(-1, 3)
        return (lab - lab.mean(0)).ravel()

    y, own, other = seen(result), seen(design), seen(reference_design)
    (_, leaked), *_ = np.linalg.lstsq(np.stack([own, other], 1), y, rcond=None)
    return float(np.clip(leaked, 0, 1))


_WINDOW, _REACH = 128, 8  # px


def drift(result: np.ndarray, design: np.ndarray) -> float:
    """Mean shift of the design's borders in px, at most 8; sub-pixel.

    Both pictures are blurred by the width of a thread. In windows of 128 px, the phase correlation of all CIELAB
    channels together says where the design's part lies in the result; windows count by how much border they hold.
    """
    sigma = THREAD * max(design.shape[:2])
    a, b = (cv2.GaussianBlur(rgb_to_lab(image), (0, 0), sigma) for image in (design, result))
    side = min(_WINDOW, *design.shape[:2])
    window = np.hanning(side + 2)[1:-1]
    window = np.outer(window, window)[..., None]
    steps = [np.unique(np.linspace(0, n - side, max(1, round(2 * n / side) - 1)).astype(int)) for n in a.shape[:2]]
    shifts, weights = [], []
    for top in steps[0]:
        for left in steps[1]:
            box = np.s_[top : top + side, left : left + side]
            x, y = ((part[box] - part[box].mean((0, 1))) * window for part in (a, b))
            power = float((x**2).sum())
            if power < 4 * window.sum():  # under 2 steps of CIELAB: nothing to see
                continue
            weights.append(np.sqrt(power))
            shifts.append(_shift(x, y))
    return float(np.average(shifts, weights=weights)) if shifts else 0.0


def _shift(x: np.ndarray, y: np.ndarray) -> float:
    """Length in px of the shift from x to y, both (S, S, 3) windowed."""
    size = len(x)
    spectrum = (np.conj(np.fft.fft2(x, axes=(0, 1))) * np.fft.fft2(y, axes=(0, 1))).sum(2)
    f = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.fftfreq(size)[None])
    keep = np.exp(-((f / 0.05) ** 2))  # what the blur left
    phase = np.fft.ifft2(spectrum / (np.abs(spectrum) + 1e-6 * np.abs(spectrum).max()) * keep).real
    near = np.roll(phase, (_REACH, _REACH), (0, 1))[: 2 * _REACH + 1, : 2 * _REACH + 1]
    peak = np.unravel_index(near.argmax(), near.shape)
    offset = []
    for axis in (0, 1):
        line = near[:, peak[1]] if axis == 0 else near[peak[0]]
        i = peak[axis]
        vertex = 0.0
        if 0 < i < 2 * _REACH:
            bend = line[i - 1] - 2 * line[i] + line[i + 1]
            vertex = 0.5 * (line[i - 1] - line[i + 1]) / bend if bend < 0 else 0.0
        offset.append(i - _REACH + vertex)
    return float(min(np.hypot(*offset), _REACH))


# -- all of it --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Known:
    """What a result is measured against, all of one size but the reference.

    Attributes:
        design: (H, W, 3), flat, on the fabric's colour.
        mask: (H, W), where stitches belong.
        reference, reference_design, reference_mask: the pair that showed the style.
        reference_texture: (D,) `texture_statistics` of the reference.
        fabric: RGB.
        truth: (H, W, 3), or None; then `truth_texture` is its statistics.
        style: the right answer of `identify`, or "".
        library: for `identify`; empty where there is no truth.
    """

    design: np.ndarray
    mask: np.ndarray
    reference: np.ndarray
    reference_design: np.ndarray
    reference_mask: np.ndarray
    reference_texture: np.ndarray
    fabric: tuple[int, int, int]
    truth: np.ndarray | None = None
    truth_texture: np.ndarray | None = None
    style: str = ""
    library: Mapping[str, np.ndarray] = field(default_factory=dict)


def measure(result: np.ndarray, known: Known) -> dict[str, float]:
    """Every metric of one result by name; those of the truth only where it is known, and none that is undefined."""
    if result.shape != known.design.shape:
        raise ValueError(f"a result of {result.shape}, a design of {known.design.shape}")
    statistics = texture_statistics(result, known.mask)
    like = known.reference_design
    if like.shape != known.design.shape:
        like = cv2.resize(like, known.design.shape[1::-1], interpolation=cv2.INTER_AREA)
    values = {
        "texture_reference": texture_distance(statistics, known.reference_texture),
        "hfrd": hfrd(result, known.reference),
        "colour": colour_difference(result, known.design),
        "histogram": histogram_loss(result, known.design),
        "edges": edge_f1(result, known.design),
        "drift": drift(result, known.design),
        "leak_colour": leaked_colours(
            result, known.design, known.mask, known.reference_design, known.reference_mask, known.fabric
        ),
        "leak_content": leaked_content(result, known.design, like),
    }
    if known.truth is not None:
        values |= {
            "texture": texture_distance(statistics, known.truth_texture),
            "period": period_error(result, known.truth, known.mask),
            "direction": direction_error(result, known.truth, known.mask),
            "colour_truth": colour_difference(result, known.truth),
        }
    if known.library:
        values["identified"] = float(identify(statistics, known.library) == known.style)
    return {name: value for name, value in values.items() if np.isfinite(value)}


def measure_look(result: np.ndarray, known: Known, names: Sequence[str]) -> dict[str, float]:
    """The metrics named, of a result in another domain, where colours may be style."""
    statistics = texture_statistics(result, known.mask)
    like = known.reference_design
    if like.shape != known.design.shape:
        like = cv2.resize(like, known.design.shape[1::-1], interpolation=cv2.INTER_AREA)
    how = {
        "texture": lambda: texture_distance(statistics, known.truth_texture),
        "texture_reference": lambda: texture_distance(statistics, known.reference_texture),
        "hfrd": lambda: hfrd(result, known.reference),
        "colour_look": lambda: colour_difference(result, known.truth, regions=known.design),
        "palette": lambda: histogram_loss(result, known.reference),
        "edges": lambda: edge_f1(result, known.design),
        "leak_content": lambda: leaked_content(result, known.design, like),
    }
    values = {name: how[name]() for name in names}
    return {name: value for name, value in values.items() if np.isfinite(value)}

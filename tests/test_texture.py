"""Texture statistics must order known cases, and the scores must see what they claim to see and nothing else."""

from __future__ import annotations

import time

import cv2
import numpy as np
import pytest
from PIL import Image

from tambour.imaging.colour import ciede2000
from tambour.imaging.scores import colour_difference, edge_f1, hfrd, score
from tambour.imaging.texture import dominant_period, texture_distance, texture_statistics

SIZE = 256


def turned(angle: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates along and across threads at `angle`, randomly shifted, (SIZE, SIZE) each."""
    y, x = np.mgrid[:SIZE, :SIZE] + rng.uniform(0, 20)
    return x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)


def thread(v: np.ndarray, width: float) -> np.ndarray:
    return np.sqrt(np.maximum(0, 1 - (2 * (v / width % 1) - 1) ** 2)) - 0.6


def satin(seed, width=6.0, length=60.0, angle=0.6):
    rng = np.random.default_rng(seed)
    u, v = turned(angle, rng)
    row = np.floor(v / width).astype(int) % 500
    gloss = np.cos(2 * np.pi * (u / length + rng.uniform(size=500)[row]))
    return 0.25 * thread(v, width) * (1 + rng.normal(0, 0.15, 500)[row]) + 0.05 * gloss


def tatami(seed, width=6.0, length=24.0, angle=0.6):
    rng = np.random.default_rng(seed)
    u, v = turned(angle, rng)
    hole = (u / length + np.floor(v / width) % 3 / 3) % 1 - 0.5
    return 0.2 * thread(v, width) - 0.35 * np.exp(-((hole * length / 1.5) ** 2))


def cross(seed, width=12.0, length=0.0, angle=0.0):
    rng = np.random.default_rng(seed)
    u, v = turned(angle, rng)
    p, q = u / width % 1 - 0.5, v / width % 1 - 0.5
    return np.maximum(0.3 * np.exp(-(((p - q) / 0.15) ** 2)), 0.2 * np.exp(-(((p + q) / 0.15) ** 2))) - 0.2


def knots(seed, width=10.0, length=0.0, angle=0.0):
    rng = np.random.default_rng(seed)
    height = np.full((SIZE, SIZE), -0.3)
    y, x = np.mgrid[:SIZE, :SIZE]
    for cx, cy in rng.uniform(0, SIZE, (int((SIZE / width) ** 2 * 1.3), 2)):
        part = np.s_[int(max(0, cy - width)) : int(cy + width), int(max(0, cx - width)) : int(cx + width)]
        d = np.hypot(x[part] - cx, y[part] - cy) / (width / 2)
        height[part] = np.maximum(height[part], np.where(d < 1, 0.5 * np.sqrt(np.maximum(0, 1 - d * d)) - 0.2, -0.3))
    return height


FAMILIES = {"satin": satin, "tatami": tatami, "cross": cross, "knots": knots}


def paint(shade: np.ndarray, colour=(180, 90, 60), noise: float = 2.0) -> np.ndarray:
    rng = np.random.default_rng(9)
    return np.clip(np.array(colour) * (1 + shade[..., None]) + rng.normal(0, noise, (*shade.shape, 1)), 0, 255).astype(
        np.uint8
    )


def distance(a: np.ndarray, b: np.ndarray) -> float:
    return texture_distance(texture_statistics(a), texture_statistics(b))


@pytest.mark.parametrize("name", FAMILIES)
def test_known_cases_are_ordered(name):
    draw = FAMILIES[name]
    wide, long = (14.0, 40.0) if name in ("cross", "knots") else (8.0, 36.0)
    reference = texture_statistics(paint(draw(0)))

    def far(image: np.ndarray) -> float:
        return texture_distance(reference, texture_statistics(image))

    same = far(paint(draw(1)))
    parameters = far(paint(draw(2, wide, long)))
    others = [far(paint(FAMILIES[other](3))) for other in FAMILIES if other != name]
    flat = paint(np.zeros((SIZE, SIZE)), noise=0)
    noise = [far(paint(np.zeros((SIZE, SIZE)), noise=sigma)) for sigma in (5, 15, 30)]
    blur = [far(cv2.GaussianBlur(paint(draw(1)), (0, 0), sigma)) for sigma in (3, 6)]
    assert same < 0.5 * parameters
    assert parameters < min(others)
    assert far(flat) > 1
    assert min(others) < far(flat)
    assert min(noise) > parameters and min(blur) > parameters


@pytest.mark.parametrize("name", FAMILIES)
def test_colour_and_rotation_do_not_matter(name):
    reference = paint(FAMILIES[name](0))
    other = distance(reference, paint(satin(3) if name != "satin" else tatami(3)))
    assert distance(reference, paint(FAMILIES[name](1), (60, 120, 200))) < 0.2 * other
    assert distance(reference, paint(FAMILIES[name](1), (230, 225, 200))) < 0.25 * other
    assert distance(reference, paint(FAMILIES[name](1, angle=1.7))) < 0.25 * other


def test_the_design_s_own_borders_hardly_matter():
    patches = np.full((SIZE, SIZE, 3), (180, 90, 60), float)
    patches[:128, :128], patches[128:, 128:] = (60, 120, 200), (230, 220, 90)
    layout = np.clip(patches * (1 + satin(1)[..., None]), 0, 255).astype(np.uint8)
    assert distance(paint(satin(0)), layout) < 0.4 * distance(paint(satin(0)), paint(tatami(0)))


def test_mask_hides_what_is_outside():
    mask = np.zeros((SIZE, SIZE), bool)
    mask[:, :150] = True
    mixed = paint(np.where(mask, satin(0), cross(0)))
    masked = texture_distance(texture_statistics(mixed, mask), texture_statistics(paint(satin(1))))
    assert masked < 0.5 * distance(mixed, paint(satin(1)))


def test_oriented_statistics_tell_angles_apart():
    a, near, far = (texture_statistics(paint(satin(i, angle=t)), oriented=True) for i, t in enumerate((0.5, 0.55, 1.8)))
    assert texture_distance(a, near) < 0.6 * texture_distance(a, far)
    with pytest.raises(ValueError, match="different kinds"):
        texture_distance(a, texture_statistics(paint(satin(0))))


@pytest.mark.parametrize("shape", [(16, 16), (17, 300), (100, 33), (400, 520)])
def test_any_size_works_and_repeats_bitwise(shape):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    a = texture_statistics(image)
    assert np.isfinite(a).all() and np.array_equal(a, texture_statistics(image.copy()))
    assert np.array_equal(a, texture_statistics(Image.fromarray(image)))
    assert np.array_equal(a, texture_statistics(image, np.zeros(shape, bool)))
    assert all(np.isfinite(dominant_period(image)))


def test_statistics_are_fast_enough_to_fit_with():
    image = paint(satin(0))
    texture_statistics(image)
    spent = []
    for _ in range(5):
        start = time.process_time()
        texture_statistics(image)
        spent.append(time.process_time() - start)
    assert min(spent) < 0.08  # about 15 ms on one idle core; room for a busy machine


@pytest.mark.parametrize("period", [3.0, 6.0, 9.5, 16.0])
@pytest.mark.parametrize("angle", [0.0, 0.6, 2.5])
def test_dominant_period_finds_thread_width_and_direction(period, angle):
    found, direction = dominant_period(paint(satin(0, width=period, angle=angle)))
    assert found == pytest.approx(period, rel=0.03)
    off = (direction - angle - np.pi / 2) % np.pi
    assert min(off, np.pi - off) < 0.03


def test_nothing_repeats_in_flat_art():
    assert dominant_period(paint(np.zeros((SIZE, SIZE)), noise=0)) == (0.0, 0.0)


# --- scores -------------------------------------------------------------------------------------------------------


def design() -> np.ndarray:
    art = np.full((SIZE, SIZE, 3), (240, 235, 225), np.uint8)
    cv2.circle(art, (128, 128), 80, (200, 40, 50), -1)
    cv2.rectangle(art, (100, 90), (150, 190), (30, 60, 160), -1)
    return art


def stitched(shade: np.ndarray, art: np.ndarray | None = None) -> np.ndarray:
    art = design() if art is None else art
    return np.clip(art * (1 + shade[..., None]), 0, 255).astype(np.uint8)


def test_ciede2000_matches_the_published_pairs():
    pairs = np.array([  # Sharma, Wu and Dalal 2005, table 1
        [50, 2.6772, -79.7751, 50, 0, -82.7485, 2.0425],
        [50, -1.3802, -84.2814, 50, 0, -82.7485, 1.0],
        [50, 2.49, -0.001, 50, -2.49, 0.0009, 7.1792],
        [50, 2.49, -0.001, 50, -2.49, 0.0011, 7.2195],
        [50, 2.5, 0, 73, 25, -18, 27.1492],
        [60.2574, -34.0099, 36.2677, 60.4626, -34.1751, 39.4387, 1.2644],
        [22.7233, 20.0904, -46.694, 23.0331, 14.973, -42.5619, 2.0373],
        [90.8027, -2.0831, 1.441, 91.1528, -1.6435, 0.0447, 1.4441],
        [2.0776, 0.0795, -1.135, 0.9033, -0.0636, -0.5514, 0.9082],
    ])  # fmt: skip
    assert np.allclose(ciede2000(pairs[:, :3], pairs[:, 3:6]), pairs[:, 6], atol=1e-4)
    assert np.allclose(ciede2000(pairs[:, 3:6], pairs[:, :3]), pairs[:, 6], atol=1e-4)


def test_colour_difference_sees_colour_not_stitches():
    assert colour_difference(design(), design()) == 0
    assert colour_difference(stitched(satin(0) - satin(0).mean()), design()) < 3
    assert colour_difference(np.roll(design(), 1, 2), design()) > 10
    assert colour_difference(np.zeros_like(design()), np.full_like(design(), 255)) == pytest.approx(100, abs=0.1)
    inside = np.zeros((SIZE, SIZE), bool)
    inside[:20] = True
    assert colour_difference(design()[..., ::-1], design(), inside) < 10  # only the pale ground is looked at


def test_edge_f1_sees_borders_not_stitches():
    assert edge_f1(design(), design()) > 0.999
    assert edge_f1(stitched(satin(0)), design()) > 0.9
    assert edge_f1(np.roll(design(), 15, 1), design()) < 0.75
    assert edge_f1(np.full_like(design(), 200), design()) == 0
    assert edge_f1(cv2.resize(design(), (512, 512)), design()) > 0.95


def test_hfrd_sees_high_frequencies():
    assert hfrd(design(), design()) == 0
    near = hfrd(stitched(satin(1)), stitched(satin(0)))
    assert near < 0.2 * hfrd(design(), stitched(satin(0)))
    wave = np.sin(np.arange(SIZE) * 2 * np.pi / 4)
    fine = np.repeat((127 + 60 * wave).astype(np.uint8)[None, :, None], SIZE, 0).repeat(3, 2)
    assert hfrd(fine, np.full_like(fine, 127)) > 0.99


def test_score_orders_results():
    reference = stitched(satin(0), np.full((SIZE, SIZE, 3), (90, 140, 70), np.uint8))
    good = score(stitched(satin(1)), reference, design())
    assert all(0 <= value <= 1 for value in (good.style, good.design, good.colour, good.total))
    assert good == score(stitched(satin(1)), texture_statistics(reference), design())
    flat = score(design(), reference, design())
    leaked = score(reference, reference, design())
    wrong = score(stitched(cross(0)), reference, design())
    assert good.style > wrong.style > flat.style
    assert good.total > max(flat.total, leaked.total, wrong.total)

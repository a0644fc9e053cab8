"""Raster tools of `imaging`: orientation, nearest pixels, components and borders, palettes, linear light."""

from __future__ import annotations

import numpy as np
import pytest

from tambour.imaging.colour import LUMINANCE, linear_to_srgb, luminance_of_lightness, rgb_to_lab, srgb_to_linear
from tambour.imaging.components import components, label_borders
from tambour.imaging.nearest import fill_from_nearest, nearest_dots, nearest_known
from tambour.imaging.orientation import coherence, directions, gradient_angle, line_angle, structure_tensor
from tambour.imaging.palette import distinct_colours, histogram_palette, nearest_colour


def stripes(angle: float, side: int = 64, period: float = 12) -> np.ndarray:
    """Stripes whose lines run at `angle` (radians, x to the right, y down)."""
    y, x = np.indices((side, side), np.float32)
    return np.sin(2 * np.pi / period * (y * np.cos(angle) - x * np.sin(angle))).astype(np.float32)


@pytest.mark.parametrize("degrees", [0, 30, 90, 135])
def test_lines_are_found_at_their_angle(degrees: float) -> None:
    angle = np.radians(degrees)
    tensor = structure_tensor(stripes(angle), sigma=6)[32, 32]
    assert np.cos(2 * (line_angle(tensor) - angle)) > 0.999
    assert np.cos(2 * (gradient_angle(tensor) - angle)) < -0.999
    assert coherence(tensor) > 0.99
    along, strength = directions(stripes(angle), np.ones((64, 64), np.float32), 6)
    assert along[32, 32] == line_angle(tensor) and strength[32, 32] > 0


def test_noise_and_nothing_have_no_direction() -> None:
    noise = np.random.default_rng(0).standard_normal((96, 96)).astype(np.float32)
    assert coherence(structure_tensor(noise, sigma=10))[48, 48] < 0.3
    flat = structure_tensor(np.zeros((8, 8), np.float32), sigma=2)
    assert not flat.any() and not coherence(flat).any() and not line_angle(flat).any()


def test_channels_add_up_and_weights_count() -> None:
    one, other = stripes(0.4), stripes(1.2)
    both = structure_tensor(np.dstack([one, other]))
    assert np.allclose(both, structure_tensor(one) + structure_tensor(other), atol=1e-5)
    half = np.full(one.shape, 0.5, np.float32)
    assert np.allclose(structure_tensor(one, half, 3), structure_tensor(one, sigma=3) / 2, atol=1e-6)


def test_holes_take_the_value_of_the_nearest_known_pixel() -> None:
    rng = np.random.default_rng(1)
    known = rng.random((20, 30)) < 0.05
    values = rng.random((20, 30, 3))
    distance, index = nearest_known(known)
    rows, columns = np.nonzero(known)
    y, x = np.indices(known.shape)
    apart = np.hypot(y[..., None] - rows, x[..., None] - columns)  # (H, W, N)
    assert np.abs(distance - apart.min(2)).max() < 0.3  # a chamfer mask is a little off
    assert known.ravel()[index].all()
    filled = fill_from_nearest(values, known)
    assert (filled[known] == values[known]).all()
    assert (filled == values.reshape(-1, 3)[index]).all()
    assert fill_from_nearest(values, np.zeros_like(known)) is values
    dots = np.column_stack([columns, rows])
    far, label, which = nearest_dots(dots, known.shape)
    assert (far == distance).all() and (dots[which[label]] == np.stack([index % 30, index // 30], -1)).all()


def test_components_and_borders() -> None:
    mask = np.zeros((5, 6), bool)
    mask[0, 0] = mask[1, 1] = mask[3, 2:5] = True
    four, eight = components(mask), components(mask, 8)
    assert (len(four), len(eight)) == (3, 2)
    assert sorted(four.areas[1:]) == [1, 1, 3] and four.areas.sum() == mask.size
    row = four.labels[3, 2]
    assert four.boxes[row].tolist() == [2, 3, 3, 1]
    edge = np.zeros_like(mask)
    edge[0] = True
    assert np.flatnonzero(four.meeting(edge)).tolist() == [four.labels[0, 0]]
    assert len(components(np.zeros((3, 3), bool))) == 0
    labels = np.repeat([[1, 1, 2, 2]], 3, 0)
    assert label_borders(labels).tolist() == [[False, True, True, False]] * 3
    assert label_borders(labels, both_sides=False).tolist() == [[False, False, True, False]] * 3


def test_palettes() -> None:
    flat = np.zeros((40, 40, 3), np.uint8)
    flat[:, 20:] = (250, 30, 30)
    flat[:10] = (20, 40, 200)
    colours, nearest = histogram_palette(flat, np.ones((40, 40), bool), 16)
    assert len(colours) == 3
    assert np.abs(255 * colours[nearest] - flat).max() < 0.01
    points = np.float32([(0, 0, 0), (1, 0, 0), (50, 0, 0)])
    assert nearest_colour(np.float32([(0.9, 0, 0), (40, 0, 0)]), points).tolist() == [1, 2]
    pixels = np.repeat(points, [2, 5, 3], 0)
    assert distinct_colours(points, pixels, 8, 10.0).tolist() == [[1, 0, 0], [50, 0, 0]]


def test_linear_light() -> None:
    srgb = np.linspace(0, 1, 256)
    assert np.allclose(linear_to_srgb(srgb_to_linear(srgb)), srgb, atol=1e-4)
    rgb = np.random.default_rng(2).integers(0, 256, (1, 50, 3), np.uint8)
    luminance = srgb_to_linear(rgb / 255) @ LUMINANCE
    assert np.allclose(luminance_of_lightness(rgb_to_lab(rgb)[..., 0]), luminance, rtol=0.01)  # OpenCV rounds a little

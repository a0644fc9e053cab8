"""The swatch: cut from what is stitched, laid out as the same texture on another design, in the design's colours."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from tambour.bench.methods.swatch import PIECE, PIECES, cut_swatch, lay_swatch
from tambour.imaging.scores import colour_difference
from tambour.imaging.texture import dominant_period, texture_distance, texture_statistics
from tambour.stitch import Fabric, default_stitch, render

SIDE = 256


def square(colour: tuple[int, int, int], margin: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """A flat design on white, and where it is."""
    inside = np.zeros((SIDE, SIDE), bool)
    inside[margin:-margin, margin:-margin] = True
    return np.where(inside[..., None], np.uint8(colour), np.uint8(255)), inside


def stitched(design: np.ndarray, family: str) -> np.ndarray:
    stitch = replace(default_stitch(family), angle_field="constant", angle=20.0)
    return np.asarray(render(Image.fromarray(design), stitch, Fabric("plain"), seed=1).image)


@pytest.fixture(scope="module")
def swatches() -> dict[str, bytes]:
    design, inside = square((190, 60, 50))
    return {family: cut_swatch(stitched(design, family), design, inside) for family in ("tatami", "cross")}


def test_it_is_the_same_texture_on_another_design(swatches: dict[str, bytes]) -> None:
    flat, inside = square((60, 110, 170), 30)
    truth = {family: texture_statistics(stitched(flat, family), inside) for family in swatches}
    for family, swatch in swatches.items():
        laid = lay_swatch(swatch, flat, inside)
        got = texture_statistics(laid, inside)
        other = next(one for one in swatches if one != family)
        plain = texture_distance(texture_statistics(flat, inside), truth[family])
        assert texture_distance(got, truth[family]) < 0.35 * plain
        assert texture_distance(got, truth[family]) < 0.5 * texture_distance(got, truth[other])
        assert colour_difference(laid, flat) < 5
        assert np.array_equal(laid[~inside], flat[~inside])
        wanted, _ = dominant_period(stitched(flat, family), inside)
        assert dominant_period(laid, inside)[0] == pytest.approx(wanted, rel=0.15)


def test_chance_is_the_seed(swatches: dict[str, bytes]) -> None:
    flat, inside = square((60, 110, 170))
    once, again, other = (lay_swatch(swatches["cross"], flat, inside, seed) for seed in (3, 3, 4))
    assert np.array_equal(once, again) and not np.array_equal(once, other)


def test_it_holds_stitches_only() -> None:
    """Neither the fabric nor the border of two colours, nor what is flat where the mask is wrong."""
    design, inside = square((190, 60, 50))
    design[:, 150:][inside[:, 150:]] = (60, 150, 70)
    photo = stitched(design, "cross")
    with Image.open(io.BytesIO(cut_swatch(photo, design, inside))) as image:
        sheet = np.asarray(image)
    assert sheet.dtype == np.uint8 and sheet.shape[1] == PIECE and sheet.shape[0] <= PIECES * PIECE
    assert (sheet > 0).mean() > 0.6  # 0 is what is not to be seen
    flat = photo.copy()
    flat[:, :128] = 200
    with Image.open(io.BytesIO(cut_swatch(flat, np.full_like(design, 128), np.ones_like(inside)))) as image:
        pieces = np.asarray(image).reshape(-1, PIECE, PIECE)
    assert all(piece[piece > 0].std() > 4 for piece in pieces)


def test_too_little_to_see_is_no_swatch() -> None:
    design, inside = square((190, 60, 50))
    assert cut_swatch(design, design, np.zeros_like(inside)) == b""
    assert cut_swatch(design[:16, :16], design[:16, :16], inside[:16, :16]) == b""
    thin = np.zeros_like(inside)
    thin[::9] = True
    assert cut_swatch(design, design, thin) == b""


@pytest.mark.parametrize("shape", [(24, 24), (40, 200), (97, 31)])
def test_any_shape_is_covered(swatches: dict[str, bytes], shape: tuple[int, int]) -> None:
    flat, inside = np.full((*shape, 3), 140, np.uint8), np.ones(shape, bool)
    laid = lay_swatch(swatches["tatami"], flat, inside)
    assert laid.shape == flat.shape and laid.std() > 5

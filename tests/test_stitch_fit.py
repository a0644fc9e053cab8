"""Fitting a stitch to a picture whose stitch is known."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from tambour.errors import InputError
from tambour.stitch import FAMILIES, Fabric, Stitch, fit, render
from tambour.stitch.fit import fit_stitch


def picture() -> Image.Image:
    pixels = np.full((224, 224, 3), (235, 230, 220), np.uint8)
    pixels[10:214, 10:130] = (180, 70, 60)
    pixels[10:214, 130:214] = (70, 110, 170)
    return Image.fromarray(pixels)


@pytest.mark.parametrize(
    "stitch",
    [
        Stitch("satin", thread_width=0.5, stitch_length=14, angle=35.0, sheen=0.8),
        Stitch("tatami", thread_width=0.45, stitch_length=2.2, angle=-40.0),
        Stitch("cross", thread_width=0.45, stitch_length=1.4),
        Stitch("sequin", thread_width=0.3, stitch_length=1.6, sheen=0.9),
    ],
    ids=lambda stitch: stitch.family,
)
def test_a_rendered_stitch_is_found_again(stitch: Stitch) -> None:
    rendered = render(picture(), stitch, Fabric("plain"), seed=9)
    found = fit_stitch(rendered.image, rendered.mask)
    assert found.family == stitch.family
    size = "stitch_length" if FAMILIES[stitch.family].fit.chosen_on == "points" else "thread_width"
    assert getattr(found, size) == pytest.approx(getattr(stitch, size), rel=0.25)
    if FAMILIES[stitch.family].fit.direction == "axis":
        assert (found.angle - stitch.angle + 90) % 180 - 90 == pytest.approx(0, abs=8)


def test_a_named_family_is_kept_and_its_width_fitted() -> None:
    stitch = Stitch("satin", thread_width=0.5, stitch_length=14, angle=35.0, sheen=0.8)
    rendered = render(picture(), stitch, Fabric("plain"), seed=9)
    found = fit_stitch(rendered.image, rendered.mask, family="running")
    assert found.family == "running" and found.thread_width / found.density == pytest.approx(0.5, rel=0.3)
    with pytest.raises(InputError, match="crewel"):
        fit_stitch(rendered.image, rendered.mask, family="crewel")


def test_scale_and_determinism() -> None:
    rendered = render(picture(), Stitch("satin", stitch_length=14, angle=20.0), seed=2)
    once, again = (fit_stitch(rendered.image, rendered.mask) for _ in range(2))
    assert once == again
    finer = fit_stitch(rendered.image, rendered.mask, px_per_mm=40)
    assert finer.thread_width == pytest.approx(once.thread_width / 2)


def test_flat_and_tiny_pictures() -> None:
    assert isinstance(fit_stitch(np.full((64, 48, 3), 128, np.uint8)), Stitch)
    with pytest.raises(InputError, match="20 x 20"):
        fit_stitch(Image.new("RGB", (20, 20)))


def test_the_stored_atlas_is_what_is_rendered_today() -> None:
    stitches, stored = fit._atlas_stitches(), np.load(fit.ATLAS)
    assert len(stored) == len(stitches)
    for index in range(0, len(stitches), 9):
        distance = fit.texture_distance(stored[index], fit._patch_statistics(stitches[index]))
        assert distance < 0.03, "run `python -m tambour.stitch.fit`: the renderer or the statistics have changed"

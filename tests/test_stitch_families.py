"""A stitch family is one record: what is registered is drawn, described, sampled and fitted, with no other table."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import fields, replace

import numpy as np
import pytest
from PIL import Image

from tambour import cli
from tambour.stitch import FABRICS, FAMILIES, Fabric, Stitch, default_stitch, describe, fit, render, sample_stitch
from tambour.stitch.family import THREAD_BORDER, Border, Family, Fit, Ranges, Words, thread_pitch
from tambour.stitch.registry import read_records
from tambour.stitch.surface import Threads, split, thread_tint


def draw_ribs(f, stitch, width, length, noise) -> Threads:
    """Parallel ribs with a flat top and a groove between them."""
    row, across = split(f.v / thread_pitch(stitch, width, length))
    height = 0.5 * width * np.minimum(1, 4 * np.minimum(across, 1 - across))
    return Threads(height, f.tx, f.ty, thread_tint(noise, row, f.label, stitch), np.ones_like(height), row)


RIBS = Family(
    name="ribs",
    order=1000,
    draw=draw_ribs,
    row_pitch=thread_pitch,
    typical=dict(thread_width=0.6, stitch_length=5.0, sheen=0.9, twist=0.0, pile=0.0),
    ranges=Ranges(
        thread_width=(0.5, 0.7),
        length_ratio=(4.0, 8.0),
        sheen=(0.3, 0.9),
        twist=(0.0, 0.1),
        pile=(0.0, 0.1),
        density=(0.9, 1.0),
        angle_fields=("constant", "contour"),
        axis_turn=0.0,
        grid=False,
        straight_from=math.inf,
        thread=True,
        bordered=True,
    ),
    words=Words(caption="ribs", long_caption=(9.0, "long ribs"), plain="ribs", size="thread"),
    border=THREAD_BORDER,
    pile_drawn=False,
    dye=0.65,
    fit=Fit(
        ratios=(6.0,),
        width_scale=1.2,
        shaped_field="contour",
        rarity=0.0,
        chosen_on="threads",
        direction="axis",
        rows_repeat=True,
    ),
)


@pytest.fixture
def ribs(monkeypatch: pytest.MonkeyPatch) -> Family:
    monkeypatch.setitem(FAMILIES, RIBS.name, RIBS)
    return RIBS


@pytest.fixture
def two_families() -> Iterator[Family]:
    """Ribs and satin alone, so that an atlas is made in a second."""
    everything = dict(FAMILIES)
    FAMILIES.clear()
    FAMILIES.update(satin=everything["satin"], ribs=RIBS)
    fit._atlas.cache_clear()
    yield RIBS
    FAMILIES.clear()
    FAMILIES.update(everything)
    fit._atlas.cache_clear()


def test_a_registered_family_is_drawn(ribs: Family) -> None:
    plain = Image.new("RGB", (200, 200), (70, 100, 180))
    height = render(plain, default_stitch("ribs"), background="stitch").height[20:-20, 100]
    grooves = np.flatnonzero((height[1:-1] < height[:-2]) & (height[1:-1] <= height[2:]))
    assert np.median(np.diff(grooves)) == 12  # px: 0.6 mm at 20 px a mm
    design = np.full((96, 96, 3), 255, np.uint8)
    design[20:70, 20:70], design[80:84] = (190, 70, 60), (30, 90, 60)
    for field in ("constant", "axis", "contour"):
        stitch = replace(default_stitch("ribs"), angle_field=field, border=True, unevenness=0.5, metallic=0.5)
        rendered = render(Image.fromarray(design), stitch)
        assert np.isfinite(rendered.height).all() and rendered.height[rendered.mask].mean() > 2


def test_a_registered_family_is_described_and_sampled(ribs: Family) -> None:
    assert describe(default_stitch("ribs")) == "glossy ribs, medium thread"
    assert describe(Stitch("ribs", thread_width=0.4, stitch_length=4.0)) == "long ribs, fine thread"
    for seed in range(20):
        stitch, again = (sample_stitch(np.random.default_rng(seed), "ribs") for _ in range(2))
        assert stitch == again and stitch.angle_field in ribs.ranges.angle_fields
        assert 0.5 <= stitch.thread_width <= 0.7 and 0.9 <= stitch.density <= 1.0


def test_a_registered_family_is_fitted(two_families: Family) -> None:
    rows = [stitch for stitch in fit._atlas_stitches() if stitch.family == "ribs"]
    assert len(rows) == 2 * len(fit.WIDTHS) and {stitch.angle_field for stitch in rows} == {"constant", "contour"}
    stitch = replace(default_stitch("ribs"), angle=30.0)
    picture = render(Image.new("RGB", (224, 224), (180, 70, 60)), stitch, Fabric("plain"), background="stitch").image
    for name in ("ribs", None):
        found = fit.fit_stitch(picture, family=name)
        assert found.family == "ribs"
        assert found.thread_width / found.density == pytest.approx(0.6, rel=0.1)
        assert (found.angle, found.angle_field) == (pytest.approx(30, abs=4), "constant")


PARTS = {type(part).__name__: part for part in (RIBS, RIBS.ranges, RIBS.words, RIBS.border, RIBS.fit)}


@pytest.mark.parametrize("record", PARTS.values(), ids=PARTS)
def test_a_forgotten_field_is_an_error(record: Family | Ranges | Words | Fit | Border) -> None:
    values = {field.name: getattr(record, field.name) for field in fields(record)}
    assert type(record)(**values) == record
    for name in values:
        with pytest.raises(TypeError, match=name):
            type(record)(**{other: value for other, value in values.items() if other != name})


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: replace(RIBS.ranges, sheen=(0.8, 0.2)),
        lambda: replace(RIBS.ranges, angle_fields=("spiral",)),
        lambda: replace(RIBS.words, size="loop"),
        lambda: replace(RIBS.fit, ratios=()),
        lambda: replace(RIBS.fit, shaped_field="grid"),
        lambda: replace(RIBS.fit, chosen_on="lines"),
        lambda: replace(RIBS.fit, direction="spiral"),
    ],
)
def test_a_wrong_field_is_an_error(wrong) -> None:
    with pytest.raises(ValueError):
        wrong()


@pytest.mark.parametrize(("record", "fault"), [("name='c', order=1", "'c'"), ("name='b', order=1", "one order")])
def test_records_are_named_as_their_files_and_have_orders_of_their_own(tmp_path, monkeypatch, record, fault) -> None:
    folder = tmp_path / f"records_{len(fault)}"
    folder.mkdir()
    for name, text in (("__init__", ""), ("a", "name='a', order=1"), ("b", record)):
        (folder / f"{name}.py").write_text(f"from types import SimpleNamespace\nRECORD = SimpleNamespace({text})\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=fault):
        read_records(folder.name, [str(folder)], "RECORD")


def test_the_order_is_what_draws_and_the_atlas_go_by() -> None:
    for records in (FAMILIES, FABRICS):
        assert [record.order for record in records.values()] == list(range(1, len(records) + 1))
    assert next(iter(FAMILIES)) == "satin" and sum(kind.share for kind in FABRICS.values()) == pytest.approx(1)


def test_the_help_names_them_all() -> None:
    for records, folder in ((FAMILIES, "stitch/families"), (FABRICS, "stitch/fabrics")):
        assert set(cli._file_names(folder).replace(" or ", ", ").split(", ")) == set(records)

"""The benchmark's cases are frozen and new to the base; its metrics order known cases rightly."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import cv2
import numpy as np
import pytest

from tambour.bench import cases, metrics
from tambour.errors import InputError
from tambour.imaging.geometry import flatten
from tambour.imaging.texture import texture_statistics
from tambour.stitch import Fabric, Stitch, render

# -- cases ------------------------------------------------------------------------------------------------------------


def test_the_cases_are_frozen():
    assert cases.content_hash() == "3f9527fd7bc1c1adaef4e5c4bda0be43c3782e863d18c17e2b9a638b00603168"


def test_every_style_is_new_to_the_base():
    from pretraining import corpus

    assert set(cases.HELD_OUT_FAMILIES) == set(corpus.HELD_OUT_FAMILIES)
    assert (cases.THICK_SATIN, cases.DENSE_KNOTS) == (corpus.THICK_SATIN, corpus.DENSE_KNOTS)
    for style in cases.STYLES:
        stitch = Stitch(**style.stitch)
        unseen = stitch.family in cases.HELD_OUT_FAMILIES
        unseen |= stitch.family == "satin" and stitch.thread_width > cases.THICK_SATIN
        unseen |= stitch.family == "knot" and stitch.stitch_length / stitch.density < cases.DENSE_KNOTS
        assert unseen, style.name


def test_splits_are_disjoint_and_large_enough():
    development, test = (cases.styles_of(split) for split in cases.SPLITS)
    assert not {style.name for style in development} & {style.name for style in test}
    assert not set(cases.DESIGNS["development"]) & set(cases.DESIGNS["test"])
    assert len({style.name for style in cases.STYLES}) == len(cases.STYLES) >= 10
    assert sum(len(names) for names in cases.DESIGNS.values()) == 12
    assert len({style.stitch["family"] for style in test} & set(cases.HELD_OUT_FAMILIES)) >= 3
    for style in cases.STYLES:
        assert style.reference in cases.DESIGNS[style.split]
        assert style.reference not in cases.targets_of(style)
    stitches = [json.dumps(dict(style.stitch), sort_keys=True) for style in cases.STYLES]
    assert len(set(stitches)) == len(stitches)
    assert len(cases.PROMPTS) == len(set(cases.PROMPTS)) == 20


def test_a_pairing_is_aligned_and_the_same_every_time():
    style = cases.styles_of("test")[0]
    pair = cases.pairing(style, cases.targets_of(style)[:1])
    (target,) = pair.targets
    assert pair.embroidery.size == pair.design.size == target.truth.size == (cases.SIZE, cases.SIZE)
    opaque = np.asarray(target.design)[..., 3] > 127
    assert (opaque & target.mask).sum() > 0.9 * opaque.sum()
    again = render(cases.design(target.name), Stitch(**style.stitch), Fabric(**style.fabric), seed=cases.SEED,
                   px_per_mm=cases.PX_PER_MM).image  # fmt: skip
    assert np.array_equal(np.asarray(again), np.asarray(target.truth))


def test_wrong_names_are_refused():
    with pytest.raises(InputError, match="Allowed: development, test"):
        cases.styles_of("training")
    with pytest.raises(InputError, match="no style 'velvet'"):
        cases.styles_of("test", ["velvet"])
    style = cases.styles_of("test")[0]
    with pytest.raises(InputError, match="not judged on"):
        cases.pairing(style, [style.reference])


def test_a_users_folder_becomes_cases(tmp_path):
    for part in ("references", "designs"):
        (tmp_path / part).mkdir()
    with pytest.raises(InputError, match="no pictures"):
        cases.read_folder(tmp_path)
    style = cases.STYLES[0]
    cases.truth(style, "bee").image.save(tmp_path / "references" / "bee.png")
    cases.design("star").save(tmp_path / "designs" / "star.png")
    (tmp_path / "prompts.txt").write_text("a red dog\n\n a cat \n")
    (pair,), prompts = cases.read_folder(tmp_path, 160)
    assert prompts == ("a red dog", "a cat")
    assert pair.split == "paper" and pair.case is None and pair.embroidery.size == pair.design.size == (160, 160)
    assert [target.name for target in pair.targets] == ["star"] and pair.targets[0].truth is None


# -- metrics ----------------------------------------------------------------------------------------------------------

SIDE = 256  # px; ordering holds at the benchmark's own size too, which takes four times as long
CLOTH = Fabric(kind="weave", colour=(226, 217, 198), contrast=0.3)


def _drawn(name: str, stitch: Stitch, seed: int):
    return render(cases.design(name).resize((SIDE, SIDE)), stitch, CLOTH, seed=seed, px_per_mm=18)


@pytest.fixture(scope="module", params=["chain-bold", "sequin-large"])
def known(request):
    """What results on the heart are measured against, and those results, from the truth's twin to nonsense."""
    case = next(case for case in cases.STYLES if case.name == request.param)
    stitch = Stitch(**case.stitch)
    other = Stitch("tatami", thread_width=0.45, stitch_length=2.4, angle=20.0)
    alike = replace(stitch, thread_width=1.6 * stitch.thread_width, stitch_length=1.6 * stitch.stitch_length)
    truth, reference = _drawn("heart", stitch, 1), _drawn("fox", stitch, 1)
    fabric = tuple(int(v) for v in np.median(np.asarray(truth.image)[~truth.mask], 0))
    flat, its = (np.asarray(flatten(cases.design(name).resize((SIDE, SIDE)), fabric)) for name in ("heart", "fox"))
    library = {
        name: texture_statistics(np.asarray((drawn := _drawn("heart", one, 9)).image), drawn.mask)
        for name, one in (("right", stitch), ("alike", alike), ("other", other))
    }
    picture = np.asarray(truth.image)
    known = metrics.Known(
        design=flat,
        mask=truth.mask,
        reference=np.asarray(reference.image),
        reference_design=its,
        reference_mask=reference.mask,
        reference_texture=texture_statistics(np.asarray(reference.image), reference.mask),
        fabric=fabric,
        truth=picture,
        truth_texture=texture_statistics(picture, truth.mask),
        style="right",
        library=library,
    )
    grain = np.random.default_rng(0).normal(0, 22, flat.shape)
    pictures = {
        "twin": np.asarray(_drawn("heart", stitch, 2).image),
        "alike": np.asarray(_drawn("heart", alike, 2).image),
        "other": np.asarray(_drawn("heart", other, 2).image),
        "flat": flat,
        "noise": np.clip(flat + grain, 0, 255).astype(np.uint8),
        "blur": cv2.GaussianBlur(picture, (0, 0), 2.5),
        "reference": np.asarray(reference.image),
    }
    return known, {name: metrics.measure(image, known) for name, image in pictures.items()}


@pytest.mark.parametrize("metric", ["texture"])
def test_texture_orders_known_cases_and_neither_noise_nor_blur_wins(known, metric):
    _, found = known
    twin, alike, other, flat = (found[name][metric] for name in ("twin", "alike", "other", "flat"))
    assert twin < alike < other < flat
    assert min(found["noise"][metric], found["blur"][metric]) > alike


def test_direction_knows_the_truth_from_stitches_that_run_elsewhere(known):
    wanted, found = known
    twin, *others = (found[name]["direction"] for name in ("twin", "other", "noise", "flat"))
    assert metrics.direction_error(wanted.truth, wanted.truth, wanted.mask) < 0.5
    assert twin < 0.85 * others[0] and others[0] < min(others[1:])


def test_direction_is_the_angle_between_threads_and_a_strong_blur_shows_none():
    rows, columns = np.indices((SIDE, SIDE))
    mask = np.ones((SIDE, SIDE), bool)

    def threads(angle: float) -> np.ndarray:
        across = rows * np.cos(np.radians(angle)) - columns * np.sin(np.radians(angle))
        return np.repeat(np.uint8(128 + 60 * np.cos(across))[..., None], 3, 2)

    for angle in (0, 20, 90):
        assert metrics.direction_error(threads(30 + angle), threads(30), mask) == pytest.approx(angle, abs=2)
    assert metrics.direction_error(cv2.GaussianBlur(threads(30), (0, 0), 3), threads(30), mask) == pytest.approx(45)
    assert np.isnan(metrics.direction_error(threads(30), np.full((SIDE, SIDE, 3), 90, np.uint8), mask))


def test_the_twin_alone_is_named_rightly(known):
    _, found = known
    assert found["twin"]["identified"] == 1
    assert found["other"]["identified"] == found["alike"]["identified"] == 0


def test_colour_layout_and_leakage_know_the_reference_from_the_truth(known):
    _, found = known
    for name in ("twin", "alike", "other"):
        assert found[name]["colour"] < 6 < found["reference"]["colour"]
        assert found[name]["leak_content"] < 0.2 and found[name]["leak_colour"] < 0.15
        assert found[name]["edges"] > found["reference"]["edges"]
        assert found[name]["drift"] < 2.5 < found["reference"]["drift"]
        assert found[name]["histogram"] < found["reference"]["histogram"]
    assert found["reference"]["leak_content"] > 0.6 and found["reference"]["leak_colour"] > 0.3
    assert max(found["flat"][name] for name in ("histogram", "colour", "drift")) < 1e-6


def test_every_metric_is_in_its_range(known):
    _, found = known
    for values in found.values():
        for metric in metrics.METRICS:
            if metric.name in values:
                assert metric.low <= values[metric.name] <= metric.high, metric.name


def test_the_reference_itself_is_no_good_result(known):
    """Copying the reference is the failure that texture against the reference alone would reward."""
    _, found = known
    assert found["reference"]["texture"] > found["twin"]["texture"]


@pytest.mark.parametrize("shift", [(0, 0), (1, 0), (2, 1), (-3, 2)])
def test_drift_is_the_shift(shift):
    design = np.asarray(flatten(cases.design("mushroom").resize((SIDE, SIDE)), (230, 220, 200)))
    moved = np.roll(design, shift, (0, 1))
    assert metrics.drift(moved, design) == pytest.approx(np.hypot(*shift), abs=0.35)


def test_histograms_sum_to_one_and_see_hue():
    red, green = (np.full((40, 40, 3), colour, np.uint8) for colour in ((200, 40, 40), (40, 200, 40)))
    assert metrics.rgb_uv_histogram(red).sum() == pytest.approx(1, abs=1e-3)
    assert metrics.histogram_loss(red, red) == 0
    assert metrics.histogram_loss(red, green) > 0.9


def test_repainting_in_the_references_colours_is_leakage():
    design, reference = (
        np.asarray(flatten(cases.design(n).resize((SIDE, SIDE)), (230, 220, 200))) for n in ("heart", "bird")
    )
    mask, its = (np.asarray(cases.design(n).resize((SIDE, SIDE)))[..., 3] > 127 for n in ("heart", "bird"))
    painted = np.where(mask[..., None], np.uint8(np.median(reference[its], 0)), design)
    wanted = dict(design=design, mask=mask, reference_design=reference, reference_mask=its, fabric=(230, 220, 200))
    assert metrics.leaked_colours(design, **wanted) < 0.05
    assert metrics.leaked_colours(painted.astype(np.uint8), **wanted) > 0.5


def test_hfrd_is_what_noise_can_fool(known):
    """It is reported because the paper does; this is why it is never trusted alone."""
    assert known[1]["noise"]["texture"] > known[1]["alike"]["texture"]
    assert "rewards noise" in next(m.source for m in metrics.METRICS if m.name == "hfrd")


def test_absent_packages_name_the_extra(monkeypatch):
    from tambour.bench import perceptual

    monkeypatch.setitem(sys.modules, "lpips", None)
    with pytest.raises(InputError, match=r"tambour\[eval\]"):
        perceptual.pick(["lpips"])
    with pytest.raises(InputError, match="Allowed: lpips"):
        perceptual.pick(["fid"])
    monkeypatch.delenv(perceptual.CSD_VARIABLE, raising=False)
    perceptual.descriptor.cache_clear()
    with pytest.raises(InputError, match=perceptual.CSD_VARIABLE):
        perceptual.descriptor()

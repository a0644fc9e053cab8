"""A reference's relief, and its stitches laid out on another design."""

from __future__ import annotations

import math
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from test_style import random_style
from workflow_calls import apply

from tambour.base import Base, generator, load
from tambour.bench import cases
from tambour.config import read_recipe, recipe_from, recipe_values
from tambour.drawing.sampler import sample
from tambour.errors import InputError, StyleError
from tambour.guides.photo import restore_stitches
from tambour.guides.photo.geometry import region_geometry
from tambour.guides.photo.quilt import SIDES, Quilt, stitched
from tambour.guides.photo.relief import FACES, OPEN, RIM, Relief, clear_of, cut_relief
from tambour.guides.photo.yarn import raised, relit, shown_colours
from tambour.imaging.colour import lab_to_rgb, rgb_to_lab
from tambour.imaging.contrast import contrast_map
from tambour.imaging.geometry import flatten
from tambour.imaging.regions import find_regions
from tambour.imaging.scores import colour_difference
from tambour.imaging.tensors import to_tensor
from tambour.imaging.texture import texture_distance, texture_statistics
from tambour.progress import finished
from tambour.stitch import Fabric, default_stitch, render
from tambour.style import Style
from tambour.workflows.embroider import Result

SIDE = 256
GROUND = (238, 232, 220)


def disc(colour: tuple[int, int, int], turned: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """An ellipse on a ground, and where it is."""
    image = Image.new("L", (SIDE, SIDE))
    ImageDraw.Draw(image).ellipse([24, 70, SIDE - 24, SIDE - 70], fill=255)
    inside = np.asarray(image.rotate(turned)) > 127
    return np.where(inside[..., None], np.uint8(colour), np.uint8(GROUND)), inside


def sewn(design: np.ndarray, family: str, field: str, seed: int = 1) -> np.ndarray:
    stitch = replace(default_stitch(family), angle_field=field, angle=20.0)
    return np.asarray(render(Image.fromarray(design), stitch, Fabric("plain", colour=GROUND), seed=seed).image)


@pytest.fixture(scope="module")
def mini() -> Base:
    return load("mini", dtype="float32", controlnets=("tile", "canny"))


def relief_of(family: str, field: str) -> Relief:
    design, inside = disc((150, 60, 50))
    return Relief.of_bytes(cut_relief(sewn(design, family, field), design, inside))


@pytest.mark.parametrize(
    ("family", "field", "orientation"),
    [("cord", "contour", "border"), ("stem", "contour", "border"), ("tatami", "constant", "picture")],
)
def test_the_frame_is_read_from_the_stitches(family: str, field: str, orientation: str) -> None:
    assert relief_of(family, field).orientation == orientation


def test_rows_that_stitches_cross_are_seen_too() -> None:
    """Chenille: its loops lie across its rows, so directions alone cancel out; here on a star in a ring."""
    drawing = cases.design("star")
    design, inside = np.asarray(flatten(drawing, GROUND)), np.asarray(drawing)[..., 3] > 127
    for field, orientation in (("contour", "border"), ("constant", "picture")):
        assert Relief.of_bytes(cut_relief(sewn(design, "chenille", field), design, inside)).orientation == orientation


def test_a_place_knows_border_and_direction() -> None:
    design = np.full((128, 128, 3), 255, np.uint8)
    design[40:80, 16:112] = (20, 120, 60)
    inside = (design != 255).any(2)
    place = region_geometry(design, inside)
    assert place.labels.max() == 1 and not place.distance[~inside].any()
    assert place.distance[60, 64] == pytest.approx(20, abs=1.5) and place.distance[42, 64] == pytest.approx(3, abs=1.5)

    def off(orientation: str, y: int, x: int, wanted: float) -> float:
        return abs((place.angles[orientation][y, x] - wanted + math.pi / 2) % math.pi - math.pi / 2)

    assert off("border", 44, 64, 0) < 0.1 and off("border", 60, 19, math.pi / 2) < 0.2 and off("axis", 60, 64, 0) < 0.05


def test_a_relief_comes_back_from_its_bytes() -> None:
    relief = relief_of("chain", "contour")
    data = relief.to_bytes()
    again = Relief.of_bytes(data)
    assert again.orientation == relief.orientation and np.array_equal(again.clear, relief.clear)
    assert np.abs(again.contrast - relief.contrast)[relief.clear].max() <= 0.011
    assert again.to_bytes() == data


@pytest.mark.parametrize("data", [b"", b"no picture", cut_relief(*disc((9, 9, 9))[:1] * 2, disc((9, 9, 9))[1])[:80]])
def test_what_is_no_relief_says_so(data: bytes) -> None:
    with pytest.raises(StyleError, match="relief"):
        Relief.of_bytes(data)


def test_a_relief_without_stitches_or_of_a_few_px_is_refused() -> None:
    relief = relief_of("tatami", "constant")
    with pytest.raises(StyleError, match="no stitches"):
        Relief.of_bytes(replace(relief, clear=np.zeros_like(relief.clear)).to_bytes())
    small = {name: getattr(relief, name)[:16, :16] for name in ("contrast", "clear", "distance", "angle")}
    with pytest.raises(StyleError, match="cannot be read"):
        Relief.of_bytes(replace(relief, **small).to_bytes())


def test_too_little_to_see_is_no_relief() -> None:
    design, inside = disc((150, 60, 50))
    assert cut_relief(design, design, np.zeros_like(inside)) == b""
    assert cut_relief(design[:32, :32], design[:32, :32], inside[:32, :32]) == b""


def test_relief_does_not_know_its_colour() -> None:
    """The same stitches in dark and in pale yarn say nearly the same of one yarn; as plain contrast they do not."""
    reliefs = []
    for colour in ((40, 40, 70), (235, 225, 200)):
        design, inside = disc(colour)
        relief = Relief.of_bytes(cut_relief(sewn(design, "cord", "contour"), design, inside))
        reliefs.append(relief.contrast[relief.clear].std())
    assert max(reliefs) < 1.5 * min(reliefs)


def test_light_keeps_colours_and_its_highlights_are_white() -> None:
    colours = np.uint8([[40, 40, 70], [128, 128, 128], [230, 190, 40]])
    light = rgb_to_lab(colours[None])[0, :, 0]
    assert np.abs(relit(colours, light).astype(int) - colours).max() <= 1
    dark = relit(colours, light - 0.4 * (light + 16)).astype(int)
    lit = relit(colours, np.minimum(light + 0.6 * (light + 16), 100)).astype(int)
    assert (dark < colours).all() and (lit > colours).any(1).all() and (lit >= colours).all()
    ratio = dark[2] / colours[2]
    assert np.ptp(ratio) < 0.2  # shade keeps the hue, but for sRGB's straight toe
    assert lit[0].min() / lit[0].max() > 40 / 70 + 0.1  # a highlight on navy is paler than navy


def test_yarn_shows_the_contrast_that_the_photo_shows_in_such_yarn() -> None:
    """Navy and yellow in one photo: laid on either, stitches get its lights and darks, from wherever they come."""
    design, inside = disc((40, 40, 70))
    design[inside & (np.indices(inside.shape)[1] > 128)] = (240, 220, 120)
    photo = sewn(design, "cord", "constant")
    relief = Relief.of_bytes(cut_relief(photo, design, inside))
    contrast = contrast_map(photo, inside)[0]
    spans = []
    for colour in ((40, 40, 70), (240, 220, 120)):
        here = clear_of(design, inside) & (design == colour).all(-1)
        own = np.quantile(contrast[here], (0.1, 0.9))
        light = rgb_to_lab(photo)[here][:, 0].mean()
        laid = np.quantile(relief.tones.on(relief.contrast[relief.clear], light), (0.1, 0.9))
        assert np.abs(laid - own).max() < 0.12
        spans.append(np.ptp(laid))
    assert spans[0] > 1.3 * spans[1]  # white leaves yellow no room for highlights


def test_pale_yarn_is_laid_a_little_darker_and_dark_yarn_as_it_is() -> None:
    relief = relief_of("cord", "contour")
    stitches = relief.contrast[relief.clear]
    fall = [flat - relief.tones.shown(stitches, np.full_like(stitches, flat)).mean() for flat in (15.0, 50.0, 95.0)]
    assert -1 < fall[0] < 3 and -1 < fall[1] < 4 and 3 < fall[2] < 20
    assert relief.tones.shown(np.array(1.0), np.array(95.0)) == 100


@pytest.mark.parametrize(("family", "field"), [("cord", "contour"), ("tatami", "constant"), ("chain", "contour")])
def test_the_stitches_come_over_to_another_design(family: str, field: str) -> None:
    """Turned, and in another colour."""
    flat, inside = disc((60, 120, 170), 90.0)
    known = (("cord", "contour"), ("tatami", "constant"), ("chain", "contour"))
    truth = {key: texture_statistics(sewn(flat, *key, 5), inside) for key in known}
    laid = finished(stitched(Quilt(relief_of(family, field)), flat, inside, GROUND))
    near = {key: texture_distance(texture_statistics(laid, inside), wanted) for key, wanted in truth.items()}
    plain = texture_distance(texture_statistics(flat, inside), truth[family, field])
    assert near[family, field] < 0.35 * plain and near[family, field] == min(near.values())
    assert np.array_equal(laid[~inside], flat[~inside]) and colour_difference(laid, flat) < 5


def test_stitches_turn_with_their_region_unless_they_keep_to_the_picture() -> None:
    def across(relief: Relief, turned: float) -> float:
        """Share of the contrast's change that is along x."""
        flat, inside = disc((120, 120, 120), turned)
        contrast, _ = finished(Quilt(relief).lay(region_geometry(flat, inside)))
        gy, gx = np.gradient(np.where(inside, contrast, 0))
        middle = np.s_[110:146, 110:146]
        return float(np.square(gx[middle]).sum() / (np.square(gx[middle]) + np.square(gy[middle])).sum())

    rows = np.zeros((SIDE, SIDE), np.float32)
    rows[:] = np.sin(np.arange(SIDE) / 2)[:, None] * 0.3  # lines along x, as the ellipse lies
    design, inside = disc((120, 120, 120))
    place = region_geometry(design, inside)
    for orientation, turns in (("axis", True), ("picture", False)):
        relief = Relief(rows * inside, inside, place.distance, place.angles[orientation], orientation, 1.0)
        assert across(relief, 0.0) < 0.1
        assert across(relief, 90.0) > 0.9 if turns else across(relief, 90.0) < 0.1


def test_threads_go_on_from_piece_to_piece() -> None:
    """Parallel threads, seen on ellipses alone, are laid on a wide area: none of them breaks where pieces meet."""
    design, inside = disc((150, 60, 50))
    place = region_geometry(design, inside)
    threads = np.broadcast_to(0.3 * np.sin(2 * np.pi * np.arange(SIDE) / 16)[:, None], inside.shape).astype(np.float32)
    clear = clear_of(design, inside)
    relief = Relief(threads * clear, clear, place.distance, place.angles["picture"], "picture", 1.0)
    flat, everywhere = np.full((SIDE, SIDE, 3), 120, np.uint8), np.ones((SIDE, SIDE), bool)
    for seed in range(3):
        laid, _ = finished(Quilt(relief).lay(region_geometry(flat, everywhere), seed))
        columns = laid[8:-8, 8:-8].T
        alike = [np.corrcoef(one, other)[0, 1] for one, other in zip(columns, columns[100:], strict=False)]
        assert np.mean(alike) > 0.95


def test_borders_are_raised_as_on_the_photo() -> None:
    """A rim, lit from above, comes to the same side of another shape; a rim as weak as nothing leaves stitches be."""
    rng = np.random.default_rng(0)
    design, inside = disc((120, 120, 120))
    photo = lit_from_above(design, inside, rng)
    known = Relief.of_bytes(cut_relief(photo, design, inside))
    above, below = FACES // 4, FACES // 4 * 3  # the upper border faces down, into its region
    assert known.rim.shape == (RIM, FACES)
    assert known.rim[:2, below].max() < -0.1 < 0.1 < known.rim[:2, above].min()

    flat, other = disc((120, 120, 120), 90.0)
    wanted = region_geometry(flat, other)
    plain = 0.2 * rng.standard_normal(other.shape)
    contrast, under = raised(plain, known, wanted), other & (wanted.distance < 2)
    upper, lower = np.indices(other.shape)[0] < 80, np.indices(other.shape)[0] > 176
    assert contrast[under & upper].mean() > 0.05 and contrast[under & lower].mean() < -0.05
    deep = ~other | (wanted.distance >= RIM)
    assert np.array_equal(contrast[deep], plain[deep])
    assert np.abs(raised(plain, replace(known, rim=known.rim / 100), wanted) - plain).max() < 0.01


def test_glints_on_black_yarn_leave_a_relief_that_can_be_read() -> None:
    design, inside = disc((2, 2, 2))
    photo = design.copy()
    photo[inside & (np.random.default_rng(0).random(inside.shape) < 0.06)] = 200
    assert Relief.of_bytes(cut_relief(photo, design, inside)).tones.level[-1] > 1


def test_a_found_border_that_is_off_leaves_a_relief_that_can_be_read() -> None:
    """White cloth seen 3 px inside what was taken for black yarn."""
    design, inside = disc((2, 2, 2))
    photo = sewn(design, "tatami", "constant").copy()
    photo[inside & (region_geometry(design, inside).distance < 3)] = 255
    known = Relief.of_bytes(cut_relief(photo, design, inside))
    assert known.rim[0].min() > 0.9
    laid = finished(stitched(Quilt(known), design, inside, GROUND))
    assert laid.shape == design.shape


def lit_from_above(design: np.ndarray, inside: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A photo of rough yarn, whose border is light where it faces up and dark where it faces down, for some px."""
    place = region_geometry(design, inside)
    down = np.gradient(cv2.GaussianBlur(place.distance, (0, 0), 2))[0]
    light = 60 * down * np.clip(1 - place.distance / 4, 0, 1) + 15 * rng.standard_normal(inside.shape)
    return np.where(inside[..., None], np.clip(design + light[..., None], 0, 255), design).astype(np.uint8)


def test_rows_follow_the_border_at_their_depth() -> None:
    """Relief that is nothing but rings under the border is the same rings in any other shape."""

    def rings(distance: np.ndarray) -> np.ndarray:
        return 0.3 * np.cos(2 * math.pi * distance / 14)

    design, inside = disc((120, 120, 120))
    place = region_geometry(design, inside)
    relief = Relief(rings(place.distance) * inside, inside, place.distance, place.angles["border"], "border", 1.0)
    shape = Image.new("L", (SIDE, SIDE))
    ImageDraw.Draw(shape).polygon([(30, 40), (220, 20), (240, 200), (128, 120), (40, 236)], fill=255)
    other = np.asarray(shape) > 127
    wanted = region_geometry(np.where(other[..., None], np.uint8((200, 60, 60)), np.uint8(GROUND)), other)
    contrast, done = finished(Quilt(relief).lay(wanted))
    away = np.abs(contrast - rings(wanted.distance))[other & (wanted.distance > 5) & (wanted.distance < 30)]
    assert done[wanted.labels > 0].all() and np.median(away) < 0.01 and away.mean() < 0.03


def test_stitches_keep_their_length_round_bends() -> None:
    """Relief that repeats along a straight border repeats as often along a circle of any size, at any depth."""
    rows, columns = np.indices((SIDE, SIDE), float)
    inside = np.zeros((SIDE, SIDE), bool)
    inside[20:236, 20:236] = True
    flat = np.where(inside[..., None], np.uint8((120, 120, 120)), np.uint8(GROUND))
    place = region_geometry(flat, inside)
    upright = np.abs(columns - 128) > np.abs(rows - 128)
    along = np.where(upright, rows, columns)
    stripes = np.where(inside, 0.3 * np.cos(2 * math.pi * along / 16), 0)
    relief = Relief(stripes, inside, place.distance, place.angles["border"], "border", 1.0)
    for radius in (50, 90):
        from_middle = np.hypot(rows - 128, columns - 128)
        shape = from_middle < radius
        flat = np.where(shape[..., None], np.uint8((120, 120, 120)), np.uint8(GROUND))
        contrast = finished(Quilt(relief).lay(region_geometry(flat, shape)))[0].astype(np.float32)
        for depth in (6, 12, 24):
            turn = np.arange(4096) * 2 * math.pi / 4096
            spots = [(128 + (radius - depth) * part(turn)).astype(np.float32)[None] for part in (np.cos, np.sin)]
            ring = cv2.remap(contrast, *spots, cv2.INTER_LINEAR)[0]
            power = np.abs(np.fft.rfft(ring)) ** 2
            wanted = 2 * math.pi * (radius - depth) / 16
            found = (power[1:200] * np.arange(1, 200)).sum() / power[1:200].sum()
            assert abs(found / wanted - 1) < 0.25


def test_chance_is_the_seed_and_a_quilt_is_laid_twice_alike() -> None:
    flat, inside = disc((60, 120, 170))
    place, quilt = region_geometry(flat, inside), Quilt(relief_of("tatami", "constant"))
    once, again, other = (finished(quilt.lay(place, seed))[0] for seed in (3, 3, 4))
    assert np.array_equal(once, again) and not np.array_equal(once, other)
    assert SIDES[0] <= quilt.side <= SIDES[1]
    shares = list(quilt.lay(place))
    assert len(shares) > 3 and shares == sorted(shares) and 0 <= shares[0] < shares[-1] < 1


@pytest.mark.parametrize("shape", [(24, 24), (40, 200), (97, 31)])
@pytest.mark.parametrize(("family", "field"), [("cord", "contour"), ("tatami", "constant")])
def test_any_shape_is_covered_without_a_border_too(shape: tuple[int, int], family: str, field: str) -> None:
    flat, inside = np.full((*shape, 3), 140, np.uint8), np.ones(shape, bool)
    contrast, done = finished(Quilt(relief_of(family, field)).lay(region_geometry(flat, inside)))
    assert contrast.shape == shape and done.all() and contrast.std() > 0.02


def test_regions_are_filled_apart() -> None:
    """No piece goes over a border of two colours: what lies left does not depend on what is right of it."""
    inside = np.ones((128, 128), bool)
    flat = np.full((128, 128, 3), 90, np.uint8)
    flat[:, 64:] = (200, 60, 60)
    contrast, done = finished(Quilt(relief_of("tatami", "constant")).lay(region_geometry(flat, inside)))
    assert done.all() and np.abs(np.diff(contrast, axis=1))[:, 63].mean() > np.abs(np.diff(contrast, axis=1)).mean()


def test_open_work_is_told_from_dense_and_shows_its_fabric() -> None:
    design, inside = disc((240, 220, 120))
    navy = (44, 54, 84)
    design[~inside] = navy

    def sewn_on_navy(family: str) -> Relief:
        stitch = replace(default_stitch(family), angle_field="constant")
        photo = np.asarray(render(Image.fromarray(design), stitch, Fabric("weave", colour=navy), seed=1).image)
        return Relief.of_bytes(cut_relief(photo, design, inside))

    dense, sparse = sewn_on_navy("tatami"), sewn_on_navy("sashiko")
    assert dense.cover > 0.85 and sparse.cover < OPEN
    assert np.array_equal(shown_colours(dense.cover, design, inside, navy), design)
    shown = shown_colours(sparse.cover, design, inside, navy)
    assert np.array_equal(shown[~inside], design[~inside])
    pale, mixed, dark = (rgb_to_lab(np.uint8([[colour]]))[0, 0] for colour in (design[128, 128], shown[128, 128], navy))
    assert np.allclose(mixed, dark + sparse.cover * (pale - dark), atol=1.5)


def test_a_style_starts_from_its_stitches(mini: Base) -> None:
    recipe = read_recipe("mini")
    recipe = replace(recipe, sampling=replace(recipe.sampling, size=128, lora_scale=0.0))
    design, _ = disc((150, 60, 50))
    relief = relief_of("cord", "contour").to_bytes()
    stitch = dict(vars(default_stitch("tatami")))
    style: Style = replace(
        random_style(mini), recipe=recipe_values(recipe), relief=relief, stitch=stitch, fabric=GROUND, statistics=()
    )
    art = Image.fromarray(design).resize((128, 128))

    def drawn(guide: str | None) -> np.ndarray:
        (result,) = [r for r in apply(style, [art], base=mini, recipe=recipe, guide=guide) if isinstance(r, Result)]
        return np.asarray(result.image).astype(int)

    flat, within = np.asarray(art), find_regions(np.asarray(art)).labels > 0
    start = finished(stitched(Quilt(Relief.of_bytes(relief)), flat, within, GROUND)).astype(int)
    usual, other = drawn(None), drawn("stitches")
    assert np.array_equal(usual, drawn("photo"))
    alike = [np.corrcoef(picture[within].mean(1), start[within].mean(1))[0, 1] for picture in (usual, other)]
    assert alike[0] > 0.5 and alike[0] > alike[1] + 0.3


def test_what_the_last_steps_evened_out_comes_back() -> None:
    design, inside = disc((150, 60, 50))
    start = Image.fromarray(sewn(design, "cord", "contour"))
    lab = rgb_to_lab(np.asarray(start))
    smooth = cv2.GaussianBlur(lab, (0, 0), 0.8) * 0.9
    faded = Image.fromarray(lab_to_rgb(np.where(inside[..., None], smooth, lab)))
    again = restore_stitches(faded, start, inside)
    deep = cv2.erode(inside.astype(np.uint8), np.ones((9, 9))) > 0

    def tone_of(image: Image.Image) -> tuple[float, float]:
        contrast, _ = contrast_map(np.asarray(image), inside)
        return float(contrast[deep].std()), float(rgb_to_lab(np.asarray(image))[deep][:, 0].mean())

    was, less, now = tone_of(start), tone_of(faded), tone_of(again)
    assert less[0] < 0.95 * was[0] and abs(now[0] - was[0]) < 0.03 * was[0]
    assert less[1] < was[1] - 2 and abs(now[1] - was[1]) < 1
    assert np.array_equal(np.asarray(again)[~inside], np.asarray(faded)[~inside])


def test_details_that_the_autoencoder_loses_are_kept(mini: Base) -> None:
    design, _ = disc((150, 60, 50))
    start = to_tensor(Image.fromarray(sewn(design, "cord", "contour")))
    words = mini.encode_prompt(["a design"])

    def drawn(detail: bool) -> torch.Tensor:
        rng = [generator(0, "apply")]
        setting = dict(
            size=(SIDE, SIDE), generators=rng, steps=12, start=start, strength=0.1, restore_vae_detail=detail
        )
        return finished(sample(mini, words, **setting))

    with_detail, without = ((drawn(detail) - start).abs().mean() for detail in (True, False))
    assert with_detail < 0.9 * without


def test_a_style_without_them_says_so(mini: Base) -> None:
    recipe = read_recipe("mini")
    stitch = dict(vars(default_stitch("tatami")))
    style = replace(random_style(mini), recipe=recipe_values(recipe), relief=b"", stitch=stitch)
    with pytest.raises(StyleError, match="keeps no stitches"):
        next(apply(style, [Image.new("RGB", (64, 64))], base=mini, guide="photo"))


def test_recipes_with_unknown_keys_are_refused() -> None:
    values = recipe_values(read_recipe("mini"))
    with pytest.raises(InputError, match="pieces"):
        recipe_from(values | {"sampling": values["sampling"] | {"pieces": 1.0}})

"""The renderer's invariants: coverage, colour, measures, determinism, and inputs at the edge."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from PIL import Image

from tambour.errors import InputError
from tambour.stitch import (
    FABRICS,
    FAMILIES,
    Camera,
    Fabric,
    Light,
    Stitch,
    default_stitch,
    describe,
    photograph,
    render,
    sample_camera,
    sample_fabric,
    sample_lights,
    sample_stitch,
    stitch_values,
)

CLOSED = ("satin", "tatami", "chenille", "sequin", "longshort", "stem")  # no cloth shows between their threads
RED, GREEN, BLUE = (190, 70, 60), (70, 150, 90), (70, 100, 180)


def drawing(size: int = 160, ground: tuple[int, ...] = (255, 255, 255)) -> Image.Image:
    """A disc with an eye, a bar and a block on a plain ground."""
    big = np.full((2 * size, 2 * size, len(ground)), ground, np.uint8)
    unit, solid = 2 * size / 16, (255,) * (len(ground) - 3)
    cv2.circle(big, (round(5 * unit), round(5 * unit)), round(4 * unit), RED + solid, -1)
    cv2.circle(big, (round(5 * unit), round(5 * unit)), round(1.6 * unit), GREEN + solid, -1)
    cv2.rectangle(big, (round(10.5 * unit), round(2 * unit)), (round(14 * unit), round(14 * unit)), BLUE + solid, -1)
    cv2.rectangle(big, (round(1 * unit), round(11 * unit)), (round(9 * unit), round(14 * unit)), GREEN + solid, -1)
    return Image.fromarray(cv2.resize(big, (size, size), interpolation=cv2.INTER_AREA))


def repeat(profiles: np.ndarray) -> float:
    """Strongest period in px along the last axis of (n, length)."""
    profiles = (profiles - profiles.mean(-1, keepdims=True)) * np.hanning(profiles.shape[-1])
    power = (np.abs(np.fft.rfft(profiles, n=8192)) ** 2).mean(0)
    low = 8192 // 120
    return 8192 / (low + power[low:].argmax())


@pytest.mark.parametrize("family", FAMILIES)
def test_stitches_cover_the_design(family: str) -> None:
    rendered = render(drawing(), default_stitch(family))
    inked = np.asarray(drawing().convert("L")) < 215
    near = cv2.distanceTransform((inked ^ rendered.mask).astype(np.uint8), cv2.DIST_L2, 5)
    assert near.max() <= 2  # the outline of the stitches follows the design's
    assert rendered.image.size == (160, 160) and rendered.labels.max() == 4
    bare = np.asarray(rendered.image)[~cv2.dilate(rendered.mask.astype(np.uint8), np.ones((25, 25))).astype(bool)]
    assert np.abs(bare.mean(0) - 255).max() < 30  # the ground's own colour


@pytest.mark.parametrize("family", FAMILIES)
def test_regions_keep_their_colour(family: str) -> None:
    rendered = render(drawing(), default_stitch(family), Fabric(colour=(200, 200, 200)))
    picture, design = np.asarray(rendered.image, np.float32), np.asarray(drawing(), np.float32)
    for label in range(1, 5):
        here = rendered.labels == label
        if FAMILIES[family].dye < 0.5:  # its ground is the cloth
            here &= rendered.height > 3
        error = np.abs(picture[here].mean(0) - design[here].mean(0))
        assert error.max() < (14 if family in CLOSED else 34), (label, error)


@pytest.mark.parametrize("scale", [8.0, 20.0, 40.0])
@pytest.mark.parametrize("density", [0.9, 1.1])
def test_thread_period_is_width_over_density(scale: float, density: float) -> None:
    plain = Image.new("RGB", (256, 256), BLUE)
    for family in ("satin", "tatami", "running", "bead", "cord"):
        stitch = Stitch(family, thread_width=0.5, stitch_length=20, density=density, twist=0, pile=0)
        height = render(plain, stitch, px_per_mm=scale, background="stitch").height
        expected = 0.5 * scale / density
        assert repeat(height[20:-20, 20:-20].T) == pytest.approx(expected, rel=0.04)


@pytest.mark.parametrize(
    ("family", "length"), [("tatami", 2.0), ("running", 2.5), ("cross", 1.3), ("chain", 1.6), ("bead", 1.2)]
)
def test_stitch_period_is_its_length(family: str, length: float) -> None:
    stitch = Stitch(family, thread_width=0.4, stitch_length=length, density=0.9, twist=0, pile=0)
    height = render(Image.new("RGB", (256, 256), BLUE), stitch, background="stitch").height
    period = repeat(height[20:-20, 20:-20])
    halves = (1, 2) if family in ("running", "cross") else (1,)  # staggered by half, or symmetric inside
    assert any(period * n == pytest.approx(length * 20, rel=0.06) for n in halves)


def test_pieces_stand_whole_or_not_at_all() -> None:
    """No sliver of a bead is left where the region's edge cuts it far from its middle."""
    stitch = Stitch("bead", thread_width=1.2, stitch_length=1.05, twist=0, pile=0)
    disc = np.full((200, 200, 3), 255, np.uint8)
    cv2.circle(disc, (100, 100), 80, RED, -1)
    height = render(Image.fromarray(disc), stitch, Fabric("plain")).height
    _, _, boxes, _ = cv2.connectedComponentsWithStats((height > 1).astype(np.uint8))
    areas = boxes[1:, cv2.CC_STAT_AREA]
    assert len(areas) > 8 and areas.min() > 0.4 * np.median(areas)


def test_sashiko_leaves_every_other_side_of_its_grid_open() -> None:
    stitch = Stitch("sashiko", thread_width=0.4, stitch_length=1.5, twist=0, pile=0)
    height = render(Image.new("RGB", (400, 400), BLUE), stitch, Fabric("plain"), background="stitch").height
    mesh = 1.12 * 30
    middles = np.int32((np.arange(1, 11) + 0.5) * mesh), np.int32(np.arange(1, 11) * mesh)
    for sides in (height[np.ix_(middles[1], middles[0])], height[np.ix_(middles[0], middles[1])].T):
        assert ((sides > 2)[:, 1:] != (sides > 2)[:, :-1]).all()


def test_angle_turns_the_threads() -> None:
    plain = Image.new("RGB", (200, 200), RED)
    for angle in (0.0, 35.0, 120.0):
        stitch = Stitch("satin", angle=angle, stitch_length=40, twist=0, pile=0)
        height = render(plain, stitch, background="stitch").height[20:-20, 20:-20]
        gx, gy = cv2.Sobel(height, cv2.CV_32F, 1, 0), cv2.Sobel(height, cv2.CV_32F, 0, 1)
        across = 0.5 * np.degrees(np.arctan2((2 * gx * gy).sum(), (gx * gx - gy * gy).sum()))
        assert (across + 90 - angle + 90) % 180 - 90 == pytest.approx(0, abs=2)


@pytest.mark.parametrize("family", FAMILIES)
def test_same_seed_same_bytes(family: str) -> None:
    stitch = sample_stitch(np.random.default_rng(3), family)
    first, again, other = (np.asarray(render(drawing(96), stitch, seed=seed).image) for seed in (5, 5, 6))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_field_scale_and_size_is_finite(family: str) -> None:
    for size in (16, 33):
        for scale in (0.5, 4.0, 20.0, 400.0):
            for field in ("constant", "axis", "contour"):
                stitch = replace(default_stitch(family), angle_field=field, border=size == 33)
                rendered = render(drawing(size), stitch, Fabric(tuple(FABRICS)[size % len(FABRICS)]), px_per_mm=scale)
                assert np.isfinite(rendered.height).all()
                assert np.asarray(rendered.image).std() > 0


def test_alpha_is_bare_fabric() -> None:
    design = drawing(120, (0, 0, 0, 0))
    rendered = render(design, default_stitch("tatami"), Fabric(colour=(120, 40, 40)))
    assert np.array_equal(rendered.mask, rendered.labels > 0)
    assert not rendered.mask[np.asarray(design)[..., 3] == 0].any() or (
        cv2.distanceTransform((np.asarray(design)[..., 3] == 0).astype(np.uint8), cv2.DIST_L2, 5)[rendered.mask].max()
        <= 2
    )
    assert np.abs(np.asarray(rendered.image)[2:8, 2:8].mean((0, 1)) - (120, 40, 40)).max() < 12
    empty = render(Image.new("RGBA", (40, 30)), default_stitch("satin"))
    assert not empty.mask.any() and empty.image.size == (40, 30)


def test_background_and_overrides() -> None:
    assert render(drawing(), default_stitch("satin"), background="stitch").mask.all()
    assert render(Image.new("RGB", (64, 64), RED), default_stitch("satin")).mask.all()  # nothing to tell a ground from
    plain, mixed = (
        render(drawing(), default_stitch("satin"), region_overrides=overrides)
        for overrides in (None, {1: default_stitch("knot")})
    )
    changed = (plain.height != mixed.height) & plain.mask
    assert changed[plain.labels == 1].mean() > 0.9
    assert not changed[plain.labels == 3].any()


def test_light_comes_from_where_the_lamp_stands() -> None:
    design = drawing()
    left, right = (
        np.asarray(render(design, default_stitch("knot"), light=Light(azimuth=a)).image, np.float32) for a in (180, 0)
    )
    height = render(design, default_stitch("knot")).height
    slope = cv2.Sobel(height, cv2.CV_32F, 1, 0)
    steep = np.abs(slope) > 2
    assert np.corrcoef(slope[steep], (left - right).mean(2)[steep])[0, 1] > 0.5  # rising to the right faces left


EXTRAS = ("variegation", "metallic", "wear", "fuzz", "unevenness")


@pytest.mark.parametrize("name", EXTRAS)
def test_extras_keep_outline_and_colour(name: str) -> None:
    design = np.asarray(drawing(), np.float32)
    for family in FAMILIES:
        stitch = replace(default_stitch(family), **{name: 0.8})
        plain, once, again = (render(drawing(), s, seed=4) for s in (default_stitch(family), stitch, stitch))
        assert np.array_equal(once.image, again.image) and np.isfinite(once.height).all()
        assert not np.array_equal(once.image, plain.image) and np.array_equal(once.mask, plain.mask)
        for label in (1, 2, 4) if FAMILIES[family].dye > 0.5 else ():
            error = np.asarray(once.image, np.float32)[once.labels == label].mean(0) - design[
                once.labels == label
            ].mean(0)
            assert np.abs(error).max() < 40, (family, label, error)


def test_each_extra_does_what_it_says() -> None:
    stitch, grey = default_stitch("tatami"), Fabric("plain", colour=(200, 200, 200))
    plain = render(drawing(), stitch, grey)
    made = {name: render(drawing(), replace(stitch, **{name: 0.8}), grey) for name in EXTRAS}
    pixels = {name: np.asarray(rendered.image, np.float32) for name, rendered in made.items()}
    before, label = np.asarray(plain.image, np.float32), plain.labels
    spreads = []
    for variegation in (0.0, 0.8):
        cloth = render(
            Image.new("RGB", (256, 256), BLUE), replace(stitch, variegation=variegation), background="stitch"
        )
        smooth = cv2.GaussianBlur(np.float32(cloth.image), (0, 0), 6)
        spreads.append(smooth.std((0, 1)).mean())
    assert spreads[1] > 2 * spreads[0]
    tops = [np.percentile(p.max(2)[label == 1], 98) for p in (before, pixels["metallic"])]
    assert tops[1] > tops[0]
    assert made["wear"].height[plain.mask].mean() < 0.9 * plain.height[plain.mask].mean()
    changed = np.abs(pixels["fuzz"] - before).max(2) > 4
    away = cv2.distanceTransform((~plain.mask).astype(np.uint8), cv2.DIST_L2, 5)
    assert changed[(away > 1) & (away < 8)].any() and not changed[away > 1.3 * 20 + 2].any()
    bare = Image.new("RGB", (256, 256), BLUE)
    for family in ("tatami", "running"):
        rows = Stitch(family, stitch_length=20, twist=0, pile=0)
        straight, wavy = (
            render(bare, replace(rows, unevenness=u), background="stitch").height[20:-20, 20:-20].T for u in (0.0, 0.6)
        )
        peaks = [np.abs(np.fft.rfft(h - h.mean(), axis=1)).max(1).mean() for h in (straight, wavy)]
        assert peaks[1] < 0.9 * peaks[0]  # rows wander
        assert repeat(wavy) == pytest.approx(10, rel=0.1)  # but keep their distance


def test_pucker_folds_the_cloth_beside_the_stitches() -> None:
    design = np.zeros((240, 240, 4), np.uint8)
    design[:, :80] = (*RED, 255)
    flat, folded = (render(Image.fromarray(design), Stitch(), Fabric("plain", pucker=p)).height for p in (0.0, 0.8))
    change = np.abs(folded - flat)
    assert change[:, :80].max() == 0  # sewn parts lie as before
    assert change[:, 85:110].max() > max(2, 2 * change[:, 230:].max())
    along = np.abs(np.diff(folded, axis=0))[:, 90:100].mean()
    assert along > 2 * np.abs(np.diff(folded, axis=1))[:, 90:100].mean()  # folds run away from the edge


@pytest.mark.parametrize("kind", FABRICS)
def test_fabric_is_weak(kind: str) -> None:
    fabric = Fabric(kind, colour=(180, 160, 140), pitch=np.mean(FABRICS[kind].pitch))
    picture = np.asarray(render(Image.new("RGBA", (200, 200)), Stitch(), fabric).image)
    assert np.abs(picture.mean((0, 1)) - (180, 160, 140)).max() < 6
    assert picture.std((0, 1)).max() < 16  # of 255


def test_several_lights_share() -> None:
    design, stitch = drawing(96), default_stitch("knot")
    left, right = Light(180), Light(0)
    one, twice, both, other = (
        np.asarray(render(design, stitch, light=lights).image, np.int32)
        for lights in (left, (left, left), (left, right), (right, left))
    )
    assert np.abs(one - twice).max() <= 1
    assert np.abs(both - other).max() <= 1
    assert np.abs(both - one).mean() > 2
    assert {len(sample_lights(np.random.default_rng(k))) for k in range(12)} == {1, 2}


def test_camera() -> None:
    picture = render(drawing(), default_stitch("satin")).image
    assert np.array_equal(photograph(picture, Camera()), picture)
    full = Camera(blur=1.2, noise=5, quality=70, vignette=0.5)
    once, again, other = (np.asarray(photograph(picture, full, seed)) for seed in (1, 1, 2))
    assert np.array_equal(once, again) and not np.array_equal(once, other)
    soft, grainy, dark = (
        np.float32(photograph(picture, camera)) for camera in (Camera(blur=1.5), Camera(noise=6), Camera(vignette=1))
    )
    sharp = np.float32(picture)
    assert cv2.Laplacian(soft, cv2.CV_32F).std() < 0.5 * cv2.Laplacian(sharp, cv2.CV_32F).std()
    grey = np.abs(sharp - 128).max(2) < 40
    assert (grainy - sharp)[grey].std() == pytest.approx(6, rel=0.2)
    assert dark[:4, :4].mean() < 0.65 * sharp[:4, :4].mean() and np.abs(dark - sharp)[78:82, 78:82].max() <= 1
    assert len({sample_camera(np.random.default_rng(k)) for k in range(9)}) > 5


def test_sampling_and_words() -> None:
    rng = np.random.default_rng(0)
    for family in FAMILIES:
        words = {describe(sample_stitch(rng, family)) for _ in range(20)}
        assert len(words) > 1 and all(len(text) > 4 for text in words)
        for _ in range(20):
            stitch = sample_stitch(rng, family)
            assert stitch.family == family and Stitch(**stitch_values(stitch)) == stitch
            low, high = FAMILIES[family].ranges.thread_width
            assert low <= stitch.thread_width <= high
    assert len({sample_fabric(rng).kind for _ in range(200)}) == len(FABRICS)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Stitch("macrame"),
        lambda: Stitch(angle_field="spiral"),
        lambda: Stitch(thread_width=0),
        lambda: Stitch(sheen=float("nan")),
        lambda: Stitch(wear=1.5),
        lambda: Fabric(pucker=-0.1),
        lambda: Light(elevation=0),
        lambda: Light(strength=0),
        lambda: Camera(blur=-1),
        lambda: Camera(quality=0),
        lambda: Fabric("tweed"),
        lambda: Fabric(contrast=2),
        lambda: sample_stitch(np.random.default_rng(0), "lace"),
        lambda: default_stitch("lace"),
        lambda: render(drawing(32), Stitch(), px_per_mm=0),
        lambda: render(drawing(32), Stitch(), background="none"),
    ],
)
def test_wrong_values_are_refused_with_a_remedy(wrong) -> None:
    with pytest.raises(InputError) as fault:
        wrong()
    assert fault.value.remedy

"""A photo's flat design: uniform, aligned, true to the motif; on drawn stitches, rendered ones, and real photos."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from tambour.imaging.colour import ciede2000, rgb_to_lab
from tambour.imaging.files import open_image
from tambour.imaging.geometry import fit, flatten
from tambour.imaging.palette import COLOURS
from tambour.imaging.scores import edge_f1
from tambour.imaging.segmentation import drop_seams, drop_specks
from tambour.imaging.texture import texture_statistics
from tambour.pair.flat import make_design, stitch_period
from tambour.stitch import Fabric, default_stitch, render

REAL = Path(os.environ.get("TAMBOUR_REAL", Path(__file__).parents[2] / "shared" / "real"))
PHOTOS = sorted([*REAL.glob("photos/*.jpg"), *REAL.glob("pairs/*/photo.jpg")])


def art(width: int = 320, height: int = 320) -> Image.Image:
    """A disc with a bar in it and a dark outline, transparent around."""
    picture = np.zeros((height, width, 4), np.uint8)
    centre, radius = (width // 2, height // 2), min(width, height) // 3
    cv2.circle(picture, centre, radius, (205, 50, 60, 255), -1)
    cv2.rectangle(
        picture,
        (centre[0] - radius // 3, centre[1] - radius // 2),
        (centre[0] + radius // 3, centre[1]),
        (240, 220, 90, 255),
        -1,
    )
    cv2.circle(picture, centre, radius, (30, 40, 70, 255), max(4, radius // 12))
    return Image.fromarray(picture)


def stitched(family: str, width: int = 320, height: int = 320, seed: int = 0):
    return render(art(width, height), default_stitch(family), Fabric(colour=(150, 180, 170)), seed=seed, px_per_mm=8)


def test_gaps_between_large_stitches_are_no_areas(monkeypatch):
    """The example has a dozen areas, and links of 25 px, with deep shade between them."""

    def areas() -> int:
        design = np.asarray(make_design(photo).design)
        _, colour = np.unique(design.reshape(-1, 3), axis=0, return_inverse=True)
        planes = [(colour.reshape(design.shape[:2]) == k).astype(np.uint8) for k in range(colour.max() + 1)]
        stats = [cv2.connectedComponentsWithStats(plane)[2][1:, cv2.CC_STAT_AREA] for plane in planes]
        return int((np.concatenate(stats) >= 30).sum())

    photo = open_image(Path(__file__).parents[1] / "examples" / "reference.jpg")
    assert areas() <= 24
    monkeypatch.setattr(sys.modules["tambour.pair.flat"], "DEEP", 2.0)
    assert areas() > 48


@pytest.mark.parametrize("family", ["satin", "tatami", "cross", "chain"])
def test_the_design_behind_rendered_stitches_is_found(family):
    rendered = stitched(family)
    pair = make_design(rendered.image)
    design, mask, truth = np.asarray(pair.design), np.asarray(pair.mask) > 0, np.asarray(rendered.mask)
    assert (mask & truth).sum() / (mask | truth).sum() > 0.93
    photo = np.asarray(rendered.image)
    wanted = np.zeros_like(photo)  # every area of the art in the mean colour it has in the photo
    _, area = np.unique(np.asarray(art()).reshape(-1, 4) @ [1, 256, 65536, 0], return_inverse=True)
    area = np.where(truth, area.reshape(truth.shape), -1)
    for k in np.unique(area):
        wanted[area == k] = photo[area == k].mean(0)
    off = ciede2000(rgb_to_lab(design), rgb_to_lab(wanted))
    assert off.mean() < 3 and (off > 12).mean() < 0.06
    assert edge_f1(design, wanted) > 0.85


def test_the_three_pictures_are_aligned_and_the_design_is_flat():
    pair = make_design(stitched("tatami", 400, 260).image)
    assert pair.design.size == pair.embroidery.size == pair.mask.size == (400, 260)
    assert (pair.design.mode, pair.mask.mode) == ("RGB", "L")
    assert set(np.unique(pair.mask)) == {0, 255}
    assert len(np.unique(np.asarray(pair.design).reshape(-1, 3), axis=0)) <= COLOURS + 1
    bare = np.asarray(pair.design)[np.asarray(pair.mask) == 0]
    assert (bare == bare[0]).all()
    assert abs(bare[0].astype(int) - np.asarray(pair.embroidery)[np.asarray(pair.mask) == 0].mean(0)).max() < 6


def test_the_same_photo_gives_the_same_design():
    photo = stitched("chain", 200, 200).image
    assert make_design(photo).design.tobytes() == make_design(photo.copy()).design.tobytes()


def test_an_embroidery_that_fills_the_photo_is_all_stitches():
    whole = stitched("satin", 400, 400)
    crop = whole.image.crop((170, 210, 234, 250)).resize((256, 160))
    assert np.asarray(make_design(crop).mask).all()


@pytest.mark.parametrize("size", [(16, 16), (17, 400), (700, 24), (90, 61)])
def test_any_shape_works(size):
    rng = np.random.default_rng(0)
    photo = Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), np.uint8))
    assert make_design(photo).design.size == size


@pytest.mark.parametrize(
    "photo", [Image.new("RGB", (64, 48), "teal"), Image.new("RGBA", (64, 48)), Image.new("L", (40, 40), 9)]
)
def test_one_colour_stays_one_colour(photo):
    design = make_design(photo).design
    assert np.abs(np.asarray(design).astype(int) - np.asarray(flatten(photo))).max() <= 1


def test_thin_outlines_stay_and_blurred_borders_go():
    colours = np.array([[80, 0, 0], [20, 0, 0], [50, 0, 0]], np.float32)
    labels = np.zeros((60, 60), int)
    labels[:, 30:] = 1
    labels[:, 29:31] = 2  # a seam: the mixture of the two sides
    labels[20:23, :26] = 1  # an outline on one side
    lab = colours[labels]
    costs = ((lab[None] - colours[:, None, None]) ** 2).sum(-1)
    out = drop_seams(labels, colours, costs, cv2.GaussianBlur(lab, (0, 0), 1), 1.7)
    assert not (out[5:15] == 2).any()
    assert (out[21, :24] == 1).all()


def test_specks_go_to_the_nearest_area():
    labels = np.zeros((40, 40), int)
    labels[:, 20:] = 1
    labels[5:8, 5:8] = 2
    labels[5:8, 30:33] = 2
    labels[25:35, 5:15] = 2
    out = drop_specks(labels, 12)
    assert (out[:20, :20] == 0).all() and (out[:20, 20:] == 1).all() and (out[25:35, 5:15] == 2).all()


def test_the_stitch_period_is_measured_inside_the_mask():
    y, x = np.mgrid[:256, :256]
    shade = np.where(x < 160, np.sin(2 * np.pi * y / 8), np.sin(2 * np.pi * x / 3))
    photo = np.clip(140 + 40 * shade[..., None], 0, 255).astype(np.uint8).repeat(3, 2)
    assert stitch_period(photo, x < 160) == pytest.approx(8, abs=0.4)
    assert stitch_period(np.full((256, 256, 3), 90, np.uint8)) == 0.0


@pytest.mark.skipif(not PHOTOS, reason="the real photos are not here")
@pytest.mark.parametrize("path", PHOTOS, ids=lambda path: "_".join(path.parts[-2:]))
def test_real_photos(path):
    photo = fit(open_image(path), 420)
    start = time.process_time()
    pair = make_design(photo)
    assert time.process_time() - start < 4
    design, mask = np.asarray(pair.design), np.asarray(pair.mask) > 0
    assert 0.1 < mask.mean() <= 1
    assert 2 <= len(np.unique(design.reshape(-1, 3), axis=0)) <= COLOURS + 1
    blurred = cv2.GaussianBlur(np.asarray(photo), (0, 0), 6)
    off = ciede2000(rgb_to_lab(cv2.GaussianBlur(design, (0, 0), 6)), rgb_to_lab(blurred))
    assert np.median(off[mask]) < 8  # the motif's colours are kept
    # energy in the finest bands is much lower than in the photo: the stitches are gone
    assert texture_statistics(design)[:4].sum() < 0.9 * texture_statistics(np.asarray(photo))[:4].sum()


def test_the_gaps_between_stitches_are_the_yarns():
    """Dark gaps of the chain stitches in the bundled photo: the petal is one colour, not a pattern of two."""
    design = np.asarray(make_design(open_image(Path(__file__).parents[1] / "examples" / "reference.jpg")).design)
    side = design.shape[0]
    petal = design[int(0.42 * side) : int(0.58 * side), int(0.26 * side) : int(0.34 * side)].reshape(-1, 3)
    colours, counts = np.unique(petal, axis=0, return_counts=True)
    assert counts.max() > 0.75 * counts.sum()
    red, green, blue = colours[counts.argmax()].astype(int)
    assert red > 1.7 * green and red > 1.7 * blue
    pale = design[int(0.48 * side) : int(0.55 * side), int(0.53 * side) : int(0.585 * side)].astype(int)
    assert (pale.sum(-1) > 450).mean() > 0.9  # its gaps are tinted by the red around, and as large as stitches


def test_cloth_is_no_gap_in_a_thread_of_its_hue():
    """Pale lines on dark cloth, both grey: what the rim shows stays cloth."""
    photo = np.full((320, 320, 3), 60, np.uint8)
    for x in range(60, 260, 22):
        photo[60:260, x : x + 8] = 190
    design = np.asarray(make_design(Image.fromarray(cv2.GaussianBlur(photo, (0, 0), 1))).design)[100:220, 60:260, 0]
    assert (design > 140).mean() > 0.25 and (design < 100).mean() > 0.4

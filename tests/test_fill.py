"""Outlines filled with a reference's colours: which areas there are, and which colour goes where."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from tambour.bench import cases
from tambour.config import read_recipe
from tambour.pair.fill import areas_of, filled, palette_of

SIDE = 256
SKETCH = read_recipe("mini-sketch")
PALETTE = ((200, 60, 30, 0.6), (20, 90, 160, 0.3), (240, 210, 90, 0.1))


def sheet(*shapes) -> np.ndarray:
    """Lines of 1 px on an empty picture: bool."""
    image = Image.new("L", (SIDE, SIDE))
    draw = ImageDraw.Draw(image)
    for kind, where in shapes:
        getattr(draw, kind)(where, **({"fill": 255} if kind == "line" else {"outline": 255}))
    return np.asarray(image) > 0


def test_what_lines_enclose_is_an_area_and_what_reaches_the_border_is_none():
    areas = areas_of(sheet(("ellipse", (40, 40, 220, 220)), ("rectangle", (100, 100, 150, 150))))
    assert areas.max() == 2 and areas[0, 0] == areas[-1, -1] == areas[40, 60] == 0
    outer, inner = areas[60, 128], areas[125, 125]
    assert 0 not in (outer, inner) and outer != inner
    assert (areas == inner).sum() == pytest.approx(51 * 51, rel=0.06)
    assert ((areas == outer).sum() + (areas == inner).sum()) == pytest.approx(np.pi * 90**2, rel=0.02)
    assert not areas_of(sheet()).any()


def test_a_shape_that_leaves_the_picture_is_ground():
    areas = areas_of(sheet(("line", (0, 100, 255, 120)), ("ellipse", (60, 150, 120, 210))))
    assert areas.max() == 1 and areas[180, 90] == 1 and areas[30, 30] == areas[250, 200] == 0


def test_small_gaps_are_closed_and_large_ones_are_not():
    box = sheet(("rectangle", (60, 60, 180, 180)))
    for gap, closed in ((2, True), (40, False)):
        lines = box.copy()
        lines[60, 100 : 100 + gap] = False
        assert (areas_of(lines)[120, 120] > 0) == closed


def test_a_stroke_of_two_lines_is_an_area():
    lines = sheet(("rectangle", (40, 120, 220, 125)))
    areas = areas_of(lines)
    assert areas[122, 130] > 0 and (areas > 0).sum() == pytest.approx(6 * 181, rel=0.4)


def test_shares_follow_the_palette_and_neighbours_differ():
    lines = sheet(("rectangle", (20, 20, 230, 230)), ("line", (20, 150, 230, 150)), ("line", (20, 200, 230, 200)))
    drawing = Image.fromarray(lines).convert("RGB")
    design = np.asarray(filled(drawing, (0, 0, 0), SKETCH, PALETTE))
    assert design.shape == (SIDE, SIDE, 4) and not design[5, 5].any()
    middle = [tuple(design[row, 120]) for row in (80, 175, 215)]
    assert middle[0] == (200, 60, 30, 255) and middle[1] == (20, 90, 160, 255)
    assert middle[2] != middle[1]
    alone = np.asarray(filled(drawing, (0, 0, 0), SKETCH, PALETTE[:1]))
    assert {tuple(colour) for colour in alone[alone[..., 3] > 0]} == {(200, 60, 30, 255)}


def test_a_palette_holds_a_designs_colours_by_their_share():
    picture = Image.new("RGB", (SIDE, SIDE), (255, 255, 255))
    draw = ImageDraw.Draw(picture)
    draw.rectangle((20, 20, 219, 119), fill=(200, 60, 30))
    draw.rectangle((20, 120, 219, 169), fill=(20, 90, 160))
    mask = np.zeros((SIDE, SIDE), bool)
    mask[20:170, 20:220] = True
    palette = palette_of(picture, mask)
    assert [colour[:3] for colour in palette] == [(200, 60, 30), (20, 90, 160)]
    assert [colour[3] for colour in palette] == pytest.approx([2 / 3, 1 / 3], abs=0.01)


@pytest.mark.parametrize("name", ["bee", "mountain"])  # pale parts on a pale ground; a rim
def test_a_bundled_designs_outlines_fill_what_the_design_fills(name):
    design = cases.design(name)
    inside = np.asarray(design)[..., 3] > 127
    found = np.asarray(filled(design, (255, 255, 255), SKETCH, PALETTE))[..., 3] > 0
    assert (found & inside).sum() / (found | inside).sum() > 0.95


def test_a_hole_stays_a_hole():
    ring = Image.new("RGBA", (SIDE, SIDE))
    draw = ImageDraw.Draw(ring)
    draw.ellipse((40, 40, 216, 216), fill=(255, 255, 255, 255))
    draw.ellipse((90, 90, 166, 166), fill=(0, 0, 0, 0))
    found = np.asarray(filled(ring, (255, 255, 255), SKETCH, PALETTE))
    assert not found[128, 128].any() and not found[5, 5].any() and found[128, 65, 3] == 255

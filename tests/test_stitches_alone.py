"""A style learnt and drawn where there are stitches alone, and from recoloured copies of its pair."""

from __future__ import annotations

import dataclasses
import functools
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from test_apply import complete, design, finish
from test_bench_run import finish as run_to_end
from test_sampling import drawn, noise
from test_style import random_style
from workflow_calls import apply, learn

from tambour.base import Base, generator
from tambour.config import Analysis, Lora, Recipe, Stage, StageTwo, Training, read_recipe, recipe_values
from tambour.drawing.sampler import Condition, MaskedStyleGuidance
from tambour.imaging.colour import rgb_to_lab
from tambour.imaging.conditions import STITCH_REACH, chroma_key, stitch_reach
from tambour.pair.flat import Pair
from tambour.stitch import Fabric, default_stitch, render
from tambour.style import attached
from tambour.training.adapter import adapted, style_only
from tambour.training.loop import train
from tambour.training.losses import denoising, squared_error
from tambour.training.pairs import draw, encode_pair
from tambour.training.palettes import recoloured
from tambour.training.routing import RoutedModel
from tambour.training.stage_one import stage_one

FABRIC = (235, 230, 215)


def anchor(size: int = 128) -> Image.Image:
    """Two bars, transparent ground."""
    image = Image.new("RGBA", (size, size))
    pen = ImageDraw.Draw(image)
    pen.rectangle([size // 8, size // 8, size // 2, size * 7 // 8], fill=(30, 60, 120))
    pen.rectangle([size // 2, size // 3, size * 7 // 8, size * 2 // 3], fill=(200, 40, 50))
    return image


@pytest.fixture(scope="module")
def pair() -> Pair:
    flat = anchor()
    stitched = render(flat, default_stitch("cross"), Fabric(colour=FABRIC), seed=3)
    ground = Image.new("RGBA", flat.size, (*FABRIC, 255))
    ground.alpha_composite(flat)
    return Pair(ground.convert("RGB"), stitched.image.convert("RGB"), flat.getchannel("A"))


def test_a_recoloured_pair_keeps_ground_and_relief(pair: Pair) -> None:
    inside = np.asarray(pair.mask) > 127
    before, flat = (np.asarray(image, np.float32) for image in (pair.embroidery, pair.design))
    seen = set()
    for seed in range(6):
        (other,) = recoloured(pair, FABRIC, np.random.default_rng(seed))
        after, design = (np.asarray(image, np.float32) for image in (other.embroidery, other.design))
        assert np.array_equal(after[~inside], before[~inside]) and np.array_equal(design[~inside], flat[~inside])
        colours = np.unique(design[inside].reshape(-1, 3), axis=0)
        assert len(colours) == 2 and not (colours[:, None] == flat[inside][None, ::50]).all(2).any()
        seen |= {tuple(colour) for colour in colours}
        for colour in colours:
            here = inside & (design == colour).all(2)
            assert np.abs(after[here].mean(0) - colour).max() < 35, "thread has about its design's colour"
            relief = np.corrcoef(before[here].mean(1), after[here].mean(1))[0, 1]
            assert relief > 0.7 and after[here].mean(1).std() > 3
    assert len(seen) == 12, "every draw gives other colours"


def test_recolouring_is_repeatable(pair: Pair) -> None:
    one, two = (next(recoloured(pair, FABRIC, np.random.default_rng(4))) for _ in range(2))
    assert one.embroidery.tobytes() == two.embroidery.tobytes() and one.design.tobytes() == two.design.tobytes()


@pytest.mark.parametrize("colour", [(255, 255, 255), (0, 0, 0), (255, 0, 255), (120, 120, 120)])
def test_the_key_is_no_colour_of_the_design(colour: tuple[int, int, int]) -> None:
    flat = np.full((40, 40, 3), 200, np.uint8)
    inside = np.zeros((40, 40), bool)
    inside[10:30, 10:30] = True
    flat[inside] = colour
    keyed = np.asarray(chroma_key(Image.fromarray(flat), inside))
    assert (keyed[inside] == colour).all() and len(np.unique(keyed[~inside], axis=0)) == 1
    lab = rgb_to_lab(np.array([[colour, keyed[0, 0]]], np.uint8))[0]
    assert np.linalg.norm(lab[0] - lab[1]) > 60


def test_nothing_stitched_has_a_key_too() -> None:
    assert chroma_key(Image.new("RGB", (20, 20)), np.zeros((20, 20), bool)).size == (20, 20)


def test_reach() -> None:
    inside = np.zeros((30, 30), bool)
    inside[15, 15] = True
    assert stitch_reach(inside).sum() == (2 * STITCH_REACH + 1) ** 2


def test_errors_outside_do_not_count() -> None:
    target, counts = torch.zeros(2, 3, 4, 4), torch.zeros(2, 1, 4, 4)
    counts[:, :, :2] = 1
    wrong = torch.zeros(2, 3, 4, 4)
    wrong[:, :, 2:] = 9
    assert squared_error(target, wrong, counts).tolist() == [0, 0]
    wrong[0, :, :2] = 2
    assert squared_error(target, wrong, counts).tolist() == [4, 0]


def test_training_sees_the_key_and_counts_the_stitches(toy_base: Base, pair: Pair) -> None:
    def loss(recipe: Recipe, embroidery: Image.Image, style: bool = True) -> float:
        encoded = encode_pair(toy_base, pair.design, embroidery, "bars", recipe, pair.mask)
        batch = draw(toy_base, [encoded], 1, generator(0, "crop"))
        model = RoutedModel(toy_base, (toy_base.attention_blocks[0],), recipe.training.tile)
        return denoising(model, batch, generator(0, "loss"), style=style).item()

    alone = Recipe(resolution=128, masked_style=True, training=Training(tile=1.0))
    whole = dataclasses.replace(alone, masked_style=False)
    encoded = [encode_pair(toy_base, pair.design, pair.embroidery, "bars", r, pair.mask) for r in (alone, whole)]
    outside = ~torch.from_numpy(stitch_reach(np.asarray(pair.mask) > 127)).bool()
    assert encoded[1].stitches is None and encoded[1].keyed_condition is None
    assert torch.equal(encoded[0].condition, encoded[1].condition)
    assert (encoded[0].keyed_condition - encoded[0].condition).abs()[..., outside].mean() > 0.2
    assert loss(alone, pair.embroidery, False) == loss(whole, pair.embroidery, False), "designs are shown as they are"
    spoilt = pair.embroidery.copy()
    spoilt.paste((10, 200, 10), [0, 0, 128, 8])  # ground
    assert loss(whole, spoilt) != pytest.approx(loss(whole, pair.embroidery), rel=1e-3)
    assert loss(alone, pair.embroidery) != pytest.approx(loss(whole, pair.embroidery), rel=1e-3)


def test_without_a_mask_the_design_tells_it(toy_base: Base, pair: Pair) -> None:
    recipe = Recipe(resolution=128, masked_style=True, training=Training(tile=1.0))
    read, expected = (
        encode_pair(toy_base, pair.design, pair.embroidery, "bars", recipe, mask) for mask in (None, pair.mask)
    )
    assert (read.stitches - expected.stitches).abs().mean() < 0.02


def test_crops_come_from_all_pairs(toy_base: Base, pair: Pair) -> None:
    views = [pair, *recoloured(pair, FABRIC, np.random.default_rng(0))]
    recipe = Recipe(resolution=128)
    pairs = [encode_pair(toy_base, v.design, v.embroidery, "bars", recipe, v.mask) for v in views]
    batch = draw(toy_base, pairs, 8, generator(0, "crops"))
    kinds = {int(torch.equal(row, pairs[1].embroidery[0])) for row in batch.embroidery}
    assert len(batch) == 8 and kinds == {0, 1}


def outside(base: Base, inside: torch.Tensor, scale: float = 1.0) -> MaskedStyleGuidance:
    conditions = {kind: Condition(noise(1, 3, 64, 64, seed=9), s) for kind, s in (("tile", 0.5), ("canny", 0.8))}
    return MaskedStyleGuidance(base.encode_prompt(["a heart"]), conditions, inside, scale)


def test_a_style_is_held_to_its_region(toy_base: Base) -> None:
    """Everywhere: the style's picture. Nowhere: the base's own. Half and half: each its own half, at once."""
    style = random_style(toy_base, alpha=8.0)
    left = torch.zeros(1, 1, 64, 64)
    left[..., :32] = 1
    with attached(toy_base, style):
        usual = drawn(toy_base)
        everywhere = drawn(toy_base, masked_style=outside(toy_base, torch.ones(1, 1, 64, 64)))
        nowhere = drawn(toy_base, masked_style=outside(toy_base, torch.zeros(1, 1, 64, 64)))
        half = drawn(toy_base, masked_style=outside(toy_base, left))
        stronger = drawn(toy_base, masked_style=outside(toy_base, torch.ones(1, 1, 64, 64), 2.0))
    other = random_style(toy_base, seed=4, alpha=8.0)
    with attached(toy_base, other):
        nowhere_too = drawn(toy_base, masked_style=outside(toy_base, torch.zeros(1, 1, 64, 64)))
    assert torch.allclose(usual, everywhere, atol=1e-5) and torch.equal(nowhere, nowhere_too)
    assert not torch.allclose(usual, nowhere, atol=1e-2) and not torch.allclose(stronger, everywhere, atol=1e-3)
    assert not torch.allclose(half, usual, atol=1e-3) and not torch.allclose(half, nowhere, atol=1e-3)


def test_windows_hold_it_too(toy_base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(toy_base), "native", 32)
    with attached(toy_base, random_style(toy_base, alpha=8.0)):
        usual = drawn(toy_base)
        everywhere = drawn(toy_base, masked_style=outside(toy_base, torch.ones(1, 1, 64, 64)))
    assert torch.allclose(usual, everywhere, atol=1e-5)


def test_apply_draws_by_the_styles_own_recipe(toy_base: Base) -> None:
    style = complete(toy_base)
    values = dict(style.recipe, masked_style=True)
    alone = dataclasses.replace(style, recipe=values)
    (whole,), (held,), (again,) = (finish(apply(s, [design()], base=toy_base, seed=1)) for s in (style, alone, alone))
    assert not np.array_equal(np.asarray(whole.image), np.asarray(held.image))
    assert np.array_equal(np.asarray(held.image), np.asarray(again.image))


def test_both_recipes_of_mini_are_there() -> None:
    own, paper = read_recipe("mini"), read_recipe("mini-paper")
    assert own.masked_style and own.training.palettes > 0
    assert not paper.masked_style and not paper.training.palettes and paper.training.loss == "noise"
    assert recipe_values(paper)["base"] == "mini"


def test_theta_e_learns_as_it_draws(toy_base: Base, pair: Pair, tmp_path) -> None:
    """With `style_only` around step 2 the rest of theta_a has no say in what theta_e learns."""
    blocks = toy_base.attention_blocks[:2]
    recipe = Recipe(resolution=128, masked_style=True, training=Training(tile=1.0))
    encoded = encode_pair(toy_base, pair.design, pair.embroidery, "bars", recipe, pair.mask)
    model = RoutedModel(toy_base, blocks, 1.0)

    def learnt(rest: float, held: bool) -> dict[str, torch.Tensor]:
        with adapted(toy_base, blocks, Lora(rank=2), generator(0, "lora")) as adapter:
            for name, parameter in adapter.theta_a.items():
                if name not in adapter.theta_e:
                    parameter.data.fill_(rest)
            as_drawn = functools.partial(style_only, adapter) if held else nullcontext
            steps = stage_one(model, [encoded], 1, content_step=False, as_drawn=as_drawn)
            assert [step.updates for step in steps] == ["theta_e"]
            common = dict(seed=0, checkpoint=tmp_path / f"{rest}-{held}", every_seconds=1e9, curves={})
            for _ in train("one", adapter, steps, Stage(2, 1e-2), **common):
                pass
            return adapter.style_tensors()

    still, moved, unheld = learnt(0.0, True), learnt(0.5, True), learnt(0.5, False)
    assert all(torch.equal(still[name], moved[name]) for name in still)
    assert any(not torch.equal(moved[name], unheld[name]) for name in still)


def test_a_recipe_may_name_the_blocks(toy_base: Base, pair: Pair, tmp_path) -> None:
    photo = tmp_path / "photo.png"
    pair.embroidery.save(photo)
    wanted = toy_base.attention_blocks[3:5]
    short = Recipe(
        resolution=64,
        crop=32,
        masked_style=True,
        analysis=Analysis(inversion="noised", steps=2, segments=2, blocks=wanted),
        training=Training(tile=1.0, palettes=1),
        stage_one=Stage(1, content_step=False),
        stage_two=StageTwo(0),
    )
    for blocks, chosen in ((None, wanted), (toy_base.attention_blocks[:1], toy_base.attention_blocks[:1])):
        run = learn(photo, base=toy_base, recipe=short, blocks=blocks, work=tmp_path / str(len(chosen)))
        style = run_to_end(run)[1]
        assert tuple(style.blocks) == chosen and style.recipe["masked_style"]

"""Applying a style, on toy bases of random weights: what arrives, from which seed, through which conditions."""

from __future__ import annotations

import dataclasses
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw
from test_style import random_style
from workflow_calls import apply, imagine

from tambour.base import Base, generator, load
from tambour.config import Edges, Recipe, Sampling, recipe_values
from tambour.errors import BaseModelError, InputError, StyleError
from tambour.imaging.colour import correct_colours, rgb_to_lab
from tambour.imaging.conditions import canny_condition, tile_condition
from tambour.imaging.texture import texture_statistics
from tambour.progress import Progress
from tambour.stitch import default_stitch, stitch_values
from tambour.style import Style, attached
from tambour.workflows.embroider import Result

SAMPLING = Sampling(size=64, steps=4, guidance_scale=1.0, blur_kernel=5)


@pytest.fixture
def style(toy_base: Base) -> Style:
    return complete(toy_base)


def complete(base: Base, sampling: Sampling = SAMPLING) -> Style:
    """A random style with everything that applying may ask for."""
    reference = np.asarray(design(5).resize((128, 128)))
    return dataclasses.replace(
        random_style(base, alpha=2.0),
        recipe=recipe_values(Recipe(sampling=sampling)),
        stitch=stitch_values(default_stitch("satin")),
        statistics=tuple(texture_statistics(reference).tolist()),
    )


def design(kind: int = 0, size: tuple[int, int] = (64, 64), alpha: bool = False) -> Image.Image:
    """A disc on a ground, in colours by `kind`."""
    colours = ("crimson", "navy", "gold", "teal", "black", "purple")
    ground = (0, 0, 0, 0) if alpha else "ivory"
    image = Image.new("RGBA" if alpha else "RGB", size, ground)
    ImageDraw.Draw(image).ellipse([size[0] // 5, size[1] // 5, size[0] * 4 // 5, size[1] * 4 // 5], fill=colours[kind])
    return image


def finish(run) -> list[Result]:
    return [item for item in run if isinstance(item, Result)]


def pixels(result: Result) -> np.ndarray:
    return np.asarray(result.image)


def same(a: Result, b: Result) -> bool:
    return np.array_equal(pixels(a), pixels(b))


def test_it_is_diffusers_own_pipeline(style: Style, toy_base: Base) -> None:
    """The plain pipeline with the section-6 arguments gives our picture, pixel for pixel."""
    (ours,) = finish(apply(style, [design()], base=toy_base, seed=3))
    with attached(toy_base, style):
        picture = toy_base.image_pipeline(("tile", "canny"))(
            "a design in [emb] style",
            image=design(),
            control_image=[tile_condition(design(), 5), canny_condition(design(), 100, 200)],
            controlnet_conditioning_scale=[0.5, 0.5],
            strength=0.95,
            num_inference_steps=4,
            guidance_scale=1.0,
            generator=generator(3, "apply"),
        ).images[0]
    theirs = correct_colours(picture, design())
    assert np.abs(pixels(ours).astype(int) - np.asarray(theirs)).max() <= 1


def test_one_seed_one_picture_whatever_the_company(style: Style, toy_base: Base) -> None:
    designs = [design(0), design(1, (64, 48)), design(2)]
    there = finish(apply(style, designs, base=toy_base, seed=1))
    back = finish(apply(style, designs[::-1], base=toy_base, seed=1))
    alone = finish(apply(style, designs[1:2], base=toy_base, seed=1))
    assert [r.design_index for r in there] == [0, 1, 2]
    assert all(same(a, b) for a, b in zip(there, back[::-1], strict=True))
    assert same(there[1], alone[0])
    (other,) = finish(apply(style, designs[1:2], base=toy_base, seed=2))
    assert not same(other, alone[0])


def test_the_base_is_free_again(style: Style, toy_base: Base) -> None:
    before = {key: value.clone() for key, value in toy_base.unet.state_dict().items()}
    run = apply(style, [design(), design(1)], base=toy_base)
    while next(run).step < 2:
        pass
    run.close()  # abandoned in the middle
    finish(imagine(style, "a dog", base=toy_base))
    after = toy_base.unet.state_dict()
    assert list(after) == list(before)
    assert all((after[key] == before[key]).all() for key in before)
    assert not any(thread.name.startswith("tambour") for thread in threading.enumerate())


def test_progress_counts_every_step(style: Style, toy_base: Base) -> None:
    items = list(apply(style, [design(), design(1)], base=toy_base, samples=2))
    records = [item for item in items if isinstance(item, Progress)][1:]
    steps = [record.step for record in records if not record.values]
    assert steps == list(range(1, 2 * 2 * 3 + 1))  # 0.95 of 4 steps are 3
    assert {record.total for record in records} == {12}
    assert records[-1].message.startswith("design 2 of 2, sample 2 of 2: ")
    assert set(records[-1].values) == {"style", "design", "colour", "total"}


def test_the_best_of_several_samples_is_kept(style: Style, toy_base: Base) -> None:
    (best,) = finish(apply(style, [design()], base=toy_base, seed=5, samples=3))
    each = [finish(apply(style, [design()], base=toy_base, seed=seed))[0] for seed in (5, 6, 7)]
    winner = max(each, key=lambda result: result.scores.total)
    assert best.seed == winner.seed
    assert best.scores == winner.scores
    assert same(best, winner)


def test_firm_takes_colours_from_the_design_and_free_does_not(style: Style, toy_base: Base) -> None:
    flat = design(2)
    (firm,) = finish(apply(style, [flat], base=toy_base))
    (free,) = finish(apply(style, [flat], base=toy_base, edges="free"))
    wanted = rgb_to_lab(np.asarray(flat))[..., 1:]
    drift = [np.abs(rgb_to_lab(pixels(r))[..., 1:] - wanted).mean() for r in (firm, free)]
    assert drift[0] < drift[1]
    plain = Recipe(sampling=dataclasses.replace(SAMPLING, firm=Edges(correct_colours=False)))
    (kept,) = finish(apply(style, [flat], base=toy_base, recipe=plain))
    assert same(firm, Result(correct_colours(kept.image, flat), None, 0, 0, False))


def test_free_needs_no_canny(style: Style, toy: Path) -> None:
    base = load(toy, controlnets=("tile",))
    assert len(finish(apply(style, [design()], base=base, edges="free"))) == 1
    with pytest.raises(BaseModelError, match="no ControlNet 'canny'"):
        finish(apply(style, [design()], base=base))


def test_strength_decides_how_much_is_redrawn(style: Style, toy_base: Base) -> None:
    counts = []
    for strength in (0.5, 1.0):
        items = list(apply(style, [design()], base=toy_base, strength=strength))
        counts.append(sum(isinstance(item, Progress) and not item.values for item in items) - 1)
    assert counts == [2, 4]


def test_a_draft_takes_the_steps_the_recipe_says(style: Style, toy_base: Base) -> None:
    import tambour

    sampling = dataclasses.replace(SAMPLING, steps=8, draft_steps=4)
    style = dataclasses.replace(style, recipe=recipe_values(Recipe(sampling=sampling)), statistics=())
    counts = []
    for draft in (False, True):
        records = []
        tambour.apply(style, [design()], base=toy_base, draft=draft, progress=records.append)
        counts.append(max(record.step for record in records if isinstance(record, Progress)))
    assert counts == [7, 3]  # 0.95 of them


def test_any_shape_and_size(style: Style, toy_base: Base) -> None:
    designs = [design(0, (17, 16)), design(1, (500, 90)), design(2, (33, 257))]
    for flat, result in zip(designs, finish(apply(style, designs, base=toy_base, size=96)), strict=True):
        width, height = result.image.size
        scale = 96 / max(flat.size)
        assert max(width, height) == 96
        assert abs(width - flat.width * scale) <= 0.5 and abs(height - flat.height * scale) <= 0.5


def test_transparency(style: Style, toy_base: Base) -> None:
    flat = design(1, alpha=True)
    (kept,) = finish(apply(style, [flat], base=toy_base, transparent=True))
    assert kept.image.mode == "RGBA"
    assert np.array_equal(pixels(kept)[..., 3], np.asarray(flat)[..., 3])
    (opaque,) = finish(apply(style, [flat], base=toy_base))
    assert opaque.image.mode == "RGB"
    on_fabric = Image.new("RGB", flat.size, style.fabric)
    on_fabric.paste(flat, mask=flat.getchannel("A"))
    (composited,) = finish(apply(style, [on_fabric], base=toy_base))
    assert np.abs(pixels(opaque).astype(int) - pixels(composited)).max() <= 2
    with pytest.raises(InputError, match="design 2 has no transparent parts"):
        finish(apply(style, [flat, design()], base=toy_base, transparent=True))


def test_the_guide_starts_from_stitches(style: Style, toy_base: Base) -> None:
    flat = design(0, (96, 96))
    run = {"base": toy_base, "size": 96, "strength": 0.25, "edges": "free"}
    (plain,) = finish(apply(style, [flat], **run))
    (guided,) = finish(apply(style, [flat], **run, guide="stitches"))
    assert (guided.guide, plain.guide) == ("stitches", "none")
    assert not same(plain, guided)
    (again,) = finish(apply(style, [flat], **run, guide="stitches"))
    assert same(guided, again)
    finish(apply(style, [design(0, alpha=True)], base=toy_base, guide="stitches", transparent=True))
    with pytest.raises(StyleError, match="no stitch fitted"):
        finish(apply(dataclasses.replace(style, stitch=None), [flat], base=toy_base, guide="stitches"))


def test_outlines_are_filled_with_the_styles_colours(style: Style, toy_base: Base) -> None:
    recipe = recipe_values(Recipe(design_kind="filled", sampling=SAMPLING))
    coloured = dataclasses.replace(style, recipe=recipe, palette=((200, 60, 30, 1.0),))
    crimson, navy = finish(apply(coloured, [design(0), design(1)], base=toy_base))
    assert same(crimson, navy), "a design's own colours play no part"
    red, green, blue = pixels(navy)[24:40, 24:40].mean((0, 1))
    assert red > green + 40 and red > blue + 40
    with pytest.raises(StyleError, match="keeps no colours to fill outlines with"):
        finish(apply(dataclasses.replace(coloured, palette=()), [design()], base=toy_base))


def test_guidance_is_heard_only_above_one(style: Style, toy_base: Base) -> None:
    calls = []
    handle = toy_base.unet.register_forward_pre_hook(lambda _m, args: calls.append(args[0].shape[0]))
    for scale in (1.0, 3.0):
        recipe = Recipe(sampling=dataclasses.replace(SAMPLING, guidance_scale=scale))
        finish(apply(style, [design()], base=toy_base, recipe=recipe))
        finish(imagine(style, "a dog", base=toy_base, recipe=recipe))
    handle.remove()
    assert calls == [1] * 7 + [2] * 7


def test_a_base_of_sdxls_shape(toy_sdxl: Path) -> None:
    base = load(toy_sdxl)
    style = complete(base, dataclasses.replace(SAMPLING, guidance_scale=5.0))
    assert finish(apply(style, [design(0, (70, 50))], base=base))[0].image.size == (64, 46)
    assert finish(imagine(style, "a dog", base=base))[0].image.size == (64, 64)


def test_imagine(style: Style, toy_base: Base) -> None:
    several = finish(imagine(style, "a blue dog", base=toy_base, n=2, seed=4))
    assert [(r.seed, r.design_index, r.scores) for r in several] == [(4, 0, None), (5, 1, None)]
    (second,) = finish(imagine(style, "a blue dog in [emb] style", base=toy_base, seed=5))
    assert same(second, several[1])  # the trigger is added once
    with pytest.raises(InputError, match="prompt is empty"):
        finish(imagine(style, "  ", base=toy_base))
    with pytest.raises(InputError, match=r"too long by \d+ tokens"):
        finish(imagine(style, "dog " * 40, base=toy_base))
    with pytest.raises(InputError, match="n 0 is out of range"):
        finish(imagine(style, "a dog", base=toy_base, n=0))


def test_the_style_knows_its_base(style: Style, toy_sdxl: Path) -> None:
    assert len(finish(apply(style, [design()]))) == 1
    with pytest.raises(StyleError, match="learnt on base"):
        finish(apply(style, [design()], base=str(toy_sdxl)))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"edges": "soft"}, "edges 'soft' is not known. Allowed: firm, free"),
        ({"guide": "yes"}, "guide 'yes' is not known. Allowed: none, photo, stitches"),
        ({"strength": 0.0}, "strength 0.0 is out of range"),
        ({"strength": 1.5}, "strength 1.5 is out of range"),
        ({"strength": 0.1}, "leaves none of 4 steps"),
        ({"samples": 0}, "samples 0"),
        ({"size": 16}, "size 16 is out of range"),
        ({"size": 9000}, "Give 64 to 4096 px"),
    ],
)
def test_options_out_of_range(style: Style, toy_base: Base, options: dict, reason: str) -> None:
    with pytest.raises(InputError, match=reason.replace("(", r"\(")):
        finish(apply(style, [design()], base=toy_base, **options))


def test_bad_designs_are_found_before_anything_is_drawn(style: Style, toy_base: Base, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no designs"):
        finish(apply(style, [], base=toy_base))
    good, bad = tmp_path / "good.png", tmp_path / "bad.png"
    design().save(good)
    bad.write_bytes(good.read_bytes()[:60])
    seen = []
    with pytest.raises(InputError, match=r"bad\.png"):
        seen += apply(style, [good, bad], base=toy_base)
    assert seen == []
    assert len(finish(apply(style, [good, str(good)], base=toy_base))) == 2
    unscored = dataclasses.replace(style, statistics=())
    assert finish(apply(unscored, [good], base=toy_base))[0].scores is None
    with pytest.raises(StyleError, match="cannot rank samples"):
        finish(apply(unscored, [good], base=toy_base, samples=2))

"""A reference's relief and its patches: how stitches lie, what is kept of them, and what they say of noisy latents."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from test_style import random_style

from tambour.apply import Result, apply
from tambour.base import Base, load
from tambour.base.patches import FROM, OnDesign, Patches, response
from tambour.config import read_recipe, recipe_values
from tambour.errors import InputError, StyleError
from tambour.images import to_image, to_tensor
from tambour.stitch import Fabric, default_stitch, render
from tambour.stitch.relief import Relief, cut_relief, highlight, place_of
from tambour.style import Style
from tambour.texture import texture_distance, texture_statistics

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
    ("family", "field", "frame"),
    [("cord", "contour", "border"), ("stem", "contour", "border"), ("tatami", "constant", "picture")],
)
def test_the_frame_is_read_from_the_stitches(family: str, field: str, frame: str) -> None:
    assert relief_of(family, field).frame == frame


def test_a_place_knows_border_and_direction() -> None:
    design = np.full((128, 128, 3), 255, np.uint8)
    design[40:80, 16:112] = (20, 120, 60)
    inside = (design != 255).any(2)
    place = place_of(design, inside)
    assert place.labels.max() == 1 and not place.distance[~inside].any()
    assert place.distance[60, 64] == pytest.approx(20, abs=1.5) and place.distance[42, 64] == pytest.approx(3, abs=1.5)

    def off(frame: str, y: int, x: int, wanted: float) -> float:
        return abs((place.angles[frame][y, x] - wanted + math.pi / 2) % math.pi - math.pi / 2)

    assert off("border", 44, 64, 0) < 0.1 and off("border", 60, 19, math.pi / 2) < 0.2 and off("axis", 60, 64, 0) < 0.05


def test_a_relief_comes_back_from_its_bytes() -> None:
    relief = relief_of("chain", "contour")
    data = relief.to_bytes()
    again = Relief.of_bytes(data)
    assert again.frame == relief.frame and np.array_equal(again.clear, relief.clear)
    assert np.abs(again.contrast - relief.contrast)[relief.clear].max() <= 0.011
    assert again.to_bytes() == data


@pytest.mark.parametrize("data", [b"", b"no picture", cut_relief(*disc((9, 9, 9))[:1] * 2, disc((9, 9, 9))[1])[:80]])
def test_what_is_no_relief_says_so(data: bytes) -> None:
    with pytest.raises(StyleError, match="relief"):
        Relief.of_bytes(data)


def test_too_little_to_see_is_no_relief() -> None:
    design, inside = disc((150, 60, 50))
    assert cut_relief(design, design, np.zeros_like(inside)) == b""
    assert cut_relief(design[:32, :32], design[:32, :32], inside[:32, :32]) == b""


def test_relief_does_not_know_its_colour() -> None:
    """The same stitches in dark and in pale yarn say nearly the same of a mid-tone; as plain contrast they do not."""
    reliefs = []
    for colour in ((40, 40, 70), (235, 225, 200)):
        design, inside = disc(colour)
        relief = Relief.of_bytes(cut_relief(sewn(design, "cord", "contour"), design, inside))
        reliefs.append(relief.contrast[relief.clear].std())
    assert max(reliefs) < 1.5 * min(reliefs)


def test_a_highlight_is_strong_on_dark_yarn_only() -> None:
    dark, middle, pale = (highlight(np.float32(colour))[0] for colour in ((0.1, 0.1, 0.15), (0.52,) * 3, (0.95,) * 3))
    assert middle == pytest.approx(1, abs=0.05) and dark > 1.5 and 0 <= pale < 0.5


def test_the_encoder_is_linear_and_another_one_is_refused(mini: Base, toy_base: Base) -> None:
    found = response(mini)
    picture = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    black = mini.encode_image(torch.full_like(picture, -1))
    f = mini.vae_factor
    blocks = picture.view(3, 32 // f, f, 32 // f, f).permute(1, 3, 0, 2, 4).reshape(32 // f, 32 // f, 3, f * f)
    wanted = black[0] + torch.einsum("hwqp,qpc->chw", blocks, found)
    assert torch.allclose(mini.encode_image(picture * 2 - 1)[0], wanted, atol=0.03)
    with pytest.raises(StyleError, match="not linear"):
        response(toy_base)


@pytest.mark.parametrize(("family", "field"), [("cord", "contour"), ("tatami", "constant")])
def test_from_noise_alone_the_patches_draw_the_stitches(mini: Base, family: str, field: str) -> None:
    """On another design, turned, in another colour; the base says nothing but the flat design."""
    flat, inside = disc((60, 120, 170), 90.0)
    truth = {(fam, fld): sewn(flat, fam, fld, 5) for fam, fld in (("cord", "contour"), ("tatami", "constant"))}
    patches = Patches(mini, relief_of(family, field)).on(Image.fromarray(flat), inside)
    sampler = mini.sampler()
    sampler.set_timesteps(12)
    still = mini.encode_image(to_tensor(Image.fromarray(flat)))
    z = torch.randn(still.shape, generator=torch.Generator().manual_seed(0))
    for t in sampler.timesteps:
        alpha = float(mini.scheduler.alphas_cumprod[int(t)])
        output = (math.sqrt(alpha) * z - still) / math.sqrt(1 - alpha)  # v of the flat design
        z = sampler.step(patches.mixed(mini, output, t, z, 1.0), t, z, return_dict=False)[0]
    drawn = texture_statistics(np.asarray(to_image(mini.decode(z))), inside)
    near = {key: texture_distance(drawn, texture_statistics(picture, inside)) for key, picture in truth.items()}
    plain = texture_distance(texture_statistics(flat, inside), texture_statistics(truth[family, field], inside))
    assert near[family, field] < 0.5 * plain and near[family, field] == min(near.values())


def test_outside_of_the_stitches_and_in_pure_noise_the_base_has_its_say(mini: Base) -> None:
    flat, inside = disc((60, 120, 170))
    patches = Patches(mini, relief_of("cord", "contour")).on(Image.fromarray(flat), inside)
    z = torch.randn(1, mini.latent_channels, SIDE // mini.vae_factor, SIDE // mini.vae_factor)
    output = torch.randn(z.shape)
    alphas = mini.scheduler.alphas_cumprod
    early = torch.nonzero(alphas.sqrt() < FROM).flatten()[0]
    assert torch.equal(patches.mixed(mini, output, early, z, 1.0), output)
    t = torch.nonzero(alphas.sqrt() < 0.7).flatten()[0]
    mixed = patches.mixed(mini, output, t, z, 1.0)
    away = torch.from_numpy(~inside).view(z.shape[2], mini.vae_factor, z.shape[3], mini.vae_factor).all(3).all(1)
    assert torch.equal(mixed[0][:, away], output[0][:, away]) and not torch.allclose(
        mixed[0][:, ~away], output[0][:, ~away]
    )
    a, s = math.sqrt(float(alphas[t])), math.sqrt(1 - float(alphas[t]))
    estimate, filled = patches.estimate(z, a, s)
    full = filled[0, 0] == 1
    assert torch.allclose(mini.to_x0(mixed, z, t)[0][:, full], estimate[0][:, full], atol=1e-3)
    half = mini.to_x0(patches.mixed(mini, output, t, z, 0.5), z, t)
    both = (mini.to_x0(output, z, t) + estimate) / 2
    assert torch.allclose(half[0][:, full], both[0][:, full], atol=1e-3)


def test_a_style_draws_with_them_in_all_steps_but_the_last(mini: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = read_recipe("mini")
    recipe = replace(recipe, sampling=replace(recipe.sampling, steps=4, size=128, patches=1.0))
    design, _ = disc((150, 60, 50))
    relief = relief_of("cord", "contour").to_bytes()
    style: Style = replace(random_style(mini), recipe=recipe_values(recipe), relief=relief, statistics=())
    art = Image.fromarray(design).resize((128, 128))

    def drawn(weight: float) -> np.ndarray:
        other = replace(recipe, sampling=replace(recipe.sampling, patches=weight))
        (result,) = [r for r in apply(style, [art], base=mini, recipe=other, guide="none") if isinstance(r, Result)]
        return np.asarray(result.image).astype(int)

    whole = drawn(1.0)
    asked, mixed = [], OnDesign.mixed
    monkeypatch.setattr(OnDesign, "mixed", lambda self, *given: (asked.append(int(given[2])), mixed(self, *given))[1])
    assert np.array_equal(whole, drawn(1.0))
    mini.scheduler.set_timesteps(4)
    assert asked == mini.scheduler.timesteps.tolist()[1:-1]  # the first is skipped at the recipe's strength of 0.95
    assert np.abs(whole - drawn(0.0)).mean() > 1


def test_out_of_range_is_refused(mini: Base) -> None:
    recipe = read_recipe("mini")
    recipe = replace(recipe, sampling=replace(recipe.sampling, patches=1.5))
    with pytest.raises(InputError, match=r"patches 1\.5"):
        next(apply(random_style(mini), [Image.new("RGB", (64, 64))], base=mini, recipe=recipe, guide="none"))

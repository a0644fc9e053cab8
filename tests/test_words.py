"""Words -> a flat design: reading prompts, drawing with a prior, and `imagine` by way of a design."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_apply import complete, finish
from toy import make_toy, make_toy_prior
from workflow_calls import apply, imagine

from tambour.base import Base, generator, load
from tambour.config import Recipe, Sampling, recipe_from
from tambour.errors import BaseModelError, InputError
from tambour.imaging.colour import rgb_to_lab
from tambour.prior.model import SIDE, Patches, Prior, caption, draw, find_prior, load_prior
from tambour.prior.words import Wish, crisp, design_of, read_prompt
from tambour.progress import Progress
from tambour.style import Style


@pytest.fixture(scope="session")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a toy base that has a prior."""
    folder = make_toy(tmp_path_factory.mktemp("spoken"))
    make_toy_prior(folder)
    return folder


@pytest.fixture(scope="session")
def prior(spoken: Path) -> Prior:
    return load_prior(find_prior(str(spoken)))


@pytest.fixture
def style(spoken: Path) -> Style:
    return complete(load(spoken), Sampling(size=64, steps=2, guidance_scale=1.0, blur_kernel=5))


# --- prompts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "wanted"),
    [
        ("a red dog", Wish("dog", "red", ())),
        ("Dog", Wish("dog", None, ())),
        ("two big violet puppies on linen, please", Wish("dog", "purple", ("two", "big", "linen"))),
        ("polar bears", Wish("polar bear", None, ())),
        ("a bear in [emb] style", Wish("bear", None, ())),
        ("orange dog", Wish("dog", "orange", ())),
        ("an orange", Wish("tangerine", None, ())),
        ("an orange orange", Wish("tangerine", "orange", ())),
        ("a blue star and a red dog", Wish("star", "blue", ("red", "dog"))),
    ],
)
def test_prompts_are_read(prior: Prior, prompt: str, wanted: Wish) -> None:
    assert read_prompt(prompt, prior) == wanted


def test_unknown_objects_are_refused_and_near_ones_named(prior: Prior) -> None:
    with pytest.raises(InputError, match=r"'a red stair'.*such as star;.*red"):
        read_prompt("a red stair", prior)
    with pytest.raises(InputError, match=r"such as dog, bear"):
        read_prompt("a qqqq", prior)


# --- drawing ------------------------------------------------------------------------------------------------------


def test_the_code_of_patches_is_exact_where_nothing_is_dropped() -> None:
    basis = torch.linalg.qr(torch.randn(256, 256, generator=generator(0, "basis")))[0].view(256, 4, 8, 8)
    patches = Patches(basis, torch.rand(4, 8, 8, generator=generator(0, "mean")), torch.rand(256) + 0.5)
    picture = torch.rand(2, 4, 64, 64, generator=generator(0, "picture"))
    code = patches.encode(picture)
    assert code.shape == (2, 256, 8, 8)
    assert torch.allclose(patches.decode(code), picture, atol=1e-4)


def test_the_same_seed_draws_the_same(prior: Prior) -> None:
    text = caption("dog", "red", 1)
    one, same, other = (draw(prior, text, generator(seed, "words"), steps=2) for seed in (0, 0, 1))
    assert one.shape == (SIDE, SIDE, 4) and one.min() >= 0 and one.max() <= 1
    assert np.array_equal(one, same) and not np.array_equal(one, other)
    blue = draw(prior, caption("dog", "blue", 1), generator(0, "words"), steps=2)
    assert not np.array_equal(one, blue), "the words are not heard"


def test_seeds_choose_between_hands(prior: Prior, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(
        "tambour.prior.words.draw", lambda prior, text, rng: asked.append(text) or np.zeros((64, 64, 4))
    )
    for seed in range(12):
        design_of(prior, Wish("dog", "red", ()), seed, 64)
    assert set(asked) == {f"a red dog {hand + 1}" for hand in range(prior.hands)}


def test_soft_drawings_become_crisp() -> None:
    """A red disc with a blue middle on nothing, blurred and noisy: two colours, a clean ground, true areas."""
    y, x = np.mgrid[:64, :64] - 31.5
    far = np.hypot(x, y)
    alpha = np.clip(26 - far, 0, 1)[..., None]
    rgb = np.where((far < 12)[..., None], [0.1, 0.2, 0.8], [0.8, 0.1, 0.15])
    drawing = np.dstack([rgb * alpha, alpha]).astype(np.float32)
    noise = np.random.default_rng(0).normal(0, 0.02, drawing.shape)
    made = crisp((drawing + noise).clip(0, 1).astype(np.float32), 256)
    pixels = np.asarray(made)
    assert made.size == (256, 256) and set(np.unique(pixels[..., 3])) == {0, 255}
    inside = pixels[..., 3] > 0
    assert inside.mean() == pytest.approx(np.pi * 25.5**2 / 64**2, rel=0.05)
    colours, counts = np.unique(pixels[inside][:, :3], axis=0, return_counts=True)
    assert len(colours) == 2
    blue = counts[colours[:, 2].argmax()] / counts.sum()
    assert blue == pytest.approx(12**2 / 25.5**2, rel=0.15)


def test_an_empty_drawing_stays_empty() -> None:
    assert crisp(np.zeros((64, 64, 4), np.float32), 96).getextrema()[3] == (0, 0)


# --- imagine ------------------------------------------------------------------------------------------------------


def test_imagine_shows_the_design_of_the_words(spoken: Path, prior: Prior, style: Style) -> None:
    base = load(spoken)
    records = list(imagine(style, "a red dog, fluffy", base=base, n=2, seed=4))
    updates = [record for record in records if isinstance(record, Progress)]
    assert any("red dog" in record.message and "fluffy" in record.message for record in updates)
    assert updates[-1].stage == "imagine" and updates[-1].step == updates[-1].total
    results = finish(records)
    assert [result.design_index for result in results] == [0, 1] and [result.seed for result in results] == [4, 5]
    for seed, result in zip((4, 5), results, strict=True):
        design = design_of(prior, Wish("dog", "red", ()), seed, 64)
        (wanted,) = finish(apply(style, [design], base=base, seed=seed))
        assert np.array_equal(np.asarray(result.image), np.asarray(wanted.image))


def test_a_recipe_may_have_the_base_draw_words_itself(spoken: Path, toy: Path, style: Style) -> None:
    direct = Recipe(sampling=Sampling(size=64, steps=2, guidance_scale=1.0, prompt_route="base"))
    (one,) = finish(imagine(style, "a red dog", base=load(spoken), recipe=direct))
    (same,) = finish(imagine(style, "a red dog", base=load(toy)))  # that has no prior
    assert np.array_equal(np.asarray(one.image), np.asarray(same.image))
    with pytest.raises(InputError, match=r"'loud'.*prior, base"):
        recipe_from({"sampling": {"prompt_route": "loud"}})


def test_the_prior_leaves_the_fingerprint_alone_and_loads_only_when_asked(
    spoken: Path, toy: Path, style: Style, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load(spoken).fingerprint == load(toy).fingerprint
    monkeypatch.setattr(
        sys.modules["tambour.workflows.imagine"], "load_prior", lambda folder: pytest.fail("loaded without need")
    )
    base: Base = load(spoken)
    list(apply(style, [Image.new("RGB", (64, 64), "red")], base=base))


def test_a_broken_prior_is_told(spoken: Path, tmp_path: Path) -> None:
    shutil.copytree(spoken / "prior", tmp_path / "prior")
    (tmp_path / "prior" / "patches.safetensors").write_bytes(b"none")
    with pytest.raises(BaseModelError, match="cannot be loaded"):
        load_prior(find_prior(str(tmp_path)))


# --- the bundled one ----------------------------------------------------------------------------------------------


def test_mini_draws_a_red_heart_and_a_blue_star() -> None:
    prior = load_prior(find_prior("mini"))
    for words, wanted in (("a red heart", (50, 65, 40)), ("a blue star", (42, 10, -55))):
        design = np.asarray(design_of(prior, read_prompt(words, prior), 0, 128))
        inside = design[..., 3] > 0
        assert 0.25 < inside.mean() < 0.85
        mean = rgb_to_lab(design[..., :3])[inside].mean(0)
        assert np.linalg.norm(mean - np.array(wanted)) < 25, words


def test_imagine_on_mini_puts_the_object_on_bare_fabric() -> None:
    base = load("mini", device="cpu")
    style = complete(base, Sampling(size=128, steps=3, guidance_scale=1.0))
    (one,) = finish(imagine(style, "a red heart", base=base, seed=1))
    prior = load_prior(find_prior("mini"))
    inside = np.asarray(design_of(prior, Wish("heart", "red", ()), 1, 128))[..., 3] > 0
    redness = rgb_to_lab(np.asarray(one.image))[..., 1]
    assert redness[inside].mean() > redness[~inside].mean() + 25

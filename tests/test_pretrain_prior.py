"""The prior's corpus and training, at toy size: recolouring, captions, exact continuation, what is written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pretraining import prior, words
from pretraining.corpus import Art
from pretraining.train import StagePlan, Training
from pretraining.vocabulary import COLOUR_SYNONYMS, COLOURS, OBJECTS
from tambour.imaging.colour import rgb_to_lab
from tambour.prior.model import caption, load_prior
from tambour.prior.words import read_prompt

SVG = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 40 40"><rect x="10" y="15" width="20" height="10"
fill="#d02030"/><rect x="10" y="15" width="20" height="3" fill="#a01020"/><circle cx="20" cy="21" r="2.5"
fill="#101010"/></svg>"""


@pytest.fixture(scope="module")
def flat() -> words.Flat:
    """A red bar with a darker rim and a black dot."""
    return words.flat_of(Art("bar", svg=SVG))


@pytest.fixture(scope="module")
def designs(flat: words.Flat) -> words.Designs:
    pictures = np.stack([[words.recoloured(flat, colour) for colour in (None, *COLOURS)]] * 2)
    noise = np.random.default_rng(0).integers(0, 60, pictures.shape)
    return words.Designs(["star", "heart"], np.array([0, 2]), np.uint8(np.minimum(pictures + noise, 255)))


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prior, "WIDTHS", (16, 16))
    monkeypatch.setattr(prior, "TEXT_WIDTH", 16)
    monkeypatch.setattr(prior, "CODE", 8)


# --- the corpus ---------------------------------------------------------------------------------------------------


def test_names_are_told_apart() -> None:
    names = [*OBJECTS, *(other for _, others in OBJECTS.values() for other in others)]
    assert len(names) == len(set(names))
    assert set(COLOUR_SYNONYMS.values()) <= set(COLOURS) and not set(COLOUR_SYNONYMS) & set(COLOURS)
    assert 250 <= len(OBJECTS) <= 450


def test_every_word_is_a_token() -> None:
    tokenizer = prior.words_tokenizer()
    assert len(list(words.captions())) == len(OBJECTS) * (1 + len(COLOURS)) * words.HANDS
    for name in OBJECTS:
        text = caption(name, "turquoise", 3)
        tokens = tokenizer(text).input_ids
        assert len(tokens) <= prior.TOKENS
        assert len(tokens) == 2 + len(text.replace("-", " - ").split()), text


def test_a_drawing_fills_its_square(flat: words.Flat) -> None:
    picture = words.recoloured(flat, None)
    covered = picture[..., 3] > 127
    rows, columns = np.flatnonzero(covered.any(1)), np.flatnonzero(covered.any(0))
    assert picture.shape == (64, 64, 4) and picture.dtype == np.uint8
    assert (columns[0], columns[-1]) == (words.MARGIN, 63 - words.MARGIN)
    assert rows[0] + rows[-1] == 63 and len(rows) == pytest.approx(len(columns) / 2, abs=1)


@pytest.mark.parametrize("colour", COLOURS)
def test_the_main_colour_changes_and_the_rest_stays_visible(flat: words.Flat, colour: str) -> None:
    lab = rgb_to_lab(words.recoloured(flat, colour)[..., :3])
    bar, rim, dot = lab[37, 10], lab[20, 32], lab[34, 32]
    wanted = rgb_to_lab(np.uint8([[COLOURS[colour]]]))[0, 0]
    assert np.linalg.norm(bar - wanted) < 12
    assert rim[0] < bar[0] - 2
    assert np.linalg.norm(dot - bar) > 25


def test_prompts_of_the_evaluation() -> None:
    asked = words.prompts()
    assert len(set(asked)) == 40 and asked == words.prompts()
    assert {one.split()[1] for one in asked} == set(list(COLOURS)[:10])
    assert len({one.split(maxsplit=2)[2] for one in asked}) == 40


# --- training -----------------------------------------------------------------------------------------------------


def test_the_code_has_unit_power(designs: words.Designs) -> None:
    codes = designs.encoded(prior.fit_patches(designs.pictures.reshape(-1, 64, 64, 4))).codes
    assert codes.shape == (2, 1 + len(COLOURS), 8, 8, 8)
    assert codes.float().pow(2).mean().sqrt() == pytest.approx(1, rel=0.1)


def test_captions_belong_to_their_designs(designs: words.Designs) -> None:
    marked = torch.arange(2 * 13).view(2, 13, 1, 1, 1)
    codes, captions = words.Designs(designs.names, designs.hands, designs.pictures, marked).draw(
        np.random.default_rng(0), 200
    )
    spelt = [None, *COLOURS]
    for mark, one in zip(codes.flatten().int().tolist(), captions, strict=True):
        assert one == caption(("star", "heart")[mark // 13], spelt[mark % 13], (1, 3)[mark // 13])


def test_training_continues_exactly_and_is_written(designs: words.Designs, tmp_path: Path) -> None:
    patches = prior.fit_patches(designs.pictures.reshape(-1, 64, 64, 4))
    tokenizer, encoded = prior.words_tokenizer(), designs.encoded(patches)
    plan = StagePlan(seconds=1e9)

    def run(path: Path, steps: int) -> Training:
        training = Training(prior.build(tokenizer, patches), plan)
        if path.exists():
            training.load(path)
        for step, loss, _ in prior.run(training, encoded, path, batch=4, every=0.0):
            assert np.isfinite(loss)
            if step == steps:
                break
        return training

    whole = run(tmp_path / "words.safetensors", 4)
    run(tmp_path / "part.safetensors", 2)
    again = run(tmp_path / "part.safetensors", 4)
    for name, module in whole.networks.modules().items():
        other = again.networks.modules()[name].state_dict()
        assert all(torch.allclose(value, other[key], atol=1e-6) for key, value in module.state_dict().items())

    np.savez(tmp_path / "words.npz", names=designs.names, hands=designs.hands, pictures=designs.pictures)
    prior.save_prior(tmp_path, tmp_path / "prior")
    loaded = load_prior(tmp_path / "prior")
    average = whole.averaged().unet.state_dict()
    assert all(torch.allclose(average[k], v, atol=2e-3) for k, v in loaded.unet.state_dict().items())
    assert loaded.hands == 3 and read_prompt("grey kitties", loaded).name == "cat"

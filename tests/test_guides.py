"""Guides are one protocol: a new one is a class with a name, found by it, and draws."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from workflow_calls import apply

import tambour.guides as room
from tambour.base import Base
from tambour.config import Recipe, Sampling, recipe_values
from tambour.errors import InputError, StyleError
from tambour.guides import Canvas, Guide, Start, choose_guide, guides, register
from tambour.style import Style
from tambour.workflows.embroider import Result


@pytest.fixture
def style(toy_base: Base) -> Style:
    """A style that changes nothing, of one block."""
    block = toy_base.attention_blocks[0]
    module = f"{block}.transformer_blocks.0.attn1.to_q"
    width = toy_base.unet.get_submodule(module).weight.shape[0]
    tensors = {f"unet.{module}.lora_A.weight": torch.zeros(2, width),
               f"unet.{module}.lora_B.weight": torch.zeros(width, 2)}  # fmt: skip
    recipe = Recipe(sampling=Sampling(size=64, steps=4, guidance_scale=1.0))
    return Style(tensors, {block: 0.0}, 2, 2.0, toy_base.name, toy_base.fingerprint, "[emb]", recipe_values(recipe))


@pytest.fixture
def negative(monkeypatch: pytest.MonkeyPatch) -> type[Guide]:
    """A guide for this test alone: starts from the design's negative, keeps its left half, ends in grey."""
    monkeypatch.setattr(room, "_REGISTERED", guides())

    @register
    class Negative(Guide):
        name = "negative"

        def start(self, canvas: Canvas, seed: int) -> Generator[float, None, Start]:
            yield 0.5
            keep_mask = np.zeros(canvas.inside.shape, np.float32)
            keep_mask[:, :32] = 1
            return Start(Image.fromarray(255 - np.asarray(canvas.flat)), keep_mask)

        def finish(self, image: Image.Image, canvas: Canvas, start: Start) -> Image.Image:
            assert start.image.size == image.size == canvas.flat.size
            return image.convert("L").convert("RGB")

    return Negative


def design() -> Image.Image:
    picture = Image.new("RGB", (64, 64), (230, 220, 200))
    picture.paste((200, 40, 40), (16, 16, 48, 48))
    return picture


def drawn(style: Style, base: Base, guide: str | None) -> Result:
    return next(r for r in apply(style, [design()], base=base, guide=guide) if isinstance(r, Result))


def test_a_registered_guide_draws(style: Style, toy_base: Base, negative: type[Guide]) -> None:
    assert "negative" in guides()
    result, plain = drawn(style, toy_base, "negative"), drawn(style, toy_base, "none")
    pixels = np.asarray(result.image)
    assert result.guide == "negative" and plain.guide == "none"
    assert (np.ptp(pixels, axis=2) == 0).all() and not np.array_equal(pixels, np.asarray(plain.image))


def test_what_a_guide_keeps_is_not_drawn_anew(style: Style, toy_base: Base, negative: type[Guide]) -> None:
    """The kept half is the autoencoder's own answer to the start, whatever the seed draws elsewhere."""
    halves = []
    for seed in (0, 1):
        records = apply(style, [design()], base=toy_base, guide="negative", seed=seed)
        halves.append(np.asarray(next(r for r in records if isinstance(r, Result)).image).astype(int))
    apart = np.abs(halves[0] - halves[1])
    assert apart[:, :16].mean() < 0.2 * apart[:, 48:].mean()


def test_the_recipes_guide_gives_way_where_the_style_does_not_suffice(style: Style) -> None:
    recipe = Recipe(sampling=Sampling(guide="photo"))
    assert choose_guide(None, style, recipe).name == "none"
    stitched = replace(style, stitch={"family": "chain"})
    assert choose_guide(None, stitched, recipe).name == "stitches"
    assert choose_guide(None, replace(stitched, relief=b"something"), recipe).name == "photo"
    with pytest.raises(StyleError, match="no stitches of its reference"):
        choose_guide("photo", stitched, recipe)
    with pytest.raises(InputError, match=r"'twill' is not known. Allowed: none, photo, stitches"):
        choose_guide("twill", stitched, recipe)

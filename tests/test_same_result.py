"""Same seed, same result, whichever way it is computed: batched, shared or cached. On a toy base of SDXL's shape."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
import torch
from PIL import Image
from workflow_calls import apply

from tambour.base import Base, base_only, generator, load
from tambour.config import Edges, Lora, Recipe, Sampling, Stage, StageTwo, Training, recipe_values
from tambour.style import Style
from tambour.training import losses, routing
from tambour.training.adapter import adapted, updating
from tambour.training.loop import train
from tambour.training.losses import contrast, denoising
from tambour.training.pairs import crop, encode_pair, join
from tambour.training.routing import RoutedModel, parts_before
from tambour.training.stage_one import stage_one
from tambour.training.stage_two import stage_two
from tambour.workflows.embroider import Result

LORA = Lora(rank=2, alpha=2.0, convolutions=True)
EARLY = ("down_blocks.1.attentions.1", "up_blocks.0.attentions.2")
LATE = ("up_blocks.1.attentions.0", "up_blocks.1.attentions.2")
FLOAT = 1e-5  # relative: float32 sums in another order
TRAINED = 1e-3  # relative, of losses after a few steps: Adam magnifies rounding where a gradient is small


@pytest.fixture(scope="module")
def base(toy_sdxl) -> Base:
    return load(toy_sdxl)


def picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (64, 64, 3), np.uint8))


def encoded(base: Base, seed: int, words: str):
    recipe = Recipe(resolution=64, training=Training(tile=1.0))
    return encode_pair(base, picture(seed), picture(seed + 1), words, recipe)


def randomise(adapter) -> None:
    """Give the LoRA an effect."""
    rng = generator(5, "randomise")
    for parameter in adapter.theta_a.values():
        parameter.data.copy_(0.3 * torch.randn(parameter.shape, generator=rng))


def each_alone(modules) -> contextlib.AbstractContextManager:
    """In place of `computed_once`: every pass computes everything."""
    return contextlib.nullcontext()


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm())


# -- shared -----------------------------------------------------------------------------------------------------------


def test_what_runs_before_the_style_blocks(base):
    assert parts_before(base.unet, ["down_blocks.1.attentions.0"]) == [
        base.unet.down_blocks[0],
        base.unet.down_blocks[1].resnets[0],
    ]
    late = parts_before(base.unet, LATE)
    assert late[:5] == [*base.unet.down_blocks, base.unet.mid_block, base.unet.up_blocks[0]]
    assert late[5:] == [base.unet.up_blocks[1].resnets[0]]
    assert parts_before(base.unet, []) == []


@pytest.mark.parametrize(("blocks", "checkpointing"), [(EARLY, False), (LATE, True)])
def test_passes_that_share_their_beginning_equal_passes_that_do_not(base, monkeypatch, blocks, checkpointing):
    """L_con is equal bit for bit, its gradients within float32's rounding, with and without gradient checkpointing."""
    ref, gen = (crop(base, encoded(base, s, w), [(0, 0)]) for s, w in ((0, "dog"), (7, "star")))
    model, found = RoutedModel(base, blocks, controlnet_scale=1.0), []
    with adapted(base, blocks, LORA, generator(0, "lora")) as adapter:
        randomise(adapter)
        if checkpointing:
            base.unet.enable_gradient_checkpointing()
        try:
            for once in (routing.computed_once, each_alone):
                monkeypatch.setattr(routing, "computed_once", once)
                with updating(adapter, list(adapter.theta_e.values())):
                    loss = contrast(model, ref, gen, generator(0, "loss"))
                    loss.backward()
                found.append((loss.detach(), torch.cat([p.grad.flatten() for p in adapter.theta_e.values()])))
                for parameter in adapter.theta_e.values():
                    parameter.grad = None
        finally:
            base.unet.disable_gradient_checkpointing()
    assert torch.equal(found[0][0], found[1][0])
    assert found[1][1].norm() > 0
    assert distance(found[0][1], found[1][1]) < FLOAT
    assert not any("forward" in module.__dict__ for module in base.unet.modules())


def test_what_the_controlnet_says_serves_every_pass(base, monkeypatch):
    """ControlNet-Tile asked once for four passes = asked before each; base predictions with it = without sharing."""
    ref, gen = (crop(base, encoded(base, s, w), [(0, 0)]) for s, w in ((0, "dog"), (7, "star")))
    model, both = RoutedModel(base, LATE, controlnet_scale=1.0), join(ref, gen)
    t, z = torch.tensor([300, 300]), torch.cat([ref.design, gen.embroidery])
    with adapted(base, LATE, LORA, generator(0, "lora")) as adapter, torch.no_grad():
        randomise(adapter)
        residuals = model.structure(z, t, both, style=True)
        for around in (contextlib.nullcontext(), base_only(base.unet)):
            with around:
                shared = model.predict_both(z, t, both, residuals=residuals)
                alone = [model.predict(z, t, both, style=style) for style in (False, True)]
            assert all(torch.equal(a, b) for a, b in zip(shared, alone, strict=True))


# -- batched ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("style", [False, True])
def test_a_batch_of_pairs_predicts_as_each_pair_alone(base, style):
    batches = [crop(base, encoded(base, s, w), [(0, 0)]) for s, w in ((0, "dog"), (7, "star"))]
    model, t = RoutedModel(base, EARLY, controlnet_scale=1.0), torch.tensor([300, 700])
    z = torch.cat([batch.design for batch in batches])
    with adapted(base, EARLY, LORA, generator(0, "lora")) as adapter, torch.no_grad():
        randomise(adapter)
        together = model.predict(z, t, join(*batches), style=style)
        alone = [model.predict(z[i : i + 1], t[i : i + 1], batches[i], style=style) for i in range(2)]
    assert distance(together, torch.cat(alone)) < FLOAT


def test_losses_of_a_batch_are_those_of_its_rows(base, monkeypatch):
    """L_des of two pairs together = of either with the same timestep and noise."""
    batches = [crop(base, encoded(base, s, w), [(0, 0)]) for s, w in ((0, "dog"), (7, "star"))]
    model, rng = RoutedModel(base, EARLY, controlnet_scale=1.0), generator(0, "loss")
    t = losses.draw_timesteps(base, 2, rng)
    eps = losses.draw_noise(join(*batches).design, rng)
    with torch.no_grad():
        together = denoising(model, join(*batches), generator(0, "loss"), style=False)
        for i, batch in enumerate(batches):
            monkeypatch.setattr(losses, "draw_timesteps", lambda *_, i=i: t[i : i + 1])
            monkeypatch.setattr(losses, "draw_noise", lambda *_, i=i: eps[i : i + 1])
            alone = denoising(model, batch, rng, style=False)
            assert float(alone) == pytest.approx(float(together[i]), rel=FLOAT)


def test_designs_together_are_drawn_as_one_by_one(base):
    """`apply` under guidance on a list = on each design, bit for bit."""
    recipe = Recipe(
        base=base.name,
        resolution=64,
        sampling=Sampling(size=64, steps=3, guidance_scale=3.0, firm=Edges(tile=0.5, canny=0.5, strength=0.95)),
    )
    with adapted(base, LATE, LORA, generator(0, "lora")) as adapter:
        randomise(adapter)
        tensors = adapter.style_tensors()
    style = Style(
        tensors=tensors,
        blocks=dict.fromkeys(LATE, 0.5),
        rank=LORA.rank,
        alpha=LORA.alpha,
        base=base.name,
        fingerprint=base.fingerprint,
        trigger="[emb]",
        recipe=recipe_values(recipe),
        description="dog",
        statistics=(),
    )

    def drawn(designs) -> list[np.ndarray]:
        records = apply(style, designs, base=base, seed=3)
        return [np.asarray(record.image) for record in records if isinstance(record, Result)]

    designs = [picture(1), picture(2)]
    together = drawn(designs)
    assert not np.array_equal(*together)
    for design, result in zip(designs, together, strict=True):
        assert np.array_equal(drawn([design])[0], result)


# -- whole stages -----------------------------------------------------------------------------------------------------


def trained(base: Base, folder) -> dict[str, list[float]]:
    """Losses of two iterations of either stage, one after the other, with the tile condition."""
    ref, gen = encoded(base, 0, "dog"), encoded(base, 7, "star")
    model, curves = RoutedModel(base, LATE, controlnet_scale=1.0), {}
    two = StageTwo(2, 1e-3, contrastive_weight=0.5)
    folder.mkdir()
    with adapted(base, LATE, LORA, generator(0, "lora")) as adapter:
        for name, steps, numbers in (
            ("one", stage_one(model, [ref], 1), Stage(2, 1e-3)),
            ("two", stage_two(model, [ref], [gen], two), two),
        ):
            heard: dict[str, list[float]] = {}
            list(train(name, adapter, steps, numbers, seed=0, checkpoint=folder / name, every_seconds=60, curves=heard))
            curves |= {f"{name}, {key}": values for key, values in heard.items()}
    return curves


def test_both_stages_shared_and_not_shared_have_the_same_losses(base, tmp_path, monkeypatch):
    shared = trained(base, tmp_path / "shared")
    monkeypatch.setattr(routing, "computed_once", each_alone)
    alone = trained(base, tmp_path / "alone")
    assert shared.keys() == alone.keys()
    for key, values in alone.items():
        assert shared[key] == pytest.approx(values, rel=TRAINED), key

"""Losses, routing, the trainable sets, crops and the loop."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from PIL import Image
from torch import nn

from tambour.base import base_only, generator, load
from tambour.config import Lora, Recipe, Stage, StageTwo, Training
from tambour.errors import BaseModelError, TambourError
from tambour.training import stage_one as first
from tambour.training import stage_two as second
from tambour.training.adapter import NAME, adapted, style_only, targets, updating
from tambour.training.loop import Step, train
from tambour.training.losses import (
    contrast,
    contrastive_loss,
    denoising,
    draw_timesteps,
    noise_error,
    similarity,
    squared_error,
    style_residual,
)
from tambour.training.pairs import crop, draw, encode_pair, find_places, join
from tambour.training.routing import RoutedModel
from tambour.training.stage_one import stage_one
from tambour.training.stage_two import stage_two

STYLE_BLOCKS = ("down_blocks.1.attentions.1", "up_blocks.0.attentions.2")
LORA = Lora(rank=2, alpha=4.0)


def row(*values: float) -> torch.Tensor:
    """One latent of as many channels, 1 x 1."""
    return torch.tensor(values).view(1, -1, 1, 1)


@pytest.fixture(scope="module")
def base(toy):
    """The toy base; every test leaves it as it was."""
    return load(toy)


def picture(seed: int, size: tuple[int, int]) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), np.uint8))


def encoded(base, *, size=(32, 32), seed=0, words="dog", **numbers):
    """A pair of noise pictures of (width, height) px."""
    recipe = Recipe(resolution=32, **numbers)
    return encode_pair(base, picture(seed, size), picture(seed + 1, size), words, recipe)


@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_stages_run_the_passes_they_declare(base, scale):
    """What the preflight is told is what a step runs."""
    recipe = Recipe(resolution=32, batch=2, training=Training(tile=scale), stage_two=StageTwo(batch=2))
    pair = encode_pair(base, picture(0, (32, 32)), picture(1, (32, 32)), "dog", recipe)
    model, runs = RoutedModel(base, STYLE_BLOCKS, scale), {"unet": [], "controlnet": []}

    def count(name):
        def hook(_module, _args, output):
            answer = output[0][-1] if name == "controlnet" else output[0]
            runs[name].append((len(answer), answer.requires_grad))

        return hook

    hooks = [base.unet.register_forward_hook(count("unet"))]
    hooks.append(base.controlnets["tile"].register_forward_hook(count("controlnet")))
    try:
        with adapted(base, STYLE_BLOCKS, LORA, generator(0, "lora")) as adapter:
            stages = [(stage_one(model, [pair], recipe.batch), first.passes(recipe))]
            stages.append((stage_two(model, [pair], [pair], recipe.stage_two), second.passes(recipe)))
            for steps, declared in stages:
                for step, passes in zip(steps, declared, strict=True):
                    with updating(adapter, list(getattr(adapter, step.updates).values())):
                        step.losses(generator(0, "step"))
                    assert [rows for rows, _ in runs["unet"]] == [passes.rows] * passes.forward
                    assert sum(wants for _, wants in runs["unet"]) == passes.backward
                    assert [rows for rows, _ in runs["controlnet"]] == [passes.rows] * passes.controlnet
                    for found in runs.values():
                        found.clear()
    finally:
        for hook in hooks:
            hook.remove()


def randomise(adapter, scale: float = 0.3) -> None:
    """Give the LoRA an effect."""
    rng = generator(5, "randomise")
    for parameter in adapter.theta_a.values():
        parameter.data.copy_(scale * torch.randn(parameter.shape, generator=rng))


# -- equations, against values by hand --------------------------------------------------------------------------------


def test_squared_error():
    assert squared_error(row(1, 2), row(3, 1)).tolist() == [(4 + 1) / 2]


@pytest.mark.parametrize(("a", "s"), [(0.6, 0.8), (0.8, 0.6)])
def test_the_loss_in_noise_space_whatever_is_predicted(a, s):
    """|| eps - eps_theta ||^2 for eps = (1, 0), eps_theta = (0.5, 0.5): (0.25 + 0.25) / 2."""
    z0, eps, guess = row(2, -1), row(1, 0), row(0.5, 0.5)
    z = a * z0 + s * eps
    x0 = (z - s * guess) / a
    v = a * guess - s * x0
    a1, s1 = torch.tensor([a]), torch.tensor([s])
    for kind, output in (("epsilon", guess), ("sample", x0), ("v_prediction", v)):
        assert noise_error(kind, output, z0, eps, a1, s1).tolist() == pytest.approx([0.25])
        weight = {"epsilon": 1.0, "sample": a**2 / s**2, "v_prediction": a**2}[kind]
        assert noise_error(kind, output, z0, eps, a1, s1, "output").tolist() == pytest.approx([0.25 / weight])


def test_the_weight_of_an_x0_base_is_bounded_where_no_noise_is_left():
    a, s = math.sqrt(0.99), 0.1  # SNR 99
    error = noise_error("sample", row(1.0), row(3.0), row(0.0), torch.tensor([a]), torch.tensor([s]))
    assert error.tolist() == pytest.approx([5 * 4.0])


def test_style_residual_and_similarity():
    assert style_residual(row(3, 1), row(1, 1)).flatten().tolist() == [2, 0]
    assert similarity(row(3, 4), row(4, 3)).tolist() == pytest.approx([24 / 25])
    assert similarity(row(3, 4), row(-6, -8)).tolist() == pytest.approx([-1])


def test_contrastive_loss():
    """eps_emb*^ref = (1, 0), eps_emb*^gen = (0, 1): s = 0; the negatives: s((1, 0), (1, 1)) and s((0, 2), (0, 1))."""
    des_ref, emb_ref = row(0, 2), row(1, 2)
    des_gen, emb_gen = row(1, 1), row(1, 2)
    expected = -math.log(math.exp(0) / (math.exp(1 / math.sqrt(2)) + math.exp(1)))
    assert contrastive_loss(des_ref, emb_ref, des_gen, emb_gen).tolist() == pytest.approx([expected])
    cold = -math.log(math.exp(0) / (math.exp(2 / math.sqrt(2)) + math.exp(2)))
    assert contrastive_loss(des_ref, emb_ref, des_gen, emb_gen, temperature=0.5).tolist() == pytest.approx([cold])


def test_contrastive_loss_is_best_for_equal_styles_unlike_all_content():
    style, content = row(1, 0, 0), row(0, 1, 0)
    best = contrastive_loss(content, content + style, content, content + style)
    assert best.tolist() == pytest.approx([math.log(2) - 1])
    assert contrastive_loss(content, content - style, content, content + style) > best


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
def test_contrast_uses_the_designs_the_base_and_routing(base, prediction, monkeypatch):
    """The loss from a model and batches equals the equation on predictions made by hand, without any hook of ours."""
    monkeypatch.setattr(type(base), "prediction_type", prediction)
    ref, gen = (
        draw(base, [encoded(base, seed=s, words=w)], 1, generator(0, "x")) for s, w in ((0, "dog"), (7, "star"))
    )
    model = RoutedModel(base, STYLE_BLOCKS)
    with adapted(base, STYLE_BLOCKS, LORA, generator(0, "lora")) as adapter, torch.no_grad():
        randomise(adapter)
        found = contrast(model, ref, gen, generator(0, "loss"))
        rng = generator(0, "loss")
        t = draw_timesteps(base, 1, rng)
        noise = torch.randn(ref.design.shape, generator=rng)

        def eps(batch, style):
            z = base.add_noise(batch.design, noise, t)
            heard = dict.fromkeys(STYLE_BLOCKS, batch.c_emb) if style else {}
            output = base.predict(z, t, batch.c_des, batch.time_ids, per_block=heard)
            return base.to_epsilon(output, z, t)

        with_lora = [eps(batch, style) for batch in (ref, gen) for style in (False, True)]
        with base_only(base.unet):
            alone = [eps(batch, style) for batch in (ref, gen) for style in (False, True)]
    differences = [ours - base_s for ours, base_s in zip(with_lora, alone, strict=True)]
    assert float(found) == pytest.approx(float(contrastive_loss(*differences)), abs=1e-3)


def test_timesteps_without_signal_or_noise_are_never_drawn(base, monkeypatch):
    alphas = base.scheduler.alphas_cumprod.clone()
    alphas[:10], alphas[20:] = 1.0, 0.0
    monkeypatch.setattr(base.scheduler, "alphas_cumprod", alphas)
    drawn = draw_timesteps(base, 200, generator(0, "t"))
    assert set(drawn.tolist()) == set(range(10, 20))


# -- routing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("style", [False, True])
def test_which_block_hears_which_prompt(base, style):
    batch = draw(base, [encoded(base)], 2, generator(0, "x"))
    model = RoutedModel(base, STYLE_BLOCKS)
    heard, pooled, handles = {}, [], []
    for name, module in base.unet.named_modules():
        if isinstance(module, Transformer2DModel):

            def keep(_module, _args, kwargs, name=name):
                heard[name] = kwargs["encoder_hidden_states"]

            handles.append(module.transformer_blocks[0].register_forward_pre_hook(keep, with_kwargs=True))
    hook = base.unet.add_embedding.register_forward_pre_hook(lambda _m, args: pooled.append(args[0]))
    t = torch.tensor([10, 500])
    with torch.no_grad():
        routed = model.predict(batch.design, t, batch, style=style)
        for handle in (*handles, hook):
            handle.remove()
        plain = model.predict(batch.design, t, batch, style=False)
    assert set(heard) == set(base.attention_blocks)
    assert not torch.equal(batch.c_des.embeds, batch.c_emb.embeds)
    for name, embeds in heard.items():
        expected = batch.c_emb if style and name in STYLE_BLOCKS else batch.c_des
        assert torch.equal(embeds, expected.embeds), name
    assert torch.equal(pooled[0][:, : batch.c_des.pooled.shape[1]], batch.c_des.pooled)
    assert torch.equal(routed, plain) != style
    assert not any(module._forward_pre_hooks for module in base.unet.modules())


def test_the_tile_condition_acts_and_leaves_no_trace(base):
    batch = draw(base, [encoded(base, training=Training(tile=1.0))], 1, generator(0, "x"))
    t = torch.tensor([500])
    with torch.no_grad():
        with_tile = RoutedModel(base, STYLE_BLOCKS, controlnet_scale=1.0).predict(batch.design, t, batch, style=False)
        without = RoutedModel(base, STYLE_BLOCKS).predict(batch.design, t, batch, style=False)
        expected = base.unet(
            batch.design,
            t,
            encoder_hidden_states=batch.c_des.embeds,
            added_cond_kwargs={"text_embeds": batch.c_des.pooled, "time_ids": batch.time_ids},
            **dict(
                zip(
                    ("down_block_additional_residuals", "mid_block_additional_residual"),
                    RoutedModel(base, STYLE_BLOCKS, controlnet_scale=1.0).structure(
                        batch.design, t, batch, style=False
                    ),
                    strict=True,
                )
            ),
        ).sample
    assert torch.equal(with_tile, expected)
    assert not torch.allclose(with_tile, without, atol=1e-3)
    assert not base.unet._forward_pre_hooks


# -- the trainable sets -----------------------------------------------------------------------------------------------


def test_theta_a_and_theta_e_are_exactly_these(base):
    layers = [f"attn{i}.{p}" for i in (1, 2) for p in ("to_q", "to_k", "to_v", "to_out.0")]

    def names(blocks):
        return {
            f"{block}.transformer_blocks.0.{layer}.lora_{half}.weight"
            for block in blocks
            for layer in layers
            for half in "AB"
        }

    before = [name for name, _ in base.unet.named_modules()]
    with adapted(base, STYLE_BLOCKS, LORA, generator(0, "lora")) as adapter:
        assert len(base.attention_blocks) == 11
        assert adapter.theta_a.keys() == names(base.attention_blocks)
        assert adapter.theta_e.keys() == names(STYLE_BLOCKS)
        trainable = {n.replace(f".{NAME}", "") for n, p in base.unet.named_parameters() if ".lora_" in n}
        assert trainable == adapter.theta_a.keys()
        assert not any(p.requires_grad for p in base.unet.parameters())
        for chosen in (adapter.theta_e, adapter.theta_a):
            with updating(adapter, list(chosen.values())):
                wanting = {n.replace(f".{NAME}", "") for n, p in base.unet.named_parameters() if p.requires_grad}
                assert wanting == chosen.keys()
        assert {key.removeprefix("unet.") for key in adapter.style_tensors()} == adapter.theta_e.keys()
    assert [name for name, _ in base.unet.named_modules()] == before
    assert not any(p.requires_grad for p in base.unet.parameters())


def test_convolutions_beside_the_blocks(base):
    found = targets(base.unet, ["up_blocks.0.attentions.1", "mid_block.attentions.0"], convolutions=True)
    convolutions = {name for name in found if "resnets" in name}
    assert convolutions == {
        f"{resnet}.conv{i}" for resnet in ("up_blocks.0.resnets.1", "mid_block.resnets.0", "mid_block.resnets.1")
        for i in (1, 2)
    }  # fmt: skip
    assert len(found) == 2 * 8 + 6


def test_an_unmatched_target_raises(toy_base):
    attention = toy_base.unet.get_submodule("mid_block.attentions.0.transformer_blocks.0.attn2")
    attention.to_k = nn.Identity()
    with pytest.raises(BaseModelError, match=r"mid_block.*attn2\.to_k is Identity"):
        targets(toy_base.unet, toy_base.attention_blocks, convolutions=False)
    del attention.to_k
    lora = adapted(toy_base, STYLE_BLOCKS, LORA, generator(0, "lora"))
    with pytest.raises(BaseModelError, match=r"attn2\.to_k is not there"), lora:
        pass
    assert not getattr(toy_base.unet, "peft_config", None)


def test_the_lora_starts_without_effect_from_its_own_generator(base):
    batch = draw(base, [encoded(base)], 1, generator(0, "x"))
    model, t = RoutedModel(base, STYLE_BLOCKS), torch.tensor([300])
    state = torch.get_rng_state()
    with torch.no_grad():
        alone = model.predict(batch.design, t, batch, style=True)
        with adapted(base, STYLE_BLOCKS, LORA, generator(0, "lora")) as adapter:
            first = {key: value.clone() for key, value in adapter.theta_a.items()}
            assert torch.equal(model.predict(batch.design, t, batch, style=True), alone)
        with adapted(base, STYLE_BLOCKS, LORA, generator(0, "lora")) as adapter:
            assert all(torch.equal(value, first[key]) for key, value in adapter.theta_a.items())
    assert torch.equal(torch.get_rng_state(), state)


def test_parts_of_the_lora_can_be_switched_off(base):
    batch = draw(base, [encoded(base)], 1, generator(0, "x"))
    model, t = RoutedModel(base, STYLE_BLOCKS), torch.tensor([300])

    def predict():
        return model.predict(batch.design, t, batch, style=True)

    with torch.no_grad():
        alone = predict()
        with adapted(base, STYLE_BLOCKS, LORA, generator(0, "lora")) as adapter:
            randomise(adapter)
            everything = predict()
            with updating(adapter, list(adapter.theta_e.values())):
                with base_only(base.unet):
                    assert torch.equal(predict(), alone)
                assert sum(p.requires_grad for p in adapter.theta_a.values()) == len(adapter.theta_e)
            with style_only(adapter):
                style = predict()
            assert torch.equal(predict(), everything)
            for key, parameter in adapter.theta_a.items():
                if key not in adapter.theta_e:
                    parameter.data.zero_()
            assert torch.allclose(predict(), style, atol=1e-6)
    assert not torch.allclose(style, everything, atol=1e-3)
    assert not torch.allclose(style, alone, atol=1e-3)


# -- crops ------------------------------------------------------------------------------------------------------------


def test_crops_are_aligned_and_say_where_they_are(base):
    pair = encoded(base, size=(64, 48), crop=32, training=Training(tile=1.0))
    assert base.pixel_multiple == 16
    assert set(pair.places) == {(top, left) for top in (0, 16) for left in (0, 16, 32)}
    batch = crop(base, pair, [(16, 32), (0, 0)])
    assert batch.design.shape == (2, base.latent_channels, 8, 8)
    assert torch.equal(batch.design[0], pair.design[0, :, 4:12, 8:16])
    assert torch.equal(batch.embroidery[1], pair.embroidery[0, :, :8, :8])
    assert torch.equal(batch.condition[0], pair.condition[0, :, 16:48, 32:64])
    assert 0 <= batch.condition.min() < batch.condition.max() <= 1
    assert batch.time_ids.tolist() == [[48, 64, 16, 32, 32, 32], [48, 64, 0, 0, 32, 32]]
    both = join(batch, crop(base, pair, [(16, 0)]))
    assert len(both) == 3
    assert both.c_emb.embeds.shape[0] == both.condition.shape[0] == 3


def test_the_whole_picture_is_one_crop(base):
    pair = encoded(base, size=(64, 48))
    assert pair.places == ((0, 0),)
    batch = draw(base, [pair], 1, generator(0, "x"))
    assert torch.equal(batch.design, pair.design)
    assert batch.time_ids.tolist() == [[48, 64, 0, 0, 48, 64]]


def test_crops_are_drawn_where_the_stitches_are():
    mask = np.zeros((64, 128), np.uint8)
    mask[16:48, 80:112] = 255
    places = find_places(Image.fromarray(mask), (64, 128), (32, 32), 16)
    assert places[0] == (16, 80)
    assert set(places) == {(16, 80), (0, 80), (32, 80), (16, 64), (16, 96)}
    assert len(find_places(Image.fromarray(0 * mask), (64, 128), (32, 32), 16)) == 3 * 7


# -- stages and loop --------------------------------------------------------------------------------------------------


def go(adapter, steps, stage, checkpoint, *, name="one", seed=0, every=60.0, curves=None):
    """The loop over a few steps."""
    curves = {} if curves is None else curves
    return train(name, adapter, steps, stage, seed=seed, checkpoint=checkpoint, every_seconds=every, curves=curves)


def run(base, folder, *, iterations, stop=None, stage="one", seed=3):
    """Train a stage; stop after that many records. Returns parameters and curves."""
    ref, gens = encoded(base), [encoded(base, seed=9, words="star"), encoded(base, seed=11, words="flower")]
    model = RoutedModel(base, STYLE_BLOCKS)
    curves = {}
    with adapted(base, STYLE_BLOCKS, LORA, generator(seed, "lora")) as adapter:
        if stage == "one":
            steps, numbers = stage_one(model, [ref], 1), Stage(iterations, 1e-2)
        else:
            numbers = StageTwo(iterations, 1e-2, contrastive_weight=0.5)
            steps = stage_two(model, [ref], gens, numbers)
        records = train(
            f"stage {stage}",
            adapter,
            steps,
            numbers,
            seed=seed,
            checkpoint=folder / "state.safetensors",
            every_seconds=0,
            curves=curves,
        )
        for count, record in enumerate(records):
            assert record.total == iterations
            if count + 1 == stop:
                records.close()
        return {key: value.detach().clone() for key, value in adapter.theta_a.items()}, curves


@pytest.mark.parametrize(("stage", "losses"), [
    ("one", {"L_des", "L_emb"}),
    ("two", {"L_des", "L_des generated", "L_emb", "L_emb generated", "L_con"}),
])  # fmt: skip
def test_an_interrupted_stage_ends_the_same_bit_for_bit(base, tmp_path, stage, losses):
    folders = [tmp_path / name for name in ("whole", "parts")]
    for folder in folders:
        folder.mkdir()
    whole, curves = run(base, folders[0], iterations=3, stage=stage)
    assert curves.keys() == losses
    assert all(len(values) == 3 and all(map(math.isfinite, values)) for values in curves.values())
    for stop in (2, None):
        parts, again = run(base, folders[1], iterations=3, stage=stage, stop=stop)
    assert all(torch.equal(whole[key], parts[key]) for key in whole)
    assert again == curves


def test_step_two_updates_theta_e_only_and_step_one_all(base, tmp_path):
    pair, model = encoded(base), RoutedModel(base, STYLE_BLOCKS)
    for number, expected in ((0, "theta_a"), (1, "theta_e")):
        with adapted(base, STYLE_BLOCKS, LORA, generator(0, "lora")) as adapter:
            before = {key: value.detach().clone() for key, value in adapter.theta_a.items()}
            step = stage_one(model, [pair], 2)[number]
            list(
                train(
                    "one",
                    adapter,
                    [step],
                    Stage(2, 1e-2),
                    seed=0,
                    checkpoint=tmp_path / expected,
                    every_seconds=60,
                    curves={},
                )
            )
            changed = {key for key, value in adapter.theta_a.items() if not torch.equal(value, before[key])}
            assert changed == getattr(adapter, expected).keys()


def test_losses_are_weighed(base, tmp_path):
    """Two losses on one parameter: the optimiser sees their weighted sum."""
    with adapted(base, STYLE_BLOCKS, LORA, generator(0, "lora")) as adapter:
        parameter = next(iter(adapter.theta_e.values()))
        start = parameter.detach().clone()

        def losses(_generator):
            return {"up": -parameter.sum(), "down": parameter.sum()}

        def moved(weights, name):
            parameter.data.copy_(start)
            step = Step("theta_e", losses, weights)
            one = train(
                name, adapter, [step], Stage(1, 0.1), seed=0, checkpoint=tmp_path / name, every_seconds=60, curves={}
            )
            list(one)
            return float((parameter - start).detach().mean())

        assert moved({}, "balanced") == 0
        assert moved({"down": 0.5}, "rising") == pytest.approx(0.1, rel=1e-4)
        assert moved({"up": 0.1}, "falling") == pytest.approx(-0.1, rel=1e-4)


def test_a_loss_that_is_not_finite_stops_with_the_reason(base, tmp_path):
    with adapted(base, STYLE_BLOCKS, LORA, generator(0, "lora")) as adapter:
        parameter = next(iter(adapter.theta_e.values()))
        step = Step("theta_e", lambda _: {"L_emb": parameter.sum() * math.nan})
        with pytest.raises(TambourError, match="L_emb became nan in iteration 1 of one"):
            list(
                train(
                    "one",
                    adapter,
                    [step],
                    Stage(1, 0.1),
                    seed=0,
                    checkpoint=tmp_path / "s",
                    every_seconds=60,
                    curves={},
                )
            )
        assert torch.isfinite(parameter).all()


def test_training_learns_the_pair(base, tmp_path):
    """The losses at fixed draws fall."""
    pair, model = encoded(base), RoutedModel(base, STYLE_BLOCKS)

    def losses():
        with torch.no_grad():
            batch = draw(base, [pair], 8, generator(0, "batch"))
            return [float(denoising(model, batch, generator(1, "t"), style=style).mean()) for style in (False, True)]

    with adapted(base, STYLE_BLOCKS, LORA, generator(0, "lora")) as adapter:
        before = losses()
        list(go(adapter, stage_one(model, [pair], 1), Stage(12, 2e-2), tmp_path / "s"))
        after = losses()
    assert after[0] < before[0]
    assert after[1] < before[1]


# -- what is not computed ---------------------------------------------------------------------------------------------


def test_frozen_weights_cost_no_gradients(base):
    """In a backward pass the only convolutions and products that want a weight's gradient are the LoRA's."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Asked(TorchDispatchMode):
        def __init__(self):
            super().__init__()
            self.shapes = []

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func is torch.ops.aten.convolution_backward.default and args[-1][1]:  # (input, weight, bias)
                self.shapes.append(tuple(args[2].shape))
            return func(*args, **(kwargs or {}))

    blocks = base.attention_blocks[-2:]
    t, latents = torch.tensor([500]), torch.zeros(1, base.latent_channels, 16, 16)
    prompt, ids = base.encode_prompt(["a dog"]), base.time_ids(64, 64)
    with adapted(base, blocks, Lora(rank=2, alpha=2.0, convolutions=True), generator(0, "lora")) as adapter:
        own = [tuple(p.shape) for p in adapter.theta_e.values() if p.dim() == 4]
        with updating(adapter, list(adapter.theta_e.values())), Asked() as asked:
            base.predict(latents, t, prompt, ids).square().sum().backward()
        assert sorted(asked.shapes) == sorted(own) and own
        frozen = [p for name, p in base.unet.named_parameters() if ".lora_" not in name]
        assert all(p.grad is None and not p.requires_grad for p in frozen)
        outside = [p for name, p in adapter.theta_a.items() if name not in adapter.theta_e]
        assert outside and all(p.grad is None for p in outside)

"""The rivals' own mathematics, on toy bases."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch import nn

from tambour.base import generator, load
from tambour.bench.cases import Pairing, Target
from tambour.bench.methods import classical, guided, pair
from tambour.bench.methods.task import Task
from tambour.config import Analysis, Edges, Lora, Recipe, Sampling, Stage, StageTwo, Training
from tambour.errors import BaseModelError

SIDE = 64
RECIPE = Recipe(
    resolution=SIDE,
    crop=SIDE,
    lora=Lora(rank=2, alpha=2.0),
    analysis=Analysis(steps=3),
    training=Training(tile=1.0),
    stage_one=Stage(2, 1e-2),
    stage_two=StageTwo(0, 1e-2),
    sampling=Sampling(size=SIDE, steps=2, guidance_scale=1.0, firm=Edges(strength=0.9, correct_colours=False)),
)


def _patch(colour: tuple[int, int, int], box: tuple[int, int, int, int]) -> Image.Image:
    image = Image.new("RGBA", (SIDE, SIDE))
    ImageDraw.Draw(image).ellipse(box, fill=(*colour, 255))
    return image


@pytest.fixture(scope="module")
def pairing() -> Pairing:
    """A disc of red stripes on grey, and a blue disc to be shown like it."""
    design = _patch((200, 40, 40), (6, 6, 58, 58))
    mask = np.asarray(design)[..., 3] > 127
    stripes = np.full((SIDE, SIDE, 3), 180, np.uint8)
    light = 140 + 80 * (np.indices((SIDE, SIDE))[1] // 4 % 2)
    stripes[mask] = (np.stack([light, light // 5, light // 5], -1))[mask]
    target = Target("disc", _patch((40, 60, 200), (10, 14, 60, 54)))
    return Pairing(
        "stripes", "test", design, Image.fromarray(stripes), mask, "disc", (180, 180, 180), "firm", (target,)
    )


def finish(work):
    while True:
        try:
            next(work)
        except StopIteration as end:
            return end.value


# -- PairCustomization ------------------------------------------------------------------------------------------------


def test_content_and_style_cannot_say_the_same(toy_base):
    with pair.two_loras(toy_base, RECIPE.lora, generator(0, "lora")) as adapter:
        for name in pair.targets_of(adapter):
            layer = toy_base.unet.get_submodule(name)
            rows = torch.cat([layer.lora_A[kind].weight.flatten(1) for kind in (pair.CONTENT, pair.STYLE)])
            assert torch.allclose(rows @ rows.T, torch.eye(len(rows)), atol=1e-5)
        assert len(adapter.theta_a) == 2 * len(adapter.theta_e)
    assert not getattr(toy_base.unet, "peft_config", None)
    with pytest.raises(BaseModelError, match="inputs"), pair.two_loras(toy_base, Lora(rank=64), generator(0, "lora")):
        pass
    assert not getattr(toy_base.unet, "peft_config", None)


def test_the_styles_lora_learns_nothing_from_the_design(toy_base, pairing, tmp_path):
    """In the content's step the style counts nothing, so no gradient reaches it."""
    with pair.two_loras(toy_base, RECIPE.lora, generator(0, "lora")) as adapter:
        for parameter in adapter.theta_a.values():
            parameter.requires_grad_(True)
        z = torch.randn(1, toy_base.latent_channels, 16, 16, generator=torch.Generator().manual_seed(0))
        prompt, ids = toy_base.encode_prompt(["a dog"]), toy_base.time_ids(SIDE, SIDE)
        with pair.content_alone(toy_base.unet):
            toy_base.predict(z, 500, prompt, ids).square().mean().backward()
        assert all(not p.grad.any() for p in adapter.theta_e.values())
        content = [p for key, p in adapter.theta_a.items() if key not in adapter.theta_e]
        assert any(p.grad.any() for p in content)


def test_style_guidance_is_between_the_base_and_the_style(toy_base):
    unet = toy_base.unet
    z = torch.randn(2, toy_base.latent_channels, 16, 16, generator=torch.Generator().manual_seed(0))
    both, plain = toy_base.encode_prompt(["", "a dog in [emb] style"]), toy_base.encode_prompt(["a dog"])
    kwargs = dict(return_dict=False)

    def ask() -> torch.Tensor:
        added = {"text_embeds": both.pooled, "time_ids": toy_base.time_ids(SIDE, SIDE).expand(2, -1)}
        with torch.no_grad():
            return unet(z, 500, encoder_hidden_states=both.embeds, added_cond_kwargs=added, **kwargs)[0]

    with pair.two_loras(toy_base, RECIPE.lora, generator(0, "lora")) as adapter:
        for parameter in adapter.theta_a.values():
            nn.init.normal_(parameter, std=0.5)
        styled = ask()
        weighted = {}
        for weight in (0.0, 1.0, 2.0):
            with pair.style_guidance(unet, plain, weight):
                weighted[weight] = ask()
        again = ask()
    assert torch.equal(styled, again)
    assert torch.allclose(weighted[1.0][1:], styled[1:], atol=1e-5)
    assert torch.allclose(weighted[2.0] - weighted[1.0], weighted[1.0] - weighted[0.0], atol=1e-4)
    assert torch.equal(weighted[0.0][:1], weighted[2.0][:1])  # the negative's row knows no style
    assert not torch.allclose(weighted[0.0][1:], styled[1:], atol=1e-3)


# -- StyleID ----------------------------------------------------------------------------------------------------------


def test_injection_leaves_content_and_style_alone_and_is_undone(toy_base):
    z = torch.randn(3, toy_base.latent_channels, 16, 16, generator=torch.Generator().manual_seed(0))
    prompt, ids = toy_base.encode_prompt([""]), toy_base.time_ids(SIDE, SIDE)
    with torch.no_grad():
        before = toy_base.predict(z, 300, prompt, ids)
        with guided.injected(toy_base):
            mixed = toy_base.predict(z, 300, prompt, ids)
        after = toy_base.predict(z, 300, prompt, ids)
    assert torch.allclose(mixed[:2], before[:2], atol=1e-4)
    assert not torch.allclose(mixed[2], before[2], atol=1e-4)
    assert torch.equal(before, after)


def test_adain_takes_the_other_ones_moments():
    x, y = torch.randn(1, 4, 8, 8), 3 * torch.randn(1, 4, 8, 8) + 2
    moved = guided.adain(x, y)
    assert torch.allclose(moved.mean((2, 3)), y.mean((2, 3)), atol=1e-3)
    assert torch.allclose(moved.std((2, 3)), y.std((2, 3)), rtol=1e-2)


# -- RB-Modulation, InstantStyle --------------------------------------------------------------------------------------


def test_the_controller_nears_the_style_and_the_run_ends(toy_base, pairing, tmp_path):
    torch.manual_seed(0)
    network = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 8)).requires_grad_(False)
    wanted = network(torch.rand(1, 3, SIDE, SIDE))
    x0 = torch.randn(1, toy_base.latent_channels, 16, 16)

    def near(z: torch.Tensor) -> float:
        return float(torch.cosine_similarity(network(toy_base.decode(z)), wanted))

    assert near(guided.controlled(toy_base, x0, wanted, network, 0.1)) > near(x0)
    task = Task(pairing, toy_base, RECIPE, 0, tmp_path)
    assert finish(guided.rb_modulation(task, network, pairing.targets[0])).size == (SIDE, SIDE)


def test_instant_style_hears_the_picture_in_its_block_alone(toy_sdxl, pairing, tmp_path):
    base = load(toy_sdxl)
    task = Task(pairing, base, RECIPE, 0, tmp_path)
    torch.manual_seed(0)
    width, tokens, embedding = base.unet.config.cross_attention_dim, 4, 16
    adapter, own = {}, base.unet.attn_processors
    for number, name in enumerate(own):
        if name.endswith("attn2.processor"):
            hidden = base.unet.get_submodule(name.removesuffix(".processor")).to_q.out_features
            for half in "kv":
                adapter[f"{number}.to_{half}_ip.weight"] = torch.randn(hidden, width)
    projection = {
        "proj.weight": torch.randn(tokens * width, embedding),
        "proj.bias": torch.zeros(tokens * width),
        "norm.weight": torch.ones(width),
        "norm.bias": torch.zeros(width),
    }
    weights = dict(
        pretrained_model_name_or_path_or_dict={"image_proj": projection, "ip_adapter": adapter},
        subfolder="",
        weight_name="",
        image_encoder_folder=None,
    )

    def drawn(value: float) -> np.ndarray:
        kwargs = {"ip_adapter_image_embeds": [torch.full((1, 1, embedding), value)]}
        return np.asarray(finish(guided.prompted_by_image(task, pairing.targets[0], weights, kwargs)))

    first, same, other = drawn(1.0), drawn(1.0), drawn(-1.0)
    assert np.array_equal(first, same) and not np.array_equal(first, other)
    assert {type(p) for p in base.unet.attn_processors.values()} == {type(p) for p in own.values()}
    assert guided._not_sdxl(base) and guided._no_descriptor(base)


# -- without a model --------------------------------------------------------------------------------------------------


def test_both_classical_rivals_bring_the_relief_over(pairing, tmp_path):
    task = Task(pairing, None, RECIPE, 0, tmp_path)
    (target,) = pairing.targets
    inside = np.asarray(target.design)[..., 3] > 127
    relief, _ = classical.relief_of(task)
    for method in (classical.analogies, classical.optimal_transport):
        result = np.asarray(finish(method(task, None, target)), np.float32)
        flat = np.asarray(task.flat(target), np.float32)
        deviation = (result - flat)[inside].mean(1).std()
        assert deviation > 0.3 * relief[pairing.mask].std(), method.__name__
        hue = np.median(result[inside], 0)
        assert hue.argmax() == 2, "the colour is the new design's, not the reference's"


def test_transport_moves_one_distribution_onto_another():
    rng = np.random.default_rng(0)
    values, wanted = rng.normal(0, 1, 5000), rng.gamma(2, 3, 4000)
    moved = classical.transport(values, wanted)
    assert np.allclose(np.quantile(moved, (0.1, 0.5, 0.9)), np.quantile(wanted, (0.1, 0.5, 0.9)), rtol=0.05)
    assert (np.diff(moved[np.argsort(values)]) >= 0).all()


def test_the_style_descriptors_names_are_all_understood():
    from transformers import CLIPVisionConfig, CLIPVisionModel

    from tambour.bench.perceptual import StyleDescriptor, renamed

    config = CLIPVisionConfig(
        hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14
    )
    backbone = CLIPVisionModel(config).eval()
    layer = "backbone.transformer.resblocks.0"
    state = {f"{layer}.{n}.{k}": torch.zeros(1) for n in ("ln_1", "ln_2", "mlp.c_fc", "mlp.c_proj", "attn.out_proj")
             for k in ("weight", "bias")}  # fmt: skip
    state |= {f"{layer}.attn.in_proj_{kind}": torch.zeros(24) for kind in ("weight", "bias")}
    state |= {f"backbone.{n}": torch.zeros(1) for n in ("class_embedding", "positional_embedding", "conv1.weight")}
    state |= {f"backbone.{n}.{k}": torch.zeros(1) for n in ("ln_pre", "ln_post") for k in ("weight", "bias")}
    known = {key for key in backbone.state_dict() if not key.endswith("position_ids")}
    assert set(renamed(state)) == known
    descriptors = StyleDescriptor(backbone, torch.randn(8, 4), torch.randn(8, 4))(torch.rand(2, 3, 20, 20))
    assert torch.allclose(descriptors.norm(dim=1), torch.ones(2), atol=1e-5)

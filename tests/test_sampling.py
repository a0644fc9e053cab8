"""The sampler: diffusers' pipelines are its reference; batches, windows and tiles change nothing but the cost."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import ControlNetUnionModel
from PIL import Image

from tambour.base import Base, generator, load, model
from tambour.base.sharing import remembered
from tambour.base.tiles import blended, places, ramp
from tambour.drawing import sampler as sampling
from tambour.drawing.sampler import Condition, sample, windowed
from tambour.progress import finished

CLOSE = 1e-5  # sums in another order


@pytest.fixture(params=["toy", "toy_sdxl"])
def base(request: pytest.FixtureRequest) -> Base:
    return load(request.getfixturevalue(request.param))


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=generator(seed, "picture"))


def drawn(base: Base, seeds: tuple[int, ...] = (3,), guidance: float = 4.0, **more) -> torch.Tensor:
    """Pictures of 64 px under both conditions, a start and conditions for each seed."""
    size = more.pop("size", (64, 64))
    pictures = [noise(1, 3, *size, seed=seed) for seed in seeds]
    conditions = {
        kind: Condition(torch.cat([(picture * (1 + number)) % 1 for picture in pictures]), scale)
        for number, (kind, scale) in enumerate((("tile", 0.5), ("canny", 0.8)))
    }
    return finished(
        sample(
            base,
            base.encode_prompt(["a dog"]),
            negative=base.encode_prompt(["a star"]),
            size=size,
            generators=[generator(seed, "apply") for seed in seeds],
            steps=3,
            start=2 * torch.cat(pictures) - 1,
            strength=0.9,
            conditions=conditions,
            guidance_scale=guidance,
            **more,
        )
    )


def pipelined(base: Base, kinds: tuple[str, ...] = ("tile", "canny"), seed: int = 3, guidance: float = 4.0):
    """The same by diffusers' own pipeline."""
    picture = noise(1, 3, 64, 64, seed=seed)
    conditions = {"tile": picture, "canny": (2 * picture) % 1}
    return base.image_pipeline(kinds)(
        "a dog",
        negative_prompt="a star",
        image=picture,
        control_image=[conditions[kind] for kind in kinds],
        controlnet_conditioning_scale=[{"tile": 0.5, "canny": 0.8}[kind] for kind in kinds],
        strength=0.9,
        num_inference_steps=3,
        guidance_scale=guidance,
        generator=generator(seed, "apply"),
        output_type="pt",
    ).images


# -- the reference ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_it_is_diffusers_pipeline(base: Base, guidance: float) -> None:
    ours, theirs = drawn(base, guidance=guidance), 2 * pipelined(base, guidance=guidance) - 1
    assert (ours - theirs).abs().max() < CLOSE
    assert ours.std() > 0.01


def test_words_alone_are_diffusers_pipeline(base: Base) -> None:
    words = base.encode_prompt(["a dog"]), base.encode_prompt(["a star"])
    run = sample(
        base, words[0], negative=words[1], guidance_scale=3.0, size=(64, 48), steps=3, generators=[generator(1, "x")]
    )
    pipeline = base.text_pipeline()
    theirs = pipeline(
        "a dog", negative_prompt="a star", guidance_scale=3.0, height=64, width=48, num_inference_steps=3,
        generator=generator(1, "x"), output_type="pt",
    ).images  # fmt: skip
    assert (finished(run) - (2 * theirs - 1)).abs().max() < CLOSE


def test_a_union_controlnet_is_diffusers_pipeline(toy_sdxl: Path) -> None:
    base = load(toy_sdxl)
    shape = {key: value for key, value in base.controlnets["tile"].config.items() if key[0] != "_"}
    shape.pop("mid_block_type")
    trans = dict(num_control_type=8, num_trans_channel=8, num_trans_head=2, num_proj_channel=8)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        union = ControlNetUnionModel.from_config(shape | trans).eval().requires_grad_(False)
        outputs = [union.controlnet_cond_embedding.conv_out, union.spatial_ch_projs, union.controlnet_mid_block]
        for module in (*outputs, *union.controlnet_down_blocks):
            torch.nn.init.normal_(module.weight, std=0.2)
    base = dataclasses.replace(base, controlnets={"union": union})
    assert (drawn(base) - (2 * pipelined(base) - 1)).abs().max() < CLOSE


# -- batches ----------------------------------------------------------------------------------------------------------


def test_pictures_of_a_batch_are_drawn_as_alone(base: Base) -> None:
    together = drawn(base, (3, 4, 5))
    alone = torch.cat([drawn(base, (seed,)) for seed in (3, 4, 5)])
    assert (together - alone).abs().max() < CLOSE
    assert (together[0] - together[1]).abs().max() > 0.01


def test_what_is_kept_stays(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Base, "decode", lambda _, latents: latents)
    same = base.encode_image(2 * noise(1, 3, 64, 64, seed=3) - 1, generator(3, "apply"))
    kept, middle = torch.zeros(1, 1, 64, 64), same.shape[-1] // 2
    free = drawn(base)
    assert torch.equal(free, drawn(base, keep_mask=kept)) and (free - same).abs().min() > 0
    kept[..., 32:] = 1
    half = drawn(base, keep_mask=kept)
    assert torch.equal(half[..., middle:], same[..., middle:])
    assert (half - same)[..., :middle].abs().mean() > 0.1


# -- what is computed once --------------------------------------------------------------------------------------------


def test_what_no_step_changes_is_computed_once(base: Base) -> None:
    calls, rows = [], []
    tile = base.controlnets["tile"]
    handles = [
        tile.controlnet_cond_embedding.conv_in.register_forward_hook(lambda *_: calls.append(1)),
        tile.conv_in.register_forward_pre_hook(lambda _m, args: rows.append(len(args[0]))),
    ]
    drawn(base, (3, 4))
    for handle in handles:
        handle.remove()
    hears = base.text_encoder is not None  # of these two toys, SDXL's ControlNets hear the prompt
    assert sampling.hears_text(tile) == hears
    assert len(calls) == 1
    assert rows == [4, 4] if hears else [2, 2]


def test_remembering_is_by_object_and_ends() -> None:
    layer, memory = torch.nn.Linear(2, 2).requires_grad_(False), {}
    calls = []
    layer.register_forward_hook(lambda *_: calls.append(1))
    x, y = noise(1, 2), noise(1, 2, seed=1)
    with remembered([layer], memory):
        first = layer(x)
        assert layer(x) is first and not torch.equal(layer(y), first)
    assert "forward" not in layer.__dict__ and len(memory) == 2
    assert torch.equal(layer(x), first)


# -- large pictures ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "tile"), [((40, 64), (40, 24)), ((17, 90), (17, 20)), ((64, 64), (64, 64))])
def test_tiles_cover_and_blend_without_a_trace(size: tuple[int, int], tile: tuple[int, int]) -> None:
    whole = noise(2, 3, *size)
    corners = places(*size, tile, 0.25)
    assert corners[0] == (0, 0) and corners[-1] == (size[0] - tile[0], size[1] - tile[1])
    assert len(set(corners)) == len(corners)
    again = blended(
        corners, size, tile, 0.25, lambda _n, at: whole[..., at[0] : at[0] + tile[0], at[1] : at[1] + tile[1]]
    )
    torch.testing.assert_close(again, whole)
    assert (ramp(tile, 0.25, whole) > 0).all() and ramp(tile, 0.25, whole).max() == 1


def test_large_pictures_are_drawn_in_windows_of_the_native_size(base: Base) -> None:
    seen = []
    handle = base.unet.register_forward_pre_hook(
        lambda _m, args, kw: seen.append((args[0].shape[-2:], kw["added_cond_kwargs"]["time_ids"][0].tolist())),
        with_kwargs=True,
    )
    side, f = base.native, base.vae_factor
    picture = drawn(base, size=(side, 2 * side), guidance=1.0)
    again = drawn(base, size=(side, 2 * side), guidance=1.0)
    handle.remove()
    assert windowed(base, (side, 2 * side)) and not windowed(base, (side, side * 3 // 2))
    assert picture.shape == (1, 3, side, 2 * side) and torch.equal(picture, again)
    assert {tuple(shape) for shape, _ in seen} == {(side // f, side // f)}
    assert len(seen) == 2 * 2 * 3  # both runs, two steps, three windows
    assert [ids[:4] for _, ids in seen[:3]] == [
        [side, 2 * side, 0, left] for left in (0, round(side / f / 2) * f, side)
    ]


def test_the_autoencoder_works_in_tiles_on_large_pictures(toy_base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = 2 * noise(1, 3, 96, 160) - 1
    whole = toy_base.encode_image(picture)
    shown = toy_base.decode(whole)
    monkeypatch.setattr(model, "LARGE", 100)
    monkeypatch.setattr(model, "TILE", 64)
    sizes = []
    handle = toy_base.vae.decoder.register_forward_pre_hook(lambda _m, args: sizes.append(args[0].shape[-2:]))
    tiled = toy_base.encode_image(picture)
    image = toy_base.decode(whole)
    handle.remove()
    assert tiled.shape == whole.shape and set(sizes) == {(16, 16)} and len(sizes) == 2 * 3
    inner = (..., slice(2, -2), slice(2, 10))
    assert (tiled - whole)[inner].abs().max() < 0.3 * whole.std()
    assert (image - shown).abs().mean() < 0.1 * shown.std()


def test_a_variational_encoder_in_tiles_draws_once(toy_sdxl: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = load(toy_sdxl)
    monkeypatch.setattr(model, "LARGE", 100)
    picture = 2 * noise(1, 3, 64, 128) - 1
    assert torch.equal(base.encode_image(picture, generator(1, "x")), base.encode_image(picture, generator(1, "x")))
    assert base.encode_image(picture).shape == (1, 4, 8, 16)


def test_what_overflows_in_half_precision_is_decoded_again(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = load(toy, dtype="float16")
    decode, used = base.vae.decode, []

    def overflowing(latents: torch.Tensor, **settings):
        used.append(latents.dtype)
        answer = decode(latents, **settings)
        if latents.dtype == torch.float16:
            answer.sample[:] = torch.nan
        return answer

    monkeypatch.setattr(base.vae, "decode", overflowing)
    picture = base.decode(noise(1, base.latent_channels, 16, 16))
    assert picture.isfinite().all() and picture.dtype == torch.float16
    assert used == [torch.float16, torch.float32] and base.vae.dtype == torch.float16


class Part:
    """A network that only has a place."""

    device = torch.device("cpu")

    def parameters(self):
        return iter([self])

    def to(self, where):
        self.device = torch.device(where)


def test_parts_that_wait_elsewhere_are_fetched_for_as_long_as_they_work(toy_base: Base) -> None:
    gpu = torch.device("cuda")
    base = dataclasses.replace(toy_base, device=gpu, offloaded=True)
    one, other = Part(), Part()
    with base.on_device(one):
        with pytest.raises(ZeroDivisionError), base.on_device(one, other):  # the first one is there already
            assert one.device == other.device == gpu
            raise ZeroDivisionError
        assert one.device == gpu and other.device.type == "cpu"
    assert one.device.type == "cpu"
    with dataclasses.replace(base, offloaded=False).on_device(one):
        assert one.device.type == "cpu"


def test_offloaded_is_the_same_result(toy_sdxl: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The UNet never leaves, ControlNets come for drawing, text encoders and autoencoder for their own work."""
    base, there = load(toy_sdxl, offloaded=True), load(toy_sdxl)
    asked, on_device = [], Base.on_device

    def noted(self, *networks):
        asked.append({type(net).__name__ for net in networks})
        return on_device(self, *networks)

    monkeypatch.setattr(Base, "on_device", noted)
    assert (drawn(base) - drawn(there)).abs().max() < CLOSE
    half = asked[: len(asked) // 2]
    assert half == [
        *[{"CLIPTextModel", "CLIPTextModelWithProjection"}] * 2,
        {"AutoencoderKL"},
        {"ControlNetModel"},
        {"AutoencoderKL"},
    ]


def test_a_batch_of_designs_is_drawn_as_each(toy_base: Base) -> None:
    from test_apply import complete, design, finish
    from workflow_calls import apply

    style = complete(toy_base)
    designs = [design(0), design(1), design(2, (64, 48)), design(3, (64, 48))]
    alone = finish(apply(style, designs, base=toy_base, samples=2))
    together = finish(apply(style, designs, base=toy_base, samples=2, batch=3))
    assert [(r.seed, r.design_index) for r in alone] == [(r.seed, r.design_index) for r in together]
    for one, other in zip(alone, together, strict=True):
        a, b = (np.asarray(picture.image).astype(int) for picture in (one, other))
        assert isinstance(one.image, Image.Image) and np.abs(a - b).max() <= 1

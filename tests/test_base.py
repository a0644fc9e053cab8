"""The base contract, on toy bases in mini's and SDXL's shape."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tambour.base import Base, generator, load
from tambour.base.toy import make_toy
from tambour.errors import BaseModelError

BLOCKS = (
    "down_blocks.1.attentions.0",
    "down_blocks.1.attentions.1",
    "down_blocks.2.attentions.0",
    "down_blocks.2.attentions.1",
    "mid_block.attentions.0",
    "up_blocks.0.attentions.0",
    "up_blocks.0.attentions.1",
    "up_blocks.0.attentions.2",
    "up_blocks.1.attentions.0",
    "up_blocks.1.attentions.1",
    "up_blocks.1.attentions.2",
)


@pytest.fixture(params=["mini", "sdxl"])
def folder(request: pytest.FixtureRequest, toy: Path, toy_sdxl: Path) -> Path:
    return toy if request.param == "mini" else toy_sdxl


@pytest.fixture
def base(folder: Path) -> Base:
    return load(folder)


@pytest.fixture
def broken(toy: Path, tmp_path: Path) -> Path:
    """A copy of the toy that a test may break."""
    return Path(shutil.copytree(toy, tmp_path / "broken"))


def noise(*shape: int, purpose: str = "test") -> torch.Tensor:
    return torch.randn(shape, generator=generator(0, purpose))


def test_the_eleven_attention_blocks_in_order(base: Base) -> None:
    assert base.attention_blocks == BLOCKS


def test_shapes(base: Base) -> None:
    f, c = base.vae_factor, base.latent_channels
    latents = base.encode_image(torch.zeros(2, 3, 64, 96), generator(0, "encode"))
    assert latents.shape == (2, c, 64 // f, 96 // f)
    assert base.decode(latents).shape == (2, 3, 64, 96)
    prompt = base.encode_prompt(["a star"])
    assert base.predict(latents, 500, prompt, base.time_ids(64, 96)).shape == latents.shape
    assert base.pixel_multiple == 4 * f
    assert not any(p.requires_grad for p in base.unet.parameters())


def test_prompts_are_encoded_as_diffusers_does(base: Base) -> None:
    texts = ["a dog in [emb] style", "a red star"]
    ours = base.encode_prompt(texts)
    embeds, _, pooled, _ = base.text_pipeline().encode_prompt(texts, do_classifier_free_guidance=False)
    assert torch.equal(ours.embeds, embeds)
    assert torch.equal(ours.pooled, pooled)
    alone = base.encode_prompt(texts[1:])
    torch.testing.assert_close(alone.embeds, ours.embeds[1:])


def test_encoding_matches_what_the_image_pipeline_starts_from(base: Base) -> None:
    pipeline = base.image_pipeline(("tile",))
    image = noise(1, 3, 64, 64).clamp(-1, 1)
    theirs = pipeline.prepare_latents(
        image, None, 1, 1, torch.float32, torch.device("cpu"), generator(3, "encode"), add_noise=False
    )
    assert torch.equal(base.encode_image(image, generator(3, "encode")), theirs)


def test_noising_matches_the_scheduler(toy_base: Base) -> None:
    latents, eps = noise(2, 8, 16, 16), noise(2, 8, 16, 16, purpose="eps")
    t = torch.tensor([10, 900])
    torch.testing.assert_close(toy_base.add_noise(latents, eps, t), toy_base.scheduler.add_noise(latents, eps, t))


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
def test_every_target_converts_to_noise_and_to_x0(tmp_path: Path, prediction: str) -> None:
    base = load(make_toy(tmp_path / "toy", prediction=prediction), controlnets=())
    z0, eps = noise(2, 8, 16, 16), noise(2, 8, 16, 16, purpose="eps")
    t = torch.tensor([200, 700])
    zt = base.add_noise(z0, eps, t)
    a = base.scheduler.alphas_cumprod[t].sqrt().view(-1, 1, 1, 1)
    s = (1 - a**2).sqrt()
    target = {"epsilon": eps, "sample": z0, "v_prediction": a * eps - s * z0}[prediction]
    torch.testing.assert_close(base.to_epsilon(target, zt, t), eps, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(base.to_x0(target, zt, t), z0, atol=1e-4, rtol=1e-4)


def test_a_block_can_hear_another_prompt(toy_base: Base) -> None:
    latents, ids = noise(2, 8, 16, 16), toy_base.time_ids(64, 64)
    one, other = toy_base.encode_prompt(["a dog"]), toy_base.encode_prompt(["a star"])
    heard = toy_base.predict(latents, 500, one, ids)
    routed = toy_base.predict(latents, 500, one, ids, per_block={BLOCKS[6]: other})
    assert not torch.equal(heard, routed)
    assert torch.equal(heard, toy_base.predict(latents, 500, one, ids))  # nothing stays behind
    everywhere = toy_base.predict(latents, 500, one, ids, per_block=dict.fromkeys(BLOCKS, other))
    pooled = type(one)(other.embeds, one.pooled)
    assert torch.equal(everywhere, toy_base.predict(latents, 500, pooled, ids))


def test_a_controlnet_is_heard(base: Base) -> None:
    from PIL import Image

    pipeline = base.image_pipeline(("tile", "canny"))
    pictures = []
    for colour in ("red", "green"):
        picture = pipeline(
            "a star",
            image=Image.new("RGB", (64, 64)),
            control_image=[Image.new("RGB", (64, 64), colour)] * 2,
            controlnet_conditioning_scale=[0.5, 0.5],
            num_inference_steps=2,
            guidance_scale=1.0,
            generator=generator(0, "control"),
            output_type="pt",
        ).images
        pictures.append(picture)
    assert not torch.equal(*pictures)


def test_room_for_tokens(toy_base: Base) -> None:
    assert toy_base.token_room("a dog") == 32 - 4  # start, two words, end
    assert toy_base.token_room("dog " * 40) < 0


def test_fingerprints(toy: Path, toy_sdxl: Path, tmp_path: Path) -> None:
    first = load(toy, controlnets=()).fingerprint
    assert first == load(toy, controlnets=(), dtype="bfloat16").fingerprint
    assert first == load(make_toy(tmp_path / "again"), controlnets=()).fingerprint
    assert first != load(make_toy(tmp_path / "other", seed=1), controlnets=()).fingerprint
    assert first != load(toy_sdxl, controlnets=()).fingerprint


def test_half_precision_files_and_shards_are_the_same_base(
    toy: Path, broken: Path, capfd: pytest.CaptureFixture
) -> None:
    unet = load(toy, controlnets=()).unet
    shutil.rmtree(broken / "unet")
    unet.half().save_pretrained(broken / "unet", max_shard_size="200KB")
    assert len(list((broken / "unet").glob("*.safetensors"))) > 1
    capfd.readouterr()
    halved = load(broken)
    assert capfd.readouterr().err == ""  # no bars, no notes
    assert halved.fingerprint == load(toy).fingerprint
    assert halved.unet.dtype == torch.float32


def test_generators_depend_on_seed_purpose_and_step() -> None:
    draws = {torch.rand(1, generator=generator(*key)).item() for key in ((0, "a"), (1, "a"), (0, "b"), (0, "a", 1))}
    assert len(draws) == 4
    assert torch.equal(torch.rand(3, generator=generator(5, "x", 2)), torch.rand(3, generator=generator(5, "x", 2)))


def test_missing_bases_are_named_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(BaseModelError, match=r"There is no base model 'sd15'.*mini, sdxl"):
        load("sd15")
    with pytest.raises(BaseModelError, match="dtype 'int8'"):
        load(tmp_path, dtype="int8")


def test_sdxl_without_a_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        BaseModelError, match=r"stabilityai/stable-diffusion-xl-base-1\.0.*neither cached nor reachable"
    ):
        load("sdxl")


def test_a_truncated_file_is_refused(broken: Path) -> None:
    weights = broken / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(BaseModelError, match="unet of base"):
        load(broken)


def test_a_file_without_some_weights_is_refused(broken: Path) -> None:
    weights = broken / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    del tensors["conv_in.weight"]
    save_file(tensors, weights, metadata={"format": "pt"})
    with pytest.raises(BaseModelError, match=r"lacks weights: conv_in\.weight"):
        load(broken)


def test_pickles_are_never_read(broken: Path) -> None:
    weights = broken / "vae" / "diffusion_pytorch_model.safetensors"
    torch.save(load_file(weights), broken / "vae" / "diffusion_pytorch_model.bin")
    weights.unlink()
    with pytest.raises(BaseModelError, match="vae of base"):
        load(broken)


def test_another_architecture_is_refused(broken: Path) -> None:
    index = broken / "model_index.json"
    classes = json.loads(index.read_text())
    index.write_text(json.dumps(classes | {"unet": ["diffusers", "SD3Transformer2DModel"]}))
    with pytest.raises(BaseModelError, match=r"SD3Transformer2DModel.*Allowed: UNet2DConditionModel"):
        load(broken)
    index.write_text("{")
    with pytest.raises(BaseModelError, match="cannot be read"):
        load(broken)


def test_a_missing_controlnet_matters_only_when_asked_for(broken: Path) -> None:
    shutil.rmtree(broken / "controlnet_canny")
    base = load(broken)
    base.image_pipeline(("tile",))
    with pytest.raises(BaseModelError, match=r"no ControlNet 'canny' \(it has: tile\).*controlnet_canny/"):
        base.image_pipeline(("tile", "canny"))

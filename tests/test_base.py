"""The base contract, on toy bases in mini's and SDXL's shape."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from unittest.mock import MagicMock

import pytest
import torch
from diffusers import ControlNetUnionModel
from huggingface_hub.errors import GatedRepoError
from safetensors.torch import load_file, save_file
from toy import make_toy
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from tambour.base import Base, generator, load, loader
from tambour.base.quiet import quiet
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
    with pytest.raises(BaseModelError, match="dtype 'int4'"):
        load(tmp_path, dtype="int4")


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


# --- a single checkpoint file, the hub's cache, a union ControlNet ------------------------------------------------


def original_layout(base: Base) -> dict[str, torch.Tensor]:
    """The weights of a base of SDXL's shape under the names of Stability's own code, as in one checkpoint file."""
    blocks = {"mid_block.resnets.0": "middle_block.0", "mid_block.resnets.1": "middle_block.2"}
    blocks["mid_block.attentions.0"] = "middle_block.1"
    for i in range(3):
        for j in range(3):
            for place, kind in enumerate(("resnets", "attentions")):
                blocks[f"down_blocks.{i}.{kind}.{j}"] = f"input_blocks.{3 * i + j + 1}.{place}"
                blocks[f"up_blocks.{i}.{kind}.{j}"] = f"output_blocks.{3 * i + j}.{place}"
        blocks[f"down_blocks.{i}.downsamplers.0.conv"] = f"input_blocks.{3 * i + 3}.0.op"
        blocks[f"up_blocks.{i}.upsamplers.0.conv"] = f"output_blocks.{3 * i + 2}.2.conv"
    unet = blocks | {
        **{"time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2"},
        **{"add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2"},
        **{"conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2"},
    }
    resnet = {"norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0", "conv2": "out_layers.3"}
    resnet |= {"time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection"}
    vae = {"conv_norm_out": "norm_out", "conv_shortcut": "nin_shortcut", "mid_block.attentions.0": "mid.attn_1"}
    vae |= {"mid_block.resnets.0": "mid.block_1", "mid_block.resnets.1": "mid.block_2", "group_norm": "norm"}
    vae |= {"to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
    for i in range(4):
        vae |= {f"down_blocks.{i}.resnets": f"down.{i}.block", f"up_blocks.{i}.resnets": f"up.{3 - i}.block"}
        vae |= {f"down_blocks.{i}.downsamplers.0": f"down.{i}.downsample"}
        vae |= {f"up_blocks.{i}.upsamplers.0": f"up.{3 - i}.upsample"}
    clip = {"text_model.encoder.layers": "transformer.resblocks", "text_model.final_layer_norm": "ln_final"}
    clip |= {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}
    clip |= {"text_model.embeddings.token_embedding": "token_embedding", "self_attn.out_proj": "attn.out_proj"}

    def renamed(key: str, names: dict[str, str]) -> str:
        for ours, theirs in names.items():
            if key.startswith(f"{ours}.") or f".{ours}." in key:
                key = key.replace(ours, theirs, 1)
        return key

    found = {}
    for key, value in base.unet.state_dict().items():
        name = renamed(renamed(key, unet), resnet if ".resnets." in key else {})
        found[f"model.diffusion_model.{name}"] = value
    for key, value in base.vae.state_dict().items():
        found[f"first_stage_model.{renamed(key, vae)}"] = value
    for key, value in base.text_encoder.state_dict().items():
        inner = key.removeprefix("text_model.")
        found[f"conditioner.embedders.0.transformer.text_model.{inner}"] = value
    prefix, second = "conditioner.embedders.1.model.", base.text_encoder_2.state_dict()
    for key, value in second.items():
        if ".q_proj." in key:
            both = torch.cat([second[key.replace("q_proj", f"{part}_proj")] for part in "qkv"])
            key = key.replace("self_attn.q_proj.", "attn.in_proj_")
            found[prefix + renamed(key, clip)] = both
        elif ".k_proj." not in key and ".v_proj." not in key:
            found[prefix + renamed(key, clip)] = value
    found[f"{prefix}text_projection"] = found.pop(f"{prefix}text_projection.weight").T
    position = "text_model.embeddings.position_embedding.weight"
    found[f"{prefix}positional_embedding"] = found.pop(prefix + position)
    return {key: value.contiguous() for key, value in found.items()}


@pytest.fixture(scope="module")
def unlike_encoders(toy_sdxl: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy in SDXL's shape with text encoders of two widths, 16 and 48, by which a single file tells them apart."""
    folder = Path(shutil.copytree(toy_sdxl, tmp_path_factory.mktemp("unlike") / "base"))
    for part, width, kind in (("", 16, CLIPTextModel), ("_2", 48, CLIPTextModelWithProjection)):
        config = CLIPTextConfig.from_pretrained(folder / f"text_encoder{part}")
        config.hidden_size = width
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(width)
            with quiet():
                kind(config).save_pretrained(folder / f"text_encoder{part}")
    return folder


@pytest.fixture
def cache(unlike_encoders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub cache without a network that holds the configurations and tokenizers of SDXL, and no weights."""
    from huggingface_hub import constants

    repository = tmp_path / "hub" / "models--stabilityai--stable-diffusion-xl-base-1.0"
    snapshot = repository / "snapshots" / ("0" * 40)
    shutil.copytree(unlike_encoders, snapshot, ignore=shutil.ignore_patterns("*.safetensors", "controlnet_*"))
    for tokenizer in ("tokenizer", "tokenizer_2"):  # as the hub's: in two files
        file = snapshot / tokenizer / "tokenizer.json"
        words = json.loads(file.read_text())["model"]
        (snapshot / tokenizer / "vocab.json").write_text(json.dumps(words["vocab"]))
        (snapshot / tokenizer / "merges.txt").write_text("\n".join(map(" ".join, words["merges"])))
        file.unlink()
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return snapshot


@pytest.fixture
def checkpoint(unlike_encoders: Path, cache: Path, tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save_file(original_layout(load(unlike_encoders)), path)
    return path


def test_a_single_file_is_the_same_base_as_its_folder(checkpoint: Path, unlike_encoders: Path) -> None:
    single, folder = load(checkpoint, controlnets=()), load(unlike_encoders, controlnets=())
    assert single.fingerprint == folder.fingerprint
    assert single.fingerprint == load(checkpoint, controlnets=(), dtype="bfloat16").fingerprint
    for part in ("unet", "vae", "text_encoder", "text_encoder_2"):
        ours, theirs = getattr(single, part).state_dict(), getattr(folder, part).state_dict()
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours), part
    converted, known = single.encode_prompt(["a red star"]), folder.encode_prompt(["a red star"])
    torch.testing.assert_close(converted.embeds, known.embeds)
    torch.testing.assert_close(converted.pooled, known.pooled)


def test_what_a_single_file_lacks_is_named(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(BaseModelError, match=r"no checkpoint file 'absent\.safetensors'.*Allowed: mini, sdxl"):
        load("absent.safetensors")
    tensors = load_file(checkpoint)
    for absent, named in (
        ("model.diffusion_model.input_blocks.4.1.proj_in.weight", "cannot be loaded: weights are missing"),
        ("conditioner.embedders.1.model.ln_final.bias", "text_encoder_2.*lacks weights: .*final_layer_norm.bias"),
        ("conditioner.embedders.1.model.positional_embedding", "cannot be loaded.*whole SDXL checkpoint"),
    ):
        save_file({key: value for key, value in tensors.items() if key != absent}, tmp_path / "broken.safetensors")
        with pytest.raises(BaseModelError, match=named):
            load(tmp_path / "broken.safetensors", controlnets=())
    save_file(tensors | {"v_pred": torch.zeros(1)}, tmp_path / "broken.safetensors")
    with pytest.raises(BaseModelError, match=r"predicts v.*v_prediction in its scheduler"):
        load(tmp_path / "broken.safetensors", controlnets=())
    (tmp_path / "broken.safetensors").write_bytes(checkpoint.read_bytes()[:-100])
    with pytest.raises(BaseModelError, match=r"broken\.safetensors.*cannot be loaded"):
        load(tmp_path / "broken.safetensors", controlnets=())


def test_the_command_that_fetches_what_the_cache_lacks_is_named(checkpoint: Path, cache: Path) -> None:
    with pytest.raises(BaseModelError, match=r"xinsir/controlnet-canny-sdxl-1\.0.*hf download xinsir/controlnet-canny"):
        load(checkpoint, controlnets=("canny",))
    with pytest.raises(BaseModelError, match=r"needs text_encoder/model\.fp16\.safetensors of stabilityai/.*hf "):
        load("sdxl")
    (cache / "vae" / "config.json").unlink()
    with pytest.raises(BaseModelError, match=r"needs vae/config\.json of stabilityai/.*hf download .*'\*\.json'"):
        load(checkpoint, controlnets=())


def test_only_what_is_asked_for_is_fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = []

    def fetch(repository: str, **_options: object) -> str:
        asked.append(repository.rpartition("/")[2])
        for hub in (loader._BASE, loader._VAE, *loader._CONTROLNETS.values()):
            for file in hub.files:
                (tmp_path / file).parent.mkdir(exist_ok=True)
                (tmp_path / file).touch()
        return str(tmp_path)

    monkeypatch.setattr(loader, "snapshot_download", fetch)
    assert "controlnet_canny" not in loader.find_source("sdxl", ("tile",)).folders
    assert asked == ["stable-diffusion-xl-base-1.0", "sdxl-vae-fp16-fix", "controlnet-tile-sdxl-1.0"]
    asked.clear()
    loader.find_source("sdxl", ())
    assert asked == ["stable-diffusion-xl-base-1.0", "sdxl-vae-fp16-fix"]


def test_a_licence_that_was_not_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object, **_options: object) -> None:
        raise GatedRepoError("401", response=MagicMock())

    monkeypatch.setattr(loader, "snapshot_download", refuse)
    with pytest.raises(BaseModelError, match=r"`hf auth login`.*https://huggingface\.co/stabilityai"):
        load("sdxl")


def test_a_union_controlnet_serves_both_places(toy_sdxl: Path, tmp_path: Path) -> None:
    from PIL import Image

    folder = Path(shutil.copytree(toy_sdxl, tmp_path / "base", ignore=shutil.ignore_patterns("controlnet_*")))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        shape = {key: value for key, value in load(toy_sdxl).controlnets["tile"].config.items() if key[0] != "_"}
        shape.pop("mid_block_type")
        trans = dict(num_control_type=8, num_trans_channel=8, num_trans_head=2, num_proj_channel=8)
        union = ControlNetUnionModel.from_config(shape | trans)
        outputs = [union.controlnet_cond_embedding.conv_out, union.spatial_ch_projs, union.controlnet_mid_block]
        for module in (*outputs, *union.controlnet_down_blocks):
            torch.nn.init.normal_(module.weight, std=0.2)
    union.save_pretrained(folder / "controlnet_union")
    base = load(folder)
    assert set(base.controlnets) == {"union"} and set(load(folder, controlnets=()).controlnets) == set()

    def drawn(tile: float, canny: float) -> torch.Tensor:
        return base.image_pipeline(("tile", "canny"))(
            "a star",
            image=Image.new("RGB", (64, 64)),
            control_image=[Image.new("RGB", (64, 64), "red"), Image.new("RGB", (64, 64), "white")],
            controlnet_conditioning_scale=[tile, canny],
            num_inference_steps=2,
            guidance_scale=1.0,
            generator=generator(0, "control"),
            output_type="pt",
        ).images

    assert len({drawn(*scales).sum().item() for scales in ((0.5, 0.5), (0.9, 0.5), (0.5, 0.9))}) == 3
    base.controlnets["union"].register_to_config(num_control_type=6)  # the plain one, not ProMax
    base.image_pipeline(("canny",))
    with pytest.raises(BaseModelError, match=r"no ControlNet 'tile' \(it has: union\)"):
        base.image_pipeline(("tile", "canny"))


@pytest.mark.parametrize(
    ("cuda", "mps", "dtype", "device"),
    [
        (True, True, "float16", "cuda"),
        (False, True, "float16", "mps"),
        (False, True, "float32", "mps"),
        (False, True, "bfloat16", "cpu"),
        (False, False, "float16", "cpu"),
    ],
)
def test_devices(monkeypatch: pytest.MonkeyPatch, cuda: bool, mps: bool, dtype: str, device: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert loader.choose_device(dtype) == device

"""The paper's pair step, run on tiny random models: shapes, scales, determinism, register, and faults offline."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from tambour.errors import BaseModelError
from tambour.imaging.geometry import fit
from tambour.pair import diffusion
from tambour.pair.diffusion import Settings, Sources, load_pipeline, make_design, soft_edges

TINY = Settings(size=64, steps=2, guidance_scale=2.0, blur_kernel=5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An SD3 base and two ControlNets of random weights, saved in diffusers' layout."""
    from diffusers import (
        AutoencoderKL,
        FlowMatchEulerDiscreteScheduler,
        SD3ControlNetModel,
        SD3Transformer2DModel,
        StableDiffusion3Pipeline,
    )
    from toy import toy_tokenizer
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    root = tmp_path_factory.mktemp("sd3")
    tokenizer = toy_tokenizer(77)
    shape = {
        "sample_size": 32,
        "patch_size": 2,
        "in_channels": 4,
        "num_layers": 2,  # the last one hears no ControlNet
        "attention_head_dim": 8,
        "num_attention_heads": 2,
        "caption_projection_dim": 16,
        "joint_attention_dim": 32,
        "pooled_projection_dim": 32,
        "out_channels": 4,
        "pos_embed_max_size": 32,
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        text = CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            projection_dim=16,
            max_position_embeddings=tokenizer.model_max_length,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            block_out_channels=(4, 8),
            latent_channels=4,
            norm_num_groups=2,
            use_quant_conv=False,
            use_post_quant_conv=False,
            shift_factor=0.06,
            scaling_factor=1.5,
        )
        StableDiffusion3Pipeline(
            transformer=SD3Transformer2DModel(**shape),
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
            vae=vae,
            text_encoder=CLIPTextModelWithProjection(text),
            tokenizer=tokenizer,
            text_encoder_2=CLIPTextModelWithProjection(text),
            tokenizer_2=tokenizer,
            text_encoder_3=None,
            tokenizer_3=None,
        ).save_pretrained(root / "base")
        for name in ("canny", "tile"):
            net = SD3ControlNetModel(**shape)
            for block in net.controlnet_blocks:  # they start at zero, which would hide the conditions
                torch.nn.init.normal_(block.weight, std=0.5)
            net.save_pretrained(root / name)
    return root


@pytest.fixture(scope="module")
def pipeline(folder):
    return load_pipeline(Sources(*(str(folder / name) for name in ("base", "canny", "tile"))), "cpu", "float32")


def photo(width: int = 90, height: int = 60) -> Image.Image:
    picture = np.full((height, width, 3), (200, 190, 170), np.uint8)
    picture[height // 4 : -height // 4, width // 4 : -width // 4] = (180, 40, 50)
    noise = np.random.default_rng(0).integers(-12, 12, picture.shape)
    return Image.fromarray((picture + noise).clip(0, 255).astype(np.uint8))


def test_a_photo_goes_through_the_whole_pipeline(pipeline):
    pair = make_design(photo(), pipeline, "a red square", TINY)
    assert pair.design.size == pair.embroidery.size == pair.mask.size == (90, 60)
    assert pair.design.mode == "RGB" and np.asarray(pair.design).std() > 0


def test_the_seed_decides_and_the_global_generator_is_left_alone(pipeline):
    before = torch.get_rng_state()
    first, again, other = (make_design(photo(), pipeline, settings=TINY, seed=seed).design for seed in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    assert first.tobytes() == again.tobytes() != other.tobytes()


def test_both_conditions_reach_the_model_at_their_scales(pipeline, monkeypatch):
    seen = {}
    whole = type(pipeline).__call__

    def watch(self, **arguments):
        seen.update(arguments)
        return whole(self, **arguments)

    monkeypatch.setattr(type(pipeline), "__call__", watch)
    make_design(photo(), pipeline, "a red square", TINY)
    assert seen["controlnet_conditioning_scale"] == [0.2, 0.8]
    assert seen["prompt"].startswith("a red square, flat design, vector graphic design")
    small = fit(photo(), 64, 8)
    assert [image.size for image in seen["control_image"]] == [small.size] * 2
    assert np.array_equal(seen["control_image"][0], soft_edges(small))


def test_the_conditions_change_the_result(pipeline):
    strong, none = (
        Settings(64, canny_scale=scale, tile_scale=scale, steps=2, guidance_scale=2.0) for scale in (50.0, 0.0)
    )
    with_them, without = (np.asarray(make_design(photo(), pipeline, settings=s).design, int) for s in (strong, none))
    assert np.abs(with_them - without).max() > 2


def test_soft_edges_see_borders_and_hardly_see_threads():
    picture = np.full((256, 256, 3), 140, np.float64)
    picture[:, 128:] = (200, 90, 90)
    picture += 30 * np.sin(np.arange(256) * 2 * np.pi / 4)[:, None, None]
    edges = np.asarray(soft_edges(Image.fromarray(picture.clip(0, 255).astype(np.uint8))))
    assert edges.shape == (256, 256, 3)
    assert edges[:, 126:130].mean() > 8 * edges[:, 20:100].mean()
    assert np.asarray(soft_edges(Image.new("RGB", (64, 64), "red"))).max() == 0


@pytest.mark.parametrize("size", [(90, 60), (61, 97), (200, 33)])
def test_the_design_stays_in_register_with_the_photo(size):
    x, y = np.meshgrid(np.linspace(0, 255, size[0]), np.linspace(0, 255, size[1]))
    ramp = Image.fromarray(np.dstack([x, y, 0 * x]).astype(np.uint8))
    back = diffusion._undo_fit(fit(ramp, 64, 16), size)
    inner = np.s_[size[1] // 4 : -size[1] // 4, size[0] // 4 : -size[0] // 4, :2]
    step = 255 / np.array(size)  # one px of drift
    assert (np.abs(np.asarray(back, int)[inner] - np.asarray(ramp, int)[inner]) <= 3 * step + 3).all()


def test_offline_the_fault_says_what_to_do(monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(BaseModelError, match=r"SD3-Controlnet-Canny.*hf auth login.*default"):
        load_pipeline(device="cpu", dtype="float32")


def test_a_broken_folder_is_named(folder, tmp_path):
    (tmp_path / "tile").mkdir()
    with pytest.raises(BaseModelError, match="tile"):
        load_pipeline(Sources(str(folder / "base"), str(folder / "canny"), str(tmp_path / "tile")), "cpu", "float32")


def test_the_command_line_takes_this_route(folder, tmp_path, monkeypatch, capsys):
    from tambour.cli import main

    monkeypatch.setattr(diffusion, "Settings", lambda: TINY)
    photo().save(tmp_path / "photo.png")
    flat = tmp_path / "flat.png"
    command = ["pair", str(tmp_path / "photo.png"), "-o", str(flat), "--route", "sd3", "--models", str(folder)]
    assert main([*command, "--describe", "a red square"]) == 0
    captured = capsys.readouterr()
    assert str(flat) in captured.out and "pair" in captured.err
    with Image.open(flat) as design:
        assert design.size == (90, 60)

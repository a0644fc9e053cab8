"""A toy base of random weights in `mini`'s or SDXL's shape: seconds to make and to use. For tests."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    ControlNetModel,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import save_file
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from tambour.base.quiet import quiet

_START, _END = "<|startoftext|>", "<|endoftext|>"
_WORDS = ("style", "emb", "in", "the", "red", "blue", "dog", "star", "flower", "embroidery")


def make_toy(folder: str | Path, seed: int = 0, *, shape: str = "mini", prediction: str | None = None) -> Path:
    """Write a complete base folder of random weights, as a real one is saved.

    Args:
        folder: where to; made if missing.
        seed: decides every weight.
        shape: "mini" (one text encoder, AutoencoderTiny at f = 4, predicts x0, ControlNets without attention) or
            "sdxl" (two text encoders, AutoencoderKL at f = 8, predicts noise, ControlNets made from the UNet).
        prediction: another scheduler prediction type than the shape's own.
    """
    folder = Path(folder)
    mini = shape == "mini"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = _unet(8 if mini else 4, text_width=32 if mini else 64)
        vae = _tiny_vae() if mini else _kl_vae()
        controlnets = {kind: _controlnet(unet, mini) for kind in ("tile", "canny")}
        text_encoder_2 = CLIPTextModelWithProjection(_text_config())
        text_encoder = None if mini else CLIPTextModel(_text_config())
    schedule = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    if mini:
        scheduler = DDIMScheduler(
            **schedule, prediction_type=prediction or "sample", clip_sample=False, set_alpha_to_one=False
        )
    else:
        scheduler = EulerDiscreteScheduler(**schedule, prediction_type=prediction or "epsilon", steps_offset=1)
    pipeline = StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=text_encoder,
        text_encoder_2=text_encoder_2,
        tokenizer=None if mini else toy_tokenizer(),
        tokenizer_2=toy_tokenizer(),
        unet=unet,
        scheduler=scheduler,
        add_watermarker=False,
    )
    with quiet():
        pipeline.save_pretrained(folder, safe_serialization=True)
        for kind, controlnet in controlnets.items():
            controlnet.save_pretrained(folder / f"controlnet_{kind}", safe_serialization=True)
    return folder


def make_toy_prior(folder: Path, seed: int = 0) -> None:
    """Give a base folder a prior of random weights that knows five objects."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = UNet2DConditionModel(
            sample_size=8,
            in_channels=6 + 2,
            out_channels=6,
            down_block_types=("DownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "UpBlock2D"),
            block_out_channels=(8, 16),
            layers_per_block=1,
            attention_head_dim=2,
            norm_num_groups=4,
            cross_attention_dim=32,
            class_embed_type="projection",
            projection_class_embeddings_input_dim=32,
        )
        text = CLIPTextModelWithProjection(_text_config(32 + 2 * 8 * 8))
        basis = torch.linalg.qr(torch.randn(256, 6))[0].T.reshape(6, 4, 8, 8).contiguous()
    sampler = DPMSolverMultistepScheduler(prediction_type="v_prediction", timestep_spacing="trailing")
    folder = folder / "prior"
    with quiet():
        unet.save_pretrained(folder / "unet")
        text.save_pretrained(folder / "text_encoder")
        toy_tokenizer().save_pretrained(folder / "tokenizer")
        sampler.save_pretrained(folder / "scheduler")
    code = {"basis": basis, "mean": torch.zeros(4, 8, 8), "scale": torch.ones(6)}
    save_file(code, folder / "patches.safetensors")
    objects = {"dog": ["puppy"], "bear": [], "polar bear": [], "star": [], "tangerine": ["orange"]}
    colours = {"red": [], "orange": [], "blue": [], "purple": ["violet"]}
    (folder / "words.json").write_text(json.dumps({"hands": 3, "colours": colours, "objects": objects}))


def toy_tokenizer(length: int = 32) -> CLIPTokenizer:
    """A CLIP tokenizer that spells everything but a few words, `length` tokens long."""
    characters = "abcdefghijklmnopqrstuvwxyz0123456789[](){}.,:;!?'\"-_+*/&%#@=<>|"
    vocabulary = [*characters, *(f"{c}</w>" for c in characters)]
    merges = []
    for word in _WORDS:
        pieces = [*word[:-1], f"{word[-1]}</w>"]
        while len(pieces) > 1:
            merges.append((pieces[0], pieces[1]))
            pieces = [pieces[0] + pieces[1], *pieces[2:]]
            vocabulary.append(pieces[0])
    tokens = [*dict.fromkeys(vocabulary), _START, _END]
    vocab = {token: index for index, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocab, merges=list(dict.fromkeys(merges)), model_max_length=length)


def _text_config(projection: int = 16) -> CLIPTextConfig:
    tokenizer = toy_tokenizer()
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=tokenizer.model_max_length,
        projection_dim=projection,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _unet(latent_channels: int, text_width: int) -> UNet2DConditionModel:
    """SDXL's 11 attention blocks by name, at toy width."""
    return UNet2DConditionModel(
        sample_size=32,
        in_channels=latent_channels,
        out_channels=latent_channels,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(8, 16, 32),
        layers_per_block=2,
        transformer_layers_per_block=1,
        attention_head_dim=(1, 2, 4),
        norm_num_groups=4,
        cross_attention_dim=text_width,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 16,
    )


def _tiny_vae() -> AutoencoderTiny:
    return AutoencoderTiny(
        encoder_block_out_channels=(8, 8, 8),
        decoder_block_out_channels=(8, 8, 8),
        num_encoder_blocks=(0, 0, 0),
        num_decoder_blocks=(1, 1, 1),
        latent_channels=8,
    )


def _kl_vae() -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(4, 4, 8, 8),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        scaling_factor=0.13025,
        force_upcast=False,
    )


def _controlnet(unet: UNet2DConditionModel, mini: bool) -> ControlNetModel:
    """A ControlNet whose zero convolutions are already random, so that its condition is heard."""
    if mini:
        controlnet = ControlNetModel(
            in_channels=unet.config.in_channels,
            down_block_types=("DownBlock2D",) * 3,
            mid_block_type="UNetMidBlock2D",
            block_out_channels=unet.config.block_out_channels,
            layers_per_block=unet.config.layers_per_block,
            norm_num_groups=4,
            cross_attention_dim=unet.config.cross_attention_dim,
            conditioning_embedding_out_channels=(8, 8, 8),
        )
    else:
        controlnet = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(8, 8, 8, 8))
    outputs = [controlnet.controlnet_cond_embedding.conv_out, controlnet.controlnet_mid_block]
    for convolution in (*outputs, *controlnet.controlnet_down_blocks):
        nn.init.normal_(convolution.weight, std=0.2)
    return controlnet

"""The networks of `mini`, from random weights to a saved base folder; all are diffusers' or transformers' classes."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import (
    AutoencoderTiny,
    ControlNetModel,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from safetensors import safe_open
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

from pretraining.autoencoder import CHANNELS, FACTOR

WIDTHS = (32, 64, 128)
HEADS = (1, 2, 4)
TEXT_WIDTH = 128
TOKENS = 32  # longest caption
SHARD = "14MB"  # every file of the repository stays under 16 MiB
METHOD_WORDS = "a in [emb] style of flat design embroidery patch and the with logo drawing picture"


@dataclass
class Networks:
    """What is trained together."""

    unet: UNet2DConditionModel
    tile: ControlNetModel
    canny: ControlNetModel
    text: CLIPTextModelWithProjection
    tokenizer: CLIPTokenizer

    def modules(self) -> dict[str, nn.Module]:
        return {"unet": self.unet, "tile": self.tile, "canny": self.canny, "text": self.text}

    def to(self, device: str) -> Networks:
        for module in self.modules().values():
            module.to(device)
        return self


def make_tokenizer(captions: Iterable[str], words: int = 2000) -> CLIPTokenizer:
    """A CLIP tokenizer (byte-level BPE with end-of-word marks) learnt from the captions."""
    trained = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token="<|endoftext|>"))
    trained.normalizer = normalizers.Lowercase()
    trained.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()])
    alphabet = [chr(c) for c in range(33, 127)]
    trainer = trainers.BpeTrainer(vocab_size=words, initial_alphabet=alphabet, end_of_word_suffix="</w>",
                                  min_frequency=2, show_progress=False)  # fmt: skip
    trained.train_from_iterator([*captions, *[METHOD_WORDS] * 50], trainer)
    model = json.loads(trained.to_str())["model"]
    pieces = [*alphabet, *(f"{c}</w>" for c in alphabet), *sorted(model["vocab"], key=model["vocab"].get)]
    tokens = [*dict.fromkeys(pieces), "<|startoftext|>", "<|endoftext|>"]
    vocab = {token: index for index, token in enumerate(tokens)}
    merges = [tuple(pair) for pair in model["merges"]]
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=TOKENS)


def read_tokenizer(work: Path) -> CLIPTokenizer:
    """The tokenizer of a work folder."""
    return CLIPTokenizer.from_pretrained(work / "tokenizer")


def build(tokenizer: CLIPTokenizer, seed: int = 0) -> Networks:
    """UNet in SDXL's layout (11 attention blocks of one layer), two ControlNets without attention, one text encoder."""
    torch.manual_seed(seed)
    unet = UNet2DConditionModel(
        sample_size=512 // FACTOR,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=WIDTHS,
        layers_per_block=2,
        transformer_layers_per_block=1,
        attention_head_dim=HEADS,
        norm_num_groups=16,
        cross_attention_dim=TEXT_WIDTH,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=16,
        projection_class_embeddings_input_dim=6 * 16 + TEXT_WIDTH,
    )
    start_silent(unet)
    text = text_encoder(tokenizer, TEXT_WIDTH, TOKENS, TEXT_WIDTH)
    return Networks(unet, _controlnet(), _controlnet(), text, tokenizer)


def start_silent(unet: UNet2DConditionModel) -> None:
    """Let a new UNet, and every residual layer of it, add nothing yet."""
    nn.init.zeros_(unet.conv_out.weight)
    for block in (*unet.down_blocks, *unet.up_blocks, unet.mid_block):
        for resnet in block.resnets:
            nn.init.zeros_(resnet.conv2.weight)


def text_encoder(tokenizer: CLIPTokenizer, width: int, length: int, projection: int) -> CLIPTextModelWithProjection:
    """A new encoder of three layers for captions of at most `length` tokens; pooled text (B, projection)."""
    text = CLIPTextModelWithProjection(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=length,
            projection_dim=projection,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    for parameter in text.parameters():  # CLIP's own initialisation is made for much wider models
        if parameter.dim() == 2:
            nn.init.normal_(parameter, std=0.04)
    return text


def _controlnet() -> ControlNetModel:
    net = ControlNetModel(
        in_channels=CHANNELS,
        down_block_types=("DownBlock2D",) * 3,
        mid_block_type="UNetMidBlock2D",
        block_out_channels=WIDTHS,
        layers_per_block=2,
        norm_num_groups=16,
        cross_attention_dim=TEXT_WIDTH,
        conditioning_embedding_out_channels=(8, 16, 32, 64)[: FACTOR.bit_length()],  # each but the first halves
    )
    # Trained from the first step on, together with the UNet: nothing starts at zero, and the condition arrives at unit
    # power. (By default each layer of the embedding loses most of it: after 11,000 samples no colour was followed.)
    _wake(net.controlnet_cond_embedding)
    for layer in (net.controlnet_mid_block, *net.controlnet_down_blocks):
        nn.init.normal_(layer.weight, std=0.5 / layer.weight[0].numel() ** 0.5)
    return net


@torch.no_grad()
def _wake(embedding: nn.Module) -> None:
    """Scale a condition's embedding so that patches of random colours leave every layer at zero mean, unit power."""
    signal = nn.functional.interpolate(torch.rand(16, 3, 8, 8), scale_factor=16, mode="nearest")
    for layer in (embedding.conv_in, *embedding.blocks, embedding.conv_out):
        nn.init.kaiming_normal_(layer.weight)  # diffusers starts the last one at zero
        layer.bias.zero_()
        out = layer(signal)
        mean, deviation = out.mean((0, 2, 3)), out.std((0, 2, 3)) + 1e-6
        layer.weight.div_(deviation[:, None, None, None])
        layer.bias.copy_(-mean / deviation)
        signal = nn.functional.silu(layer(signal))


def scheduler() -> DDIMScheduler:
    """SDXL's noise schedule down to no signal at all; mini predicts v.

    A network of its size cannot hand its input through exactly, so it does not predict the clean latents. And where the
    last timestep holds a trace of signal, it reads the colours there and not in the condition: then what starts from
    pure noise comes out grey (Lin et al., "Common Diffusion Noise Schedules and Sample Steps are Flawed", 2024).
    """
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=False,
    )


def sampler() -> DPMSolverMultistepScheduler:
    """DPM-Solver++ (second order) over mini's schedule."""
    return DPMSolverMultistepScheduler.from_config(
        scheduler().config, algorithm_type="dpmsolver++", final_sigmas_type="zero"
    )


def save_base(networks: Networks, vae: AutoencoderTiny, folder: Path) -> None:
    """Write the base folder as `tambour.base` loads it: float16 safetensors in shards."""
    half = Networks(*(m.to(torch.float16) for m in networks.modules().values()), networks.tokenizer)
    pipeline = StableDiffusionXLPipeline(
        vae=vae.to(torch.float16),
        text_encoder=None,
        tokenizer=None,
        text_encoder_2=half.text,
        tokenizer_2=half.tokenizer,
        unet=half.unet,
        scheduler=sampler(),
        add_watermarker=False,
    )
    pipeline.save_pretrained(folder, safe_serialization=True, max_shard_size=SHARD)
    half.tile.save_pretrained(folder / "controlnet_tile", max_shard_size=SHARD)
    half.canny.save_pretrained(folder / "controlnet_canny", max_shard_size=SHARD)


def pack(networks: Networks, vae: AutoencoderTiny, folder: Path, name: str) -> list[Path]:
    """Write a stage as few small files: NAME-0.safetensors, ... in float16, each under 16 MiB."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = {f"average.{n}": module for n, module in networks.modules().items()} | {"vae": vae}
    shards, room = [{}], 0
    for part, module in parts.items():
        for key, value in module.state_dict().items():
            value = value.detach().cpu()
            value = (value.half() if value.is_floating_point() else value).contiguous()
            size = value.numel() * value.element_size()
            if room + size > 15_000_000:
                shards, room = [*shards, {}], 0
            shards[-1][f"{part}.{key}"], room = value, room + size
    networks.tokenizer.save_pretrained(folder / "tokenizer")
    files = sorted((folder / "tokenizer").iterdir())
    notes = {f"tokenizer/{file.name}": file.read_text() for file in files}
    for file in files:
        file.unlink()
    (folder / "tokenizer").rmdir()
    own = {key: value for key, value in vae.config.items() if key[0] != "_" and key != "block_out_channels"}
    notes["vae/config.json"] = json.dumps(own)
    paths = [folder / f"{name}-{number}.safetensors" for number in range(len(shards))]
    for path, shard in zip(paths, shards, strict=True):
        save_file(shard, path, metadata=notes)
    return paths


def unpack(folder: Path, work: Path, name: str) -> None:
    """Put what `pack` wrote into a work folder: NAME.safetensors to start a stage from, vae/ and tokenizer/."""
    tensors, notes = {}, {}
    for path in sorted(folder.glob(f"{name}-*.safetensors")):
        with safe_open(path, "pt") as file:
            notes = file.metadata()
            tensors |= {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
    tensors = {key: value.float() if value.is_floating_point() else value for key, value in tensors.items()}
    for path in ("tokenizer", "vae"):
        (work / path).mkdir(parents=True, exist_ok=True)
    for key, text in notes.items():
        if key.startswith("tokenizer/"):
            (work / "tokenizer" / Path(key).name).write_text(text)
    vae = AutoencoderTiny.from_config(json.loads(notes["vae/config.json"]))
    vae.load_state_dict({key[4:]: value for key, value in tensors.items() if key.startswith("vae.")})
    vae.save_pretrained(work / "vae")
    (work / "vae" / "rounds").write_text("0")
    save_file(
        {key: value for key, value in tensors.items() if not key.startswith("vae.")}, work / f"{name}.safetensors"
    )


def adopt(base: Path, work: Path, name: str) -> None:
    """Put a base folder's weights into a work folder, as `unpack` does: training goes on from what is shipped."""
    networks = Networks(
        UNet2DConditionModel.from_pretrained(base / "unet"),
        ControlNetModel.from_pretrained(base / "controlnet_tile"),
        ControlNetModel.from_pretrained(base / "controlnet_canny"),
        CLIPTextModelWithProjection.from_pretrained(base / "text_encoder_2"),
        CLIPTokenizer.from_pretrained(base / "tokenizer_2"),
    )
    vae = AutoencoderTiny.from_pretrained(base / "vae")
    with tempfile.TemporaryDirectory() as folder:
        pack(networks, vae, Path(folder), name)
        unpack(Path(folder), work, name)

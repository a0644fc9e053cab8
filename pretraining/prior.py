"""Training of the prior: the small model that draws flat designs from words (`tambour.base.prior`), from scratch."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from transformers import CLIPTextModelWithProjection, CLIPTokenizer

from pretraining.data import precision
from pretraining.model import SHARD, make_tokenizer, sampler, scheduler, start_silent, text_encoder
from pretraining.objective import draw_noise, draw_times, velocity_loss
from pretraining.train import LONGEST_STEP, StagePlan, Training, load_average
from pretraining.vocabulary import COLOUR_SYNONYMS, COLOURS, OBJECTS
from pretraining.words import HANDS, Designs, captions, read_designs
from tambour.base import load
from tambour.imaging.geometry import flatten
from tambour.imaging.sheet import contact_sheet
from tambour.prior.model import PATCH, SIDE, Patches, encode_text, load_prior, predict
from tambour.prior.words import design_of, read_prompt
from tambour.style import Style
from tambour.workflows.apply import Result, apply

CODE = 96  # components kept of a patch's 256
WHITENING = 0.5  # code = component / deviation ** WHITENING, as in mini's autoencoder
WIDTHS = (160, 192)
TEXT_WIDTH = 256
ROUGH = 32  # channels of the rough map
TOKENS = 12  # longest caption


@dataclass
class Networks:
    """What is trained together; `patches` is fixed."""

    unet: UNet2DConditionModel
    text: CLIPTextModelWithProjection
    tokenizer: CLIPTokenizer
    patches: Patches

    def to(self, device: torch.device) -> Networks:
        for module in self.modules().values():
            module.to(device)
        return self

    def modules(self) -> dict[str, nn.Module]:
        return {"unet": self.unet, "text": self.text}


def fit_patches(designs: np.ndarray) -> Patches:
    """Principal components of the 8 x 8 patches of designs (N, 64, 64, 4) uint8; codes have unit power."""
    side = SIDE // PATCH
    x = designs.astype(np.float32) / 127.5 - 1
    x = x.reshape(len(x), side, PATCH, side, PATCH, 4).transpose(0, 1, 3, 5, 2, 4).reshape(len(x) * side**2, -1)
    mean = x.mean(0)
    _, values, rows = np.linalg.svd(np.cov(x - mean, rowvar=False).astype(np.float64), hermitian=True)
    deviation = np.sqrt(values[:CODE])
    scale = 1 / deviation**WHITENING
    scale /= np.sqrt(np.mean((deviation * scale) ** 2))
    shape = (4, PATCH, PATCH)
    tensors = (rows[:CODE].reshape(-1, *shape), mean.reshape(shape), scale)
    return Patches(*(torch.from_numpy(np.float32(value)) for value in tensors))


def build(tokenizer: CLIPTokenizer, patches: Patches, seed: int = 0) -> Networks:
    """A UNet of two resolutions (8 x 8 and 4 x 4 patches) and a text encoder of its own, both random."""
    torch.manual_seed(seed)
    unet = UNet2DConditionModel(
        sample_size=SIDE // PATCH,
        in_channels=CODE + ROUGH,
        out_channels=CODE,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        block_out_channels=WIDTHS,
        layers_per_block=2,
        attention_head_dim=4,
        norm_num_groups=16,
        cross_attention_dim=TEXT_WIDTH,
        use_linear_projection=True,
        resnet_time_scale_shift="scale_shift",
        time_embedding_dim=384,
        class_embed_type="projection",
        projection_class_embeddings_input_dim=TEXT_WIDTH,
    )
    start_silent(unet)
    text = text_encoder(tokenizer, TEXT_WIDTH, TOKENS, TEXT_WIDTH + ROUGH * (SIDE // PATCH) ** 2)
    return Networks(unet, text, tokenizer, patches)


def words_tokenizer() -> CLIPTokenizer:
    """A tokenizer to which every word of the captions is one token."""
    made = make_tokenizer(captions(), words=4000)
    made.model_max_length = TOKENS
    return made


def loss_of(
    networks: Networks,
    code: torch.Tensor,
    captions: list[str],
    plan: StagePlan,
    rng: np.random.Generator,
    alphas: torch.Tensor,
) -> torch.Tensor:
    """`objective.velocity_loss` on the code of designs (B, CODE, 8, 8)."""
    t = draw_times(len(code), plan, rng, len(alphas)).to(code.device)
    noise = draw_noise(code, rng)
    captions = ["" if rng.random() < plan.drop_text else caption for caption in captions]

    def velocity(noisy: torch.Tensor) -> torch.Tensor:
        return predict(networks.unet, noisy, t, encode_text(networks.text, networks.tokenizer, captions))

    return velocity_loss(velocity, code, noise, t, alphas)


def run(
    training: Training, designs: Designs, checkpoint: Path, *, batch: int = 64, every: float = 60.0
) -> Iterator[tuple[int, float, float]]:
    """Train until the plan's seconds are spent. Yields (step, loss, seconds spent). The clock goes on over restarts."""
    plan, networks = training.plan, training.networks
    device = networks.unet.device
    alphas = scheduler().alphas_cumprod.to(device)
    dtype = precision(device)
    if device.type == "cpu":  # see train.run_stage
        networks.unet.set_attn_processor(AttnProcessor())
        networks.text.set_attn_implementation("eager")
    last, saved = time.monotonic(), time.monotonic()
    while training.spent < plan.seconds:
        training.set_rate()
        rng = np.random.default_rng([plan.seed, training.step])
        code, captions = designs.draw(rng, batch)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            loss = loss_of(networks, code.to(device), captions, plan, rng, alphas)
        loss.backward()
        training.take_step()
        now = time.monotonic()
        training.spent += min(now - last, LONGEST_STEP)
        last = now
        if now - saved > every or training.spent >= plan.seconds:
            training.save(checkpoint)
            saved = now
        yield training.step, float(loss.detach()), training.spent


def train(work: Path, plan: StagePlan, device: torch.device, *, batch: int = 64) -> Iterator[tuple[int, float, float]]:
    """Train, or go on training, the prior of a work folder (checkpoint: words.safetensors); yields as `run`."""
    designs = read_designs(work / "art", work / "words.npz")
    patches = fit_patches(designs.pictures[:, ::4].reshape(-1, SIDE, SIDE, 4))
    training = Training(build(words_tokenizer(), patches).to(device), plan)
    checkpoint = work / "words.safetensors"
    if checkpoint.exists():
        training.load(checkpoint)
    yield from run(training, designs.encoded(patches), checkpoint, batch=batch)


def save_prior(work: Path, folder: Path) -> None:
    """Write the averaged weights of a work folder as `tambour.base.prior` loads them: float16 safetensors in shards."""
    designs = read_designs(work / "art", work / "words.npz")
    networks = build(words_tokenizer(), fit_patches(designs.pictures[:, ::4].reshape(-1, SIDE, SIDE, 4)))
    load_average(work / "words.safetensors", networks)
    networks.unet.half().save_pretrained(folder / "unet", max_shard_size=SHARD)
    networks.text.half().save_pretrained(folder / "text_encoder", max_shard_size=SHARD)
    networks.tokenizer.save_pretrained(folder / "tokenizer")
    sampler().save_pretrained(folder / "scheduler")
    save_file({k: v.contiguous() for k, v in networks.patches.state_dict().items()}, folder / "patches.safetensors")
    colours = {name: [other for other, own in COLOUR_SYNONYMS.items() if own == name] for name in COLOURS}
    known = {"hands": HANDS, "colours": colours, "objects": {name: list(more) for name, (_, more) in OBJECTS.items()}}
    (folder / "words.json").write_text(json.dumps(known, indent=1) + "\n")


def sheet(base: Path, style: Style, asked: list[str], size: int = 256, seed: int = 0) -> Iterator[Image.Image]:
    """Every prompt as the prior's design on the style's fabric and as shown in the style. Yields the sheet so far."""
    prior, loaded, pairs = load_prior(base / "prior"), load(base), []
    for number, prompt in enumerate(asked):
        design = design_of(prior, read_prompt(prompt, prior), seed + number, size)
        shown = [one for one in apply(style, [design], base=loaded, seed=seed + number) if isinstance(one, Result)]
        pairs.append((prompt, flatten(design, style.fabric), shown[0].image))
        rows = [[one for pair in pairs[i : i + 4] for one in pair[1:]] for i in range(0, len(pairs), 4)]
        labels = [",   ".join(pair[0] for pair in pairs[i : i + 4]) for i in range(0, len(pairs), 4)]
        yield contact_sheet(rows, row_labels=labels, cell=160, gap=4)

"""Training, sampling and memory at SDXL's full size, beside the plain loop, in one run. Weights are random.

    python benchmarks/sdxl.py [--size toy|mini] [--sections one,two] [--seconds 540] [--out FOLDER]

Networks are built from SDXL's public configurations, with random weights, on the device: speed and memory are those of
the real model, pictures are not. `--size toy` takes the same path in seconds on a CPU; `--size mini` takes the bundled
base instead, on crops of 128 px in single rows. Sections run in order of worth; what is measured is printed and written
to FOLDER/sdxl.json at once, and no new work begins after `--seconds`.

The plain loop encodes pictures and prompts anew in every step and keeps the UNet in float32 under autocast, as common
LoRA training scripts do. It sees the same draws, so that its losses can be compared.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import dataclasses
import functools
import gc
import json
import os
import platform
import resource
import signal
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, ControlNetModel, EulerDiscreteScheduler, UNet2DConditionModel
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from tambour.analysis.similarity import compare
from tambour.base import Base, Prompt, generator, load
from tambour.base.quantize import quantize
from tambour.base.quiet import quiet
from tambour.config import Analysis, Lora, Stage, StageTwo
from tambour.drawing.sampler import Condition, sample
from tambour.progress import finished
from tambour.training.adapter import Adapter, adapted, updating
from tambour.training.loop import Step, train
from tambour.training.losses import contrast, denoising
from tambour.training.pairs import EncodedPair, draw, join
from tambour.training.resources import unet_alone
from tambour.training.routing import RoutedModel
from tambour.training.stage_one import stage_one
from tambour.training.stage_two import stage_two

SECTIONS = ("matrix", "one", "two", "plain", "sampling", "checkpointing", "learn", "lean", "variants")
STYLE_BLOCKS = (  # the paper's four
    "down_blocks.1.attentions.1",
    "down_blocks.2.attentions.0",
    "up_blocks.0.attentions.1",
    "up_blocks.0.attentions.2",
)
GOALS = {
    "learn, seconds": 120.0,
    "share of the matrix rate": 0.4,
    "plain / ours": 3.0,
    "a picture, seconds": 2.0,
    "lean, peak GiB": 8.0,
}


@dataclass(frozen=True)
class Size:
    """Numbers in which the full size and the toy differ."""

    pixels: int
    matrix: int  # side of the measured matrix product
    channels: tuple[int, ...]
    transformers: tuple[int, ...]
    heads: tuple[int, ...]
    time_width: int  # of each of the six numbers of text_time
    vae: tuple[int, ...]
    vae_layers: int
    condition: tuple[int, ...]  # channels of a ControlNet's condition embedding
    text: tuple[dict, dict]
    groups: int
    rank: int
    tokens: int = 77
    iterations: tuple[int, int] = (400, 200)  # of both stages in a whole `learn`; the paper's
    inversion: int = 50  # steps of an inversion


def _text(width: int, layers: int, heads: int, projection: int, act: str, words: int = 49408) -> dict:
    numbers = dict(hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers, num_attention_heads=heads)
    ends = dict(bos_token_id=words - 2, eos_token_id=words - 1, pad_token_id=1)
    return numbers | ends | dict(projection_dim=projection, hidden_act=act, vocab_size=words)


SIZES = {
    "full": Size(
        pixels=1024,
        matrix=8192,
        channels=(320, 640, 1280),
        transformers=(1, 2, 10),
        heads=(5, 10, 20),
        time_width=256,
        vae=(128, 256, 512, 512),
        vae_layers=2,
        condition=(16, 32, 96, 256),
        text=(_text(768, 12, 12, 768, "quick_gelu"), _text(1280, 32, 20, 1280, "gelu")),
        groups=32,
        rank=32,
    ),
    "toy": Size(
        pixels=64,
        matrix=256,
        channels=(8, 16, 32),
        transformers=(1, 1, 2),
        heads=(1, 2, 4),
        time_width=8,
        vae=(4, 4, 8, 8),
        vae_layers=1,
        condition=(8, 8, 8, 8),
        text=(_text(16, 2, 2, 16, "quick_gelu", 64), _text(32, 2, 2, 32, "gelu", 64)),
        groups=4,
        rank=2,
    ),
}
SIZES["mini"] = dataclasses.replace(SIZES["toy"], pixels=128, matrix=1024, rank=16, tokens=32, inversion=20)


# -- the base ---------------------------------------------------------------------------------------------------------


def build(size: Size, device: torch.device, dtype: torch.dtype, seed: int = 0) -> Base:
    """SDXL with two ControlNets, of random weights, made where it is used; or mini as it is bundled."""
    if size is SIZES["mini"]:
        return load("mini", device=device, dtype=str(dtype).removeprefix("torch."), controlnets=("tile", "canny"))
    before = torch.get_default_dtype()
    with quiet(), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), device:
        torch.manual_seed(seed)
        torch.set_default_dtype(dtype)
        try:
            unet = UNet2DConditionModel(
                sample_size=size.pixels // 8,
                down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
                up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
                block_out_channels=size.channels,
                layers_per_block=2,
                transformer_layers_per_block=size.transformers,
                attention_head_dim=size.heads,
                norm_num_groups=size.groups,
                cross_attention_dim=sum(text["hidden_size"] for text in size.text),
                use_linear_projection=True,
                addition_embed_type="text_time",
                addition_time_embed_dim=size.time_width,
                projection_class_embeddings_input_dim=6 * size.time_width + size.text[1]["projection_dim"],
            )
            vae = AutoencoderKL(
                down_block_types=("DownEncoderBlock2D",) * 4,
                up_block_types=("UpDecoderBlock2D",) * 4,
                block_out_channels=size.vae,
                layers_per_block=size.vae_layers,
                latent_channels=4,
                norm_num_groups=size.groups,
                sample_size=size.pixels,
                scaling_factor=0.13025,
                force_upcast=False,
            )
            controlnets = {}
            for kind in ("tile", "canny"):
                net = ControlNetModel.from_unet(
                    unet, load_weights_from_unet=False, conditioning_embedding_out_channels=size.condition
                )
                net.to(device, dtype)
                last = (net.controlnet_cond_embedding.conv_out, net.controlnet_mid_block, *net.controlnet_down_blocks)
                for convolution in last:  # zeros would be kinder than real weights
                    torch.nn.init.normal_(convolution.weight, std=0.02)
                controlnets[kind] = net
            texts = [CLIPTextConfig(max_position_embeddings=77, **text) for text in size.text]
            text_encoder, text_encoder_2 = CLIPTextModel(texts[0]), CLIPTextModelWithProjection(texts[1])
        finally:
            torch.set_default_dtype(before)
    scheduler = EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type="epsilon", steps_offset=1
    )
    with quiet():
        for net in (unet, vae, text_encoder, text_encoder_2, *controlnets.values()):
            net.to(device, dtype).requires_grad_(False).eval()
    return Base(
        name="random",
        fingerprint="random",
        unet=unet,
        vae=vae,
        text_encoder=text_encoder,
        text_encoder_2=text_encoder_2,
        tokenizer=None,
        tokenizer_2=None,
        scheduler=scheduler,
        controlnets=controlnets,
        device=device,
        dtype=dtype,
    )


@dataclass(frozen=True)
class Source:
    """A pair before it is encoded: pictures (1, 3, H, W) in [-1, 1], tokens (1, T)."""

    design: torch.Tensor
    embroidery: torch.Tensor
    des: torch.Tensor
    emb: torch.Tensor

    @classmethod
    def random(cls, size: Size, base: Base, seed: int) -> Source:
        rng = generator(seed, "pair")
        pictures = [2 * torch.rand(1, 3, size.pixels, size.pixels, generator=rng) - 1 for _ in range(2)]
        words = base.text_encoder_2.config
        tokens = [torch.randint(2, words.vocab_size - 2, (1, size.tokens), generator=rng) for _ in range(2)]
        for row in tokens:
            row[:, 0], row[:, -1] = words.bos_token_id, words.eos_token_id
        return cls(*(value.to(base.device) for value in (*pictures, *tokens)))

    @torch.no_grad()
    def encoded(self, base: Base) -> EncodedPair:
        """What `encode_pair` makes of pictures and words."""
        side = self.design.shape[-1]
        latents = [base.encode_image(picture) for picture in (self.design, self.embroidery)]
        prompts = [encode_tokens(base, tokens) for tokens in (self.des, self.emb)]
        return EncodedPair(*latents, *prompts, (side, side), (side, side), ((0, 0),))


@torch.no_grad()
def encode_tokens(base: Base, tokens: torch.Tensor) -> Prompt:
    """Every encoder's last but one layer and the last one's pooled text, as SDXL's pipeline takes them."""
    encoders = [net for net in (base.text_encoder, base.text_encoder_2) if net is not None]
    answers = [net(tokens, output_hidden_states=True) for net in encoders]
    return Prompt(torch.cat([answer.hidden_states[-2] for answer in answers], -1), answers[-1].text_embeds)


# -- training: ours and the plain loop --------------------------------------------------------------------------------


class PlainModel(RoutedModel):
    """Shares nothing between passes."""

    def predict_both(self, z, t, batch, *, residuals=None):
        return tuple(self.predict(z, t, batch, style=style, residuals=residuals) for style in (False, True))


def plain_steps(which: str, model: RoutedModel, sources: Sequence[Source], autocast: Callable) -> list[Step]:
    """The steps of a stage with everything in the loop; draws and losses are those of `stage_one` and `stage_two`."""
    base, settings = model.base, StageTwo()

    def batches(generator: torch.Generator):
        if which == "two":
            torch.randint(1, (), generator=generator)  # which generated pair
        return [draw(base, [source.encoded(base)], 1, generator) for source in sources]

    def denoise(generator: torch.Generator, style: bool) -> dict[str, torch.Tensor]:
        name = "L_emb" if style else "L_des"
        with autocast():
            rows = denoising(model, functools.reduce(join, batches(generator)), generator, style=style)
        return dict(zip((name, f"{name} generated"), rows, strict=False))

    def contrasted(generator: torch.Generator) -> dict[str, torch.Tensor]:
        with autocast():
            return {"L_con": contrast(model, *batches(generator), generator, settings.temperature)}

    steps = [Step("theta_a", lambda rng: denoise(rng, False))]
    if which == "one":
        return [*steps, Step("theta_e", lambda rng: denoise(rng, True))]
    weights = {"L_emb": settings.reference_weight, "L_emb generated": settings.generated_weight}
    steps.append(Step("theta_e", lambda rng: denoise(rng, True), weights))
    return [*steps, Step("theta_e", contrasted, {"L_con": settings.contrastive_weight})]


def by_pipeline(base: Base, pair: EncodedPair, picture: torch.Tensor, steps: int, seed: int) -> torch.Tensor:
    """A picture (1, 3, H, W) in [0, 1] redrawn by diffusers' own pipeline, itself both conditions."""
    return base.image_pipeline(("tile", "canny"))(
        prompt_embeds=pair.c_emb.embeds,
        pooled_prompt_embeds=pair.c_emb.pooled,
        negative_prompt_embeds=pair.c_des.embeds,
        negative_pooled_prompt_embeds=pair.c_des.pooled,
        image=picture,
        control_image=[picture, picture],
        controlnet_conditioning_scale=[0.5, 0.5],
        strength=1.0,
        num_inference_steps=steps,
        guidance_scale=7.0,
        generator=generator(seed, "apply"),
        output_type="pt",
    ).images


class Bench:
    """What the sections share, and their results."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.start = time.monotonic()
        self.options = options
        self.size = SIZES[options.size]
        self.device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
        precision = options.precision or ("bfloat16" if self.cuda else "float32")
        self.dtype = getattr(torch, precision)
        self.results: dict[str, dict] = {}
        name = torch.cuda.get_device_name() if self.cuda else f"{platform.machine()} CPU"
        self.machine = {"device": name, "torch": torch.__version__, "threads": torch.get_num_threads()}
        self.machine |= {"size": options.size, "pixels": self.size.pixels, "precision": precision}
        began = time.monotonic()
        self.base = build(self.size, self.device, self.dtype)
        self.sources = [Source.random(self.size, self.base, seed) for seed in (0, 1)]
        self.wait()
        count = sum(p.numel() for p in self.base.unet.parameters())
        self.tell("build", seconds=time.monotonic() - began, unet_parameters=count)
        began = time.monotonic()
        self.pairs = [source.encoded(self.base) for source in self.sources]
        self.wait()
        self.tell("encode two pairs", seconds=time.monotonic() - began, peak_GiB=self.peak())

    @property
    def cuda(self) -> bool:
        return self.device.type == "cuda"

    def left(self) -> float:
        return self.options.seconds - (time.monotonic() - self.start)

    def wait(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()

    def fresh(self) -> None:
        """Forget the peak so far (on a CPU it cannot be forgotten)."""
        gc.collect()
        if self.cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def peak(self) -> float:
        if self.cuda:
            return torch.cuda.max_memory_allocated() / 2**30
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)

    def tell(self, name: str, **values) -> dict:
        """Keep and print a result."""
        self.results[name] = values
        brief = {k: v for k, v in values.items() if not isinstance(v, dict)}
        figures = ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in brief.items())
        print(f"[{time.monotonic() - self.start:6.1f} s] {name}: {figures}", flush=True)
        if self.options.out:
            folder = Path(self.options.out)
            folder.mkdir(parents=True, exist_ok=True)
            content = {"machine": self.machine, "results": self.results}
            (folder / "sdxl.json").write_text(json.dumps(content, indent=1))
        return values

    def timed(self, work: Callable[[], object], repeats: int) -> float:
        """Median seconds, the first time not counted."""
        seconds = []
        for _ in range(repeats + 1):
            self.wait()
            began = time.perf_counter()
            work()
            self.wait()
            seconds.append(time.perf_counter() - began)
            if self.left() < 0:
                break
        return statistics.median(seconds[1:] or seconds)

    # -- sections -----------------------------------------------------------------------------------------------------

    def matrix(self) -> None:
        """The ceiling: a matrix product in the precision of the base."""
        side = self.size.matrix
        a, b = (torch.randn(side, side, device=self.device).to(self.dtype) for _ in range(2))
        seconds = self.timed(lambda: a @ b, 20)
        self.tell("matrix", side=side, TFLOP_per_s=2 * side**3 / seconds / 1e12)

    def model(self, kind: type[RoutedModel] = RoutedModel) -> RoutedModel:
        return kind(self.base, STYLE_BLOCKS)

    def steps(self, which: str) -> list[Step]:
        if which == "one":
            return stage_one(self.model(), self.pairs[:1], 1)
        return stage_two(self.model(), self.pairs[:1], self.pairs[1:], StageTwo())

    @contextlib.contextmanager
    def lora(self, base: Base | None = None) -> Iterator[Adapter]:
        """A fresh LoRA; on our own base as `learn` has it, the UNet alone on the device."""
        numbers = Lora(rank=self.size.rank, alpha=float(self.size.rank))
        room = contextlib.nullcontext() if base else unet_alone(self.base, "")
        with room, adapted(base or self.base, STYLE_BLOCKS, numbers, generator(0, "lora")) as adapter:
            yield adapter

    @contextlib.contextmanager
    def away(self, *nets: torch.nn.Module) -> Iterator[None]:
        """While open, these are not on the device."""
        for net in nets:
            net.to("cpu")
        try:
            yield
        finally:
            for net in nets:
                net.to(self.device)

    def trained(
        self, which: str, adapter: Adapter, steps: Sequence[Step], iterations: int, reserve: float = 0.0
    ) -> dict:
        """Seconds an iteration in tambour's own loop, and the losses."""
        numbers = (Stage if which == "one" else StageTwo)(iterations=iterations)
        curves: dict[str, list[float]] = {}
        seconds = []
        self.fresh()
        with tempfile.TemporaryDirectory() as folder:
            common = dict(seed=0, checkpoint=Path(folder) / "state", every_seconds=1e9, curves=curves)
            self.wait()
            began = time.perf_counter()
            for _ in train(f"stage {which}", adapter, steps, numbers, **common):
                self.wait()
                seconds.append(time.perf_counter() - began)
                if self.left() < reserve:
                    break
                began = time.perf_counter()
        whole = len(seconds) == iterations
        inner = (
            seconds[2 : -1 if whole else None] or seconds[1:-1] or seconds[:1]
        )  # warm, and without the checkpoint at the end
        middle = statistics.median(inner)
        return {
            "seconds": middle,
            "first": seconds[0],
            "checkpoint": max(0.0, seconds[-1] - middle) if whole else None,
            "peak_GiB": self.peak(),
            "iterations": len(seconds),
            "losses": curves,
        }

    def operations(self, adapter: Adapter, steps: Sequence[Step]) -> float:
        """Floating-point operations of an iteration, TFLOP."""
        sets = {"theta_a": adapter.theta_a, "theta_e": adapter.theta_e}
        with FlopCounterMode(display=False) as counter:
            for number, step in enumerate(steps):
                parameters = list(sets[step.updates].values())
                with updating(adapter, parameters):
                    sum(step.losses(generator(1, "count", number)).values()).backward()
                for parameter in parameters:
                    parameter.grad = None
        return counter.get_total_flops() / 1e12

    def ours(self, which: str) -> None:
        """A stage through tambour's own code."""
        steps = self.steps(which)
        with self.lora() as adapter:
            figures = self.trained(which, adapter, steps, self.options.iterations)
            figures["TFLOP"] = self.operations(adapter, steps)
        figures["TFLOP_per_s"] = figures["TFLOP"] / figures["seconds"]
        if "matrix" in self.results:
            figures["share"] = figures["TFLOP_per_s"] / self.results["matrix"]["TFLOP_per_s"]
        self.tell(f"ours {which}", **figures)

    def one(self) -> None:
        self.ours("one")

    def two(self) -> None:
        self.ours("two")

    def plain(self) -> None:
        """Both stages in the plain loop: the UNet in float32 under autocast, encoders in the loop, nothing shared."""
        self.fresh()
        full = dataclasses.replace(self.base, unet=copy.deepcopy(self.base.unet).float(), dtype=torch.float32)
        # prompts and latents come out of the half precision encoders as they do for ours
        model = PlainModel(full, STYLE_BLOCKS)
        autocast = functools.partial(torch.autocast, self.device.type, self.dtype)
        if self.dtype == torch.float32:
            autocast = contextlib.nullcontext
        ours = (self.base.unet, *self.base.controlnets.values())
        for which, sources in (("one", self.sources[:1]), ("two", self.sources)):
            if self.left() < 0:
                return
            with self.away(*ours), self.lora(full) as adapter:
                steps = plain_steps(which, model, sources, autocast)
                figures = self.trained(which, adapter, steps, self.options.iterations)
            mine = self.results.get(f"ours {which}")
            if mine:
                figures["plain / ours"] = figures["seconds"] / mine["seconds"]
                gaps = [
                    abs(a - b) / max(abs(b), 1e-3)
                    for name, values in figures["losses"].items()
                    for a, b in zip(mine["losses"][name], values, strict=False)
                ]
                figures["largest relative difference of losses"] = max(gaps)
            self.tell(f"plain {which}", **figures)

    def ours_drawn(self, base: Base, count: int, steps: int) -> torch.Tensor:
        """SDEdit at strength 1 (every step), guidance, two ControlNets; decoded."""
        side = self.size.pixels
        picture = torch.rand(count, 3, side, side, device=self.device).to(base.dtype)
        drawing = sample(
            base,
            self.pairs[0].c_emb,
            negative=self.pairs[0].c_des,
            guidance_scale=7.0,
            size=(side, side),
            generators=[generator(seed, "apply") for seed in range(count)],
            steps=steps,
            start=2 * picture - 1,
            conditions={kind: Condition(picture, 0.5) for kind in ("tile", "canny")},
        )
        return finished(drawing)

    def pipeline_drawn(self) -> torch.Tensor:
        """The same by diffusers' own pipeline, one picture."""
        side = self.size.pixels
        picture = torch.rand(1, 3, side, side, device=self.device).to(self.dtype)
        return by_pipeline(self.base, self.pairs[0], picture, self.options.steps, 0)

    def sampling(self) -> None:
        """Pictures one by one and in batches, beside diffusers' pipeline."""
        steps, work, single = self.options.steps, 0.0, None
        for name, count in (
            (f"sampling 1 x {steps} steps", 1),
            (f"sampling {self.options.batch} x {steps} steps", self.options.batch),
            ("pipeline", 1),
        ):
            if self.left() < 0:
                return
            self.fresh()
            if name == "pipeline":
                seconds = self.timed(self.pipeline_drawn, 2)
            else:
                seconds = self.timed(functools.partial(self.ours_drawn, self.base, count, steps), 2)
            figures = {"seconds": seconds, "a picture": seconds / count, "peak_GiB": self.peak()}
            if single is None:  # counting is slow: two short runs tell what a step takes and what is done once
                single = seconds
                with FlopCounterMode(display=False) as counter:
                    pictures = self.ours_drawn(self.base, 1, 1)
                once = counter.get_total_flops() / 1e12
                with FlopCounterMode(display=False) as counter:
                    self.ours_drawn(self.base, 1, 2)
                work = once + (steps - 1) * (counter.get_total_flops() / 1e12 - once)
                figures["finite"] = bool(pictures.isfinite().all())
            else:
                figures["this / ours"] = seconds / count / single
            if name != "pipeline":
                figures |= {"TFLOP": count * work, "TFLOP_per_s": count * work / seconds}
                if "matrix" in self.results:
                    figures["share"] = figures["TFLOP_per_s"] / self.results["matrix"]["TFLOP_per_s"]
            self.tell(name, **figures)

    def checkpointing(self) -> None:
        """Both stages again with gradient checkpointing: peak memory, and what it costs in time."""
        self.base.unet.enable_gradient_checkpointing()
        try:
            for which in ("one", "two"):
                if self.left() < 0:
                    return
                with self.lora() as adapter:
                    figures = self.trained(which, adapter, self.steps(which), min(5, self.options.iterations))
                self.tell(f"checkpointed {which}", **figures)
        finally:
            self.base.unet.disable_gradient_checkpointing()

    def learn(self) -> None:
        """A whole `learn` at the paper's counts: projected from measured parts; the training itself if time allows."""
        analysis = Analysis(steps=5, segments=5)
        pair, began = self.pairs[0], time.perf_counter()
        size = self.base.time_ids(self.size.pixels, self.size.pixels)
        for _ in compare(
            self.base, (pair.design, pair.c_des), (pair.embroidery, pair.c_emb), size, analysis, stage="blocks"
        ):
            pass
        self.wait()
        row = (time.perf_counter() - began) / (analysis.steps * 2)  # a picture's inversion step
        steps = self.size.inversion
        rows = {"blocks": steps * 2, "filter 1": steps // 2 * (10 + 3), "filter 2": steps * (5 + 2)}  # batches of 1 + 4
        parts = {name: count * row for name, count in rows.items()}

        pipeline, count = self.base.text_pipeline(), 4
        began = time.perf_counter()
        pipeline(
            prompt_embeds=pair.c_emb.embeds,
            pooled_prompt_embeds=pair.c_emb.pooled,
            negative_prompt_embeds=pair.c_des.embeds,
            negative_pooled_prompt_embeds=pair.c_des.pooled,
            height=self.size.pixels,
            width=self.size.pixels,
            num_inference_steps=count,
            guidance_scale=7.0,
            generator=generator(0, "imagine"),
            output_type="pt",
        )
        self.wait()
        parts["complement"] = 10 * 30 / count * (time.perf_counter() - began)
        parts["encode"] = self.results["encode two pairs"]["seconds"] * 2
        counts = dict(zip(("one", "two"), self.size.iterations, strict=True))
        for which, iterations in counts.items():
            figures = self.results.get(f"ours {which}")
            if figures is None:
                return
            parts[f"stage {which}"] = figures["seconds"] * iterations
            writes = 1 + int(parts[f"stage {which}"] // 15)  # checkpoint_seconds
            parts[f"checkpoints {which}"] = writes * (figures["checkpoint"] or 0.0)
        figures = {"seconds": sum(parts.values())}
        plain = [self.results.get(f"plain {which}") for which in counts]
        if all(plain):
            slower = sum((p["plain / ours"] - 1) * parts[f"stage {w}"] for w, p in zip(counts, plain, strict=True))
            figures["plain / ours"] = 1 + slower / figures["seconds"]
        self.tell("learn, projected", **figures, **parts)

        wanted = sum(parts[f"stage {which}"] + parts[f"checkpoints {which}"] for which in counts)
        if self.left() < 1.1 * wanted + 10:
            print(f"{'':11}learn is not measured: {wanted:.0f} s are needed", flush=True)
            return
        began = time.perf_counter()
        with self.lora() as adapter:
            for which, iterations in counts.items():
                figures = self.trained(which, adapter, self.steps(which), iterations)
                if figures["iterations"] < iterations:
                    return
        both = time.perf_counter() - began
        rest = sum(v for k, v in parts.items() if not k.startswith(("stage", "checkpoints")))
        self.tell("learn, training measured", training=both, seconds=both + rest, finite=True)

    def lean(self) -> None:
        """Least memory: weights of attention in 8 bits, idle parts elsewhere, checkpointing."""
        began, before = time.perf_counter(), self.base
        for net in (self.base.unet, *self.base.controlnets.values()):
            quantize(net)
        self.wait()
        self.tell("quantize", seconds=time.perf_counter() - began)
        self.base = dataclasses.replace(before, offloaded=True)
        idle = (self.base.vae, self.base.text_encoder, self.base.text_encoder_2, *self.base.controlnets.values())
        for net in idle:
            if net is not None:
                net.to("cpu")
        self.base.unet.enable_gradient_checkpointing()
        for which in ("one", "two"):
            if self.left() < 0:
                break
            with self.lora() as adapter:
                figures = self.trained(which, adapter, self.steps(which), min(5, self.options.iterations))
            if f"ours {which}" in self.results:
                figures["this / ours"] = figures["seconds"] / self.results[f"ours {which}"]["seconds"]
            self.tell(f"lean {which}", **figures)
        if self.left() > 0:
            self.fresh()
            seconds = self.timed(lambda: self.ours_drawn(self.base, 1, self.options.steps), 1)
            self.tell("lean sampling", seconds=seconds, peak_GiB=self.peak())
        del before
        self.base = build(self.size, self.device, self.dtype)  # the weights are the same, by their seed

    def variants(self) -> None:
        """Ideas to weigh on the machine: what a stage-one iteration takes with each of them."""

        @contextlib.contextmanager
        def tf32():
            before = torch.backends.cuda.matmul.allow_tf32
            torch.backends.cuda.matmul.allow_tf32 = True
            try:
                yield
            finally:
                torch.backends.cuda.matmul.allow_tf32 = before

        @contextlib.contextmanager
        def channels_last():
            self.base.unet.to(memory_format=torch.channels_last)
            try:
                yield
            finally:
                self.base.unet.to(memory_format=torch.contiguous_format)

        def autocast():
            if self.dtype == torch.float32:
                return contextlib.nullcontext()
            return torch.autocast(self.device.type, self.dtype)

        @contextlib.contextmanager
        def compiled():
            compile_blocks(self.base.unet, self.cuda)
            try:
                yield
            finally:
                uncompile_blocks(self.base.unet)

        def within(step: Step, context: Callable) -> Step:
            def losses(rng):
                with context():
                    return step.losses(rng)

            return dataclasses.replace(step, losses=losses)

        nothing = contextlib.nullcontext
        for name, around, inside in (
            ("tf32 for the LoRA", tf32, nothing),
            ("autocast for the LoRA", nothing, autocast),
            ("channels last", channels_last, nothing),
            ("compiled blocks", compiled, nothing),
        ):
            if self.left() < 20:
                return
            with self.lora() as adapter, around():
                steps = [within(step, inside) for step in self.steps("one")]
                figures = self.trained("one", adapter, steps, self.options.iterations)
            if "ours one" in self.results:
                figures["ours / this"] = self.results["ours one"]["seconds"] / figures["seconds"]
            self.tell(f"variant {name}", **figures)

    # -- the end ------------------------------------------------------------------------------------------------------

    def table(self) -> None:
        print(f"\n{', '.join(f'{key} {value}' for key, value in self.machine.items())}\n")
        print(f"{'':28} {'seconds':>9} {'TFLOP/s':>9} {'share':>7} {'peak GiB':>9} {'ratio':>7}")
        for name, figures in self.results.items():
            ratio = figures.get("plain / ours") or figures.get("ours / this") or figures.get("this / ours")
            if "seconds" in figures:
                cells = [
                    (figures["seconds"], "9.3f"),
                    (figures.get("TFLOP_per_s"), "9.1f"),
                    (figures.get("share"), "7.3f"),
                ]
                cells += [(figures.get("peak_GiB"), "9.2f"), (ratio, "7.2f")]
                texts = (" " * int(f.split(".")[0]) if v is None else format(v, f) for v, f in cells)
                print(f"{name:28} {' '.join(texts)}".rstrip())
        print("\nratio: plain / ours for the plain loop, this / ours for sampling and lean, ours / this for variants")
        print("goals:", GOALS)


def compile_blocks(unet: torch.nn.Module, cuda: bool) -> None:
    """Compile the transformer blocks, one region for all of one shape."""
    torch._dynamo.config.recompile_limit = 64
    unet.compile_repeated_blocks(backend="inductor" if cuda else "aot_eager")


def uncompile_blocks(unet: torch.nn.Module) -> None:
    for module in unet.modules():
        module._compiled_call_impl = None
    torch._dynamo.reset()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="full")
    parser.add_argument("--sections", default=",".join(SECTIONS), help="of: " + ", ".join(SECTIONS))
    parser.add_argument(
        "--seconds", type=float, default=540.0, help="begin nothing new after that; all ends 20 s later"
    )
    parser.add_argument("--out", help="folder for sdxl.json")
    parser.add_argument("--device", help="default: the GPU if there is one")
    parser.add_argument("--precision", choices=("bfloat16", "float16", "float32"), help="default: bfloat16 on a GPU")
    parser.add_argument("--iterations", type=int, default=12, help="measured in each stage")
    parser.add_argument("--steps", type=int, default=30, help="of sampling")
    parser.add_argument("--batch", type=int, default=4, help="pictures sampled together")
    options = parser.parse_args()
    wanted = options.sections.split(",")
    unknown = sorted(set(wanted) - set(SECTIONS))
    if unknown:
        sys.exit(f"Section {unknown[0]!r} is not known; allowed: {', '.join(SECTIONS)}.")
    bench, failed = Bench(options), []

    def stop(*_) -> None:
        """What cannot be left between two iterations, a compilation, is left here."""
        bench.table()
        print("time is up", flush=True)
        os._exit(0)

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(max(1, int(bench.left()) + 20))
    for section in SECTIONS:
        if section not in wanted:
            continue
        if bench.left() < 0:
            print(f"{'':11}{section}: no time left", flush=True)
            continue
        try:
            getattr(bench, section)()
        except (RuntimeError, ValueError, TypeError, AttributeError, KeyError) as fault:  # keep what the others give
            traceback.print_exc()
            bench.tell(f"{section} failed", reason=str(fault)[:300])
            failed.append(section)
        gc.collect()
    bench.table()
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()

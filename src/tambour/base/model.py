"""One contract for every base model; its components are diffusers' and transformers' own classes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import diffusers
import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    ControlNetModel,
    ControlNetUnionModel,
    StableDiffusionXLControlNetImg2ImgPipeline,
    StableDiffusionXLControlNetUnionImg2ImgPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from tambour.base.quiet import quiet
from tambour.base.tiles import blended, places
from tambour.errors import BaseModelError

LARGE = 2048  # px a side: from here on pictures go through the autoencoder in tiles, lest it takes gigabytes
TILE, TILE_OVERLAP = 512, 0.25  # px, share

UNION = "union"  # the kind of a ControlNet that serves others' places
UNION_MODES = {"canny": 3, "tile": 6}  # xinsir/controlnet-union-sdxl-1.0: ProMax has 8 modes, the plain one 6, no tile


@dataclass(frozen=True)
class Prompt:
    """Encoded text.

    Attributes:
        embeds: (B, T, d), the keys and values of cross-attention.
        pooled: (B, p), the text's part of the time embedding.
    """

    embeds: torch.Tensor
    pooled: torch.Tensor

    def expand(self, batch: int) -> Prompt:
        """One prompt repeated for a batch; a batch of that size as it is."""
        return Prompt(self.embeds.expand(batch, -1, -1), self.pooled.expand(batch, -1))


@dataclass
class Base:
    """A loaded base model: frozen, in evaluation mode, on one device in one dtype.

    Attributes:
        name: "mini", "sdxl" or the folder, as the user gave it.
        fingerprint: sha256 hex; equal for the same weights in float32 or float16 files (see `fingerprint`).
        text_encoder, tokenizer: None where the model has one text encoder alone, `text_encoder_2`.
        scheduler: what the base was trained with; samplers are copies of it.
        controlnets: by kind, "tile" and "canny"; or "union", which serves as those it has modes for.
        offloaded: all parts but the UNet are in the computer's memory and come to the device only while they are used;
            pictures go through the autoencoder in tiles of `TILE` px.
    """

    name: str
    fingerprint: str
    unet: UNet2DConditionModel
    vae: AutoencoderKL | AutoencoderTiny
    text_encoder: CLIPTextModel | None
    text_encoder_2: CLIPTextModelWithProjection
    tokenizer: CLIPTokenizer | None
    tokenizer_2: CLIPTokenizer
    scheduler: diffusers.SchedulerMixin
    controlnets: dict[str, ControlNetModel | ControlNetUnionModel]
    device: torch.device
    dtype: torch.dtype
    offloaded: bool = False

    @functools.cached_property
    def attention_blocks(self) -> tuple[str, ...]:
        """Names of the UNet's attention blocks in the order down, mid, up (SDXL's shape has 11)."""
        names = [name for name, module in self.unet.named_modules() if isinstance(module, Transformer2DModel)]
        return tuple(sorted(names, key=lambda name: ("down", "mid", "up").index(name.split("_")[0])))

    @property
    def vae_factor(self) -> int:
        """Pixels a latent covers, per side."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def latent_channels(self) -> int:
        return self.unet.config.in_channels

    @property
    def pixel_multiple(self) -> int:
        """Image sides must be multiples of this: the autoencoder's factor times the UNet's."""
        return self.vae_factor * 2 ** (len(self.unet.config.down_block_types) - 1)

    @property
    def native(self) -> int:
        """Side of the square pictures the base was made for, px."""
        return self.unet.config.sample_size * self.vae_factor

    @property
    def prediction_type(self) -> str:
        """What the UNet predicts: "epsilon", "sample" (x0) or "v_prediction"."""
        return self.scheduler.config.prediction_type

    # -- text -----------------------------------------------------------------------------------------------------

    def token_room(self, text: str) -> int:
        """How many tokens may follow `text`; negative: so many of it are cut off."""
        tokenizers = [tokenizer for tokenizer in (self.tokenizer, self.tokenizer_2) if tokenizer is not None]
        with quiet():  # the tokenizer complains about long texts itself
            return min(t.model_max_length - len(t(text).input_ids) for t in tokenizers)

    @torch.no_grad()
    def encode_prompt(self, texts: Sequence[str]) -> Prompt:
        """Encode texts exactly as diffusers' pipeline does: embeds (B, T, d), pooled (B, p)."""
        encoders = [net for net in (self.text_encoder, self.text_encoder_2) if net is not None]
        with self.on_device(*encoders):
            embeds, _, pooled, _ = self.text_pipeline().encode_prompt(
                list(texts), device=self.device, do_classifier_free_guidance=False
            )
        return Prompt(embeds, pooled)

    # -- images and latents ---------------------------------------------------------------------------------------

    @torch.no_grad()
    def encode_image(self, image: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        """Image (B, 3, H, W) in [-1, 1] -> scaled latents (B, c, H / f, W / f).

        `generator` draws from the posterior of a variational autoencoder; without it its mode is taken.
        """
        with self._precise_vae() as vae:
            image = image.to(self.device, vae.dtype)

            def code(part: torch.Tensor) -> torch.Tensor:
                answer = vae.encode(part)
                return answer.latents if hasattr(answer, "latents") else answer.latent_dist.parameters

            found = self._in_tiles(image, code, encode=True)
        if found.shape[1] == 2 * self.vae.config.latent_channels:  # mean and variance, side by side
            posterior = DiagonalGaussianDistribution(found)
            found = posterior.mode() if generator is None else posterior.sample(generator)
        mean, std = self._latent_statistics()
        return ((found - mean) * self.vae.config.scaling_factor / std).to(self.dtype)

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Scaled latents (B, c, h, w) -> image (B, 3, h f, w f) in [-1, 1].

        What overflows in float16 is done again in float32.
        """
        return self.decode_with_gradient(latents)

    def decode_with_gradient(self, latents: torch.Tensor) -> torch.Tensor:
        """`decode`, through which gradients flow to the latents."""
        mean, std = self._latent_statistics()

        def decoded(precise: bool) -> torch.Tensor:
            with self._precise_vae(precise) as vae:
                raw = (latents.to(self.device, vae.dtype) * std / self.vae.config.scaling_factor + mean).to(vae.dtype)
                return self._in_tiles(raw, lambda part: vae.decode(part).sample, encode=False)

        image = decoded(False)
        if self.vae.dtype == torch.float16 and not image.isfinite().all():
            image = decoded(True)
        return image.to(self.dtype).clamp(-1, 1)

    def _in_tiles(self, x: torch.Tensor, compute: Callable[[torch.Tensor], torch.Tensor], encode: bool) -> torch.Tensor:
        """`compute(x)`, tile by tile where pictures are large. It encodes pictures (`encode`) or decodes latents."""
        f = self.vae_factor
        read, write = (f, 1) if encode else (1, f)  # sides of input and output, per latent
        grid = (x.shape[-2] // read, x.shape[-1] // read)
        if max(grid) * f < LARGE and not self.offloaded:
            return compute(x)
        tile = tuple(min(TILE // f, side) for side in grid)

        def part(_number: int, corner: tuple[int, int]) -> torch.Tensor:
            top, left = (at // write * read for at in corner)
            return compute(x[..., top : top + tile[0] * read, left : left + tile[1] * read])

        corners = [(top * write, left * write) for top, left in places(*grid, tile, TILE_OVERLAP)]
        size, tiled = (tuple(side * write for side in sides) for sides in (grid, tile))
        return blended(corners, size, tiled, TILE_OVERLAP, part)

    def _latent_statistics(self) -> tuple[torch.Tensor | float, torch.Tensor | float]:
        """Mean and standard deviation of raw latents, where the autoencoder's configuration has them."""
        mean, std = (getattr(self.vae.config, f"latents_{name}", None) for name in ("mean", "std"))
        if mean is None or std is None:
            return 0.0, 1.0
        return tuple(torch.tensor(v, device=self.device).view(1, -1, 1, 1) for v in (mean, std))

    @contextmanager
    def _precise_vae(self, precise: bool = False) -> Iterator[AutoencoderKL | AutoencoderTiny]:
        """The autoencoder, in float32 for as long as it needs to be (SDXL's own overflows in float16) or `precise`."""
        upcast = (self.vae.config.force_upcast or precise) and self.vae.dtype == torch.float16
        with self.on_device(self.vae):
            try:
                yield self.vae.float() if upcast else self.vae
            finally:
                if upcast:
                    self.vae.half()

    @contextmanager
    def on_device(self, *networks: torch.nn.Module) -> Iterator[None]:
        """While open, these networks are on the device; those that were not (`offloaded`) go back to the CPU then."""
        waiting = [net for net in networks if self.offloaded and next(net.parameters()).device != self.device]
        try:
            for net in waiting:
                net.to(self.device)
            yield
        finally:
            for net in waiting:
                net.to("cpu")

    def time_ids(
        self, height: int, width: int, crop: tuple[int, int] = (0, 0), original: tuple[int, int] | None = None
    ) -> torch.Tensor:
        """SDXL's size conditions (1, 6), px: original height, width; crop top, left; target height, width."""
        values = [*(original or (height, width)), *crop, height, width]
        return torch.tensor([values], device=self.device, dtype=self.dtype)

    # -- the diffusion --------------------------------------------------------------------------------------------

    def predict(
        self,
        latents: torch.Tensor,
        t: torch.Tensor | int,
        prompt: Prompt,
        time_ids: torch.Tensor,
        *,
        per_block: Mapping[str, Prompt] | None = None,
    ) -> torch.Tensor:
        """The UNet's raw output (B, c, h, w) for latents noised to `t` (scalar or (B,)).

        `prompt` and `time_ids` of batch 1 serve the whole batch. `per_block`: prompts of attention blocks, by name, in
        place of `prompt`; the pooled text stays `prompt`'s.
        """
        batch = latents.shape[0]
        prompt = prompt.expand(batch)
        with ExitStack() as stack:
            for name, other in (per_block or {}).items():
                stack.enter_context(_given_text(self.unet.get_submodule(name), other.expand(batch).embeds))
            return self.unet(
                latents,
                t,
                encoder_hidden_states=prompt.embeds,
                added_cond_kwargs={"text_embeds": prompt.pooled, "time_ids": time_ids.expand(batch, -1)},
                return_dict=False,
            )[0]

    def _signal_and_noise(self, t: torch.Tensor | int) -> tuple[torch.Tensor, torch.Tensor]:
        """a and s of z_t = a z_0 + s eps, each (B or 1, 1, 1, 1); t counts training timesteps."""
        t = torch.as_tensor(t).reshape(-1, 1, 1, 1).long().cpu()
        alphas = self.scheduler.alphas_cumprod.cpu().float()[t].to(self.device)
        return alphas.sqrt().to(self.dtype), (1 - alphas).sqrt().to(self.dtype)

    def add_noise(self, latents: torch.Tensor, noise: torch.Tensor, t: torch.Tensor | int) -> torch.Tensor:
        """z_t = a z_0 + s eps."""
        a, s = self._signal_and_noise(t)
        return a * latents + s * noise

    def to_epsilon(self, output: torch.Tensor, latents: torch.Tensor, t: torch.Tensor | int) -> torch.Tensor:
        """The UNet's output at z_t = `latents` as predicted noise (method, section 5: losses live in noise space)."""
        a, s = self._signal_and_noise(t)
        if self.prediction_type == "epsilon":
            return output
        if self.prediction_type == "sample":
            return (latents - a * output) / s
        return a * output + s * latents

    def to_x0(self, output: torch.Tensor, latents: torch.Tensor, t: torch.Tensor | int) -> torch.Tensor:
        """The UNet's output at z_t = `latents` as predicted clean latents."""
        a, s = self._signal_and_noise(t)
        if self.prediction_type == "sample":
            return output
        if self.prediction_type == "epsilon":
            return (latents - s * output) / a
        return a * latents - s * output

    # -- diffusers' own pipelines over these components -----------------------------------------------------------

    def sampler(self) -> diffusers.SchedulerMixin:
        """A copy of the scheduler with no state, for one run."""
        return type(self.scheduler).from_config(self.scheduler.config)

    def text_pipeline(self) -> StableDiffusionXLPipeline:
        return self._pipeline(StableDiffusionXLPipeline)

    def check_controlnets(self, kinds: Sequence[str]) -> None:
        """Refuse kinds of ControlNets that this base lacks.

        Raises:
            BaseModelError: names the first of them.
        """
        union = self.controlnets.get(UNION)
        modes = union.config.num_control_type if union else 0
        absent = [k for k in kinds if k not in self.controlnets and not UNION_MODES.get(k, modes) < modes]
        if absent:
            have = ", ".join(self.controlnets) or "none"
            raise BaseModelError(
                f"Base {self.name!r} has no ControlNet {absent[0]!r} (it has: {have}).",
                f"Add a folder controlnet_{absent[0]}/ to it, or use another base.",
            )

    def image_pipeline(self, kinds: Sequence[str]) -> Callable:
        """SDEdit under the ControlNets named by `kinds`, their images and scales given as lists in that order.

        A diffusers pipeline; where the union ControlNet must serve, one with its modes filled in.

        Raises:
            BaseModelError: a ControlNet is not there, or `kinds` is empty.
        """
        if not kinds:
            raise BaseModelError("A picture is drawn under one ControlNet at least.", "Give tile or canny a weight.")
        self.check_controlnets(kinds)
        if all(kind in self.controlnets for kind in kinds):
            nets = [self.controlnets[kind] for kind in kinds]
            return self._pipeline(StableDiffusionXLControlNetImg2ImgPipeline, controlnet=nets)
        union = self._pipeline(StableDiffusionXLControlNetUnionImg2ImgPipeline, controlnet=self.controlnets[UNION])
        return functools.partial(union, control_mode=[UNION_MODES[kind] for kind in kinds])

    def _pipeline(self, kind: type, **extra):
        pipeline = kind(
            vae=self.vae,
            text_encoder=self.text_encoder,
            text_encoder_2=self.text_encoder_2,
            tokenizer=self.tokenizer,
            tokenizer_2=self.tokenizer_2,
            unet=self.unet,
            scheduler=self.sampler(),
            add_watermarker=False,
            **extra,
        )
        pipeline.set_progress_bar_config(disable=True)
        return pipeline


@contextmanager
def _given_text(block: Transformer2DModel, embeds: torch.Tensor) -> Iterator[None]:
    """While open, `block` attends to `embeds` (B, T, d) in place of the text it is called with."""

    def swap(_module, args, kwargs):
        return args, {**kwargs, "encoder_hidden_states": embeds}

    handle = block.register_forward_pre_hook(swap, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def base_only(unet: nn.Module) -> Iterator[None]:
    """While open, the UNet predicts as theta_0 alone. Which parameters want gradients is not changed."""
    wants = [(parameter, parameter.requires_grad) for name, parameter in unet.named_parameters() if ".lora_" in name]
    unet.disable_adapters()
    try:
        yield
    finally:
        unet.enable_adapters()
        for parameter, wanted in wants:
            parameter.requires_grad_(wanted)

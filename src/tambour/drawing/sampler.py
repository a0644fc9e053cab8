"""Sampling: a picture from words, or from another picture noised (SDEdit), under structure conditions.

It computes what diffusers' SDXL pipelines compute (tests compare), as an iterable of steps, and leaner:
- pictures are drawn in batches, each with its own start, conditions and generator;
- a ControlNet's embedding of its condition, which no step changes, is computed once, and a ControlNet that hears no
  text is asked once for both halves of guidance;
- a picture far larger than the base's native size is drawn in overlapping windows of that size, whose predictions are
  averaged in every step (MultiDiffusion, Bar-Tal et al. 2023). So the base sees what it was trained on, and stitches
  keep their size in px;
- parts of the picture can be kept as they were, noised to every step's level (as in diffusers' inpainting);
- a LoRA can be held to a part of the picture: the base alone draws the rest.
"""

from __future__ import annotations

import inspect
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import nn

from tambour.base.model import UNION, UNION_MODES, Base, Prompt, base_only
from tambour.base.sharing import Memory, remembered
from tambour.base.tiles import blended, places

OVERLAP = 0.25  # of neighbouring windows
Residuals = tuple[list[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Condition:
    """What one ControlNet is shown.

    Attributes:
        image: (B, 3, H, W) in [0, 1], or (1, 3, H, W) for the whole batch.
        scale: of what it adds; above 0.
    """

    image: torch.Tensor
    scale: float


@dataclass(frozen=True)
class MaskedStyleGuidance:
    """What the base is asked without its LoRA, for all that lies outside of a region (ours; method, section 11).

    With e the base's prediction and e_style that with the LoRA, each under its own prompt and conditions, a step takes
    e + scale inside (e_style - e): style guidance (Jones et al. 2024, section 3.3), held to the region.

    Attributes:
        prompt: of batch 1 or B.
        conditions: by kind of ControlNet; the kinds and scales of the LoRA's own.
        inside: (B or 1, 1, H, W) in [0, 1], where the LoRA counts.
        scale: of its difference; 1: inside, the LoRA's prediction as it is.
    """

    prompt: Prompt
    conditions: Mapping[str, Condition]
    inside: torch.Tensor
    scale: float = 1.0


@dataclass(frozen=True)
class Guided:
    """The text of one batch: with guidance, both halves of it, the negative one first.

    Attributes:
        prompt: of B rows, or of 2 B.
        scale: of guidance; 1 or less: none.
    """

    prompt: Prompt
    scale: float

    @classmethod
    def of(cls, prompt: Prompt, negative: Prompt | None, scale: float, batch: int) -> Guided:
        prompt = prompt.expand(batch)
        if negative is None or scale <= 1:
            return cls(prompt, 1.0)
        negative = negative.expand(batch)
        both = (torch.cat(pair) for pair in ((negative.embeds, prompt.embeds), (negative.pooled, prompt.pooled)))
        return cls(Prompt(*both), scale)

    @property
    def halves(self) -> int:
        return 2 if self.scale > 1 else 1

    def combined(self, output: torch.Tensor) -> torch.Tensor:
        """The guided prediction (B, ...) from that of both halves."""
        if self.halves == 1:
            return output
        without, conditional = output.chunk(2)
        return without + self.scale * (conditional - without)


@torch.no_grad()
def sample(
    base: Base,
    prompt: Prompt,
    *,
    size: tuple[int, int],
    generators: Sequence[torch.Generator],
    steps: int,
    start: torch.Tensor | None = None,
    strength: float = 1.0,
    conditions: Mapping[str, Condition] | None = None,
    negative: Prompt | None = None,
    guidance_scale: float = 1.0,
    keep_mask: torch.Tensor | None = None,
    masked_style: MaskedStyleGuidance | None = None,
    restore_vae_detail: bool = False,
) -> Generator[int, None, torch.Tensor]:
    """Draw a batch of pictures, one for each of the generators. Yields the number of steps done.

    Args:
        prompt, negative: of batch 1 or B.
        size: (H, W), px, multiples of the base's `pixel_multiple`.
        generators: each draws what one picture needs, so that it does not depend on its company.
        start: (B, 3, H, W) in [-1, 1], what SDEdit starts from; None: from noise alone.
        strength: above 0, at most 1: the share of the steps that is taken.
        conditions: by kind of ControlNet.
        guidance_scale: 1 or less, or no `negative`: no guidance.
        keep_mask: (B or 1, 1, H, W) in [0, 1]: 1 where `start` stays as it is; None: nowhere.
        masked_style: holds the LoRA that is on the base to a region; None: it draws everything.
        restore_vae_detail: give the result what the autoencoder loses of `start`; for few steps, which keep its details
            in place.

    Returns: (B, 3, H, W) in [-1, 1].

    Raises:
        BaseModelError: the base has no ControlNet of a kind.
    """
    conditions = conditions or {}
    base.check_controlnets(tuple(conditions))
    batch = len(generators)
    text = Guided.of(prompt, negative, guidance_scale, batch)
    sampler = base.sampler()
    timesteps = set_timesteps(base, sampler, steps, strength if start is not None else 1.0)
    clean, noise = _first(base, start, size, generators)
    latents = noise * sampler.init_noise_sigma
    if clean is not None:
        latents = sampler.add_noise(clean, noise, timesteps[:1].repeat(len(generators)))
    if keep_mask is not None:
        keep_mask = F.interpolate(keep_mask.to(base.device, base.dtype), latents.shape[2:], mode="area")
    windows = _windows(base, size, conditions, text, batch)
    if masked_style is not None:
        bare = Guided.of(masked_style.prompt, negative, guidance_scale, batch)
        bare_windows = _windows(base, size, masked_style.conditions, bare, batch)
        inside = F.interpolate(masked_style.inside.to(base.device, base.dtype), latents.shape[2:], mode="area")
    f = base.vae_factor
    whole, cut = (size[0] // f, size[1] // f), windows[0].latents
    embeddings = [net.controlnet_cond_embedding for net in base.controlnets.values()]
    memory: Memory = {}
    options = inspect.signature(sampler.step).parameters
    rng = list(generators) if len(generators) > 1 else generators[0]
    extra = {key: value for key, value in (("eta", 0.0), ("generator", rng)) if key in options}
    with base.on_device(*(net for net in base.controlnets.values() if conditions)):
        for i, t in enumerate(timesteps):
            scaled = sampler.scale_model_input(latents, t)

            def asked(z: torch.Tensor, window: _Window, text: Guided, t=t) -> torch.Tensor:
                return text.combined(_prediction(base, z, t, window, text, _residuals(base, z, t, window, text)))

            def predicted(number: int, corner: tuple[int, int], scaled=scaled, asked=asked) -> torch.Tensor:
                here = np.s_[..., corner[0] : corner[0] + cut[0], corner[1] : corner[1] + cut[1]]
                styled = asked(scaled[here], windows[number], text)
                if masked_style is None:
                    return styled
                with base_only(base.unet):
                    plain = asked(scaled[here], bare_windows[number], bare)
                return plain + masked_style.scale * inside[here] * (styled - plain)

            with remembered(embeddings, memory):
                corners = [window.corner for window in windows]
                output = blended(corners, whole, cut, OVERLAP, predicted)
            latents = sampler.step(output, t, latents, **extra, return_dict=False)[0]
            if keep_mask is not None:
                after = timesteps[i + 1 : i + 2].repeat(len(generators))
                known = sampler.add_noise(clean, noise, after) if len(after) else clean
                latents = torch.lerp(latents, known, keep_mask)
            yield i + 1
    drawn = base.decode(latents)
    if restore_vae_detail and start is not None and clean is not None:
        drawn = (drawn + start.to(drawn) - base.decode(clean)).clamp(-1, 1)
    return drawn


def set_timesteps(base: Base, sampler, steps: int, strength: float) -> torch.Tensor:
    """Prepare a sampler; the timesteps that SDEdit at `strength` leaves of `steps`, each a question to the base."""
    sampler.set_timesteps(steps, device=base.device)
    skipped = (steps - min(int(steps * strength), steps)) * sampler.order
    if hasattr(sampler, "set_begin_index"):
        sampler.set_begin_index(skipped)
    return sampler.timesteps[skipped:]


def windowed(base: Base, size: tuple[int, int]) -> bool:
    """Whether pictures of (H, W) px are drawn in windows: beyond one and a half times the native size."""
    return max(size) > 1.5 * base.native


def _first(
    base: Base, start: torch.Tensor | None, size: tuple[int, int], generators: Sequence[torch.Generator]
) -> tuple[torch.Tensor | None, torch.Tensor]:
    """Latents of `start`, if there is one, and noise, in the order of draws of diffusers' pipelines."""
    shape = (1, base.latent_channels, size[0] // base.vae_factor, size[1] // base.vae_factor)
    clean = None
    if start is not None:
        pictures = start.expand(len(generators), -1, -1, -1).split(1)
        clean = torch.cat([base.encode_image(picture, rng) for picture, rng in zip(pictures, generators, strict=True)])
    noise = torch.cat([torch.randn(shape, generator=rng, dtype=base.dtype) for rng in generators]).to(base.device)
    return clean, noise


# -- windows ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Window:
    """A part of the pictures that the base sees at once; the whole of them where they are not too large.

    Attributes:
        corner, latents: (top, left) and (height, width), in latents.
        time_ids: (1, 6).
        conditions: the part of every condition, its rows doubled where its ControlNet hears both halves of guidance.
    """

    corner: tuple[int, int]
    latents: tuple[int, int]
    time_ids: torch.Tensor
    conditions: Mapping[str, Condition]


def _windows(
    base: Base, size: tuple[int, int], conditions: Mapping[str, Condition], text: Guided, batch: int
) -> list[_Window]:
    f = base.vae_factor
    side = max(1, base.native // base.pixel_multiple) * base.pixel_multiple
    part = tuple(min(side, whole) for whole in size) if windowed(base, size) else size
    latents = (part[0] // f, part[1] // f)
    found = []
    for top, left in places(size[0] // f, size[1] // f, latents, OVERLAP):
        cut = {}
        for kind, condition in conditions.items():
            image = condition.image.to(base.device, base.dtype).expand(batch, -1, -1, -1)
            image = image[..., top * f : top * f + part[0], left * f : left * f + part[1]]
            rows = text.halves if hears_text(_net(base, kind)) else 1
            cut[kind] = Condition(torch.cat([image] * rows), condition.scale)
        found.append(_Window((top, left), latents, base.time_ids(part[0], part[1], (top * f, left * f), size), cut))
    return found


# -- one prediction ---------------------------------------------------------------------------------------------------


def hears_text(net: nn.Module) -> bool:
    """Whether a ControlNet's answer depends on the prompt."""
    return net.config.addition_embed_type is not None or any(isinstance(m, Transformer2DModel) for m in net.modules())


def _net(base: Base, kind: str) -> nn.Module:
    return base.controlnets[kind] if kind in base.controlnets else base.controlnets[UNION]


def _residuals(base: Base, z: torch.Tensor, t: torch.Tensor, window: _Window, text: Guided) -> Residuals | None:
    """The sum of what the ControlNets add to the UNet, for every row of `text`; None without conditions."""
    batch = len(z)

    def ask(net: nn.Module, images, scales, **more) -> Residuals:
        both = text.halves if hears_text(net) else 1
        prompt = text.prompt if both == text.halves else Prompt(text.prompt.embeds[:batch], text.prompt.pooled[:batch])
        down, middle = net(
            torch.cat([z] * both),
            t,
            encoder_hidden_states=prompt.embeds,
            controlnet_cond=images,
            conditioning_scale=scales,
            added_cond_kwargs={
                "text_embeds": prompt.pooled,
                "time_ids": window.time_ids.expand(both * batch, -1),
            },
            return_dict=False,
            **more,
        )
        if both == text.halves:
            return list(down), middle
        return [torch.cat([one] * text.halves) for one in down], torch.cat([middle] * text.halves)

    own = [kind for kind in window.conditions if kind in base.controlnets]
    answers = [ask(base.controlnets[k], window.conditions[k].image, window.conditions[k].scale) for k in own]
    rest = [kind for kind in window.conditions if kind not in own]
    if rest:
        union, modes = base.controlnets[UNION], [UNION_MODES[kind] for kind in rest]
        marks = torch.zeros(text.halves * batch, union.config.num_control_type, device=z.device, dtype=z.dtype)
        marks[:, modes] = 1
        images, scales = zip(*((window.conditions[k].image, window.conditions[k].scale) for k in rest), strict=True)
        answers.append(ask(union, list(images), list(scales), control_type=marks, control_type_idx=modes))
    if not answers:
        return None
    down = [sum(parts[1:], parts[0]) for parts in zip(*(answer[0] for answer in answers), strict=True)]
    middles = [answer[1] for answer in answers]
    return down, sum(middles[1:], middles[0])


def _prediction(
    base: Base, z: torch.Tensor, t: torch.Tensor, window: _Window, text: Guided, residuals: Residuals | None
) -> torch.Tensor:
    """The UNet's output for every row of `text`."""
    rows = text.halves * len(z)
    down, middle = residuals or (None, None)
    return base.unet(
        torch.cat([z] * text.halves),
        t,
        encoder_hidden_states=text.prompt.embeds,
        down_block_additional_residuals=down,
        mid_block_additional_residual=middle,
        added_cond_kwargs={"text_embeds": text.prompt.pooled, "time_ids": window.time_ids.expand(rows, -1)},
        return_dict=False,
    )[0]

"""The prior of a base: a second, tiny model that draws small flat designs from words.

A base that is too small to draw objects from words still follows a design. So words become a design first: captions of
the kind "a red cat" in, `SIDE` px RGBA with a few flat colours out, which `tambour.apply` then draws in the style.

The model sees a design as 8 x 8 patches in a fixed linear code (their principal components). Its text encoder gives,
besides the states for cross-attention and a part of the time embedding, a rough map that is concatenated with the noisy
code: so the words say directly where things are, and the UNet need not find it out from noise. It is trained as a
diffusion model of v. But a caption that also names the hand ("a red cat 2") asks for one drawing, so that the
prediction from pure noise is that drawing already, softly; in so small a model, further steps add more grain than
detail.

A prior is the folder `prior/` of a base: `unet/` (diffusers), `text_encoder/`, `tokenizer/` (transformers),
`scheduler/`, `patches.safetensors` (the code) and `words.json` (what it knows).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
import torch
from diffusers import DPMSolverMultistepScheduler, UNet2DConditionModel
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from transformers import CLIPTextModelWithProjection, CLIPTokenizer

from tambour.base.quiet import quiet
from tambour.errors import BaseModelError

SIDE = 64  # px of a drawn design
PATCH = 8  # px a side of what one position of the code holds
STEPS = 1  # a caption with its hand asks for one drawing: the first prediction is it, more steps add grain


class Patches(nn.Module):
    """The linear code: RGBA (B, 4, H, W) in [-1, 1], alpha premultiplied <-> components (B, c, H / 8, W / 8)."""

    def __init__(self, basis: torch.Tensor, mean: torch.Tensor, scale: torch.Tensor) -> None:
        """basis: (c, 4, 8, 8), orthonormal rows; mean: (4, 8, 8); scale: (c,), what components are multiplied by."""
        super().__init__()
        for name, tensor in (("basis", basis), ("mean", mean), ("scale", scale)):
            self.register_buffer(name, tensor)

    def encode(self, picture: torch.Tensor) -> torch.Tensor:
        shift = torch.einsum("cijk,ijk->c", self.basis, self.mean)
        code = nn.functional.conv2d(picture, self.basis, -shift, stride=PATCH)
        return code * self.scale.view(1, -1, 1, 1)

    def decode(self, code: torch.Tensor) -> torch.Tensor:
        flat = nn.functional.conv_transpose2d(code / self.scale.view(1, -1, 1, 1), self.basis, stride=PATCH)
        return flat + self.mean.repeat(1, *(side for side in code.shape[2:]))


@dataclass
class Prior:
    """A loaded prior: what is known, and the networks that draw it.

    Attributes:
        objects: name -> other names.
        colours: name -> other names.
        hands: how many ways of drawing it knows; a caption ends with the number of one, from 1.
    """

    unet: UNet2DConditionModel
    text: CLIPTextModelWithProjection
    tokenizer: CLIPTokenizer
    scheduler: DPMSolverMultistepScheduler
    patches: Patches
    objects: dict[str, list[str]]
    colours: dict[str, list[str]]
    hands: int


Text = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def caption(name: str, colour: str | None, hand: int) -> str:
    """What the prior is asked for an object, a colour (None: the drawing's own) and a hand: "a red cat 2"."""
    return " ".join(part for part in ("a", colour, name, str(hand)) if part)


def encode_text(text: CLIPTextModelWithProjection, tokenizer: CLIPTokenizer, captions: Sequence[str]) -> Text:
    """Captions -> states (B, T, d), pooled (B, d) and the rough map (B, m, S, S)."""
    tokens = tokenizer(list(captions), padding="max_length", truncation=True, return_tensors="pt").input_ids
    out = text(tokens.to(text.device))
    pooled, rough = out.text_embeds.split(
        [text.config.hidden_size, out.text_embeds.shape[1] - text.config.hidden_size], 1
    )
    return out.last_hidden_state, pooled, rough.unflatten(1, (-1, SIDE // PATCH, SIDE // PATCH))


def predict(unet: UNet2DConditionModel, code: torch.Tensor, t: torch.Tensor, text: Text) -> torch.Tensor:
    """Noisy code (B, c, S, S), timesteps (B,) or one, encoded captions -> predicted v (B, c, S, S)."""
    states, pooled, rough = text
    return unet(torch.cat([code, rough.to(code.dtype)], 1), t, states, class_labels=pooled, return_dict=False)[0]


@torch.no_grad()
def draw(prior: Prior, words: str, rng: torch.Generator, steps: int = STEPS) -> np.ndarray:
    """A caption, and a generator for the noise -> (SIDE, SIDE, 4) float32 RGBA in [0, 1], alpha premultiplied."""
    sampler = type(prior.scheduler).from_config(prior.scheduler.config)
    sampler.set_timesteps(steps)
    side = SIDE // PATCH
    code = torch.randn(1, len(prior.patches.scale), side, side, generator=rng)
    text = encode_text(prior.text, prior.tokenizer, [words])
    for t in sampler.timesteps:
        code = sampler.step(predict(prior.unet, code, t, text), t, code, return_dict=False)[0]
    return (prior.patches.decode(code)[0].permute(1, 2, 0).numpy() / 2 + 0.5).clip(0, 1)


def find_prior(base: str) -> Path | None:
    """The folder of a base's prior, or None where it has none."""
    root = Path(str(resources.files("tambour.base").joinpath("mini"))) if base == "mini" else Path(base)
    return root / "prior" if (root / "prior" / "words.json").is_file() else None


def load_prior(folder: Path) -> Prior:
    """Load a prior, on the CPU in float32: it is small and rarely used.

    Raises:
        BaseModelError: a file is missing or broken.
    """
    try:
        known = json.loads((folder / "words.json").read_text(encoding="utf-8"))
        options = {"local_files_only": True, "use_safetensors": True}
        with quiet():
            unet = UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=torch.float32, **options)
            text = CLIPTextModelWithProjection.from_pretrained(folder / "text_encoder", dtype=torch.float32, **options)
            tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
            scheduler = DPMSolverMultistepScheduler.from_pretrained(folder / "scheduler", local_files_only=True)
        patches = Patches(**load_file(folder / "patches.safetensors"))
        hands, colours, objects = known["hands"], known["colours"], known["objects"]
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as fault:
        reason = (str(fault).strip().splitlines() or [type(fault).__name__])[0]
        raise BaseModelError(f"The prior in {folder} cannot be loaded: {reason}", "Save it again.") from None
    return Prior(unet.eval(), text.eval(), tokenizer, scheduler, patches, objects, colours, hands)

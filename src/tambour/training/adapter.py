"""The LoRA and its exact trainable sets: theta_a, all of it, and theta_e, its part in the style blocks (section 3)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from peft import LoraConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from tambour.base import Base
from tambour.config import Lora
from tambour.errors import BaseModelError

NAME = "tambour"
_ATTENTION = ("attn1", "attn2")  # self and cross
_PROJECTIONS = ("to_q", "to_k", "to_v", "to_out.0")
_CONVOLUTIONS = ("conv1", "conv2")


@dataclass(frozen=True, eq=False)
class Adapter:
    """A LoRA on a UNet, while it is trained.

    Attributes:
        unet: carries it, frozen but for it.
        theta_a: every parameter of it, float32, by the module's name and ".lora_A.weight" or ".lora_B.weight".
        theta_e: those of theta_a that lie in the style blocks.
    """

    unet: nn.Module
    theta_a: dict[str, nn.Parameter]
    theta_e: dict[str, nn.Parameter]

    def style_tensors(self) -> dict[str, torch.Tensor]:
        """theta_e as a style file holds it: diffusers' names, on the CPU."""
        return {f"unet.{name}": value.detach().cpu().clone() for name, value in sorted(self.theta_e.items())}


def targets(unet: nn.Module, blocks: Sequence[str], convolutions: bool) -> list[str]:
    """Names of the modules that get a LoRA in some attention blocks.

    Those are the four projections of every attention layer and, if `convolutions`, the two convolutions of the resnet
    before the block (of both resnets around the middle one).

    Raises:
        BaseModelError: a module is not there or of another kind, so that nothing is left out silently.
    """
    names = []
    for block in blocks:
        layers = range(len(unet.get_submodule(block).transformer_blocks))
        for layer in layers:
            names += [f"{block}.transformer_blocks.{layer}.{a}.{p}" for a in _ATTENTION for p in _PROJECTIONS]
        if convolutions:
            resnets = [block.replace(".attentions.", ".resnets.")]
            if block.startswith("mid_block"):
                resnets.append("mid_block.resnets.1")
            names += [f"{resnet}.{convolution}" for resnet in resnets for convolution in _CONVOLUTIONS]
    modules = dict(unet.named_modules())
    for name in names:
        kind = nn.Conv2d if name.endswith(_CONVOLUTIONS) else nn.Linear
        if not isinstance(modules.get(name), kind):
            raise BaseModelError(
                f"The LoRA's target {name} is {type(modules[name]).__name__ if name in modules else 'not there'}.",
                f"The base's UNet must have a {kind.__name__} there, as SDXL's has.",
            )
    return names


@contextmanager
def adapted(base: Base, style_blocks: Sequence[str], lora: Lora, generator: torch.Generator) -> Iterator[Adapter]:
    """While open, the base's UNet carries a fresh LoRA on all attention blocks, which changes nothing yet (B = 0).

    Args:
        style_blocks: those whose LoRA is theta_e.
        generator: draws the A matrices, Kaiming-uniform as peft does.

    Raises:
        BaseModelError: a target is not there.
    """
    unet = base.unet
    assert not getattr(unet, "peft_config", None), "another LoRA is on this base"
    names = targets(unet, base.attention_blocks, lora.convolutions)
    inside = set(targets(unet, style_blocks, lora.convolutions))
    config = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=names)
    try:
        with torch.random.fork_rng(devices=[]):  # peft draws from the global generator; we draw anew below
            unet.add_adapter(config, NAME)
        theta = {}
        for name in names:
            layer = unet.get_submodule(name)
            for half in ("lora_A", "lora_B"):
                weight = getattr(layer, half)[NAME].weight
                weight.data = weight.data.float()
                theta[f"{name}.{half}.weight"] = weight
            draw = torch.empty(layer.lora_A[NAME].weight.shape)
            nn.init.kaiming_uniform_(draw, a=math.sqrt(5), generator=generator)
            layer.lora_A[NAME].weight.data.copy_(draw)
            nn.init.zeros_(layer.lora_B[NAME].weight)
        found = {id(p) for key, p in unet.named_parameters() if ".lora_" in key}
        assert found == {id(p) for p in theta.values()}, "peft put the LoRA elsewhere"
        for parameter in theta.values():
            parameter.requires_grad_(False)
        yield Adapter(unet, theta, {k: p for k, p in theta.items() if k.rsplit(".lora_", 1)[0] in inside})
    finally:
        unet.unload_lora()


@contextmanager
def updating(adapter: Adapter, parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """While open, gradients flow to these parameters and to no others."""
    for parameter in parameters:
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for parameter in adapter.theta_a.values():
            parameter.requires_grad_(False)


@contextmanager
def style_only(adapter: Adapter) -> Iterator[None]:
    """While open, the UNet predicts as theta_0 and theta_e, as a style file makes it (method, section 6)."""
    inside = {name.rsplit(".lora_", 1)[0] for name in adapter.theta_e}
    layers = [(name, m) for name, m in adapter.unet.named_modules() if isinstance(m, BaseTunerLayer)]
    with muted([module for name, module in layers if name not in inside], NAME):
        yield


@contextmanager
def muted(layers: Sequence[BaseTunerLayer], name: str) -> Iterator[None]:
    """While open, the LoRA called `name` counts nothing in these layers."""
    scales = [layer.scaling[name] for layer in layers]
    try:
        for layer in layers:
            layer.scaling[name] = 0.0
        yield
    finally:
        for layer, scale in zip(layers, scales, strict=True):
            layer.scaling[name] = scale

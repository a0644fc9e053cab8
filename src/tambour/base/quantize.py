"""Weights of linear layers in 8 bits: half the memory of float16, for a base that is not trained itself.

A row of a matrix is stored as int8 with one float32 factor, its largest absolute value / 127, so that no value is off
by more than half a step. It is multiplied out again for every forward and backward pass, and dropped after it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import nn


class _Product(torch.autograd.Function):
    """x W^T + b with W = factor * weight. Gradients flow to x alone; W is made anew for them."""

    @staticmethod
    def forward(ctx, x, weight, factor, bias):
        ctx.save_for_backward(weight, factor)
        return F.linear(x, _whole(weight, factor, x.dtype), bias)

    @staticmethod
    def backward(ctx, gradient):
        weight, factor = ctx.saved_tensors
        return gradient @ _whole(weight, factor, gradient.dtype), None, None, None


def _whole(weight: torch.Tensor, factor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return weight.to(dtype) * factor.to(dtype)


class Int8Linear(nn.Linear):
    """A linear layer of which only its input may want a gradient.

    Attributes:
        weight: (out, in), int8.
        factor: (out, 1), float32.
    """

    def __init__(self, linear: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        rows = linear.weight.detach().float()
        factor = rows.abs().amax(1, keepdim=True).clamp(min=1e-12) / 127
        self.weight = nn.Parameter((rows / factor).round().to(torch.int8), requires_grad=False)
        self.register_buffer("factor", factor)
        self.bias = None if linear.bias is None else nn.Parameter(linear.bias.detach(), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _Product.apply(x, self.weight, self.factor, self.bias)


def quantizable(net: nn.Module) -> list[str]:
    """Names of the layers that `quantize` replaces: all linear ones of the attention blocks, where most weights are."""
    blocks = [name for name, module in net.named_modules() if isinstance(module, Transformer2DModel)]
    return [
        f"{block}.{name}"
        for block in blocks
        for name, module in net.get_submodule(block).named_modules()
        if isinstance(module, nn.Linear)
    ]


@torch.no_grad()
def quantize(net: nn.Module) -> None:
    """Replace the linear layers of a UNet's or ControlNet's attention blocks by 8-bit ones."""
    for name in quantizable(net):
        parent, _, last = name.rpartition(".")
        setattr(net.get_submodule(parent), last, Int8Linear(net.get_submodule(name)))

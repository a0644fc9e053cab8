"""Output features of self-attention, F^o = f_o(softmax(Q K^T / sqrt(d)) V) (method, section 2), read by hooks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn


def self_attentions(unet: nn.Module, block: str) -> list[str]:
    """Names of the self-attention layers of one attention block, from its first transformer layer to its last."""
    layers = unet.get_submodule(block).transformer_blocks
    return [f"{block}.transformer_blocks.{i}.attn1" for i in range(len(layers))]


@contextmanager
def recorded(
    unet: nn.Module, blocks: Sequence[str], reduce: Callable[[torch.Tensor], torch.Tensor]
) -> Iterator[dict[str, torch.Tensor]]:
    """While open, every pass of the UNet leaves reduce(F^o) of each self-attention layer, by name; the latest counts.

    F^o: (B, T, C), after the output projection, before the residual is added. It is reduced at once: all of them would
    take gigabytes.
    """
    found: dict[str, torch.Tensor] = {}
    handles = []

    def hook(name: str):
        def record(_module, _inputs, output):
            found[name] = reduce(output)

        return record

    try:
        for block in blocks:
            for name in self_attentions(unet, block):
                handles.append(unet.get_submodule(name).register_forward_hook(hook(name)))
        yield found
    finally:
        for handle in handles:
            handle.remove()

"""Outputs of modules that need not be computed twice, cached while a context is open."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def computed_once(modules: Sequence[nn.Module]) -> Iterator[None]:
    """While open, each of these modules computes at its first call and returns the same output at all later ones.

    Gradients of all passes flow through the one output. For passes at the same weights and inputs. Close it before
    `backward`, where gradient checkpointing calls the modules again.
    """

    def once(forward: Callable) -> Callable:
        answers = []

        def answer(*args, **kwargs):
            if not answers:
                answers.append(forward(*args, **kwargs))
            return answers[0]

        return answer

    with _forwards(modules, once):
        yield


Memory = dict[tuple[int, int], tuple[torch.Tensor, torch.Tensor]]  # (module's id, input's id) -> input, output


@contextmanager
def remembered(modules: Sequence[nn.Module], memory: Memory) -> Iterator[None]:
    """While open, these modules of one input compute once for every tensor they are given; `memory` holds the outputs.

    A tensor is known by being the same object, so it must not be changed in place. For inference: no gradients.
    """

    def recalling(forward: Callable) -> Callable:
        def answer(x: torch.Tensor) -> torch.Tensor:
            key = id(forward.__self__), id(x)
            if key not in memory:
                memory[key] = x, forward(x)  # x too, so that no other tensor gets its id
            return memory[key][1]

        return answer

    with _forwards(modules, recalling):
        yield


@contextmanager
def _forwards(modules: Sequence[nn.Module], changed: Callable[[Callable], Callable]) -> Iterator[None]:
    """While open, each module's `forward` is what `changed` makes of it."""
    before = [module.__dict__.get("forward") for module in modules]
    try:
        for module in modules:
            module.forward = changed(module.forward)
        yield
    finally:
        for module, own in zip(modules, before, strict=True):
            if own is None:
                module.__dict__.pop("forward", None)
            else:
                module.forward = own

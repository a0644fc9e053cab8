"""The training loop: optimisers, state, checkpoint, progress. It knows no stage."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save

from tambour.base import generator
from tambour.config import Stage, StageTwo
from tambour.errors import TambourError
from tambour.progress import Progress
from tambour.training.adapter import Adapter, updating

_FLOAT16_SCALE = 2.0**12  # of losses, lest gradients vanish in float16; a power of two, so nothing else changes


@dataclass(frozen=True)
class Step:
    """One update of an iteration.

    Attributes:
        updates: the trainable set it updates, "theta_a" or "theta_e". Each set has one optimiser, so that losses that
            update the same set keep the proportion their weights give them.
        losses: generator -> scalar losses by name.
        weights: of the losses; 1 where a name is absent.
        within: a context that is open while the losses and their gradients are computed.
    """

    updates: str
    losses: Callable[[torch.Generator], Mapping[str, torch.Tensor]]
    weights: Mapping[str, float] = field(default_factory=dict)
    within: Callable[[], AbstractContextManager] = nullcontext


def train(
    name: str,
    adapter: Adapter,
    steps: Sequence[Step],
    stage: Stage | StageTwo,
    *,
    seed: int,
    checkpoint: Path,
    every_seconds: float,
    curves: dict[str, list[float]],
) -> Iterator[Progress]:
    """Take every step once an iteration, with Adam, until the stage's iterations are done.

    Where `checkpoint` exists, continue from it: the result is the same, bit for bit on the CPU, as without a pause.

    Args:
        name: of the stage; part of what the randomness of step k in iteration i is drawn from (seed, name and k, i).
        curves: filled with every loss of every iteration, those before a pause included.

    Raises:
        TambourError: a loss is not finite.
    """
    sets = {"theta_a": adapter.theta_a, "theta_e": adapter.theta_e}
    optimizers = {
        key: torch.optim.Adam(sets[key].values(), lr=stage.learning_rate, fused=True)
        for key in sorted({step.updates for step in steps})
    }
    half = any(p.dtype == torch.float16 for p in adapter.unet.parameters())
    scale = _FLOAT16_SCALE if half else 1.0
    done = 0

    if checkpoint.exists():
        done = _read_checkpoint(checkpoint, adapter, optimizers, curves)
        yield Progress(name, done, stage.iterations, "resumed")

    saved = time.monotonic()
    while done < stage.iterations:
        values: dict[str, float] = {}
        for optimizer in optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = rate(stage, done)
        for number, step in enumerate(steps):
            parameters = list(sets[step.updates].values())
            with updating(adapter, parameters), step.within():
                losses = step.losses(generator(seed, f"{name}, step {number + 1}", done))
                total = sum(step.weights.get(key, 1.0) * loss for key, loss in losses.items())
                (total * scale).backward()
            values |= {key: loss.item() for key, loss in losses.items()}
            gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
            if scale != 1.0:
                torch._foreach_div_(gradients, scale)
            overflowed = half and not all(bool(gradient.isfinite().all()) for gradient in gradients)
            if not overflowed and all(math.isfinite(loss) for loss in values.values()):
                optimizers[step.updates].step()
            optimizers[step.updates].zero_grad(set_to_none=True)
        bad = [key for key, value in values.items() if not math.isfinite(value)]
        if bad:
            raise TambourError(
                f"{bad[0]} became {values[bad[0]]} in iteration {done + 1} of {name}.",
                "Use a smaller learning rate, or precision float32 or bfloat16.",
            )
        for key, value in values.items():
            curves.setdefault(key, []).append(value)
        done += 1
        if done == stage.iterations or time.monotonic() - saved >= every_seconds:
            _write_checkpoint(checkpoint, adapter, optimizers, curves, done)
            saved = time.monotonic()
        yield Progress(name, done, stage.iterations, values=values)


def rate(stage: Stage | StageTwo, done: int) -> float:
    """The learning rate after `done` iterations."""
    share = 0.5 + 0.5 * math.cos(math.pi * done / stage.iterations)
    return stage.learning_rate * (stage.decay + (1 - stage.decay) * share)


Optimizers = Mapping[str, torch.optim.Adam]


def _write_checkpoint(
    checkpoint: Path, adapter: Adapter, optimizers: Optimizers, curves: Mapping[str, list[float]], done: int
) -> None:
    """Write everything that changes in a stage, whole or not at all."""
    tensors = {f"parameters/{key}": parameter for key, parameter in adapter.theta_a.items()}
    for name, optimizer in optimizers.items():
        for index, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizers/{name}/{index}/{key}": value for key, value in state.items()}
    metadata = {"iterations": str(done), "curves": json.dumps(curves)}
    content = save({key: value.detach().cpu().contiguous() for key, value in tensors.items()}, metadata)
    temporary = checkpoint.with_name(f".{checkpoint.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, checkpoint)


def _read_checkpoint(checkpoint: Path, adapter: Adapter, optimizers: Optimizers, curves: dict[str, list[float]]) -> int:
    """Put back what `_write_checkpoint` wrote; the iterations done."""
    states = {name: optimizer.state_dict() for name, optimizer in optimizers.items()}
    parameters = {}
    with safe_open(checkpoint, "pt") as file:
        metadata = file.metadata()
        for path in file.keys():  # noqa: SIM118 (not a dict)
            kind, _, rest = path.partition("/")
            if kind == "parameters":
                parameters[rest] = file.get_tensor(path)
            else:
                name, index, key = rest.split("/")
                states[name]["state"].setdefault(int(index), {})[key] = file.get_tensor(path)
    restore(adapter, parameters)
    for name, optimizer in optimizers.items():
        optimizer.load_state_dict(states[name])
    curves.update(json.loads(metadata["curves"]))
    return int(metadata["iterations"])


def restore(adapter: Adapter, parameters: Mapping[str, torch.Tensor]) -> None:
    """Put saved values into the LoRA, all of them."""
    assert parameters.keys() == adapter.theta_a.keys(), "a checkpoint of another LoRA"
    with torch.no_grad():
        for key, parameter in adapter.theta_a.items():
            parameter.copy_(parameters[key])

"""What every network of the pretraining learns: one loss, one draw of timesteps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch


class TimePlan(Protocol):
    """How timesteps are spread: logit-normal, with shares in the noisiest fifth and at the very last."""

    time_mean: float
    time_std: float
    early: float
    last: float


def spread_times(
    uniform: torch.Tensor, early: torch.Tensor, place: torch.Tensor, last: torch.Tensor, plan: TimePlan, steps: int
) -> torch.Tensor:
    """Timesteps (B,) in [0, steps) from draws (B,) each.

    Args:
        uniform: in [0, 1), stratified: where on the logit-normal curve a timestep lies.
        early, last: bool, which timesteps lie in the noisiest fifth, and which are the last one.
        place: in [0, 1), where in that fifth.
    """
    normal = torch.special.ndtri(uniform.clamp(1e-4, 1 - 1e-4))
    share = torch.sigmoid(plan.time_mean + plan.time_std * normal)
    share = torch.where(early, 0.8 + 0.2 * place, share)
    return torch.where(last, steps - 1, (share * steps).long()).clamp(0, steps - 1)


def draw_times(count: int, plan: TimePlan, rng: np.random.Generator, steps: int) -> torch.Tensor:
    """Timesteps (count,) in [0, steps), on the CPU: exactly the plan's shares early and at the very last."""
    uniform = torch.from_numpy((rng.permutation(count) + rng.random(count)) / count)
    early = torch.from_numpy(rng.permutation(count) < plan.early * count)
    place = torch.from_numpy(rng.random(count))
    last = torch.from_numpy(rng.permutation(count) < plan.last * count)
    return spread_times(uniform, early, place, last, plan, steps)


def draw_times_on(device: torch.device, count: int, plan: TimePlan, steps: int) -> torch.Tensor:
    """Timesteps (count,) in [0, steps), drawn on a device without waiting for it: the plan's shares on the mean."""
    chance = torch.rand(4, count, device=device)
    uniform = (torch.arange(count, device=device) + chance[0]) / count
    return spread_times(uniform, chance[1] < plan.early, chance[2], chance[3] < plan.last, plan, steps)


def draw_noise(like: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Standard normal noise in the shape of `like` and on its device."""
    generator = torch.Generator(like.device).manual_seed(int(rng.integers(2**62)))
    return torch.randn(like.shape, generator=generator, device=like.device)


def velocity_loss(
    predict: Callable[[torch.Tensor], torch.Tensor],
    clean: torch.Tensor,
    noise: torch.Tensor,
    t: torch.Tensor,
    alphas: torch.Tensor,
) -> torch.Tensor:
    """Squared error of the clean latents, weighted by the square root of the signal-to-noise ratio within [0.3, 5].

    The network's output is v, so that little noise asks for little; the loss is not v's, which little noise would rule.
    Much noise keeps some weight: there the condition alone says the colour, and later steps believe what they find.

    Args:
        predict: noisy latents (B, c, h, w) -> v.
        clean, noise: (B, c, h, w).
        t: (B,) timesteps.
        alphas: cumulative products of the schedule, by timestep.
    """
    signal = alphas[t].view(-1, 1, 1, 1)
    noisy = signal.sqrt() * clean + (1 - signal).sqrt() * noise
    found = signal.sqrt() * noisy - (1 - signal).sqrt() * predict(noisy).float()
    weight = (signal / (1 - signal)).clamp(0.3, 5).sqrt()
    return (weight * (found - clean) ** 2).mean()

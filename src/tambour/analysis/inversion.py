"""Inversion: from clean latents back along the deterministic path that a sampler would take to them.

Works for every base: it only asks for the noise a model predicts. "ddim" guesses the noise at z_t from z_(t-1);
"renoise" (Garibi et al. 2024, "ReNoise: Real Image Inversion Through Iterative Noising") repeats the guess at the point
it leads to, a fixed-point iteration, and averages the last guesses. Both carry on what the model fails to explain in a
picture, and so leave the latents that a weak base knows (their deviation grew sixfold on one). For such a base there is
"noised" (ours): no inversion, every z_t is the clean latents under fresh noise, the same for all pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from tambour.base import Base, Prompt, generator
from tambour.errors import InputError

METHODS = ("renoise", "ddim", "noised")

Noise = Callable[[torch.Tensor, int], torch.Tensor]
"""(z (B, c, h, w), t) -> the noise predicted in z at training timestep t, same shape."""


@dataclass(frozen=True)
class Schedule:
    """Timesteps from nearly clean to nearly noise, with z_t = signal z_0 + noise eps at each."""

    timesteps: tuple[int, ...]
    signal: tuple[float, ...]
    noise: tuple[float, ...]

    @classmethod
    def of(cls, base: Base, steps: int) -> Schedule:
        """`steps` timesteps, evenly spread over the base's own, its last one included.

        Raises:
            InputError: more steps than the base has, or none.
        """
        alphas = base.scheduler.alphas_cumprod.double()
        if not 1 <= steps <= len(alphas):
            raise InputError(f"Inversion in {steps} steps is not possible.", f"Allowed: 1 to {len(alphas)}.")
        timesteps = tuple(round(len(alphas) * (i + 1) / steps) - 1 for i in range(steps))
        picked = alphas[list(timesteps)]
        return cls(timesteps, tuple(picked.sqrt().tolist()), tuple((1 - picked).sqrt().tolist()))


def predicted_noise(base: Base, prompt: Prompt, time_ids: torch.Tensor) -> Noise:
    """What the base predicts under a prompt, without ControlNets, in float32."""

    def noise(z: torch.Tensor, t: int) -> torch.Tensor:
        output = base.predict(z.to(base.dtype), t, prompt, time_ids).float()
        return base.to_epsilon(output, z, t).float()

    return noise


def predictions(method: str, iterations: int) -> int:
    """How often `invert` asks for the noise at each timestep."""
    return 1 + (iterations if method == "renoise" else 0)


@torch.no_grad()
def invert(
    noise: Noise, latents: torch.Tensor, schedule: Schedule, *, method: str = "renoise", iterations: int = 4
) -> Iterator[torch.Tensor]:
    """Yield z_t at every timestep of the schedule, starting from clean `latents` (B, c, h, w), nearly clean first.

    Args:
        method: "renoise", "ddim" or "noised".
        iterations: renoising iterations a step; each costs one prediction more. The last half of them is averaged.

    Raises:
        InputError: the method is not known.
    """
    if method not in METHODS:
        raise InputError(f"Inversion {method!r} is not known.", f"Allowed: {', '.join(METHODS)}.")
    z, a, s = latents.float(), 1.0, 0.0
    for t, a_next, s_next in zip(schedule.timesteps, schedule.signal, schedule.noise, strict=True):
        if method == "noised":
            eps = torch.randn(latents[:1].shape, generator=generator(0, "noised", t)).to(z)
            z = a_next * latents + s_next * eps
            noise(z, t)  # for `features.recorded`, which reads the model at z_t
            yield z
            continue

        def step(eps, z=z, a=a, s=s, a_next=a_next, s_next=s_next):
            return a_next * (z - s * eps) / a + s_next * eps

        guesses = [noise(z, t)]
        if method == "renoise":
            for _ in range(iterations):
                guesses.append(noise(step(guesses[-1]), t))
        late = guesses[-max(1, len(guesses) // 2) :]
        z, a, s = step(torch.stack(late).mean(0)), a_next, s_next
        yield z


@torch.no_grad()
def reconstruct(noise: Noise, z: torch.Tensor, schedule: Schedule) -> torch.Tensor:
    """The other way: DDIM sampling (eta 0) from z at the schedule's last timestep to clean latents."""
    signal_after, noise_after = (*schedule.signal[-2::-1], 1.0), (*schedule.noise[-2::-1], 0.0)
    now = (schedule.timesteps[::-1], schedule.signal[::-1], schedule.noise[::-1])
    for t, a, s, a_next, s_next in zip(*now, signal_after, noise_after, strict=True):
        eps = noise(z, t)
        z = a_next * (z - s * eps) / a + s_next * eps
    return z

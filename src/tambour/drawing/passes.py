"""What a step of drawing runs (`sampler.sample`), for the preflight."""

from __future__ import annotations

from tambour.base.passes import Passes
from tambour.config import Recipe


def step_passes(recipe: Recipe) -> Passes:
    """One step of the sampler on one picture that fits one window: guidance doubles rows, `masked_style` passes."""
    passes = 2 if recipe.masked_style else 1
    return Passes(rows=2 if recipe.sampling.guidance_scale > 1 else 1, forward=passes, controlnet=passes)

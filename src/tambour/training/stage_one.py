"""Stage one: LoRA block modulation (method, section 3)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch

from tambour.base.passes import Passes
from tambour.config import Recipe
from tambour.training.loop import Step
from tambour.training.losses import denoising, denoising_passes
from tambour.training.pairs import EncodedPair, draw
from tambour.training.routing import RoutedModel


def stage_one(
    model: RoutedModel,
    reference: Sequence[EncodedPair],
    batch: int,
    *,
    content_step: bool = True,
    as_drawn: Callable[[], AbstractContextManager] = nullcontext,
) -> list[Step]:
    """Both steps of an iteration. "Alternate every iteration" is read as: an iteration takes one, then the other.

    1. The design, c_des to every block: theta_a learns the content (L_des).
    2. The embroidery, c_emb to the style blocks and c_des to all others: theta_e learns the style (L_emb).

    Args:
        reference: the pair, and where the recipe wants palettes its recoloured copies.
        batch: crops a step.
        content_step: False: without step 1.
        as_drawn: open during step 2; `style_only` makes theta_e learn as it will draw, without the rest of theta_a.
    """

    def step_1(generator: torch.Generator) -> dict[str, torch.Tensor]:
        crops = draw(model.base, reference, batch, generator)
        return {"L_des": denoising(model, crops, generator, style=False).mean()}

    def step_2(generator: torch.Generator) -> dict[str, torch.Tensor]:
        crops = draw(model.base, reference, batch, generator)
        return {"L_emb": denoising(model, crops, generator, style=True).mean()}

    first = [Step("theta_a", step_1)] if content_step else []
    return [*first, Step("theta_e", step_2, within=as_drawn)]


def passes(recipe: Recipe) -> tuple[Passes, ...]:
    """What each step of an iteration runs, for the preflight."""
    step = denoising_passes(recipe.batch, bool(recipe.training.tile))
    return (step,) * (1 + recipe.stage_one.content_step)

"""Stage two: contrastive learning by self-knowledge distillation (method, section 5)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch

from tambour.base.passes import Passes
from tambour.config import Recipe, StageTwo
from tambour.training.loop import Step
from tambour.training.losses import contrast, contrast_passes, denoising, denoising_passes
from tambour.training.pairs import Batch, EncodedPair, draw, join
from tambour.training.routing import RoutedModel


def stage_two(
    model: RoutedModel,
    reference: Sequence[EncodedPair],
    generated: Sequence[EncodedPair],
    settings: StageTwo,
    *,
    as_drawn: Callable[[], AbstractContextManager] = nullcontext,
) -> list[Step]:
    """The three steps of an iteration, each on the reference pair and one generated pair, drawn anew.

    1. and 2. as in stage one, on both pairs. The release's weights of L_emb (1 on the reference, 0.1 on the generated
       pair) are not known to hold for L_des too; there both count 1, since a generated design is as true as any.
    3. theta_e learns L_con.

    `as_drawn` is as in `stage_one`.
    """
    batch = settings.batch

    def pick(generator: torch.Generator) -> tuple[Batch, Batch]:
        pair = generated[int(torch.randint(len(generated), (), generator=generator))]
        return draw(model.base, reference, batch, generator), draw(model.base, [pair], batch, generator)

    def both(generator: torch.Generator, style: bool) -> tuple[torch.Tensor, torch.Tensor]:
        ref, gen = denoising(model, join(*pick(generator)), generator, style=style).chunk(2)
        return ref.mean(), gen.mean()

    def step_1(generator: torch.Generator) -> dict[str, torch.Tensor]:
        ref, gen = both(generator, style=False)
        return {"L_des": ref, "L_des generated": gen}

    def step_2(generator: torch.Generator) -> dict[str, torch.Tensor]:
        ref, gen = both(generator, style=True)
        return {"L_emb": ref, "L_emb generated": gen}

    def step_3(generator: torch.Generator) -> dict[str, torch.Tensor]:
        return {"L_con": contrast(model, *pick(generator), generator, settings.temperature)}

    weights = {"L_emb": settings.reference_weight, "L_emb generated": settings.generated_weight}
    return [
        Step("theta_a", step_1),
        Step("theta_e", step_2, weights, as_drawn),
        Step("theta_e", step_3, {"L_con": settings.contrastive_weight}),
    ]


def passes(recipe: Recipe) -> tuple[Passes, ...]:
    """What each step of an iteration runs, for the preflight."""
    batch, controlnet = recipe.stage_two.batch, bool(recipe.training.tile)
    both = denoising_passes(2 * batch, controlnet)  # the reference and the generated pair
    return both, both, contrast_passes(batch, controlnet)

"""Stage one: LoRA block modulation (method, section 3)."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from tambour.training.loop import Step
from tambour.training.losses import denoising
from tambour.training.pairs import EncodedPair, draw
from tambour.training.routing import RoutedModel


def stage_one(model: RoutedModel, reference: Sequence[EncodedPair], batch: int) -> list[Step]:
    """Both steps of an iteration. "Alternate every iteration" is read as: an iteration takes one, then the other.

    1. The design, c_des to every block: theta_a learns what is shown (L_des).
    2. The embroidery, c_emb to the style blocks and c_des to all others: theta_e learns how it is made (L_emb).

    Args:
        reference: the pair, and where the recipe wants palettes its recoloured copies.
        batch: crops a step.
    """

    def step_1(generator: torch.Generator) -> dict[str, torch.Tensor]:
        crops = draw(model.base, reference, batch, generator)
        return {"L_des": denoising(model, crops, generator, style=False).mean()}

    def step_2(generator: torch.Generator) -> dict[str, torch.Tensor]:
        crops = draw(model.base, reference, batch, generator)
        return {"L_emb": denoising(model, crops, generator, style=True).mean()}

    return [Step("theta_a", step_1), Step("theta_e", step_2)]

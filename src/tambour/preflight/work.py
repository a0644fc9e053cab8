"""Operations of a run: the passes that its steps declare, times what one pass of the UNet costs."""

from __future__ import annotations

from collections.abc import Mapping

from tambour.analysis import similarity
from tambour.base.passes import Passes
from tambour.base.tiles import places
from tambour.config import Recipe
from tambour.drawing.passes import step_passes
from tambour.drawing.sampler import OVERLAP
from tambour.preflight.model import Model, levels
from tambour.training import complement, stage_one, stage_two
from tambour.training.pairs import training_side

CONTROLNET_COST = 0.5  # of a UNet's pass


def pass_operations(unet: Mapping, height: int, width: int) -> float:
    """Operations (two a product) of a forward pass over one row of latents (height, width)."""
    total = 0.0
    for level in levels(unet):
        pixels, c = level.pixels(height, width), level.channels
        down = 9 * (level.before * c + c * c) + 9 * 2 * c * c * (level.resnets - 1)
        up = (9 * 2 * c * c + 9 * c * c) * level.resnets + 9 * ((c + level.before) * c + c * c)  # skips are joined
        middle = 2 * 9 * 2 * c * c if level.middle else 0
        layer = 20 * c * c + 2 * pixels * c  # projections and GEGLU; then QK and AV, cross attention left out
        total += 2 * pixels * (down + up + middle + level.layers * layer)
    return total


def forward_passes(step: Passes, checkpointing: bool = False, controlnets: int = 1) -> float:
    """What a step costs, in forward passes of the UNet over one row.

    A backward pass to a LoRA costs as much as its forward pass; with checkpointing that forward pass is done twice.
    """
    backward = step.backward * (2 if checkpointing else 1)
    return step.rows * (step.forward + backward + CONTROLNET_COST * controlnets * step.controlnet)


def learn_operations(model: Model, recipe: Recipe, checkpointing: bool) -> float:
    """Operations of the whole of `learn` without a report."""
    side = training_side(recipe)
    latent = side // model.factor
    one_pass = pass_operations(model.unet, latent, latent)
    passes = 2 * similarity.passes_per_row(recipe.analysis)  # the design and the embroidery, block by block
    stages = [(recipe.stage_one.iterations, stage_one.passes(recipe))]
    drawn = 0.0
    if recipe.stage_two.iterations:
        first = recipe.complement.first_segment
        for count in complement.compared(recipe.complement):
            passes += similarity.mean_rows(count) * similarity.passes_per_row(recipe.analysis, first)
        stages.append((recipe.stage_two.iterations, stage_two.passes(recipe)))
        drawn = recipe.complement.count * drawing_operations(model, recipe, side)
    for iterations, steps in stages:
        passes += iterations * sum(forward_passes(step, checkpointing) for step in steps)
    return one_pass * passes + drawn


def drawing_operations(model: Model, recipe: Recipe, side: int) -> float:
    """Operations of drawing one picture of `side` px under the structure conditions from noise."""
    latent, windows = drawing_window(model, side)
    step = forward_passes(step_passes(recipe), controlnets=len(model.controlnets))
    return recipe.sampling.steps * windows * step * pass_operations(model.unet, latent, latent)


def drawing_window(model: Model, side: int) -> tuple[int, int]:
    """What the base sees at once of a picture of `side` px, in latents a side, and in how many windows it sees it all.

    As `drawing.sampler.windowed` decides.
    """
    latent = side // model.factor
    if latent <= 1.5 * model.window:
        return latent, 1
    return model.window, len(places(latent, latent, (model.window, model.window), OVERLAP))

"""What a run of `learn` is asked for: its options resolved, the base it takes, and the plan before it."""

from __future__ import annotations

import typing
from dataclasses import dataclass, replace
from pathlib import Path

from tambour.base import Base, load
from tambour.config import DesignKind, Recipe, on_edges, recipe_values, resolve_recipe
from tambour.drawing.conditions import controlnet_scales
from tambour.errors import BaseModelError, InputError
from tambour.imaging.files import open_image
from tambour.pair.edges import EDGE_MAPS
from tambour.preflight import Plan, plan_learn
from tambour.stitch import default_stitch
from tambour.workflows.jobs import fingerprint
from tambour.workflows.options import LearnOptions


@dataclass(frozen=True)
class Request:
    """A run of `learn`, its options resolved.

    Attributes:
        design: the user's own design file, or None.
        recipe: with what the options change in it.
        controlnets: kinds that are loaded.
    """

    photo: str | Path
    options: LearnOptions
    design: str | Path | None
    recipe: Recipe
    controlnets: tuple[str, ...]

    def identity(self) -> dict:
        """What decides the result, but for the base: another value, and unfinished work does not belong to it."""
        own = self.options
        return {
            "photo": fingerprint(self.photo),
            "design": self.design and fingerprint(self.design),
            "seed": own.seed,
            "blocks": own.blocks and list(own.blocks),
            "describe": own.describe,
            "stitch": own.stitch,
            "recipe": recipe_values(self.recipe),
        }


def resolve(photo: str | Path, options: LearnOptions) -> Request:
    """What the options mean; faults as `learn`."""
    base = options.base.name if isinstance(options.base, Base) else str(options.base)
    recipe, design = resolve_recipe(options.recipe, base), options.design
    if str(design) in EDGE_MAPS:
        recipe, design = on_edges(recipe, typing.cast(DesignKind, str(design))), None
    if options.stitch is not None:
        default_stitch(options.stitch)
        if recipe.sampling.guide == "photo":  # who knows the stitch has no need of copies of it
            recipe = replace(recipe, sampling=replace(recipe.sampling, guide="stitches"))
    return Request(photo, options, design, recipe, controlnets(recipe, options.report is not None))


def controlnets(recipe: Recipe, report: bool) -> tuple[str, ...]:
    """The kinds of ControlNets that `learn` needs: for training, for drawing pairs from designs, for the sheet."""
    drawn = report or (recipe.complement.source == "designs" and recipe.stage_two.iterations > 0)
    scales = controlnet_scales(recipe.sampling.firm) if drawn else {}
    return tuple(kind for kind in ("tile", "canny") if kind == recipe.training_controlnet or kind in scales)


def preflight(request: Request) -> Plan:
    """What the run takes on this machine, with the leanest settings that are needed; refuses what does not fit."""
    return plan_learn(
        str(request.options.base),
        request.recipe,
        controlnets=request.controlnets,
        report=request.options.report is not None,
        free_precision=request.options.recipe is None,
    )


def dry_run(photo: str | Path, options: LearnOptions) -> dict[str, object]:
    """What `learn` would do, in the order it does it; refuses what `learn` would refuse at once."""
    picture, request = open_image(photo), resolve(photo, options)
    recipe, takes = request.recipe, preflight(request)
    scale = recipe.working_size(*picture.size) / max(picture.size)
    size = f"{picture.width * scale:.0f} x {picture.height * scale:.0f} px"
    source = options.recipe or (options.base if options.base in ("mini", "sdxl") else None)
    pairs = -(-recipe.complement.count // 4) if recipe.complement.filters else "all"
    return {
        "photo": f"{photo}, {picture.width} x {picture.height} px, taken at {size}",
        "design": request.design
        or ("made from the photo" if recipe.flat else f"the photo's edges ({recipe.design_kind})"),
        "description": options.describe or "made from the photo",
        "base": options.base,
        "recipe": source or "the paper's",
        "blocks": options.blocks
        or f"chosen after inversion ({recipe.analysis.inversion}, {recipe.analysis.steps} steps)",
        "adapter": f"rank {recipe.lora.rank}, alpha {recipe.lora.alpha:g}"
        + (", attention and convolutions" if recipe.lora.convolutions else ", attention"),
        "stitch": options.stitch or "fitted to the photo",
        "stage one": f"{recipe.stage_one.iterations} iterations at learning rate {recipe.stage_one.learning_rate:g}",
        "complement": f"{recipe.complement.count} embroideries drawn, {pairs} pairs kept",
        "stage two": f"{recipe.stage_two.iterations} iterations at learning rate {recipe.stage_two.learning_rate:g}",
        **takes.facts(),
        "seed": options.seed,
    }


def load_base(request: Request, plan: Plan | None) -> Base:
    """The base, on the GPU if there is one, with the recipe's precision and the ControlNets that are needed."""
    base, recipe = request.options.base, request.recipe
    if not isinstance(base, Base):
        offloaded = plan is not None and plan.offloaded
        base = load(base, dtype=recipe.precision, controlnets=request.controlnets, offloaded=offloaded)
    kind = recipe.training_controlnet
    if kind and kind not in base.controlnets:
        raise BaseModelError(f"Base {base.name!r} has no ControlNet {kind!r}.", "Set training.tile to 0 in the recipe.")
    if recipe.crop % base.pixel_multiple:
        raise InputError(
            f"Recipe crop {recipe.crop} does not fit base {base.name!r}.", f"Use a multiple of {base.pixel_multiple}."
        )
    if recipe.training.gradient_checkpointing or (plan and plan.checkpointing):
        base.unet.enable_gradient_checkpointing()
    return base

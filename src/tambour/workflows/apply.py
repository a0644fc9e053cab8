"""Show designs in a style: the style blocks alone on the frozen base (method, section 6)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from tambour.base import Base, load
from tambour.config import Recipe, read_recipe, recipe_from
from tambour.drawing.conditions import controlnet_scales
from tambour.errors import InputError, StyleError
from tambour.guides import choose_guide
from tambour.preflight import Plan, plan_apply
from tambour.progress import Progress
from tambour.style import Style, check_base
from tambour.workflows.embroider import Design, Embroidering, Result, embroider, open_design
from tambour.workflows.options import ApplyOptions


def apply(style: Style, designs: Sequence[Design], options: ApplyOptions) -> Iterator[Progress | Result]:
    """Embroider designs: yields progress, and a `Result` as soon as a design is done.

    Args:
        style: from `read_style`.
        designs: pictures or their files. Transparent parts are put on the style's fabric colour. Where the style was
            learnt from an edge map, their edge maps are what is drawn from; or these filled with its colours.

    Raises:
        InputError: an option out of range, or a design that cannot be used; found before anything is drawn.
        StyleError: the style belongs to another base, or lacks what an option needs.
        BaseModelError: the base cannot be loaded, or does not fit into the memory.
    """
    # -- what is asked for, refused at once where it cannot be
    how = resolve(style, designs, options)
    for index in range(len(designs)):
        open_design(designs, index, how.size, how.transparent)

    # -- the base, on the GPU if there is one
    plan = None
    if not isinstance(options.base, Base):
        plan = preflight(style, options, len(designs))
        yield Progress("plan", 1, 1, plan.summary())
    yield Progress("apply", 0, 1, "loading the base model")
    base = load_for(style, options.base, how.recipe, tuple(controlnet_scales(how.edges)), plan)

    # -- the pictures
    batch = options.batch or (plan.batch if plan is not None else 1)
    yield from embroider(base, designs, replace(how, batch=batch))


def resolve(style: Style, designs: Sequence[Design], options: ApplyOptions) -> Embroidering:
    """What the options mean for a style; faults as `apply`."""
    recipe = drawing_recipe(style, options)
    sampling, guide = recipe.sampling, choose_guide(options.guide, style, recipe)
    edges = sampling.firm if options.edges == "firm" else sampling.free
    strength = guide(style, recipe, edges, options.strength).strength
    if int(sampling.steps * strength) < 1:
        raise InputError(f"strength {strength!r} leaves none of {sampling.steps} steps.", "Give a larger strength.")
    if options.samples > 1 and not style.statistics:
        raise StyleError("This style cannot rank samples: it lacks its reference's statistics.", "Draw one sample.")
    if recipe.design_kind == "filled" and not style.palette:
        raise StyleError("This style keeps no colours to fill outlines with.", "Learn it again with --design filled.")
    if not designs:
        raise InputError("There are no designs.", "Give at least one picture.")
    return Embroidering(
        style=style,
        recipe=recipe,
        guide=guide,
        edges=edges,
        size=options.size or sampling.size,
        strength=options.strength,
        seed=options.seed,
        samples=options.samples,
        transparent=options.transparent,
    )


def drawing_recipe(style: Style, options: ApplyOptions) -> Recipe:
    """The recipe to draw with: the given one or the style's own, with colour correction and steps as asked."""
    recipe = style_recipe(style, options.recipe)
    sampling = recipe.sampling
    if options.draft:
        sampling = replace(sampling, steps=sampling.draft_steps)
    if options.colours is not None:
        correct = options.colours == "design"
        firm, free = (replace(edges, correct_colours=correct) for edges in (sampling.firm, sampling.free))
        sampling = replace(sampling, firm=firm, free=free)
    return replace(recipe, sampling=sampling)


def style_recipe(style: Style, recipe: Recipe | str | Path | None) -> Recipe:
    """The recipe that is given, by name or file or as it is; None: the style's own."""
    if recipe is None:
        return recipe_from(dict(style.recipe))
    return recipe if isinstance(recipe, Recipe) else read_recipe(recipe)


def preflight(style: Style, options: ApplyOptions, designs: int) -> Plan:
    """What drawing takes on this machine; refuses what does not fit.

    Raises:
        BaseModelError: the base is not there, or even the leanest settings do not fit.
    """
    recipe = drawing_recipe(style, options)
    edges = recipe.sampling.firm if options.edges == "firm" else recipe.sampling.free
    strength = choose_guide(options.guide, style, recipe)(style, recipe, edges, options.strength).strength
    return plan_apply(
        str(options.base or style.base),
        recipe,
        controlnets=tuple(controlnet_scales(edges)),
        size=options.size,
        pictures=designs * options.samples,
        strength=strength,
    )


def load_for(
    style: Style, base: Base | str | Path | None, recipe: Recipe, controlnets: tuple[str, ...], plan: Plan | None
) -> Base:
    """The base of a style, or the one given by name or loaded.

    Raises:
        StyleError: the style was learnt on another one.
        BaseModelError: it cannot be loaded.
    """
    if not isinstance(base, Base):
        offloaded = plan is not None and plan.offloaded
        base = load(base or style.base, dtype=recipe.precision, controlnets=controlnets, offloaded=offloaded)
    check_base(style, base)
    return base


def dry_run(style: Style, options: ApplyOptions, designs: int) -> dict[str, str]:
    """What `apply` would take on this machine, in words; refuses what it would refuse at once."""
    return preflight(style, options, designs).facts()

"""Draw words in a style: by way of a flat design where the base has a prior, else by the base itself (section 15)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from tambour.base import Base, generator
from tambour.config import Recipe
from tambour.drawing.conditions import controlnet_scales
from tambour.drawing.engine import DrawingEngine, DrawingJob, in_batches
from tambour.errors import InputError
from tambour.guides import choose_guide
from tambour.preflight import Plan, plan_apply
from tambour.prior.model import find_prior, load_prior
from tambour.prior.words import design_of, read_prompt
from tambour.progress import Progress, StageProgress
from tambour.style import Style, attached
from tambour.workflows.apply import load_for, style_recipe
from tambour.workflows.embroider import Embroidering, Result, embroider
from tambour.workflows.options import ImagineOptions


def imagine(style: Style, prompt: str, options: ImagineOptions) -> Iterator[Progress | Result]:
    """Draw pictures of `prompt` ("a yellow dog") in the style; the trigger words are added where they are missing.

    Where the base has a prior and the recipe says so (`sampling.prompt_route`), the prior draws a flat design of the
    words first, which is then shown in the style as `apply` does. Else the base draws straight from the words.

    Pictures are square, `size` px a side (rounded to what the base can draw); picture i has seed `seed` + i.
    Errors as `apply`; and `InputError` where the prior knows no such object.
    """
    if not prompt.strip():
        raise InputError("The prompt is empty.", 'Say what to draw, for example "a yellow dog".')
    recipe = style_recipe(style, options.recipe)
    prior = prior_folder(style, options, recipe)
    if prior is None:
        yield from _from_words(style, prompt.strip(), options, recipe)
    else:
        yield from _from_designs(style, prompt, prior, options, recipe)


def prior_folder(style: Style, options: ImagineOptions, recipe: Recipe) -> Path | None:
    """Where the prior lies through which words are drawn; None: the base draws them itself."""
    base = options.base.name if isinstance(options.base, Base) else str(options.base or style.base)
    return find_prior(base) if recipe.sampling.prompt_route == "prior" else None


def _from_designs(
    style: Style, prompt: str, prior_at: Path, options: ImagineOptions, recipe: Recipe
) -> Iterator[Progress | Result]:
    """By way of designs: one after the other, so that none depends on its company."""
    # -- what the words ask for
    prior = load_prior(prior_at)
    wish = read_prompt(prompt, prior)
    message = f'drawn first as a design: "{wish}"'
    if wish.ignored:
        message += f"; not heard: {', '.join(wish.ignored)}"

    # -- the base
    edges = recipe.sampling.firm
    plan = None
    if not isinstance(options.base, Base):
        plan = preflight(style, options, recipe)
        yield Progress("plan", 1, 1, plan.summary())
    base = load_for(style, options.base, recipe, tuple(controlnet_scales(edges)), plan)

    # -- each design, and its picture
    size = options.size or recipe.sampling.size
    how = Embroidering(style, recipe, choose_guide(None, style, recipe), edges, size)
    for index in range(options.n):
        seed = options.seed + index
        design = design_of(prior, wish, seed, size)
        yield Progress("words", index + 1, options.n, message)
        for record in embroider(base, [design], replace(how, seed=seed)):
            if isinstance(record, Result):
                yield replace(record, design_index=index)
            else:
                done, total = index * record.total + record.step, options.n * record.total
                yield Progress("imagine", done, total, f"picture {index + 1} of {options.n}")


def _from_words(style: Style, prompt: str, options: ImagineOptions, recipe: Recipe) -> Iterator[Progress | Result]:
    """Ordinary sampling (method, section 6)."""
    # -- the base
    plan = None
    if not isinstance(options.base, Base):
        plan = preflight(style, options, recipe)
        yield Progress("plan", 1, 1, plan.summary())
    yield Progress("imagine", 0, 1, "loading the base model")
    base = load_for(style, options.base, recipe, (), plan)

    # -- the prompt
    if style.trigger not in prompt:
        prompt += recipe.prompts.style.partition("{}")[2] or f" in {style.trigger} style"
    engine = DrawingEngine(base, recipe, (prompt,), {})

    # -- the pictures
    side = max(1, round((options.size or recipe.sampling.size) / base.pixel_multiple)) * base.pixel_multiple
    progress = StageProgress("imagine", options.n * engine.steps)
    with attached(base, style, recipe.sampling.lora_scale):
        for group in in_batches(range(options.n), plan.batch if plan is not None else 1):
            jobs = [DrawingJob(generator(options.seed + index, "imagine")) for index in group]
            place = f"picture {group[0] + 1} of {options.n}"
            images = yield from progress.through(engine.draw(jobs, (side, side)), place, len(group))
            progress.done += len(group) * engine.steps
            for index, image in zip(group, images, strict=True):
                yield Result(image, None, options.seed + index, index, guide="")


def preflight(style: Style, options: ImagineOptions, recipe: Recipe) -> Plan:
    """What drawing takes on this machine; faults as `apply.preflight`."""
    by_design = prior_folder(style, options, recipe) is not None
    return plan_apply(
        str(options.base or style.base),
        recipe,
        controlnets=tuple(controlnet_scales(recipe.sampling.firm)) if by_design else (),
        size=options.size,
        pictures=options.n,
        strength=None if by_design else 1.0,
    )


def dry_run(style: Style, options: ImagineOptions) -> dict[str, str]:
    """What `imagine` would do and take on this machine, in words; refuses what it would refuse at once."""
    recipe = style_recipe(style, options.recipe)
    by_design = prior_folder(style, options, recipe) is not None
    words = "drawn first as a design" if by_design else "drawn by the base itself"
    return {"words": words, **preflight(style, options, recipe).facts()}


def warning(style: Style, options: ImagineOptions) -> str:
    """What the recipe says to who draws from words alone, where the base does so itself; else ""."""
    recipe = style_recipe(style, options.recipe)
    return recipe.sampling.warning if prior_folder(style, options, recipe) is None else ""

"""Ours, and what is left of it when a part is taken away."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
from PIL import Image

from tambour.bench.cases import Target
from tambour.bench.domains import DOMAINS
from tambour.bench.methods.task import Method, Task, scaled, stitched, without_ours
from tambour.config import Recipe, read_recipe
from tambour.guides.photo import quilt
from tambour.guides.photo.relief import Relief, cut_relief
from tambour.imaging.geometry import flatten
from tambour.progress import Progress, finished
from tambour.style import Style
from tambour.workflows.apply import apply
from tambour.workflows.embroider import Result
from tambour.workflows.imagine import imagine
from tambour.workflows.learn import analyse, learn
from tambour.workflows.options import ApplyOptions, ImagineOptions, LearnOptions

PAPER = "Ma et al. 2025 (docs/method.md)"


def learnt(task: Task, recipe: Recipe, blocks: tuple[str, ...] | None = None) -> Iterator[Progress]:
    """The whole flow on the task's pair. Returns a `Style`."""
    photo, design = task.inputs()
    words = task.style.words
    options = LearnOptions(design=design, base=task.base, recipe=recipe, seed=task.seed, blocks=blocks, describe=words)
    return (yield from learn(photo, options, work=task.work / "learn", overwrite=True))


def lowest(task: Task, count: int) -> Iterator[Progress]:
    """The `count` blocks that see the embroidery best (method, section 2), in the base's order."""
    photo, design = task.inputs()
    options = LearnOptions(design=design, base=task.base, recipe=task.recipe, describe=task.style.words)
    choice = yield from analyse(photo, options)
    best = sorted(choice.names, key=lambda name: choice.scores[name])[:count]
    return tuple(name for name in choice.names if name in best)


def drawn(task: Task, style: Style, target: Target, guide: str | None = "none") -> Iterator[Progress]:
    """A target in a style, as `tambour apply` draws it, by the style's own recipe. Returns the picture."""
    options = ApplyOptions(
        base=task.base, edges=task.style.edges, seed=task.seed, guide=guide, size=max(target.design.size)
    )
    return (yield from _last(apply(style, [target.design], options)))


def guided(task: Task, style: Style, target: Target) -> Iterator[Progress]:
    """The same, started from drawn stitches."""
    return (yield from drawn(task, style, target, guide="stitches"))


def usual(task: Task, style: Style, target: Target) -> Iterator[Progress]:
    """As users get it, by the recipe's guide: started from the reference's own stitches."""
    return (yield from drawn(task, style, target, guide=None))


def without_lora(task: Task, style: Style, target: Target) -> Iterator[Progress]:
    """The same without the LoRA: the base and the reference's stitches."""
    sampling = {**style.recipe["sampling"], "lora_scale": 0.0}
    return (yield from usual(task, replace(style, recipe={**style.recipe, "sampling": sampling}), target))


def stitches_alone(task: Task, learnt: None, target: Target) -> Iterator[Progress]:
    """The reference's stitches as they are laid out, without any model. Returns the picture."""
    yield Progress("stitches", 0, 1)
    design = np.asarray(flatten(task.style.design, task.style.fabric))
    relief = cut_relief(np.asarray(task.style.embroidery.convert("RGB")), design, task.style.mask)
    flat, inside, fabric = task.flat(target), stitched(target), task.style.fabric
    if not relief:
        return flat
    known = Relief.of_bytes(relief)
    laid = finished(quilt.stitched(quilt.Quilt(known), np.asarray(flat), inside, fabric, task.seed))
    yield Progress("stitches", 1, 1)
    return Image.fromarray(laid)


def imagined(task: Task, style: Style, prompt: str) -> Iterator[Progress]:
    """A prompt in a style. Returns the picture."""
    options = ImagineOptions(base=task.base, seed=task.seed, size=task.recipe.sampling.size)
    return (yield from _last(imagine(style, prompt, options)))


def _last(records: Iterator[Progress | Result]) -> Iterator[Progress]:
    image: Image.Image | None = None
    for record in records:
        if isinstance(record, Result):
            image = record.image
        else:
            yield record
    assert image is not None
    return image.convert("RGB")


# -- the methods ------------------------------------------------------------------------------------------------------


def staged(recipe: Recipe) -> Recipe:
    """A recipe with step 1 and stage two, as many updates as before; one that has both stays as it is."""
    one, two = recipe.stage_one, recipe.stage_two
    if one.content_step and two.iterations:
        return recipe
    updates = (1 + one.content_step) * one.iterations + 3 * two.iterations
    later = max(1, round(0.2 * updates / 3))
    one = replace(one, content_step=True, iterations=max(1, (updates - 3 * later) // 2))
    return replace(recipe, stage_one=one, stage_two=replace(two, iterations=later))


def _first_stage(recipe: Recipe) -> Recipe:
    """Both steps of stage one, with the updates that stage two would take."""
    recipe = staged(recipe)
    one, two = recipe.stage_one, recipe.stage_two
    more = replace(one, iterations=one.iterations + 3 * two.iterations // 2)
    return replace(recipe, stage_one=more, stage_two=replace(two, iterations=0))


def _ablation(name: str, title: str, source: str, change: Callable[[Recipe], Recipe]) -> Method:
    def learn_less(task: Task) -> Iterator[Progress]:
        return (yield from learnt(task, change(task.recipe)))

    return Method(name, title, "ablation", source, drawn, learn_less, imagined)


def _ours(task: Task) -> Iterator[Progress]:
    return (yield from learnt(task, task.recipe))


def _paper(task: Task) -> Iterator[Progress]:
    """The paper's own recipe for this base and domain, with the same number of gradient updates."""
    domain = DOMAINS.get(task.style.domain)
    recipe = read_recipe(f"{task.base.name}-{domain.paper if domain else 'paper'}")
    share = task.updates / (2 * recipe.stage_one.iterations + 3 * recipe.stage_two.iterations)
    complement = replace(recipe.complement, designs=task.recipe.complement.designs)
    return (yield from learnt(task, replace(scaled(recipe, share), complement=complement)))


def _all_blocks(task: Task) -> Iterator[Progress]:
    return (yield from learnt(task, task.recipe, tuple(task.base.attention_blocks)))


def _two_blocks(task: Task) -> Iterator[Progress]:
    blocks = yield from lowest(task, 2)
    return (yield from learnt(task, task.recipe, blocks))


METHODS = (
    Method("ours", "ours", "ours", f"{PAPER}, all of it; started from the reference's own stitches, laid out anew (not "
           "in the paper)", usual, _ours, imagined, "ours"),
    Method("ours-noise", "ours, from noise", "ours", f"{PAPER}, all of it; from noise, as in the paper", drawn, _ours,
           imagined, "ours"),
    Method("ours-guide", "ours + fitted stitches", "ours", "ours, started from stitches that our renderer draws, as "
           "fitted to the reference (not in the paper)", guided, _ours, None, "ours"),
    Method("paper", "ours as in the paper", "ablation", f"{PAPER}, its own recipe: nothing of what ours adds",
           drawn, _paper, imagined, missing=lambda base: "" if base.name == "mini" else "it has one recipe"),
    Method("no-lora", "ours without LoRA", "ablation", "the base, started from the reference's own stitches",
           without_lora, _ours, None, "ours"),
    Method("stitches-alone", "its stitches, no model", "ablation", "the reference's own stitches as ours lays them out "
           "(guides/photo/quilt.py), nothing else", stitches_alone, needs_base=False),
    _ablation("shown-whole", "without palettes and region",
              f"{PAPER}: the pair as it is, the LoRA everywhere", without_ours),
    _ablation("by-similarity", "blocks by similarity", f"{PAPER}, section 2: five at least",
              lambda recipe: replace(recipe, analysis=replace(recipe.analysis, blocks=(), fewest=5))),
    _ablation("both-stages", "with step 1 and stage two", f"{PAPER}, sections 3 to 5, as many updates", staged),
    _ablation("no-stage-two", "without stage two", f"{PAPER}, both steps of section 3 alone", _first_stage),
    Method("all-blocks", "without modulation", "ablation", f"{PAPER}: every block is a style block", drawn,
           _all_blocks, imagined),
    Method("two-blocks", "two blocks", "ablation", f"{PAPER}: the two blocks of lowest similarity", drawn,
           _two_blocks, imagined),
    _ablation("no-filters", "without filters", f"{PAPER}: every generated pair is kept, as in the authors' release",
              lambda recipe: replace(staged(recipe), complement=replace(recipe.complement, filters=False))),
    _ablation("no-complement", "without complementary pairs",
              f"{PAPER}: the reference pair, at another place, stands for the generated one",
              lambda recipe: replace(staged(recipe), complement=replace(recipe.complement, count=0))),
)  # fmt: skip

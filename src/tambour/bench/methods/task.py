"""What every method is given, and what a method is: one signature for ours and for every rival."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tambour.base import Base
from tambour.bench.cases import Pairing, Target
from tambour.config import Recipe, recipe_values
from tambour.errors import InputError
from tambour.imaging.files import save_image
from tambour.imaging.geometry import flatten
from tambour.imaging.regions import find_regions
from tambour.pair.edges import edge_map
from tambour.pair.fill import Palette, filled, palette_of
from tambour.pair.flat import Pair
from tambour.pair.reference import prepare
from tambour.progress import Progress
from tambour.style import Style
from tambour.training.pairs import EncodedPair, encode_pair


@dataclass(frozen=True)
class Task:
    """A style to be learnt from one pair, within a budget.

    Attributes:
        style: the pair, and what it is judged on.
        base: the loaded base model; None for methods that need none.
        recipe: its numbers with the budget in them: iterations, LoRA targets and rank, sampling.
        seed: decides everything random.
        work: folder for unfinished work, the method's own; the same task with the same folder continues.
        truth: (design's name, seed) -> the true stitches drawn anew; for the ceiling alone. None where nobody knows.
    """

    style: Pairing
    base: Base | None
    recipe: Recipe
    seed: int
    work: Path
    truth: Callable[[str, int], Image.Image] | None = None

    @property
    def updates(self) -> int:
        """Gradient updates of ours, one or two an iteration of stage one, three of stage two; rivals have as many."""
        one = self.recipe.stage_one
        return (1 + one.content_step) * one.iterations + 3 * self.recipe.stage_two.iterations

    def inputs(self) -> tuple[Path, Path]:
        """Files of the embroidery and of its design, in the work folder."""
        photo, design = self.work / "photo.png", self.work / "design.png"
        if not design.exists():
            save_image(self.style.embroidery, photo, overwrite=True)
            save_image(self.style.design, design, overwrite=True)
        return photo, design

    def flat(self, target: Target) -> Image.Image:
        """A target as a method sees it: on the fabric's colour, its edge map, or that in the pair's colours, RGB."""
        flat = flatten(target.design, self.style.fabric)
        if self.recipe.design_kind == "flat":
            return flat
        if not self.recipe.flat:
            return edge_map(flat, self.recipe)
        return flatten(filled(target.design, self.style.fabric, self.recipe, self.palette), self.style.fabric)

    @property
    def palette(self) -> Palette:
        """The colours that outlines are filled with: the pair's."""
        return palette_of(self.style.design, self.style.mask) if self.recipe.design_kind == "filled" else ()


@dataclass(frozen=True)
class Method:
    """One way to show designs in a style.

    Attributes:
        name: key in the results.
        title: head of its row.
        group: "ours", "ablation", "trained", "training-free", "model-free" or "bound".
        source: the paper, with the equations and constants that are followed.
        draw: (task, what was learnt, target) -> yields progress, returns the picture, RGB of the target's size.
        learn: task -> yields progress, returns what `draw` needs; None: nothing is learnt.
        imagine: (task, what was learnt, prompt) -> as `draw`, from words alone; None: it cannot.
        learns_as: methods with the same value here learn the same, once.
        needs_base: False: no model is used.
        missing: base -> why the method cannot run on it, or "".
    """

    name: str
    title: str
    group: str
    source: str
    draw: Callable[[Task, Any, Target], Iterator[Progress]]
    learn: Callable[[Task], Iterator[Progress]] | None = None
    imagine: Callable[[Task, Any, str], Iterator[Progress]] | None = None
    learns_as: str = ""
    needs_base: bool = True
    missing: Callable[[Base], str] = lambda base: ""


def scaled(recipe: Recipe, budget: float) -> Recipe:
    """A recipe with `budget` times its training iterations.

    Raises:
        InputError: the budget is not above 0.
    """
    if not budget > 0:
        raise InputError(f"A budget of {budget!r} is not possible.", "Give a number above 0; 1 is the recipe's own.")

    def some(iterations: int) -> int:
        return max(1, round(iterations * budget)) if iterations else 0

    return replace(
        recipe,
        stage_one=replace(recipe.stage_one, iterations=some(recipe.stage_one.iterations)),
        stage_two=replace(recipe.stage_two, iterations=some(recipe.stage_two.iterations)),
    )


def without_ours(recipe: Recipe) -> Recipe:
    """A recipe without what goes beyond the paper in how a pair is shown and where a style is drawn."""
    plain = replace(recipe.sampling, style_guidance=1.0)
    return replace(recipe, masked_style=False, training=replace(recipe.training, palettes=0), sampling=plain)


# -- what several methods do ------------------------------------------------------------------------------------------


def reference(task: Task) -> Iterator[Progress]:
    """The pair as rivals' training sees it, without what is ours. Returns (`Pair`, `EncodedPair`)."""
    photo, design = task.inputs()
    recipe = without_ours(task.recipe)
    pair: Pair = yield from prepare(photo, design, recipe, task.base, folder=task.work / "pair")
    encoded: EncodedPair = encode_pair(task.base, pair.design, pair.embroidery, task.style.words, recipe, pair.mask)
    return pair, encoded


def style_of(task: Task, tensors: dict, blocks: tuple[str, ...]) -> Style:
    """A rival's LoRA as a style that `tambour.apply` draws with."""
    recipe = without_ours(task.recipe)
    return Style(
        tensors=tensors,
        blocks=dict.fromkeys(blocks, 0.0),
        rank=recipe.lora.rank,
        alpha=recipe.lora.alpha,
        base=task.base.name,
        fingerprint=task.base.fingerprint,
        trigger=recipe.prompts.trigger,
        recipe=recipe_values(recipe),
        description=task.style.words,
        fabric=task.style.fabric,
        palette=task.palette,
    )


def stitched(target: Target) -> np.ndarray:
    """(H, W) bool: where a target's design is opaque, or differs from its border's colour."""
    return find_regions(np.asarray(target.design)).labels > 0

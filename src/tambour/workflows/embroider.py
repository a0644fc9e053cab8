"""Designs -> pictures in a style, on a loaded base: the loop under apply, imagine and the sheet of `learn`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from tambour.base import Base, generator
from tambour.config import Edges, Recipe
from tambour.drawing.conditions import StructureConditions, controlnet_scales, tile_kernel
from tambour.drawing.engine import DrawingEngine, DrawingJob
from tambour.errors import InputError
from tambour.guides import Canvas, Guide, Start
from tambour.guides.photo.relief import OPEN, Relief
from tambour.guides.photo.yarn import shown_colours
from tambour.imaging.files import open_image
from tambour.imaging.geometry import fit, flatten, pad
from tambour.imaging.regions import find_regions
from tambour.imaging.scores import Scores, score
from tambour.pair.edges import edge_map
from tambour.pair.fill import filled
from tambour.progress import Progress, StageProgress
from tambour.style import Style, attached

Design = Image.Image | str | Path


@dataclass(frozen=True)
class Result:
    """One finished picture.

    Attributes:
        image: RGB, or RGBA where transparency was asked for.
        scores: how good it is, or None where there is nothing to compare with (text; a style without statistics).
        seed: gives this picture again, with one sample.
        design_index: its place in the list of designs (of pictures, for text).
        guide: the name of the guide that it started from; "" for words that the base drew itself.
    """

    image: Image.Image
    scores: Scores | None
    seed: int
    design_index: int
    guide: str


@dataclass(frozen=True)
class Embroidering:
    """How designs are drawn in a style.

    Attributes:
        edges: the recipe's setting that counts.
        size: longer side of the results, px.
        seed: of the first sample; the others count up from it.
        samples: how many are drawn of a design; the one with the best score is kept.
        transparent: keep the design's transparency.
        batch: how many pictures are drawn at once.
    """

    style: Style
    recipe: Recipe
    guide: type[Guide]
    edges: Edges
    size: int
    strength: float | None = None
    seed: int = 0
    samples: int = 1
    transparent: bool = False
    batch: int = 1


@dataclass(frozen=True)
class _Prepared:
    """One design, ready to be drawn: what it starts from, what ControlNets see, and where it lies in its picture."""

    index: int
    canvas: Canvas
    start: Start
    conditions: StructureConditions
    crop_box: tuple[int, int, int, int]


@dataclass(frozen=True)
class _Sample:
    """One picture to be drawn of a prepared design."""

    design: _Prepared
    number: int


def embroider(base: Base, designs: Sequence[Design], how: Embroidering) -> Iterator[Progress | Result]:
    """Draw designs in a style. Yields progress, and a `Result` as soon as a design is done.

    Same seed, same picture, whatever else is in the list: bit for bit where pictures are drawn one by one, within
    rounding where they are drawn in batches.
    """
    # -- what all pictures share
    guide = how.guide(how.style, how.recipe, how.edges, how.strength)
    prompts = (how.recipe.prompts.style.format("design"),)
    scales = controlnet_scales(how.edges)
    engine = DrawingEngine(base, how.recipe, prompts, scales, guide.strength, guide.restore_vae_detail)
    statistics = np.asarray(how.style.statistics, np.float32)
    progress = StageProgress("apply", len(designs) * how.samples * engine.steps)

    # -- batch by batch, as designs become ready
    best: Result | None = None
    with attached(base, how.style, how.recipe.sampling.lora_scale):
        for batch in _batches(_prepare_all(designs, how, guide, engine, progress), how.batch):
            if isinstance(batch, Progress):
                yield batch
                continue
            jobs = [
                DrawingJob(
                    generator(how.seed + one.number, "apply"),
                    one.design.start.image,
                    one.design.conditions,
                    one.design.start.keep_mask,
                )
                for one in batch
            ]
            size = batch[0].design.canvas.flat.size[::-1]
            place = _place(batch[0], len(designs), how.samples)
            images = yield from progress.through(engine.draw(jobs, size), place, len(jobs))

            # -- each finished, scored, and the best of its samples given
            for one, image in zip(batch, images, strict=True):
                progress.done += engine.steps
                canvas = one.design.canvas
                image = guide.finish(image, canvas, one.design.start)
                scores = None
                if len(statistics):
                    scores = score(image, statistics, canvas.mean_colours, (canvas.inside, None), how.recipe.flat)
                    place = _place(one, len(designs), how.samples)
                    yield progress.record(f"{place}: {scores.total:.2f}", vars(scores))
                if best is None or one.number == 0 or _total(scores) > _total(best.scores):
                    best = Result(image, scores, how.seed + one.number, one.design.index, guide.name)
                if one.number == how.samples - 1:
                    if how.transparent:
                        best.image.putalpha(canvas.design.getchannel("A"))
                    yield replace(best, image=best.image.crop(one.design.crop_box))


def _total(scores: Scores | None) -> float:
    """What samples are ranked by."""
    return 0.0 if scores is None else scores.total


def open_design(designs: Sequence[Design], index: int, size: int, transparent: bool) -> Image.Image:
    """One design as RGB, or RGBA where it has transparency.

    Raises:
        InputError: it cannot be used, or has no transparency to keep.
    """
    design = designs[index]
    image = design if isinstance(design, Image.Image) else open_image(design, size)
    image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    if transparent and (image.mode == "RGB" or image.getchannel("A").getextrema()[0] == 255):
        name = f"design {index + 1}" if isinstance(design, Image.Image) else str(design)
        raise InputError(
            f"{name} has no transparent parts to keep.", "Give a PNG or SVG with transparency, or omit --transparent."
        )
    return image


def _prepare_all(
    designs: Sequence[Design], how: Embroidering, guide: Guide, engine: DrawingEngine, progress: StageProgress
) -> Iterator[Progress | _Sample]:
    """Every picture to be drawn, in its order; and how far laying out its start is."""
    relief = Relief.of_bytes(how.style.relief) if how.style.relief else None
    cover = 1.0
    if relief is not None and relief.cover < OPEN and how.recipe.sampling.guide != "none":
        cover = relief.cover
    for index in range(len(designs)):
        picture = open_design(designs, index, how.size, how.transparent)
        design, crop_box = pad(fit(picture, how.size), engine.base.pixel_multiple)
        canvas = _canvas(design, how.style, how.recipe, cover)
        place = f"design {index + 1} of {len(designs)}, laying out its stitches"
        start = yield from progress.through(guide.start(canvas, how.seed), place)
        kernel = tile_kernel(how.recipe.sampling, engine.base, canvas.flat.size, how.size)
        conditions = engine.conditions(canvas.flat, canvas.inside, kernel)
        for number in range(how.samples):
            yield _Sample(_Prepared(index, canvas, start, conditions, crop_box), number)


def _canvas(design: Image.Image, style: Style, recipe: Recipe, cover: float) -> Canvas:
    """A design on the style's fabric, as the recipe draws from it; `cover`: share of yarn in what its areas show."""
    flat = flatten(design, style.fabric)
    if not recipe.flat:
        flat = edge_map(flat, recipe)
    elif recipe.design_kind == "filled":
        design = filled(design, style.fabric, recipe, style.palette)
        flat = flatten(design, style.fabric)
    inside = find_regions(np.asarray(design)).labels > 0
    mean_colours = flat
    if cover < 1:
        mean_colours = Image.fromarray(shown_colours(cover, np.asarray(flat), inside, style.fabric))
    return Canvas(design, flat, mean_colours, inside)


def _batches(samples: Iterator[Progress | _Sample], most: int) -> Iterator[Progress | list[_Sample]]:
    """Neighbouring pictures of one size, at most so many; progress as it comes."""
    waiting: list[_Sample] = []
    for one in samples:
        if isinstance(one, Progress):
            yield one
            continue
        if waiting and waiting[0].design.canvas.flat.size != one.design.canvas.flat.size:
            yield waiting
            waiting = []
        waiting.append(one)
        if len(waiting) == most:
            yield waiting
            waiting = []
    if waiting:
        yield waiting


def _place(one: _Sample, designs: int, samples: int) -> str:
    return f"design {one.design.index + 1} of {designs}, sample {one.number + 1} of {samples}"

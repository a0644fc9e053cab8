"""The whole flow on one page: photo -> pair -> style blocks -> stage one -> complementary pairs -> stage two -> style.

State lies in a work folder, every part of it written whole or not at all, so that a run that was killed continues
where it was and ends, on a CPU, with the same style bit for bit.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Generator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from tambour.analysis.blocks import BlockChoice, check_blocks
from tambour.base import Base, generator
from tambour.config import Recipe, recipe_values
from tambour.guides.photo.relief import cut_relief
from tambour.imaging.texture import texture_statistics
from tambour.pair.fill import palette_of
from tambour.pair.reference import prepare
from tambour.preflight import settled
from tambour.progress import Progress
from tambour.stitch import stitch_values
from tambour.stitch.fit import fit_stitch
from tambour.style import Style
from tambour.training.adapter import adapted, style_only
from tambour.training.pairs import encode_pair
from tambour.training.routing import RoutedModel
from tambour.training.stage_one import stage_one
from tambour.training.stage_two import stage_two
from tambour.workflows.jobs import claim
from tambour.workflows.options import LearnOptions
from tambour.workflows.report import Clock, Report, draw_sheet
from tambour.workflows.request import load_base, preflight, resolve
from tambour.workflows.session import Reference, Session, choose_blocks, describe_design, encode_reference


def learn(
    photo: str | Path, options: LearnOptions, *, work: str | Path, overwrite: bool = False
) -> Generator[Progress, None, Style]:
    """Learn the style of one embroidery photo (method, sections 1 to 5).

    Args:
        photo: a picture file.
        work: folder for unfinished work; the same arguments with the same folder continue.
        overwrite: drop another run's unfinished work.

    Before a base is loaded by name, what the run takes is estimated and said (`preflight`).

    Yields progress. Returns the `Style`, which the caller writes.

    Raises:
        InputError: photo, design, recipe, blocks or description cannot be used, or `work` is another run's.
        BaseModelError: the base cannot be loaded, does not fit into the memory or lacks what the recipe needs.
    """
    # -- what is asked for, and the base
    work, seed = Path(work), options.seed
    request = resolve(photo, options)
    plan = None
    if not isinstance(options.base, Base):
        plan = preflight(request)
        yield Progress("plan", 1, 1, plan.summary())
        request = replace(request, recipe=settled(request.recipe, plan))
    base, recipe = load_base(request, plan), request.recipe
    named = options.blocks if options.blocks is not None else recipe.analysis.blocks or None
    named = None if named is None else check_blocks(named, base.attention_blocks)
    claim(work, request.identity() | {"fingerprint": base.fingerprint}, overwrite)
    report, clock = Report(options.report) if options.report is not None else None, Clock()

    # -- 1. the pair: photo and flat design, encoded, and the same in other colours
    pair = yield from prepare(photo, request.design, recipe, base, folder=work / "pair")
    reference = encode_reference(base, pair, options.describe, recipe, seed)
    base.check_controlnets(request.controlnets)
    clock.lap("pair")

    # -- 2. the style blocks
    choice = yield from choose_blocks(base, recipe, reference.pair, named, work / "blocks.json")
    clock.lap("blocks")
    if report:
        report.pair(pair)
        report.blocks(choice)

    # -- 3. to 5. the LoRA: stage one, complementary pairs, stage two
    with adapted(base, choice.chosen, recipe.lora, generator(seed, "lora")) as adapter:
        session = Session(base, recipe, seed, work, adapter, reference, report, clock)
        model = RoutedModel(base, choice.chosen, recipe.training.tile, recipe.training.loss)
        as_drawn = functools.partial(style_only, adapter) if recipe.masked_style else nullcontext
        one = recipe.stage_one
        steps = stage_one(model, reference.views, recipe.batch, content_step=one.content_step, as_drawn=as_drawn)
        yield from session.train("stage one", steps, one, recipe.batch)
        if recipe.stage_two.iterations:
            generated = yield from session.complementary_pairs(plan.batch if plan else 1)
            steps = stage_two(model, reference.views, generated, recipe.stage_two, as_drawn=as_drawn)
            yield from session.train("stage two", steps, recipe.stage_two, 2 * recipe.stage_two.batch)
        tensors = adapter.style_tensors()

    # -- 6. the style
    yield Progress("style", 0, 1, "reading the stitches")
    style = _style(tensors, choice, reference, options.stitch, recipe, base)
    clock.lap("style")

    # -- the report
    if report:
        yield from draw_sheet(report, style, base, pair, seed)
        clock.lap("sheet")
        report.finish(request, style, base, choice, reference.words, clock.laps)
    yield Progress("style", 1, 1)
    return style


def analyse(photo: str | Path, options: LearnOptions) -> Generator[Progress, None, BlockChoice]:
    """Which blocks of a base see the embroidery (method, section 2); arguments and faults as for `learn`.

    Yields progress. Returns a `BlockChoice`.
    """
    request = resolve(photo, options)
    kind = request.recipe.training_controlnet
    base = load_base(replace(request, controlnets=(kind,) if kind else ()), None)
    pair = yield from prepare(photo, request.design, request.recipe, base)
    words = describe_design(base, pair, options.describe, request.recipe)
    encoded = encode_pair(base, pair.design, pair.embroidery, words, request.recipe, pair.mask)
    return (yield from choose_blocks(base, request.recipe, encoded, None, None))


# -- the style --------------------------------------------------------------------------------------------------------


def _style(
    tensors: dict[str, torch.Tensor],
    choice: BlockChoice,
    reference: Reference,
    family: str | None,
    recipe: Recipe,
    base: Base,
) -> Style:
    """Everything a style file keeps; `family`: of the stitch on the photo, where the user names it."""
    pair = reference.shown
    embroidery, mask = np.asarray(pair.embroidery.convert("RGB")), np.asarray(pair.mask) > 127
    design = np.asarray(pair.design.convert("RGB"))
    return Style(
        tensors=tensors,
        blocks={name: choice.scores[name] for name in choice.chosen},
        rank=recipe.lora.rank,
        alpha=recipe.lora.alpha,
        base=base.name,
        fingerprint=base.fingerprint,
        trigger=recipe.prompts.trigger,
        recipe=recipe_values(recipe),
        description=reference.words,
        fabric=reference.fabric,
        stitch=stitch_values(fit_stitch(embroidery, mask, family=family)) if min(mask.shape) >= 32 else None,
        statistics=tuple(float(value) for value in texture_statistics(embroidery, mask)),
        thumbnail=_thumbnail(pair.embroidery),
        relief=cut_relief(embroidery, design, mask) if recipe.flat else b"",
        palette=palette_of(pair.design, mask) if recipe.design_kind == "filled" else (),
    )


def _thumbnail(picture: Image.Image) -> bytes:
    """A picture at 256 px at most, as a JPEG."""
    small, file = picture.convert("RGB"), io.BytesIO()
    small.thumbnail((256, 256))
    small.save(file, "JPEG", quality=85)
    return file.getvalue()

"""The whole flow on one page: photo -> pair -> style blocks -> stage one -> complementary pairs -> stage two -> style.

State lies in a work folder, every part of it written whole or not at all, so that a run that was killed continues
where it was and ends, on a CPU, with the same style bit for bit.
"""

from __future__ import annotations

import functools
import io
import json
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from tambour.analysis.blocks import BlockChoice, check_blocks
from tambour.analysis.similarity import compare
from tambour.base import Base, base_only, generator, load
from tambour.config import Recipe, Stage, StageTwo, on_edges, recipe_values, resolve_recipe
from tambour.drawing.conditions import controlnet_scales
from tambour.errors import BaseModelError, InputError
from tambour.guides.photo.relief import cut_relief
from tambour.imaging.designs import bundled_designs, on_ground
from tambour.imaging.files import open_image
from tambour.imaging.texture import texture_statistics
from tambour.pair.edges import EDGE_MAPS
from tambour.pair.fill import palette_of
from tambour.pair.flat import Pair
from tambour.pair.reference import fabric_colour, name_colours, prepare
from tambour.preflight import Plan, plan_learn, settled
from tambour.progress import Progress
from tambour.stitch import default_stitch, stitch_values
from tambour.stitch.fit import fit_stitch
from tambour.style import Style
from tambour.training.adapter import Adapter, adapted, style_only
from tambour.training.complement import choose, from_designs, generate
from tambour.training.loop import Step, train
from tambour.training.pairs import EncodedPair, crop, encode_pair
from tambour.training.palettes import recoloured
from tambour.training.resources import few_threads, unet_alone
from tambour.training.routing import RoutedModel
from tambour.training.stage_one import stage_one
from tambour.training.stage_two import stage_two
from tambour.workflows.jobs import claim, fingerprint, write_json
from tambour.workflows.options import LearnOptions
from tambour.workflows.report import SHOWN, Clock, Report, draw_sheet


def learn(photo: str | Path, options: LearnOptions, *, work: str | Path, overwrite: bool = False) -> Iterator[Progress]:
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
    base, recipe = _load(request, plan), request.recipe
    named = options.blocks if options.blocks is not None else recipe.analysis.blocks or None
    named = None if named is None else check_blocks(named, base.attention_blocks)
    claim(work, request.identity() | {"fingerprint": base.fingerprint}, overwrite)
    report, clock = options.report and Report(options.report), Clock()

    # -- 1. the pair: photo and flat design, encoded, and the same in other colours
    pair = yield from prepare(photo, request.design, recipe, base, folder=work / "pair")
    reference = _encode(base, pair, options.describe, recipe, seed)
    base.check_controlnets(request.controlnets)
    clock.lap("pair")

    # -- 2. the style blocks
    choice = yield from _choose_blocks(base, recipe, reference.pair, named, work / "blocks.json")
    clock.lap("blocks")
    if report:
        report.pair(pair)
        report.blocks(choice)

    # -- 3. to 5. the LoRA: stage one, complementary pairs, stage two
    with adapted(base, choice.chosen, recipe.lora, generator(seed, "lora")) as adapter:
        session = _Session(base, recipe, seed, work, adapter, reference, report, clock)
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


def analyse(photo: str | Path, options: LearnOptions) -> Iterator[Progress]:
    """Which blocks of a base see the embroidery (method, section 2); arguments and faults as for `learn`.

    Yields progress. Returns a `BlockChoice`.
    """
    request = resolve(photo, options)
    kind = request.recipe.training_controlnet
    base = _load(replace(request, controlnets=(kind,) if kind else ()), None)
    pair = yield from prepare(photo, request.design, request.recipe, base)
    words = _describe(base, pair, options.describe, request.recipe)
    encoded = encode_pair(base, pair.design, pair.embroidery, words, request.recipe, pair.mask)
    return (yield from _choose_blocks(base, request.recipe, encoded, None, None))


# -- what is asked for ------------------------------------------------------------------------------------------------


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
        recipe, design = on_edges(recipe, str(design)), None
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


def _load(request: Request, plan: Plan | None) -> Base:
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


# -- the reference, the blocks ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reference:
    """The reference as training sees it.

    Attributes:
        shown: the pair's pictures.
        words: what it shows, the <des> of the prompts.
        fabric: RGB.
        views: it, encoded, and where the recipe wants palettes its recoloured copies.
    """

    shown: Pair
    words: str
    fabric: tuple[int, int, int]
    views: tuple[EncodedPair, ...]

    @property
    def pair(self) -> EncodedPair:
        return self.views[0]


def _encode(base: Base, pair: Pair, describe: str | None, recipe: Recipe, seed: int) -> Reference:
    fabric, words = fabric_colour(pair), _describe(base, pair, describe, recipe)
    rng = np.random.default_rng([seed, recipe.training.palettes])
    pairs = [pair, *recoloured(pair, fabric, rng, recipe.training.palettes)]
    views = [encode_pair(base, one.design, one.embroidery, words, recipe, pair.mask) for one in pairs]
    return Reference(pair, words, fabric, tuple(views))


def _describe(base: Base, pair: Pair, describe: str | None, recipe: Recipe) -> str:
    """The user's description, or as many colours as the base's prompts have room for."""

    def missing(words: str) -> int:
        return -base.token_room(recipe.prompts.style.format(words))

    if describe is None:
        colours = [name_colours(pair, recipe.complement.colours, most) for most in (3, 2, 1)]
        return next((words for words in colours if missing(words) <= 0), "design")
    if missing(describe) > 0:
        raise InputError(f"The description {describe!r} is too long by {missing(describe)} tokens.", "Say it shorter.")
    return describe


def _choose_blocks(
    base: Base, recipe: Recipe, pair: EncodedPair, named: Sequence[str] | None, kept_at: Path | None
) -> Iterator[Progress]:
    """Block similarities of the reference, at its fullest window, and the choice. Returns a `BlockChoice`.

    Args:
        named: the blocks that the user or the recipe wants; None: by similarity.
        kept_at: where the similarities are kept, for a run that continues.
    """
    if kept_at is not None and kept_at.exists():
        values = json.loads(kept_at.read_text())
    else:
        window = crop(base, pair, pair.places[:1])
        similarity = yield from compare(
            base,
            (window.design, pair.c_des),
            (window.embroidery, pair.c_emb),
            window.time_ids,
            recipe.analysis,
            stage="blocks",
        )
        values = similarity[0].tolist()  # (blocks, segments)
        if kept_at is not None:
            write_json(kept_at, values)
    return BlockChoice.of(base.attention_blocks, np.array(values), named, recipe.analysis.fewest)


# -- training ---------------------------------------------------------------------------------------------------------


@dataclass
class _Session:
    """A run while its LoRA is trained.

    Attributes:
        losses: of every iteration, by stage and name.
    """

    base: Base
    recipe: Recipe
    seed: int
    work: Path
    adapter: Adapter
    reference: Reference
    report: Report | None
    clock: Clock
    losses: dict[str, dict[str, list[float]]] = field(default_factory=lambda: {"stage one": {}, "stage two": {}})

    def train(self, name: str, steps: Sequence[Step], stage: Stage | StageTwo, rows: int) -> Iterator[Progress]:
        """Train one stage, `rows` crops a pass; at half time and at the end a sample is drawn for the report."""
        file = name.replace(" ", "-")
        settings = dict(
            seed=self.seed,
            checkpoint=self.work / f"{file}.safetensors",
            every_seconds=self.recipe.training.checkpoint_seconds,
            curves=self.losses[name],
        )
        alone = unet_alone(self.base, self.recipe.training_controlnet)
        with few_threads(self.base, self.reference.pair.window, rows), alone as everything:
            for record in train(name, self.adapter, steps, stage, **settings):
                yield record
                if self.report and record.step in (stage.iterations // 2, stage.iterations):
                    with everything():
                        sample = self.sample()
                    self.report.image(f"samples/{file}-{record.step:04d}.png", sample)
                    self.report.curves(self.losses)
        self.clock.lap(name)

    def sample(self) -> Image.Image:
        """The first of the sheet's designs in the style so far, at the size of a training crop."""
        flat = on_ground(bundled_designs()[SHOWN[0]], self.reference.pair.window, self.reference.fabric)
        with style_only(self.adapter):
            return from_designs(self.base, self.recipe, ["design"], [flat], [generator(self.seed, "sample")])[0]

    def complementary_pairs(self, batch: int) -> Iterator[Progress]:
        """Generate pairs with the stage-one LoRA, filter and encode them. Returns a list of `EncodedPair`."""
        base, recipe, pair = self.base, self.recipe, self.reference.pair
        if not recipe.complement.count:
            self.clock.lap("complement")
            return [pair]
        with few_threads(base, pair.window):
            settings = dict(seed=self.seed, folder=self.work / "complement", batch=batch)
            candidates = yield from generate(base, recipe, pair.window, self.reference.fabric, **settings)
            window = crop(base, pair, pair.places[:1])
            with base_only(self.adapter.unet):
                latents = (window.design, window.embroidery)
                filtered = yield from choose(base, recipe, latents, self.reference.words, candidates)
            if self.report:
                self.report.generated(candidates, filtered)
            chosen = [candidates[i] for i in filtered.chosen]
            encoded = [encode_pair(base, c.design, c.embroidery, c.words, recipe) for c in chosen]
        self.clock.lap("complement")
        return encoded


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

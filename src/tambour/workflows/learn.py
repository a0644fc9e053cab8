"""The whole flow on one page: photo -> pair -> blocks -> stage one -> complement -> stage two -> style.

State lies in a work folder, every part of it written whole or not at all, so that a run that was killed continues
where it was and ends, on a CPU, with the same style bit for bit.
"""

from __future__ import annotations

import functools
import io
import json
import shlex
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from tambour.analysis.blocks import BlockChoice, check_blocks
from tambour.analysis.similarity import compare
from tambour.base import Base, base_only, generator, load
from tambour.config import Recipe, on_edges, recipe_values, resolve_recipe
from tambour.errors import BaseModelError, InputError
from tambour.guides.photo.relief import cut_relief
from tambour.imaging.designs import bundled_designs, draw_svg, on_ground
from tambour.imaging.geometry import flatten
from tambour.imaging.sheet import contact_sheet
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
from tambour.training.complement import choose, embroider, generate
from tambour.training.loop import train
from tambour.training.pairs import EncodedPair, crop, encode_pair
from tambour.training.palettes import recoloured
from tambour.training.resources import Clock, few_threads, unet_alone
from tambour.training.routing import RoutedModel
from tambour.training.stage_one import stage_one
from tambour.training.stage_two import stage_two
from tambour.workflows.apply import Result, apply
from tambour.workflows.jobs import claim, fingerprint, write_json
from tambour.workflows.report import Report, to_toml

SHOWN = ("fox", "rose", "bee", "monogram")  # bundled designs on the final sheet


def learn(
    photo: str | Path,
    *,
    design: str | Path | None = None,
    base: str | Path | Base = "mini",
    recipe: Recipe | str | Path | None = None,
    seed: int = 0,
    blocks: Sequence[str] | None = None,
    describe: str | None = None,
    stitch: str | None = None,
    work: Path,
    report: str | Path | None = None,
    overwrite: bool = False,
) -> Iterator[Progress]:
    """Learn the style of one embroidery photo (method, sections 1 to 5).

    Args:
        photo: a picture file.
        design: your own flat design, aligned with the photo; "canny" or "outline": the edge map of the picture, whose
            colours are then style too (method, section 7); None: one is made from it as the recipe says.
        base: "mini", "sdxl", a base folder or a loaded base.
        recipe: every number of the run; None: the bundled one of the base's name, for other bases the paper's.
        seed: decides everything random.
        blocks: style blocks by name, in place of the automatic choice.
        describe: what the photo shows ("red fox"); None: the names of its main colours.
        stitch: the stitch family on the photo, for a guide of drawn stitches; None: the one that fits best, and the
            recipe's guide.
        work: folder for unfinished work; the same arguments with the same folder continue.
        report: folder for pictures and plots of every step, the final sheet and a manifest.
        overwrite: drop another run's unfinished work.

    Before a base is loaded by name, what the run takes is estimated and told (`base/preflight.py`).

    Yields progress. Returns the `Style`, which the caller writes.

    Raises:
        InputError: photo, design, recipe, blocks or description cannot be used, or `work` is another run's.
        BaseModelError: the base cannot be loaded, does not fit into the memory or lacks what the recipe needs.
    """
    own, recipe = recipe is not None, resolve_recipe(recipe, base.name if isinstance(base, Base) else str(base))
    design, recipe = resolve_design(design, recipe)
    inputs = {"photo": fingerprint(photo), "design": design and fingerprint(design)}
    if stitch is not None:
        default_stitch(stitch)
    if stitch is not None and recipe.sampling.guide == "photo":  # who knows the stitch has no need of copies of it
        recipe = replace(recipe, sampling=replace(recipe.sampling, guide="stitches"))
    controls = controlnets(recipe, report is not None)
    plan = None
    if not isinstance(base, Base):
        plan = plan_learn(str(base), recipe, controlnets=controls, report=bool(report), free_precision=not own)
        yield Progress("plan", 1, 1, plan.summary())
        recipe = settled(recipe, plan)
    base = _base(base, recipe, controls, plan)
    wanted = recipe.analysis.blocks or None if blocks is None else blocks
    named = None if wanted is None else check_blocks(wanted, base.attention_blocks)
    chosen = {"seed": seed, "blocks": blocks and list(blocks), "describe": describe, "stitch": stitch}
    chosen["recipe"] = recipe_values(recipe)
    claim(Path(work), inputs | chosen | {"fingerprint": base.fingerprint}, overwrite)
    told, clock = report and Report(report), Clock()

    pair = yield from prepare(photo, design, recipe, base, folder=work / "pair")
    fabric, words = fabric_colour(pair), _words(base, pair, describe, recipe)
    base.check_controlnets(controls)
    views = [
        encode_pair(base, p.design, p.embroidery, words, recipe, pair.mask) for p in _views(pair, fabric, recipe, seed)
    ]
    reference = views[0]
    clock.lap("pair")
    choice = yield from _analysed(base, recipe, reference, named, work / "blocks.json")
    clock.lap("blocks")
    if told:
        told.pair(pair)
        told.blocks(choice)

    losses: dict[str, dict[str, list[float]]] = {"stage one": {}, "stage two": {}}
    model = RoutedModel(base, choice.chosen, recipe.training.tile, recipe.training.loss)
    lora = adapted(base, choice.chosen, recipe.lora, generator(seed, "lora"))
    with lora as adapter:

        def stage(name: str, steps, numbers, rows: int) -> Iterator[Progress]:
            """Train one stage, `rows` crops a pass; at half time and at the end a sample is drawn for the report."""
            state = work / f"{name.replace(' ', '-')}.safetensors"
            common = dict(seed=seed, every_seconds=recipe.training.checkpoint_seconds, curves=losses[name])
            alone = unet_alone(base, recipe.training_controlnet)
            with few_threads(base, reference.window, rows), alone as everything:
                for record in train(name, adapter, steps, numbers, checkpoint=state, **common):
                    yield record
                    if told and record.step in (numbers.iterations // 2, numbers.iterations):
                        with everything():
                            sample = _sample(base, recipe, adapter, reference, fabric, seed)
                        told.image(f"samples/{name.replace(' ', '-')}-{record.step:04d}.png", sample)
                        told.curves(losses)
            clock.lap(name)

        as_drawn = functools.partial(style_only, adapter) if recipe.masked_style else nullcontext
        steps = stage_one(model, views, recipe.batch, content_step=recipe.stage_one.content_step, as_drawn=as_drawn)
        yield from stage("stage one", steps, recipe.stage_one, recipe.batch)
        if recipe.stage_two.iterations:
            together = plan.batch if plan else 1
            common = (base, recipe, adapter, reference, words, fabric, seed, work, told, together)
            with few_threads(base, reference.window):
                generated = yield from _complement(*common)
            clock.lap("complement")
            steps = stage_two(model, views, generated, recipe.stage_two, as_drawn=as_drawn)
            yield from stage("stage two", steps, recipe.stage_two, 2 * recipe.stage_two.batch)
        tensors = adapter.style_tensors()

    yield Progress("style", 0, 1, "reading the stitches")
    style = _style(tensors, choice, pair, words, fabric, stitch, recipe, base)
    clock.lap("style")
    if told:
        yield from _sheet(told, style, base, pair, seed)
        clock.lap("sheet")
        told.text("recipe.toml", to_toml(recipe_values(recipe)))
        files = {"photo": photo, "design": design}
        command = _command(files, base, seed, choice if not choice.automatic else None, describe, stitch)
        facts = {
            "command": command,
            "inputs": {k: {"file": str(v), "sha256": inputs[k]} for k, v in files.items() if v},
        }
        facts |= {"base": {"name": base.name, "fingerprint": base.fingerprint}, **chosen, "words": words}
        facts |= {"style blocks": style.blocks, "similarity": choice.similarity, "seconds": clock.laps}
        told.manifest(facts)
    yield Progress("style", 1, 1)
    return style


def analyse(
    photo: str | Path,
    *,
    design: str | Path | None = None,
    base: str | Path | Base = "mini",
    recipe: Recipe | str | Path | None = None,
    describe: str | None = None,
) -> Iterator[Progress]:
    """Which blocks of a base see the embroidery (method, section 2); arguments and faults as for `learn`.

    Yields progress. Returns a `BlockChoice`.
    """
    design, recipe = resolve_design(design, resolve_recipe(recipe, base.name if isinstance(base, Base) else str(base)))
    base = _base(base, recipe, (recipe.training_controlnet,) if recipe.training_controlnet else ())
    pair = yield from prepare(photo, design, recipe, base)
    words = _words(base, pair, describe, recipe)
    reference = encode_pair(base, pair.design, pair.embroidery, words, recipe, pair.mask)
    return (yield from _analysed(base, recipe, reference, None, None))


def _words(base: Base, pair: Pair, describe: str | None, recipe: Recipe) -> str:
    """The user's description, or as many colours as the base's prompts have room for."""

    def missing(words: str) -> int:
        return -base.token_room(recipe.prompts.style.format(words))

    if describe is None:
        colours = [name_colours(pair, recipe.complement.colours, most) for most in (3, 2, 1)]
        return next((words for words in colours if missing(words) <= 0), "design")
    if missing(describe) > 0:
        raise InputError(f"The description {describe!r} is too long by {missing(describe)} tokens.", "Say it shorter.")
    return describe


def _views(pair: Pair, fabric: tuple[int, int, int], recipe: Recipe, seed: int) -> list[Pair]:
    """The pair, and where the recipe wants palettes its recoloured copies."""
    rng = np.random.default_rng([seed, recipe.training.palettes])
    return [pair, *recoloured(pair, fabric, rng, recipe.training.palettes)]


# -- blocks, generated pairs ------------------------------------------------------------------------------------------


def _analysed(
    base: Base, recipe: Recipe, reference: EncodedPair, named: Sequence[str] | None, path: Path | None
) -> Iterator[Progress]:
    """Block similarities of the reference, at its fullest window, and the choice. Returns a `BlockChoice`."""
    if path is None or not path.exists():
        window = crop(base, reference, reference.places[:1])
        similarity = yield from compare(
            base,
            (window.design, reference.c_des),
            (window.embroidery, reference.c_emb),
            window.time_ids,
            recipe.analysis,
            stage="blocks",
        )
        values = similarity[0].tolist()  # (blocks, segments)
        if path is not None:
            write_json(path, values)
    else:
        values = json.loads(path.read_text())
    return BlockChoice.of(base.attention_blocks, np.array(values), named, recipe.analysis.fewest)


def _complement(
    base: Base,
    recipe: Recipe,
    adapter: Adapter,
    reference: EncodedPair,
    words: str,
    fabric: tuple[int, int, int],
    seed: int,
    work: Path,
    told: Report | None,
    together: int,
) -> Iterator[Progress]:
    """Generate pairs with the stage-one LoRA, filter and encode them. Returns a list of `EncodedPair`."""
    if not recipe.complement.count:
        return [reference]
    how = dict(seed=seed, folder=work / "complement", batch=together)
    candidates = yield from generate(base, recipe, reference.window, fabric, **how)
    window = crop(base, reference, reference.places[:1])
    with base_only(adapter.unet):
        filtered = yield from choose(base, recipe, (window.design, window.embroidery), words, candidates)
    if told:
        told.generated(candidates, filtered)
    picked = [candidates[i] for i in filtered.chosen]
    return [encode_pair(base, c.design, c.embroidery, c.words, recipe) for c in picked]


# -- the style, the report --------------------------------------------------------------------------------------------


def _style(
    tensors: dict[str, torch.Tensor],
    choice: BlockChoice,
    pair: Pair,
    words: str,
    fabric: tuple[int, int, int],
    family: str | None,
    recipe: Recipe,
    base: Base,
) -> Style:
    embroidery, mask = np.asarray(pair.embroidery.convert("RGB")), np.asarray(pair.mask) > 127
    design = np.asarray(pair.design.convert("RGB"))
    small = pair.embroidery.convert("RGB")
    small.thumbnail((256, 256))
    thumbnail = io.BytesIO()
    small.save(thumbnail, "JPEG", quality=85)
    return Style(
        tensors=tensors,
        blocks={name: choice.scores[name] for name in choice.chosen},
        rank=recipe.lora.rank,
        alpha=recipe.lora.alpha,
        base=base.name,
        fingerprint=base.fingerprint,
        trigger=recipe.prompts.trigger,
        recipe=recipe_values(recipe),
        description=words,
        fabric=fabric,
        stitch=stitch_values(fit_stitch(embroidery, mask, family=family)) if min(mask.shape) >= 32 else None,
        statistics=tuple(float(value) for value in texture_statistics(embroidery, mask)),
        thumbnail=thumbnail.getvalue(),
        relief=cut_relief(embroidery, design, mask) if recipe.flat else b"",
        palette=palette_of(pair.design, mask) if recipe.design_kind == "filled" else (),
    )


def _sample(
    base: Base, recipe: Recipe, adapter: Adapter, reference: EncodedPair, fabric: tuple[int, int, int], seed: int
) -> Image.Image:
    """The first of the sheet's designs in the style so far, at the size of a training crop."""
    flat = on_ground(bundled_designs()[SHOWN[0]], reference.window, fabric)
    with style_only(adapter):
        return embroider(base, recipe, ["design"], [flat], [generator(seed, "sample")])[0]


def _sheet(told: Report, style: Style, base: Base, pair: Pair, seed: int) -> Iterator[Progress]:
    """Reference and bundled designs, each above its result."""
    drawings = bundled_designs()
    size = style.recipe["sampling"]["size"]
    designs = [draw_svg(drawings[name], size) for name in SHOWN]
    results, how = [], ""
    for record in apply(style, designs, base=base, seed=seed):
        if isinstance(record, Result):
            results.append(record.image)
            how = " (guided)" if record.guided else ""
        else:
            yield Progress("sheet", record.step, record.total, record.message, record.values)
    grounded = [flatten(design, style.fabric) for design in designs]
    rows = [[pair.embroidery, *grounded], [pair.design, *results]]
    told.image("sheet.jpg", contact_sheet(rows, ["reference, its design" + how, *SHOWN], cell=384))


def _command(
    files: dict[str, str | Path | None],
    base: Base,
    seed: int,
    named: BlockChoice | None,
    describe: str | None,
    stitch: str | None,
) -> str:
    """The command that does it again, given in the report folder."""
    words = ["tambour", "learn", str(files["photo"]), "-o", "style.safetensors", "--base", base.name]
    words += ["--recipe", "recipe.toml", "--seed", str(seed)]
    words += ["--design", str(files["design"])] if files["design"] else []
    words += ["--blocks", ",".join(named.chosen)] if named else []
    words += ["--describe", describe] if describe else []
    words += ["--stitch", stitch] if stitch else []
    return shlex.join(words)


# -- what a run needs around it ---------------------------------------------------------------------------------------


def resolve_design(design: str | Path | None, recipe: Recipe) -> tuple[str | Path | None, Recipe]:
    """The design's file, if it is one, and the recipe, which knows the edge map that is wanted in its place."""
    if str(design) not in EDGE_MAPS:
        return design, recipe
    return None, on_edges(recipe, str(design))


def controlnets(recipe: Recipe, report: bool) -> tuple[str, ...]:
    """The kinds of ControlNets that `learn` needs: for training, for drawing pairs from designs, for the sheet."""
    drawn = report or (recipe.complement.source == "designs" and recipe.stage_two.iterations > 0)
    firm = recipe.sampling.firm
    scales = {"tile": firm.tile, "canny": firm.canny}
    return tuple(kind for kind, scale in scales.items() if kind == recipe.training_controlnet or (drawn and scale > 0))


def _base(base: str | Path | Base, recipe: Recipe, controls: Sequence[str], plan: Plan | None = None) -> Base:
    """The base, on the GPU if there is one, with the recipe's precision and the ControlNets of these kinds."""
    if not isinstance(base, Base):
        offloaded = plan is not None and plan.offloaded
        base = load(base, dtype=recipe.precision, controlnets=controls, offloaded=offloaded)
    if recipe.training_controlnet and recipe.training_controlnet not in base.controlnets:
        raise BaseModelError(
            f"Base {base.name!r} has no ControlNet {recipe.training_controlnet!r}.",
            "Set training.tile to 0 in the recipe.",
        )
    if recipe.crop % base.pixel_multiple:
        raise InputError(
            f"Recipe crop {recipe.crop} does not fit base {base.name!r}.", f"Use a multiple of {base.pixel_multiple}."
        )
    if recipe.training.gradient_checkpointing or (plan and plan.checkpointing):
        base.unet.enable_gradient_checkpointing()
    return base

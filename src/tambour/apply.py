"""Show designs, or words, in a style: the style blocks alone on the frozen base (method, section 6).

A design is noised and denoised again under structure conditions (SDEdit with ControlNets), a prompt is sampled; both by
diffusers' own pipelines. Same seed, same picture (on a CPU bit for bit), whatever else is in the batch.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from tambour.base import Base, generator, load
from tambour.base.preflight import plan_apply
from tambour.config import Edges, Recipe, Sampling, recipe_from
from tambour.errors import InputError, StyleError
from tambour.images import canny_condition, correct_colours, fit, flatten, open_image, pad, tile_condition, to_image
from tambour.progress import Progress
from tambour.stitch import Fabric, Stitch, render
from tambour.stitch.regions import find_regions
from tambour.style import Style, attached, check_base
from tambour.texture import Scores, score

EDGES = ("firm", "free")
GUIDES = ("none", "stitches")
SIZES = (64, 4096)  # longer side, px

Design = Image.Image | str | Path


@dataclass(frozen=True)
class Result:
    """One finished picture.

    Attributes:
        image: RGB, or RGBA where transparency was asked for.
        scores: how good it is, or None where there is nothing to compare with (text; a style without statistics).
        seed: gives this picture again, with one sample.
        design_index: its place in the list of designs (of pictures, for text).
        guided: the run started from rendered stitches, not from the flat design.
    """

    image: Image.Image
    scores: Scores | None
    seed: int
    design_index: int
    guided: bool


def apply(
    style: Style,
    designs: Sequence[Design],
    *,
    base: Base | str | None = None,
    size: int | None = None,
    strength: float | None = None,
    edges: str = "firm",
    seed: int = 0,
    samples: int = 1,
    guide: str | None = None,
    transparent: bool = False,
    recipe: Recipe | None = None,
) -> Iterator[Progress | Result]:
    """Embroider designs: yields progress, and a `Result` as soon as a design is done.

    Args:
        style: from `read_style`.
        designs: pictures or their files. Transparent parts are put on the style's fabric colour.
        base: a loaded base, or its name; None: the style's own, on the GPU if there is one.
        size: longer side of the results, px; None: the recipe's.
        strength: how much is redrawn, 0 to 1; None: the recipe's for these `edges` (or for the guide).
        edges: "firm" keeps borders and colours (Tile, Canny, colour correction), "free" lets raised material change
            them (Tile alone).
        seed: of the first sample; the others count up from it.
        samples: how many to draw; the one with the best score is kept.
        guide: "stitches" starts from the design rendered in the stitch that was fitted to the reference, "none" from
            its flat colours (the paper); None: as the recipe says, where the style knows a stitch.
        transparent: keep the design's transparency in the result.
        recipe: another recipe than the style's own.

    Raises:
        InputError: an option out of range, or a design that cannot be used; found before anything is drawn.
        StyleError: the style belongs to another base, or lacks what an option needs.
        BaseModelError: the base cannot be loaded, or does not fit into the memory.
    """
    recipe = recipe or recipe_from(style.recipe)
    sampling = recipe.sampling
    _one_of("edges", edges, EDGES)
    guide = (sampling.guide if style.stitch else "none") if guide is None else guide
    _one_of("guide", guide, GUIDES)
    setting: Edges = sampling.firm if edges == "firm" else sampling.free
    guided = guide == "stitches"
    if strength is None:
        strength = sampling.guide_strength if guided else setting.strength
    if not 0 < strength <= 1:
        raise InputError(f"strength {strength!r} is out of range.", "Give a number above 0, at most 1.")
    if int(sampling.steps * strength) < 1:
        raise InputError(f"strength {strength!r} leaves none of {sampling.steps} steps.", "Give a larger strength.")
    if samples < 1:
        raise InputError(f"samples {samples!r} is out of range.", "Draw at least one.")
    size = _size(size, sampling)
    if guided and style.stitch is None:
        raise StyleError("This style has no stitch fitted to its reference.", "Use --guide none, or learn it again.")
    if samples > 1 and not style.statistics:
        raise StyleError("This style cannot rank samples: it lacks its reference's statistics.", "Draw one sample.")
    if not designs:
        raise InputError("There are no designs.", "Give at least one picture.")
    for index in range(len(designs)):
        _open(designs, index, size, transparent)

    weights = {kind: getattr(setting, kind) for kind in ("tile", "canny") if getattr(setting, kind) > 0}
    if not isinstance(base, Base):
        pictures = len(designs) * samples
        plan = plan_apply(base or style.base, recipe, controlnets=tuple(weights), size=size, pictures=pictures)
        yield Progress("plan", 1, 1, plan.summary())
    yield Progress("apply", 0, 1, "loading the base model")
    base = _loaded(base, style, recipe, tuple(weights))
    pipeline = base.image_pipeline(tuple(weights))
    steps = _steps_left(base, sampling.steps, strength)
    total = len(designs) * samples * steps
    words = recipe.prompts.style.format("design")
    constant = _guidance(base, words, recipe) | {
        "controlnet_conditioning_scale": list(weights.values()),
        "strength": strength,
        "num_inference_steps": sampling.steps,
    }
    statistics = np.asarray(style.statistics, np.float32)
    with attached(base, style, sampling.lora_scale):
        for index in range(len(designs)):
            fitted, frame = pad(fit(_open(designs, index, size, transparent), size), base.pixel_multiple)
            flat = flatten(fitted, style.fabric)
            start = _stitched(fitted, style, seed) if guided else flat
            conditions = _conditions(flat, tuple(weights), sampling, size)
            mask = find_regions(np.asarray(fitted)).labels > 0 if len(statistics) else None
            best: Result | None = None
            for sample in range(samples):
                place = f"design {index + 1} of {len(designs)}, sample {sample + 1} of {samples}"
                done = (index * samples + sample) * steps
                dice = generator(seed + sample, "apply")
                pictures = {"image": start, "control_image": conditions}
                image = yield from _drawn(pipeline, "apply", done, total, place, generator=dice, **pictures, **constant)
                if setting.correct_colours:
                    image = correct_colours(image, flat)
                scores = score(image, statistics, flat, (mask, None)) if len(statistics) else None
                if scores is not None:
                    yield Progress("apply", done + steps, total, f"{place}: {scores.total:.2f}", vars(scores))
                if best is None or scores.total > best.scores.total:
                    best = Result(image, scores, seed + sample, index, guided)
            if transparent:
                best.image.putalpha(fitted.getchannel("A"))
            yield replace(best, image=best.image.crop(frame))


def imagine(
    style: Style,
    prompt: str,
    *,
    n: int = 1,
    seed: int = 0,
    size: int | None = None,
    base: Base | str | None = None,
    recipe: Recipe | None = None,
) -> Iterator[Progress | Result]:
    """Draw `n` pictures of `prompt` ("a yellow dog") in the style; the trigger words are added where they are missing.

    Pictures are square, `size` px a side (rounded to what the base can draw); picture i has seed `seed` + i.
    Errors as `apply`.
    """
    recipe = recipe or recipe_from(style.recipe)
    if not prompt.strip():
        raise InputError("The prompt is empty.", 'Say what to draw, for example "a yellow dog".')
    if n < 1:
        raise InputError(f"n {n!r} is out of range.", "Draw at least one.")
    size = _size(size, recipe.sampling)
    if not isinstance(base, Base):
        plan = plan_apply(base or style.base, recipe, controlnets=(), size=size, pictures=n)
        yield Progress("plan", 1, 1, plan.summary())
    yield Progress("imagine", 0, 1, "loading the base model")
    base = _loaded(base, style, recipe, ())
    pipeline = base.text_pipeline()
    steps = _steps_left(base, recipe.sampling.steps, 1.0)
    words = prompt.strip()
    if style.trigger not in words:
        words += recipe.prompts.style.partition("{}")[2]
    side = max(1, round(size / base.pixel_multiple)) * base.pixel_multiple
    constant = _guidance(base, words, recipe) | {
        "height": side,
        "width": side,
        "num_inference_steps": recipe.sampling.steps,
    }
    with attached(base, style, recipe.sampling.lora_scale):
        for index in range(n):
            place, dice = f"picture {index + 1} of {n}", generator(seed + index, "imagine")
            image = yield from _drawn(pipeline, "imagine", index * steps, n * steps, place, generator=dice, **constant)
            yield Result(image, None, seed + index, index, guided=False)


# -- what is drawn from -------------------------------------------------------------------------------------------


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise InputError(f"{name} {value!r} is not known.", f"Allowed: {', '.join(allowed)}.")


def _size(size: int | None, sampling: Sampling) -> int:
    size = sampling.size if size is None else size
    if not SIZES[0] <= size <= SIZES[1]:
        raise InputError(f"size {size!r} is out of range.", f"Give {SIZES[0]} to {SIZES[1]} px.")
    return size


def _open(designs: Sequence[Design], index: int, size: int, transparent: bool) -> Image.Image:
    """One design as RGB, or RGBA where it has transparency."""
    design = designs[index]
    image = design if isinstance(design, Image.Image) else open_image(design, size)
    image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    if transparent and (image.mode == "RGB" or image.getextrema()[3][0] == 255):
        name = f"design {index + 1}" if isinstance(design, Image.Image) else str(design)
        raise InputError(
            f"{name} has no transparent parts to keep.", "Give a PNG or SVG with transparency, or omit --transparent."
        )
    return image


def _loaded(base: Base | str | None, style: Style, recipe: Recipe, controlnets: tuple[str, ...]) -> Base:
    if not isinstance(base, Base):
        base = load(base or style.base, dtype=recipe.precision, controlnets=controlnets)
    check_base(style, base)
    return base


def _guidance(base: Base, words: str, recipe: Recipe) -> dict:
    """The pipeline's text arguments, encoded once. At a guidance scale of 1 or less there is no negative prompt."""
    scale = recipe.sampling.guidance_scale
    if base.token_room(words) < 0:
        raise InputError(f"The prompt {words!r} is too long by {-base.token_room(words)} tokens.", "Say it shorter.")
    prompt = base.encode_prompt([words])
    arguments = {"guidance_scale": scale, "prompt_embeds": prompt.embeds, "pooled_prompt_embeds": prompt.pooled}
    if scale > 1:
        negative = base.encode_prompt([recipe.prompts.negative])
        arguments |= {"negative_prompt_embeds": negative.embeds, "negative_pooled_prompt_embeds": negative.pooled}
    return arguments


def _stitched(design: Image.Image, style: Style, seed: int) -> Image.Image:
    """The design rendered in the stitch fitted to the reference (our guide; not in the paper)."""
    fabric = Fabric(colour=tuple(style.fabric)) if design.mode == "RGBA" else Fabric()
    return render(design, Stitch(**style.stitch), fabric, seed=seed).image


def _conditions(flat: Image.Image, kinds: tuple[str, ...], sampling: Sampling, size: int) -> list[Image.Image]:
    """Condition pictures in the order of `kinds`; the blur is given at the recipe's size and scales with it."""
    kernel = round(sampling.blur_kernel * size / sampling.size)
    make = {
        "tile": lambda: tile_condition(flat, kernel),
        "canny": lambda: canny_condition(flat, sampling.canny_low, sampling.canny_high),
    }
    return [make[kind]() for kind in kinds]


def _steps_left(base: Base, steps: int, strength: float) -> int:
    """How many times the base will be asked: what SDEdit at `strength` leaves of `steps`."""
    sampler = base.sampler()
    sampler.set_timesteps(steps)
    skipped = steps - min(int(steps * strength), steps)
    return len(sampler.timesteps) - skipped * sampler.order


# -- a pipeline as an iterable ------------------------------------------------------------------------------------


class _Abandoned(Exception):
    """Nobody waits for the picture any more."""


def _drawn(
    pipeline: Callable, stage: str, done: int, total: int, place: str, **arguments
) -> Generator[Progress, None, Image.Image]:
    """Run a diffusers pipeline: yields progress after each of its steps, returns the picture.

    A pipeline calls back, an iterable is called: so the pipeline runs in a thread of its own. Closing the generator
    stops it after the step it is in.
    """
    finished: queue.SimpleQueue[int | None] = queue.SimpleQueue()
    abandoned = threading.Event()

    def on_step_end(_pipeline, step, _t, _tensors) -> dict:
        if abandoned.is_set():
            raise _Abandoned
        finished.put(step + 1)
        return {}

    with ThreadPoolExecutor(1, thread_name_prefix="tambour") as worker:
        run = worker.submit(pipeline, callback_on_step_end=on_step_end, output_type="pt", **arguments)
        run.add_done_callback(lambda _: finished.put(None))
        try:
            while (step := finished.get()) is not None:
                yield Progress(stage, done + step, total, place)
        finally:
            abandoned.set()
        return to_image(run.result().images * 2 - 1)

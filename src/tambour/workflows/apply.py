"""Show designs, or words, in a style: the style blocks alone on the frozen base (method, section 6).

A design is noised and denoised again under structure conditions (SDEdit with ControlNets), a prompt is sampled. Same
seed, same picture, whatever else is in the list: bit for bit where pictures are drawn one by one (on a CPU they are),
within rounding where they are drawn in batches.
"""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
import torch
from PIL import Image

from tambour.base import Base, Prompt, generator, load
from tambour.config import Edges, Recipe, Sampling, recipe_from
from tambour.drawing.conditions import Structure, structure_of, told
from tambour.drawing.sampler import sample, set_timesteps, windowed
from tambour.errors import InputError, StyleError
from tambour.guides.photo.quilt import Quilt, stitched
from tambour.guides.photo.relief import OPEN, Relief
from tambour.guides.photo.yarn import relit, shown_colours, yarn_colours
from tambour.imaging.colour import correct_colours, lab_to_rgb, rgb_to_lab
from tambour.imaging.contrast import around_of, contrast_map
from tambour.imaging.files import open_image
from tambour.imaging.geometry import fit, flatten, pad
from tambour.imaging.regions import find_regions
from tambour.imaging.scores import Scores, score
from tambour.imaging.tensors import to_image, to_tensor
from tambour.pair.edges import edge_map
from tambour.pair.fill import filled
from tambour.preflight import Plan, plan_apply
from tambour.prior.model import Prior, find_prior, load_prior
from tambour.prior.words import design_of, read_prompt
from tambour.progress import Progress
from tambour.stitch import Fabric, Stitch, render
from tambour.style import Style, attached, check_base

EDGES = ("firm", "free")
GUIDES = ("none", "stitches", "photo")
SIZES = (64, 4096)  # longer side, px
_CLOSE = 0.35  # SDEdit strength up to which stitches stay where they were laid
_GAIN = (1.0, 1.3)  # of contrast that the last steps evened out
_LAID = 0.7  # of the stitches as they were laid, the rest as the last steps drew them
_REACH = 7  # px: twice what is drawn anew beyond the edge of a design

Design = Image.Image | str | Path
T = TypeVar("T")


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
    batch: int | None = None,
    recipe: Recipe | None = None,
) -> Iterator[Progress | Result]:
    """Embroider designs: yields progress, and a `Result` as soon as a design is done.

    Args:
        style: from `read_style`.
        designs: pictures or their files. Transparent parts are put on the style's fabric colour. Where the style was
            learnt from an edge map, their edge maps are what is drawn from; or these filled with its colours.
        base: a loaded base, or its name; None: the style's own, on the GPU if there is one.
        size: longer side of the results, px; None: the recipe's.
        strength: how much is redrawn, 0 to 1; None: the recipe's for these `edges` (or for the guide).
        edges: "firm" keeps borders and colours (Tile, Canny, colour correction), "free" lets raised material change
            them (Tile alone).
        seed: of the first sample; the others count up from it.
        samples: how many to draw; the one with the best score is kept.
        guide: "stitches" starts from the design rendered in the stitch that was fitted to the reference, "photo" from
            the reference's own stitches laid out anew, "none" from its flat colours (the paper); None: as the recipe
            says, where the style knows what it needs.
        transparent: keep the design's transparency in the result.
        batch: how many pictures are drawn at once; None: as many as fit on a GPU, one on a CPU, which gains nothing.
        recipe: another recipe than the style's own.

    Raises:
        InputError: an option out of range, or a design that cannot be used; found before anything is drawn.
        StyleError: the style belongs to another base, or lacks what an option needs.
        BaseModelError: the base cannot be loaded, or does not fit into the memory.
    """
    recipe = recipe or recipe_from(style.recipe)
    sampling = recipe.sampling
    _one_of("edges", edges, EDGES)
    guide = _usual_guide(style, sampling.guide) if guide is None else guide
    _one_of("guide", guide, GUIDES)
    setting: Edges = sampling.firm if edges == "firm" else sampling.free
    guided = guide != "none"
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
    if guide == "photo" and not style.relief:
        raise StyleError("This style keeps no stitches of its reference.", "Use --guide stitches, or learn it again.")
    if samples > 1 and not style.statistics:
        raise StyleError("This style cannot rank samples: it lacks its reference's statistics.", "Draw one sample.")
    if recipe.design_kind == "filled" and not style.palette:
        raise StyleError("This style keeps no colours to fill outlines with.", "Learn it again with --design filled.")
    if batch is not None and batch < 1:
        raise InputError(f"batch {batch!r} is out of range.", "Draw at least one at once.")
    if not designs:
        raise InputError("There are no designs.", "Give at least one picture.")
    for index in range(len(designs)):
        _open(designs, index, size, transparent)

    weights = {kind: getattr(setting, kind) for kind in controlnets_of(recipe, edges)}
    plan = None
    if not isinstance(base, Base):
        pictures = len(designs) * samples
        plan = plan_apply(
            base or style.base, recipe, controlnets=tuple(weights), size=size, pictures=pictures, strength=strength
        )
        yield Progress("plan", 1, 1, plan.summary())
    yield Progress("apply", 0, 1, "loading the base model")
    base = _loaded(base, style, recipe, tuple(weights), plan)
    together = _together(plan, batch)
    steps = _steps_left(base, sampling.steps, strength)
    total = len(designs) * samples * steps
    close = guide == "photo" and strength <= _CLOSE
    words = recipe.prompts.style.format("design")
    constant = _guidance(base, words, recipe) | {"strength": strength}
    plain = base.encode_prompt([recipe.prompts.content.format("design")])
    statistics = np.asarray(style.statistics, np.float32)
    relief = Relief.of_bytes(style.relief) if style.relief else None
    quilt = Quilt(relief) if guide == "photo" else None

    def prepared() -> Iterator[Progress | _Job]:
        """What is to be drawn, in its order; and how far that is."""
        for index in range(len(designs)):
            fitted, crop_box = pad(fit(_open(designs, index, size, transparent), size), base.pixel_multiple)
            flat = flatten(fitted, style.fabric)
            if not recipe.flat:
                flat = edge_map(flat, recipe)
            elif recipe.design_kind == "filled":
                fitted = filled(fitted, style.fabric, recipe, style.palette)
                flat = flatten(fitted, style.fabric)
            inside = find_regions(np.asarray(fitted)).labels > 0
            start = flat
            if guided:
                place = f"design {index + 1} of {len(designs)}, laying out its stitches"
                start = yield from _told(_stitched(fitted, inside, style, seed, quilt), "apply", done, total, 0, place)
            shown = flat
            if relief is not None and relief.cover < OPEN and sampling.guide != "none":
                shown = Image.fromarray(shown_colours(relief.cover, np.asarray(flat), inside, style.fabric))
            keep_mask = _bare(inside) if guided else None
            kernel = _kernel(base, flat, sampling, size)
            structure = structure_of(flat, inside, weights, kernel, recipe)
            for number in range(samples):
                yield _Job(index, number, fitted, inside, crop_box, flat, shown, start, structure, keep_mask)

    best: Result | None = None
    done = 0
    with attached(base, style, sampling.lora_scale):
        for jobs in _batches(prepared(), together):
            if isinstance(jobs, Progress):
                yield jobs
                continue
            place = f"design {jobs[0].index + 1} of {len(designs)}, sample {jobs[0].sample + 1} of {samples}"
            drawing = sample(
                base,
                size=jobs[0].flat.size[::-1],
                generators=[generator(seed + job.sample, "apply") for job in jobs],
                start=torch.cat([to_tensor(job.start) for job in jobs]),
                **told([job.structure for job in jobs], weights, plain, recipe),
                keep_mask=torch.cat([job.keep_mask for job in jobs]) if guided else None,
                restore_vae_detail=close,
                **constant,
            )
            pictures = yield from _told(drawing, "apply", done, total, len(jobs), place)
            for job, picture in zip(jobs, pictures.split(1), strict=True):
                done += steps
                image = to_image(picture)
                if close:
                    image = as_laid(image, job.start, job.inside)
                if setting.correct_colours or (guide == "photo" and sampling.firm.correct_colours):
                    colours = job.shown
                    if colours is not job.flat:
                        colours = Image.fromarray(yarn_colours(*map(np.asarray, (colours, job.flat, image))))
                    if guide == "photo":
                        image = Image.fromarray(relit(np.asarray(colours), rgb_to_lab(np.asarray(image))[..., 0]))
                    else:
                        image = correct_colours(image, colours)
                scores = None
                if len(statistics):
                    scores = score(image, statistics, job.shown, (job.inside, None), recipe.flat)
                    place = f"design {job.index + 1} of {len(designs)}, sample {job.sample + 1} of {samples}"
                    yield Progress("apply", done, total, f"{place}: {scores.total:.2f}", vars(scores))
                if job.sample == 0 or scores.total > best.scores.total:
                    best = Result(image, scores, seed + job.sample, job.index, guided)
                if job.sample == samples - 1:
                    if transparent:
                        best.image.putalpha(job.fitted.getchannel("A"))
                    yield replace(best, image=best.image.crop(job.crop_box))


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

    Where the base has a prior and the recipe says so (`sampling.prompt_route`), the prior draws a flat design of the words
    first, which is then shown in the style as `apply` does. Else the base draws straight from the words.

    Pictures are square, `size` px a side (rounded to what the base can draw); picture i has seed `seed` + i.
    Errors as `apply`; and `InputError` where the prior knows no such object.
    """
    recipe = recipe or recipe_from(style.recipe)
    if not prompt.strip():
        raise InputError("The prompt is empty.", 'Say what to draw, for example "a yellow dog".')
    if n < 1:
        raise InputError(f"n {n!r} is out of range.", "Draw at least one.")
    size = _size(size, recipe.sampling)
    folder = prior_folder(base.name if isinstance(base, Base) else base or style.base, recipe)
    if folder is not None:
        yield from _imagine_designs(style, prompt, load_prior(folder), n, seed, size, base, recipe)
        return
    plan = None
    if not isinstance(base, Base):
        plan = plan_apply(base or style.base, recipe, controlnets=(), size=size, pictures=n, strength=1.0)
        yield Progress("plan", 1, 1, plan.summary())
    yield Progress("imagine", 0, 1, "loading the base model")
    base = _loaded(base, style, recipe, (), plan)
    steps = _steps_left(base, recipe.sampling.steps, 1.0)
    words = prompt.strip()
    if style.trigger not in words:
        words += recipe.prompts.style.partition("{}")[2] or f" in {style.trigger} style"
    side = max(1, round(size / base.pixel_multiple)) * base.pixel_multiple
    constant = _guidance(base, words, recipe) | {"size": (side, side)}
    with attached(base, style, recipe.sampling.lora_scale):
        for group in _chunks(range(n), _together(plan, None)):
            rng = [generator(seed + index, "imagine") for index in group]
            drawing = sample(base, generators=rng, **constant)
            place = f"picture {group[0] + 1} of {n}"
            pictures = yield from _told(drawing, "imagine", group[0] * steps, n * steps, len(group), place)
            for index, picture in zip(group, pictures.split(1), strict=True):
                yield Result(to_image(picture), None, seed + index, index, guided=False)


def prior_folder(base: str, recipe: Recipe) -> Path | None:
    """Where the prior lies through which words are drawn; None: the base draws them itself."""
    return find_prior(base) if recipe.sampling.prompt_route == "prior" else None


def _imagine_designs(
    style: Style, prompt: str, prior: Prior, n: int, seed: int, size: int, base: Base | str | None, recipe: Recipe
) -> Iterator[Progress | Result]:
    """`imagine` by way of designs: one after the other, so that none depends on its company."""
    wish = read_prompt(prompt, prior)
    told = f'drawn first as a design: "{wish}"'
    if wish.ignored:
        told += f"; not heard: {', '.join(wish.ignored)}"
    kinds, plan = controlnets_of(recipe), None
    if not isinstance(base, Base):
        plan = plan_apply(base or style.base, recipe, controlnets=kinds, size=size, pictures=n)
        yield Progress("plan", 1, 1, plan.summary())
    base = _loaded(base, style, recipe, kinds, plan)
    for index in range(n):
        design = design_of(prior, wish, seed + index, size)
        yield Progress("words", index + 1, n, told)
        for record in apply(style, [design], base=base, size=size, seed=seed + index, recipe=recipe):
            if isinstance(record, Result):
                yield replace(record, design_index=index)
            else:
                done, total = index * record.total + record.step, n * record.total
                yield Progress("imagine", done, total, f"picture {index + 1} of {n}")


def controlnets_of(recipe: Recipe, edges: str = "firm") -> tuple[str, ...]:
    """The ControlNets that designs are drawn under."""
    setting: Edges = getattr(recipe.sampling, edges)
    return tuple(kind for kind in ("tile", "canny") if getattr(setting, kind) > 0)


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


def _loaded(
    base: Base | str | None, style: Style, recipe: Recipe, controlnets: tuple[str, ...], plan: Plan | None
) -> Base:
    if not isinstance(base, Base):
        offloaded = plan is not None and plan.offloaded
        base = load(base or style.base, dtype=recipe.precision, controlnets=controlnets, offloaded=offloaded)
    check_base(style, base)
    return base


def _guidance(base: Base, words: str, recipe: Recipe) -> dict:
    """What every picture of a run is drawn with; the text encoded once. At a guidance scale of 1 or less there is no
    negative prompt.
    """
    sampling, negative = recipe.sampling, None
    if base.token_room(words) < 0:
        raise InputError(f"The prompt {words!r} is too long by {-base.token_room(words)} tokens.", "Say it shorter.")
    prompt: Prompt = base.encode_prompt([words])
    if sampling.guidance_scale > 1:
        negative = base.encode_prompt([recipe.prompts.negative])
    return {
        "prompt": prompt,
        "negative": negative,
        "guidance_scale": sampling.guidance_scale,
        "steps": sampling.steps,
    }


def _usual_guide(style: Style, wanted: str) -> str:
    """The recipe's guide, or the nearest one that the style has what it takes for."""
    if wanted == "photo" and not style.relief:
        wanted = "stitches"
    return wanted if style.stitch else "none"


def _stitched(
    design: Image.Image, inside: np.ndarray, style: Style, seed: int, quilt: Quilt | None
) -> Generator[float, None, Image.Image]:
    """The design in the reference's very stitches, or in the stitch fitted to it (our guides; not in the paper)."""
    fabric = Fabric(colour=tuple(style.fabric)) if design.mode == "RGBA" else Fabric()
    drawn = np.asarray(render(design, Stitch(**style.stitch), fabric, seed=seed).image)
    bare = _bare(inside)[0, 0].numpy() > 0.99
    if design.mode == "RGBA" and bare.any():  # the style knows how the fabric looks, which is lighter than drawn
        lab = rgb_to_lab(drawn)
        lab += rgb_to_lab(np.uint8([[style.fabric]]))[0, 0] - lab[bare].mean(0)
        drawn = np.where(inside[..., None], drawn, lab_to_rgb(lab))
    if quilt is None:
        return Image.fromarray(drawn)
    laid = yield from stitched(quilt, np.asarray(flatten(design, style.fabric)), inside, style.fabric, seed)
    return Image.fromarray(np.where(inside[..., None], laid, drawn))


def as_laid(image: Image.Image, start: Image.Image, inside: np.ndarray) -> Image.Image:
    """A picture with most of the stitches that it started from: as light, as strong, as crisp (ours; not in the paper).

    The last steps blur stitches, shift lightness and even contrast out a little. So `_LAID` of the contrast is that
    which was laid; lightness is put back place by place, the strength of contrast by one factor.

    Args:
        inside: (H, W) bool, where it is stitched.
    """
    rgb, laid = np.asarray(image), np.asarray(start)
    contrast, weight = contrast_map(rgb, inside)
    wanted, _ = contrast_map(laid, inside)
    contrast = _LAID * wanted + (1 - _LAID) * contrast
    power = float((weight * contrast**2).sum())
    if power <= 0:
        return image
    gain = float(np.clip(np.sqrt((weight * wanted**2).sum() / power), *_GAIN))
    lab, around = rgb_to_lab(rgb), around_of(rgb_to_lab(laid)[..., 0], wanted)
    lab[..., 0] = np.where(inside, around + gain * contrast * (around + 16), lab[..., 0])
    return Image.fromarray(lab_to_rgb(lab))


def _bare(inside: np.ndarray) -> torch.Tensor:
    """Where the guide's fabric stays, (1, 1, H, W): bare ground, but for what stitches and their shadows reach.

    Blocks that learnt stitches draw stitches everywhere; what is not embroidered is none of their business.
    """
    away = cv2.GaussianBlur(
        cv2.erode((~inside).astype(np.float32), np.ones((_REACH, _REACH), np.uint8)), (0, 0), _REACH / 4
    )
    return torch.from_numpy(away)[None, None]


def _kernel(base: Base, flat: Image.Image, sampling: Sampling, size: int) -> int:
    """Kernel of the tile condition's blur, px.

    It is given at the recipe's size and scales with the picture; where that is drawn in windows, with the windows.
    """
    return round(sampling.blur_kernel * (base.native if windowed(base, flat.size) else size) / sampling.size)


def _steps_left(base: Base, steps: int, strength: float) -> int:
    """How many times the base will be asked: what SDEdit at `strength` leaves of `steps`."""
    return len(set_timesteps(base, base.sampler(), steps, strength))


# -- batches ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Job:
    """One picture to draw.

    Attributes:
        index, sample: which design, and which of its samples.
        fitted: the design at its size, padded; `crop_box` is where it lies in it.
        inside: (H, W) bool, where it is stitched.
        flat, shown, start: it on the fabric, the same in the colours that the style shows, and what the run starts
            from.
        structure: what the ControlNets are shown.
        keep_mask: (1, 1, H, W), 1 where the start stays as it is; None where nothing has to.
    """

    index: int
    sample: int
    fitted: Image.Image
    inside: np.ndarray
    crop_box: tuple[int, int, int, int]
    flat: Image.Image
    shown: Image.Image
    start: Image.Image
    structure: Structure
    keep_mask: torch.Tensor | None


def _together(plan: Plan | None, batch: int | None) -> int:
    """How many pictures are drawn at once."""
    if batch is not None:
        return batch
    return plan.batch if plan is not None else 1


def _batches(jobs: Iterator[Progress | _Job], most: int) -> Iterator[Progress | list[_Job]]:
    """Neighbouring jobs of one size, at most so many; progress as it comes."""
    waiting: list[_Job] = []
    for job in jobs:
        if isinstance(job, Progress):
            yield job
            continue
        if waiting and waiting[0].flat.size != job.flat.size:
            yield waiting
            waiting = []
        waiting.append(job)
        if len(waiting) == most:
            yield waiting
            waiting = []
    if waiting:
        yield waiting


def _chunks(items: Iterable, most: int) -> Iterator[list]:
    """Neighbouring items in lists of `most`, the last one shorter."""
    items = iter(items)
    while chunk := list(itertools.islice(items, most)):
        yield chunk


def _told(
    work: Generator[float, None, T], stage: str, done: int, total: int, count: int, place: str
) -> Generator[Progress, None, T]:
    """Progress records of work that tells steps of `count` pictures each, or none of any. Returns what it returns."""
    while True:
        try:
            step = next(work)
        except StopIteration as end:
            return end.value
        yield Progress(stage, done + int(step * count), total, place)

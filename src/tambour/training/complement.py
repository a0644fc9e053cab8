"""Complementary pairs: embroideries that the stage-one LoRA draws, with their designs, filtered (method, section 4)."""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from tambour.analysis.similarity import compare
from tambour.base import Base, Prompt, generator
from tambour.config import Complement, Recipe
from tambour.drawing.conditions import controlnet_scales
from tambour.drawing.engine import DrawingEngine, DrawingJob
from tambour.errors import InputError
from tambour.imaging.colour import correct_colours
from tambour.imaging.designs import bundled_designs, on_ground, recolour
from tambour.imaging.files import open_image, save_image
from tambour.imaging.regions import find_regions
from tambour.imaging.tensors import to_tensor
from tambour.pair.edges import edge_map
from tambour.pair.flat import make_design
from tambour.progress import Progress, finished


@dataclass(frozen=True)
class Candidate:
    """A generated pair: RGB pictures of one size, and a description of them ("red dog")."""

    design: Image.Image
    embroidery: Image.Image
    words: str


@dataclass(frozen=True)
class Filtered:
    """The result of both filters.

    Attributes:
        style: mean similarity of every candidate's embroidery to the reference's (filter 1).
        content: mean similarity of designs, by the index of the candidates that filter 1 let through (filter 2).
        chosen: indices of the candidates that both let through.
    """

    style: tuple[float, ...]
    content: dict[int, float]
    chosen: tuple[int, ...]


# -- candidates -------------------------------------------------------------------------------------------------------


def generate(
    base: Base,
    recipe: Recipe,
    size: tuple[int, int],
    fabric: tuple[int, int, int],
    *,
    seed: int,
    folder: Path,
    batch: int = 1,
) -> Generator[Progress, None, list[Candidate]]:
    """Make `recipe.complement.count` candidates with the LoRA that is on the base, all of it switched on.

    "text": an embroidery from "a (color) (object) in [emb] style", its design by our own pair step (section 1).
    "designs": a bundled flat design in new colours is embroidered under the structure conditions (section 6, firm). So
    design and embroidery are aligned on any base, also on one whose text alone draws little; the objects are then the
    bundled designs'. In both all blocks are given the style prompt, as at inference.

    Args:
        size: (height, width) of the pictures, px: that of a training crop, so that pairs share a batch.
        fabric: RGB ground of the designs.
        folder: candidates are written here as PNG; those that are there already are not made again.

    Yields progress. Returns the candidates, as they are in the folder.

    Raises:
        InputError: a design or a colour is not known.
        BaseModelError: "designs" asks for a ControlNet the base does not have.
    """
    settings = recipe.complement
    drawings = bundled_designs()
    absent = [name for name in settings.designs if name not in drawings]
    if absent:
        raise InputError(f"There is no bundled design {absent[0]!r}.", f"Allowed: {', '.join(drawings)}.")
    drawings = {name: drawings[name] for name in settings.designs or drawings}
    objects = settings.objects if settings.source == "text" else tuple(drawings)
    plan = subjects(settings.colours, objects, settings.count, generator(seed, "complement, subjects"))
    words = [f"{colour} {thing}" for colour, thing in plan]
    paths = [(folder / f"{i:02d}-design.png", folder / f"{i:02d}.png") for i in range(len(plan))]
    missing = [i for i in range(len(plan)) if not paths[i][1].exists()]
    if len(missing) < len(plan):
        yield Progress("complement", len(plan) - len(missing), len(plan), "resumed")
    for first in range(0, len(missing), batch):
        some = missing[first : first + batch]
        rngs = [generator(seed, "complement, picture", i) for i in some]
        prompts = [words[i] for i in some]
        if settings.source == "text":
            embroideries = from_words(base, recipe, prompts, size, rngs)
            designs = [make_design(e).design if recipe.flat else edge_map(e, recipe) for e in embroideries]
        else:
            svgs = [
                recolour(drawings[plan[i][1]], plan[i][0], settings.colours, rng)
                for i, rng in zip(some, rngs, strict=True)
            ]
            designs = [on_ground(svg, size, fabric) for svg in svgs]
            if not recipe.flat:
                designs = [edge_map(design, recipe) for design in designs]
            embroideries = from_designs(base, recipe, prompts, designs, rngs)
        for i, *pictures in zip(some, designs, embroideries, strict=True):
            for picture, path in zip(pictures, paths[i], strict=True):
                save_image(picture, path, overwrite=True)
            yield Progress("complement", i + 1, len(plan), words[i])
    return [Candidate(open_image(a), open_image(b), word) for (a, b), word in zip(paths, words, strict=True)]


def subjects(
    colours: Sequence[str], objects: Sequence[str], count: int, generator: torch.Generator
) -> list[tuple[str, str]]:
    """`count` pairs (colour, object), both in random order, none twice before all were there."""

    def endless(names: Sequence[str]) -> list[str]:
        rounds = range(math.ceil(count / len(names)))
        return [names[i] for _ in rounds for i in torch.randperm(len(names), generator=generator)]

    return list(zip(endless(colours)[:count], endless(objects)[:count], strict=True))


def from_words(
    base: Base, recipe: Recipe, words: Sequence[str], size: tuple[int, int], rngs: Sequence[torch.Generator]
) -> list[Image.Image]:
    """Ordinary sampling under the style prompt, a picture for each of the words and generators."""
    prompts = tuple(recipe.prompts.style.format(word) for word in words)
    engine = DrawingEngine(base, recipe, prompts, {})
    return finished(engine.draw([DrawingJob(rng) for rng in rngs], size))


def from_designs(
    base: Base,
    recipe: Recipe,
    words: Sequence[str],
    designs: Sequence[Image.Image],
    rngs: Sequence[torch.Generator],
) -> list[Image.Image]:
    """SDEdit under the structure conditions, at the recipe's setting for firm edges; designs of one size."""
    edges = recipe.sampling.firm
    prompts = tuple(recipe.prompts.style.format(word) for word in words)
    engine = DrawingEngine(base, recipe, prompts, controlnet_scales(edges), edges.strength)
    jobs = []
    for design, rng in zip(designs, rngs, strict=True):
        inside = find_regions(np.asarray(design)).labels > 0
        jobs.append(DrawingJob(rng, design, engine.conditions(design, inside, recipe.training_kernel)))
    images = finished(engine.draw(jobs, designs[0].size[::-1]))
    if not edges.correct_colours:
        return images
    return [correct_colours(image, design) for image, design in zip(images, designs, strict=True)]


# -- filters ----------------------------------------------------------------------------------------------------------


def compared(settings: Complement) -> tuple[int, ...]:
    """How many pictures each filter compares with the reference's; () without filters."""
    return (settings.count, math.ceil(settings.count / 2)) if settings.filters else ()


def keep_most_similar(similarity: Sequence[float], count: int) -> list[int]:
    """Filter 1: indices of the best ceil(count / 2), best first; earlier ones where they tie."""
    order = sorted(range(len(similarity)), key=lambda i: -similarity[i])
    return order[: math.ceil(count / 2)]


def keep_least_similar(similarity: Sequence[float], count: int) -> list[int]:
    """Filter 2: indices of the ceil(count / 4) least similar, least first; earlier ones where they tie."""
    order = sorted(range(len(similarity)), key=lambda i: similarity[i])
    return order[: math.ceil(count / 4)]


def choose(
    base: Base,
    recipe: Recipe,
    reference: tuple[torch.Tensor, torch.Tensor],
    words: str,
    candidates: Sequence[Candidate],
) -> Generator[Progress, None, Filtered]:
    """Both filters (section 4), on the base as it is: the caller switches a LoRA off.

    1. Embroideries like the reference's, by mean self-attention similarity: the style was caught.
    2. Of these, designs unlike the reference's: the content differs.
    "Mean" is taken over all blocks and, for both filters, over the late segments, which the inversion reaches first.
    Where the recipe has no filters, all candidates are chosen and nothing is compared.

    Args:
        reference: latents (1, c, h, w) of the reference's design and embroidery, of the candidates' size.
        words: its description.

    Yields progress. Returns `Filtered`.
    """
    count = len(candidates)
    if not recipe.complement.filters:
        return Filtered((), {}, tuple(range(count)))
    f = base.vae_factor
    time_ids = base.time_ids(reference[0].shape[-2] * f, reference[0].shape[-1] * f)

    def similarities(
        template: str, latents: torch.Tensor, pictures: Sequence[tuple[Image.Image, str]], stage: str
    ) -> Generator[Progress, None, list[float]]:
        others = torch.cat([base.encode_image(to_tensor(picture)) for picture, _ in pictures])
        prompts: Prompt = base.encode_prompt([template.format(description) for _, description in pictures])
        similarity = yield from compare(
            base,
            (latents, base.encode_prompt([template.format(words)])),
            (others, prompts),
            time_ids,
            recipe.analysis,
            stage=stage,
            first_segment=recipe.complement.first_segment,
        )
        return similarity.mean((1, 2)).tolist()

    style = yield from similarities(
        recipe.prompts.style, reference[1], [(c.embroidery, c.words) for c in candidates], "filter 1"
    )
    like = keep_most_similar(style, count)
    content = yield from similarities(
        recipe.prompts.content, reference[0], [(candidates[i].design, candidates[i].words) for i in like], "filter 2"
    )
    chosen = [like[i] for i in keep_least_similar(content, count)]
    return Filtered(tuple(style), dict(zip(like, content, strict=True)), tuple(chosen))

"""The drawing engine: pictures from words, or by SDEdit from a picture, under one recipe."""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np
import torch
from PIL import Image

from tambour.base import Base, Prompt
from tambour.config import Recipe
from tambour.drawing.conditions import (
    StructureConditions,
    batch_conditions,
    masked_style_guidance,
    structure_conditions,
)
from tambour.drawing.sampler import sample, set_timesteps
from tambour.errors import InputError
from tambour.imaging.tensors import to_image, to_tensor

T = TypeVar("T")


@dataclass(frozen=True)
class DrawingJob:
    """One picture to draw.

    Attributes:
        rng: draws all its noise, so that it does not depend on what is drawn beside it.
        start: RGB, what SDEdit starts from; None: from noise, as words alone are drawn.
        conditions: what the ControlNets are shown; None where none is asked.
        keep_mask: (H, W) float32, 1 where `start` stays as it is; None: nowhere.
    """

    rng: torch.Generator
    start: Image.Image | None = None
    conditions: StructureConditions | None = None
    keep_mask: np.ndarray | None = None


@dataclass(frozen=True)
class DrawingEngine:
    """What all pictures of a run are drawn with (method, section 6); texts are encoded once.

    Attributes:
        base: loaded; a style that is attached to it draws too.
        prompts: of batch 1, or one a picture.
        scales: of the ControlNets by kind; empty: none.
        strength: of SDEdit, above 0, at most 1: the share of the steps that is taken.
        restore_vae_detail: see `sampler.sample`.
    """

    base: Base
    recipe: Recipe
    prompts: tuple[str, ...]
    scales: Mapping[str, float]
    strength: float = 1.0
    restore_vae_detail: bool = False

    def __post_init__(self) -> None:
        for words in self.prompts:
            room = self.base.token_room(words)
            if room < 0:
                raise InputError(f"The prompt {words!r} is too long by {-room} tokens.", "Say it shorter.")

    @cached_property
    def prompt(self) -> Prompt:
        return self.base.encode_prompt(self.prompts)

    @cached_property
    def negative(self) -> Prompt | None:
        """None at a guidance scale of 1 or less."""
        guided = self.recipe.sampling.guidance_scale > 1
        return self.base.encode_prompt([self.recipe.prompts.negative]) if guided else None

    @cached_property
    def content(self) -> Prompt:
        """What the base hears where it draws without the style."""
        return self.base.encode_prompt([self.recipe.prompts.content.format("design")])

    @cached_property
    def steps(self) -> int:
        """How often the base is asked for a picture: what SDEdit at `strength` leaves of the recipe's steps."""
        return len(set_timesteps(self.base, self.base.sampler(), self.recipe.sampling.steps, self.strength))

    def conditions(self, flat: Image.Image, inside: np.ndarray, kernel: int) -> StructureConditions:
        """What the ControlNets are shown of a design; arguments as `structure_conditions`."""
        return structure_conditions(flat, inside, self.scales, kernel, self.recipe)

    def draw(self, jobs: Sequence[DrawingJob], size: tuple[int, int]) -> Generator[int, None, list[Image.Image]]:
        """Draw a batch of pictures of (height, width) px, of one kind. Yields the steps done, returns RGB pictures."""
        sampling = self.recipe.sampling
        structures = [job.conditions for job in jobs if job.conditions is not None]
        masks = [job.keep_mask for job in jobs if job.keep_mask is not None]
        starts = [to_tensor(job.start) for job in jobs if job.start is not None]
        pictures = yield from sample(
            self.base,
            self.prompt,
            size=size,
            generators=[job.rng for job in jobs],
            steps=sampling.steps,
            start=torch.cat(starts) if starts else None,
            strength=self.strength,
            conditions=batch_conditions([s.styled for s in structures], self.scales) if structures else None,
            negative=self.negative,
            guidance_scale=sampling.guidance_scale,
            keep_mask=torch.from_numpy(np.stack(masks))[:, None] if masks else None,
            masked_style=masked_style_guidance(structures, self.scales, self.content, self.recipe)
            if structures
            else None,
            restore_vae_detail=self.restore_vae_detail,
        )
        return [to_image(picture) for picture in pictures.split(1)]


def in_batches(items: Iterable[T], most: int) -> Iterator[list[T]]:
    """Neighbouring items in lists of `most`, the last one shorter."""
    items = iter(items)
    while batch := list(itertools.islice(items, most)):
        yield batch

"""What a drawing starts from, one protocol for every guide (method, section 8; ours, but for "none").

A guide says what SDEdit starts from, what of that stays, at what strength, and what is done to the finished picture.
Every file of this room that registers a guide adds one: nothing else names them.
"""

from __future__ import annotations

import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Generator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from PIL import Image

from tambour.config import Edges, Recipe
from tambour.errors import InputError, StyleError
from tambour.imaging.colour import correct_colours
from tambour.style import Style


@dataclass(frozen=True)
class Canvas:
    """One design at the size it is drawn at; all pictures of one size.

    Attributes:
        design: RGB, or RGBA where it has transparency.
        flat: it on the fabric's colour, or its edge map where results are drawn from edges, RGB.
        mean_colours: `flat` in the mean colours that its stitches show; another picture in open work alone.
        inside: (H, W) bool, where it is stitched.
    """

    design: Image.Image
    flat: Image.Image
    mean_colours: Image.Image
    inside: np.ndarray


@dataclass(frozen=True)
class Start:
    """What SDEdit starts from, RGB; and (H, W) float32, 1 where it stays as it is, None: nowhere."""

    image: Image.Image
    keep_mask: np.ndarray | None = None


@dataclass(frozen=True)
class Guide(ABC):
    """One way to start a drawing in a style.

    Attributes:
        name: what users call it; unique.
        style: the one that is drawn in.
        recipe: the numbers of the run.
        edges: the recipe's setting of the edges that counts.
        wanted_strength: what the user asks for; None: the guide's own.
    """

    style: Style
    recipe: Recipe
    edges: Edges
    wanted_strength: float | None = None

    name: ClassVar[str]

    @classmethod
    def lacking(cls, style: Style) -> tuple[str, str] | None:
        """What a style lacks for this guide, and the remedy; None: nothing."""
        return None

    @property
    def strength(self) -> float:
        """Of SDEdit, above 0, at most 1."""
        return self.recipe.sampling.guide_strength if self.wanted_strength is None else self.wanted_strength

    @property
    def restore_vae_detail(self) -> bool:
        """The result is given what the autoencoder loses of the start (`drawing.sampler.sample`)."""
        return False

    @abstractmethod
    def start(self, canvas: Canvas, seed: int) -> Generator[float, None, Start]:
        """What the drawing of a design starts from. Yields the share that is done."""

    def finish(self, image: Image.Image, canvas: Canvas, start: Start) -> Image.Image:
        """The finished picture from what was drawn: by default the design's colours, where the edges ask for them."""
        if not self.edges.correct_colours:
            return image
        return correct_colours(image, self.colours(image, canvas))

    def colours(self, image: Image.Image, canvas: Canvas) -> Image.Image:
        """The colours a result is to have: the design's; in open work those of thread where the picture is light."""
        if canvas.mean_colours is canvas.flat:
            return canvas.flat
        from tambour.guides.photo.yarn import yarn_colours

        return Image.fromarray(yarn_colours(*map(np.asarray, (canvas.mean_colours, canvas.flat, image))))


_REGISTERED: dict[str, type[Guide]] = {}


def register(guide: type[Guide]) -> type[Guide]:
    """Class decorator: make a guide known by its name."""
    _REGISTERED[guide.name] = guide
    return guide


def guides() -> dict[str, type[Guide]]:
    """Every guide by name, those of this room's files and those registered elsewhere."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    return dict(sorted(_REGISTERED.items(), key=lambda item: (item[0] != "none", item[0])))


def choose_guide(wanted: str | None, style: Style, recipe: Recipe) -> type[Guide]:
    """The guide that the user asks for by name; None: the recipe's, or the nearest one that the style suffices for.

    Raises:
        InputError: there is no such guide.
        StyleError: the style lacks what the guide the user asks for needs.
    """
    known = guides()
    name = recipe.sampling.guide if wanted is None else wanted
    if name not in known:
        raise InputError(f"guide {name!r} is not known.", f"Allowed: {', '.join(known)}.")
    if wanted is not None:
        lacking = known[wanted].lacking(style)
        if lacking is not None:
            raise StyleError(*lacking)
        return known[wanted]
    fallbacks = dict.fromkeys((name, "stitches", "none") if name != "none" else ("none",))
    return next(known[name] for name in fallbacks if known[name].lacking(style) is None)

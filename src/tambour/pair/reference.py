"""The reference: a photo, or a photo and the user's own design, as an aligned pair at the working size."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageColor

from tambour.base import Base
from tambour.config import Recipe
from tambour.errors import InputError
from tambour.imaging.colour import rgb_to_lab
from tambour.imaging.files import open_image, save_image
from tambour.imaging.geometry import fit, flatten
from tambour.imaging.palette import nearest_colour
from tambour.pair.edges import edged
from tambour.pair.flat import Pair, make_design
from tambour.progress import Progress

_STRETCH = 0.03  # an own design may differ this much from the photo in its aspect ratio


def prepare(
    photo: str | Path, design: str | Path | None, recipe: Recipe, base: Base, *, folder: Path | None = None
) -> Generator[Progress, None, Pair]:
    """The pair at the recipe's resolution, aspect ratio kept; from `folder` if it is there. Returns a `Pair`."""
    yield Progress("pair", 0, 1)
    parts = ("design", "mask", "embroidery")
    if folder is None or not (folder / "embroidery.png").exists():
        picture = flatten(open_image(photo))
        longer = recipe.working_size(*picture.size)
        pair = make_design(fit(picture, longer, base.pixel_multiple))
        if design is not None:
            own = _on(picture.size, open_image(design, max(picture.size)), design)
            pair = _with_design(pair, fit(own, longer, base.pixel_multiple))
        pair = edged(pair, recipe, own=design is not None)
        if folder is not None:
            for part in parts:
                save_image(getattr(pair, part), folder / f"{part}.png", overwrite=True)
    else:
        pair = Pair(**{part: Image.open(folder / f"{part}.png").copy() for part in parts})
    yield Progress("pair", 1, 1)
    return pair


def _on(size: tuple[int, int], design: Image.Image, name: str | Path) -> Image.Image:
    """A design in the photo's size.

    Raises:
        InputError: it has another shape.
    """
    wide, high = size
    if abs(design.width * high / (design.height * wide) - 1) > _STRETCH:
        raise InputError(
            f"{name} is {design.width} x {design.height} px, which is not the shape of the photo ({wide} x {high}).",
            "Crop one of them so that they lie on each other.",
        )
    return design.resize(size, Image.Resampling.LANCZOS)


def _with_design(pair: Pair, design: Image.Image) -> Pair:
    """The user's own design in place of ours. Where it is transparent there is fabric."""
    mask = pair.mask
    if design.mode == "RGBA":
        mask = design.getchannel("A").point(lambda alpha: 255 * (alpha > 127))
    ground = fabric_colour(Pair(pair.design, pair.embroidery, mask))
    return Pair(flatten(design, ground), pair.embroidery, mask)


def fabric_colour(pair: Pair) -> tuple[int, int, int]:
    """RGB median of the photo where there are no stitches; white where stitches cover everything."""
    bare = np.asarray(pair.embroidery.convert("RGB"))[np.asarray(pair.mask) <= 127]
    if len(bare) < 0.01 * pair.embroidery.width * pair.embroidery.height:
        return (255, 255, 255)
    red, green, blue = (int(value) for value in np.median(bare, 0))
    return red, green, blue


def name_colours(pair: Pair, names: Sequence[str], most: int = 3) -> str:
    """The main colours of a design in words, "red, white and black design".

    It stands for a description, where the user gave none. Colours named in the prompt are content, which theta_e then
    need not learn.
    """
    stitched = np.asarray(pair.mask) > 127
    pixels = np.asarray(pair.design.convert("RGB"))[stitched if stitched.any() else slice(None)].reshape(-1, 3)
    lab = rgb_to_lab(pixels[:: max(1, len(pixels) // 20000)][None])[0]  # (N, 3)
    known = rgb_to_lab(np.array([[ImageColor.getrgb(name) for name in names]], np.uint8))[0]
    nearest = nearest_colour(lab, known)
    share = np.bincount(nearest, minlength=len(names)) / len(nearest)
    order = [i for i in np.argsort(-share, kind="stable")[:most] if share[i] >= 0.1] or [int(share.argmax())]
    *first, last = [names[i] for i in order]
    return f"{', '.join(first)} and {last} design" if first else f"{last} design"

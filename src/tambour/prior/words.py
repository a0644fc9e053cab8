"""Words -> a flat design, for bases that follow a design but draw no objects from words (ours; method, section 15).

A prompt is read as a colour and an object that the base's prior knows ("two big red hearts on linen" -> "a red heart");
the prior draws that at 64 px, and the drawing becomes a crisp flat design: a few colours, smooth borders, no ground.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image

from tambour.base.seeds import generator
from tambour.errors import InputError
from tambour.imaging.colour import lab_to_rgb, rgb_to_lab
from tambour.imaging.nearest import fill_from_nearest
from tambour.imaging.palette import distinct_colours, photo_palette
from tambour.imaging.segmentation import drop_specks, vote
from tambour.prior.model import Prior, caption, draw

COLOURS = 8  # of a design, at most
_APART = 13.0  # Lab steps between two colours of a design, at least
_SMALL = 0.0006  # of the picture's area: smaller spots of a colour are given up
_FILLERS = frozenset(  # words that mean nothing to the prior and are not reported as ignored
    ("a", "an", "the", "one", "my", "your", "our", "this", "that", "some", "of", "in", "on", "at", "with", "for", "and",
     "to", "by", "from", "is", "me", "please", "patch", "embroidery", "embroidered", "stitched", "picture", "design",
     "drawing", "logo", "motif", "image", "style", "emb")
)  # fmt: skip


@dataclass(frozen=True)
class Wish:
    """What a prompt asks for.

    Attributes:
        name: of the object.
        colour: None: the object's own.
        ignored: the prompt's other words, in their order, but for fillers such as "the".
    """

    name: str
    colour: str | None
    ignored: tuple[str, ...]

    def __str__(self) -> str:
        return " ".join(part for part in (self.colour, self.name) if part)


def read_prompt(prompt: str, prior: Prior) -> Wish:
    """Find the first object that the prior knows, and the first colour.

    Raises:
        InputError: no object is known; names some that are spelt alike, or some at all.
    """
    words = re.findall(r"[a-z0-9-]+", prompt.lower())
    objects, colours = _index(prior.objects), _index(prior.colours)
    spots = {i: 1 for i, word in enumerate(words) if word in colours}
    found = _first(words, objects, set(spots))
    if found is None:  # "an orange": a fruit, if nothing else is
        found = _first(words, objects, set())
    if found is None:
        raise InputError(f"The base cannot draw {prompt.strip()!r}: it knows no such object.", _near(words, prior))
    start, length, name = found
    taken = set(range(start, start + length))
    colour = next((i for i in sorted(set(spots) - taken)), None)
    if colour is not None:
        taken.add(colour)
    ignored = tuple(word for i, word in enumerate(words) if i not in taken and word not in _FILLERS)
    return Wish(name, None if colour is None else colours[words[colour]], ignored)


def _index(names: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Every name, first or other -> the first name."""
    return {word: name for name, others in names.items() for word in (*others, name)}


def _first(words: Sequence[str], objects: Mapping[str, str], closed: set[int]) -> tuple[int, int, str] | None:
    """(place, number of words, object) of the first object in `words`, the longest of those that begin there."""
    for start in range(len(words)):
        for length in (3, 2, 1):
            some = words[start : start + length]
            if len(some) < length or closed & set(range(start, start + length)):
                continue
            *before, last = some
            for one in _singular(last):
                if (name := objects.get(" ".join([*before, one]))) is not None:
                    return start, length, name
    return None


def _singular(word: str) -> list[str]:
    """What a word may be the plural of, itself first."""
    endings = (("ies", "y"), ("es", ""), ("s", ""))
    return [word, *(word.removesuffix(end) + new for end, new in endings if word.endswith(end))]


def _near(words: Sequence[str], prior: Prior) -> str:
    known = _index(prior.objects)
    near = [name for word in words if word not in _FILLERS for name in difflib.get_close_matches(word, known, 3, 0.7)]
    some = list(dict.fromkeys(near)) or list(prior.objects)[:: max(1, len(prior.objects) // 10)]
    colours = ", ".join(prior.colours)
    return f"It knows {len(prior.objects)}, such as {', '.join(some)}; in {colours}."


def design_of(prior: Prior, wish: Wish, seed: int, size: int) -> Image.Image:
    """Draw a wish as a flat design, RGBA, `size` px square. The seed also chooses whose hand it is drawn in."""
    rng = generator(seed, "words")
    hand = 1 + int(np.random.default_rng(seed).permutation(prior.hands)[0])
    return crisp(draw(prior, caption(wish.name, wish.colour, hand), rng), size)


def crisp(drawing: np.ndarray, size: int) -> Image.Image:
    """A small soft drawing (H, W, 4), RGBA in [0, 1] with alpha premultiplied -> a flat design, RGBA, `size` px square.

    The palette comes from the small drawing, whose borders are few; each pixel of the enlarged one is given a palette
    colour by `segmentation.vote`.
    """
    alpha = drawing[..., 3]
    inside = alpha > 0.5
    if not inside.any():
        return Image.new("RGBA", (size, size))
    lab = rgb_to_lab((drawing[..., :3] / np.maximum(alpha, 0.05)[..., None]).clip(0, 1))
    lab = fill_from_nearest(lab, alpha > 0.8)  # soft edges hold little colour
    colours = distinct_colours(photo_palette(np.repeat(lab[inside], 4, 0)), lab[inside], COLOURS, _APART)
    large = cv2.resize(lab, (size, size), interpolation=cv2.INTER_CUBIC)
    costs = np.stack([((large - colour) ** 2).sum(-1) for colour in colours])
    scale = size / len(drawing)
    labels = vote(costs, scale / 3) if len(colours) > 1 else np.zeros((size, size), int)
    labels = drop_specks(labels, _SMALL * size**2)
    covered = cv2.GaussianBlur(cv2.resize(alpha, (size, size), interpolation=cv2.INTER_CUBIC), (0, 0), scale / 4) > 0.5
    covered = drop_specks(covered.astype(int), _SMALL * size**2) > 0
    rgb = lab_to_rgb(colours[None])[0][labels]
    return Image.fromarray(np.dstack([rgb, np.where(covered, 255, 0).astype(np.uint8)]))

"""The prior's corpus: small flat designs of named objects, each in many colours, and captions for them.

Three packages draw every object (`corpus.SOURCES`). A caption names the package by its number ("a red cat 2"), so that
it asks for one drawing and not for a mixture of three; who draws from words later takes one by chance.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch

from pretraining.corpus import SOURCES, Art, draw, read_icons
from pretraining.vocabulary import COLOURS, OBJECTS
from tambour.imaging.colour import lab_to_rgb, rgb_to_lab
from tambour.prior.model import SIDE, Patches, caption

MARGIN = 3  # px left free around the drawing
DRAWN = 256  # px at which icons are drawn and recoloured
PALETTE = 8  # colours at most


@dataclass(frozen=True)
class Flat:
    """One drawing, flat: `labels` (DRAWN, DRAWN) int, -1 where nothing is; `colours` (K, 3) CIELAB; `main` (K,) bool:
    the colours that change when the drawing is recoloured: those of its largest part, with their shades."""

    labels: np.ndarray
    colours: np.ndarray
    main: np.ndarray


def flat_of(art: Art, seed: int = 0) -> Flat:
    """Draw an icon, cut to what it covers, and reduce it to a few flat colours."""
    image = np.asarray(draw(art, DRAWN))
    covered = image[..., 3] > 127
    rows, columns = np.flatnonzero(covered.any(1)), np.flatnonzero(covered.any(0))
    side = max(rows[-1] - rows[0], columns[-1] - columns[0]) + 1
    scale = DRAWN * (1 - 2 * MARGIN / SIDE) / side
    centre = ((columns[0] + columns[-1] + 1) / 2, (rows[0] + rows[-1] + 1) / 2)
    move = np.array([[scale, 0, DRAWN / 2 - scale * centre[0]], [0, scale, DRAWN / 2 - scale * centre[1]]])
    solid = image[..., :3].astype(np.float32) * (image[..., 3:] / 255.0)
    moved = cv2.warpAffine(np.dstack([solid, image[..., 3].astype(np.float32)]), move, (DRAWN,) * 2,
                           flags=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)  # fmt: skip
    covered = moved[..., 3] > 127
    rgb = np.clip(moved[..., :3] / np.maximum(moved[..., 3:], 1), 0, 1)
    lab = rgb_to_lab(rgb.astype(np.float32))
    points = lab[covered]
    cv2.setRNGSeed(seed)
    some = points[np.linspace(0, len(points) - 1, min(len(points), 4000)).astype(int)]
    count = min(PALETTE, len(np.unique(some.round(), axis=0)))
    _, _, colours = cv2.kmeans(some, count, None, (3, 20, 0.5), 2, cv2.KMEANS_PP_CENTERS)
    labels = np.full(covered.shape, -1, np.int16)
    labels[covered] = ((points[:, None] - colours) ** 2).sum(-1).argmin(1)
    area = np.bincount(labels[covered], minlength=count) / covered.sum()
    return Flat(labels, colours, _main(colours, area))


def _main(colours: np.ndarray, area: np.ndarray) -> np.ndarray:
    """Which palette colours make up the part that gives a drawing its colour: the hue that covers most."""
    chroma = np.hypot(colours[:, 1], colours[:, 2])
    hue = np.arctan2(colours[:, 2], colours[:, 1])
    grey = chroma < 14
    turn = np.abs((hue[:, None] - hue + np.pi) % (2 * np.pi) - np.pi)
    alike = np.where(
        grey[:, None] | grey,
        grey[:, None] & grey & (np.abs(colours[:, None, 0] - colours[:, 0]) < 30),
        turn < np.radians(32),
    )
    weight = area * np.where(grey, 0.7, 1.0)
    return alike[int((alike @ weight).argmax())]


def recoloured(flat: Flat, colour: str | None) -> np.ndarray:
    """(SIDE, SIDE, 4) uint8 RGBA with premultiplied alpha: the drawing with its main part in `colour` (None: its own).

    The shades of the main part stay shades of the new colour; what would vanish on it is moved out of its way.
    """
    colours = flat.colours.copy()
    if colour is not None:
        target = rgb_to_lab(np.uint8([[COLOURS[colour]]]))[0, 0]
        share = np.bincount(flat.labels[flat.labels >= 0], minlength=len(colours)) * flat.main
        centre = (flat.colours * share[:, None]).sum(0) / share.sum()
        off = flat.colours[flat.main] - centre
        off[:, 0] = np.clip(off[:, 0] * 0.6, -22, 18)
        off[:, 1:] *= 0.2
        colours[flat.main] = target + off
        near = ~flat.main & (np.linalg.norm(colours - target, axis=1) < 28)
        colours[near, 0] += np.where(target[0] < 45, 45, -40)
        colours[:, 0] = colours[:, 0].clip(4, 98)
    rgb = lab_to_rgb(colours[None].astype(np.float32))[0]
    picture = np.zeros((*flat.labels.shape, 4), np.float32)
    inside = flat.labels >= 0
    picture[inside, :3], picture[inside, 3] = rgb[flat.labels[inside]], 255
    return cv2.resize(picture, (SIDE, SIDE), interpolation=cv2.INTER_AREA).round().astype(np.uint8)


def read_drawings(folder: Path) -> dict[tuple[str, int], Flat]:
    """(object, number of the package) -> its drawing; packages that lack an icon are left out."""
    found = {}
    for number, (_, icons) in enumerate(read_icons(folder)):
        for name, (icon, _) in OBJECTS.items():
            if icon in icons:
                found[name, number] = flat_of(Art(name, svg=icons[icon]))
    return found


# --- captions -----------------------------------------------------------------------------------------------------

HANDS = len(SOURCES)


def captions() -> Iterator[str]:
    """Every caption there is."""
    for name in OBJECTS:
        for colour in (None, *COLOURS):
            yield from (caption(name, colour, hand) for hand in range(1, HANDS + 1))


def prompts(count: int = 40, seed: int = 0) -> list[str]:
    """What the prior is judged by: `count` objects by chance, none twice, under ten colours in turn."""
    names = np.random.default_rng(seed).permutation(list(OBJECTS))[:count]
    colours = list(COLOURS)[:10]
    return [f"a {colours[i % 10]} {name}" for i, name in enumerate(names)]


# --- the corpus ---------------------------------------------------------------------------------------------------

PLAIN = 0.2  # share of designs in their own colours, of which the caption names none


@dataclass(frozen=True)
class Designs:
    """All drawings in all colours.

    Attributes:
        names: of each drawing's object, N of them.
        hands: (N,) number of the package that drew it.
        pictures: (N, 1 + len(COLOURS), SIDE, SIDE, 4) uint8, premultiplied; the first in its own colours.
        codes: (N, 1 + len(COLOURS), c, S, S) float16, or None before `encoded`.
    """

    names: list[str]
    hands: np.ndarray
    pictures: np.ndarray
    codes: torch.Tensor | None = None

    def encoded(self, patches: Patches) -> Designs:
        """With the code of every picture."""
        rows = []
        for some in self.pictures:
            x = torch.from_numpy(some.astype(np.float32) / 127.5 - 1).permute(0, 3, 1, 2)
            rows.append(patches.encode(x).half())
        return replace(self, codes=torch.stack(rows))

    def draw(self, rng: np.random.Generator, count: int) -> tuple[torch.Tensor, list[str]]:
        """A batch: codes (B, c, S, S) float32, captions."""
        drawings = rng.integers(len(self.names), size=count)
        colours = np.where(rng.random(count) < PLAIN, 0, rng.integers(1, 1 + len(COLOURS), size=count))
        spelt = [None, *COLOURS]
        drawn_captions = [
            caption(self.names[n], spelt[c], int(self.hands[n]) + 1) for n, c in zip(drawings, colours, strict=True)
        ]
        return self.codes[drawings, colours].float(), drawn_captions


def read_designs(art: Path, cache: Path) -> Designs:
    """Every object of the vocabulary as every package draws it; made once, then read from `cache` (.npz)."""
    if not cache.exists():
        drawings = read_drawings(art)
        pictures = np.stack([[recoloured(flat, c) for c in (None, *COLOURS)] for flat in drawings.values()])
        names, hands = zip(*drawings, strict=True)
        rough = cache.with_suffix(".tmp.npz")
        np.savez(rough, names=np.array(names), hands=np.array(hands), pictures=pictures)
        os.replace(rough, cache)
    with np.load(cache) as file:
        return Designs([str(name) for name in file["names"]], file["hands"], file["pictures"])

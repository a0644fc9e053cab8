"""What can be said about stitches, fabric and light: frozen values, random draws of them, and their words.

Lengths are millimetres, angles degrees (0 points right, positive turns clockwise on the picture), the rest has no unit.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import get_args

import numpy as np

from tambour.errors import InputError
from tambour.stitch.fabrics import FABRICS
from tambour.stitch.families import FAMILIES
from tambour.stitch.family import AngleField, Family

ANGLE_FIELDS: tuple[str, ...] = get_args(AngleField)

# Allowed range of every number of a stitch.
RANGES: dict[str, tuple[float, float]] = {
    "thread_width": (0.05, 5.0),
    "stitch_length": (0.2, 60.0),
    "density": (0.4, 1.6),
    "angle": (-360.0, 360.0),
    "sheen": (0.0, 1.0),
    "twist": (0.0, 1.0),
    "pile": (0.0, 1.0),
    "colour_variation": (0.0, 1.0),
    "relief": (0.0, 2.0),
    "variegation": (0.0, 1.0),
    "metallic": (0.0, 1.0),
    "wear": (0.0, 1.0),
    "fuzz": (0.0, 1.0),
    "unevenness": (0.0, 1.0),
}


@dataclass(frozen=True)
class Stitch:
    """One way of stitching.

    Attributes:
        family: one of `FAMILIES`.
        thread_width: mm; of the thread, or of the cord or bead; the family's `draw` says which.
        stitch_length: mm; of a stitch, a loop, a cell or a piece; the family's `draw` says which.
        density: threads a thread width; 1 touches, below 1 leaves gaps, above 1 overlaps.
        angle: degrees, direction of the threads (of the rows, of the grid).
        angle_field: "constant": `angle` everywhere; "axis": `angle` is counted from across each region's main axis;
            "contour": rows follow the region's outline.
        sheen: 0 matt cotton, 1 glossy rayon.   twist: how strongly the plies show.   pile: fuzz, 0 none to 1 wool.
        colour_variation: difference between neighbouring threads.   relief: height, 1 as real thread.
        border: a satin border around every region.
        variegation: how much the colour changes along the thread.   metallic: 0 fibre to 1 wound foil.
        wear: 0 new to 1 rubbed flat, faded and broken in places.   fuzz: loose fibres that stand off the threads.
        unevenness: 0 sewn by machine to 1 by a child.
    """

    family: str = "satin"
    thread_width: float = 0.5
    stitch_length: float = 2.0
    density: float = 1.0
    angle: float = 0.0
    angle_field: str = "constant"
    sheen: float = 0.5
    twist: float = 0.4
    pile: float = 0.1
    colour_variation: float = 0.3
    relief: float = 1.0
    border: bool = False
    variegation: float = 0.0
    metallic: float = 0.0
    wear: float = 0.0
    fuzz: float = 0.0
    unevenness: float = 0.0

    def __post_init__(self) -> None:
        _family(self.family)
        if self.angle_field not in ANGLE_FIELDS:
            raise InputError(
                f"Angle field {self.angle_field!r} is not known.", f"Choose one of: {', '.join(ANGLE_FIELDS)}."
            )
        for name, (low, high) in RANGES.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise InputError(f"Stitch {name} {value!r} is out of range.", f"Give a number from {low} to {high}.")


@dataclass(frozen=True)
class Fabric:
    """What is stitched on. `colour` None takes the design's own background (white where the design is transparent).

    `pitch` is the distance in mm of two yarns (aida: two holes; jersey: two columns of meshes; terry: two loops);
    `contrast` 0 to 1 how visible the structure is; `pucker` 0 to 1 how much the stitches draw the fabric into folds.
    """

    kind: str = "weave"
    colour: tuple[int, int, int] | None = None
    pitch: float = 0.35
    contrast: float = 0.4
    pucker: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in FABRICS:
            raise InputError(f"Fabric {self.kind!r} is not known.", f"Choose one of: {', '.join(FABRICS)}.")
        if not 0.05 <= self.pitch <= 20:
            raise InputError(f"Fabric pitch {self.pitch!r} is out of range.", "Give 0.05 to 20 mm.")
        for name in ("contrast", "pucker"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(
                    f"Fabric {name} {getattr(self, name)!r} is out of range.", "Give a number from 0 to 1."
                )


@dataclass(frozen=True)
class Light:
    """A lamp: `azimuth` degrees, where it stands (225: upper left), `elevation` degrees above the fabric; `ambient` the
    share of light from everywhere; `strength` beside other lamps."""

    azimuth: float = 225.0
    elevation: float = 48.0
    ambient: float = 0.45
    strength: float = 1.0

    def __post_init__(self) -> None:
        for name, low, high in (("elevation", 5, 90), ("ambient", 0, 1), ("strength", 0.01, 100)):
            if not low <= getattr(self, name) <= high:
                raise InputError(f"Light {name} {getattr(self, name)!r} is out of range.", f"Give {low} to {high}.")

    def direction(self) -> tuple[float, float, float]:
        """Unit vector towards the lamp, (x right, y down, z to the viewer)."""
        azimuth, elevation = np.radians([self.azimuth, self.elevation])
        flat = np.cos(elevation)
        return float(flat * np.cos(azimuth)), float(flat * np.sin(azimuth)), float(np.sin(elevation))


def _family(name: str) -> Family:
    if name not in FAMILIES:
        raise InputError(f"Stitch family {name!r} is not known.", f"Choose one of: {', '.join(FAMILIES)}.")
    return FAMILIES[name]


def default_stitch(family: str) -> Stitch:
    """A typical stitch of the family, as shown in the documentation."""
    return Stitch(family=family, **_family(family).typical)


def sample_stitch(rng: np.random.Generator, family: str) -> Stitch:
    """Draw a plausible stitch of `family`; at 20 px a mm its threads are 7 to 14 px wide (cords and beads wider)."""
    ranges = _family(family).ranges
    thread_width, ratio, sheen, twist, pile = (
        float(rng.uniform(*span))
        for span in (ranges.thread_width, ranges.length_ratio, ranges.sheen, ranges.twist, ranges.pile)
    )
    field = str(rng.choice(ranges.angle_fields))
    if ratio > ranges.straight_from:
        field = "axis"
    angle = float(rng.uniform(-90, 90)) if field == "constant" else float(rng.normal(0, 12))
    if ranges.grid:
        angle = 0.0 if rng.random() < 0.8 else 45.0
    if field == "axis":
        angle += ranges.axis_turn
    extras = {name: float(rng.uniform(0.1, most)) for name, chance, most, fits in (
        ("variegation", 0.15, 0.9, True), ("metallic", 0.08, 1.0, ranges.thread and pile < 0.3),
        ("wear", 0.15, 0.6, ranges.thread), ("fuzz", 0.3, 0.6, ranges.thread), ("unevenness", 0.4, 0.6, True),
    ) if rng.random() < chance and fits}  # fmt: skip
    return Stitch(
        family=family,
        thread_width=thread_width,
        stitch_length=thread_width * ratio,
        density=float(rng.uniform(*ranges.density)),
        angle=angle,
        angle_field=field,
        sheen=sheen,
        twist=twist,
        pile=pile,
        colour_variation=float(rng.uniform(0.1, 0.6)),
        relief=float(rng.uniform(0.6, 1.25)),
        border=bool(ranges.bordered and rng.random() < 0.3),
        **extras,
    )


def sample_fabric(rng: np.random.Generator) -> Fabric:
    """Draw a fabric with a weak structure: mostly pale natural colours, sometimes dark or strong ones."""
    shares = np.array([kind.share for kind in FABRICS.values()])
    kind = str(rng.choice(tuple(FABRICS), p=shares / math.fsum(shares)))
    hue = rng.uniform(0, 2 * np.pi)
    chroma = rng.choice((0.03, 0.12, 0.4), p=(0.6, 0.25, 0.15))
    level = rng.uniform(0.8, 0.98) if rng.random() < 0.65 else rng.uniform(0.12, 0.7)
    tone = level * (1 - chroma * (0.5 - 0.5 * np.cos(hue + np.array([0, 2.09, 4.19]))))
    pitch = float(rng.uniform(*FABRICS[kind].pitch))
    colour = tuple(int(c) for c in np.round(255 * tone))
    pucker = float(rng.uniform(0.1, 0.8)) if rng.random() < 0.25 else 0.0
    return Fabric(kind=kind, colour=colour, pitch=pitch, contrast=float(rng.uniform(0.15, 0.6)), pucker=pucker)


def sample_lights(rng: np.random.Generator) -> tuple[Light, ...]:
    """Draw one lamp from somewhere above, sometimes with a weaker one from another side."""
    key = Light(rng.uniform(0, 360), rng.uniform(35, 65), rng.uniform(0.35, 0.6))
    if rng.random() < 0.7:
        return (key,)
    fill = Light(key.azimuth + rng.uniform(70, 290), rng.uniform(25, 70), key.ambient, rng.uniform(0.2, 0.7))
    return key, fill


def describe(stitch: Stitch) -> str:
    """The stitch in words, for captions: `"glossy satin stitch, fine thread, with border"`."""
    family = FAMILIES[stitch.family]
    name = family.words.caption
    if family.words.long_caption is not None:
        ratio, long_name = family.words.long_caption
        name = long_name if stitch.stitch_length > ratio * stitch.thread_width else name
    shine = "metallic " if stitch.metallic > 0.4 else "glossy " if stitch.sheen > 0.65 else "matte "
    words = [("" if shine == "matte " and stitch.sheen >= 0.25 else shine) + name, _size_words(stitch, family)]
    if stitch.angle_field == "contour":
        words.append("following the outline")
    if (stitch.pile > 0.6 and not family.pile_drawn) or stitch.fuzz > 0.5:
        words.append("fuzzy")
    words += [word for word, much in (("variegated", stitch.variegation > 0.4), ("worn", stitch.wear > 0.4)) if much]
    if stitch.border:
        words.append("with border")
    return ", ".join(words)


def _size_words(stitch: Stitch, family: Family) -> str:
    if family.words.size == "piece length":
        length = stitch.stitch_length / 1.25
        return "small" if length < 0.7 else "large" if length > 1.15 else "medium"
    width = stitch.thread_width / np.mean(family.ranges.thread_width)
    if family.words.size == "piece width":
        return "small" if width < 0.88 else "large" if width > 1.12 else "medium"
    return "fine thread" if width < 0.88 else "thick thread" if width > 1.12 else "medium thread"


def stitch_values(stitch: Stitch) -> dict:
    """The stitch as a plain dict that `Stitch(**values)` reads back; for style files and manifests."""
    return dataclasses.asdict(stitch)

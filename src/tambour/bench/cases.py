"""What is benchmarked: frozen styles and designs whose truth the renderer knows, a user's folder, prompts.

TruthBench holds styles that no base of ours has seen (`HELD_OUT`), on the bundled designs. A style is shown once, as a
pair on one design; what a method makes of the other designs is compared with the very stitches, drawn there by the
renderer on the same fabric. Styles and designs are split: tuning looks at "development" only, "test" is reported.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import resources
from pathlib import Path

import numpy as np
from PIL import Image

from tambour.errors import InputError
from tambour.imaging.files import open_image
from tambour.imaging.geometry import flatten
from tambour.stitch import Fabric, Rendered, Stitch, render

SIZE = 512  # px, both sides of every picture of TruthBench
PX_PER_MM = 28.0  # the middle of what mini is trained on
SPLITS = ("development", "test")
SEED = 7  # of every truth and reference; other seeds are other pieces of the same work

# What the base must not have seen, as the cases state it (a test compares it with the pretraining's own list).
HELD_OUT_FAMILIES = ("chain", "sequin", "cord", "sashiko")
THICK_SATIN = 0.56  # mm; satin threads above it are held out
DENSE_KNOTS = 0.8  # mm from knot to knot (stitch_length / density); knots closer than that are held out


@dataclass(frozen=True)
class StyleCase:
    """One way of stitching, on one fabric.

    Attributes:
        name: unique.
        split: "development" or "test".
        reference: the bundled design on which the style is shown.
        stitch: the fields of a `Stitch` by name, all those that matter.
        fabric: the fields of a `Fabric` by name.
        edges: "firm", or "free" for raised material that may cross borders (method, section 6).
    """

    name: str
    split: str
    reference: str
    stitch: Mapping[str, object]
    fabric: Mapping[str, object]
    edges: str = "firm"


def _style(name: str, split: str, reference: str, cloth: tuple, edges: str = "firm", **stitch) -> StyleCase:
    kind, colour, pitch = cloth
    return StyleCase(name, split, reference, stitch, dict(kind=kind, colour=colour, pitch=pitch, contrast=0.3), edges)


_LINEN, _CREAM, _NAVY, _GREY = (226, 217, 198), (240, 234, 220), (44, 54, 84), (150, 152, 150)
_WEAVE, _FELT = ("weave", _LINEN, 0.35), ("felt", _CREAM, 0.5)
_DARK, _TWILL, _PLAIN = ("weave", _NAVY, 0.35), ("twill", _GREY, 0.3), ("plain", _CREAM, 0.5)

STYLES: tuple[StyleCase, ...] = (
    _style("chain-fine", "development", "anchor", _FELT, family="chain", thread_width=0.36, stitch_length=1.3,
           density=1.0, angle=0.0, angle_field="contour", sheen=0.35, twist=0.5, pile=0.1, colour_variation=0.3,
           relief=1.0),
    _style("sequin-small", "development", "bee", _DARK, "free", family="sequin", thread_width=0.26, stitch_length=1.15,
           density=1.0, angle=0.0, angle_field="constant", sheen=0.9, twist=0.2, pile=0.0, colour_variation=0.3,
           relief=1.0),
    _style("cord-outline", "development", "cat", _TWILL, family="cord", thread_width=0.8, stitch_length=2.4,
           density=0.95, angle=0.0, angle_field="contour", sheen=0.8, twist=0.6, pile=0.0, colour_variation=0.2,
           relief=1.1),
    _style("sashiko-level", "development", "mountain", _DARK, family="sashiko", thread_width=0.42, stitch_length=1.3,
           density=1.0, angle=0.0, angle_field="constant", sheen=0.25, twist=0.6, pile=0.1, colour_variation=0.2,
           relief=1.0),
    _style("satin-thick", "development", "star", _WEAVE, family="satin", thread_width=0.66, stitch_length=17.0,
           density=1.0, angle=0.0, angle_field="axis", sheen=0.75, twist=0.35, pile=0.05, colour_variation=0.3,
           relief=1.0),
    _style("knots-dense", "development", "anchor", _PLAIN, "free", family="knot", thread_width=0.3, stitch_length=0.9,
           density=1.35, angle=0.0, angle_field="constant", sheen=0.35, twist=0.5, pile=0.1, colour_variation=0.3,
           relief=1.1),
    _style("chain-bold", "test", "bird", _WEAVE, family="chain", thread_width=0.44, stitch_length=1.8,
           density=1.0, angle=0.0, angle_field="contour", sheen=0.45, twist=0.6, pile=0.05, colour_variation=0.35,
           relief=1.15),
    _style("chain-rows", "test", "fox", _TWILL, family="chain", thread_width=0.4, stitch_length=1.45,
           density=1.0, angle=35.0, angle_field="constant", sheen=0.2, twist=0.4, pile=0.25, colour_variation=0.4,
           relief=0.9),
    _style("sequin-large", "test", "heart", _FELT, "free", family="sequin", thread_width=0.32, stitch_length=1.8,
           density=1.0, angle=0.0, angle_field="constant", sheen=0.85, twist=0.2, pile=0.0, colour_variation=0.4,
           relief=1.1),
    _style("sequin-turned", "test", "monogram", _WEAVE, "free", family="sequin", thread_width=0.28, stitch_length=1.4,
           density=1.0, angle=30.0, angle_field="constant", sheen=0.7, twist=0.1, pile=0.0, colour_variation=0.2,
           relief=0.9),
    _style("cord-thick", "test", "mushroom", _WEAVE, family="cord", thread_width=1.05, stitch_length=3.4,
           density=0.95, angle=0.0, angle_field="contour", sheen=0.9, twist=0.8, pile=0.0, colour_variation=0.25,
           relief=1.2),
    _style("cord-rows", "test", "rose", _PLAIN, family="cord", thread_width=0.7, stitch_length=2.0,
           density=1.0, angle=-20.0, angle_field="constant", sheen=0.65, twist=0.5, pile=0.05, colour_variation=0.3,
           relief=1.0),
    _style("sashiko-slope", "test", "sprig", _DARK, family="sashiko", thread_width=0.46, stitch_length=1.6,
           density=1.0, angle=45.0, angle_field="constant", sheen=0.3, twist=0.7, pile=0.1, colour_variation=0.25,
           relief=1.0),
    _style("sashiko-fine", "test", "bird", _TWILL, family="sashiko", thread_width=0.36, stitch_length=1.05,
           density=1.0, angle=0.0, angle_field="constant", sheen=0.2, twist=0.5, pile=0.15, colour_variation=0.2,
           relief=0.9),
    _style("satin-cable", "test", "fox", _FELT, family="satin", thread_width=0.8, stitch_length=20.0,
           density=1.0, angle=20.0, angle_field="constant", sheen=0.6, twist=0.6, pile=0.1, colour_variation=0.35,
           relief=1.15),
    _style("knots-packed", "test", "heart", _TWILL, "free", family="knot", thread_width=0.34, stitch_length=1.05,
           density=1.45, angle=0.0, angle_field="constant", sheen=0.25, twist=0.6, pile=0.2, colour_variation=0.4,
           relief=1.2),
)  # fmt: skip

DESIGNS: dict[str, tuple[str, ...]] = {
    "development": ("anchor", "bee", "cat", "mountain", "star"),
    "test": ("bird", "fox", "heart", "monogram", "mushroom", "rose", "sprig"),
}

PROMPTS = (  # the text task: colour + object; the objects are on none of the bundled designs
    "a red apple", "a yellow duck", "a blue car", "a green turtle", "an orange pumpkin", "a purple butterfly",
    "a pink pig", "a brown bear", "a black umbrella", "a white swan", "a red house", "a yellow banana", "a blue whale",
    "a green cactus", "an orange carrot", "a purple grape", "a pink tulip", "a brown guitar", "a black spider",
    "a white snowman",
)  # fmt: skip


# -- the splits and their hash ----------------------------------------------------------------------------------------


def styles_of(split: str, names: Sequence[str] | None = None) -> tuple[StyleCase, ...]:
    """The styles of a split, or those of them that are named, in the order of `STYLES`.

    Raises:
        InputError: there is no such split, or it has no such style.
    """
    if split not in SPLITS:
        raise InputError(f"Split {split!r} is not known.", f"Allowed: {', '.join(SPLITS)}.")
    found = tuple(style for style in STYLES if style.split == split)
    known = [style.name for style in found]
    for name in names or ():
        if name not in known:
            raise InputError(f"Split {split} has no style {name!r}.", f"Allowed: {', '.join(known)}.")
    return tuple(style for style in found if names is None or style.name in names)


def targets_of(style: StyleCase) -> tuple[str, ...]:
    """The designs on which a style is judged: those of its split, without the one it is shown on."""
    return tuple(name for name in DESIGNS[style.split] if name != style.reference)


def content_hash() -> str:
    """sha256 hex of everything the cases are made from: parameters, splits, designs, prompts, as canonical JSON."""
    styles = [dict(vars(style), stitch=dict(style.stitch), fabric=dict(style.fabric)) for style in STYLES]
    drawings = {name: hashlib.sha256(_svg(name).encode()).hexdigest() for names in DESIGNS.values() for name in names}
    facts = dict(styles=styles, designs=DESIGNS, drawings=drawings, prompts=PROMPTS)
    facts |= dict(size=SIZE, px_per_mm=PX_PER_MM, seed=SEED)
    return hashlib.sha256(json.dumps(facts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


# -- pictures ---------------------------------------------------------------------------------------------------------


def _svg(name: str) -> str:
    return resources.files("tambour").joinpath("designs", f"{name}.svg").read_text()


@lru_cache(maxsize=32)
def design(name: str) -> Image.Image:
    """A bundled design, RGBA, `SIZE` px square."""
    with resources.as_file(resources.files("tambour").joinpath("designs", f"{name}.svg")) as path:
        return open_image(path, SIZE).convert("RGBA")


@lru_cache(maxsize=48)  # 3 MB each
def _drawn(name: str, style: str, seed: int) -> Rendered:
    case = next(case for case in STYLES if case.name == style)
    fabric = Fabric(**case.fabric)
    return render(design(name), Stitch(**case.stitch), fabric, seed=seed, px_per_mm=PX_PER_MM)


def truth(style: StyleCase, name: str, seed: int = SEED) -> Rendered:
    """A design in a style, drawn by the renderer: the same arguments give the same picture, bit for bit."""
    return _drawn(name, style.name, seed)


def check_renderer(styles: Sequence[StyleCase]) -> None:
    """Refuse styles that this renderer cannot draw.

    Raises:
        InputError: names the style and what is wrong with it.
    """
    for style in styles:
        try:
            Stitch(**style.stitch)
        except InputError as fault:
            raise InputError(f"Style {style.name!r} cannot be drawn: {fault}", "Use the matching version.") from None


# -- a task for a method ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Target:
    """One design to be shown in a style.

    Attributes:
        name: unique within the task.
        design: RGBA (or RGB, where it has no transparency).
        truth: the very stitches, or None where nobody knows them.
        mask: (H, W) bool, where the truth is stitched, or None.
    """

    name: str
    design: Image.Image
    truth: Image.Image | None = None
    mask: np.ndarray | None = None


@dataclass(frozen=True)
class Pairing:
    """A style as a method is shown it, and the designs it is judged on.

    Attributes:
        name: of the style.
        split: "development", "test" or "paper".
        design, embroidery: the aligned pair (A, A'); the design RGBA with transparent ground where that is known.
        mask: (H, W) bool, stitched parts of `embroidery`.
        words: what the pair shows, in a word or two.
        fabric: RGB, median of the bare fabric as it looks on `embroidery`.
        edges: "firm" or "free".
        targets: the designs.
        case: the style's own parameters (a `StyleCase`, or another domain's), or None where nobody knows them.
        domain: "embroidery", or a name in `domains.DOMAINS`.
    """

    name: str
    split: str
    design: Image.Image
    embroidery: Image.Image
    mask: np.ndarray
    words: str
    fabric: tuple[int, int, int]
    edges: str
    targets: tuple[Target, ...]
    case: StyleCase | object | None = field(default=None)
    domain: str = "embroidery"


def pairing(style: StyleCase, designs: Sequence[str] | None = None) -> Pairing:
    """A style of TruthBench with its reference pair and its targets, or those of them that are named.

    Raises:
        InputError: a named design is not among the style's targets.
    """
    names = targets_of(style)
    for name in designs or ():
        if name not in names:
            raise InputError(f"Style {style.name} is not judged on {name!r}.", f"Allowed: {', '.join(names)}.")
    reference = truth(style, style.reference)
    targets = []
    for name in names:
        if designs is None or name in designs:
            drawn = truth(style, name)
            targets.append(Target(name, design(name), drawn.image, drawn.mask))
    pixels = np.asarray(reference.image)
    fabric = tuple(int(value) for value in np.median(pixels[~reference.mask], 0))
    return Pairing(
        name=style.name,
        split=style.split,
        design=design(style.reference),
        embroidery=reference.image,
        mask=reference.mask,
        words=style.reference,
        fabric=fabric,
        edges=style.edges,
        targets=tuple(targets),
        case=style,
    )


def read_folder(folder: str | Path, size: int = SIZE) -> tuple[tuple[Pairing, ...], tuple[str, ...]]:
    """The paper's protocol on a user's folder: references/ and designs/ of pictures, and prompts.txt if it is there.

    Every reference is paired with its flat design by our own pair step (method, section 1). There is no truth.

    Args:
        size: longer side of references and designs, px.

    Returns: the styles, each with all designs as targets, and the prompts, one a line.

    Raises:
        InputError: a folder is missing or empty, or a picture cannot be used.
    """
    from tambour.imaging.geometry import fit
    from tambour.pair.flat import make_design
    from tambour.pair.reference import fabric_colour

    folder = Path(folder)
    found: dict[str, list[Path]] = {}
    for part in ("references", "designs"):
        inside = sorted((folder / part).glob("*")) if (folder / part).is_dir() else []
        found[part] = [path for path in inside if path.suffix.lower() in (".png", ".jpg", ".jpeg", ".webp", ".svg")]
        if not found[part]:
            raise InputError(f"There are no pictures in {folder / part}.", "Put PNG, JPEG, WebP or SVG files there.")
    targets = tuple(Target(path.stem, fit(open_image(path, size), size, 16)) for path in found["designs"])
    pairings = []
    for path in found["references"]:
        pair = make_design(fit(flatten(open_image(path, size)), size, 16))
        pairings.append(
            Pairing(
                name=path.stem,
                split="paper",
                design=pair.design,
                embroidery=pair.embroidery,
                mask=np.asarray(pair.mask) > 127,
                words="design",
                fabric=fabric_colour(pair),
                edges="firm",
                targets=targets,
            )
        )
    listed = folder / "prompts.txt"
    prompts = tuple(line.strip() for line in listed.read_text().splitlines() if line.strip()) if listed.exists() else ()
    return tuple(pairings), prompts

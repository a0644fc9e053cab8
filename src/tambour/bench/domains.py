"""The paper's three other domains (method, section 7) as cases whose truth can be drawn.

Artistic style: flat art and the same in a painted look that the base never saw (`looks.py`). Sketch colorization: edges
and a picture in a palette; many colourings are right, so colours are held against the reference's palette, not pixel by
pixel. Appearance transfer: edges and one material in one colour, on its fabric; the truth is that material, in that
colour, on another design. In the last two a method sees edges alone, or what
the recipe's `design` makes of them, so colour is style.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from PIL import Image

from tambour.bench import cases
from tambour.bench.cases import Pairing, StyleCase, Target
from tambour.bench.looks import look
from tambour.errors import InputError
from tambour.imaging.colour import rgb_to_lab
from tambour.imaging.geometry import flatten
from tambour.stitch import Fabric, Rendered, Stitch, render

Colour = tuple[int, int, int]
EMBROIDERY = "embroidery"
# Methods that make sense without stitches; the first seven are the default.
METHODS = ("ours", "paper", "dreambooth", "b-lora", "pair", "unstyled", "truth", "all-blocks", "two-blocks",
           "no-filters", "no-complement", "no-stage-two")  # fmt: skip
USUAL = METHODS[:7]


@dataclass(frozen=True)
class LookCase:
    """One look, shown on one design.

    Attributes:
        name: unique.
        domain: "artistic", "sketch" or "appearance".
        split: "development" or "test".
        reference: the bundled design on which it is shown.
        ground: RGB behind the design.
        look: a painted look or "flat", with `settings`; "" where it is stitched.
        settings: of the look.
        stitch, fabric: fields of a `Stitch` and of a `Fabric` by name; empty where it is painted.
        palette: RGB colours, dark to light, that take the place of the design's own; empty: those stay.
        edges: the setting of the edges that it is drawn with.
    """

    name: str
    domain: str
    split: str
    reference: str
    ground: Colour
    look: str = ""
    settings: Mapping[str, float] = field(default_factory=dict)
    stitch: Mapping[str, object] = field(default_factory=dict)
    fabric: Mapping[str, object] = field(default_factory=dict)
    palette: tuple[Colour, ...] = ()
    edges: str = "firm"


_CANVAS, _NIGHT, _CREAM = (236, 230, 216), (30, 34, 58), (244, 238, 224)

CASES: tuple[LookCase, ...] = (
    LookCase("oil-fine", "artistic", "development", "bee", _CANVAS, "oil", dict(width=9.0, relief=0.8)),
    LookCase("stipple", "artistic", "development", "cat", _CANVAS, "stipple", dict(pitch=9.0, spread=24.0)),
    LookCase("oil-broad", "artistic", "test", "bird", _CANVAS, "oil", dict(width=14.0, relief=1.2)),
    LookCase("mosaic", "artistic", "test", "mushroom", _CANVAS, "mosaic", dict(tile=15.0, grout=2.0)),
    LookCase("meadow", "sketch", "development", "cat", _CREAM, "flat",
             palette=((28, 60, 48), (74, 130, 70), (178, 200, 92), (250, 226, 140))),
    LookCase("dusk", "sketch", "test", "bird", _NIGHT, "flat",
             palette=((92, 44, 104), (190, 66, 110), (240, 138, 92), (252, 214, 144))),
    LookCase("garden-tatami", "sketch", "test", "fox", _CREAM,
             stitch=dict(family="tatami", thread_width=0.45, stitch_length=2.4, density=1.0, angle=20.0,
                         angle_field="constant", sheen=0.5, twist=0.4, pile=0.05, colour_variation=0.25, relief=1.0),
             fabric=dict(kind="weave", colour=_CREAM, pitch=0.35, contrast=0.3),
             palette=((40, 84, 70), (60, 140, 128), (226, 120, 96), (246, 200, 110))),
    LookCase("teal-satin", "appearance", "development", "star", _CREAM,
             stitch=dict(family="satin", thread_width=0.5, stitch_length=14.0, density=1.0, angle=0.0,
                         angle_field="axis", sheen=0.8, twist=0.3, pile=0.05, colour_variation=0.25, relief=1.0),
             fabric=dict(kind="weave", colour=_CREAM, pitch=0.35, contrast=0.3),
             palette=((20, 104, 110), (34, 128, 132), (52, 150, 150))),
    LookCase("gold-chenille", "appearance", "test", "mushroom", _NIGHT,
             stitch=dict(family="chenille", thread_width=1.0, stitch_length=1.5, density=1.0, angle=0.0,
                         angle_field="contour", sheen=0.1, twist=0.2, pile=0.7, colour_variation=0.3, relief=1.1),
             fabric=dict(kind="felt", colour=_NIGHT, pitch=0.5, contrast=0.3),
             palette=((196, 142, 40), (216, 164, 58), (232, 184, 84))),
    LookCase("red-sequin", "appearance", "test", "heart", _CREAM,
             stitch=dict(family="sequin", thread_width=0.3, stitch_length=1.6, density=1.0, angle=0.0,
                         angle_field="constant", sheen=0.9, twist=0.2, pile=0.0, colour_variation=0.3, relief=1.0),
             fabric=dict(kind="felt", colour=_CREAM, pitch=0.5, contrast=0.3),
             palette=((168, 26, 40), (190, 34, 48), (210, 46, 58))),
)  # fmt: skip


@dataclass(frozen=True)
class Domain:
    """What its cases have in common.

    Attributes:
        recipe, paper: what follows the base's name in the names of its recipe and of that with the paper's numbers.
        metrics: names of those that mean something here.
        note: said before the table.
    """

    name: str
    recipe: str
    paper: str
    metrics: tuple[str, ...]
    note: str


DOMAINS: dict[str, Domain] = {
    domain.name: domain
    for domain in (
        Domain("artistic", "artistic", "paper",
               ("texture", "texture_reference", "hfrd", "colour_look", "edges", "leak_content"),
               "Artistic style: looks drawn by hand-written renderers; no method knows them."),
        Domain("sketch", "sketch", "sketch-paper", ("texture", "palette", "edges"),
               "Sketch colorization: methods see edges alone. Another colouring may be as right as the truth, so its "
               "palette is held against the reference's."),
        Domain("appearance", "appearance", "appearance-paper",
               ("texture", "texture_reference", "colour_look", "palette", "edges"),
               "Appearance transfer: methods see edges alone; material, colour and fabric are the style."),
    )
}  # fmt: skip


def cases_of(domain: str, split: str, names: Sequence[str] | None = None) -> tuple[LookCase, ...]:
    """The cases of a domain's split, or those of them that are named.

    Raises:
        InputError: there is no such domain, split or case.
    """
    if domain not in DOMAINS:
        raise InputError(f"Domain {domain!r} is not known.", f"Allowed: {', '.join((EMBROIDERY, *DOMAINS))}.")
    if split not in cases.SPLITS:
        raise InputError(f"Split {split!r} is not known.", f"Allowed: {', '.join(cases.SPLITS)}.")
    found = tuple(case for case in CASES if (case.domain, case.split) == (domain, split))
    known = [case.name for case in found]
    for name in names or ():
        if name not in known:
            raise InputError(f"Split {split} of {domain} has no style {name!r}.", f"Allowed: {', '.join(known)}.")
    return tuple(case for case in found if names is None or case.name in names)


def content_hash(domain: str) -> str:
    """sha256 hex of everything a domain's cases are made from."""
    facts = [{**vars(case), **{k: dict(getattr(case, k)) for k in ("settings", "stitch", "fabric")}}
            for case in CASES if case.domain == domain]  # fmt: skip
    text = json.dumps([facts, cases.content_hash()], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


# -- pictures ---------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=32)  # 2 MB each
def _drawn(case: str, name: str, seed: int) -> Rendered:
    case_drawn = next(one for one in CASES if one.name == case)
    art = repainted(cases.design(name), case_drawn.palette)
    if case_drawn.stitch:
        return render(
            art, Stitch(**case_drawn.stitch), Fabric(**case_drawn.fabric), seed=seed, px_per_mm=cases.PX_PER_MM
        )
    flat = np.asarray(flatten(art, case_drawn.ground))
    picture = look(case_drawn.look, flat, seed, **case_drawn.settings)
    whole = np.ones(flat.shape[:2], bool)  # the ground is painted too
    return Rendered(Image.fromarray(picture), np.zeros(flat.shape[:2], np.float32), whole, whole.astype(np.int32))


def truth(case: StyleCase | LookCase, name: str, seed: int = cases.SEED) -> Rendered:
    """A design in the look of a case of any domain: the same arguments, the same picture."""
    if isinstance(case, StyleCase):
        return cases.truth(case, name, seed)
    return _drawn(case.name, name, seed)


def repainted(design: Image.Image, palette: Sequence[Colour]) -> Image.Image:
    """A flat RGBA design in other colours: its own, from dark to light, take those of the palette in their order."""
    if not palette:
        return design
    pixels = np.asarray(design)
    solid = pixels[pixels[..., 3] > 127][:, :3]
    own, count = np.unique(solid, axis=0, return_counts=True)
    own = own[count >= 0.004 * len(solid)]  # what is rarer lies between two colours at a border
    own = own[np.argsort(rgb_to_lab(own[None])[0, :, 0], kind="stable")].astype(int)
    places = np.linspace(0, len(palette) - 1, len(own)).round().astype(int)
    nearest = np.stack([((pixels[..., :3].astype(int) - colour) ** 2).sum(2) for colour in own]).argmin(0)
    return Image.fromarray(np.dstack([np.uint8(palette)[places][nearest], pixels[..., 3]]))


def pairing(case: LookCase, designs: Sequence[str]) -> Pairing:
    """A case with its pair and those of its targets that are named.

    The pair's design is what the reference shows, in its own colours. Targets keep the bundled designs' colours; in
    sketch colorization they have the truth's. Where the recipe draws from edges, both become edge maps before any
    method sees them.
    """
    reference = truth(case, case.reference)
    painted = not case.stitch

    def seen(art: Image.Image) -> Image.Image:
        return flatten(art, case.ground) if painted else art

    targets = []
    for name in designs:
        drawn = truth(case, name)
        own = repainted(cases.design(name), case.palette if case.domain == "sketch" else ())
        targets.append(Target(name, seen(own), drawn.image, drawn.mask))
    return Pairing(
        name=case.name,
        split=case.split,
        design=seen(repainted(cases.design(case.reference), case.palette)),
        embroidery=reference.image,
        mask=reference.mask,
        words=case.reference,
        fabric=case.ground,
        edges=case.edges,
        targets=tuple(targets),
        case=case,
        domain=case.domain,
    )

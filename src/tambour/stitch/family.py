"""The record of a stitch family: everything the package knows about one way of stitching, in one place.

Each file of `families/` makes one. No field has a default: what is forgotten is an error where the record is made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

if TYPE_CHECKING:
    from tambour.stitch.parameters import Stitch
    from tambour.stitch.surface import HashNoise, Threads
    from tambour.stitch.thread_frame import ThreadFrame

AngleField = Literal["constant", "axis", "contour"]
Measured = Literal["thread", "piece width", "piece length"]
Texture = Literal["points", "threads"]
Direction = Literal["none", "constant", "axis", "contour"]
Range = tuple[float, float]  # lowest, highest


@dataclass(frozen=True, kw_only=True)
class Ranges:
    """What `sample_stitch` draws training stitches from; every number evenly from its range.

    Attributes:
        thread_width: mm.
        length_ratio: stitch length / thread width.
        sheen, twist, pile, density: as in `Stitch`.
        angle_fields: each as likely as the others; one named twice is twice as likely.
        axis_turn: degrees added to the angle of the field "axis": 0 runs across each shape, 90 along it.
        grid: worked on a grid that stands upright, one in five on its corner.
        straight_from: length ratio above which pieces cannot follow a bend: their field is "axis"; inf: all can.
        thread: made of thread, which can be of metal, worn and fuzzy; beads and sequins are not.
        bordered: a region may have a satin border.
    """

    thread_width: Range
    length_ratio: Range
    sheen: Range
    twist: Range
    pile: Range
    density: Range
    angle_fields: tuple[AngleField, ...]
    axis_turn: float
    grid: bool
    straight_from: float
    thread: bool
    bordered: bool

    def __post_init__(self) -> None:
        for name in ("thread_width", "length_ratio", "sheen", "twist", "pile", "density"):
            low, high = getattr(self, name)
            if not low <= high:
                raise ValueError(f"{name}: {low} to {high} is no range.")
        _check_words(self.angle_fields, AngleField)


@dataclass(frozen=True, kw_only=True)
class Words:
    """What captions call it.

    Attributes:
        caption: in `describe`.
        long_caption: (stitch length / thread width, words): the caption of longer pieces; None: the same.
        plain: in the captions of the base model's training.
        size: what the size words of a caption measure: the thread (fine, medium or thick thread), or the pieces (small,
            medium or large) by their width or by their length.
    """

    caption: str
    long_caption: tuple[float, str] | None
    plain: str
    size: Measured

    def __post_init__(self) -> None:
        _check_words((self.size,), Measured)


@dataclass(frozen=True, kw_only=True)
class Border:
    """The satin border of a region. width: in thread widths; least: px, never narrower; thread: mm, its own thread,
    None: the family's."""

    width: float
    least: float
    thread: float | None


THREAD_BORDER = Border(width=3.6, least=6.0, thread=None)


@dataclass(frozen=True, kw_only=True)
class Fit:
    """How `fit_stitch` treats it.

    Attributes:
        ratios: stitch length / thread width of its stitches in the atlas.
        width_scale: its thread widths in the atlas, as a factor of the usual ones.
        shaped_field: its angle field on shapes in the atlas; None: worked on a grid, whatever the shape.
        rarity: texture distance by which it has to fit better than satin, since nearly all embroidery is filled with
            satin or tatami.
        chosen_on: chosen without being named on a photo of points or of parallel threads; None: only when named.
        direction: the angle field it gets where the threads on the photo run no single way; "constant": their mean
            direction all the same; "none": no direction is ever read.
        rows_repeat: its rows lie a thread width / density apart, so a photo's period gives the thread width.
    """

    ratios: tuple[float, ...]
    width_scale: float
    shaped_field: AngleField | None
    rarity: float
    chosen_on: Texture | None
    direction: Direction
    rows_repeat: bool

    def __post_init__(self) -> None:
        if not self.ratios:
            raise ValueError("ratios: the atlas needs one at least.")
        _check_words((self.direction,), Direction)
        _check_words(() if self.shaped_field is None else (self.shaped_field,), AngleField)
        _check_words(() if self.chosen_on is None else (self.chosen_on,), Texture)


@dataclass(frozen=True, kw_only=True)
class Family:
    """One way of stitching.

    Attributes:
        name: as in `Stitch.family`; its file's name.
        order: place among the families. Random draws and the atlas go by it, so a new family takes the next number.
        draw: (thread frame, stitch, thread width px, stitch length px, noise) -> `Threads` at the frame's pixels.
        row_pitch: (stitch, thread width px, stitch length px) -> distance of two rows, px.
        typical: fields of its typical `Stitch` that differ from the defaults.
        ranges, words, border, fit: see `Ranges`, `Words`, `Border` and `Fit`.
        pile_drawn: `draw` adds the pile itself, and captions need not say that it is fuzzy.
        dye: 0 to 1, how far the cloth between stitches takes the thread's colour.
    """

    name: str
    order: int
    draw: Callable[[ThreadFrame, Stitch, float, float, HashNoise], Threads]
    row_pitch: Callable[[Stitch, float, float], float]
    typical: Mapping[str, Any]
    ranges: Ranges
    words: Words
    border: Border
    pile_drawn: bool
    dye: float
    fit: Fit


def thread_pitch(stitch: Stitch, width: float, length: float) -> float:
    """Distance in px of rows that lie side by side: thread width / density."""
    return width / stitch.density


def _check_words(values: tuple[str, ...], words: Any) -> None:
    for value in values:
        if value not in get_args(words):
            raise ValueError(f"{value!r} is not one of {', '.join(get_args(words))}.")

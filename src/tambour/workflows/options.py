"""The options of learn, apply and imagine: one frozen dataclass each, for the command line, Python and pages alike.

A field's help says what it does for all of them. Values that are wrong by themselves are refused where an option object
is made; what depends on a style, a recipe or a base is refused by the workflow, before it does any work.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from tambour.errors import InputError

if TYPE_CHECKING:
    from tambour.base import Base
    from tambour.config import Recipe

SIZES = (64, 4096)  # longer side of a result, px
O = TypeVar("O", "LearnOptions", "ApplyOptions", "ImagineOptions")  # noqa: E741


def option(default: Any, help: str, *, flag: str = "", text: Callable[[str], Any] | None = None) -> Any:
    """A field of an option class that the command line shows too.

    Args:
        help: one line for users.
        flag: its name on the command line; "": the field's own.
        text: what makes the value of the text given on the command line; None: the text as it is.
    """
    return field(default=default, metadata={"help": help, "flag": flag, "text": text})


def make_options(cls: type[O], options: O | None, settings: Mapping[str, Any]) -> O:
    """An option object from what a Python caller gave: an object, single settings by name, or both.

    Raises:
        InputError: a setting is not known or cannot be.
    """
    known = [f.name for f in dataclasses.fields(cls)]
    unknown = sorted(set(settings) - set(known))
    if unknown:
        raise InputError(f"There is no option {unknown[0]!r}.", f"Allowed: {', '.join(known)}.")
    return cls(**settings) if options is None else dataclasses.replace(options, **settings)


def values_of(options: Any) -> dict[str, Any]:
    """The options by name as plain values, for plans and manifests."""
    return {f.name: getattr(options, f.name) for f in dataclasses.fields(options)}


def _check_words(options: Any) -> None:
    """Refuse a word that a field's `Literal` does not have."""
    hints = typing.get_type_hints(type(options), None, _names())
    for f in dataclasses.fields(options):
        choices = [a for a in (hints[f.name], *typing.get_args(hints[f.name])) if typing.get_origin(a) is Literal]
        value, allowed = getattr(options, f.name), [word for choice in choices for word in typing.get_args(choice)]
        if allowed and value is not None and value not in allowed:
            raise InputError(f"{f.name} {value!r} is not known.", f"Allowed: {', '.join(allowed)}.")


def _names() -> dict[str, Any]:
    """What the annotations name that is imported for type checkers alone."""
    return {"Base": Any, "Recipe": Any}


def _check_count(name: str, value: int | None) -> None:
    if value is not None and value < 1:
        raise InputError(f"{name} {value!r} is out of range.", "Draw at least one.")


def _check_size(size: int | None) -> None:
    if size is not None and not SIZES[0] <= size <= SIZES[1]:
        raise InputError(f"size {size!r} is out of range.", f"Give {SIZES[0]} to {SIZES[1]} px.")


def _check_seed(seed: int) -> None:
    if seed < 0:
        raise InputError(f"seed {seed!r} is out of range.", "Give 0 or more.")


def _by_comma(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(","))


SEED = "The same seed gives the same result."
RECIPE = "Numbers of the run: a .toml file, mini, sdxl, mini-sketch ..."


@dataclass(frozen=True)
class LearnOptions:
    """How a style is learnt from a photo."""

    design: str | Path | None = option(
        None, "Your own flat design of the photo; or canny, outline: its edges; or filled: to colour outlines with."
    )
    base: Base | str | Path = option("mini", "Base model: mini, sdxl, a folder or a .safetensors.")
    recipe: Recipe | str | Path | None = option(None, RECIPE)
    blocks: Sequence[str] | None = option(None, "Style blocks in place of ours, by comma.", text=_by_comma)
    describe: str | None = option(None, 'What the photo shows: "red fox". mini does not read it.')
    stitch: str | None = option(None, "Its stitch, where ours is wrong: satin, cross, chain ...")
    seed: int = option(0, SEED)
    report: str | Path | None = option(None, "Folder for pictures of every step.")

    def __post_init__(self) -> None:
        _check_seed(self.seed)


@dataclass(frozen=True)
class ApplyOptions:
    """How designs are shown in a style (method, section 6)."""

    size: int | None = option(None, "Longer side of the result, px.")
    strength: float | None = option(None, "How much is drawn anew, 0 to 1.")
    edges: Literal["firm", "free"] = option("firm", "free: raised material may change borders.")
    colours: Literal["design", "free"] | None = option(
        None, "design: take them from it. [default: free for free edges without --guide photo]"
    )
    guide: str | None = option(
        None, "Start from drawn stitches, the photo's, or none. [default: the recipe's; mini: photo]"
    )
    samples: int = option(1, "Draw N, keep the best, print the scores.")
    transparent: bool = option(False, "Keep the design's transparency.")
    draft: bool = option(False, "Few steps: sooner done, stitches less clear.")
    base: Base | str | Path | None = option(None, "Base model, where it is not where `learn` found it.")
    recipe: Recipe | str | Path | None = option(None, RECIPE)
    seed: int = option(0, SEED)
    batch: int | None = None  # pictures drawn at once; None: as many as fit on a GPU, one on a CPU, which gains nothing

    def __post_init__(self) -> None:
        _check_words(self)
        _check_size(self.size)
        _check_seed(self.seed)
        _check_count("samples", self.samples)
        _check_count("batch", self.batch)
        if self.strength is not None and not 0 < self.strength <= 1:
            raise InputError(f"strength {self.strength!r} is out of range.", "Give a number above 0, at most 1.")


@dataclass(frozen=True)
class ImagineOptions:
    """How words are drawn in a style."""

    n: int = option(1, "How many pictures.", flag="-n")
    size: int | None = option(None, "Longer side of the result, px.")
    base: Base | str | Path | None = option(None, "Base model, where it is not where `learn` found it.")
    recipe: Recipe | str | Path | None = option(None, RECIPE)
    seed: int = option(0, SEED)

    def __post_init__(self) -> None:
        _check_size(self.size)
        _check_seed(self.seed)
        _check_count("n", self.n)

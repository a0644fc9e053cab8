"""The files and values that a command line names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tambour.errors import InputError, OutputExists

READABLE = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".avif", ".svg", ".svgz")
WRITABLE = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff")
OPAQUE = (".jpg", ".jpeg")


def pictures(paths: Sequence[Path]) -> list[Path]:
    """The picture files named, and those in the folders named, in the order of their names.

    Hidden files in a folder are none of the user's pictures: other systems leave `._fox.png` beside `fox.png`.
    """
    found = []
    for path in paths:
        inside = [path]
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.suffix.lower() in READABLE and not p.name.startswith("."))
        if not inside:
            raise InputError(f"There are no pictures in {path}.", f"They end in {', '.join(READABLE)}.")
        found += inside
    return found


def targets_for(output: Path, names: Sequence[str]) -> list[Path]:
    """Where results go: `output` itself for one (unless it is a folder), files in it for several.

    Every result has a name of its own: of names that are the same but for upper and lower case, later ones are
    numbered, past the names that others have.
    """
    if len(names) == 1 and not output.is_dir() and output.suffix:
        return [check_writable(output, overwrite=True)]
    if output.is_file() or output.suffix.lower() in WRITABLE:
        raise InputError(f"{output} is a file, but there are {len(names)} pictures to write.", "Name a folder.")
    taken: set[str] = set()
    targets = []
    for name in names:
        own, number = name, 1
        while own.lower() in taken or (number > 1 and own.lower() in {other.lower() for other in names}):
            number += 1
            own = f"{name}-{number}"
        taken.add(own.lower())
        targets.append(output / f"{own}.png")
    return targets


def check_writable(path: Path, overwrite: bool, suffixes: tuple[str, ...] = WRITABLE) -> Path:
    """Refuse, before any work is done, a picture that could not be written after it."""
    if path.suffix.lower() not in suffixes:
        raise InputError(f"Cannot write a picture as {path.name!r}.", f"Its name must end in {', '.join(suffixes)}.")
    if path.exists() and not overwrite:
        raise OutputExists(path)
    return path


def check_transparency(targets: Sequence[Path]) -> None:
    """Refuse, before any work is done, files whose format would lose the transparency that was asked for."""
    for target in targets:
        if target.suffix.lower() in OPAQUE:
            raise InputError(f"{target.name} cannot be transparent.", "Name a .png, .webp or .tif file.")


def parse_colour(text: str) -> tuple[int, int, int]:
    digits = text.removeprefix("#")
    try:
        if len(digits) != 6:
            raise ValueError
        red, green, blue = bytes.fromhex(digits)
        return red, green, blue
    except ValueError:
        raise InputError(f"{text!r} is not a colour.", "Write it as #rrggbb, for example #2b3a67.") from None


def parse_parameter(text: str) -> tuple[str, float | str | bool]:
    """A "name=value" as its two halves, the value a number, a truth value or a word."""
    name, equals, value = text.partition("=")
    if not equals:
        raise InputError(f"{text!r} sets nothing.", "Write --set NAME=VALUE, for example --set angle=30.")
    if value in ("true", "false"):
        return name, value == "true"
    try:
        return name, float(value)
    except ValueError:
        return name, value

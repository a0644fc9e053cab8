"""The files and values that a command line names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tambour.errors import InputError, OutputExists

READABLE = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".avif", ".svg", ".svgz")
WRITABLE = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff")


def pictures(paths: Sequence[Path]) -> list[Path]:
    """The picture files named, and those in the folders named, in the order of their names."""
    found = []
    for path in paths:
        inside = sorted(p for p in path.iterdir() if p.suffix.lower() in READABLE) if path.is_dir() else [path]
        if not inside:
            raise InputError(f"There are no pictures in {path}.", f"They end in {', '.join(READABLE)}.")
        found += inside
    return found


def targets_for(output: Path, names: Sequence[str]) -> list[Path]:
    """Where results go: `output` itself for one (unless it is a folder), files in it for several."""
    if len(names) == 1 and not output.is_dir() and output.suffix:
        return [check_writable(output, overwrite=True)]
    if output.is_file() or output.suffix.lower() in WRITABLE:
        raise InputError(f"{output} is a file, but there are {len(names)} pictures to write.", "Name a folder.")
    targets: list[Path] = []
    for name in names:
        same = sum(target.stem.rpartition("-")[0] == name or target.stem == name for target in targets)
        targets.append(output / (f"{name}-{same + 1}.png" if same else f"{name}.png"))
    return targets


def check_writable(path: Path, overwrite: bool, suffixes: tuple[str, ...] = WRITABLE) -> Path:
    """Refuse, before any work is done, a picture that could not be written after it."""
    if path.suffix.lower() not in suffixes:
        raise InputError(f"Cannot write a picture as {path.name!r}.", f"Its name must end in {', '.join(suffixes)}.")
    if path.exists() and not overwrite:
        raise OutputExists(path)
    return path


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

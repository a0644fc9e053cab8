"""Unfinished work: a folder beside the output, where the same command, given again, finds what is done already.

The folder is called OUTPUT.work; the plan in it says which inputs, numbers and settings it belongs to. Finished outputs
are moved to their places at the end, all together.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from tambour.errors import InputError, OutputExists

PLAN, MOVING = "plan.json", "moving"


def work_folder(output: str | Path) -> Path:
    """Where the unfinished work for `output` lies."""
    output = Path(output)
    return output.with_name(output.name + ".work")


def fingerprint(path: str | Path) -> str:
    """sha256 of a file, hex: the same picture under another name is the same input.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, ValueError) as fault:  # ValueError: a null byte in the path
        raise InputError(f"{path} cannot be read: {fault}.", "Check the spelling of the path.") from None


def check_targets(folder: Path, targets: Sequence[Path], overwrite: bool) -> None:
    """Refuse to replace anything without being asked, except by work that was interrupted while it moved its outputs.

    Raises:
        OutputExists: one of the targets is there.
    """
    there = [target for target in targets if target.exists()]
    if there and not overwrite and not (folder / MOVING).exists():
        raise OutputExists(there[0])


def move(folder: Path, targets: Sequence[Path]) -> None:
    """Move finished outputs, which lie in the work folder under their own names, to their places; drop the folder."""
    (folder / MOVING).touch()
    for target in targets:
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(folder / target.name, target)
    drop(folder)


def claim(folder: Path, plan: Mapping, overwrite: bool = False) -> None:
    """Make the work folder, or check that it is this plan's.

    `overwrite` drops the work of another plan. A plan that has nothing to show yet is dropped in any case.

    Raises:
        InputError: it belongs to another plan.
    """
    plan = json.loads(json.dumps(plan, default=str))
    try:
        found = json.loads((folder / PLAN).read_text())
    except FileNotFoundError:
        found = None
    if found is not None and found != plan:
        if not overwrite and any(path.name != PLAN for path in folder.iterdir()):
            other = sorted(key for key in plan.keys() | found.keys() if plan.get(key) != found.get(key))
            raise InputError(
                f"{folder} holds unfinished work that differs in: {', '.join(other)}.",
                "Give the same command again to finish it, or pass --overwrite to drop it.",
            )
        drop(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / PLAN, plan)


def drop(folder: Path) -> None:
    """Delete a work folder. It is renamed first, so that no half of it is ever taken for work to continue."""
    trash = folder.with_name(f".{folder.name}.dropped")
    shutil.rmtree(trash, ignore_errors=True)
    if folder.exists():
        os.replace(folder, trash)
        shutil.rmtree(trash)


def write_json(path: Path, values: object) -> None:
    """Whole or not at all; floats come back as they were."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(values))
    os.replace(temporary, path)

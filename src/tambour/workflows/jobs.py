"""Jobs: workflows whose results go to files, with their unfinished work in a folder beside the output.

The folder is called OUTPUT.work; the plan in it says which inputs, numbers and settings it belongs to. The same
command, given again, finds there what is done already. Finished outputs are moved to their places together.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tambour.errors import InputError, OutputExists
from tambour.progress import Progress, finished
from tambour.workflows.options import LearnOptions

if TYPE_CHECKING:
    from tambour.style import Style
    from tambour.workflows.embroider import Result

    Watch = Callable[[Progress], object]

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
        found = json.loads((folder / PLAN).read_text(encoding="utf-8"))
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
    temporary.write_text(json.dumps(values), encoding="utf-8")
    os.replace(temporary, path)


# -- jobs -------------------------------------------------------------------------------------------------------------


def learn_style(
    photo: str | Path,
    output: str | Path | None,
    options: LearnOptions,
    *,
    overwrite: bool = False,
    watch: Watch | None = None,
) -> Style:
    """Learn a style and write it to `output`; None writes nothing. Interrupted, the same call continues.

    Raises: as `workflows.learn.learn`, and

        OutputExists: the output or the report is there, and `overwrite` is False.
    """
    from tambour.style import read_style, write_style
    from tambour.workflows.learn import learn

    if output is None:
        with tempfile.TemporaryDirectory(prefix="tambour-") as temporary:
            return finished(learn(photo, options, work=temporary), watch)
    output = Path(output)
    folder = check_learning(output, options, overwrite)
    style = finished(learn(photo, options, work=folder, overwrite=overwrite), watch)
    write_style(style, folder / output.name, overwrite=True)
    move(folder, [output])
    return read_style(output)


def check_learning(output: Path, options: LearnOptions, overwrite: bool) -> Path:
    """The work folder of a style to be learnt; refuses a name that is no style's, and what would be overwritten."""
    if output.suffix != ".safetensors":
        raise InputError(f"A style file cannot be called {output.name!r}.", "Its name must end in .safetensors.")
    folder = work_folder(output)
    check_targets(folder, [output], overwrite)
    if options.report is not None and not folder.exists():
        check_targets(folder, [Path(options.report) / "manifest.json"], overwrite)
    return folder


def draw_to_files(
    draw: Callable[[int], Iterator[Progress | Result]],
    output: Path,
    targets: Sequence[Path],
    identity: Mapping,
    *,
    overwrite: bool = False,
    watch: Watch | None = None,
) -> dict[Path, Result]:
    """Draw pictures into files; they wait in a work folder until all are done. Returns those drawn now.

    Args:
        draw: number of pictures that are done already -> the workflow that draws the others, in their order.
        output: what the work folder is named after: the file, or the folder of several.
        targets: where each picture goes.
        identity: what decides the pictures; unfinished work with another one does not belong to it.

    Raises: as the workflow, and

        OutputExists: a target is there, and `overwrite` is False.
    """
    from tambour.imaging.files import save_image

    folder = work_folder(output)
    check_targets(folder, targets, overwrite)
    claim(folder, identity, overwrite)
    waiting = [folder / target.name for target in targets]
    done = next((index for index, path in enumerate(waiting) if not path.exists()), len(waiting))
    results = {}
    for record in draw(done) if done < len(waiting) else ():
        if isinstance(record, Progress):
            if watch is not None:
                watch(record)
            continue
        number = done + record.design_index
        save_image(record.image, waiting[number], overwrite=True)
        results[targets[number]] = record
    move(folder, targets)
    return results

"""Unfinished work: a folder beside the output, where the same command, given again, finds what is done already.

The folder is OUTPUT.work/; its `job.json` says which command it belongs to, and vanishes last.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from tambour.errors import InputError, OutputExists

JOB = "job.json"


def fingerprint(path: str | Path) -> str:
    """sha256 of a file, hex: the same picture under another name is the same job."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Work:
    """The work folder of one output.

    Attributes:
        output: what will exist once the job is done.
        folder: where the unfinished work lies.
        job: everything the output depends on, as plain values.
    """

    def __init__(self, output: str | Path, job: Mapping) -> None:
        self.output = Path(output)
        self.folder = self.output.with_name(self.output.name + ".work")
        self.job = json.loads(json.dumps(job))

    def found(self) -> Mapping | None:
        """The job the folder belongs to; None where there is no folder, or one that was being made or deleted."""
        try:
            return json.loads((self.folder / JOB).read_text())
        except (OSError, ValueError):
            return None

    @property
    def continues(self) -> bool:
        """Whether this very job was begun before."""
        found = self.found()
        return found is not None and found["job"] == self.job

    @property
    def finished(self) -> bool:
        """Whether this very job was done, and only the clearing up was interrupted."""
        return self.continues and self.found()["finished"] and self.output.exists()

    def check(self, overwrite: bool = False) -> None:
        """Refuse to start where something would be lost.

        Raises:
            OutputExists: the output is there, and this job did not put it there.
            InputError: the folder holds the unfinished work of another job.
        """
        if overwrite:
            return
        found = self.found()
        if found is not None and not self.continues:
            old = found["job"]
            other = sorted(key for key in {*old, *self.job} if old.get(key) != self.job.get(key))
            raise InputError(
                f"{self.folder} holds unfinished work that differs in: {', '.join(other)}.",
                "Give the same command again to finish it, or pass --overwrite to drop it.",
            )
        if self.output.exists() and not self.continues:
            raise OutputExists(self.output)

    def begin(self, overwrite: bool = False) -> Path:
        """The folder, as it was left or new and empty; see `check`."""
        self.check(overwrite)
        if not self.continues:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True)
            self._write(finished=False)
        return self.folder

    def end(self) -> None:
        """The output is written: take the folder away."""
        self._write(finished=True)
        for path in self.folder.iterdir():
            if path.name != JOB:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        (self.folder / JOB).unlink()
        self.folder.rmdir()

    def _write(self, finished: bool) -> None:
        temporary = self.folder / f".{JOB}.{os.getpid()}"
        temporary.write_text(json.dumps({"job": self.job, "finished": finished}, indent=1))
        os.replace(temporary, self.folder / JOB)

"""Progress records: long work is an iterable of these; a terminal's bar, a page and a log all consume it."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Progress:
    """One finished step of a stage.

    Attributes:
        stage: what is being done, in a word or two ("stage one", "apply").
        step: steps finished so far, 0 .. total.
        total: steps of this stage.
        message: one line for the user, or "".
        values: numbers worth plotting (losses, scores), by name.
    """

    stage: str
    step: int
    total: int
    message: str = ""
    values: dict[str, float] = field(default_factory=dict)


def finished(work: Generator[object, None, T]) -> T:
    """Run work to its end, whatever it tells on the way: what it returns."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            return end.value

"""Progress records: long work is an iterable of these; a terminal's bar, a page and a log all consume it."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

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
    values: Mapping[str, float] = field(default_factory=dict)


@dataclass
class StageProgress:
    """Counts the steps of one stage and makes its records.

    Attributes:
        done: steps finished so far.
    """

    stage: str
    total: int
    done: int = 0

    def record(self, message: str = "", values: Mapping[str, float] | None = None, ahead: int = 0) -> Progress:
        """A record of what is done, and `ahead` steps more."""
        return Progress(self.stage, self.done + ahead, self.total, message, values or {})

    def through(self, work: Generator[float, None, T], message: str, count: int = 0) -> Generator[Progress, None, T]:
        """Records of work whose steps are of `count` pictures each, or of none. Returns what the work returns."""
        while True:
            try:
                step = next(work)
            except StopIteration as end:
                return end.value
            yield self.record(message, ahead=int(step * count))


def finished(work: Generator[Any, None, T], watch: Callable[[Any], object] | None = None) -> T:
    """Run work to its end; what it returns. `watch` is called with everything it yields on the way."""
    while True:
        try:
            record = next(work)
        except StopIteration as end:
            return end.value
        if watch is not None:
            watch(record)

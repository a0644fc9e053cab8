"""Progress records: long work is an iterable of these; a terminal's bar, a page and a log all consume it."""

from __future__ import annotations

from dataclasses import dataclass, field


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

"""No guide: SDEdit starts from the flat design, as in the paper (method, section 6)."""

from __future__ import annotations

from collections.abc import Generator

from tambour.guides import Canvas, Guide, Start, register


@register
class Flat(Guide):
    """The flat design, at the strength of the edges' setting."""

    name = "none"

    @property
    def strength(self) -> float:
        return self.edges.strength if self.wanted_strength is None else self.wanted_strength

    def start(self, canvas: Canvas, seed: int) -> Generator[float, None, Start]:
        yield from ()
        return Start(canvas.flat)

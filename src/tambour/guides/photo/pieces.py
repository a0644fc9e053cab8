"""Pieces of a photo's relief, among which the one that fits best at a place is chosen (image quilting).

Pieces are compared at every other px. A piece costs what its contrast differs from what lies there already (Efros and
Freeman 2001), what of it shows no stitches, and what the caller adds: a wrong distance from the border, light from the
other side, being used already (Kaspar et al. 2015).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

MOST = 1500  # pieces of a bank
_CLOSE = 4  # of the cheapest pieces, among which chance chooses


@dataclass
class PieceBank:
    """Pieces of one kind, N of them, each seen at M px.

    Attributes:
        origin: (N, 3) int, where each was cut; what the three numbers mean is the caller's.
        contrast: (N, M) float32.
        hole: (N, M) float32, 1 where the piece shows no stitches.
        strength: how much a piece's own contrast counts as a difference; 1 prefers flat pieces.
        hole_price: of a px that shows no stitches.
        used: (N,) float32, how often each was chosen.
    """

    origin: np.ndarray
    contrast: np.ndarray
    hole: np.ndarray
    strength: float
    hole_price: float
    used: np.ndarray = field(init=False)
    _power: np.ndarray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.used = np.zeros(len(self.origin), np.float32)
        self._power = np.square(self.contrast)

    def __len__(self) -> int:
        return len(self.origin)

    @property
    def mean_power(self) -> float:
        """Mean square of the contrast where there are stitches; 0 of an empty bank."""
        return float(self._power.sum() / (1 - self.hole).sum()) if len(self) else 0.0

    def forget_uses(self) -> None:
        self.used[:] = 0

    def choose(
        self,
        there: np.ndarray,
        known: np.ndarray,
        wanted: np.ndarray,
        surcharges: Iterable[np.ndarray],
        rng: np.random.Generator,
    ) -> np.ndarray:
        """The origin (3,) of one of the cheapest pieces, which counts as used then.

        Args:
            there: (M,) contrast of what lies at the place.
            known: (M,) float32, 1 where something lies there.
            wanted: (M,) float32, how much a piece should show stitches.
            surcharges: (N,) each, added to the costs one after the other.
        """
        cost = self.strength * (self._power @ known) - 2 * (self.contrast @ (there * known))
        cost += self.hole_price * (self.hole @ wanted)
        for surcharge in surcharges:
            cost += surcharge
        best = cost.argpartition(min(_CLOSE, len(cost) - 1))[:_CLOSE]
        number = int(best[rng.integers(len(best))])
        self.used[number] += 1
        return self.origin[number]


def every_other(plane: np.ndarray) -> np.ndarray:
    """A plane (H, W) at the px that banks compare, (M,) float32."""
    return plane[::2, ::2].ravel().astype(np.float32)

"""Where two pieces of a texture are cut: image quilting's seams (Efros and Freeman 2001)."""

from __future__ import annotations

import numpy as np


def before_seam(error: np.ndarray) -> np.ndarray:
    """(H, W) errors -> bool, True left of the cheapest path from the first row to the last."""
    height, width = error.shape
    cost = error.copy()
    for row in range(1, height):
        above = np.pad(cost[row - 1], 1, constant_values=np.inf)
        cost[row] += np.minimum(np.minimum(above[:-2], above[1:-1]), above[2:])
    before = np.zeros((height, width), bool)
    column = int(cost[-1].argmin())
    for row in range(height - 1, -1, -1):
        before[row, :column] = True
        if row:
            first = max(0, column - 1)
            column = first + int(cost[row - 1, first : min(width, column + 2)].argmin())
    return before

"""Large pictures in overlapping tiles: their corners, and their weighted mean, which shows no seam."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

Corner = tuple[int, int]


def places(height: int, width: int, tile: tuple[int, int], overlap: float) -> list[Corner]:
    """Corners (top, left) of tiles that cover height x width, row by row, evenly spread.

    Args:
        tile: (height, width) of a tile; not larger than the whole.
        overlap: share of a tile that the next one covers too, at least.
    """

    def along(whole: int, part: int) -> list[int]:
        stride = max(1, int(part * (1 - overlap)))
        count = math.ceil((whole - part) / stride) + 1
        return [round(i * (whole - part) / max(1, count - 1)) for i in range(count)]

    return [(top, left) for top in along(height, tile[0]) for left in along(width, tile[1])]


def ramp(tile: tuple[int, int], overlap: float, like: torch.Tensor) -> torch.Tensor:
    """Weights (h, w) of a tile's values: 1 inside, falling linearly to almost 0 towards its rim."""

    def along(length: int) -> torch.Tensor:
        rim = max(1.0, length * overlap)
        distance = torch.arange(length, device=like.device, dtype=torch.float32) + 0.5
        return (torch.minimum(distance, length - distance) / rim).clamp(max=1)

    return along(tile[0])[:, None] * along(tile[1])[None, :]


def blended(
    corners: Sequence[Corner],
    size: tuple[int, int],
    tile: tuple[int, int],
    overlap: float,
    compute: Callable[[int, Corner], torch.Tensor],
) -> torch.Tensor:
    """`compute(number, corner)` of every tile (B, c, h, w), as one (B, c, H, W): the weighted mean where tiles overlap.

    Tiles are computed one after the other and summed in that order, so that the result is the same every time.
    """
    if len(corners) == 1:
        return compute(0, corners[0])
    total = weights = None
    for number, (top, left) in enumerate(corners):
        piece = compute(number, (top, left))
        if total is None:
            total = torch.zeros(*piece.shape[:2], *size, device=piece.device, dtype=torch.float32)
            weights = torch.zeros(size, device=piece.device, dtype=torch.float32)
            ramped = ramp(tile, overlap, piece)
        inside = (..., slice(top, top + tile[0]), slice(left, left + tile[1]))
        total[inside] += ramped * piece
        weights[inside] += ramped
    return (total / weights).to(piece.dtype)

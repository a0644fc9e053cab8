"""Twill: diagonal ribs, as in denim."""

from __future__ import annotations

import numpy as np

from tambour.stitch.cloth import Cloth, FabricKind, Yarns, woven


def draw(cloth: Cloth) -> tuple[np.ndarray, np.ndarray]:
    """Every third crossing shows the warp, one further along in each row."""
    yarns = Yarns(cloth)
    return woven(cloth, yarns, (yarns.column[None] - yarns.row[:, None]) % 3 == 0, 0.7)


KIND = FabricKind(name="twill", order=2, share=0.15, pitch=(0.22, 0.4), draw=draw)

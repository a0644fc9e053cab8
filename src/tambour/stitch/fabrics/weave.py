"""Plain weave: warp and weft over and under by turns."""

from __future__ import annotations

import numpy as np

from tambour.stitch.cloth import Cloth, FabricKind, Yarns, woven


def draw(cloth: Cloth) -> tuple[np.ndarray, np.ndarray]:
    """Every other crossing shows the warp."""
    yarns = Yarns(cloth)
    return woven(cloth, yarns, (yarns.column[None] + yarns.row[:, None]) % 2 == 0, 1.0)


KIND = FabricKind(name="weave", order=1, share=0.26, pitch=(0.25, 0.45), draw=draw)

"""Aida: the cloth of cross stitch, bars with a hole at every corner."""

from __future__ import annotations

import numpy as np

from tambour.stitch.cloth import Cloth, FabricKind, Yarns


def draw(cloth: Cloth) -> tuple[np.ndarray, np.ndarray]:
    """Bars of threads between square holes."""
    yarns, tone, fade = Yarns(cloth), cloth.tone, cloth.fade
    warp, weft = yarns.across_warp, yarns.across_weft
    hole = np.exp(-6 * (1 - np.abs(warp)))[None] * np.exp(-6 * (1 - np.abs(weft)))[:, None]
    bars = 0.5 * (np.cos(3 * np.pi * warp)[None] + np.cos(3 * np.pi * weft)[:, None])
    relief = np.float32(0.05 * cloth.pitch) * fade * (bars * 0.5 - 3 * hole)
    return relief.astype(np.float32), tone * (1 - 0.75 * fade * hole + 0.02 * fade * bars).astype(np.float32)


KIND = FabricKind(name="aida", order=4, share=0.12, pitch=(1.1, 1.8), draw=draw)

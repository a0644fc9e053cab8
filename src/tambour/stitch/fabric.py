"""Bare fabric: its relief and tone, and the folds that stitches draw it into."""

from __future__ import annotations

import cv2
import numpy as np

from tambour.imaging.nearest import nearest_known
from tambour.stitch.cloth import Cloth, smooth_noise
from tambour.stitch.fabrics import FABRICS
from tambour.stitch.parameters import Fabric


def fabric_surface(
    fabric: Fabric, shape: tuple[int, int], px_per_mm: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Relief in px and tone (a factor about 1), both (H, W) float32."""
    tone = smooth_noise(shape, rng, max(48.0, 4 * px_per_mm)) * np.float32(0.006) + 1
    cloth = Cloth(fabric, shape, px_per_mm, tone, rng)
    kind = FABRICS[fabric.kind] if cloth.fade > 0 else FABRICS["plain"]
    return kind.draw(cloth)


def pucker(labels: np.ndarray, amount: float, px_per_mm: float, rng: np.random.Generator) -> np.ndarray:
    """Folds that run away from the stitches and fade in a few mm: (H, W) float32 px, 0 under the stitches."""
    bare = labels == 0
    if not bare.any() or bare.all():
        return np.zeros(labels.shape, np.float32)
    away, nearest = nearest_known(~bare)
    waves = smooth_noise(labels.shape, rng, 1.4 * px_per_mm)
    folds = cv2.GaussianBlur(waves.take(nearest), (0, 0), max(0.25 * px_per_mm, 1.0))
    return folds * np.exp(away * np.float32(-1 / (3.0 * px_per_mm))) * bare * np.float32(0.32 * amount * px_per_mm)

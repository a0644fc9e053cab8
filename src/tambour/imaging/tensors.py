"""Pictures <-> tensors, float32 BCHW in [-1, 1]. torch is loaded inside the functions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from tambour.errors import TambourError

if TYPE_CHECKING:
    import torch
from tambour.imaging.geometry import flatten


def to_tensor(image: Image.Image) -> torch.Tensor:
    """RGB picture -> (1, 3, H, W) float32 in [-1, 1]. Transparency is put on white."""
    import torch

    values = np.asarray(flatten(image), np.float32) / 127.5 - 1  # (H, W, 3)
    return torch.from_numpy(values.transpose(2, 0, 1)[None].copy())


def to_image(tensor: torch.Tensor) -> Image.Image:
    """First picture of a (B, 3, H, W) tensor in [-1, 1] (values outside are clipped) -> RGB picture.

    Raises:
        TambourError: the tensor holds NaN or infinity (half precision overflowed).
    """
    values = tensor[0].detach().float().cpu().numpy().transpose(1, 2, 0)
    if not np.isfinite(values).all():
        raise TambourError("The model produced NaN or infinite pixels.", "Run with precision float32 or bfloat16.")
    return Image.fromarray(((values.clip(-1, 1) + 1) * 127.5).round().astype(np.uint8))

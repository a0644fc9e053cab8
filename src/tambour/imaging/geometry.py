"""The shape of pictures: put on one colour, resized to a grid, padded to it."""

from __future__ import annotations

import numpy as np
from PIL import Image

from tambour.errors import InputError


def flatten(image: Image.Image, background: tuple[int, int, int] = (255, 255, 255)) -> Image.Image:
    """Composite a picture on one colour -> "RGB". A picture without transparency is only converted."""
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    canvas = Image.new("RGBA", image.size, (*background, 255))
    return Image.alpha_composite(canvas, image).convert("RGB")


def fit(image: Image.Image, longer: int, multiple: int = 1) -> Image.Image:
    """Resize so that the longer side is about `longer` px and both sides are multiples of `multiple`.

    The aspect ratio is kept exactly: what does not fit the grid (under `multiple` px) is cropped from the middle
    outwards, never stretched. A very narrow picture comes out larger, so that its short side is one multiple.

    Raises:
        InputError: `longer` or `multiple` is not positive, or the picture is so narrow that it would come out at more
            than sixteen times `longer`.
    """
    if longer < 1 or multiple < 1:
        raise InputError(f"Cannot fit a picture to {longer} px in steps of {multiple}.", "Both must be at least 1.")
    width, height = image.size
    scale = max(longer / max(width, height), multiple / min(width, height))
    wide, high = (max(1, round(side * scale / multiple)) * multiple for side in image.size)
    if max(wide, high) > 16 * max(longer, multiple):
        raise InputError(
            f"A picture of {width} x {height} px is too narrow for {longer} px.", "Crop it, or ask for more px."
        )
    scale = max(wide / width, high / height)
    spare_x, spare_y = (width - wide / scale) / 2, (height - high / scale) / 2
    box = (max(0.0, spare_x), max(0.0, spare_y), min(width, width - spare_x), min(height, height - spare_y))
    return image.resize((wide, high), Image.Resampling.LANCZOS, box=box)


def pad(image: Image.Image, multiple: int) -> tuple[Image.Image, tuple[int, int, int, int]]:
    """Repeat the outermost pixels until both sides are multiples of `multiple`: the picture, and where the old one is
    in it (left, top, right, bottom), for `Image.crop`.
    """
    spare = [-side % multiple for side in image.size]
    left, top = (one // 2 for one in spare)
    rims = ((top, spare[1] - top), (left, spare[0] - left), (0, 0))
    padded = Image.fromarray(np.pad(np.asarray(image), rims, mode="edge"))
    return padded, (left, top, left + image.width, top + image.height)

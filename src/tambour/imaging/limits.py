"""How large pictures may be, and which are read."""

from __future__ import annotations

from pathlib import Path

from tambour.errors import InputError

MIN_SIDE = 16  # px
MAX_PIXELS = 64_000_000
READABLE = "Give a PNG, JPEG, WebP, GIF, TIFF, BMP, AVIF or SVG file."


def check_pixels(path: Path, width: int, height: int) -> None:
    """Refuse a picture with too many pixels.

    Raises:
        InputError: over `MAX_PIXELS`.
    """
    if width * height > MAX_PIXELS:
        raise InputError(
            f"{path} is {width} x {height} px, {width * height / 1e6:.0f} megapixels.",
            f"At most {MAX_PIXELS // 10**6}: make it smaller first.",
        )

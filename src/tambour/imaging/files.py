"""Picture files: open and save. A picture is a PIL image in sRGB, mode "RGB" or "RGBA", 8 bits a channel."""

from __future__ import annotations

import contextlib
import io
import os
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageOps

from tambour.errors import InputError, OutputExists
from tambour.imaging.geometry import flatten
from tambour.imaging.limits import MAX_PIXELS, MIN_SIDE, READABLE, check_pixels
from tambour.imaging.svg import SVG_SIZE, render_svg

_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "PPM", "AVIF")  # decoders that run no other program
_SUFFIXES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".tif": "TIFF", ".tiff": "TIFF"}


def open_image(path: str | Path, size: int | None = None) -> Image.Image:
    """Open a picture upright, in sRGB, 8 bits a channel: "RGBA" if any pixel is transparent, else "RGB".

    Handles EXIF rotation, colour profiles, CMYK, palettes, grey, 16-bit and float pictures; of an animation the first
    frame. An SVG is rendered with its longer side at `size` px (default 1024); other pictures keep their own size.

    Raises:
        InputError: missing, empty, truncated, not a picture, under 16 px a side, over 64 megapixels (refused before
            decoding), or an SVG that refers to files outside itself (they are never loaded).
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path} is a folder, not a picture.", "Give one picture file.")
    try:
        if not path.is_file():
            raise InputError(f"There is no file {path}.", "Check the spelling of the path.")
        with path.open("rb") as file:
            head = file.read(1024)
    except (OSError, ValueError) as fault:  # ValueError: a null byte in the path
        raise InputError(f"{path} cannot be read: {fault}.") from None
    if not head:
        raise InputError(f"{path} is empty.", READABLE)
    if path.suffix.lower() in (".svg", ".svgz") or (
        head.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"<" and b"<svg" in head
    ):
        image = render_svg(path, SVG_SIZE if size is None else size)
    else:
        image = _open_raster(path)
    if min(image.size) < MIN_SIDE:
        raise InputError(
            f"{path} is {image.width} x {image.height} px.",
            f"Both sides must be at least {MIN_SIDE} px: use a larger one.",
        )
    return image


def _open_raster(path: Path) -> Image.Image:
    """Decode a raster file; see `open_image`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of decoders about odd metadata; the size is checked below
            with Image.open(path, formats=_FORMATS) as image:
                check_pixels(path, *image.size)
                image.load()
                return _to_srgb(ImageOps.exif_transpose(image))
    except InputError:
        raise
    except Image.UnidentifiedImageError:
        raise InputError(f"{path} is not a picture in a format we read.", READABLE) from None
    except Image.DecompressionBombError:
        raise InputError(f"{path} has too many pixels.", f"At most {MAX_PIXELS // 10**6} megapixels.") from None
    except Exception as fault:  # decoders raise anything on broken bytes: OSError, SyntaxError, struct.error, ...
        raise InputError(f"{path} is damaged or incomplete ({fault}).", "Export or download it again.") from None


def _to_srgb(image: Image.Image) -> Image.Image:
    """Any PIL mode -> "RGB" or "RGBA" (only if something is transparent), colours converted to sRGB."""
    profile = image.info.get("icc_profile")
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):  # 16-bit grey, 32-bit integers, floats
        values = np.nan_to_num(np.asarray(image, np.float64))
        top = max(65535.0, values.max()) if image.mode != "F" else max(values.max(), 1.0)
        image, profile = Image.fromarray(np.clip(values * (255 / top), 0, 255).astype(np.uint8)), None
    if image.has_transparency_data:
        image = image.convert("RGBA")
    elif image.mode not in ("RGB", "CMYK", "L"):
        image = image.convert("RGB")
    if profile:
        try:
            mode = "RGBA" if image.mode == "RGBA" else "RGB"
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            image = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode=mode)
        except (ImageCms.PyCMSError, OSError):
            pass  # a broken or mismatched profile: read the numbers as sRGB, as browsers do
    if image.mode == "RGBA" and image.getextrema()[3][0] < 255:
        return Image.fromarray(np.asarray(image))  # a plain copy: no file handle, no metadata
    return Image.fromarray(np.asarray(image.convert("RGB")))


def save_image(image: Image.Image, path: str | Path, overwrite: bool = False) -> Path:
    """Write a picture so that the file is either whole or absent (temporary file beside it, then rename).

    The suffix chooses the format; JPEG has no transparency, so there it is put on white. Missing folders are made.

    Raises:
        OutputExists: the file is there and `overwrite` is False.
        InputError: an unknown suffix, or the folder cannot be written.
    """
    path = Path(path)
    form = _SUFFIXES.get(path.suffix.lower())
    if form is None:
        raise InputError(f"Cannot write a picture as {path.name!r}.", f"Use one of: {', '.join(sorted(_SUFFIXES))}.")
    if path.exists() and not overwrite:
        raise OutputExists(path)
    if form == "JPEG":
        image = flatten(image)
    options = {"quality": 95} if form in ("JPEG", "WEBP") else {}
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            image.save(file, format=form, **options)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as fault:
        raise InputError(f"{path} cannot be written: {fault.strerror or fault}.", "Choose another place.") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    return path

"""Pictures at the edge of the program: open, save, resize, colour. Knows no models; torch only inside two functions.

A picture is a PIL image in sRGB, mode "RGB" or "RGBA" (uint8); a tensor is float32 BCHW in [-1, 1].
"""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import re
import warnings
import xml.etree.ElementTree as ET
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from PIL import Image, ImageCms, ImageDraw, ImageFont, ImageOps

from tambour.errors import InputError, OutputExists, TambourError

if TYPE_CHECKING:
    import torch

MIN_SIDE = 16  # px
MAX_PIXELS = 64_000_000
SVG_SIZE = 1024  # default longer side of a rendered SVG, px
_SVG_BYTES = 32 << 20
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "PPM", "AVIF")  # decoders that run no other program
_SUFFIXES = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".tif": "TIFF", ".tiff": "TIFF"}
_READABLE = "Give a PNG, JPEG, WebP, GIF, TIFF, BMP, AVIF or SVG file."
_EMBEDDED = ("data:image/png", "data:image/jpeg", "data:image/jpg", "data:image/gif", "data:image/webp")


# --- open ---------------------------------------------------------------------------------------------------------


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
        raise InputError(f"{path} is empty.", _READABLE)
    if path.suffix.lower() in (".svg", ".svgz") or (
        head.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"<" and b"<svg" in head
    ):
        image = _open_svg(path, SVG_SIZE if size is None else size)
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
                _check_pixels(path, *image.size)
                image.load()
                return _to_srgb(ImageOps.exif_transpose(image))
    except InputError:
        raise
    except Image.UnidentifiedImageError:
        raise InputError(f"{path} is not a picture in a format we read.", _READABLE) from None
    except Image.DecompressionBombError:
        raise InputError(f"{path} has too many pixels.", f"At most {MAX_PIXELS // 10**6} megapixels.") from None
    except Exception as fault:  # decoders raise anything on broken bytes: OSError, SyntaxError, struct.error, ...
        raise InputError(f"{path} is damaged or incomplete ({fault}).", "Export or download it again.") from None


def _check_pixels(path: Path, width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise InputError(
            f"{path} is {width} x {height} px, {width * height / 1e6:.0f} megapixels.",
            f"At most {MAX_PIXELS // 10**6}: make it smaller first.",
        )


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


def _open_svg(path: Path, size: int) -> Image.Image:
    """Render an SVG with its longer side at `size` px; see `open_image`."""
    import resvg_py

    try:
        data = path.read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = gzip.GzipFile(fileobj=io.BytesIO(data)).read(_SVG_BYTES + 1)
        if len(data) > _SVG_BYTES:
            raise InputError(f"{path} is over {_SVG_BYTES >> 20} MiB of SVG.", "Simplify it, or export it as PNG.")
        root = ET.fromstring(data)  # expat loads nothing external and stops at entity bombs
    except (ET.ParseError, EOFError, OSError, ValueError, zlib.error) as fault:
        raise InputError(f"{path} is not a valid SVG ({fault}).", "Export it again.") from None
    if root.tag.rpartition("}")[2] != "svg":
        raise InputError(f"{path} is XML but not an SVG.", _READABLE)
    for element in root.iter():
        if not isinstance(element.tag, str) or element.tag.rpartition("}")[2] == "a":  # a link a reader may click
            continue
        for key, value in element.attrib.items():
            value = value.strip()
            if key.rpartition("}")[2] == "href" and value and not value.startswith(("#", *_EMBEDDED)):
                raise InputError(f"{path} refers to {value[:60]!r}, outside itself.", "Embed the picture in the SVG.")
    width, height = _svg_size(root)
    if not (0 < width < 1e9 and 0 < height < 1e9):
        raise InputError(f"{path} does not say how large it is.", "Give its <svg> a viewBox, or a width and a height.")
    scale = size / max(width, height)
    wide, high = max(1, round(width * scale)), max(1, round(height * scale))
    _check_pixels(path, wide, high)
    if root.get("viewBox") is None:
        root.set("viewBox", f"0 0 {width} {height}")
    root.set("width", str(wide))
    root.set("height", str(high))
    try:
        png = resvg_py.svg_to_bytes(svg_string=ET.tostring(root, encoding="unicode"))
    except ValueError as fault:
        raise InputError(f"{path} cannot be drawn ({fault}).", "Export it again as plain SVG, or as PNG.") from None
    return Image.open(io.BytesIO(bytes(png))).convert("RGBA")


def _svg_size(root: ET.Element) -> tuple[float, float]:
    """(width, height) of an SVG in its own units; (0, 0) if it does not say."""

    def length(text: str | None) -> float:
        found = re.fullmatch(r"\s*(\d*\.?\d+(?:[eE][+-]?\d+)?)\s*[a-z]*\s*", text or "")
        return float(found[1]) if found else 0.0  # a percentage says nothing about size

    try:
        box = [float(part) for part in (root.get("viewBox") or "").replace(",", " ").split()]
    except ValueError:
        box = []
    width, height = length(root.get("width")), length(root.get("height"))
    if len(box) == 4 and not (width > 0 and height > 0):
        return box[2], box[3]
    return width, height


# --- shape and alpha ----------------------------------------------------------------------------------------------


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


# --- tensors ------------------------------------------------------------------------------------------------------


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


# --- colour and conditions ----------------------------------------------------------------------------------------


def rgb_to_lab(rgb: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8, or float in [0, 1], sRGB -> (H, W, 3) float32 CIELAB (L 0..100, a and b about -128..127)."""
    values = np.asarray(rgb)
    values = values.astype(np.float32) / 255 if values.dtype == np.uint8 else values.astype(np.float32)
    return cv2.cvtColor(values, cv2.COLOR_RGB2Lab)


def lab_to_rgb(lab: np.ndarray) -> np.ndarray:
    """(H, W, 3) CIELAB -> (H, W, 3) uint8 sRGB, clipped to the gamut."""
    values = cv2.cvtColor(np.asarray(lab, np.float32), cv2.COLOR_Lab2RGB)
    return (values.clip(0, 1) * 255).round().astype(np.uint8)


def correct_colours(result: Image.Image, design: Image.Image) -> Image.Image:
    """Keep L of `result`, take a and b from `design` (CIELAB; method, section 6). The design is resized to fit."""
    design = flatten(design)
    if design.size != result.size:
        design = design.resize(result.size, Image.Resampling.LANCZOS)
    lab = rgb_to_lab(np.asarray(design))
    lab[..., 0] = rgb_to_lab(np.asarray(flatten(result)))[..., 0]
    return Image.fromarray(lab_to_rgb(lab))


_KEYS = ((255, 0, 255), (0, 255, 0), (255, 0, 0), (0, 0, 255), (255, 255, 0), (0, 255, 255), (0, 0, 0), (255, 255, 255),
         (128, 128, 128), (120, 60, 20))  # fmt: skip
REACH = 4  # px beyond its design that a stitch and its shadow may lie


def key_ground(design: Image.Image, inside: np.ndarray) -> Image.Image:
    """A flat design on a ground of a colour far from all of its own, RGB: nothing in it can be taken for bare fabric.

    Args:
        inside: (H, W) bool, where there are stitches.
    """
    rgb, best = np.asarray(design.convert("RGB")), 0
    if inside.any():
        own = rgb_to_lab(rgb[inside][:: max(1, int(inside.sum()) // 4000)][None])[0]  # (N, 3)
        keys = rgb_to_lab(np.array([_KEYS], np.uint8))[0]
        apart = np.linalg.norm(own[None] - keys[:, None], axis=2)  # (keys, N)
        best = int(np.quantile(apart, 0.01, axis=1).argmax())
    return Image.fromarray(np.where(inside[..., None], rgb, np.uint8(_KEYS[best])))


def reach(inside: np.ndarray) -> np.ndarray:
    """Where stitches may be, (H, W) float32 of 0 and 1: `inside` (H, W) bool and `REACH` px around it."""
    return cv2.dilate(inside.astype(np.float32), np.ones((2 * REACH + 1, 2 * REACH + 1), np.uint8))


def tile_condition(image: Image.Image, kernel: int = 15) -> Image.Image:
    """Gaussian-blurred RGB picture for ControlNet-Tile; `kernel` px (odd; an even one is raised by one; 0, 1: none)."""
    if kernel < 0:
        raise InputError(f"A blur kernel of {kernel} px is not possible.", "It must be 0 or more.")
    kernel += kernel % 2 == 0 and kernel > 0
    rgb = np.asarray(flatten(image))
    return Image.fromarray(cv2.GaussianBlur(rgb, (kernel, kernel), 0) if kernel > 1 else rgb)


def canny_condition(image: Image.Image, low: int = 100, high: int = 200) -> Image.Image:
    """White Canny edges on black, RGB, for ControlNet-Canny; thresholds in 0..255 steps of gradient.

    An edge map, pure white lines under 5 px on pure black, is given back: Canny would draw each of its lines twice.
    """
    grey = np.asarray(flatten(image).convert("L"))
    white = np.uint8(grey == 255)
    if (white.any() and np.isin(grey, (0, 255)).all()
            and not cv2.morphologyEx(white, cv2.MORPH_OPEN, np.ones((5, 5), np.uint8)).any()):  # fmt: skip
        edges = grey
    else:
        edges = cv2.Canny(grey, low, high)
    return Image.fromarray(np.repeat(edges[..., None], 3, axis=2))


# --- save ---------------------------------------------------------------------------------------------------------


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


def contact_sheet(
    rows: Sequence[Sequence[Image.Image | None]],
    labels: Sequence[str] = (),
    row_labels: Sequence[str] = (),
    cell: int = 256,
    gap: int = 8,
) -> Image.Image:
    """Pictures in rows on white, each fitted into a `cell` px square, keeping its shape; None leaves a cell empty.

    `labels` head the columns, `row_labels` stand above each row; labels too long for their place are shortened.
    """
    if not any(len(row) for row in rows):
        raise InputError("A contact sheet needs at least one picture.")
    font = ImageFont.load_default(size=max(11, cell // 16))
    line = max(11, cell // 16) + 2 * gap
    columns = max(len(row) for row in rows)
    head, band = (line if labels else 0), (line if row_labels else 0)
    width = gap + columns * (cell + gap)
    sheet = Image.new("RGB", (width, head + gap + len(rows) * (cell + gap + band)), "white")
    draw = ImageDraw.Draw(sheet)

    def write(text: str, x: float, y: float, room: float) -> None:
        text = str(text)
        while len(text) > 1 and draw.textlength(text, font=font) > room:
            text = text[:-2].rstrip() + "…"
        draw.text((x, y), text, fill=(40, 40, 40), font=font)

    for column, text in enumerate(labels[:columns]):
        write(text, gap + column * (cell + gap), gap, cell)
    for i, row in enumerate(rows):
        top = head + gap + i * (cell + gap + band)
        if i < len(row_labels):
            write(row_labels[i], gap, top, width - 2 * gap)
        for column, image in enumerate(row):
            if image is None:
                continue
            scale = cell / max(image.size)
            size = tuple(max(1, round(side * scale)) for side in image.size)
            kind = Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BICUBIC
            picture = flatten(image).resize(size, kind)
            sheet.paste(
                picture, (gap + column * (cell + gap) + (cell - size[0]) // 2, top + band + (cell - size[1]) // 2)
            )
    return sheet

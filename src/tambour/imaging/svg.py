"""An SVG file -> an RGBA picture."""

from __future__ import annotations

import gzip
import io
import re
import xml.etree.ElementTree as ET
import zlib
from pathlib import Path

from PIL import Image

from tambour.errors import InputError
from tambour.imaging.limits import READABLE, check_pixels

SVG_SIZE = 1024  # default longer side of a rendered SVG, px
_SVG_BYTES = 32 << 20
_EMBEDDED = ("data:image/png", "data:image/jpeg", "data:image/jpg", "data:image/gif", "data:image/webp")


def render_svg(path: Path, size: int) -> Image.Image:
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
        raise InputError(f"{path} is XML but not an SVG.", READABLE)
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
    check_pixels(path, wide, high)
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

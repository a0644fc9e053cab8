"""The bundled designs, flat SVG art: read, recolour, draw, put on a ground. torch is loaded inside the functions."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from importlib import resources
from typing import TYPE_CHECKING

import numpy as np
import resvg_py
from PIL import Image, ImageColor

from tambour.errors import InputError

if TYPE_CHECKING:
    import torch

_HEX = re.compile(r"#[0-9a-fA-F]{6}\b")


def bundled_designs() -> dict[str, str]:
    """Name -> SVG of the flat designs in the package."""
    files = resources.files("tambour").joinpath("designs").iterdir()
    return {
        file.name[:-4]: file.read_text(encoding="utf-8")
        for file in sorted(files, key=str)
        if file.name.endswith(".svg")
    }


def recolour(svg: str, colour: str, colours: Sequence[str], generator: torch.Generator) -> str:
    """An SVG whose largest colour becomes `colour` and the others random ones of `colours`, all a little muted."""
    import torch

    found = list(dict.fromkeys(_HEX.findall(svg)))
    pixels = np.asarray(draw_svg(svg, 64))
    solid = pixels[pixels[..., 3] == 255][:, :3]
    area = [int((solid == ImageColor.getrgb(old)).all(1).sum()) for old in found]
    rest = [name for name in colours if name != colour] or [colour]
    picks = torch.randint(len(rest), (len(found),), generator=generator)
    shades = 0.75 + 0.4 * torch.rand(len(found), generator=generator)
    new = {}
    for i, old in enumerate(found):
        name = colour if area[i] == max(area) else rest[picks[i]]
        try:
            rgb = np.array(ImageColor.getrgb(name), np.float64)
        except ValueError:
            raise InputError(f"Complement colour {name!r} is not known.", "Use names that CSS knows.") from None
        rgb = (0.8 * rgb + 0.2 * rgb.mean()) * (1.0 if name == colour else float(shades[i]))
        new[old] = "#" + "".join(f"{int(value):02x}" for value in rgb.clip(0, 255))
    return _HEX.sub(lambda match: new[match[0]], svg)


def draw_svg(svg: str, side: int) -> Image.Image:
    """A square SVG as RGBA, `side` px."""
    return Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg, width=side, height=side)))).convert("RGBA")


def on_ground(svg: str, size: tuple[int, int], ground: tuple[int, int, int]) -> Image.Image:
    """A square SVG in the middle of an RGB picture of (height, width) px."""
    height, width = size
    side = min(size)
    canvas = Image.new("RGBA", (width, height), (*ground, 255))
    canvas.alpha_composite(draw_svg(svg, side), ((width - side) // 2, (height - side) // 2))
    return canvas.convert("RGB")

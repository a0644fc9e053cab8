"""The training corpus: flat vector art, recoloured, captioned, and stitched by our own renderer.

Art: three icon packages with clear licences and lettering from OFL fonts, fetched from the npm registry by name
(`SOURCES`, `FONTS`). HELD OUT of every picture, so that the benchmark's styles are new to the base: the families in
`HELD_OUT_FAMILIES`, satin with threads over `THICK_SATIN` mm, and knots closer than `DENSE_KNOTS` mm.

A corpus is a folder of `.npz` shards; each holds aligned arrays: `design` and `picture` (N, S, S, 3) uint8, `stitched`
(N, S, S) bool, `caption` and `kind` (N,) str.
"""

from __future__ import annotations

import colorsys
import io
import json
import multiprocessing
import os
import re
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tambour.stitch import FAMILIES, Fabric, Stitch, render, sample_fabric, sample_stitch
from tambour.stitch.camera import photograph, sample_camera
from tambour.stitch.parameters import sample_lights

HELD_OUT_FAMILIES = ("chain", "sequin", "cord", "sashiko")
THICK_SATIN = 0.56  # mm
DENSE_KNOTS = 0.8  # mm from knot to knot: stitch_length / density
TRAINED_FAMILIES = tuple(f for f in FAMILIES if f not in HELD_OUT_FAMILIES)
LIGHTS, CAMERAS = 0.4, 0.25  # shares of pictures under lamps from anywhere, and seen through a camera
PX_PER_MM = (24.0, 32.0)  # threads of 12 to 18 px at 512 px, large against the 16 px attention token
SIZE = 512
SHARD = 50  # pictures of a shard

SOURCES = {
    "@iconify-json/noto": "Apache-2.0",
    "@iconify-json/fluent-emoji-flat": "MIT",
    "@iconify-json/twemoji": "CC-BY-4.0",
}
FONTS = {
    "@fontsource/lobster": "OFL-1.1",
    "@fontsource/pacifico": "OFL-1.1",
    "@fontsource/alfa-slab-one": "OFL-1.1",
    "@fontsource/bebas-neue": "OFL-1.1",
}
CATEGORIES = ("Activities", "Animals & Nature", "Food & Drink", "Objects", "Travel & Places")  # drawings of things
_TWINS = re.compile(r"skin-tone|^(clock|mobile|input|no-|flag|keycap)|-oclock|-arrow$|button$")

COLOURS: dict[str, tuple[float, float, float]] = {  # name -> hue, saturation, value in [0, 1]
    "red": (0.99, 0.82, 0.80), "orange": (0.07, 0.85, 0.92), "yellow": (0.13, 0.80, 0.95), "green": (0.36, 0.65, 0.58),
    "blue": (0.60, 0.75, 0.75), "purple": (0.77, 0.55, 0.62), "pink": (0.93, 0.42, 0.94), "brown": (0.06, 0.60, 0.45),
    "black": (0.0, 0.05, 0.13), "white": (0.1, 0.04, 0.95),
}  # fmt: skip


@dataclass(frozen=True)
class Art:
    """One drawing: its name in words and either an SVG text or a (text, font file) lettering."""

    name: str
    svg: str = ""
    letters: str = ""
    font: bytes = b""


def fetch(folder: Path) -> None:
    """Fetch the art packages into `folder` with npm; what is there already is kept."""
    folder.mkdir(parents=True, exist_ok=True)
    for package in (*SOURCES, *FONTS):
        stem = package.strip("@").replace("/", "-")
        if not list(folder.glob(f"{stem}-*.tgz")):
            subprocess.run(["npm", "pack", "--silent", package], cwd=folder, check=True, stdout=subprocess.DEVNULL)


def _member(archive: Path, name: str) -> bytes:
    with tarfile.open(archive) as tar:
        return tar.extractfile(f"package/{name}").read()


def read_icons(folder: Path) -> Iterator[tuple[dict[str, list[str]], dict[str, str]]]:
    """Of every package in `folder`, in a fixed order: its categories, each with names; and name -> SVG text.

    Drawings of over 20,000 characters are left out.
    """
    for package in SOURCES:
        archive = sorted(folder.glob(f"{package.strip('@').replace('/', '-')}-*.tgz"))[-1]
        icons = json.loads(_member(archive, "icons.json"))
        side = icons["width"]
        drawings = {}
        for name, icon in icons["icons"].items():
            width, height = icon.get("width", side), icon.get("height", side)
            if len(icon["body"]) <= 20_000:
                frame = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">{icon["body"]}</svg>'
                drawings[name] = frame
        yield json.loads(_member(archive, "metadata.json"))["categories"], drawings


def read_art(folder: Path) -> list[Art]:
    """All drawings of things from the packages in `folder`, in a fixed order."""
    found: list[Art] = []
    for categories, drawings in read_icons(folder):
        for name in sorted({n for c in CATEGORIES for n in categories.get(c, ())}):
            if name in drawings and not _TWINS.search(name):
                found.append(Art(name.replace("-", " "), svg=drawings[name]))
    fonts = []
    for package in FONTS:
        archive = sorted(folder.glob(f"{package.strip('@').replace('/', '-')}-*.tgz"))[-1]
        fonts.append(_member(archive, f"files/{package.split('/')[1]}-latin-400-normal.woff"))
    for number, text in enumerate(("Joy", "Hello", "Mia", "Love", "B", "R&S", "Luna", "A", "No 5", "Max", "7", "42")):
        found.append(Art("lettering", letters=text, font=fonts[number % len(fonts)]))
    return found


def draw(art: Art, size: int) -> Image.Image:
    """The drawing as RGBA, `size` px square."""
    if art.svg:
        import resvg_py

        return Image.open(
            io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=art.svg, width=size, height=size)))
        ).convert("RGBA")
    canvas = Image.new("RGBA", (size, size))
    pen = ImageDraw.Draw(canvas)
    font = ImageFont.truetype(io.BytesIO(art.font), size)
    box = pen.textbbox((0, 0), art.letters, font=font)
    font = font.font_variant(size=int(size * 0.9 * size / max(box[2] - box[0], box[3] - box[1])))
    pen.text((size / 2, size / 2), art.letters, font=font, fill=(60, 90, 160, 255), anchor="mm")
    return canvas


def recolour(image: Image.Image, hue: float | None, rng: np.random.Generator) -> Image.Image:
    """Quantise to a few flat colours, then turn all hues (`hue` None) or tint the whole drawing towards one hue."""
    alpha = np.asarray(image.getchannel("A"))
    flat = image.convert("RGB").quantize(int(rng.integers(5, 10)), kmeans=1, dither=Image.Dither.NONE)
    palette = np.array(flat.getpalette()[: 3 * 16], np.float32).reshape(-1, 3) / 255
    turn = rng.choice((0.0, rng.uniform()), p=(0.4, 0.6))
    out = []
    for r, g, b in palette:
        h, s, v = colorsys.rgb_to_hsv(r, g, b)
        if hue is not None and s > 0.15:
            h = hue + 0.25 * (((h - hue + 0.5) % 1) - 0.5) * 0.3
        elif hue is None:
            h += turn
        out.append(colorsys.hsv_to_rgb(h % 1, s, v))
    colours = (np.array(out) * 255).round().astype(np.uint8)
    pixels = colours[np.minimum(np.asarray(flat), len(colours) - 1)]
    return Image.fromarray(np.dstack([pixels, np.where(alpha > 127, 255, 0).astype(np.uint8)]))


def _compose(rng: np.random.Generator, art: list[Art]) -> tuple[Image.Image, str]:
    """A design (RGBA, SIZE square) and its name with its colour: one drawing, large; sometimes on a full ground."""
    piece = art[int(rng.integers(len(art)))] if rng.random() > 0.06 else art[-1 - int(rng.integers(12))]
    zoom = float(rng.choice((rng.uniform(0.7, 0.98), rng.uniform(1.0, 1.8)), p=(0.6, 0.4)))
    side = int(SIZE * zoom)
    named = rng.random() < 0.5
    colour = str(rng.choice([c for c in COLOURS if c not in ("black", "white")]))
    drawing = recolour(draw(piece, side), COLOURS[colour][0] if named else None, rng)
    canvas = Image.new("RGBA", (SIZE, SIZE))
    if rng.random() < 0.15:  # stitched to the edge: the ground is a region too
        ground = COLOURS[str(rng.choice(list(COLOURS)))]
        canvas.paste((*(int(255 * c) for c in colorsys.hsv_to_rgb(*ground)), 255), (0, 0, SIZE, SIZE))
    free = SIZE - side
    spot = tuple(int(rng.integers(min(0, free), max(0, free) + 1)) for _ in range(2))
    canvas.alpha_composite(drawing, dest=tuple(max(0, s) for s in spot), source=tuple(max(0, -s) for s in spot))
    return canvas, f"{colour} {piece.name}" if named else piece.name


WORDS = {name: FAMILIES[name].words.plain for name in TRAINED_FAMILIES}


def stitch_words(stitch: Stitch, fabric: Fabric, px_per_mm: float) -> str:
    """A short caption of the stitching: family, thread, direction, fabric. What words say, the model need not guess."""
    width = stitch.thread_width * px_per_mm
    size = "fine" if width < 11 else "medium" if width < 15 else "thick"
    sheen = "glossy" if stitch.sheen > 0.6 else "matte"
    lies = {"axis": "along each shape", "contour": "around the outline"}.get(stitch.angle_field)
    if lies is None:
        turned = (stitch.angle + 22.5) % 180  # angle: degrees, counted from the horizontal
        lies = ("level", "sloping one way", "upright", "sloping the other way")[int(turned // 45)]
    border = ", bordered" if stitch.border else ""
    return f"{WORDS[stitch.family]}{border}, {sheen} {size} thread, {lies}, on {fabric.kind}"


def _look(kind: str, flat: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Another look of the same art: "pencil", "watercolour" or "halftone" (uint8 RGB in and out)."""
    grey = cv2.cvtColor(flat, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255
    y, x = np.mgrid[: flat.shape[0], : flat.shape[1]].astype(np.float32)
    if kind == "pencil":
        hatch = np.zeros_like(grey)
        for turn, edge in ((0.7, 0.8), (2.2, 0.55)):
            wave = np.sin((x * np.cos(turn) + y * np.sin(turn)) * 2 * np.pi / rng.uniform(9, 14))
            hatch += np.clip(wave, 0, 1) * np.clip((edge - grey) * 2.5, 0, 1)
        lines = cv2.dilate(cv2.Canny(flat, 60, 120), np.ones((3, 3), np.uint8)).astype(np.float32) / 255
        return np.uint8(255 * np.clip(0.97 - 0.55 * hatch - 0.7 * lines, 0.08, 1))[..., None].repeat(3, 2)
    if kind == "watercolour":
        noise = cv2.GaussianBlur(rng.standard_normal(grey.shape).astype(np.float32), (0, 0), 12)
        wash = 1 + 0.25 * noise / (noise.std() + 1e-6) * 0.6
        soft = cv2.GaussianBlur(flat, (0, 0), 3).astype(np.float32)
        rim = np.abs(cv2.Laplacian(cv2.GaussianBlur(grey, (0, 0), 4), cv2.CV_32F))
        return np.uint8(np.clip(255 - (255 - soft) * (0.65 * wash + 6 * rim)[..., None], 0, 255))
    pitch = rng.uniform(12, 18)
    u, v = (x + y) / pitch * np.pi, (x - y) / pitch * np.pi
    dots = (np.cos(u) + np.cos(v)) / 4 + 0.5 > grey * 0.9 + 0.02
    return np.where(dots[..., None], flat, 250).astype(np.uint8)


def make_picture(seed: int, art: list[Art], sewn: int | None = None) -> dict[str, np.ndarray | str]:
    """Picture number `seed`: `design`, `picture`, `stitched`, `caption`, `kind` (a family, a look or "flat").

    `sewn`: the seed of its single stitches, where another than `seed` is wanted: the same embroidery made again.
    """
    rng = np.random.default_rng([seed, 0xC0DE])
    design, name = _compose(rng, art)
    fabric = sample_fabric(rng)
    fabric = replace(fabric, contrast=min(fabric.contrast, 0.35))
    ground = Image.new("RGBA", design.size, (*fabric.colour, 255))
    flat = np.asarray(Image.alpha_composite(ground, design).convert("RGB"))
    covered = np.asarray(design.getchannel("A")) > 127
    if rng.random() < 0.08:
        kind = str(rng.choice(("flat", "pencil", "watercolour", "halftone")))
        picture = flat if kind == "flat" else _look(kind, flat, rng)
        caption = f"{name}, {'flat design' if kind == 'flat' else kind}"
        return {"design": flat, "picture": picture, "stitched": covered, "caption": caption, "kind": kind}
    family = str(rng.choice(TRAINED_FAMILIES))
    stitch = sample_stitch(rng, family)
    if family == "satin":
        stitch = replace(stitch, thread_width=min(stitch.thread_width, THICK_SATIN))
    if family == "knot":
        apart = max(stitch.stitch_length, DENSE_KNOTS * stitch.density)
        stitch = replace(stitch, angle_field="constant", stitch_length=apart)
    scale = float(rng.uniform(*PX_PER_MM))
    lights = sample_lights(rng) if rng.random() < LIGHTS else None
    camera = sample_camera(rng) if rng.random() < CAMERAS else None
    sewn = seed if sewn is None else sewn
    image = render(design, stitch, fabric, light=lights, seed=sewn, px_per_mm=scale, background="stitch").image
    picture = np.asarray(photograph(image, camera, seed) if camera else image)
    caption = f"{name}, {stitch_words(stitch, fabric, scale)}"
    return {"design": flat, "picture": picture, "stitched": covered, "caption": caption, "kind": family}


_art: list[Art] = []


def _start(folder: str) -> None:
    cv2.setNumThreads(1)
    _art.extend(read_art(Path(folder)))


def _shard(job: tuple[int, int]) -> dict[str, np.ndarray]:
    first, count = job
    rows = [make_picture(first + i, _art) for i in range(count)]
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def make_corpus(
    art: Path, out: Path, count: int, *, first: int = 0, shard: int = SHARD, processes: int = 1
) -> Iterator[int]:
    """Render pictures first .. first + count - 1 into shards; shards that exist are kept. Yields pictures done."""
    out.mkdir(parents=True, exist_ok=True)
    starts = [n for n in range(first, first + count, shard) if not (out / f"{n:07d}.npz").exists()]
    done = count - len(starts) * shard
    with multiprocessing.get_context("spawn").Pool(processes, _start, (str(art),)) as pool:
        jobs = [(n, shard) for n in starts]
        for start, arrays in zip(starts, pool.imap(_shard, jobs), strict=True):
            rough = out / f"{start:07d}.tmp.npz"
            np.savez(rough, **arrays)
            os.replace(rough, out / f"{start:07d}.npz")
            done += shard
            yield done

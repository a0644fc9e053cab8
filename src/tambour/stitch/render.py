"""Design + stitch + fabric + light -> a lit picture with its height map."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from tambour.errors import InputError
from tambour.stitch import frames
from tambour.stitch.fabric import fabric_surface
from tambour.stitch.families import DRAW, Dice, Threads, row_pitch
from tambour.stitch.light import Surface, illuminate
from tambour.stitch.parameters import Fabric, Light, Stitch
from tambour.stitch.regions import find_regions

CHUNK = 1 << 15  # pixels evaluated at once: temporaries stay in the cache
NARROW = 0.66  # mm; regions narrower than this, or than a thread, are drawn as a line of stem stitch


@dataclass(frozen=True)
class Rendered:
    """image: RGB; height: (H, W) float32 px above the fabric; mask: (H, W) bool, stitched;
    labels: (H, W) int32 regions, 0 fabric."""

    image: Image.Image
    height: np.ndarray
    mask: np.ndarray
    labels: np.ndarray


def render(
    design: Image.Image,
    stitch: Stitch,
    fabric: Fabric | None = None,
    *,
    light: Light | None = None,
    seed: int = 0,
    px_per_mm: float = 20.0,
    background: str = "auto",
    region_overrides: Mapping[int, Stitch] | None = None,
) -> Rendered:
    """Embroider a flat design.

    Args:
        design: RGB or RGBA, flat colours. Transparent parts are bare fabric.
        stitch, fabric, light: what it is made of; fabric None is a weak weave in the design's own background colour.
        seed: the same seed gives the same picture, bit for bit.
        px_per_mm: scale; a thread of 0.5 mm is 10 px wide at 20.
        background: "auto": a border of one colour is bare fabric; "stitch": an opaque design is stitched everywhere.
        region_overrides: another stitch for single regions, by their number in `Rendered.labels`.
    Raises:
        InputError: scale or background out of range.
    """
    if not 0.5 <= px_per_mm <= 400:
        raise InputError(f"px_per_mm {px_per_mm!r} is out of range.", "Give 0.5 to 400 pixels a millimetre.")
    if background not in ("auto", "stitch"):
        raise InputError(f"Background {background!r} is not known.", "Choose auto or stitch.")
    fabric, light = fabric or Fabric(), light or Light()
    if design.mode not in ("RGB", "RGBA"):
        transparent = "transparency" in design.info or design.mode in ("LA", "PA")
        design = design.convert("RGBA" if transparent else "RGB")
    regions = find_regions(np.asarray(design), background, speck=0.08 * min(px_per_mm, 28) ** 2)
    labels, count = regions.labels, len(regions.colours)
    rng = np.random.default_rng([seed, 0x5717C4])
    relief, tone = fabric_surface(fabric, labels.shape, px_per_mm, rng)
    surface = Surface(relief, *(np.full(labels.shape, value, np.float32) for value in (1, 0, 1)), tone,
                      *(np.zeros(labels.shape, np.float32) for _ in range(3)))  # fmt: skip
    kinds = [(region_overrides or {}).get(label, stitch) for label in range(count)]
    _Needle(surface, labels, Dice(rng), px_per_mm).stitch(kinds)
    cloth = np.asarray(fabric.colour, np.float32) / 255 if fabric.colour else regions.colours[0]
    dye = np.float32([0.25 if kind.family == "sashiko" else 0.65 for kind in kinds])  # of the cloth between stitches
    image = illuminate(surface, regions, cloth, dye, light)
    return Rendered(Image.fromarray(image), surface.height, labels > 0, labels)


class _Needle:
    """Writes threads over the cloth of `surface`, region by region."""

    def __init__(self, surface: Surface, labels: np.ndarray, dice: Dice, px_per_mm: float) -> None:
        self.labels, self.dice, self.px_per_mm = labels, dice, px_per_mm
        self.flat = {name: getattr(surface, name).reshape(-1) for name in Surface.__dataclass_fields__}
        self.depth = frames.edge_distance(labels)

    def stitch(self, kinds: list[Stitch]) -> None:
        """Stitch every region; `kinds` (R + 1,) by label."""
        labels, count = self.labels, len(kinds)
        area = np.bincount(labels.ravel(), minlength=count)
        # a strip of breadth b has a mean depth of b / 4
        breadth = 4 * np.bincount(labels.ravel(), self.depth.ravel(), count) / np.maximum(area, 1)
        passes: dict[tuple[Stitch, bool], list[int]] = {}
        for label in np.flatnonzero(area[1:]) + 1:
            kind = kinds[label]
            thin = breadth[label] < min(1.1 * kind.thread_width, NARROW) * self.px_per_mm
            passes.setdefault((kind, bool(thin)), []).append(int(label))
        bordered = {label for (kind, thin), members in passes.items() for label in members
                    if thin or kind.border or kind.angle_field == "contour"}  # fmt: skip
        contours = None
        if bordered:
            wanted = np.isin(np.arange(count), list(bordered))
            contours = frames.trace_contours(np.where(wanted[labels], labels, 0), count)
        axes = None
        if any(kind.angle_field == "axis" for kind, _ in passes):
            axes = frames.principal_angles(labels, count)
        for (kind, thin), members in passes.items():
            where = np.flatnonzero(np.isin(np.arange(count), members)[labels])
            if thin:
                self._line(where, kind, breadth, contours)
            else:
                self._fill(where, kind, axes, contours, count)

    def _line(self, where: np.ndarray, kind: Stitch, breadth: np.ndarray, contours: frames.Contours) -> None:
        """Regions too narrow for their family: one line of stem stitch along them."""
        frame = frames.following(self.labels, self.depth, where, contours, np.inf)
        half = np.maximum(breadth / 2, 1).astype(np.float32)
        frame = replace(frame, v=(frame.v + np.float32(0.5)) / half[frame.label])
        width = max(float(2 * half[np.unique(frame.label)].mean()), 2.0)
        self._sew(where, frame, replace(kind, sheen=min(kind.sheen, 0.5)), "line", width, 1.0)

    def _fill(self, where: np.ndarray, kind: Stitch, axes, contours: frames.Contours | None, count: int) -> None:
        """Regions filled with their family, and their satin border."""
        width = max(kind.thread_width * self.px_per_mm, 1.0)
        length = max(kind.stitch_length * self.px_per_mm, width)
        rim = where[:0]
        if kind.border:
            edge = 0.8 * width if kind.family == "chenille" else max(3.6 * width, 6.0)
            band = contours.depth.ravel()[where] < edge
            rim, where = where[band], where[~band]
        if kind.angle_field == "contour":
            frame = frames.following(self.labels, self.depth, where, contours, row_pitch(kind, width, length))
        else:
            angles = np.full(count, kind.angle) if kind.angle_field == "constant" else axes + 90 + kind.angle
            frame = frames.straight(self.labels, self.depth, where, angles)
        self._sew(where, frame, kind, kind.family, width, length)
        if len(rim):
            frame = frames.following(self.labels, self.depth, rim, contours, np.inf)
            inner = np.minimum(frame.depth, np.maximum(edge - contours.depth.ravel()[rim], 0))
            frame = replace(frame, u=frame.v, v=frame.u, tx=-frame.ty, ty=frame.tx, depth=inner)
            thread = 0.5 * self.px_per_mm if kind.family == "chenille" else width
            satin = replace(kind, family="satin", density=1.0, sheen=max(kind.sheen, 0.5))
            self._sew(rim, frame, satin, "satin", max(thread, 1.0), 1e6)

    def _sew(
        self, where: np.ndarray, frame: frames.Frame, kind: Stitch, geometry: str, width: float, length: float
    ) -> None:
        """Evaluate one geometry chunk by chunk at the pixels `where` and write it down."""
        flat, draw = self.flat, DRAW[geometry]
        for start in range(0, len(where), CHUNK):
            span = slice(start, start + CHUNK)
            part, place = frame.part(span), where[span]
            threads = draw(part, kind, width, length, self.dice)
            if threads.centre is None:
                self._serrate(part, threads, width)
            else:
                self._leave_out(part, threads, width, kind.angle_field == "contour")
            if kind.pile > 0 and geometry != "chenille":
                threads.height += np.float32(0.02 * kind.pile * min(width, 12)) * self.dice.fuzz(part.x, part.y)
            # threads come up out of the cloth at the region's edge
            ease = np.minimum((part.depth + np.float32(0.7)) / np.float32(0.35 * width + 0.7), 1)
            height = threads.height * (np.float32(0.35) + np.float32(0.65) * ease) * np.float32(kind.relief)
            cover = threads.cover
            flat["height"][place] = height * cover + flat["height"][place] * (1 - cover)
            flat["tx"][place], flat["ty"][place] = threads.tx, threads.ty
            flat["tint"][place], flat["cover"][place] = threads.tint, cover
            if threads.shine is None:
                flat["fibre"][place] = np.float32(kind.sheen) * cover
            else:
                flat["shine"][place] = np.float32(0.3 + 0.7 * kind.sheen) * threads.shine * cover
                if threads.fibre is not None:
                    flat["fibre"][place] = np.float32(kind.sheen) * threads.fibre * cover

    def _leave_out(self, part: frames.Frame, threads: Threads, width: float, inward: bool) -> None:
        """Pieces that stand alone: none whose middle is less than a third of their width inside the region, and none
        where rows along an outline meet those from its other side."""
        along, across = threads.centre
        if inward:  # rows along an outline are counted to the left of its direction
            across = -across
        rows, columns = self.labels.shape
        column = np.clip(np.rint(part.x + along * part.tx - across * part.ty), 0, columns - 1).astype(np.intp)
        row = np.clip(np.rint(part.y + along * part.ty + across * part.tx), 0, rows - 1).astype(np.intp)
        depth = self.depth[row, column]
        inside = (self.labels[row, column] == part.label) & (depth > min(0.33 * width, 8.0))
        if inward:
            inside &= depth > part.depth - across - np.float32(0.2 * width)
        threads.cover *= inside
        threads.height *= inside

    def _serrate(self, part: frames.Frame, threads: Threads, width: float) -> None:
        """Thread ends at a region's edge: each a little shorter or longer than the next."""
        reach = np.float32(min(0.22 * width, 2.2))
        near = np.flatnonzero(part.depth < reach + 1.5)
        if not len(near):
            return
        short = reach * self.dice(threads.thread[near], part.label[near], 41)
        dx, dy = part.tx[near] * short, part.ty[near] * short
        x, y, label = part.x[near], part.y[near], part.label[near]
        rows, columns = self.labels.shape
        lost = np.zeros(len(near), bool)
        for sign in (1, -1):
            column = np.clip(np.rint(x + sign * dx), 0, columns - 1).astype(np.intp)
            row = np.clip(np.rint(y + sign * dy), 0, rows - 1).astype(np.intp)
            lost |= self.labels[row, column] != label
        threads.height[near] *= np.where(lost, np.float32(0.35), 1)
        threads.tint[near] *= np.where(lost & (part.depth[near] < reach), np.float32(0.8), 1)

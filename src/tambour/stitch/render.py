"""Design + stitch + fabric + light -> a lit picture with its height map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from PIL import Image

from tambour.errors import InputError
from tambour.imaging.outlines import Contours, edge_distance, trace_contours
from tambour.imaging.regions import find_regions
from tambour.stitch.fabric import cloud, fabric_surface, pucker
from tambour.stitch.families import DRAW, Dice, Threads, row_pitch
from tambour.stitch.light import Inks, Surface, illuminate
from tambour.stitch.parameters import Fabric, Light, Stitch
from tambour.stitch.thread_frame import ThreadFrame, following, principal_angles, straight

CHUNK = 1 << 15  # pixels evaluated at once: temporaries stay in the cache
DYE = {"sashiko": 0.25}  # how far the cloth between stitches takes the thread's colour; the others: 0.65
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
    light: Light | Sequence[Light] | None = None,
    seed: int = 0,
    px_per_mm: float = 20.0,
    background: str = "auto",
    region_overrides: Mapping[int, Stitch] | None = None,
) -> Rendered:
    """Embroider a flat design.

    Args:
        design: RGB or RGBA, flat colours. Transparent parts are bare fabric.
        stitch, fabric: what it is made of; fabric None is a weak weave in the design's own background colour.
        light: a lamp, or several; the first one's `ambient` counts.
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
    fabric, lights = fabric or Fabric(), (light,) if isinstance(light, Light) else tuple(light or (Light(),))
    if design.mode not in ("RGB", "RGBA"):
        transparent = "transparency" in design.info or design.mode in ("LA", "PA")
        design = design.convert("RGBA" if transparent else "RGB")
    regions = find_regions(np.asarray(design), background, speck=0.08 * min(px_per_mm, 28) ** 2)
    labels, count = regions.labels, len(regions.colours)
    rng = np.random.default_rng([seed, 0x5717C4])
    relief, tone = fabric_surface(fabric, labels.shape, px_per_mm, rng)
    dice, extra = Dice(rng), np.random.default_rng([seed, 0xE77A])  # so that what is new changes nothing that was
    if fabric.pucker > 0:
        relief = relief + pucker(labels, fabric.pucker, px_per_mm, extra)
    surface = Surface(relief, *(np.full(labels.shape, value, np.float32) for value in (1, 0, 1)), tone,
                      *(np.zeros(labels.shape, np.float32) for _ in range(4)))  # fmt: skip
    kinds = [(region_overrides or {}).get(label, stitch) for label in range(count)]
    _Needle(surface, labels, dice, extra, px_per_mm).stitch(kinds)
    cloth = np.asarray(fabric.colour, np.float32) / 255 if fabric.colour else regions.colours[0]
    dye = np.float32([DYE.get(kind.family, 0.65) for kind in kinds])
    ground = cloth + (regions.colours - cloth) * dye[:, None]
    ground[0] = cloth
    swing = 0.3 + 0.12 * extra.standard_normal((count, 3))
    image = illuminate(surface, labels, Inks(regions.colours, ground, swing.astype(np.float32)), lights)
    fuzz = np.float32([0.0] + [kind.fuzz for kind in kinds[1:]])
    if fuzz.any():
        image = _loose_fibres(image, labels, regions.colours, fuzz, px_per_mm, extra)
    return Rendered(Image.fromarray(image), surface.height, labels > 0, labels)


def _loose_fibres(
    image: np.ndarray, labels: np.ndarray, colours: np.ndarray, fuzz: np.ndarray, px_per_mm: float, rng
) -> np.ndarray:
    """Thin curved hairs in the threads' colours, also over the edges of regions; `fuzz` (R + 1,) by label."""
    count = int(min(3.0 * labels.size / px_per_mm**2, 20_000))
    y, x = rng.integers(0, labels.shape[0], count), rng.integers(0, labels.shape[1], count)
    bend, chance = rng.standard_normal((2, count, 1)), rng.random(count)
    angle, size = rng.uniform(0, 2 * np.pi, count), rng.uniform(0.3, 1.3, count) * px_per_mm
    label = labels[y, x]
    grown = np.flatnonzero(chance < fuzz[label])
    t = np.linspace(0, 1, 7)
    way = angle[:, None] + bend[0] * t + 0.8 * bend[1] * t * t
    dots = np.stack([x[:, None] + np.cumsum(np.cos(way), 1) * size[:, None] / 7,
                     y[:, None] + np.cumsum(np.sin(way), 1) * size[:, None] / 7], 2)  # fmt: skip
    dots = np.int32(np.round(dots * 16))
    hairy = image.copy()
    for light in (0.75, 1.15):
        for name in np.unique(label[grown]):
            mine = grown[(label[grown] == name) & ((grown & 1) == (light > 1))]
            ink = tuple(float(c) for c in np.clip(255 * (colours[name] * light + 0.06), 0, 250))
            cv2.polylines(hairy, list(dots[mine]), False, ink, 1, cv2.LINE_AA, shift=4)
    strength = float(np.clip(px_per_mm / 40, 0.15, 0.6))  # a fibre is thinner than a pixel
    return cv2.addWeighted(image, 1 - strength, hairy, strength, 0)


class _Needle:
    """Writes threads over the cloth of `surface`, region by region."""

    def __init__(
        self, surface: Surface, labels: np.ndarray, dice: Dice, rng: np.random.Generator, px_per_mm: float
    ) -> None:
        self.labels, self.dice, self.px_per_mm = labels, dice, px_per_mm
        self.rng, self.clouds = rng, {}
        self.flat = {name: getattr(surface, name).reshape(-1) for name in Surface.__dataclass_fields__}
        self.depth = edge_distance(labels)

    def cloud(self, name: str, mm: float) -> np.ndarray:
        """A smooth random field over the flat pixels with blobs of `mm`, made when first asked for."""
        if name not in self.clouds:
            self.clouds[name] = cloud(self.labels.shape, self.rng, max(mm * self.px_per_mm, 3.0)).ravel()
        return self.clouds[name]

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
            contours = trace_contours(np.where(wanted[labels], labels, 0), count)
        axes = None
        if any(kind.angle_field == "axis" for kind, _ in passes):
            axes = principal_angles(labels, count)
        for (kind, thin), members in passes.items():
            where = np.flatnonzero(np.isin(np.arange(count), members)[labels])
            if thin:
                self._line(where, kind, breadth, contours)
            else:
                self._fill(where, kind, axes, contours, count)

    def _line(self, where: np.ndarray, kind: Stitch, breadth: np.ndarray, contours: Contours) -> None:
        """Regions too narrow for their family: one line of stem stitch along them."""
        frame = following(self.labels, self.depth, where, contours, np.inf)
        half = np.maximum(breadth / 2, 1).astype(np.float32)
        frame = replace(frame, v=(frame.v + np.float32(0.5)) / half[frame.label])
        width = max(float(2 * half[np.unique(frame.label)].mean()), 2.0)
        self._sew(where, frame, replace(kind, sheen=min(kind.sheen, 0.5)), "line", width, 1.0)

    def _fill(self, where: np.ndarray, kind: Stitch, axes, contours: Contours | None, count: int) -> None:
        """Regions filled with their family, and their satin border."""
        width = max(kind.thread_width * self.px_per_mm, 1.0)
        length = max(kind.stitch_length * self.px_per_mm, width)
        rim = where[:0]
        if kind.border:
            edge = 0.8 * width if kind.family == "chenille" else max(3.6 * width, 6.0)
            band = contours.depth.ravel()[where] < edge
            rim, where = where[band], where[~band]
        if kind.angle_field == "contour":
            frame = following(self.labels, self.depth, where, contours, row_pitch(kind, width, length))
        else:
            angles = np.full(count, kind.angle) if kind.angle_field == "constant" else axes + 90 + kind.angle
            frame = straight(self.labels, self.depth, where, angles)
        if kind.unevenness > 0:
            frame = self._by_hand(frame, where, kind, width, length)
        self._sew(where, frame, kind, kind.family, width, length)
        if len(rim):
            frame = following(self.labels, self.depth, rim, contours, np.inf)
            inner = np.minimum(frame.depth, np.maximum(edge - contours.depth.ravel()[rim], 0))
            frame = replace(frame, u=frame.v, v=frame.u, tx=-frame.ty, ty=frame.tx, depth=inner)
            thread = 0.5 * self.px_per_mm if kind.family == "chenille" else width
            satin = replace(kind, family="satin", density=1.0, sheen=max(kind.sheen, 0.5))
            self._sew(rim, frame, satin, "satin", max(thread, 1.0), 1e6)

    def _by_hand(self, frame: ThreadFrame, where: np.ndarray, kind: Stitch, width: float, length: float) -> ThreadFrame:
        """Rows that wander and are not equally wide, stitches that are not equally long."""
        pitch, amount = np.float32(row_pitch(kind, width, length)), np.float32(kind.unevenness)
        row = np.floor(frame.v / pitch)
        part = frame.v / pitch - row
        row = row.astype(np.int32)
        squeeze = (1 - part) * self.dice(row, frame.label, 91) + part * self.dice(row + np.int32(1), frame.label, 91)
        v = frame.v + amount * pitch * (np.float32(0.5) * (squeeze - np.float32(0.5)))
        v += amount * np.float32(0.3 * width) * self.cloud("wander", 2.0)[where]
        stretch = np.float32(min(0.16 * length, 0.8 * width)) * self.cloud("stretch", 1.6)[where]
        return replace(frame, u=frame.u + amount * stretch, v=v)

    def _finish(self, part: ThreadFrame, place: np.ndarray, threads: Threads, kind: Stitch, width: float) -> None:
        """Metal, wear, single fibres and the colours of a variegated thread on one chunk."""
        if kind.fuzz > 0 and threads.centre is None:
            streaks = np.float32(kind.fuzz) * self.dice.fuzz(
                part.u * np.float32(0.2), part.v
            )  # fibres, along the thread
            threads.height += np.float32(0.03 * min(width, 16)) * streaks
            threads.tint *= 1 + np.float32(0.11) * streaks
        if kind.metallic > 0:
            metal, period = np.float32(kind.metallic), max(0.34 * width, 2.5)
            wound = np.cos(np.float32(2 * np.pi / period) * part.u + np.float32(2.2 / width) * part.v)
            threads.height += np.float32(0.014 * width * min(width / 8, 1)) * metal * wound
            turn = part.u / np.float32(1.4 * width)
            turn += np.float32(9) * self.dice(threads.thread, part.label, 91)
            ends, turn = np.floor(turn).astype(np.int32), turn - np.floor(turn)
            facet = (1 - turn) * self.dice(threads.thread, ends, 92)
            facet += turn * self.dice(threads.thread, ends + np.int32(1), 92)
            threads.tint *= 1 - metal * (np.float32(0.4) - np.float32(0.45) * facet)
            bright = metal * (np.float32(0.15) + np.float32(0.7) * facet * facet)
            threads.fibre = np.ones_like(facet) if threads.fibre is None else threads.fibre
            threads.shine = bright if threads.shine is None else np.maximum(threads.shine, bright)
        if kind.variegation > 0:
            row = np.floor(part.v / np.float32(width)).astype(np.int32)
            along = part.u / np.float32(9 * self.px_per_mm) + part.v / np.float32(16 * self.px_per_mm)
            along += np.float32(0.12) * self.dice(row, part.label, 93) + self.dice(part.label, 0, 94)
            self.flat["swing"][place] = np.float32(kind.variegation) * np.sin(np.float32(2 * np.pi) * along)
        if kind.wear > 0:
            rubbed = np.clip(self.cloud("wear", 3.0)[place] + np.float32(0.6), 0, 1) * np.float32(kind.wear)
            fuzz = self.dice.fuzz(part.x, part.y)
            place_along = part.u / np.float32(6 * width) + np.float32(9) * self.dice(threads.thread, part.label, 96)
            segment = np.floor(place_along).astype(np.int32)
            gap = np.abs(place_along - segment.astype(np.float32) - np.float32(0.5))
            strand = np.floor(part.v / np.float32(max(0.2 * width, 1.0))).astype(np.int32)  # ends are ragged
            broken = self.dice(threads.thread, segment, 95) < np.float32(0.16) * rubbed
            broken &= gap < np.float32(0.24) + np.float32(0.2) * self.dice(strand, segment, 97)
            threads.height *= 1 - np.maximum(np.float32(0.4) * rubbed, np.float32(0.85) * broken)
            threads.cover = threads.cover * (1 - np.float32(0.15) * rubbed) * ~broken
            threads.height += rubbed * np.float32(0.014 * min(width, 12)) * fuzz
            threads.tint *= 1 + rubbed * (np.float32(0.08) + np.float32(0.05) * fuzz)

    def _sew(
        self, where: np.ndarray, frame: ThreadFrame, kind: Stitch, geometry: str, width: float, length: float
    ) -> None:
        """Evaluate one geometry chunk by chunk at the pixels `where` and write it down."""
        flat, draw = self.flat, DRAW[geometry]
        for start in range(0, len(where), CHUNK):
            span = slice(start, start + CHUNK)
            part, place = frame.part(span), where[span]
            threads = draw(part, kind, width, length, self.dice)
            self._finish(part, place, threads, kind, width)
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

    def _leave_out(self, part: ThreadFrame, threads: Threads, width: float, inward: bool) -> None:
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

    def _serrate(self, part: ThreadFrame, threads: Threads, width: float) -> None:
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

"""Design + stitch + fabric + light -> a lit picture with its height map."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from PIL import Image

from tambour.errors import InputError
from tambour.imaging.outlines import Contours, edge_distance, trace_contours
from tambour.imaging.regions import find_regions
from tambour.stitch.cloth import smooth_noise
from tambour.stitch.fabric import fabric_surface, pucker
from tambour.stitch.families import FAMILIES
from tambour.stitch.light import RegionColours, Surface, illuminate
from tambour.stitch.parameters import Fabric, Light, Stitch
from tambour.stitch.surface import HashNoise, Threads, line
from tambour.stitch.thread_frame import ThreadFrame, contour_frame, principal_angles, straight_frame

CHUNK = 1 << 15  # pixels evaluated at once: temporaries stay in the cache
BORDER = "satin"  # the family of borders
NARROW = 0.66  # mm; regions narrower than this, or than a thread, are drawn as one line of slanted stitches


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
    noise = HashNoise(rng)
    extra = np.random.default_rng([seed, 0xE77A])  # apart, so that effects leave the threads where they are
    if fabric.pucker > 0:
        relief = relief + pucker(labels, fabric.pucker, px_per_mm, extra)
    surface = Surface(relief, *(np.full(labels.shape, value, np.float32) for value in (1, 0, 1)), tone,
                      *(np.zeros(labels.shape, np.float32) for _ in range(4)))  # fmt: skip
    stitches = [(region_overrides or {}).get(label, stitch) for label in range(count)]
    _RegionDrawer(surface, labels, noise, extra, px_per_mm).draw(stitches)
    bare = np.asarray(fabric.colour, np.float32) / 255 if fabric.colour else regions.colours[0]
    dye = np.float32([FAMILIES[each.family].dye for each in stitches])
    cloth = bare + (regions.colours - bare) * dye[:, None]
    cloth[0] = bare
    variegation = 0.3 + 0.12 * extra.standard_normal((count, 3))
    image = illuminate(surface, labels, RegionColours(regions.colours, cloth, variegation.astype(np.float32)), lights)
    fuzz = np.float32([0.0] + [each.fuzz for each in stitches[1:]])
    if fuzz.any():
        image = _draw_loose_fibres(image, labels, regions.colours, fuzz, px_per_mm, extra)
    return Rendered(Image.fromarray(image), surface.height, labels > 0, labels)


def _draw_loose_fibres(
    image: np.ndarray, labels: np.ndarray, colours: np.ndarray, fuzz: np.ndarray, px_per_mm: float, rng
) -> np.ndarray:
    """The image with thin curved fibres in the threads' colours, also over regions' edges; `fuzz` (R + 1,) by label."""
    count = int(min(3.0 * labels.size / px_per_mm**2, 20_000))
    y, x = rng.integers(0, labels.shape[0], count), rng.integers(0, labels.shape[1], count)
    bend, draw = rng.standard_normal((2, count, 1)), rng.random(count)
    angle, size = rng.uniform(0, 2 * np.pi, count), rng.uniform(0.3, 1.3, count) * px_per_mm
    label = labels[y, x]
    visible = np.flatnonzero(draw < fuzz[label])
    t = np.linspace(0, 1, 7)
    heading = angle[:, None] + bend[0] * t + 0.8 * bend[1] * t * t
    points = np.stack([x[:, None] + np.cumsum(np.cos(heading), 1) * size[:, None] / 7,
                     y[:, None] + np.cumsum(np.sin(heading), 1) * size[:, None] / 7], 2)  # fmt: skip
    points = np.int32(np.round(points * 16))
    with_fibres = image.copy()
    for light in (0.75, 1.15):
        for region in np.unique(label[visible]):
            chosen = visible[(label[visible] == region) & ((visible & 1) == (light > 1))]
            colour = tuple(float(c) for c in np.clip(255 * (colours[region] * light + 0.06), 0, 250))
            cv2.polylines(with_fibres, list(points[chosen]), False, colour, 1, cv2.LINE_AA, shift=4)
    strength = float(np.clip(px_per_mm / 40, 0.15, 0.6))  # a fibre is thinner than a pixel
    return cv2.addWeighted(image, 1 - strength, with_fibres, strength, 0)


class _RegionDrawer:
    """Draws the threads of every region into `surface`, over the cloth that is there."""

    def __init__(
        self, surface: Surface, labels: np.ndarray, noise: HashNoise, rng: np.random.Generator, px_per_mm: float
    ) -> None:
        self.labels, self.noise, self.px_per_mm = labels, noise, px_per_mm
        self.rng, self.fields = rng, {}
        self.flat = {name: getattr(surface, name).reshape(-1) for name in Surface.__dataclass_fields__}
        self.depth = edge_distance(labels)

    def smooth_field(self, name: str, mm: float) -> np.ndarray:
        """A smooth random field over the flat pixels with blobs of `mm`, made when first asked for."""
        if name not in self.fields:
            self.fields[name] = smooth_noise(self.labels.shape, self.rng, max(mm * self.px_per_mm, 3.0)).ravel()
        return self.fields[name]

    def draw(self, stitches: list[Stitch]) -> None:
        """Draw every region; `stitches` (R + 1,) by label."""
        labels, count = self.labels, len(stitches)
        area = np.bincount(labels.ravel(), minlength=count)
        # a strip of breadth b has a mean depth of b / 4
        breadth = 4 * np.bincount(labels.ravel(), self.depth.ravel(), count) / np.maximum(area, 1)
        passes: dict[tuple[Stitch, bool], list[int]] = {}
        for label in np.flatnonzero(area[1:]) + 1:
            stitch = stitches[label]
            thin = breadth[label] < min(1.1 * stitch.thread_width, NARROW) * self.px_per_mm
            passes.setdefault((stitch, bool(thin)), []).append(int(label))
        bordered = {label for (stitch, thin), members in passes.items() for label in members
                    if thin or stitch.border or stitch.angle_field == "contour"}  # fmt: skip
        contours = None
        if bordered:
            wanted = np.isin(np.arange(count), list(bordered))
            contours = trace_contours(np.where(wanted[labels], labels, 0), count)
        axes = None
        if any(stitch.angle_field == "axis" for stitch, _ in passes):
            axes = principal_angles(labels, count)
        for (stitch, thin), members in passes.items():
            where = np.flatnonzero(np.isin(np.arange(count), members)[labels])
            if thin:
                self._draw_narrow(where, stitch, breadth, contours)
            else:
                self._draw_filled(where, stitch, axes, contours, count)

    def _draw_narrow(self, where: np.ndarray, stitch: Stitch, breadth: np.ndarray, contours: Contours) -> None:
        """Regions too narrow for their family: one line of slanted stitches along them."""
        thread_frame = contour_frame(self.labels, self.depth, where, contours, np.inf)
        half = np.maximum(breadth / 2, 1).astype(np.float32)
        thread_frame = replace(thread_frame, v=(thread_frame.v + np.float32(0.5)) / half[thread_frame.label])
        width = max(float(2 * half[np.unique(thread_frame.label)].mean()), 2.0)
        self._draw_threads(where, thread_frame, replace(stitch, sheen=min(stitch.sheen, 0.5)), line, width, 1.0)

    def _draw_filled(self, where: np.ndarray, stitch: Stitch, axes, contours: Contours | None, count: int) -> None:
        """Regions filled with their family, and their satin border."""
        family = FAMILIES[stitch.family]
        width = max(stitch.thread_width * self.px_per_mm, 1.0)
        length = max(stitch.stitch_length * self.px_per_mm, width)
        rim = where[:0]
        if stitch.border:
            edge = max(family.border.width * width, family.border.least)
            band = contours.depth.ravel()[where] < edge
            rim, where = where[band], where[~band]
        if stitch.angle_field == "contour":
            pitch = family.row_pitch(stitch, width, length)
            thread_frame = contour_frame(self.labels, self.depth, where, contours, pitch)
        else:
            angles = np.full(count, stitch.angle) if stitch.angle_field == "constant" else axes + 90 + stitch.angle
            thread_frame = straight_frame(self.labels, self.depth, where, angles)
        if stitch.unevenness > 0:
            thread_frame = self._add_unevenness(thread_frame, where, stitch, width, length)
        self._draw_threads(where, thread_frame, stitch, family.draw, width, length, pile_drawn=family.pile_drawn)
        if len(rim):
            outline = contour_frame(self.labels, self.depth, rim, contours, np.inf)
            inner = np.minimum(outline.depth, np.maximum(edge - contours.depth.ravel()[rim], 0))
            across = replace(outline, u=outline.v, v=outline.u, tx=-outline.ty, ty=outline.tx, depth=inner)
            thread = width if family.border.thread is None else family.border.thread * self.px_per_mm
            satin = replace(stitch, family=BORDER, density=1.0, sheen=max(stitch.sheen, 0.5))
            self._draw_threads(rim, across, satin, FAMILIES[BORDER].draw, max(thread, 1.0), 1e6)

    def _add_unevenness(
        self, thread_frame: ThreadFrame, where: np.ndarray, stitch: Stitch, width: float, length: float
    ) -> ThreadFrame:
        """The frame as sewn by hand: rows that wander and are not equally wide, stitches that are not equally long."""
        pitch = np.float32(FAMILIES[stitch.family].row_pitch(stitch, width, length))
        amount, label = np.float32(stitch.unevenness), thread_frame.label
        row = np.floor(thread_frame.v / pitch)
        part = thread_frame.v / pitch - row
        row = row.astype(np.int32)
        squeeze = (1 - part) * self.noise(row, label, 91) + part * self.noise(row + np.int32(1), label, 91)
        v = thread_frame.v + amount * pitch * (np.float32(0.5) * (squeeze - np.float32(0.5)))
        v += amount * np.float32(0.3 * width) * self.smooth_field("wander", 2.0)[where]
        stretch = np.float32(min(0.16 * length, 0.8 * width)) * self.smooth_field("stretch", 1.6)[where]
        return replace(thread_frame, u=thread_frame.u + amount * stretch, v=v)

    def _add_effects(
        self, part: ThreadFrame, place: np.ndarray, threads: Threads, stitch: Stitch, width: float
    ) -> None:
        """Metal, wear, single fibres and the colours of a variegated thread: changes one chunk's threads in place."""
        if stitch.fuzz > 0 and threads.centre is None:
            along_thread = part.u * np.float32(0.2), part.v  # fibres five times as long as wide
            streaks = np.float32(stitch.fuzz) * self.noise.fibre(*along_thread)
            threads.height += np.float32(0.03 * min(width, 16)) * streaks
            threads.tint *= 1 + np.float32(0.11) * streaks
        if stitch.metallic > 0:
            metal, period = np.float32(stitch.metallic), max(0.34 * width, 2.5)
            wound = np.cos(np.float32(2 * np.pi / period) * part.u + np.float32(2.2 / width) * part.v)
            threads.height += np.float32(0.014 * width * min(width / 8, 1)) * metal * wound
            turn = part.u / np.float32(1.4 * width)
            turn += np.float32(9) * self.noise(threads.thread, part.label, 91)
            ends, turn = np.floor(turn).astype(np.int32), turn - np.floor(turn)
            facet = (1 - turn) * self.noise(threads.thread, ends, 92)
            facet += turn * self.noise(threads.thread, ends + np.int32(1), 92)
            threads.tint *= 1 - metal * (np.float32(0.4) - np.float32(0.45) * facet)
            bright = metal * (np.float32(0.15) + np.float32(0.7) * facet * facet)
            threads.fibre = np.ones_like(facet) if threads.fibre is None else threads.fibre
            threads.shine = bright if threads.shine is None else np.maximum(threads.shine, bright)
        if stitch.variegation > 0:
            row = np.floor(part.v / np.float32(width)).astype(np.int32)
            along = part.u / np.float32(9 * self.px_per_mm) + part.v / np.float32(16 * self.px_per_mm)
            along += np.float32(0.12) * self.noise(row, part.label, 93) + self.noise(part.label, 0, 94)
            self.flat["colour_phase"][place] = np.float32(stitch.variegation) * np.sin(np.float32(2 * np.pi) * along)
        if stitch.wear > 0:
            rubbed = np.clip(self.smooth_field("wear", 3.0)[place] + np.float32(0.6), 0, 1) * np.float32(stitch.wear)
            fibres = self.noise.fibre(part.x, part.y)
            place_along = part.u / np.float32(6 * width) + np.float32(9) * self.noise(threads.thread, part.label, 96)
            segment = np.floor(place_along).astype(np.int32)
            gap = np.abs(place_along - segment.astype(np.float32) - np.float32(0.5))
            strand = np.floor(part.v / np.float32(max(0.2 * width, 1.0))).astype(np.int32)  # ends are ragged
            broken = self.noise(threads.thread, segment, 95) < np.float32(0.16) * rubbed
            broken &= gap < np.float32(0.24) + np.float32(0.2) * self.noise(strand, segment, 97)
            threads.height *= 1 - np.maximum(np.float32(0.4) * rubbed, np.float32(0.85) * broken)
            threads.cover = threads.cover * (1 - np.float32(0.15) * rubbed) * ~broken
            threads.height += rubbed * np.float32(0.014 * min(width, 12)) * fibres
            threads.tint *= 1 + rubbed * (np.float32(0.08) + np.float32(0.05) * fibres)

    def _draw_threads(
        self,
        where: np.ndarray,
        thread_frame: ThreadFrame,
        stitch: Stitch,
        draw: Callable[..., Threads],
        width: float,
        length: float,
        *,
        pile_drawn: bool = False,
    ) -> None:
        """Call one draw function chunk by chunk and write its threads into the surface at the flat pixels `where`."""
        flat = self.flat
        for start in range(0, len(where), CHUNK):
            span = slice(start, start + CHUNK)
            part, place = thread_frame.part(span), where[span]
            threads = draw(part, stitch, width, length, self.noise)
            self._add_effects(part, place, threads, stitch, width)
            if threads.centre is None:
                self._roughen_ends(part, threads, width)
            else:
                self._drop_cut_pieces(part, threads, width, stitch.angle_field == "contour")
            if stitch.pile > 0 and not pile_drawn:
                threads.height += np.float32(0.02 * stitch.pile * min(width, 12)) * self.noise.fibre(part.x, part.y)
            # threads come up out of the cloth at the region's edge
            ease = np.minimum((part.depth + np.float32(0.7)) / np.float32(0.35 * width + 0.7), 1)
            height = threads.height * (np.float32(0.35) + np.float32(0.65) * ease) * np.float32(stitch.relief)
            cover = threads.cover
            flat["height"][place] = height * cover + flat["height"][place] * (1 - cover)
            flat["tx"][place], flat["ty"][place] = threads.tx, threads.ty
            flat["tint"][place], flat["cover"][place] = threads.tint, cover
            if threads.shine is None:
                flat["fibre"][place] = np.float32(stitch.sheen) * cover
            else:
                flat["shine"][place] = np.float32(0.3 + 0.7 * stitch.sheen) * threads.shine * cover
                if threads.fibre is not None:
                    flat["fibre"][place] = np.float32(stitch.sheen) * threads.fibre * cover

    def _drop_cut_pieces(self, part: ThreadFrame, threads: Threads, width: float, inward: bool) -> None:
        """Remove pieces that stand alone (beads, seeds) if their middle is less than a third of their width inside the
        region, and where rows along an outline meet those from its other side."""
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

    def _roughen_ends(self, part: ThreadFrame, threads: Threads, width: float) -> None:
        """Lower and darken thread ends at a region's edge, each a little further in or out than the next."""
        reach = np.float32(min(0.22 * width, 2.2))
        near = np.flatnonzero(part.depth < reach + 1.5)
        if not len(near):
            return
        short = reach * self.noise(threads.thread[near], part.label[near], 41)
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

"""Rows that follow borders: strips of a photo along its outlines, laid along those of a design (method, section 9).

Where stitches run along the border of their region (orientation "border"), a place is given by how deep it lies under
the outline and how far along: rows keep their depth, and along a row stitches keep their length round bends
(`stitch.thread_frame.contour_frame`). So strips of the photo are cut along its outlines, and each is bent along the
outline that it goes to. Strips lie side by side as in image quilting (`quilt`): each is chosen so that it differs least
from its neighbour, and cut along the path where they differ least. What lies deeper than the photo's strips is laid in
further ones, that match those above.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

from tambour.guides.photo.geometry import RegionGeometry
from tambour.guides.photo.pieces import MOST, PieceBank, every_other
from tambour.guides.photo.relief import Relief
from tambour.guides.photo.seams import before_seam
from tambour.imaging.nearest import nearest_dots
from tambour.imaging.outlines import Ring, trace_rings

_SMOOTH = 5.0  # px, of outlines
_GOOD = 0.4  # of a strip, that shows stitches
_RIM, _SHALLOW = 5, 3.5  # px under a border, of which the first may tell nothing; of which the last do
_SHADE, _FADE = 0.5, 0.6  # of the shallow px' contrast, to which rows go on there; what is left a px further
_AT_ONCE = 1 << 14  # px that OpenCV maps in one row
_TRUE = 2.5  # px that a place may lie nearer to another outline, or farther, than its own says
# prices: of nothing to be seen, of being used already, of light from the other side; how much a strip's own contrast
# counts as a difference
_HOLE, _USED, _TURNED, _STRENGTH = 0.3, 0.02, 0.2, 0.15


@dataclass(frozen=True)
class _Curve:
    """An outline and the curves parallel to it, inside.

    Attributes:
        ring: the outline.
        inwards: (n, 2) unit normal.
        whole: radians that it turns in all.
    """

    ring: Ring
    inwards: np.ndarray
    whole: float

    @classmethod
    def of(cls, ring: Ring) -> _Curve:
        inwards = np.stack([ring.tangent[:, 1], -ring.tangent[:, 0]], 1)
        turns = (ring.turn[-1] - ring.turn[0]) / (2 * math.pi)
        return cls(ring, inwards, 2 * math.pi * (1 if turns > 0 else -1))

    def lengths(self, depth: np.ndarray) -> np.ndarray:
        """(V, 3n) how long the curves at these depths (V,) are up to each point, over three rounds."""
        arc, turn = (
            np.concatenate([values - whole, values, values + whole])
            for values, whole in ((self.ring.arc, self.ring.length), (self.ring.turn, self.whole))
        )
        return np.maximum.accumulate(arc - depth[:, None] * turn, 1)

    def places(self, depth: np.ndarray, lengths: np.ndarray, at: np.ndarray, half: int, every: int = 1) -> np.ndarray:
        """(2, N, V, 2 half / every) x and y of what lies up to `half` px along the curves around points `at` (N,)."""
        count, along = len(self.inwards), np.arange(-half, half, every) + 0.5
        order = np.arange(3 * count)
        wanted = (lengths[:, count + at, None] + along).reshape(len(depth), -1)
        sample = np.stack([np.interp(row, known, order) for row, known in zip(wanted, lengths, strict=True)])
        first = sample.astype(int)
        share = (sample - first).astype(np.float32)[..., None]
        deep = depth.astype(np.float32)[:, None, None]

        def curves(number: np.ndarray) -> np.ndarray:
            return self.ring.points[number % count] + deep * self.inwards[number % count]

        spots = curves(first) * (1 - share) + curves(first + 1) * share
        return spots.reshape(len(depth), len(at), len(along), 2).transpose(3, 1, 0, 2).copy()


def _mapped(plane: np.ndarray, x: np.ndarray, y: np.ndarray, way: int = cv2.INTER_LINEAR) -> np.ndarray:
    """A plane (H, W) float32 at any number of places x and y of one shape; beyond its border, what lies there."""
    flat = [part.astype(np.float32).reshape(-1) for part in (x, y)]
    out = np.empty(flat[0].shape, np.float32)
    for start in range(0, len(out), _AT_ONCE):
        here = np.s_[start : start + _AT_ONCE]
        out[here] = cv2.remap(plane, *(part[None, here] for part in flat), way, borderMode=cv2.BORDER_REPLICATE)[0]
    return out.reshape(x.shape)


@dataclass
class _LitStrips:
    """Strips of one kind; beside their contrast the side that their light comes from counts.

    Attributes:
        bank: their origins are the number of the curve, the point on it, and the depth of the first row.
        directions: (N, 2) unit direction of the curve on the photo.
        mean_power: mean square of their contrast, where they show stitches.
    """

    bank: PieceBank
    directions: np.ndarray
    mean_power: float


@dataclass
class _Row:
    """What lies along one curve of a design, from one depth on: pixels (M,), and where on the curve they are.

    Attributes:
        lengths: of the curve, from `first` on.
        first: depth of the first row, px.
        rows, columns: of the pixels.
        depth: px under the border.
        arc, turn: of the outline at their nearest point; see `frames.Contours`.
    """

    curve: _Curve
    lengths: np.ndarray
    first: int
    rows: np.ndarray
    columns: np.ndarray
    depth: np.ndarray
    arc: np.ndarray
    turn: np.ndarray

    def along(self, at: int) -> np.ndarray:
        """(M,) px along its own curve from point `at` to each pixel."""
        ring = self.curve.ring
        arc, turn = self.arc - ring.arc[at], self.turn - ring.turn[at]
        rounds = np.round(arc / ring.length)
        return arc - rounds * ring.length - self.depth * (turn - rounds * self.curve.whole)


@dataclass
class Strips:
    """The strips of one relief, `side` px long, to be laid on designs."""

    relief: Relief
    side: int
    _curves: list[_Curve] = field(init=False, repr=False)
    _lengths: dict[tuple[int, int], np.ndarray] = field(init=False, repr=False, default_factory=dict)
    _strips: list[_LitStrips] = field(init=False, repr=False)
    _under: float = field(init=False, repr=False, default=0.0)  # px, of the curves from the region's border
    _rim: float = field(init=False, repr=False)  # contrast towards which rows go on to the border
    _height: int = field(init=False, repr=False)
    _planes: tuple[np.ndarray, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        relief = self.relief
        planes = (relief.contrast, relief.clear, relief.distance)
        self._planes = tuple(plane.astype(np.float32) for plane in planes)
        deepest = float(relief.distance[relief.clear].max())
        self._height = max(4, int(min(self.side, deepest)) // 2 * 2)
        shallow = relief.contrast[relief.clear & (relief.distance < _SHALLOW)]
        self._rim = _SHADE * float(shallow.mean()) if len(shallow) else 0.0
        count, labels = cv2.connectedComponents(relief.clear.astype(np.uint8))
        rings = [ring for ring in trace_rings(labels, count, _SMOOTH) if ring.length >= self.side / 2]
        self._curves = [_Curve.of(ring) for ring in rings]
        if rings:
            inside = np.concatenate([curve.ring.points + 5 * curve.inwards for curve in self._curves])
            self._under = float(np.median(_mapped(self._planes[2], *inside.T))) - 5
        first, later = [], []
        for number, curve in enumerate(self._curves):
            for top in range(0, max(1, int(deepest) - self._height // 2), 2):
                points = np.arange(0, len(curve.inwards), 1 if top == 0 else 2)
                spots = np.stack([np.full_like(points, number), points, np.full_like(points, top)], 1)
                (later if top else first).append(spots)
        rng = np.random.default_rng(0)
        first, later = (rng.permutation(np.concatenate(s) if s else np.zeros((0, 3), int)) for s in (first, later))
        later = np.concatenate([first[: MOST // 4], later])
        self._strips = [self._cut_all(first), self._cut_all(later)]

    @property
    def _depths(self) -> np.ndarray:
        return np.arange(self._height) + 0.5

    def _cut(
        self, number: int, top: int, at: Sequence[int], way: int = cv2.INTER_LINEAR, every: int = 1
    ) -> tuple[np.ndarray, ...]:
        """Strips about points of a curve, from depth `top` on: places (2, N, V, side), contrast, clear (N, V, side).

        Of both sides, every px or every few.
        """
        depth = self._depths + top - self._under
        if (number, top) not in self._lengths:
            self._lengths[number, top] = self._curves[number].lengths(depth)
        places = self._curves[number].places(depth, self._lengths[number, top], np.asarray(at), self.side // 2, every)
        inwards, places = np.gradient(places, axis=2)[:, :, ::every], places[:, :, ::every].copy()
        depth = (self._depths + top)[::every, None]
        # smoothed outlines are no exact ones: once more, where the distance is the right one
        clear, distance = (_mapped(plane, *places) for plane in self._planes[1:])
        places += inwards * np.clip(depth - distance, -_TRUE, _TRUE) * (clear > 0.99)
        contrast = _mapped(self._planes[0], *places, way)
        clear, distance = (_mapped(plane, *places) for plane in self._planes[1:])
        return places, contrast, (clear > 0.99) & (abs(distance - depth) < _TRUE)

    def _cut_all(self, spots: np.ndarray) -> _LitStrips:
        """The strips at `spots` (N, 3) that show enough stitches, `MOST` of them at most."""
        spots, groups = spots[: 2 * MOST], defaultdict(list)
        for index, (number, _, top) in enumerate(spots):
            groups[number, top].append(index)
        size = self._height // 2 * (self.side // 2)
        contrast, seen = np.zeros((2, len(spots), size), np.float32)
        for (number, top), members in groups.items():
            _, values, clear = self._cut(number, top, spots[members, 1], every=2)
            contrast[members] = (values * clear).reshape(len(members), -1)
            seen[members] = clear.reshape(len(members), -1)
        good = np.flatnonzero(seen.mean(1) >= _GOOD)[:MOST]
        contrast, seen = contrast[good], seen[good]
        directions = [self._curves[number].ring.tangent[point] for number, point, _ in spots[good]]
        bank = PieceBank(spots[good], contrast, 1 - seen, _STRENGTH, _HOLE)
        return _LitStrips(bank, np.reshape(directions, (-1, 2)).astype(np.float32), bank.mean_power)

    def lay(
        self, region: RegionGeometry, contrast: np.ndarray, done: np.ndarray, rng: np.random.Generator
    ) -> Iterator[float]:
        """Lay strips along a design's outlines, into `contrast` (H, W) float32 and `done` (H, W) bool.

        Yields the share of outlines that are done.
        """
        if not all(len(strips.bank) for strips in self._strips):
            return
        for strips in self._strips:
            strips.bank.forget_uses()
        rings = list(trace_rings(region.labels, len(region.colours), _SMOOTH))
        if not rings:
            return
        apart, nearest, which = nearest_dots(np.concatenate([ring.dots for ring in rings]), region.labels.shape)
        ring_of = np.repeat(np.arange(len(rings)), [len(ring.dots) for ring in rings])[which]
        point_of = np.concatenate([np.arange(len(ring.dots)) for ring in rings])[which]
        # not where the picture ends: that is no border
        known = (region.labels > 0) & (np.abs(apart - region.distance) < _TRUE)
        number = np.where(known, ring_of[nearest], -1)
        for one, ring in enumerate(rings):
            yield one / len(rings)
            rows, columns = np.nonzero(number == one)
            depth = region.distance[rows, columns]
            if ring.length < self.side / 2 or not len(rows) or depth.max() < 2 * _RIM:  # too narrow for a row
                continue
            point = point_of[nearest[rows, columns]]
            away = np.stack([columns, rows], 1) - ring.points[point]
            arc = ring.arc[point] + (away * ring.tangent[point]).sum(1)
            curve = _Curve.of(ring)
            for first in range(0, int(depth.max()) + 1, self._height - self._over):
                here = (depth >= first) & (depth < first + self._height)
                if here.any():
                    pixels = (rows[here], columns[here], depth[here], arc[here], ring.turn[point[here]])
                    row = _Row(curve, curve.lengths(self._depths + first), first, *pixels)
                    self._lay_row(row, contrast, done, rng)

    @property
    def _over(self) -> int:
        return max(4, self._height // 3)  # px of a strip that lie under the one above

    def _lay_row(self, row: _Row, contrast: np.ndarray, done: np.ndarray, rng: np.random.Generator) -> None:
        """Strips once round the curve, so close that none of their rows has a gap."""
        count = len(row.curve.inwards)
        last = min(self._height, max(1, int(row.depth.max()) - row.first)) - 1
        at, gone = int(rng.integers(count)), 0
        while gone < count:
            self._lay_strip(row, at, contrast, done, rng)
            run = (row.lengths[[0, last], count + at :][:, :count] - row.lengths[[0, last], count + at][:, None]).max(0)
            step = max(1, int(np.searchsorted(run, self.side - self.side // 3)))
            at, gone = (at + step) % count, gone + step

    def _lay_strip(self, row: _Row, at: int, contrast: np.ndarray, done: np.ndarray, rng: np.random.Generator) -> None:
        side, height, half, over = self.side, self._height, self.side // 2, self.side // 3
        along = row.along(at)
        near = abs(along) < half - 1
        rows, columns = row.rows[near], row.columns[near]
        if done[rows, columns].all():
            return
        x, y = (along[near] + half - 0.5).astype(np.float32), (row.depth[near] - row.first - 0.5).astype(np.float32)
        own = np.zeros((height, side), np.uint8)
        own[np.clip(np.rint(y).astype(int), 0, height - 1), np.clip(np.rint(x).astype(int), 0, side - 1)] = 1
        own = cv2.morphologyEx(own, cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8)) > 0
        places = row.curve.places(self._depths + row.first, row.lengths, np.array([at]), half)[:, 0]
        old = _mapped(contrast, *places)
        known = (_mapped(done.astype(np.float32), *places) > 0.99) & own
        way = row.curve.ring.tangent[at]
        number, point, top = self._choose(self._strips[row.first > 0], old, known, own, way, rng)
        places, new, clear = self._cut(number, top, [point], cv2.INTER_CUBIC)
        new, clear = new[0], clear[0]
        if top == 0:  # the photo's first px under a border tell nothing: the first row that does stands for them
            for depth in range(min(_RIM, height - 1) - 1, -1, -1):
                empty = clear[depth + 1] & ~clear[depth]
                below = cv2.blur(new[depth + 1][None], (3, 1))[0]
                new[depth, empty] = (self._rim + _FADE * (below - self._rim))[empty]
                clear[depth] |= empty
        error = np.where(known & clear, np.square(old - new), 0)
        fresh, free = clear.copy(), known.copy()
        if known[:, :over].any():
            fresh[:, :over] &= ~(before_seam(error[:, :over]) & known[:, :over])
        if known[:, -over:].any():
            fresh[:, -over:] &= before_seam(error[:, -over:]) | ~known[:, -over:]
        free[:, :over], free[:, -over:] = False, False
        if row.first:
            above = self._over
            fresh[:above] &= ~(before_seam(error[:above].T).T & known[:above])
            free[:above] = False
        fresh &= ~free  # what lies in the middle already stays

        share, was = _mapped(fresh.astype(np.float32), x, y), done[rows, columns]
        share = np.where(was, share, share > 0.5)
        from_photo = (_mapped(plane[0], x, y) for plane in places)  # so that the photo is mapped once and stays sharp
        laid = _mapped(self._planes[0], *from_photo, cv2.INTER_CUBIC)
        laid = np.where((top == 0) & (y < _RIM), _mapped(new, x, y), laid)
        contrast[rows, columns] += share * (laid - contrast[rows, columns])
        done[rows, columns] |= share > 0.5

    def _choose(self, strips: _LitStrips, there, known, own, direction, rng: np.random.Generator) -> np.ndarray:
        """One of the cheapest strips for a place: (3,), as in `_LitStrips.bank`; all planes (height, side)."""
        bank, wanted = strips.bank, every_other(own)
        price = _USED * bank.used + _TURNED * (1 - strips.directions @ direction) / 2
        surcharge = strips.mean_power * float(wanted.sum()) * price
        return bank.choose(every_other(there), every_other(known), wanted, (surcharge,), rng)

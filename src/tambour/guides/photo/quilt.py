"""A photo's own stitches laid out on any design: image quilting that knows where it is (method, section 9).

Image quilting (Efros and Freeman 2001) lays pieces of a texture side by side, each chosen so that it differs least from
what lies there already, and cuts them along the path where they differ least. Here pieces of a photo's relief
(`relief`) are laid so; and besides

- they are turned into the direction in which the design's region runs, unless stitches keep that of the picture;
- they come from places as far from a border of colour as the place they go to;
- a piece fills one region alone, and one that was used already has a price (as in Kaspar et al. 2015);
- relief is laid, in the light of the design's own colours, which so stay what they are.

Where stitches follow the borders of their region, strips along its outlines come first (`strips`); pieces fill
what these leave.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass, field

import cv2
import numpy as np

from tambour.guides.photo.geometry import RegionGeometry, region_geometry
from tambour.guides.photo.pieces import MOST, PieceBank, every_other
from tambour.guides.photo.relief import Relief
from tambour.guides.photo.seams import before_seam
from tambour.guides.photo.strips import Strips
from tambour.guides.photo.yarn import in_stitches, raised
from tambour.imaging.texture import dominant_period

BINS = 16  # directions over half a turn
SIDES = (48, 84)  # px of a piece: three repeats of the stitches within these
_FAR = 12.0  # px from a border; beyond, a place is simply inside, and rows go on as they do beside it
_COVER = 0.4  # of a piece, that shows stitches
# prices: of other distances from the border (squared px), of nothing to be seen, of being used already
_PLACE, _HOLE, _USED = 0.002, 0.3, 0.02
_STRENGTH = 0.5  # how much a piece's own contrast counts as a difference; 1 prefers flat pieces


@dataclass(frozen=True)
class _Turned:
    """The relief turned by one angle, all (h, w): contrast, what is clear, distance from the border, direction."""

    contrast: np.ndarray
    clear: np.ndarray
    distance: np.ndarray
    direction: np.ndarray


@dataclass
class _TurnedPieces:
    """The pieces that run in one direction; beside their contrast their distance from the border counts.

    Attributes:
        bank: their origins are the number of the turned relief, row and column of the upper left corner.
        distance, distance_power: (N, M) px from the border at every fourth px, and its square; 0 where nothing is seen.
        seen: (N, M) float32, 1 where there is something to see.
    """

    bank: PieceBank
    distance: np.ndarray
    distance_power: np.ndarray
    seen: np.ndarray

    def misplaced(self, distance: np.ndarray, own: np.ndarray) -> np.ndarray:
        """(N,) squared differences of the distance from the border, summed over the region's own px."""
        lies, inside = distance[::4, ::4].ravel(), own[::4, ::4].ravel().astype(np.float32)
        off = self.distance_power @ inside - 2 * (self.distance @ lies)
        return off + self.seen @ (lies * lies).astype(np.float32)


@dataclass
class Quilt:
    """The pieces of one relief, to be laid on designs.

    Attributes:
        side: of a piece, px.
    """

    relief: Relief
    side: int = field(init=False)
    _power: float = field(init=False, repr=False)  # mean square of its contrast
    _strips: Strips | None = field(init=False, repr=False)
    _turned: list[_Turned] = field(init=False, repr=False)
    _pieces: dict[int, _TurnedPieces | None] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._power = float(np.square(self.relief.contrast[self.relief.clear]).mean())
        grey = np.clip(self.relief.contrast * 100 + 128, 0, 255).astype(np.uint8)
        period = dominant_period(np.repeat(grey[..., None], 3, 2), self.relief.clear)[0]
        most = min(SIDES[1], *self.relief.clear.shape)
        self.side = int(np.clip(3 * period, min(SIDES[0], most), most)) // 4 * 4
        self._strips = Strips(self.relief, self.side) if self.relief.orientation == "border" else None
        turning = self.relief.orientation != "picture"
        self._turned = [
            self._turn(step * math.pi / BINS) for step in (range(-BINS // 2, BINS // 2) if turning else [0])
        ]

    def _turn(self, angle: float) -> _Turned:
        relief = self.relief
        twice = 2 * relief.angle
        planes = (relief.contrast, relief.clear, np.minimum(relief.distance, _FAR), np.cos(twice), np.sin(twice))
        planes = [plane.astype(np.float32) for plane in planes]
        height, width = relief.contrast.shape
        if angle:
            side = math.ceil(math.hypot(height, width))
            turn = cv2.getRotationMatrix2D((width / 2 - 0.5, height / 2 - 0.5), -math.degrees(angle), 1)
            turn[:, 2] += (side - width) / 2, (side - height) / 2
            ways = [cv2.INTER_CUBIC] + [cv2.INTER_LINEAR] * 4
            planes = [cv2.warpAffine(p, turn, (side, side), flags=way) for p, way in zip(planes, ways, strict=True)]
        clear = planes[1] > 0.99
        way = 0.5 * np.arctan2(planes[4], planes[3]) + angle
        direction = (np.round(way / np.pi * BINS).astype(int) % BINS).astype(np.uint8)
        if self.relief.orientation == "picture":
            direction[:] = 0
        return _Turned(planes[0] * clear, clear, planes[2], direction)

    def _in_direction(self, direction: int) -> _TurnedPieces | None:
        """The pieces that run in a direction; None: there are none."""
        if direction in self._pieces:
            return self._pieces[direction]
        side, half, found = self.side, self.side // 2, []
        for number, turned in enumerate(self._turned):
            cover = cv2.blur(turned.clear.astype(np.float32), (side, side), borderType=cv2.BORDER_CONSTANT)
            good = turned.clear & (cover >= _COVER) & (turned.direction == direction)
            good[:half], good[:, :half] = False, False
            good[good.shape[0] - half + 1 :], good[:, good.shape[1] - half + 1 :] = False, False
            rows, columns = np.nonzero(good)
            found.append(np.stack([np.full(len(rows), number), rows - half, columns - half], 1))
        at = np.concatenate(found)
        at = at[np.random.default_rng(direction).permutation(len(at))[:MOST]]
        pieces = None
        if len(at):

            def cut(name: str, step: int) -> np.ndarray:
                planes = [getattr(turned, name) for turned in self._turned]
                windows = [planes[n][top : top + side : step, left : left + side : step] for n, top, left in at]
                return np.stack(windows).reshape(len(at), -1).astype(np.float32)

            contrast, distance, seen = cut("contrast", 2), cut("distance", 4), cut("clear", 4)
            bank = PieceBank(at, contrast, 1 - cut("clear", 2), _STRENGTH, _HOLE)
            pieces = _TurnedPieces(bank, distance * seen, np.square(distance) * seen, seen)
        self._pieces[direction] = pieces
        return pieces

    def _nearest(self, direction: int) -> _TurnedPieces | None:
        """The pieces of a direction, or of the next one that has some."""
        for step in sorted(range(-BINS // 2, BINS // 2), key=abs):
            pieces = self._in_direction((direction + step) % BINS)
            if pieces is not None:
                return pieces
        return None

    def lay(self, region: RegionGeometry, seed: int = 0) -> Generator[float, None, tuple[np.ndarray, np.ndarray]]:
        """Contrast (H, W) float32 on a design's places, and where there is any, (H, W) bool.

        Yields the share of the picture that is laid, row by row. The same seed gives the same layout.
        """
        side, over = self.side, self.side // 3
        rng = np.random.default_rng([seed, 0x5A7C])
        twice = 2 * region.angles[self.relief.orientation]
        label, distance, cosine, sine = (
            np.pad(plane, side)
            for plane in (region.labels, np.minimum(region.distance, _FAR), np.cos(twice), np.sin(twice))
        )
        contrast, done = np.zeros(label.shape, np.float32), np.zeros(label.shape, bool)
        for pieces in self._pieces.values():
            if pieces is not None:
                pieces.bank.forget_uses()
        inner = np.s_[side:-side, side:-side]
        if self._strips is not None:
            for share in self._strips.lay(region, contrast[inner], done[inner], rng):
                yield share / 2
        before = 0.0 if self._strips is None else 0.5
        laid = cv2.erode(done.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0  # that stays
        for top in range(0, label.shape[0] - side + 1, side - over):
            yield before + (1 - before) * top / label.shape[0]
            for left in range(0, label.shape[1] - side + 1, side - over):
                box = np.s_[top : top + side, left : left + side]
                here = label[box]
                for number in np.unique(here[(here > 0) & ~done[box]]):
                    own = here == number
                    need = own & ~done[box]
                    way = 0.5 * math.atan2(sine[box][need].sum(), cosine[box][need].sum())
                    pieces = self._nearest(round(way / math.pi * BINS) % BINS)
                    if pieces is not None:
                        known = done[box] & own
                        chosen = self._choose(pieces, contrast[box], known, need, distance[box] * own, own, rng)
                        self._paste(chosen, contrast[box], known, own & ~laid[box], over)
                        done[box] |= own
        return contrast[inner], done[inner]

    def _choose(self, pieces: _TurnedPieces, there, known, need, distance, own, rng: np.random.Generator) -> np.ndarray:
        """One of the cheapest pieces for a place: (3,), as in `_TurnedPieces.bank`; all planes (side, side)."""
        bank, known = pieces.bank, every_other(known)
        wanted = every_other(need) + known
        surcharges = (
            _PLACE * pieces.misplaced(distance, own),
            _USED * self._power * float(wanted.sum()) * bank.used,
        )
        return bank.choose(every_other(there), known, wanted, surcharges, rng)

    def _paste(self, chosen: np.ndarray, old: np.ndarray, known: np.ndarray, own: np.ndarray, over: int) -> None:
        """Lay a piece into `old`, cut along the path where both differ least."""
        number, top, left = chosen
        piece = np.s_[top : top + self.side, left : left + self.side]
        new, clear = self._turned[number].contrast[piece], self._turned[number].clear[piece]
        fresh = own & (clear | ~known)
        error = np.where(known, np.square(old - new), 0)
        if known[:, :over].any():
            fresh[:, :over] &= ~(before_seam(error[:, :over]) & known[:, :over])
        if known[:over].any():
            fresh[:over] &= ~(before_seam(error[:over].T).T & known[:over])
        share = np.where(known, cv2.GaussianBlur(fresh.astype(np.float32), (0, 0), 1.0), 1) * own
        old += share * (new - old)


def stitched(
    quilt: Quilt, flat: np.ndarray, inside: np.ndarray, fabric: tuple[int, int, int], seed: int = 0
) -> Generator[float, None, np.ndarray]:
    """A flat design in the stitches of a photo: (H, W, 3) uint8. Yields the share that is done.

    Args:
        flat: (H, W, 3) uint8.
        inside: (H, W) bool, where it is stitched.
        fabric: RGB of the fabric, that shows through open work.
    """
    relief = quilt.relief
    region = region_geometry(flat, inside)
    contrast, done = yield from quilt.lay(region, seed)
    if relief.rim is not None:
        contrast = raised(contrast, relief, region)
    lit = in_stitches(contrast, relief.tones, relief.cover, flat, inside, fabric)
    return np.where(done[..., None], lit, flat)

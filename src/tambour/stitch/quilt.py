"""A photo's own stitches laid out on any design: image quilting that knows where it is (ours; not in the paper).

Image quilting (Efros and Freeman 2001) lays pieces of a texture side by side, each chosen so that it differs least from
what lies there already, and cuts them along the path where they differ least. Here pieces of a photo's relief
(`stitch.relief`) are laid so; and besides

- they are turned into the direction in which the design's region runs, unless stitches keep that of the picture;
- they come from places as far from a border of colour as the place they go to;
- a piece fills one region alone, and one that was used already has a price (as in Kaspar et al. 2015);
- relief is laid, in the light of the design's own colours, which so stay what they are.

Where stitches follow the borders of their region, strips along its outlines come first (`stitch.strips`); pieces fill
what these leave.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass, field

import cv2
import numpy as np

from tambour.images import lab_to_rgb, rgb_to_lab
from tambour.stitch.relief import OPEN, RIM, Place, Relief, Tones, facing, luminance_of, place_of
from tambour.stitch.seams import before_seam
from tambour.stitch.strips import Strips
from tambour.texture import dominant_period

BINS = 16  # directions over half a turn
SIDES = (48, 84)  # px of a piece: three repeats of the stitches within these
PIECES = 1500  # of a direction, among which one is chosen
_CLOSE = 4  # pieces among which chance chooses
_FAR = 12.0  # px from a border; beyond, a place is simply inside, and rows go on as they do beside it
_COVER = 0.4  # of a piece, that shows stitches
# prices: of other distances from the border (squared px), of nothing to be seen, of being used already
_PLACE, _HOLE, _USED = 0.002, 0.3, 0.02
_STRENGTH = 0.5  # how much a piece's own contrast counts as a difference; 1 prefers flat pieces
_SHINE = 1.8  # times what a flat colour reflects, from which on light counts as a highlight
_LUMINANCE = np.float32([0.2126, 0.7152, 0.0722])  # of linear sRGB
_TOLD = 3  # px under a border, that say how raised it is
_THREAD = 0.35  # contrast in open work that is all thread


@dataclass(frozen=True)
class _Turned:
    """The relief turned by one angle, all (h, w): contrast, what is clear, distance from the border, direction."""

    contrast: np.ndarray
    clear: np.ndarray
    distance: np.ndarray
    direction: np.ndarray


@dataclass
class _Bank:
    """The pieces of one direction, seen at every other px (contrast) and at every fourth (distance): (N, pixels).

    Attributes:
        at: (N, 3) number of the turned relief, row and column of the upper left corner.
        contrast, power, hole: the contrast, its square, and 1 where nothing is seen.
        distance, distance_power, seen: of the border, where the piece is seen; else 0.
        used: (N,) how often it was laid.
    """

    at: np.ndarray
    contrast: np.ndarray
    power: np.ndarray
    hole: np.ndarray
    distance: np.ndarray
    distance_power: np.ndarray
    seen: np.ndarray
    used: np.ndarray


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
    _banks: dict[int, _Bank | None] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._power = float(np.square(self.relief.contrast[self.relief.clear]).mean())
        grey = np.clip(self.relief.contrast * 100 + 128, 0, 255).astype(np.uint8)
        period = dominant_period(np.repeat(grey[..., None], 3, 2), self.relief.clear)[0]
        most = min(SIDES[1], *self.relief.clear.shape)
        self.side = int(np.clip(3 * period, min(SIDES[0], most), most)) // 4 * 4
        self._strips = Strips(self.relief, self.side) if self.relief.frame == "border" else None
        turning = self.relief.frame != "picture"
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
        if self.relief.frame == "picture":
            direction[:] = 0
        return _Turned(planes[0] * clear, clear, planes[2], direction)

    def _bank(self, direction: int) -> _Bank | None:
        """The pieces that run in a direction; None: there are none."""
        if direction in self._banks:
            return self._banks[direction]
        side, half, found = self.side, self.side // 2, []
        for number, turned in enumerate(self._turned):
            cover = cv2.blur(turned.clear.astype(np.float32), (side, side), borderType=cv2.BORDER_CONSTANT)
            good = turned.clear & (cover >= _COVER) & (turned.direction == direction)
            good[:half], good[:, :half] = False, False
            good[good.shape[0] - half + 1 :], good[:, good.shape[1] - half + 1 :] = False, False
            rows, columns = np.nonzero(good)
            found.append(np.stack([np.full(len(rows), number), rows - half, columns - half], 1))
        at = np.concatenate(found)
        at = at[np.random.default_rng(direction).permutation(len(at))[:PIECES]]
        bank = None
        if len(at):

            def cut(name: str, step: int) -> np.ndarray:
                planes = [getattr(turned, name) for turned in self._turned]
                pieces = [planes[n][top : top + side : step, left : left + side : step] for n, top, left in at]
                return np.stack(pieces).reshape(len(at), -1).astype(np.float32)

            contrast, distance, seen = cut("contrast", 2), cut("distance", 4), cut("clear", 4)
            bank = _Bank(
                at,
                contrast,
                np.square(contrast),
                1 - cut("clear", 2),
                distance * seen,
                np.square(distance) * seen,
                seen,
                np.zeros(len(at), np.float32),
            )
        self._banks[direction] = bank
        return bank

    def _nearest(self, direction: int) -> _Bank | None:
        """The pieces of a direction, or of the next one that has some."""
        for step in sorted(range(-BINS // 2, BINS // 2), key=abs):
            bank = self._bank((direction + step) % BINS)
            if bank is not None:
                return bank
        return None

    def lay(self, place: Place, seed: int = 0) -> Generator[float, None, tuple[np.ndarray, np.ndarray]]:
        """Contrast (H, W) float32 on a design's places, and where there is any, (H, W) bool.

        Yields the share of the picture that is laid, row by row. The same seed gives the same layout.
        """
        side, over = self.side, self.side // 3
        rng = np.random.default_rng([seed, 0x5A7C])
        twice = 2 * place.angles[self.relief.frame]
        label, distance, cosine, sine = (
            np.pad(plane, side)
            for plane in (place.labels, np.minimum(place.distance, _FAR), np.cos(twice), np.sin(twice))
        )
        contrast, done = np.zeros(label.shape, np.float32), np.zeros(label.shape, bool)
        for bank in self._banks.values():
            if bank is not None:
                bank.used[:] = 0
        inner = np.s_[side:-side, side:-side]
        if self._strips is not None:
            for share in self._strips.lay(place, contrast[inner], done[inner], rng):
                yield share / 2
        before = 0.0 if self._strips is None else 0.5
        laid = cv2.erode(done.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0  # that stays
        for top in range(0, label.shape[0] - side + 1, side - over):
            yield before + (1 - before) * top / label.shape[0]
            for left in range(0, label.shape[1] - side + 1, side - over):
                box = np.s_[top : top + side, left : left + side]
                here = label[box]
                for region in np.unique(here[(here > 0) & ~done[box]]):
                    own = here == region
                    need = own & ~done[box]
                    way = 0.5 * math.atan2(sine[box][need].sum(), cosine[box][need].sum())
                    bank = self._nearest(round(way / math.pi * BINS) % BINS)
                    if bank is not None:
                        known = done[box] & own
                        chosen = self._choose(bank, contrast[box], known, need, distance[box] * own, own, rng)
                        self._paste(chosen, contrast[box], known, own & ~laid[box], over)
                        done[box] |= own
        return contrast[inner], done[inner]

    def _choose(self, bank: _Bank, old, known, need, distance, own, rng: np.random.Generator) -> np.ndarray:
        """One of the cheapest pieces: (3,), as in `_Bank.at`."""
        seen = known[::2, ::2].ravel().astype(np.float32)
        wanted = need[::2, ::2].ravel().astype(np.float32) + seen
        lies, inside = distance[::4, ::4].ravel(), own[::4, ::4].ravel().astype(np.float32)
        cost = _STRENGTH * (bank.power @ seen) - 2 * (bank.contrast @ (old[::2, ::2].ravel() * seen))
        cost += _HOLE * (bank.hole @ wanted)
        off = bank.distance_power @ inside - 2 * (bank.distance @ lies) + bank.seen @ (lies * lies).astype(np.float32)
        cost += _PLACE * off
        cost += _USED * self._power * float(wanted.sum()) * bank.used
        best = cost.argpartition(min(_CLOSE, len(cost) - 1))[:_CLOSE]
        number = int(best[rng.integers(len(best))])
        bank.used[number] += 1
        return bank.at[number]

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


# -- in colours -------------------------------------------------------------------------------------------------------


def shown_colours(cover: float, flat: np.ndarray, inside: np.ndarray, fabric: tuple[int, int, int]) -> np.ndarray:
    """A flat design (H, W, 3) uint8 in the mean colours that it shows: in open work, mixed with the fabric's."""
    if cover >= OPEN:
        return flat
    ground = rgb_to_lab(np.uint8([[fabric]]))[0, 0]
    mixed = lab_to_rgb(ground + cover * (rgb_to_lab(flat) - ground))
    return np.where(inside[..., None], mixed, flat)


def yarn_colours(colours: np.ndarray, flat: np.ndarray, picture: np.ndarray) -> np.ndarray:
    """Colours of open work, (H, W, 3) uint8: those shown on average, where the picture is light those of the thread.

    Args:
        colours: from `shown_colours`.
        flat: the design, thread alone.
        picture: the embroidered result.
    """
    mixed, light = rgb_to_lab(colours), rgb_to_lab(picture)[..., :1]
    thread = np.clip((light - mixed[..., :1]) / (mixed[..., :1] + 16) / _THREAD, 0, 1)
    return lab_to_rgb(mixed + thread * (rgb_to_lab(flat) - mixed))


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
    place = place_of(flat, inside)
    contrast, done = yield from quilt.lay(place, seed)
    if relief.rim is not None:
        contrast = raised(contrast, relief, place)
    lit = in_stitches(contrast, relief.tones, relief.cover, flat, inside, fabric)
    return np.where(done[..., None], lit, flat)


def raised(contrast: np.ndarray, relief: Relief, place: Place) -> np.ndarray:
    """Contrast (H, W) with borders as raised as the photo's: its rim, less and less up to `RIM` px under them.

    And less where it is weaker than the stitches are, for then it says little, and they go on to the border.
    """
    power = float(np.square(relief.contrast[relief.clear]).mean())
    share = min(1.0, float(np.square(relief.rim[:_TOLD]).mean()) / max(power, 1e-6))
    around = np.c_[relief.rim, relief.rim[:, :1]].astype(np.float32)
    depth = np.clip(place.distance, 0, RIM - 1).astype(np.float32)
    told = cv2.remap(around, facing(place), depth, cv2.INTER_LINEAR)
    share = share * np.clip(1 - place.distance / RIM, 0, 1) * (place.labels > 0)
    return contrast + share * (told - contrast)


def in_stitches(
    contrast: np.ndarray,
    tones: Tones,
    cover: float,
    flat: np.ndarray,
    inside: np.ndarray,
    fabric: tuple[int, int, int],
) -> np.ndarray:
    """A flat design in this contrast (H, W), tones and cover of a relief: (H, W, 3) uint8; else as `stitched`."""
    colours = shown_colours(cover, flat, inside, fabric)
    lab = rgb_to_lab(colours)
    if cover >= OPEN:
        return relit(colours, tones.shown(contrast, lab[..., 0]))
    light = np.clip(lab[..., 0] + contrast * (lab[..., 0] + 16), 0, 100)
    lit = lab_to_rgb(np.dstack([light, lab[..., 1:]]))
    return lab_to_rgb(np.dstack([light, rgb_to_lab(yarn_colours(colours, flat, lit))[..., 1:]]))


def relit(colours: np.ndarray, lightness: np.ndarray) -> np.ndarray:
    """Yarn of these colours (..., 3) uint8, light and shade on it so that it shows this L* (...): (..., 3) uint8.

    Light and shade multiply what a colour reflects; what is brighter than `_SHINE` times the colour is a highlight, the
    light's own colour, and is added. Channels are cut at white, as in a photo.
    """
    srgb = colours.astype(np.float32) / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    wanted = luminance_of(np.asarray(lightness, np.float32))
    own = np.maximum(linear @ _LUMINANCE, 1e-4)
    lit = linear * np.minimum(wanted / own, _SHINE)[..., None] + np.maximum(wanted - _SHINE * own, 0)[..., None]
    lit = np.clip(lit, 0, 1)
    srgb = np.where(lit <= 0.0031308, lit * 12.92, 1.055 * np.maximum(lit, 1e-6) ** (1 / 2.4) - 0.055)
    return np.rint(255 * srgb).astype(np.uint8)

"""What a photo's stitches look like and how they lie in their regions, without their colours; ours, not in the paper.

A relief is the photo's local lightness contrast as a mid-tone yarn would show it, together with the place of every
pixel in its region: how far the border is, and which way the region runs there. In which frame stitches keep their
direction (that of the picture, of the nearest border, or of the region's long axis) is read from the photo itself. So
stitches can be looked up for any design by place and direction (`base.patches`).
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image, PngImagePlugin

from tambour.errors import StyleError
from tambour.images import rgb_to_lab
from tambour.stitch.regions import find_regions
from tambour.stitch.swatch import clear_of
from tambour.texture import contrast_map

FRAMES = ("picture", "border", "axis")
SIDE = 512  # px; of a larger photo the part with most stitches is kept
MIDTONE = 55.0  # L*
SHINE = 1.8  # times its surroundings' light, from which on light counts as a highlight
TYPICAL = 0.35  # contrast of a highlight on a mid-tone
_CONTRAST, _DISTANCE, _ANGLE = 100.0, 4.0, 256 / np.pi  # steps of grey in the file
_LEAST = 0.02  # of the picture: with less that shows nothing but stitches, there is no relief
_FAINT = 0.01  # contrast of a photo that shows no stitches
_PICTURE = 0.05  # how much better another frame must fit than the picture's


@dataclass(frozen=True)
class Place:
    """Where pixels lie in their regions; arrays (H, W).

    Attributes:
        labels: region, 0 outside of all.
        colours: (R + 1, 3) RGB in [0, 1] by region.
        distance: px to the region's border.
        angles: direction by frame, radians in [0, pi), x to the right, y down.
    """

    labels: np.ndarray
    colours: np.ndarray
    distance: np.ndarray
    angles: dict[str, np.ndarray]


@dataclass(frozen=True)
class Relief:
    """The stitches of a photo; arrays (H, W).

    Attributes:
        contrast: local lightness contrast on a mid-tone, about -1 to 1.
        clear: bool, nothing but stitches of one region is seen.
        distance, angle: see `Place`; the angle in `frame`.
        frame: of `FRAMES`, that in which stitches keep their direction.
        strength: standard deviation of the contrast on the photo's own yarn, above 0.
    """

    contrast: np.ndarray
    clear: np.ndarray
    distance: np.ndarray
    angle: np.ndarray
    frame: str
    strength: float

    def to_bytes(self) -> bytes:
        """A PNG: contrast, distance and angle are its colours, what is clear its opacity."""
        planes = (
            np.clip(self.contrast * _CONTRAST + 128, 0, 255),
            np.clip(self.distance * _DISTANCE, 0, 255),
            np.mod(self.angle * _ANGLE, 256).clip(0, 255),
            self.clear * 255,
        )
        pixels = np.dstack([plane.astype(np.uint8) for plane in planes]) * self.clear[..., None].astype(np.uint8)
        told = PngImagePlugin.PngInfo()
        told.add_text("frame", self.frame)
        told.add_text("strength", repr(self.strength))
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG", pnginfo=told, optimize=True)
        return file.getvalue()

    @classmethod
    def of_bytes(cls, data: bytes) -> Relief:
        """The inverse of `to_bytes`, but for rounding.

        Raises:
            StyleError: the bytes are no relief.
        """
        try:
            with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
                frame, strength = image.text["frame"], float(image.text["strength"])
                if frame not in FRAMES or not 0 < strength < 10 or image.mode != "RGBA" or max(image.size) > SIDE:
                    raise ValueError("not what `to_bytes` writes")
                pixels = np.asarray(image).astype(np.float32)
        except (OSError, SyntaxError, ValueError, KeyError, AttributeError, Image.DecompressionBombError):
            raise StyleError("The style's relief cannot be read.", "Learn the style again.") from None
        clear = pixels[..., 3] > 127
        contrast = np.where(clear, (pixels[..., 0] - 128) / _CONTRAST, 0)
        return cls(contrast, clear, pixels[..., 1] / _DISTANCE, (pixels[..., 2] + 0.5) / _ANGLE, frame, strength)


def cut_relief(photo: np.ndarray, design: np.ndarray, mask: np.ndarray) -> bytes:
    """The relief of a photo as a PNG; b"" where there is too little to see.

    Args:
        photo, design: (H, W, 3) uint8, aligned; the design's borders of colour are left out.
        mask: (H, W) bool, stitched.
    """
    clear = clear_of(design, mask)
    if clear.mean() < _LEAST or min(mask.shape) < 64:
        return b""
    own = contrast_map(photo, mask)[0]
    strength = float(own[clear].std())
    if strength < _FAINT:
        return b""
    contrast = _on_midtone(photo, own)
    place = place_of(design, mask)
    frame = frame_of(contrast, clear, place)
    side = tuple(min(SIDE, extent) for extent in mask.shape)
    sums = cv2.integral(clear.astype(np.uint8))
    filled = sums[side[0] :, side[1] :] - sums[: -side[0], side[1] :] - sums[side[0] :, : -side[1]]
    filled = filled + sums[: -side[0], : -side[1]]
    top, left = np.unravel_index(filled.argmax(), filled.shape)
    box = np.s_[top : top + side[0], left : left + side[1]]
    return Relief(contrast[box], clear[box], place.distance[box], place.angles[frame][box], frame, strength).to_bytes()


def place_of(design: np.ndarray, inside: np.ndarray) -> Place:
    """Where the pixels of a flat design (H, W, 3) uint8 lie, of those `inside` (H, W) bool."""
    regions = find_regions(np.dstack([design, np.where(inside, 255, 0).astype(np.uint8)]))
    labels = regions.labels
    border = np.zeros(labels.shape, bool)
    for axis in (0, 1):
        step = np.diff(labels, axis=axis) != 0
        border |= np.pad(step, [(axis == 0, 0), (axis == 1, 0)]) | np.pad(step, [(0, axis == 0), (0, axis == 1)])
    distance = cv2.distanceTransform((~border).astype(np.uint8), cv2.DIST_L2, 5) * (labels > 0)
    smooth = cv2.GaussianBlur(distance, (0, 0), 3)
    along = _along(smooth, (labels > 0).astype(np.float32), 5)[0]
    axis = np.zeros(labels.shape, np.float32)
    rows, columns = np.indices(labels.shape, np.float32)
    for label in range(1, len(regions.colours)):
        here = labels == label
        if here.any():
            x, y = columns[here] - columns[here].mean(), rows[here] - rows[here].mean()
            axis[here] = 0.5 * np.arctan2(2 * (x * y).mean(), (x * x).mean() - (y * y).mean())
    angles = {"picture": np.zeros_like(axis), "border": along, "axis": axis}
    return Place(labels, regions.colours, distance, {name: angle % np.pi for name, angle in angles.items()})


def frame_of(contrast: np.ndarray, clear: np.ndarray, place: Place) -> str:
    """The frame in which stitches keep their direction best (largest mean resultant length of twice the angle)."""
    thread, weight = _along(cv2.GaussianBlur(contrast, (0, 0), 1.2), clear.astype(np.float32), 4)
    weight = np.where(clear, np.minimum(weight, np.quantile(weight[clear], 0.9)), 0)
    agreed = {
        name: abs((weight * np.exp(2j * (thread - angle))).sum()) / (weight.sum() + 1e-9)
        for name, angle in place.angles.items()
    }
    agreed["picture"] += _PICTURE
    return max(FRAMES, key=lambda name: agreed[name])


def highlight(colour: np.ndarray) -> tuple[float, float]:
    """How strong a highlight shows on yarn of a colour (RGB in [0, 1]), times that on a mid-tone; and its L*."""
    lightness = float(rgb_to_lab(np.uint8(np.clip(colour, 0, 1) * 255)[None, None])[0, 0, 0])
    middle, lit = (_luminance(np.array(v)) for v in (MIDTONE, MIDTONE + TYPICAL * (MIDTONE + 16)))
    shade = min(lit / middle, SHINE)
    here = min(float(_luminance(np.array(lightness)) * shade + max(lit - SHINE * middle, 0)), 1.0)
    gained = float(_lightness(np.array(here))) - lightness
    return gained / (lightness + 16) / TYPICAL, lightness


def _on_midtone(photo: np.ndarray, contrast: np.ndarray) -> np.ndarray:
    """The contrast that yarn of L* 55 would show: shade multiplies light, a highlight is added to it."""
    lightness = rgb_to_lab(photo)[..., 0]
    around = np.clip((lightness - 16 * contrast) / (1 + contrast), 1, 100)  # the inverse of `texture.contrast_map`
    light, mean, middle = _luminance(lightness), _luminance(around), float(_luminance(np.array(MIDTONE)))
    seen = middle * np.minimum(light / np.maximum(mean, 1e-3), SHINE) + np.maximum(light - SHINE * mean, 0)
    return np.where(contrast == 0, 0, (_lightness(seen) - MIDTONE) / (MIDTONE + 16)).astype(np.float32)


def _luminance(lightness: np.ndarray) -> np.ndarray:
    return np.where(lightness > 8, ((lightness + 16) / 116) ** 3, lightness / 903.3)


def _lightness(luminance: np.ndarray) -> np.ndarray:
    return np.where(luminance > 0.008856, 116 * np.cbrt(luminance) - 16, 903.3 * luminance)


def _along(values: np.ndarray, weight: np.ndarray, sigma: float) -> tuple[np.ndarray, np.ndarray]:
    """Direction along the lines of a picture (radians) by its structure tensor, and how much says so."""
    gx, gy = cv2.Sobel(values, cv2.CV_32F, 1, 0), cv2.Sobel(values, cv2.CV_32F, 0, 1)
    cosine, sine = (cv2.GaussianBlur(part * weight, (0, 0), sigma) for part in (gy * gy - gx * gx, -2 * gx * gy))
    return 0.5 * np.arctan2(sine, cosine), np.hypot(cosine, sine)

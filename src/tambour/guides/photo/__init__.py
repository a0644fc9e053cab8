"""The photo's own stitches, laid out on a design: SDEdit starts from them (method, section 9; ours).

`relief` is what a style file keeps of a photo; `geometry` says where the pixels of a design lie in their regions;
`quilt` and `strips` lay pieces of the relief there; `tones` and `yarn` show it in the design's colours.
"""

from __future__ import annotations

from collections.abc import Generator
from functools import cached_property

import numpy as np
from PIL import Image

from tambour.guides import Canvas, Start, register
from tambour.guides.photo.quilt import Quilt, stitched
from tambour.guides.photo.relief import Relief
from tambour.guides.photo.yarn import relit
from tambour.guides.stitches import Stitches
from tambour.imaging.colour import lab_to_rgb, rgb_to_lab
from tambour.imaging.contrast import around_of, contrast_map
from tambour.imaging.geometry import flatten
from tambour.style import Style

_CLOSE = 0.35  # SDEdit strength up to which stitches stay where they were laid
_GAIN = (1.0, 1.3)  # of contrast that the last steps evened out
_LAID = 0.7  # of the stitches as they were laid, the rest as the last steps drew them


@register
class PhotoStitches(Stitches):
    """The design in the reference's own stitches, on drawn fabric."""

    name = "photo"

    @classmethod
    def lacking(cls, style: Style) -> tuple[str, str] | None:
        if not style.relief:
            return "This style keeps no stitches of its reference.", "Use --guide stitches, or learn it again."
        return super().lacking(style)

    @cached_property
    def quilt(self) -> Quilt:
        return Quilt(Relief.of_bytes(self.style.relief))

    @property
    def restore_vae_detail(self) -> bool:
        return self.strength <= _CLOSE

    def start(self, canvas: Canvas, seed: int) -> Generator[float, None, Start]:
        drawn = yield from super().start(canvas, seed)
        flat, fabric = np.asarray(flatten(canvas.design, self.style.fabric)), self.style.fabric
        laid = yield from stitched(self.quilt, flat, canvas.inside, fabric, seed)
        picture = np.where(canvas.inside[..., None], laid, np.asarray(drawn.image))
        return Start(Image.fromarray(picture), drawn.keep_mask)

    def finish(self, image: Image.Image, canvas: Canvas, start: Start) -> Image.Image:
        """As strong and crisp as the stitches were laid, after few steps; in the design's colours, lit as drawn."""
        if self.restore_vae_detail:
            image = restore_stitches(image, start.image, canvas.inside)
        if not (self.edges.correct_colours or self.recipe.sampling.firm.correct_colours):
            return image
        lightness = rgb_to_lab(np.asarray(image))[..., 0]
        return Image.fromarray(relit(np.asarray(self.colours(image, canvas)), lightness))


def restore_stitches(image: Image.Image, start: Image.Image, inside: np.ndarray) -> Image.Image:
    """A picture with most of the stitches that it started from: as light, as strong, as crisp (method, section 9).

    The last steps blur stitches, shift lightness and even contrast out a little. So `_LAID` of the contrast is that
    which was laid; lightness is put back place by place, the strength of contrast by one factor.

    Args:
        inside: (H, W) bool, where it is stitched.
    """
    rgb, laid = np.asarray(image), np.asarray(start)
    contrast, weight = contrast_map(rgb, inside)
    wanted, _ = contrast_map(laid, inside)
    contrast = _LAID * wanted + (1 - _LAID) * contrast
    power = float((weight * contrast**2).sum())
    if power <= 0:
        return image
    gain = float(np.clip(np.sqrt((weight * wanted**2).sum() / power), *_GAIN))
    lab, around = rgb_to_lab(rgb), around_of(rgb_to_lab(laid)[..., 0], wanted)
    lab[..., 0] = np.where(inside, around + gain * contrast * (around + 16), lab[..., 0])
    return Image.fromarray(lab_to_rgb(lab))

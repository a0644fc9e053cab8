"""A reference's own patches as a denoiser: what clean latents are to be expected where a patch of noisy ones is seen.

If all that can be drawn at a place were the patches d_1 .. d_N of a reference, the best guess of the clean latents
there, given noisy ones z = a d + s eps, would be the posterior mean sum_i w_i d_i with log w_i = -|z - a d_i|^2 / (2
s^2): the ideal denoiser of a patch (Kamb and Ganguli 2024, "An analytic theory of creativity in convolutional diffusion
models"; Niedoba et al. 2024, "Towards a mechanistic explanation of diffusion model generalization"). Mixed into the
UNet's predictions it draws the very stitches of the reference, from noise, without a seam, on any design (ours; not in
the paper). Added here:

- patches are relief, so colour is the design's: encoded through the base's autoencoder, which must be linear;
- they are looked up by their place: how far the region's border is, turned into the region's direction;
- a patch sees its own region alone, and is smaller where there is less noise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from tambour.base.model import Base
from tambour.errors import StyleError
from tambour.images import to_tensor
from tambour.stitch.relief import MIDTONE, Place, Relief, highlight, place_of

BINS = 16  # directions over half a turn
SIDES = ((0.35, 11), (0.6, 9), (0.85, 7), (1.0, 5))  # of patches, in latents, up to a signal (a) of
SHARP, PRICE = 3.0, 0.45  # exponent of the weights, and what a patch's own energy counts in them (1, 1: Bayes); what
# lies between two patches would else always go to the smoother one
FROM = 0.1  # signal below which noise says nothing yet
MOST, FEATURES = 1500, 160  # patches of a direction and side; of their features
REACH = (2.5, 0.1)  # px, and share of the distance: how far from the border two places may differ
SMOOTH = 10.0  # px; what is larger is no stitch, as in `texture.contrast_map`
GAMMA = 1.36  # of sRGB values for a change of L* + 16: (L* + 16)^3 is proportional to light, sRGB^2.2 too
_WHITE = 0.0105  # sRGB of a step of L*, about
_LINEAR = 0.02  # largest error of the autoencoder, times its answer, that still counts as linear
_CHUNK = 1024


@dataclass(frozen=True)
class Lies:
    """Where latents lie in the regions of a design, each (h, w).

    Attributes:
        label: region, 0 outside; `share` of the latent's pixels are in it.
        colour: number of the region's colour in `OnDesign.colours`.
        direction: bin of the region's direction, modulo half a turn.
        distance: px to the border.
    """

    label: torch.Tensor
    share: torch.Tensor
    colour: torch.Tensor
    direction: torch.Tensor
    distance: torch.Tensor


@dataclass
class _Turned:
    """The reference turned by one angle: blocks of shade and light (2 f f, h, w), and (h, w) of the rest."""

    blocks: torch.Tensor
    clear: np.ndarray
    distance: np.ndarray
    direction: np.ndarray


@dataclass
class _Known:
    """Patches of one direction and side.

    Attributes:
        features: of shade and of light alone, as on a mid-tone, (2, N, k).
        energy: of shade, of both together (twice their product) and of light, by place: (3, N, p p).
        middle: the block in the middle, (N, 2 f f).
        distance: of it from the border, (N,).
    """

    features: torch.Tensor
    energy: torch.Tensor
    middle: torch.Tensor
    distance: torch.Tensor


@dataclass
class Patches:
    """The patches of one reference, for bases whose autoencoder is linear (mini's encoder is).

    Stitches turn with the regions, unless the relief's frame is the picture.

    Raises:
        StyleError: the base's autoencoder is not linear.
    """

    base: Base
    relief: Relief
    _turned: list[_Turned] = field(init=False, repr=False)
    _known: dict[tuple[int, int], _Known] = field(init=False, repr=False, default_factory=dict)
    _axes: dict[int, torch.Tensor] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.response = response(self.base)  # (3, f f, c)
        self._grey = self.response.sum(0) * (_WHITE * (MIDTONE + 16))  # of contrast 1 on a mid-tone
        contrast, clear = self.relief.contrast, self.relief.clear.astype(np.float32)
        self._parts = [_about_mean(part * clear, clear) for part in (np.minimum(contrast, 0), np.maximum(contrast, 0))]
        self._spread = np.cov(*(part[self.relief.clear] for part in self._parts))  # of shade and light
        self.turning = self.relief.frame != "picture"
        steps = range(-BINS // 2, BINS // 2) if self.turning else (0,)
        self._turned = [self._turn(step * math.pi / BINS) for step in steps]

    def _turn(self, angle: float) -> _Turned:
        f = self.base.vae_factor
        relief = self.relief
        twice = np.cos(2 * relief.angle), np.sin(2 * relief.angle)
        planes = [plane.astype(np.float32) for plane in (*self._parts, relief.clear, relief.distance, *twice)]
        height, width = relief.contrast.shape
        side = math.ceil(math.hypot(height, width) / f) * f if angle else None
        if angle:
            turn = cv2.getRotationMatrix2D((width / 2 - 0.5, height / 2 - 0.5), -math.degrees(angle), 1)
            turn[:, 2] += (side - width) / 2, (side - height) / 2
            planes = [cv2.warpAffine(plane, turn, (side, side), flags=cv2.INTER_LINEAR) for plane in planes]
        rows, columns = (extent // f for extent in planes[0].shape)
        blocks = [
            plane[: rows * f, : columns * f].reshape(rows, f, columns, f).transpose(1, 3, 0, 2) for plane in planes
        ]
        clear = blocks[2].min((0, 1)) > 0.99
        direction = 0.5 * np.arctan2(blocks[5].mean((0, 1)), blocks[4].mean((0, 1))) + angle
        both = np.concatenate([part.reshape(f * f, rows, columns) for part in blocks[:2]]) * clear
        return _Turned(
            torch.from_numpy(both), clear, blocks[3].mean((0, 1)), np.round(direction / np.pi * BINS).astype(int) % BINS
        )

    def known(self, direction: int, side: int) -> _Known:
        """The patches of one direction, gathered once."""
        key = (direction, side)
        if key in self._known:
            return self._known[key]
        reach, found = side // 2, []
        for number, turned in enumerate(self._turned):
            cover = cv2.blur(turned.clear.astype(np.float32), (side, side), borderType=cv2.BORDER_CONSTANT)
            good = turned.clear & (cover >= 0.5)
            if self.turning:
                good &= turned.direction == direction
            good[:reach], good[-reach:], good[:, :reach], good[:, -reach:] = False, False, False, False
            rows, columns = np.nonzero(good)
            found.append(np.stack([np.full(len(rows), number), rows, columns], 1))
        found = np.concatenate(found)
        found = found[np.random.default_rng([side, direction]).permutation(len(found))[:MOST]]
        parts, distance = [], []
        for number, turned in enumerate(self._turned):
            here = found[found[:, 0] == number]
            if len(here):
                windows = turned.blocks.unfold(1, side, 1).unfold(2, side, 1)  # (2 f f, h', w', p, p)
                rows, columns = torch.from_numpy(here[:, 1] - reach), torch.from_numpy(here[:, 2] - reach)
                parts.append(windows[:, rows, columns].transpose(0, 1))
                distance.append(turned.distance[here[:, 1], here[:, 2]])
        if not parts:  # nothing of the reference runs that way
            known = _Known(torch.zeros(2, 0, 0), torch.zeros(3, 0, 0), torch.zeros(0, 0), torch.zeros(0))
            self._known[key] = known
            return known
        blocks = torch.cat(parts)  # (N, 2 f f, p, p)
        halves = blocks.unflatten(1, (2, -1)).flatten(3).transpose(0, 1)  # (2, N, f f, p p)
        latents = torch.einsum("inkp,kc->incp", halves, self._grey)
        flat = latents.flatten(2)  # (2, N, c p p)
        if side not in self._axes:  # by subspace iteration
            both = flat.sum(0)
            generator = torch.Generator().manual_seed(side)
            axes = torch.randn(both.shape[1], min(FEATURES, *both.shape), generator=generator)
            for _ in range(2):
                axes = torch.linalg.qr(both.T @ (both @ axes))[0]
            self._axes[side] = axes
        axes = self._axes[side]
        features = flat @ axes
        shade, light = (features @ axes.T).view(latents.shape)  # what of them can be told
        energy = torch.stack([shade.square().sum(1), 2 * (shade * light).sum(1), light.square().sum(1)])
        middle = blocks[:, :, reach, reach].contiguous()
        known = _Known(features, energy, middle, torch.from_numpy(np.concatenate(distance)).float())
        self._known[key] = known
        return known

    def on(self, flat: Image.Image, inside: np.ndarray) -> OnDesign:
        """The denoiser of a flat design (RGB), stitched where `inside` (H, W) bool."""
        place = place_of(np.asarray(flat), inside)
        colours, number = np.unique(place.colours, axis=0, return_inverse=True)
        latents = self.base.encode_image(to_tensor(flat)).float().cpu()
        return OnDesign(self, latents, _lies(place, self.relief.frame, number.ravel(), self.base.vae_factor), colours)


@dataclass
class OnDesign:
    """A reference's patches on one design."""

    patches: Patches
    flat: torch.Tensor
    lies: Lies
    colours: np.ndarray

    def __post_init__(self) -> None:
        response, grey = self.patches.response, self.patches._grey
        self._shown, self._heard, self._gain, self._light = [], [], [], []
        for colour in self.colours:
            strong, lightness = highlight(colour)
            parts = np.array([1, strong])
            # relief is as strong on every yarn as on the photo's
            scale = max(1.0, self.patches.relief.strength / math.sqrt(max(parts @ self.patches._spread @ parts, 1e-6)))
            shade = scale * torch.einsum("q,qpc->pc", torch.from_numpy(colour) * GAMMA, response)  # (f f, c)
            light = strong * 0.5 * (shade + scale * (lightness + 16) * _WHITE * response.sum(0))
            self._shown.append(torch.cat([shade, light]))
            # from latents of this colour to those of a mid-tone, and how much noise then grows
            gain = float(shade.norm() / grey.norm())
            back = torch.linalg.lstsq(shade, grey, driver="gelsd").solution if gain > 1e-3 else torch.zeros(0)
            self._heard.append(back)
            self._light.append(float((light @ back * grey).sum() / grey.square().sum()) if len(back) else 0.0)
            self._gain.append(gain)

    def estimate(self, z: torch.Tensor, a: float, s: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Clean latents (1, c, h, w) to be expected under noisy ones, and how much of each place they fill."""
        side = next(side for upto, side in SIDES if a <= upto)
        reach = side // 2
        channels, height, width = z.shape[1:]
        label, share = self.lies.label, self.lies.share
        padded = F.pad(label[None, None].float(), (reach,) * 4, value=-1)
        labels = F.unfold(padded, side)[0]  # (p p, h w)
        noisy = F.pad(z - a * self.flat, (reach,) * 4)[0]  # (c, h', w')
        offsets = (torch.arange(side)[:, None] * (width + 2 * reach) + torch.arange(side)).flatten()
        out, filled = self.flat.clone()[0].flatten(1), torch.zeros(height * width)
        region, colour, direction = label.flatten(), self.lies.colour.flatten(), self.lies.direction.flatten()
        distance = self.lies.distance.flatten()
        if not self.patches.turning:
            direction = torch.zeros_like(direction)
        for number in torch.unique(colour[region > 0]).tolist():
            gain, back, light = self._gain[number], self._heard[number], self._light[number]
            if not len(back):
                continue
            seen = torch.einsum("chw,cd->dhw", noisy, back).flatten(1)  # as on a mid-tone
            places = torch.nonzero((region > 0) & (colour == number)).flatten()
            for way in torch.unique(direction[places]).tolist():
                known = self.patches.known(way, side)
                if not len(known.distance):
                    continue
                features = known.features[0] + light * known.features[1]
                energy = known.energy[0] + light * known.energy[1] + light**2 * known.energy[2]
                axes = self.patches._axes[side]
                for part in places[direction[places] == way].split(_CHUNK):
                    own = labels[:, part].T.eq(region[part][:, None]).float()  # (n, p p)
                    corner = part // width * (width + 2 * reach) + part % width
                    patch = seen[:, corner[:, None] + offsets].permute(1, 0, 2) * own[:, None]  # (n, c, p p)
                    said = (patch.flatten(1) @ axes) @ features.T
                    told = (a * said - 0.5 * a * a * PRICE * (own @ energy.T)) * SHARP * (gain / s) ** 2
                    here = distance[part][:, None]
                    told -= 0.5 * ((here - known.distance) / (REACH[0] + REACH[1] * here)).square()
                    relief = torch.softmax(told, 1) @ known.middle  # (n, 2 f f)
                    out[:, part] += (relief @ self._shown[number]).T
                    filled[part] = 1
        return out.view(1, channels, height, width), (filled.view(height, width) * share)[None, None]

    def mixed(self, base: Base, output: torch.Tensor, t: torch.Tensor, z: torch.Tensor, weight: float) -> torch.Tensor:
        """A model's raw output at timestep t with this much of the patches' estimate in it."""
        alpha = float(base.scheduler.alphas_cumprod[int(t)])
        a, s = math.sqrt(alpha), math.sqrt(1 - alpha)
        if a < FROM:
            return output
        estimate, filled = self.estimate(z.float().cpu(), a, s)
        change = weight * filled * (estimate - base.to_x0(output, z, t).float().cpu())
        return output + {"sample": 1.0, "epsilon": -a / s, "v_prediction": -1 / s}[base.prediction_type] * change.to(
            output
        )


def _about_mean(values: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Values (H, W) less what they are around a place on average: yarn of any colour keeps that colour."""
    around, cover = (cv2.GaussianBlur(part.astype(np.float32), (0, 0), SMOOTH) for part in (values, weight))
    return (values - around / np.maximum(cover, 1e-3)) * weight


def _lies(place: Place, frame: str, colour: np.ndarray, factor: int) -> Lies:
    """Where latents lie; `colour` is the number of each region's colour."""
    rows, columns = (extent // factor for extent in place.labels.shape)

    def blocks(picture: np.ndarray) -> np.ndarray:
        return picture.reshape(rows, factor, columns, factor).transpose(0, 2, 1, 3).reshape(rows, columns, -1)

    pixels, twice = blocks(place.labels), 2 * place.angles[frame]
    most, share = np.zeros((rows, columns), int), np.zeros((rows, columns), np.float32)
    for region in range(1, len(colour)):
        part = (pixels == region).mean(-1, dtype=np.float32)
        most, share = np.where(part > share, region, most), np.maximum(share, part)
    way = 0.5 * np.arctan2(blocks(np.sin(twice)).mean(-1), blocks(np.cos(twice)).mean(-1))
    direction = np.round(way / np.pi * BINS).astype(int) % BINS
    parts = most, share, colour[most], direction, blocks(place.distance).mean(-1)
    return Lies(*(torch.from_numpy(np.ascontiguousarray(part)) for part in parts))


@torch.no_grad()
def response(base: Base) -> torch.Tensor:
    """What a pixel of value 1 in place of 0 adds to the latents above it: (3, f f, c).

    Raises:
        StyleError: the autoencoder is not linear, block by block.
    """
    f = base.vae_factor
    dots = torch.zeros(1 + 3 * f * f, 3, 3 * f, 3 * f)
    for channel in range(3):
        for pixel in range(f * f):
            dots[1 + channel * f * f + pixel, channel, f + pixel // f, f + pixel % f] = 1
    test = torch.rand(1, 3, 3 * f, 3 * f, generator=torch.Generator().manual_seed(0))
    answers = base.encode_image(torch.cat([dots, test]) * 2 - 1).float().cpu()[:, :, 1, 1]
    found = (answers[1:-1] - answers[:1]).view(3, f * f, -1)
    block = test[0, :, f : 2 * f, f : 2 * f].reshape(3, f * f)
    wanted = answers[0] + torch.einsum("qp,qpc->c", block, found)
    if (wanted - answers[-1]).norm() > _LINEAR * answers[-1].norm():
        raise StyleError(
            f"Base {base.name!r} cannot draw a reference's patches: its autoencoder is not linear.",
            "Set sampling.patches to 0 in the recipe.",
        )
    return found

"""The evaluation page of a weights version: reconstruction, tile-conditioned samples beside the truth, text samples.

`Judge` measures each sample: which family it is named, how far its texture is from the truth, its colour too;
`figures` sums that up by family.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from diffusers import AutoencoderTiny
from PIL import Image

from pretraining.autoencoder import FACTOR
from pretraining.corpus import TRAINED_FAMILIES
from pretraining.data import Corpus, blur, edges, to_tensor
from pretraining.model import Networks, sampler
from pretraining.train import encode_text, predict
from tambour.imaging.scores import colour_difference
from tambour.imaging.texture import texture_distance, texture_statistics


@torch.no_grad()
def sample(
    networks: Networks,
    captions: list[str],
    designs: np.ndarray | None,
    *,
    start: torch.Tensor | None = None,
    strength: float = 1.0,
    steps: int = 20,
    guidance: float = 1.0,
    canny: bool = True,
    side: int = 512 // FACTOR,
    seed: int = 0,
) -> torch.Tensor:
    """Latents (B, c, side, side) from pure noise, or from `start` noised to `strength`, under conditions."""
    device = next(networks.unet.parameters()).device
    solver = sampler()
    solver.set_timesteps(steps)
    times = solver.timesteps[steps - max(1, round(steps * strength)) :] if start is not None else solver.timesteps
    channels = networks.unet.config.in_channels
    noise = torch.randn(len(captions), channels, side, side, generator=torch.Generator().manual_seed(seed)).to(device)
    latents = noise if start is None else solver.add_noise(start.to(device), noise, times[:1].expand(len(captions)))
    if start is not None:
        solver.set_begin_index(steps - len(times))
    tile = lines = None
    if designs is not None:
        tile = (to_tensor(np.stack([blur(d) for d in designs])) + 1).div(2).to(device)
        if canny:
            stacked = np.stack([edges(d) for d in designs])[..., None].repeat(3, -1)
            lines = (to_tensor(stacked) + 1).div(2).to(device)
    size = side * FACTOR
    ids = torch.tensor([[size, size, 0, 0, size, size]], dtype=torch.float32, device=device).expand(len(captions), -1)
    text, empty = encode_text(networks, captions), encode_text(networks, [""] * len(captions))
    for t in times:
        at = t.to(device).expand(len(captions))
        out = predict(networks, latents, at, text, ids, tile, lines)
        if guidance != 1:
            plain = predict(networks, latents, at, empty, ids, tile, lines)
            out = plain + guidance * (out - plain)
        latents = solver.step(out, t, latents).prev_sample
    return latents


def decode(vae: AutoencoderTiny, latents: torch.Tensor) -> np.ndarray:
    """Scaled latents -> (B, H, W, 3) uint8."""
    with torch.no_grad():
        image = torch.cat([vae.decode(z[None] / vae.config.scaling_factor).sample for z in latents])
    return ((image.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()


CLOSE = 192  # px of the close views on the sheet


def family_sheet(shown: list[tuple[np.ndarray, np.ndarray, np.ndarray]], columns: int) -> Image.Image:
    """Design | truth | sample at half size, and the middle of truth and sample at full size; `columns` such a row."""
    cells = []
    for design, truth, picture in shown:
        size = design.shape[0]
        height, cut = size // 2, slice((size - CLOSE) // 2, (size + CLOSE) // 2)
        small = [cv2.resize(p, (height, height), interpolation=cv2.INTER_AREA) for p in (design, truth, picture)]
        close = [cv2.resize(p[cut, cut], (height, height), interpolation=cv2.INTER_CUBIC) for p in (truth, picture)]
        cells.append(np.hstack([*small, *close, np.full((height, 8, 3), 255, np.uint8)]))
    cells += [np.full_like(cells[0], 255)] * (-len(cells) % columns)
    return Image.fromarray(np.vstack([np.hstack(cells[i : i + columns]) for i in range(0, len(cells), columns)]))


PROMPTS = ("red heart, satin stitch", "yellow star, french knots", "blue fish, cross stitch", "green leaf, chenille",
           "pink flower, tatami stitch", "orange cat, flat design")  # fmt: skip


def text_sheet(networks: Networks, vae: AutoencoderTiny, **how) -> Image.Image:
    """Samples of `PROMPTS` without any condition, in a row."""
    latents = sample(networks, list(PROMPTS), None, **how)
    return Image.fromarray(np.hstack(list(decode(vae, latents))))


def figures(judged: list[Judged]) -> dict[str, dict[str, float]]:
    """Means of the verdicts by family and over all: `named` (share of right names), `texture`, `colour`, `count`."""
    by_family = {}
    for family in [*dict.fromkeys(one.family for one in judged), "all"]:
        some = [one for one in judged if family in (one.family, "all")]
        by_family[family] = {
            "named": float(np.mean([one.named == one.family for one in some])),
            "texture": float(np.mean([one.texture for one in some])),
            "colour": float(np.mean([one.colour for one in some])),
            "count": len(some),
        }
    return by_family


def first_of_each(corpus: Corpus, kinds: tuple[str, ...] = TRAINED_FAMILIES, count: int = 1) -> list[int]:
    """The first `count` pictures of every kind."""
    return [int(n) for kind in kinds for n in np.flatnonzero(corpus.kind == kind)[:count]]


@dataclass(frozen=True)
class Judged:
    """One picture against the truth.

    Attributes:
        family: of the truth.
        named: family of the nearest truth by texture.
        texture: texture distance to the truth, over that of the unstyled design: 0 the same, 1 no better than flat.
        colour: mean CIEDE2000 of design regions, picture against truth.
    """

    family: str
    named: str
    texture: float
    colour: float


class Judge:
    """Names a picture's family by the nearest truth among the first `truths` of every trained family.

    The picture's own truth is among them: parameters differ more within a family than typical members of two families
    do, so without it the embroideries themselves, sewn again, are named rightly in only 62 of 100 cases (with it in
    98). It gives nothing away: grain on the same design is named rightly no more often than by chance.
    """

    def __init__(self, corpus: Corpus, rows: list[int], truths: int = 12) -> None:
        self.corpus = corpus
        self.known = sorted({*first_of_each(corpus, count=truths), *rows})
        self.library = [texture_statistics(corpus.picture[n], corpus.stitched[n]) for n in self.known]

    def __call__(self, picture: np.ndarray, n: int) -> Judged:
        """`picture` (H, W, 3) uint8 of the design of row `n`."""
        corpus = self.corpus
        truth, design, inside = corpus.picture[n], corpus.design[n], corpus.stitched[n]
        got, wanted, flat = (texture_statistics(one, inside) for one in (picture, truth, design))
        named = self.known[int(np.argmin([texture_distance(got, one) for one in self.library]))]
        ratio = texture_distance(got, wanted) / max(texture_distance(flat, wanted), 1e-6)
        return Judged(str(corpus.kind[n]), str(corpus.kind[named]), ratio, colour_difference(picture, truth))


def draw_rows(
    networks: Networks, vae: AutoencoderTiny, corpus: Corpus, rows: list[int], **how
) -> Iterator[tuple[int, np.ndarray]]:
    """Sample every picture of `rows` from noise under its conditions. Yields (row, picture (H, W, 3) uint8)."""
    device = next(networks.unet.parameters()).device
    for n in rows:
        latents = sample(networks, [str(corpus.caption[n])], corpus.design[n][None], seed=n, **how)
        yield n, decode(vae.to(device), latents)[0]

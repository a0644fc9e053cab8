"""The autoencoder: diffusers' AutoencoderTiny whose encoder is an exact PCA of square patches, and a trained decoder.

A convolutional encoder learnt from scratch needs far more time than it repays; the PCA is exact at once, smooth, and
its latents (divided by the square root of their deviation) keep the order coarse to fine that diffusion likes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderTiny

from pretraining.data import Corpus, precision, to_tensor

FACTOR = 4  # px a latent, a power of two; 8 wants CHANNELS 24 and DECODER_BLOCKS (4, 2, 1, 0), see the model card
CHANNELS = 12
DECODER_WIDTH = 32
DECODER_BLOCKS = (4, 2, 0)
WHITENING = 0.5  # latent = component / deviation ** WHITENING
RAW_POWER = 0.5  # root mean square of raw latents: the decoder squashes at 3; `scaling_factor` brings them to 1


def fit_patches(
    pictures: np.ndarray, rng: np.random.Generator, count: int = 60_000
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """PCA of f x f RGB patches in [0, 1], f = FACTOR: basis (c, 3, f, f), mean (3, f, f), deviation (c,)."""
    n, size = len(pictures), pictures.shape[1]
    patches = np.empty((count, 3, FACTOR, FACTOR), np.float32)
    for i in range(count):
        y, x = rng.integers(0, size - FACTOR + 1, 2)
        patches[i] = pictures[rng.integers(n), y : y + FACTOR, x : x + FACTOR].transpose(2, 0, 1) / 255.0
    flat = patches.reshape(count, -1)
    mean = flat.mean(0)
    _, values, basis = np.linalg.svd(np.cov(flat - mean, rowvar=False).astype(np.float64), hermitian=True)
    shape = (-1, 3, FACTOR, FACTOR)
    return (basis[:CHANNELS].reshape(shape), mean.reshape(shape[1:]), np.sqrt(values[:CHANNELS]))


def build(pictures: np.ndarray, rng: np.random.Generator) -> AutoencoderTiny:
    """An AutoencoderTiny with the PCA encoder in place, the decoder random; scaled latents have unit power."""
    basis, mean, deviation = fit_patches(pictures, rng)
    scale = 1 / deviation**WHITENING
    scale *= RAW_POWER / np.sqrt(np.mean((deviation * scale) ** 2))
    rows = np.float32(basis * scale[:, None, None, None])
    halvings = FACTOR.bit_length() - 1
    # Three channels a pixel of a patch of half the size: what is left for the last halving is held exactly.
    vae = AutoencoderTiny(
        encoder_block_out_channels=(3 * 4 ** (halvings - 1),) * (halvings + 1),
        decoder_block_out_channels=(DECODER_WIDTH,) * (halvings + 1),
        num_encoder_blocks=(0,) * (halvings + 1),
        num_decoder_blocks=DECODER_BLOCKS,
        latent_channels=CHANNELS,
        scaling_factor=1 / RAW_POWER,
    )
    first, *halving, last, out = vae.encoder.layers
    # Channel of a colour at (y, x) in a patch of side 1, 2, 4, ...: each halving unfolds 2 x 2 places into channels. A
    # stride-2 convolution with padding 1 sees rows 2i - 1, 2i, 2i + 1: taps 1 and 2 are the 2 x 2 block.
    place = {(c, 0, 0): c for c in range(3)}
    with torch.no_grad():
        for layer in (first, *halving, last, out):
            layer.weight.zero_()
        for c in range(3):
            first.weight[c, c, 1, 1] = 1
        first.bias.zero_()
        for layer in halving:
            side, finer = math.isqrt(len(place) // 3), {}
            for (c, y, x), channel in place.items():
                for down in range(2):
                    for right in range(2):
                        finer[c, side * down + y, side * right + x] = number = len(finer)
                        layer.weight[number, channel, 1 + down, 1 + right] = 1
            place = finer
        side = math.isqrt(len(place) // 3)
        for (c, y, x), channel in place.items():
            for down in range(2):
                for right in range(2):
                    row = torch.from_numpy(rows[:, c, side * down + y, side * right + x])
                    last.weight[:CHANNELS, channel, 1 + down, 1 + right] = row
        for k in range(CHANNELS):
            out.weight[k, k, 1, 1] = 1
        out.bias.copy_(-torch.from_numpy((rows * mean).sum((1, 2, 3))).float())
    vae.encoder.requires_grad_(False)
    return vae


def _detail(image: torch.Tensor) -> torch.Tensor:
    """What a 2 x 2 mean does not hold: stitches live here."""
    return image - F.interpolate(F.avg_pool2d(image, 2), scale_factor=2, mode="nearest")


def _strength(detail: torch.Tensor) -> torch.Tensor:
    """Root mean square of detail in 8 x 8 px windows: how strongly a place is textured, wherever its threads lie."""
    return (F.avg_pool2d(detail.pow(2).mean(1, keepdim=True), 8) + 1e-4).sqrt()


def train_decoder(
    vae: AutoencoderTiny,
    corpus: Corpus,
    *,
    seconds: float,
    seed: int = 0,
    batch: int = 8,
    crop: int = 128,
    rate: float = 2e-3,
) -> Iterator[tuple[int, float]]:
    """Train the decoder by the clock with L1 on pixels, on detail and on its strength. Yields (step, loss).

    The first two alone leave detail too weak: what cannot be known is averaged away.
    """
    rng = np.random.default_rng([seed, 0xDEC0])
    device = next(vae.parameters()).device
    dtype = precision(device)
    optimizer = torch.optim.AdamW(vae.decoder.parameters(), lr=rate, betas=(0.9, 0.99), weight_decay=0.0)
    began, step = time.monotonic(), 0
    while (spent := time.monotonic() - began) < seconds:
        share = spent / seconds
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1, (step + 1) / 50) * (1 - share) ** 1.0 + 1e-5
        pixels = []
        for _ in range(batch):
            n, (y, x) = rng.integers(len(corpus)), rng.integers(0, corpus.picture.shape[1] - crop + 1, 2)
            source = corpus.design if rng.random() < 0.1 else corpus.picture
            pixels.append(source[n, y : y + crop, x : x + crop])
        image = to_tensor(np.stack(pixels)).to(device)
        with torch.no_grad():
            latents = vae.encode(image).latents
            latents = latents + 0.015 * torch.from_numpy(rng.standard_normal(latents.shape, dtype=np.float32)).to(
                device
            )
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            out = vae.decode(latents).sample
        fine, wanted = _detail(out.float()), _detail(image)
        loss = (out - image).abs().mean() + (fine - wanted).abs().mean()
        loss = loss + 0.5 * (_strength(fine) - _strength(wanted)).abs().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        step += 1
        yield step, float(loss.detach())


@torch.no_grad()
def reconstruction(vae: AutoencoderTiny, pictures: np.ndarray) -> tuple[float, float]:
    """Peak signal-to-noise ratio (dB) and the ratio of detail energy, reconstruction over input."""
    error, gain = [], []
    device = next(vae.parameters()).device
    for picture in pictures:
        image = to_tensor(picture[None]).to(device)
        out = vae.decode(vae.encode(image).latents).sample.clamp(-1, 1)
        error.append(float(((out - image) / 2).pow(2).mean()))
        gain.append(float(_detail(out).pow(2).sum() / _detail(image).pow(2).sum().clamp_min(1e-9)))
    return float(np.mean(-10 * np.log10(error))), float(np.mean(gain))

"""Reading a corpus: aligned pictures, their latents, and random crops with their conditions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch

TILE_KERNEL = 15  # px, Gaussian, as in the paper's release
CANNY = (100, 200)


@dataclass
class Corpus:
    """Aligned arrays: design, picture (N, S, S, 3) uint8; caption, kind (N,) str."""

    design: np.ndarray
    picture: np.ndarray
    caption: np.ndarray
    kind: np.ndarray

    def __len__(self) -> int:
        return len(self.caption)


def read_corpus(folder: Path, limit: int | None = None) -> Corpus:
    """Load the shards of `folder` in their order, at most `limit` pictures."""
    names, parts, count = ("design", "picture", "caption", "kind"), [], 0
    for path in sorted(folder.glob("*.npz")):
        if ".tmp" in path.name:
            continue
        with np.load(path) as shard:
            parts.append({name: shard[name] for name in names})
        count += len(parts[-1]["kind"])
        if limit and count >= limit:
            break
    return Corpus(**{name: np.concatenate([p.pop(name) for p in parts])[:limit] for name in names})


def to_tensor(pixels: np.ndarray) -> torch.Tensor:
    """(B, H, W, 3) uint8 -> (B, 3, H, W) float32 in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def blur(design: np.ndarray) -> np.ndarray:
    """The tile condition of a design, uint8."""
    return cv2.GaussianBlur(design, (TILE_KERNEL, TILE_KERNEL), 0)


def edges(design: np.ndarray) -> np.ndarray:
    """The Canny condition of a design, uint8 (H, W)."""
    return cv2.Canny(np.ascontiguousarray(design), *CANNY)


@dataclass
class Batch:
    """latents (B, c, s, s); tile, edges (B, 3, f s, f s) in [0, 1]; captions; time_ids (B, 6)."""

    latents: torch.Tensor
    tile: torch.Tensor
    edges: torch.Tensor
    captions: list[str]
    time_ids: torch.Tensor


class Crops:
    """Latents and conditions of a corpus, made once and kept on the training device; draws aligned random crops."""

    def __init__(
        self, corpus: Corpus, encode: Callable[[torch.Tensor], torch.Tensor], device: torch.device, factor: int
    ) -> None:
        self.caption, self.factor = corpus.caption, factor
        with torch.no_grad():
            self.latents = torch.cat([
                encode(to_tensor(corpus.picture[i : i + 8]).to(device)).half() for i in range(0, len(corpus), 8)
            ])  # fmt: skip
        self.tile = torch.from_numpy(np.stack([blur(d) for d in corpus.design])).to(device)
        self.edges = torch.from_numpy(np.stack([edges(d) for d in corpus.design])).to(device)
        # How much a design varies around every latent, so that crops of bare fabric can be refused.
        cells = corpus.design[:, ::factor, ::factor].astype(np.float32)
        self.plain = np.stack([np.abs(c - np.median(c.reshape(-1, 3), 0)).max(-1) < 12 for c in cells])

    def draw(self, rng: np.random.Generator, size: int, side: int) -> Batch:
        """`size` crops of `side` latents."""
        grid, f = self.latents.shape[-1], self.factor
        places = []
        for _ in range(size):
            for _ in range(4):  # prefer crops that show something
                n, y, x = int(rng.integers(len(self.caption))), *(int(v) for v in rng.integers(0, grid - side + 1, 2))
                if self.plain[n, y : y + side, x : x + side].mean() < 0.8:
                    break
            places.append((n, y, x))
        latents = torch.stack([self.latents[n, :, y : y + side, x : x + side] for n, y, x in places])
        pixels = [(n, slice(y * f, (y + side) * f), slice(x * f, (x + side) * f)) for n, y, x in places]
        tile = torch.stack([self.tile[at] for at in pixels]).permute(0, 3, 1, 2)
        lines = torch.stack([self.edges[at] for at in pixels])[:, None].expand(-1, 3, -1, -1)
        whole = grid * f
        ids = [(whole, whole, y * f, x * f, side * f, side * f) for _, y, x in places]
        return Batch(
            latents.float(),
            tile.float().div(255),
            lines.float().div(255),
            [str(self.caption[n]) for n, _, _ in places],
            torch.tensor(ids, dtype=torch.float32, device=self.latents.device),
        )

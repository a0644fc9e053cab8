"""Reading a corpus: memory-mapped pictures, their latents, and random aligned crops."""

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
    """Aligned arrays: design, picture (N, S, S, 3) uint8; caption, kind (N,) str; latents (N, c, S/8, S/8) float16."""

    design: np.ndarray
    picture: np.ndarray
    caption: np.ndarray
    kind: np.ndarray
    latents: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.caption)


def read_corpus(folder: Path, limit: int | None = None) -> Corpus:
    """Load the shards of `folder` in their order."""
    shards = [path for path in sorted(folder.glob("*.npz")) if ".tmp" not in path.name]
    parts = []
    for path in shards:
        with np.load(path) as shard:
            parts.append({name: shard[name] for name in ("design", "picture", "caption", "kind")})
        if limit and sum(len(p["kind"]) for p in parts) >= limit:
            break
    joined = {name: np.concatenate([p.pop(name) for p in parts])[:limit] for name in ("design", "picture", "caption", "kind")}
    return Corpus(**joined)


def to_tensor(pixels: np.ndarray) -> torch.Tensor:
    """(B, H, W, 3) uint8 -> (B, 3, H, W) float32 in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def encode_corpus(corpus: Corpus, encode: Callable[[torch.Tensor], torch.Tensor], batch: int = 8) -> None:
    """Fill `corpus.latents` once; pictures are not needed after."""
    with torch.no_grad():
        parts = [
            encode(to_tensor(corpus.picture[i : i + batch])).to(torch.float16).cpu().numpy()
            for i in range(0, len(corpus), batch)
        ]
    corpus.latents = np.concatenate(parts)


@dataclass
class Batch:
    """latents (B, c, s, s); tile, edges (B, 3, 8s, 8s) in [0, 1]; captions; time_ids (B, 6)."""

    latents: torch.Tensor
    tile: torch.Tensor
    edges: torch.Tensor
    captions: list[str]
    time_ids: torch.Tensor


def draw_batch(corpus: Corpus, rng: np.random.Generator, size: int, side: int, factor: int = 8) -> Batch:
    """`size` random crops of `side` latents, with the blurred and the edge image of their designs."""
    grid = corpus.latents.shape[-1]
    latents, tiles, edges, captions, ids = [], [], [], [], []
    for _ in range(size):
        for _ in range(4):  # prefer crops that show something
            n = int(rng.integers(len(corpus)))
            y, x = (int(v) for v in rng.integers(0, grid - side + 1, 2))
            design = corpus.design[n, y * factor : (y + side) * factor, x * factor : (x + side) * factor]
            if side == grid or design[::8, ::8].reshape(-1, 3).std(0).max() > 12:
                break
        latents.append(corpus.latents[n, :, y : y + side, x : x + side])
        tiles.append(cv2.GaussianBlur(design, (TILE_KERNEL, TILE_KERNEL), 0))
        edges.append(cv2.Canny(np.ascontiguousarray(design), *CANNY))
        captions.append(str(corpus.caption[n]))
        whole = grid * factor
        ids.append((whole, whole, y * factor, x * factor, side * factor, side * factor))
    return Batch(
        torch.from_numpy(np.stack(latents)).float(),
        torch.from_numpy(np.stack(tiles)).permute(0, 3, 1, 2).float().div_(255),
        torch.from_numpy(np.stack(edges))[:, None].float().div_(255).expand(-1, 3, -1, -1),
        captions,
        torch.tensor(ids, dtype=torch.float32),
    )

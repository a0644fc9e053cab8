"""Reading a corpus: aligned pictures, their latents, and random crops with their conditions."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch

TILE_KERNEL = 15  # px, Gaussian, as in the paper's release
CANNY = (100, 200)
SHOWN = 0.2  # crops of which less is stitched are drawn again, three times at most
PARTS = ("design", "picture", "stitched", "caption", "kind")


@dataclass
class Corpus:
    """Aligned arrays: design, picture (N, S, S, 3) uint8; stitched (N, S, S) bool; caption, kind (N,) str."""

    design: np.ndarray
    picture: np.ndarray
    stitched: np.ndarray
    caption: np.ndarray
    kind: np.ndarray

    def __len__(self) -> int:
        return len(self.caption)


def shards(folder: Path) -> list[Path]:
    """The whole shards of a corpus, in their order."""
    return [path for path in sorted(folder.glob("*.npz")) if ".tmp" not in path.name]


def read_shard(path: Path, limit: int | None = None) -> Corpus:
    """One shard, at most `limit` pictures of it."""
    with np.load(path) as shard:
        return Corpus(**{name: shard[name][:limit] for name in PARTS})


def read_corpus(folder: Path, limit: int | None = None) -> Corpus:
    """Load the shards of `folder` in their order, at most `limit` pictures."""
    parts, count = [], 0
    for path in shards(folder):
        if limit and count >= limit:
            break
        parts.append(read_shard(path, limit and limit - count))
        count += len(parts[-1])
    return Corpus(**{name: np.concatenate([getattr(p, name) for p in parts]) for name in PARTS})


def to_tensor(pixels: np.ndarray) -> torch.Tensor:
    """(B, H, W, 3) uint8 -> (B, 3, H, W) float32 in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def blur(design: np.ndarray) -> np.ndarray:
    """The tile condition of a design, uint8."""
    return cv2.GaussianBlur(design, (TILE_KERNEL, TILE_KERNEL), 0)


def edges(design: np.ndarray) -> np.ndarray:
    """The Canny condition of a design, uint8 (H, W)."""
    return cv2.Canny(np.ascontiguousarray(design), *CANNY)


def precision(device: torch.device) -> torch.dtype:
    """What passes are computed in: bfloat16 where the processor has instructions for it."""
    known = torch.cpu.get_capabilities()
    half = device.type == "cuda" or known.get("avx512_bf16") or known.get("amx_bf16")
    return torch.bfloat16 if half else torch.float32


@dataclass
class Batch:
    """latents (B, c, s, s); tile, edges (B, 3, f s, f s) in [0, 1], or None; captions; places: picture, row, column
    (latents); time_ids (B, 6)."""

    latents: torch.Tensor
    tile: torch.Tensor | None
    edges: torch.Tensor | None
    captions: list[str]
    places: list[tuple[int, int, int]]
    time_ids: torch.Tensor


def encode_corpus(
    corpus: Path, out: Path, encode: Callable[[torch.Tensor], torch.Tensor], factor: int, limit: int | None = None
) -> None:
    """Write latents (float16) and conditions of a corpus's first `limit` pictures as plain arrays into `out`.

    An `out` that is whole already is kept. `encode`: pictures (B, 3, H, W) in [-1, 1] -> scaled latents.
    """
    paths = shards(corpus)
    caption, kind, arrays, first = [], [], {}, 0
    with np.load(paths[0]) as shard:
        per_shard = len(shard["design"])
    count = min(limit or len(paths) * per_shard, len(paths) * per_shard)
    notes = out / "notes.json"
    if notes.exists() and len(json.loads(notes.read_text())["caption"]) == count:
        return
    notes.unlink(missing_ok=True)
    out.mkdir(parents=True, exist_ok=True)
    for path in paths:
        if first >= count:
            break
        part = read_shard(path, count - first)
        with torch.no_grad():
            latents = torch.cat([encode(to_tensor(part.picture[i : i + 8])).half() for i in range(0, len(part), 8)])
        made = {
            "latents": latents.cpu().numpy(),
            "tile": np.stack([blur(d) for d in part.design]),
            "edges": np.stack([edges(d) for d in part.design]),
            "stitched": part.stitched[:, factor // 2 :: factor, factor // 2 :: factor],
        }
        for name, array in made.items():
            if name not in arrays:
                shape = (count, *array.shape[1:])
                arrays[name] = np.lib.format.open_memmap(out / f"{name}.npy", "w+", array.dtype, shape)
            arrays[name][first : first + len(part)] = array
        caption += [str(c) for c in part.caption]
        kind += [str(k) for k in part.kind]
        first += len(part)
    for array in arrays.values():
        array.flush()
    notes.write_text(json.dumps({"caption": caption, "kind": kind, "factor": factor}))


class Crops:
    """Random crops of an encoded corpus with their conditions; on a GPU all of it is kept there."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        """`folder` is one that `encode_corpus` wrote; its arrays are mapped, so that processes share the memory."""
        notes = json.loads((folder / "notes.json").read_text())
        self.caption, self.kind, self.factor = notes["caption"], np.array(notes["kind"]), notes["factor"]
        self.device = device
        arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("latents", "tile", "edges")}
        if device.type != "cpu":
            arrays = {name: torch.from_numpy(np.array(array)).to(device) for name, array in arrays.items()}
        self.latents, self.tile, self.edges = arrays.values()
        self.stitched = np.load(folder / "stitched.npy")

    def __len__(self) -> int:
        return len(self.caption)

    def _stack(self, array: np.ndarray | torch.Tensor, at: list[tuple]) -> torch.Tensor:
        if isinstance(array, torch.Tensor):
            return torch.stack([array[place] for place in at])
        return torch.from_numpy(np.stack([array[place] for place in at]))

    def draw(self, rng: np.random.Generator, size: int, side: int) -> Batch:
        """`size` crops of `side` latents."""
        grid, f = self.latents.shape[-1], self.factor
        places = []
        for _ in range(size):
            for _ in range(4):  # prefer crops that show something
                n, y, x = int(rng.integers(len(self.caption))), *(int(v) for v in rng.integers(0, grid - side + 1, 2))
                if self.stitched[n, y : y + side, x : x + side].mean() > SHOWN:
                    break
            places.append((n, y, x))
        latents = self._stack(
            self.latents, [(n, slice(None), slice(y, y + side), slice(x, x + side)) for n, y, x in places]
        )
        pixels = [(n, slice(y * f, (y + side) * f), slice(x * f, (x + side) * f)) for n, y, x in places]
        tile = self._stack(self.tile, pixels).permute(0, 3, 1, 2)
        lines = self._stack(self.edges, pixels)[:, None].expand(-1, 3, -1, -1)
        # What SDXL's pipelines say of a whole picture; any size, so that it says nothing here.
        sizes = 64 * rng.integers(4, 17, size)
        ids = [(s, s, 0, 0, s, s) for s in sizes]
        return Batch(
            latents.float(),
            tile.float().div(255),
            lines.float().div(255),
            [self.caption[n] for n, _, _ in places],
            places,
            torch.tensor(ids, dtype=torch.float32, device=self.device),
        )

"""Which blocks carry the style: chosen from the similarities, or named by the user."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tambour.errors import InputError
from tambour.imaging.charts import Panel, draw_charts

FEWEST = 2


def scores(similarity: np.ndarray) -> np.ndarray:
    """(blocks, segments) -> (blocks,): mean over the late half of denoising, where the gap is widest (section 2)."""
    similarity = np.asarray(similarity, np.float64)
    return similarity[:, similarity.shape[1] // 2 :].mean(1)


def choose_blocks(values: np.ndarray, fewest: int = FEWEST) -> tuple[int, ...]:
    """Indices, ascending, of the blocks that carry the style, from their similarity scores (blocks,).

    The paper picks by eye. Our rule, for any base: sort the blocks by similarity and cut the row in two where the
    variance between its two parts is largest (Otsu 1979, that is 1-D 2-means); the low part is chosen. It holds at
    least `fewest` blocks (two, with which the paper's ablation still works) and at most half of them (5 of SDXL's 11):
    the others must be left to carry the content. Only the relative gaps count, so scaling or shifting all similarities
    changes nothing. Where blocks tie, fewer and earlier ones are taken.
    """
    values = np.asarray(values, np.float64)
    assert values.ndim == 1 and len(values) >= 2 * FEWEST, values.shape
    if not np.isfinite(values).all():
        raise InputError("The block similarities are not finite.", "Run with precision float32 or bfloat16.")
    order = np.argsort(values, kind="stable")
    low = values[order]

    def between(k: int) -> float:
        share = k / len(low)
        return share * (1 - share) * (low[k:].mean() - low[:k].mean()) ** 2

    most = len(low) // 2
    cuts = range(min(max(fewest, FEWEST), most), most + 1)
    spread = np.array([between(k) for k in cuts])
    best = cuts[int(np.argmax(spread >= spread.max() * (1 - 1e-9)))]
    return tuple(sorted(int(i) for i in order[:best]))


def check_blocks(named: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    """The user's own choice, in the base's order.

    Raises:
        InputError: a name the base does not have, or none at all.
    """
    unknown = [name for name in named if name not in known]
    if unknown or not named:
        raise InputError(
            f"The base has no attention block {unknown[0] if unknown else ''!r}.", f"Allowed: {', '.join(known)}."
        )
    return tuple(name for name in known if name in named)


@dataclass(frozen=True)
class BlockChoice:
    """What was found out about a base's attention blocks on one pair.

    Attributes:
        names: of all attention blocks, in the order down, mid, up.
        similarity: by name, of every segment of denoising, noisiest first; low: the block tells embroidery from design.
        scores: by name, see `scores`.
        chosen: the style blocks.
        automatic: chosen by `choose_blocks`, not by the user.
    """

    names: tuple[str, ...]
    similarity: dict[str, list[float]]
    scores: dict[str, float]
    chosen: tuple[str, ...]
    automatic: bool

    @classmethod
    def of(
        cls, names: Sequence[str], similarity: np.ndarray, named: Sequence[str] | None = None, fewest: int = FEWEST
    ) -> BlockChoice:
        """From the similarities (blocks, segments); `named` blocks are taken in place of the rule's choice."""
        similarity = np.asarray(similarity, np.float64)
        values = scores(similarity)
        chosen = [names[i] for i in choose_blocks(values, fewest)] if named is None else check_blocks(named, names)
        return cls(
            names=tuple(names),
            similarity=dict(zip(names, similarity.tolist(), strict=True)),
            scores=dict(zip(names, values.tolist(), strict=True)),
            chosen=tuple(chosen),
            automatic=named is None,
        )

    def plot(self) -> str:
        """Similarity of every block over the segments, the chosen ones in colour, as the text of an SVG file."""
        title = "similarity of design and embroidery"
        return draw_charts([Panel(title, "segment of denoising", self.similarity, self.chosen)])

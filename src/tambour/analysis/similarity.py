"""How similar the self-attention features of two pictures are, block by block (method, section 2)."""

from __future__ import annotations

from collections.abc import Generator

import torch
import torch.nn.functional as F

from tambour.analysis.features import recorded, self_attentions
from tambour.analysis.inversion import Schedule, invert, predicted_noise, predictions
from tambour.base import Base, Prompt
from tambour.config import Analysis
from tambour.errors import InputError
from tambour.progress import Progress

_TOGETHER = 4  # pictures compared with the reference in one batch: bounds the memory
MOST_ROWS = 1 + _TOGETHER  # of a pass


def mean_rows(pictures: int) -> float:
    """Rows that `compare` takes for so many pictures in full batches, each of which has the reference too."""
    return pictures * (1 + 1 / _TOGETHER)


def passes_per_row(settings: Analysis, first_segment: int = 0) -> float:
    """Forward passes of the UNet that `compare` takes for a row."""
    late = 1 - first_segment / settings.segments
    return late * settings.steps * predictions(settings.inversion, settings.renoise_iterations)


def cosine_to_first(features: torch.Tensor) -> torch.Tensor:
    """F^o (B, T, C) -> (B - 1,) cosine(F^o of the first picture, F^o of each other), each one vector of T C values."""
    flat = features.float().flatten(1)
    return F.cosine_similarity(flat[:1], flat[1:])


def compare(
    base: Base,
    reference: tuple[torch.Tensor, Prompt],
    others: tuple[torch.Tensor, Prompt],
    time_ids: torch.Tensor,
    settings: Analysis,
    *,
    stage: str,
    first_segment: int = 0,
) -> Generator[Progress, None, torch.Tensor]:
    """Similarity of `others` to `reference` in every block and segment of denoising.

    All are inverted together, each under its own prompt and without ControlNets, which would make features alike that
    the block alone tells apart. A step's features are those of its last prediction, whose
    input is the inverted z_t up to the last renoising.

    Args:
        reference: latents (1, c, h, w) and prompt of batch 1.
        others: latents (N, c, h, w) and prompt of batch N.
        time_ids: (1, 6), the same for all.
        stage: of the progress records.
        first_segment: leave out the segments before it. Segments count in the order of denoising, so that the last
            ones are nearly clean; inversion starts there and stops where they are covered.

    Yields progress. Returns similarity (N, blocks, segments - first_segment), -1 to 1.

    Raises:
        InputError: fewer steps than segments.
    """
    steps, segments = settings.steps, settings.segments
    if not 0 < segments <= steps:
        raise InputError(f"{steps} inversion steps cannot be averaged in {segments} segments.", "Use more steps.")
    if not 0 <= first_segment < segments:
        raise InputError(f"There is no segment {first_segment}.", f"Allowed: 0 to {segments - 1}.")
    schedule = Schedule.of(base, steps)
    segment_of = [(steps - 1 - i) * segments // steps for i in range(steps)]  # of inversion step i
    wanted = sum(segment >= first_segment for segment in segment_of)
    parts = (others[0], others[1].embeds, others[1].pooled)
    chunks = list(zip(*(part.split(_TOGETHER) for part in parts), strict=True))
    result = []
    for number, (latents, embeds, pooled) in enumerate(chunks):
        prompt = Prompt(torch.cat([reference[1].embeds, embeds]), torch.cat([reference[1].pooled, pooled]))
        noise = predicted_noise(base, prompt, time_ids)
        sums = torch.zeros(len(latents), len(base.attention_blocks), segments - first_segment)
        together = torch.cat([reference[0], latents])
        with recorded(base.unet, base.attention_blocks, cosine_to_first) as cosines:
            path = invert(noise, together, schedule, method=settings.inversion, iterations=settings.renoise_iterations)
            for i in range(wanted):
                next(path)
                for b, block in enumerate(base.attention_blocks):
                    layers = torch.stack([cosines[name] for name in self_attentions(base.unet, block)])
                    sums[:, b, segment_of[i] - first_segment] += layers.mean(0).cpu()
                yield Progress(stage, number * wanted + i + 1, len(chunks) * wanted)
        counts = [segment_of.count(segment) for segment in range(first_segment, segments)]
        result.append(sums / torch.tensor(counts))
    return torch.cat(result)

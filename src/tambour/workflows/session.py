"""A run of `learn` between photo and style: the encoded reference, the style blocks, the training of the LoRA."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from tambour.analysis.blocks import BlockChoice
from tambour.analysis.similarity import compare
from tambour.base import Base, base_only, generator
from tambour.config import Recipe, Stage, StageTwo
from tambour.errors import InputError
from tambour.imaging.designs import bundled_designs, on_ground
from tambour.pair.flat import Pair
from tambour.pair.reference import fabric_colour, name_colours
from tambour.progress import Progress
from tambour.training.adapter import Adapter, style_only
from tambour.training.complement import choose, from_designs, generate
from tambour.training.loop import Step, train
from tambour.training.pairs import EncodedPair, crop, encode_pair
from tambour.training.palettes import recoloured
from tambour.training.resources import few_threads, unet_alone
from tambour.workflows.jobs import write_json
from tambour.workflows.report import SHOWN, Clock, Report


@dataclass(frozen=True)
class Reference:
    """The reference as training sees it.

    Attributes:
        shown: the pair's pictures.
        words: what it shows, the <des> of the prompts.
        fabric: RGB.
        views: it, encoded, and where the recipe wants palettes its recoloured copies.
    """

    shown: Pair
    words: str
    fabric: tuple[int, int, int]
    views: tuple[EncodedPair, ...]

    @property
    def pair(self) -> EncodedPair:
        return self.views[0]


def encode_reference(base: Base, pair: Pair, describe: str | None, recipe: Recipe, seed: int) -> Reference:
    fabric, words = fabric_colour(pair), describe_design(base, pair, describe, recipe)
    rng = np.random.default_rng([seed, recipe.training.palettes])
    pairs = [pair, *recoloured(pair, fabric, rng, recipe.training.palettes)]
    views = [encode_pair(base, one.design, one.embroidery, words, recipe, pair.mask) for one in pairs]
    return Reference(pair, words, fabric, tuple(views))


def describe_design(base: Base, pair: Pair, describe: str | None, recipe: Recipe) -> str:
    """The user's description, or as many colours as the base's prompts have room for."""

    def missing(words: str) -> int:
        return -base.token_room(recipe.prompts.style.format(words))

    if describe is None:
        colours = [name_colours(pair, recipe.complement.colours, most) for most in (3, 2, 1)]
        return next((words for words in colours if missing(words) <= 0), "design")
    if missing(describe) > 0:
        raise InputError(f"The description {describe!r} is too long by {missing(describe)} tokens.", "Say it shorter.")
    return describe


def choose_blocks(
    base: Base, recipe: Recipe, pair: EncodedPair, named: Sequence[str] | None, kept_at: Path | None
) -> Generator[Progress, None, BlockChoice]:
    """Block similarities of the reference, at its fullest window, and the choice. Returns a `BlockChoice`.

    Args:
        named: the blocks that the user or the recipe wants; None: by similarity.
        kept_at: where the similarities are kept, for a run that continues.
    """
    if kept_at is not None and kept_at.exists():
        values = json.loads(kept_at.read_text(encoding="utf-8"))
    else:
        window = crop(base, pair, pair.places[:1])
        similarity = yield from compare(
            base,
            (window.design, pair.c_des),
            (window.embroidery, pair.c_emb),
            window.time_ids,
            recipe.analysis,
            stage="blocks",
        )
        values = similarity[0].tolist()  # (blocks, segments)
        if kept_at is not None:
            write_json(kept_at, values)
    return BlockChoice.of(base.attention_blocks, np.array(values), named, recipe.analysis.fewest)


@dataclass
class Session:
    """A run while its LoRA is trained.

    Attributes:
        losses: of every iteration, by stage and name.
    """

    base: Base
    recipe: Recipe
    seed: int
    work: Path
    adapter: Adapter
    reference: Reference
    report: Report | None
    clock: Clock
    losses: dict[str, dict[str, list[float]]] = field(default_factory=lambda: {"stage one": {}, "stage two": {}})

    def train(self, name: str, steps: Sequence[Step], stage: Stage | StageTwo, rows: int) -> Iterator[Progress]:
        """Train one stage, `rows` crops a pass; at half time and at the end a sample is drawn for the report."""
        file = name.replace(" ", "-")
        alone = unet_alone(self.base, self.recipe.training_controlnet)
        with few_threads(self.base, self.reference.pair.window, rows), alone as everything:
            records = train(
                name,
                self.adapter,
                steps,
                stage,
                seed=self.seed,
                checkpoint=self.work / f"{file}.safetensors",
                every_seconds=self.recipe.training.checkpoint_seconds,
                curves=self.losses[name],
            )
            for record in records:
                yield record
                if self.report and record.step in (stage.iterations // 2, stage.iterations):
                    with everything():
                        sample = self.sample()
                    self.report.image(f"samples/{file}-{record.step:04d}.png", sample)
                    self.report.curves(self.losses)
        self.clock.lap(name)

    def sample(self) -> Image.Image:
        """The first of the sheet's designs in the style so far, at the size of a training crop."""
        flat = on_ground(bundled_designs()[SHOWN[0]], self.reference.pair.window, self.reference.fabric)
        with style_only(self.adapter):
            return from_designs(self.base, self.recipe, ["design"], [flat], [generator(self.seed, "sample")])[0]

    def complementary_pairs(self, batch: int) -> Generator[Progress, None, list[EncodedPair]]:
        """Generate pairs with the stage-one LoRA, filter and encode them. Returns a list of `EncodedPair`."""
        base, recipe, pair = self.base, self.recipe, self.reference.pair
        if not recipe.complement.count:
            self.clock.lap("complement")
            return [pair]
        with few_threads(base, pair.window):
            folder, fabric = self.work / "complement", self.reference.fabric
            candidates = yield from generate(
                base, recipe, pair.window, fabric, seed=self.seed, folder=folder, batch=batch
            )
            window = crop(base, pair, pair.places[:1])
            with base_only(self.adapter.unet):
                latents = (window.design, window.embroidery)
                filtered = yield from choose(base, recipe, latents, self.reference.words, candidates)
            if self.report:
                self.report.generated(candidates, filtered)
            chosen = [candidates[i] for i in filtered.chosen]
            encoded = [encode_pair(base, c.design, c.embroidery, c.words, recipe) for c in chosen]
        self.clock.lap("complement")
        return encoded

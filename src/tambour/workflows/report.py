"""The report folder of one run: what went in, what was decided, how training went, and what reproduces it."""

from __future__ import annotations

import json
import os
import platform
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from tambour.analysis.blocks import BlockChoice
from tambour.base import Base
from tambour.config import recipe_from, recipe_values
from tambour.guides import choose_guide
from tambour.imaging.charts import Panel, draw_charts, smooth
from tambour.imaging.designs import bundled_designs, draw_svg
from tambour.imaging.files import save_image
from tambour.imaging.geometry import flatten
from tambour.imaging.sheet import contact_sheet
from tambour.pair.flat import Pair
from tambour.progress import Progress
from tambour.style import Style
from tambour.training.complement import Candidate, Filtered
from tambour.workflows.embroider import Embroidering, Result, embroider

if TYPE_CHECKING:
    from tambour.workflows.request import Request

SHOWN = ("fox", "rose", "bee", "monogram")  # bundled designs on the final sheet
_LIBRARIES = ("tambour", "torch", "diffusers", "transformers", "peft", "safetensors", "numpy", "pillow")


class Clock:
    """Seconds spent between laps, by name."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.monotonic()

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self.laps[name], self._last = round(now - self._last, 2), now


class Report:
    """Writes into one folder; what an earlier, interrupted run wrote there is replaced by the same."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def pair(self, pair: Pair) -> None:
        for name in ("embroidery", "design", "mask"):
            self.image(f"{name}.png", getattr(pair, name))

    def blocks(self, choice: BlockChoice) -> None:
        self.text("blocks.svg", choice.plot())

    def curves(self, stages: Mapping[str, Mapping[str, Sequence[float]]]) -> None:
        """Every loss of every stage, smoothed over a tenth of its iterations, and as numbers."""
        panels = [
            Panel(f"{stage}: {name}", "iteration", {name: smooth(values, max(1, len(values) // 10))})
            for stage, losses in stages.items()
            for name, values in losses.items()
        ]
        if panels:
            self.text("losses.svg", draw_charts(panels))
        self.text("losses.json", json.dumps(stages))

    def generated(self, candidates: Sequence[Candidate], filtered: Filtered) -> None:
        """Every generated pair, and what became of it."""

        def fate(i: int) -> str:
            if i in filtered.chosen:
                return "chosen"
            return "filter 2" if i in filtered.content else "filter 1"

        labels = [f"{c.words}: {fate(i)}" for i, c in enumerate(candidates)]
        rows = [[c.design for c in candidates], [c.embroidery for c in candidates]]
        self.image("generated.jpg", contact_sheet(rows, labels))

    def image(self, name: str, image: Image.Image) -> None:
        save_image(image, self.folder / name, overwrite=True)

    def text(self, name: str, text: str) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = self.folder / f".{name}.{os.getpid()}.tmp"
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, self.folder / name)

    def finish(
        self,
        request: Request,
        style: Style,
        base: Base,
        choice: BlockChoice,
        words: str,
        seconds: Mapping[str, float],
    ) -> None:
        """The recipe, and the manifest: what the run was, the command that does it again, versions of what ran."""
        identity = request.identity()
        files = {"photo": request.photo, "design": request.design}
        self.text("recipe.toml", to_toml(recipe_values(request.recipe)))
        facts = {
            "command": command(request, base, choice),
            "inputs": {k: {"file": str(v), "sha256": identity.pop(k)} for k, v in files.items() if v},
            "base": {"name": base.name, "fingerprint": base.fingerprint},
            **{key: value for key, value in identity.items() if key not in files},
            "words": words,
            "style blocks": style.blocks,
            "similarity": choice.similarity,
            "seconds": seconds,
            "versions": {"python": platform.python_version()} | {name: _version(name) for name in _LIBRARIES},
        }
        self.text("manifest.json", json.dumps(facts, indent=2, ensure_ascii=False) + "\n")


def draw_sheet(report: Report, style: Style, base: Base, pair: Pair, seed: int) -> Iterator[Progress]:
    """Reference and bundled designs, each above its result, into the report."""
    recipe = recipe_from(dict(style.recipe))
    size, firm = recipe.sampling.size, recipe.sampling.firm
    designs = [draw_svg(bundled_designs()[name], size) for name in SHOWN]
    how = Embroidering(style, recipe, choose_guide(None, style, recipe), firm, size, seed=seed)
    results = []
    for record in embroider(base, designs, how):
        if isinstance(record, Result):
            results.append(record.image)
        else:
            yield replace(record, stage="sheet")
    grounded = [flatten(design, style.fabric) for design in designs]
    note = "" if how.guide.name == "none" else " (guided)"
    rows = [[pair.embroidery, *grounded], [pair.design, *results]]
    report.image("sheet.jpg", contact_sheet(rows, ["reference, its design" + note, *SHOWN], cell=384))


def command(request: Request, base: Base, choice: BlockChoice) -> str:
    """The command that does the run again, given in the report folder."""
    options = request.options
    words = ["tambour", "learn", str(request.photo), "-o", "style.safetensors", "--base", base.name]
    words += ["--recipe", "recipe.toml", "--seed", str(options.seed)]
    words += ["--design", str(request.design)] if request.design else []
    words += ["--blocks", ",".join(choice.chosen)] if not choice.automatic else []
    words += ["--describe", options.describe] if options.describe else []
    words += ["--stitch", options.stitch] if options.stitch else []
    return shlex.join(words)


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return "not installed"  # run from its source


def to_toml(values: Mapping, table: str = "") -> str:
    """Nested plain values as TOML, for a recipe file."""
    plain = {key: value for key, value in values.items() if not isinstance(value, Mapping)}
    lines = [f"[{table}]"] if table else []
    lines += [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in plain.items()]
    text = "\n".join(lines) + "\n"
    for key, value in values.items():
        if isinstance(value, Mapping):
            text += "\n" + to_toml(value, f"{table}.{key}" if table else key)
    return text

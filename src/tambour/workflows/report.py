"""The report folder of one run: what went in, what was decided, how training went, and what reproduces it."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from PIL import Image

from tambour.analysis.blocks import BlockChoice
from tambour.imaging.charts import Panel, draw_charts, smooth
from tambour.imaging.files import save_image
from tambour.imaging.sheet import contact_sheet
from tambour.pair.flat import Pair
from tambour.training.complement import Candidate, Filtered

_LIBRARIES = ("tambour", "torch", "diffusers", "transformers", "peft", "safetensors", "numpy", "pillow")


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
        temporary.write_text(text)
        os.replace(temporary, self.folder / name)

    def manifest(self, facts: Mapping) -> None:
        """`facts` of the run, with the versions of what ran."""
        versions = {"python": platform.python_version()} | {name: _version(name) for name in _LIBRARIES}
        self.text("manifest.json", json.dumps({**facts, "versions": versions}, indent=2, ensure_ascii=False) + "\n")


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

"""Tables and sheets of a benchmark's folder: report.json, report.md, index.html, one contact sheet a style.

A cell is the mean over styles of the mean over a style's designs and seeds; its interval holds 95 % of the means of
resampled styles (percentile bootstrap, Efron 1979), because styles, not pictures, are what varies.
"""

from __future__ import annotations

import html
import json
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from tambour.bench.cases import SPLITS, Pairing
from tambour.bench.domains import DOMAINS, EMBROIDERY
from tambour.bench.methods import METHODS
from tambour.bench.metrics import METRICS, Metric
from tambour.bench.perceptual import of_result, pick
from tambour.bench.run import measure_again, pairings_of, results, setup_of
from tambour.imaging.files import save_image
from tambour.imaging.geometry import flatten
from tambour.imaging.sheet import contact_sheet
from tambour.progress import Progress
from tambour.workflows.jobs import write_json

RESAMPLES = 2000
ROBUST = "a picture passes with at most half the unstyled design's texture distance to the truth, CIEDE2000 to the " \
    "design of at most 6, and at least 0.9 of the ceiling's edge F1"  # fmt: skip
COSTS = (
    Metric("robust", "robust share", "higher", 0, 1, f"share of seeds and designs that pass: {ROBUST}"),
    Metric("learn_seconds", "learning, s", "lower", 0, np.inf, "wall clock of learning one style"),
    Metric("draw_seconds", "drawing, s", "lower", 0, np.inf, "wall clock of one picture"),
    Metric(
        "learn_cpu", "learning, CPU s", "lower", 0, np.inf, "the same in CPU time: a busy machine does not stretch it"
    ),
    Metric("draw_cpu", "drawing, CPU s", "lower", 0, np.inf, "the same in CPU time"),
    Metric("memory", "peak memory, MB", "lower", 0, np.inf, "of the GPU, else of the process"),
)
BY_STYLE = ("texture", "direction", "colour", "identified", "robust")  # what is reported style by style
TEXT = (
    Metric("hfrd_text", "text: HFRD", "lower", 0, 1, "as HFRD, on pictures from prompts"),
    Metric("histogram_reference", "text: histogram loss to reference", "higher", 0, 1,
           "HistoGAN, on pictures from prompts: high where the reference's colours did not leak"),
)  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """Mean over styles, the ends of its 95 % interval, and how many styles there are."""

    mean: float
    low: float
    high: float
    styles: int


def interval(values: Sequence[float], seed: int = 0) -> tuple[float, float]:
    """Ends of the 95 % percentile bootstrap interval of a mean over styles; the same values give the same interval."""
    values = np.asarray(values, np.float64)
    picks = np.random.default_rng(seed).integers(0, len(values), (RESAMPLES, len(values)))
    low, high = np.percentile(values[picks].mean(1), (2.5, 97.5))
    return float(low), float(high)


def by_style(rows: Sequence[Mapping], metric: str) -> dict[str, dict[str, float]]:
    """method -> style -> mean of a metric over designs and seeds."""
    found: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        if metric in row["metrics"]:
            found.setdefault(row["method"], {}).setdefault(row["style"], []).append(row["metrics"][metric])
    return {
        method: {style: float(np.mean(values)) for style, values in styles.items()} for method, styles in found.items()
    }


def table(rows: Sequence[Mapping], wanted: Sequence[Metric]) -> dict[str, dict[str, Cell]]:
    """method -> metric -> cell; nothing where nothing was measured."""
    cells: dict[str, dict[str, Cell]] = {}
    for metric in wanted:
        for method, styles in by_style(rows, metric.name).items():
            values = [styles[name] for name in sorted(styles)]
            cells.setdefault(method, {})[metric.name] = Cell(float(np.mean(values)), *interval(values), len(values))
    return cells


def with_costs(rows: Sequence[Mapping]) -> list[dict]:
    """Rows with time, memory and whether they pass (`ROBUST`) among their metrics."""
    limits: dict[tuple[str, str], dict[str, list[float]]] = {}
    for row in rows:
        if row["method"] in ("unstyled", "truth") and "texture" in row["metrics"]:
            limit = limits.setdefault((row["style"], row["item"]), {})
            name = "texture" if row["method"] == "unstyled" else "edges"
            limit.setdefault(name, []).append(row["metrics"][name])
    priced = []
    for row in rows:
        values = dict(row["metrics"])
        for part in ("learn", "draw"):
            values |= {f"{part}_seconds": row[part]["seconds"], f"{part}_cpu": row[part]["cpu_seconds"]}
        values["memory"] = max(row["learn"]["memory"], row["draw"]["memory"])
        limit = limits.get((row["style"], row["item"]), {})
        if {"texture", "colour"} <= values.keys() and len(limit) == 2:
            passed = values["texture"] <= 0.5 * np.mean(limit["texture"])
            passed &= values["colour"] <= 6 and values["edges"] >= 0.9 * np.mean(limit["edges"])
            values["robust"] = float(passed)
        priced.append({**row, "metrics": values})
    return priced


def unstitched(rows: Sequence[Mapping]) -> list[str]:
    """Trained methods of which no picture passes (`ROBUST`): who draws no stitches keeps every border and colour."""
    shares = by_style(rows, "robust")
    return [m.name for m in METHODS if m.group == "trained" and m.name in shares and not any(shares[m.name].values())]


def against_rivals(rows: Sequence[Mapping], ours: str = "ours") -> list[dict]:
    """Ours against the best trained rival, a metric a row: both means, their difference and its paired interval.

    The best rival is the one with the best mean over the styles that both have; a difference below 0 is in ours' favour
    where lower is better. `unstitched` rivals are none.
    """
    without = unstitched(rows)
    rivals = [method.name for method in METHODS if method.group == "trained" and method.name not in without]
    compared = []
    for metric in METRICS:
        means = by_style(rows, metric.name)
        sign = 1 if metric.better == "lower" else -1
        best = None
        for rival in rivals:
            styles = sorted(means.get(ours, {}).keys() & means.get(rival, {}).keys())
            if styles:
                value = float(np.mean([means[rival][style] for style in styles]))
                if best is None or sign * value < sign * best[1]:
                    best = rival, value, styles
        if best is None:
            continue
        rival, value, styles = best
        differences = [means[ours][style] - means[rival][style] for style in styles]
        mine = float(np.mean([means[ours][style] for style in styles]))
        low, high = interval(differences)
        worst, best_end = sorted((-sign * low, -sign * high))  # of how much better ours is
        wins = "ours" if worst > 0 else rival if best_end < 0 else "neither"
        compared.append(
            {"of": ours, "metric": metric.name, "ours": mine, "rival": rival, "rivals": value, "better": wins,
             "difference": mine - value, "low": low, "high": high, "styles": len(styles)}
        )  # fmt: skip
    return compared


# -- the folder's report ----------------------------------------------------------------------------------------------


def report(out: str | Path, perceptual: Sequence[str] = ()) -> Generator[Progress, None, list[Path]]:
    """Write the report of a benchmark's folder. Yields progress, returns the paths written.

    Args:
        perceptual: names of `perceptual.METRICS` to measure too; what is measured is kept.

    Raises:
        InputError: nothing was run there, a metric is not known, or its package or weights are absent.
    """
    out = Path(out)
    pairings = pairings_of(out)
    extra = pick(perceptual)
    yield from measure_again(out, pairings)
    if perceptual:
        yield from _perceptual(out, pairings, perceptual)
    found = results(out)
    rows = with_costs([record for _, record in found if record["status"] == "done"])
    wanted = tuple(metric for metric in (*METRICS, *extra, *TEXT, *COSTS) if by_style(rows, metric.name))
    cells = table(rows, wanted)
    absent = sorted({(t["method"], t["reason"]) for _, t in found if t["status"] == "n/a"})
    failed = [(t["style"], t["item"], t["method"], t["reason"]) for _, t in found if t["status"] == "failed"]
    rivals = [*against_rivals(rows), *against_rivals(rows, "ours-noise")]

    sheets = []
    for number, (name, pairing) in enumerate(pairings.items()):
        sheet = _sheet(pairing, found)
        if sheet is not None:
            sheets.append(save_image(sheet, out / "sheets" / f"{name}.jpg", overwrite=True))
        yield Progress("report", number + 1, len(pairings), name)

    setup = {"domain": EMBROIDERY, **setup_of(out)}
    facts = {
        **{key: setup[key] for key in ("cases", "domain", "base", "fingerprint", "budget", "split", "recipe")},
        "styles": sorted({row["style"] for row in rows}),
        "designs": sorted({row["item"] for row in rows if not row["text"]}),
        "seeds": sorted({row["seed"] for row in rows}),
        "pictures": len(rows),
        "table": {method: {name: vars(cell) for name, cell in line.items()} for method, line in cells.items()},
        "edges": {name: pairing.edges for name, pairing in pairings.items()},
        "by style": {metric.name: by_style(rows, metric.name) for metric in wanted if metric.name in BY_STYLE},
        "against rivals": rivals,
        "no rivals": unstitched(rows),
        "not run": [{"method": method, "reason": reason} for method, reason in absent],
        "failed": [dict(zip(("style", "design", "method", "reason"), one, strict=True)) for one in failed],
        "methods": {method.name: method.source for method in METHODS if method.name in cells},
        "metrics": {metric.name: {"better": metric.better, "source": metric.source} for metric in wanted},
    }
    written = [
        _text(out / "report.json", json.dumps(facts, indent=1) + "\n"),
        _text(out / "report.md", _markdown(facts, cells, wanted)),
        _text(out / "index.html", _page(facts, cells, wanted, [sheet.relative_to(out) for sheet in sheets])),
    ]
    return [*written, *sheets]


def _perceptual(out: Path, pairings: Mapping[str, Pairing], names: Sequence[str]) -> Iterator[Progress]:
    """Measure what networks measure where it is missing, and keep it with the results."""
    todo = [(path, record) for path, record in results(out) if record["status"] == "done"]
    for number, (path, record) in enumerate(todo):
        missing = [name for name in names if name not in record["metrics"]]
        if missing:
            with Image.open(path.with_suffix(".png")) as picture:
                values = of_result(picture.convert("RGB"), record, pairings[record["style"]], missing)
            write_json(path, record | {"metrics": record["metrics"] | values})
        yield Progress("perceptual metrics", number + 1, len(todo))


def _text(path: Path, text: str) -> Path:
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text)
    temporary.replace(path)
    return path


def _sheet(pairing: Pairing, found: Sequence[tuple[Path, dict]]) -> Image.Image | None:
    """Design, truth and every method in columns, a design a row; above, the pair. None: nothing there."""
    drawn: dict[tuple[str, str], Path] = {}
    for path, record in found:
        if record["style"] == pairing.name and record["status"] == "done":
            drawn.setdefault((record["item"], record["method"]), path.with_suffix(".png"))
    wanted = METHODS
    if pairing.domain in (EMBROIDERY, "artistic"):  # there the unstyled design stands in the first column
        wanted = [method for method in METHODS if method.name != "unstyled"]
    methods = [method for method in wanted if any(name == method.name for _, name in drawn)]
    if not methods:
        return None
    items = list(dict.fromkeys(item for item, _ in drawn))
    targets = {target.name: target for target in pairing.targets}
    rows: list[list[Image.Image | None]] = [[flatten(pairing.design, pairing.fabric), pairing.embroidery]]
    for item in items:
        target = targets.get(item)
        row = [None, None] if target is None else [flatten(target.design, pairing.fabric), target.truth]
        for method in methods:
            path = drawn.get((item, method.name))
            row.append(Image.open(path).copy() if path else None)
        rows.append(row)
    return contact_sheet(rows, ["design", "truth", *(m.title for m in methods)], [f"{pairing.name}: the pair", *items])


# -- as text and as a page --------------------------------------------------------------------------------------------


def _lines(facts: Mapping) -> list[str]:
    """What must be said before any number."""
    split = facts["split"]
    lines = [
        f"Split {split}, {len(facts['styles'])} styles ({', '.join(facts['styles'])}), "
        f"designs {', '.join(facts['designs'])}, {len(facts['seeds'])} seed(s), {facts['pictures']} pictures.",
        f"Base {facts['base']} ({facts['fingerprint'][:12] or 'none'}), budget {facts['budget']:g} of the recipe's "
        f"iterations ({facts['recipe']['stage_one']['iterations']} + {facts['recipe']['stage_two']['iterations']}).",
        "Mean over styles, in brackets the 95 % bootstrap interval over styles.",
    ]
    if split == "development":
        lines.append("Development split: methods may have been tuned on it, so these numbers prove nothing.")
    elif split in SPLITS:
        lines.append("Test split: nothing may be tuned on it.")
    if facts["no rivals"]:
        titles = ", ".join(method.title for method in METHODS if method.name in facts["no rivals"])
        lines.append(f"Never the best trained rival, because none of its pictures passes: {titles}.")
    if facts["domain"] != EMBROIDERY:
        lines.append(DOMAINS[facts["domain"]].note)
    elif split == "test":
        lines.append(
            "The truth is drawn by the stitch renderer, which the fitted renderer and ours + fitted stitches use too; "
            "ours takes the bare fabric around the design from it, which texture and colour do not see."
        )
    return lines


def _best(values: Mapping[str, float], metric: Metric) -> float | None:
    """The best of some methods' values, the bounds' left out; None: there are no others."""
    bounds = {method.name for method in METHODS if method.group == "bound"}
    others = [value for name, value in values.items() if name not in bounds]
    return (min if metric.better == "lower" else max)(others, default=None)


def _grid(cells: Mapping[str, Mapping[str, Cell]], wanted: Sequence[Metric]) -> tuple[list[str], list[list[str]]]:
    """The table as text: heads, then a row a method; a value stands out (**) if it is the best but for the bounds."""
    heads = ["method", *(f"{metric.title} {'↓' if metric.better == 'lower' else '↑'}" for metric in wanted)]
    rows = []
    ranked = [method for method in METHODS if method.name in cells]
    for method in ranked:
        row = [method.title]
        for metric in wanted:
            cell = cells[method.name].get(metric.name)
            if cell is None:
                row.append("")
                continue
            best = _best(
                {m.name: cells[m.name][metric.name].mean for m in ranked if metric.name in cells[m.name]}, metric
            )
            digits = 1 if abs(cell.mean) >= 20 else 3 if metric.high <= 1 else 2
            text = f"{cell.mean:.{digits}f}"
            if metric not in COSTS[1:]:
                text += f" ({cell.low:.{digits}f} to {cell.high:.{digits}f})" if cell.styles > 1 else ""
            row.append(f"**{text}**" if method.group != "bound" and cell.mean == best else text)
        rows.append(row)
    return heads, rows


def _rival_grid(facts: Mapping) -> tuple[list[str], list[list[str]]]:
    heads = ["method", "metric", "its value", "best trained rival", "that one's", "difference (95 %)", "better"]
    titles = {method.name: method.title for method in METHODS}
    rows = [
        [titles[one["of"]], one["metric"], f"{one['ours']:.3f}", one["rival"], f"{one['rivals']:.3f}",
         f"{one['difference']:+.3f} ({one['low']:+.3f} to {one['high']:+.3f})", one["better"]]
        for one in facts["against rivals"]
    ]  # fmt: skip
    return heads, rows


def _style_grid(facts: Mapping, metric: Metric) -> tuple[list[str], list[list[str]]]:
    """A metric as text: heads, then a row a style and one for each setting of the edges; the best as in `_grid`."""
    values, edges = facts["by style"][metric.name], facts["edges"]
    methods = [method for method in METHODS if method.name in values]
    groups = {style: [style] for style in facts["styles"]}
    for setting in sorted(set(edges.values())):
        groups[f"mean of {setting} edges"] = [style for style in facts["styles"] if edges[style] == setting]
    rows = []
    for name, styles in groups.items():
        known = {m.name: [values[m.name][style] for style in styles if style in values[m.name]] for m in methods}
        means = {method: round(float(np.mean(line)), 2) for method, line in known.items() if line}
        best = _best(means, metric)
        row = [name]
        for method in methods:
            text = f"{means[method.name]:.2f}" if method.name in means else ""
            row.append(f"**{text}**" if text and method.group != "bound" and means[method.name] == best else text)
        if means:
            rows.append(row)
    return ["style", *(method.title for method in methods)], rows


def _markdown(facts: Mapping, cells: Mapping[str, Mapping[str, Cell]], wanted: Sequence[Metric]) -> str:
    def grid(heads: list[str], rows: list[list[str]]) -> list[str]:
        return ["| " + " | ".join(line) + " |" for line in (heads, ["---"] * len(heads), *rows)]

    parts = ["# Benchmark", "", *(f"{line}  " for line in _lines(facts)), "", *grid(*_grid(cells, wanted)), ""]
    if facts["against rivals"]:
        parts += ["## Ours against the best trained rival", "", *grid(*_rival_grid(facts)), ""]
    for metric in wanted:
        if metric.name in facts["by style"]:
            parts += [f"## Style by style: {metric.title}", "", *grid(*_style_grid(facts, metric)), ""]
    parts += [f"- {one['method']} was not run: {one['reason']}" for one in facts["not run"]]
    parts += [
        f"- FAILED: {one['method']} on {one['style']}, {one['design']}: {one['reason']}" for one in facts["failed"]
    ]
    sources = [f"- **{method.title}**: {method.source}" for method in METHODS if method.name in cells]
    parts += ["", "## Methods", "", *sources]
    parts += ["", "## Metrics", "", *(f"- **{metric.title}**: {metric.source}" for metric in wanted)]
    return "\n".join(parts) + "\n"


_STYLE = (
    "body{font:14px sans-serif;margin:2em;max-width:120em}table{border-collapse:collapse;margin:1em 0}"
    "td,th{border:1px solid #ccc;padding:.3em .6em;text-align:right;vertical-align:top}"
    "td:first-child,th:first-child{text-align:left}img{max-width:100%;margin:1em 0}"
)


def _page(
    facts: Mapping, cells: Mapping[str, Mapping[str, Cell]], wanted: Sequence[Metric], sheets: Sequence[Path]
) -> str:
    def grid(heads: list[str], rows: list[list[str]]) -> str:
        def cell(text: str, tag: str = "td") -> str:
            bold = text.startswith("**")
            text = html.escape(text.strip("*"))
            return f"<{tag}>{f'<b>{text}</b>' if bold else text}</{tag}>"

        lines = ["".join(cell(head, "th") for head in heads), *("".join(map(cell, row)) for row in rows)]
        return "<table>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"

    said = "".join(f"<p>{html.escape(line)}</p>" for line in _lines(facts))
    parts = ["<h1>Benchmark</h1>", said, grid(*_grid(cells, wanted))]
    if facts["against rivals"]:
        parts += ["<h2>Ours against the best trained rival</h2>", grid(*_rival_grid(facts))]
    for metric in wanted:
        if metric.name in facts["by style"]:
            parts += [f"<h2>Style by style: {html.escape(metric.title)}</h2>", grid(*_style_grid(facts, metric))]
    for title, key in (("Not run", "not run"), ("Failed", "failed")):
        if facts[key]:
            lines = "".join(f"<li>{html.escape(', '.join(map(str, one.values())))}</li>" for one in facts[key])
            parts.append(f"<h2>{title}</h2><ul>{lines}</ul>")
    parts += [f'<h2>{sheet.stem}</h2><img src="{html.escape(str(sheet))}" alt="{sheet.stem}">' for sheet in sheets]
    for title, listed in (("Methods", [m for m in METHODS if m.name in cells]), ("Metrics", wanted)):
        sources = "".join(f"<li><b>{html.escape(m.title)}</b>: {html.escape(m.source)}</li>" for m in listed)
        parts.append(f"<h2>{title}</h2><ul>{sources}</ul>")
    body = "".join(parts)
    return f'<!doctype html><meta charset="utf-8"><title>Benchmark</title><style>{_STYLE}</style>{body}\n'

"""`tambour bench`: run the benchmark of every method on known truths, or report it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from tambour.cli.show import print_lines, say, watching
from tambour.errors import InputError
from tambour.progress import finished
from tambour.workflows.options import RECIPE

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no remarks.")]

bench = typer.Typer(no_args_is_help=True, help="Run the benchmark of every method on known truths, or report it.")
BenchFolder = Annotated[Path, typer.Argument(metavar="FOLDER", help="Where results are kept.", show_default=False)]


def _names(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(name.strip() for name in text.split(",") if name.strip())


@bench.command("run")
def bench_run(
    out: BenchFolder,
    reduced: Annotated[
        bool, typer.Option("--reduced", help="3 styles, 3 designs, half the iterations, the main methods.")
    ] = False,
    split: Annotated[
        Literal["development", "test"], typer.Option("--split", help="Tune on development, tell test.")
    ] = "test",
    domain: Annotated[
        Literal["embroidery", "artistic", "sketch", "appearance"],
        typer.Option("--domain", help="The paper's other domains have cases and a recipe of their own."),
    ] = "embroidery",
    methods: Annotated[str | None, typer.Option("--methods", help="By comma. [default: all]")] = None,
    styles: Annotated[str | None, typer.Option("--styles", help="By comma. [default: all of the split]")] = None,
    designs: Annotated[str | None, typer.Option("--designs", help="By comma. [default: all of the split]")] = None,
    seeds: Annotated[int | None, typer.Option("--seeds", help="How many, counted from 0. [default: 1]")] = None,
    budget: Annotated[
        float | None, typer.Option("--budget", help="Times the recipe's iterations, for every trained method.")
    ] = None,
    base: Annotated[str, typer.Option("--base", help="Base model: mini, sdxl, a folder or a .safetensors.")] = "mini",
    recipe: Annotated[str | None, typer.Option("--recipe", help=RECIPE)] = None,
    photos: Annotated[
        Path | None, typer.Option("--photos", help="Folder with references/, designs/, prompts.txt: as in the paper.")
    ] = None,
    text: Annotated[bool, typer.Option("--text", help="Also draw the prompts.")] = False,
    quiet: Quiet = False,
) -> None:
    """Run methods on cases; what FOLDER has already is kept."""
    from dataclasses import replace

    from tambour.bench.methods import MAIN
    from tambour.bench.run import REDUCED, Plan, run

    if domain != "embroidery" and (reduced or photos is not None):
        raise InputError("--reduced and --photos are for embroidery.", "Name --styles, --designs and --budget.")
    plan = replace(REDUCED, methods=MAIN) if reduced else Plan(split=split, domain=domain)
    asked: dict[str, Any] = dict(
        methods=_names(methods), styles=_names(styles), designs=_names(designs), seeds=seeds, budget=budget
    )
    asked |= dict(folder=photos and str(photos), recipe=recipe)
    plan = replace(plan, base=base, text=text, **{name: value for name, value in asked.items() if value is not None})
    with watching(quiet) as show:
        for record in run(out, plan):
            show(record)
    say(quiet, f"`tambour bench report {out}` makes the table and the sheets.")
    print(out)


@bench.command("report")
def bench_report(
    out: BenchFolder,
    perceptual: Annotated[
        str | None, typer.Option("--perceptual", help="Also, by comma: lpips, dists, dreamsim, csd, clip.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Make tables (JSON, Markdown, HTML) and contact sheets of what was run."""
    from tambour.bench.report import report

    with watching(quiet) as watch:
        written = finished(report(out, _names(perceptual) or ()), watch)
    print_lines(written)

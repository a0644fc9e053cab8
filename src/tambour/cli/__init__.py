"""The command line: parse, call, print. Heavy imports happen inside the commands, so that `tambour --help` is instant.

Paths of what was written and tables go to standard output, progress and remarks to standard error. Exit codes are
those of `tambour.errors`, and 130 after Ctrl-C.
"""

from __future__ import annotations

import dataclasses
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from tambour.errors import InputError, OutputExists, TambourError
from tambour.progress import Progress

if TYPE_CHECKING:
    from tambour.config import Recipe
    from tambour.workflows.apply import Result

READABLE = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".avif", ".svg", ".svgz")
WRITABLE = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff")

app = typer.Typer(
    help="Show any embroidery before it is made: learn a look from one photo, apply it to any design.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 112},
)

Photo = Annotated[Path, typer.Argument(help="Photo of an embroidery.", show_default=False)]
StyleFile = Annotated[Path, typer.Argument(metavar="STYLE", help="Style file made by `learn`.", show_default=False)]
Out = Annotated[Path, typer.Option("-o", "--output", help="File to write; a folder for several.", show_default=False)]
Own = Annotated[
    Path | None,
    typer.Option(
        "--design",
        help="Your own flat design of the photo; or canny, outline: its edges; or filled: to colour outlines with.",
    ),
]
Describe = Annotated[str | None, typer.Option("--describe", help='What the photo shows: "red fox". Not heard by mini.')]
BaseName = Annotated[str, typer.Option("--base", help="Base model: mini, sdxl, a folder or a .safetensors.")]
StyleBase = Annotated[str | None, typer.Option("--base", help="Base model, where it is not where `learn` found it.")]
RecipeFile = Annotated[
    str | None, typer.Option("--recipe", help="Numbers of the run: a .toml file, mini, sdxl, mini-sketch ...")
]
Seed = Annotated[int, typer.Option("--seed", min=0, help="The same seed gives the same result.")]
Size = Annotated[int | None, typer.Option("--size", help="Longer side of the result, px.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no remarks.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON in place of a table.")]


# --- the main job -------------------------------------------------------------------------------------------------


@app.command()
def learn(
    photo: Photo,
    output: Annotated[Path, typer.Option("-o", "--output", help="Style file to write.", show_default=False)],
    design: Own = None,
    base: BaseName = "mini",
    recipe: RecipeFile = None,
    blocks: Annotated[str | None, typer.Option("--blocks", help="Style blocks in place of ours, by comma.")] = None,
    describe: Describe = None,
    stitch: Annotated[
        str | None, typer.Option("--stitch", help="Its stitch, where ours is wrong: satin, cross, chain ...")
    ] = None,
    seed: Seed = 0,
    report: Annotated[Path | None, typer.Option("--report", help="Folder for pictures of every step.")] = None,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    quiet: Quiet = False,
) -> None:
    """Learn the look of one embroidery photo. Interrupted, the same command continues."""
    import tambour

    named = [name.strip() for name in blocks.split(",")] if blocks is not None else None
    wanted = dict(design=design, base=base, recipe=recipe, seed=seed, blocks=named, describe=describe, stitch=stitch)
    if dry_run:
        _print_plan(_learn_plan(photo, output, report, overwrite, **wanted))
        return
    start = time.monotonic()
    with _watching(quiet) as progress:
        style = tambour.learn(photo, output, **wanted, report=report, overwrite=overwrite, progress=progress)
    _say(quiet, f"Learnt in {time.monotonic() - start:.0f} s; the style lives in {', '.join(style.blocks)}.")
    print(output)
    if report is not None:
        print(report / "sheet.jpg")


@app.command()
def apply(
    style: StyleFile,
    designs: Annotated[list[Path], typer.Argument(metavar="DESIGN", help="Pictures, or folders of pictures.")],
    output: Out,
    size: Size = None,
    strength: Annotated[float | None, typer.Option("--strength", help="How much is drawn anew, 0 to 1.")] = None,
    edges: Annotated[
        Literal["firm", "free"], typer.Option("--edges", help="free: raised material may change borders.")
    ] = "firm",
    colours: Annotated[
        Literal["design", "free"] | None,
        typer.Option(
            "--colours", help="design: take them from it. [default: free for free edges without --guide photo]"
        ),
    ] = None,
    guide: Annotated[
        Literal["none", "stitches", "photo"] | None,
        typer.Option("--guide", help="Start from drawn stitches, or the photo's. [default: the recipe's; mini: photo]"),
    ] = None,
    samples: Annotated[int, typer.Option("--samples", help="Draw N, keep the best, print the scores.")] = 1,
    transparent: Annotated[bool, typer.Option("--transparent", help="Keep the design's transparency.")] = False,
    draft: Annotated[bool, typer.Option("--draft", help="Few steps: sooner done, stitches less clear.")] = False,
    base: StyleBase = None,
    recipe: RecipeFile = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    quiet: Quiet = False,
) -> None:
    """Show designs in a style."""
    import tambour

    told = tambour.inspect(style)
    paths = _pictures(designs)
    targets = _targets(output, [path.stem for path in paths])
    settings = dict(size=size, strength=strength, edges=edges, guide=guide, samples=samples, transparent=transparent)
    settings |= dict(seed=seed, base=base, recipe=recipe, correct_colours=colours and colours == "design", draft=draft)
    if dry_run:
        from tambour.workflows.apply import controlnets_of

        numbers = tambour.drawing_recipe(told, recipe, draft=draft)
        kinds = controlnets_of(numbers, edges)
        share = 1.0 if strength is None and guide == "none" else strength
        wanted = dict(controlnets=kinds, size=size, pictures=len(paths) * samples, strength=share)
        takes = _apply_plan(base or told.base, numbers, **wanted)
        _print_plan({"style": style, **settings, **takes, **dict(zip(map(str, paths), targets, strict=True))})
        return

    def draw(done: int, progress: Callable) -> list[Result]:
        return tambour.apply(told, paths[done:], **settings, progress=progress)

    results = _draw(draw, output, targets, [style, *paths], settings, overwrite, quiet)
    if samples > 1:
        rows = [(path, *vars(result.scores).values(), result.seed) for path, result in results.items()]
        _print_table(("picture", "style", "design", "colour", "total", "seed"), rows)
    else:
        _print_lines(targets)


@app.command()
def imagine(
    style: StyleFile,
    prompt: Annotated[str, typer.Argument(help='What to draw: "a yellow dog".', show_default=False)],
    output: Out,
    n: Annotated[int, typer.Option("-n", help="How many pictures.")] = 1,
    size: Size = None,
    base: StyleBase = None,
    recipe: RecipeFile = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    quiet: Quiet = False,
) -> None:
    """Draw words in a style."""
    import tambour
    from tambour.workflows.apply import controlnets_of, prior_folder

    told = tambour.inspect(style)
    if n < 1:
        raise InputError(f"-n {n} is out of range.", "Draw at least one.")
    targets = _targets(output, [f"{index + 1:02}" for index in range(n)])
    settings = dict(size=size, base=base, recipe=recipe)
    numbers = tambour.drawing_recipe(told, recipe)
    designed = prior_folder(base or told.base, numbers) is not None
    if dry_run:
        kinds = controlnets_of(numbers) if designed else ()
        share = None if designed else 1.0
        takes = _apply_plan(base or told.base, numbers, controlnets=kinds, size=size, pictures=n, strength=share)
        how = "drawn first as a design" if designed else "drawn by the base itself"
        facts = {"style": style, "prompt": prompt, "words": how, "seed": seed}
        _print_plan({**facts, **settings, "pictures": n, "output": output, **takes})
        return

    def draw(done: int, progress: Callable) -> list[Result]:
        return tambour.imagine(told, prompt, n=n - done, seed=seed + done, **settings, progress=progress)

    if numbers.sampling.warning and not designed:
        _say(quiet, f"Note: {numbers.sampling.warning}")
    _draw(draw, output, targets, [style], {"prompt": prompt, "seed": seed, **settings}, overwrite, quiet)
    _print_lines(targets)


# --- its parts ----------------------------------------------------------------------------------------------------


@app.command()
def pair(
    photo: Photo,
    output: Annotated[Path, typer.Option("-o", "--output", help="Flat design to write.", show_default=False)],
    mask: Annotated[Path | None, typer.Option("--mask", help="Also write the mask of the stitches.")] = None,
    route: Annotated[
        Literal["flat", "sd3"], typer.Option("--route", help="flat: no model. sd3: the paper's, for a GPU.")
    ] = "flat",
    describe: Describe = None,
    models: Annotated[
        Path | None, typer.Option("--models", help="sd3: folder with base, canny and tile, else from the hub.")
    ] = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Make the flat design of an embroidery photo; `learn --design` takes it, mended by hand or not."""
    import tambour
    from tambour.imaging.files import save_image

    targets = [_writable(path, overwrite) for path in (output, mask) if path is not None]
    with _watching(quiet) as progress:
        settings = dict(route=route, describe=describe, models=models, seed=seed)
        made = tambour.pair(photo, **settings, progress=progress)
    for picture, target in zip((made.design, made.mask), targets, strict=False):
        save_image(picture, target, overwrite)
    _print_lines(targets)


@app.command()
def blocks(
    photo: Photo,
    design: Own = None,
    base: BaseName = "mini",
    recipe: RecipeFile = None,
    describe: Describe = None,
    plot: Annotated[Path | None, typer.Option("--plot", help="SVG to draw the similarities into.")] = None,
    as_json: AsJson = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Show how alike each block of the base sees the photo and its design, and which blocks carry the style."""
    import tambour

    if plot is not None:
        _writable(plot, overwrite, (".svg",))
    with _watching(quiet) as progress:
        found = tambour.blocks(photo, design=design, base=base, recipe=recipe, describe=describe, progress=progress)
    if as_json:
        _print_json(dataclasses.asdict(found))
    else:
        segments = len(next(iter(found.similarity.values())))
        head = ("block", *(f"{number}" for number in range(segments)), "score", "style")
        rows = [
            (name, *found.similarity[name], found.scores[name], "yes" if name in found.chosen else "")
            for name in found.names
        ]
        _print_table(head, rows)
    if plot is not None:
        plot.write_text(found.plot())
        _say(quiet, f"Drawn into {plot}.")


@app.command()
def inspect(style: StyleFile, as_json: AsJson = False) -> None:
    """Print what a style file says about itself."""
    import tambour

    told = tambour.inspect(style)
    facts = {
        "description": told.description,
        "base": told.base,
        "fingerprint": told.fingerprint,
        "trigger": told.trigger,
        "rank": told.rank,
        "alpha": told.alpha,
        "blocks": dict(told.blocks),
        "modules": len(told.modules),
        "parameters": sum(tensor.numel() for tensor in told.tensors.values()),
        "fabric": list(told.fabric),
        "stitch": told.stitch and dict(told.stitch),
        "recipe": dict(told.recipe),
    }
    if as_json:
        _print_json(facts)
    else:
        _print_plan({**facts, "fabric": "#" + bytes(told.fabric).hex()})


def _file_names(folder: str) -> str:
    """Names of the modules in a folder of the package, `a, b or c`, without loading any of them."""
    names = sorted(path.stem for path in (Path(__file__).parents[1] / folder).glob("[a-z]*.py"))
    return f"{', '.join(names[:-1])} or {names[-1]}"


@app.command()
def stitch(
    design: Annotated[Path, typer.Argument(help="Flat art: PNG, SVG, ...", show_default=False)],
    output: Annotated[Path, typer.Option("-o", "--output", help="Picture to write.", show_default=False)],
    family: Annotated[str | None, typer.Option("--as", help=_file_names("stitch/families") + ".")] = None,
    like: Annotated[Path | None, typer.Option("--like", help="Photo whose stitch is fitted.")] = None,
    parameters: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Any parameter: thread_width=0.4 (mm), angle=30 ..."),
    ] = None,
    fabric: Annotated[str, typer.Option("--fabric", help=_file_names("stitch/fabrics") + ".")] = "weave",
    fabric_colour: Annotated[str | None, typer.Option("--fabric-colour", help="#rrggbb; else the design's.")] = None,
    size: Annotated[int, typer.Option("--size", help="Longer side of the result, px.")] = 1024,
    mm: Annotated[
        float | None, typer.Option("--mm", help="Longer side of the result, mm. [default: 1 a 20 px]")
    ] = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Draw a design in stitches, without any model."""
    import tambour
    from tambour.imaging.files import save_image
    from tambour.stitch import Fabric, describe

    _writable(output, overwrite)
    cloth = Fabric(kind=fabric, colour=None if fabric_colour is None else _colour(fabric_colour))
    kind = tambour.choose_stitch(family, like=like, size=size, mm=mm, **dict(map(_parameter, parameters or ())))
    drawn = tambour.stitch(design, kind, fabric=cloth, size=size, mm=mm, seed=seed)
    save_image(drawn.image, output, overwrite)
    _say(quiet, describe(kind))
    _print_lines([output])


# --- the benchmark -------------------------------------------------------------------------------------------------

bench = typer.Typer(no_args_is_help=True, help="Run the benchmark of every method on known truths, or report it.")
app.add_typer(bench, name="bench")
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
    base: BaseName = "mini",
    recipe: RecipeFile = None,
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
    asked = dict(methods=_names(methods), styles=_names(styles), designs=_names(designs), seeds=seeds, budget=budget)
    asked |= dict(folder=photos and str(photos), recipe=recipe)
    plan = replace(plan, base=base, text=text, **{name: value for name, value in asked.items() if value is not None})
    with _watching(quiet) as show:
        for record in run(out, plan):
            show(record)
    _say(quiet, f"`tambour bench report {out}` makes the table and the sheets.")
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

    work = report(out, _names(perceptual) or ())
    with _watching(quiet) as show:
        while True:
            try:
                show(next(work))
            except StopIteration as end:
                written = end.value
                break
    _print_lines(written)


# --- inputs and outputs -------------------------------------------------------------------------------------------


def _pictures(paths: Sequence[Path]) -> list[Path]:
    """The picture files named, and those in the folders named, in the order of their names."""
    found = []
    for path in paths:
        inside = sorted(p for p in path.iterdir() if p.suffix.lower() in READABLE) if path.is_dir() else [path]
        if not inside:
            raise InputError(f"There are no pictures in {path}.", f"They end in {', '.join(READABLE)}.")
        found += inside
    return found


def _targets(output: Path, names: Sequence[str]) -> list[Path]:
    """Where results go: `output` itself for one (unless it is a folder), files in it for several."""
    if len(names) == 1 and not output.is_dir() and output.suffix:
        return [_writable(output, overwrite=True)]
    if output.is_file() or output.suffix.lower() in WRITABLE:
        raise InputError(f"{output} is a file, but there are {len(names)} pictures to write.", "Name a folder.")
    targets = []
    for name in names:
        same = sum(target.stem.rpartition("-")[0] == name or target.stem == name for target in targets)
        targets.append(output / (f"{name}-{same + 1}.png" if same else f"{name}.png"))
    return targets


def _writable(path: Path, overwrite: bool, suffixes: tuple[str, ...] = WRITABLE) -> Path:
    """Refuse, before any work is done, a picture that could not be written after it."""
    if path.suffix.lower() not in suffixes:
        raise InputError(f"Cannot write a picture as {path.name!r}.", f"Its name must end in {', '.join(suffixes)}.")
    if path.exists() and not overwrite:
        raise OutputExists(path)
    return path


def _colour(text: str) -> tuple[int, ...]:
    digits = text.removeprefix("#")
    try:
        if len(digits) != 6:
            raise ValueError
        return tuple(bytes.fromhex(digits))
    except ValueError:
        raise InputError(f"{text!r} is not a colour.", "Write it as #rrggbb, for example #2b3a67.") from None


def _parameter(text: str) -> tuple[str, float | str | bool]:
    """A "name=value" as its two halves, the value a number, a truth value or a word."""
    name, equals, value = text.partition("=")
    if not equals:
        raise InputError(f"{text!r} sets nothing.", "Write --set NAME=VALUE, for example --set angle=30.")
    if value in ("true", "false"):
        return name, value == "true"
    try:
        return name, float(value)
    except ValueError:
        return name, value


def _draw(
    run: Callable[[int, Callable], list[Result]],
    output: Path,
    targets: Sequence[Path],
    inputs: Sequence[Path],
    settings: Mapping,
    overwrite: bool,
    quiet: bool,
) -> dict[Path, Result]:
    """Run `run(done, progress)` and save its results; they wait in a work folder until all are done."""
    from tambour.imaging.files import save_image
    from tambour.workflows.jobs import check_targets, claim, fingerprint, move, work_folder

    folder = work_folder(output)
    check_targets(folder, targets, overwrite)
    claim(folder, {"inputs": [fingerprint(path) for path in inputs], **settings}, overwrite)
    places = [folder / target.name for target in targets]
    done = next((index for index, place in enumerate(places) if not place.exists()), len(places))

    with _watching(quiet) as bars:

        def progress(record: Progress | Result) -> None:
            if isinstance(record, Progress):
                bars(record)
            else:
                save_image(record.image, places[done + record.design_index], overwrite=True)

        results = run(done, progress) if done < len(places) else []
    move(folder, targets)
    return dict(zip(targets[done:], results, strict=True))


# --- what is printed ----------------------------------------------------------------------------------------------


def _say(quiet: bool, text: str) -> None:
    if not quiet:
        print(text, file=sys.stderr)


def _print_json(values: Mapping) -> None:
    import json

    print(json.dumps(values, indent=2, ensure_ascii=False))


def _print_lines(paths: Sequence[Path]) -> None:
    for path in paths:
        print(path)


def _print_plan(facts: Mapping, indent: str = "") -> None:
    """Names and values under each other; what is not set is left out."""
    facts = {str(name): value for name, value in facts.items() if value is not None}
    width = max(map(len, facts), default=0)
    for name, value in facts.items():
        if isinstance(value, Mapping):
            print(f"{indent}{name}")
            _print_plan(value, indent + "  ")
        else:
            if isinstance(value, list | tuple):
                value = ", ".join(map(str, value))
            print(f"{indent}{name:{width}}  {f'{value:.4g}' if isinstance(value, float) else value}")


def _print_table(head: Sequence[str], rows: Sequence[Sequence]) -> None:
    """Columns under their names: text to the left, numbers to the right with two digits."""
    cells = [[f"{cell:.2f}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(head, *cells, strict=True)]
    numeric = [not rows or isinstance(cell, int | float) for cell in (rows[0] if rows else head)]
    for row in [list(head), *cells]:
        line = (f"{c:>{w}}" if n else f"{c:{w}}" for c, w, n in zip(row, widths, numeric, strict=True))
        print("  ".join(line).rstrip())


@contextmanager
def _watching(quiet: bool) -> Iterator[Callable[[Progress], None]]:
    """While open, the function it gives shows progress records on standard error: bars, or a line a stage in a log."""
    if quiet:
        yield lambda record: None
        return
    if not sys.stderr.isatty():
        with _logging() as show:
            yield show
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description:<16}"), BarColumn(24), MofNCompleteColumn(), TimeElapsedColumn())
    columns += (TimeRemainingColumn(), TextColumn("[dim]{task.fields[message]}"))
    with Bars(*columns, console=Console(stderr=True)) as bars:
        tasks = {}

        def show(record: Progress) -> None:
            if record.stage not in tasks:
                tasks[record.stage] = bars.add_task(record.stage, total=record.total, message="")
            message = escape(_told(record))
            bars.update(tasks[record.stage], completed=record.step, total=record.total, message=message)

        yield show


@contextmanager
def _logging() -> Iterator[Callable[[Progress], None]]:
    """While open, the function it gives prints a line for every stage that was finished."""
    begun: dict[str, float] = {}
    last: Progress | None = None

    def flush() -> None:
        if last is not None and last.step == last.total:
            seconds = time.monotonic() - begun[last.stage]
            line = f"{last.stage}: {last.total} steps, {seconds:.1f} s  {_told(last)}"
            print(line.rstrip(), file=sys.stderr, flush=True)

    def show(record: Progress) -> None:
        nonlocal last
        if last is not None and last.stage != record.stage:
            flush()
        begun.setdefault(record.stage, time.monotonic())
        last = record

    yield show
    flush()


def _told(record: Progress) -> str:
    return record.message or "  ".join(f"{name} {value:.3g}" for name, value in record.values.items())


def _learn_plan(photo: Path, output: Path, report: Path | None, overwrite: bool, **wanted) -> dict:
    """What `learn` would do, in the order it does it; refuses what `learn` would refuse at once."""
    from tambour.config import resolve_recipe
    from tambour.imaging.files import open_image
    from tambour.preflight import plan_learn
    from tambour.workflows.jobs import check_targets, work_folder
    from tambour.workflows.learn import controlnets, resolve_design

    folder = work_folder(output)
    check_targets(folder, [output], overwrite)
    picture = open_image(photo)
    source, base = wanted["recipe"], wanted["base"]
    if source is None:
        source = base if base in ("mini", "sdxl") else None
    own, recipe = resolve_design(wanted["design"], resolve_recipe(source, base))
    controls, drawn = controlnets(recipe, report is not None), report is not None
    takes = plan_learn(base, recipe, controlnets=controls, report=drawn, free_precision=wanted["recipe"] is None)
    scale = recipe.working_size(*picture.size) / max(picture.size)
    return {
        "photo": f"{photo}, {picture.width} x {picture.height} px, "
        f"taken at {picture.width * scale:.0f} x {picture.height * scale:.0f} px",
        "design": own or ("made from the photo" if recipe.flat else f"the photo's edges ({recipe.design_kind})"),
        "description": wanted["describe"] or "made from the photo",
        "base": base,
        "recipe": source or "the paper's",
        "blocks": wanted["blocks"]
        or f"chosen after inversion ({recipe.analysis.inversion}, {recipe.analysis.steps} steps)",
        "adapter": f"rank {recipe.lora.rank}, alpha {recipe.lora.alpha:g}"
        + (", attention and convolutions" if recipe.lora.convolutions else ", attention"),
        "stitch": wanted["stitch"] or "fitted to the photo",
        "stage one": f"{recipe.stage_one.iterations} iterations at learning rate {recipe.stage_one.learning_rate:g}",
        "complement": f"{recipe.complement.count} embroideries drawn, "
        f"{-(-recipe.complement.count // 4) if recipe.complement.filters else 'all'} pairs kept",
        "stage two": f"{recipe.stage_two.iterations} iterations at learning rate {recipe.stage_two.learning_rate:g}",
        **takes.facts(),
        "seed": wanted["seed"],
        "output": f"{output}{' (replaced)' if output.exists() else ''}",
        "report": report,
        "work": f"{folder} ({'continued' if folder.exists() else 'new'})",
    }


def _apply_plan(base: str, recipe: Recipe, **wanted) -> dict[str, str]:
    """What drawing takes on this machine; refuses what `apply` and `imagine` would refuse at once."""
    from tambour.preflight import plan_apply

    return plan_apply(base, recipe, **wanted).facts()


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; its exit code."""
    try:
        code = _run(argv)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # nobody reads on, which is nothing to complain about
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except TambourError as fault:
        print(f"tambour: {fault}", file=sys.stderr)
        return fault.exit_code
    except OSError as fault:  # a full disk, a folder that is not ours
        print(f"tambour: {fault}", file=sys.stderr)
        return 1


def _run(argv: Sequence[str] | None) -> int:
    try:
        app(args=argv, prog_name="tambour")
    except SystemExit as end:  # typer's way to return
        if end.code == 130:
            print("Interrupted. Give the same command again to continue.", file=sys.stderr)
        return end.code if isinstance(end.code, int) else 0
    return 0

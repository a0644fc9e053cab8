"""The command line: parse, call, print. Heavy imports happen inside the commands, so that `tambour --help` is instant.

Paths of what was written and tables go to standard output, progress and remarks to standard error. Exit codes are
those of `tambour.errors`, and 130 after Ctrl-C.
"""

from __future__ import annotations

import dataclasses
import io
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from tambour.cli.bench import bench
from tambour.cli.files import check_transparency, check_writable, parse_colour, parse_parameter, pictures, targets_for
from tambour.cli.options import takes
from tambour.cli.show import print_facts, print_json, print_lines, print_table, say, watching
from tambour.errors import TambourError
from tambour.workflows.options import SEED, ApplyOptions, ImagineOptions, LearnOptions, values_of

if TYPE_CHECKING:
    from tambour.progress import Progress
    from tambour.workflows.embroider import Result


app = typer.Typer(
    help="Show any embroidery before it is made: learn a look from one photo, apply it to any design.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 112},
)
app.add_typer(bench, name="bench")

Photo = Annotated[Path, typer.Argument(help="Photo of an embroidery.", show_default=False)]
StyleFile = Annotated[Path, typer.Argument(metavar="STYLE", help="Style file made by `learn`.", show_default=False)]
Out = Annotated[Path, typer.Option("-o", "--output", help="File to write; a folder for several.", show_default=False)]
Seed = Annotated[int, typer.Option("--seed", min=0, help=SEED)]
Describe = Annotated[str | None, typer.Option("--describe", help='What the photo shows: "red fox".')]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no remarks.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON in place of a table.")]


# --- the main job -------------------------------------------------------------------------------------------------


@app.command()
@takes(LearnOptions)
def learn(
    photo: Photo,
    output: Annotated[Path, typer.Option("-o", "--output", help="Style file to write.", show_default=False)],
    options: LearnOptions,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    quiet: Quiet = False,
) -> None:
    """Learn the look of one embroidery photo. Interrupted, the same command continues."""
    from tambour.workflows.jobs import check_learning, learn_style

    if dry_run:
        from tambour.workflows.request import dry_run as plan

        folder = check_learning(output, options, overwrite)
        files = {
            "output": f"{output}{' (replaced)' if output.exists() else ''}",
            "report": options.report,
            "work": f"{folder} ({'continued' if folder.exists() else 'new'})",
        }
        print_facts(plan(photo, options) | files)
        return
    start = time.monotonic()
    with watching(quiet) as watch:
        style = learn_style(photo, output, options, overwrite=overwrite, watch=watch)
    say(quiet, f"Learnt in {time.monotonic() - start:.0f} s; the style lives in {', '.join(style.blocks)}.")
    print(output)
    if options.report is not None:
        print(Path(options.report) / "sheet.jpg")


@app.command()
@takes(ApplyOptions)
def apply(
    style: StyleFile,
    designs: Annotated[list[Path], typer.Argument(metavar="DESIGN", help="Pictures, or folders of pictures.")],
    output: Out,
    options: ApplyOptions,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    quiet: Quiet = False,
) -> None:
    """Show designs in a style."""
    import tambour
    from tambour.workflows import apply as workflow

    loaded, paths = tambour.inspect(style), pictures(designs)
    targets = targets_for(output, [path.stem for path in paths])
    if options.transparent:
        check_transparency(targets)
    if dry_run:
        takes = workflow.dry_run(loaded, options, len(paths))
        print_facts({"style": style, **values_of(options), **takes, **dict(zip(map(str, paths), targets, strict=True))})
        return

    def draw(done: int) -> Iterator[Progress | Result]:
        return workflow.apply(loaded, paths[done:], options)

    results = _draw(draw, output, targets, [style, *paths], values_of(options), overwrite, quiet)
    if options.samples > 1:
        rows = [(path, *vars(result.scores).values(), result.seed) for path, result in results.items()]
        print_table(("picture", "style", "design", "colour", "total", "seed"), rows)
    else:
        print_lines(targets)


@app.command()
@takes(ImagineOptions)
def imagine(
    style: StyleFile,
    prompt: Annotated[str, typer.Argument(help='What to draw: "a yellow dog".', show_default=False)],
    output: Out,
    options: ImagineOptions,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    quiet: Quiet = False,
) -> None:
    """Draw words in a style."""
    import tambour
    from tambour.workflows import imagine as workflow

    loaded = tambour.inspect(style)
    targets = targets_for(output, [f"{index + 1:02}" for index in range(options.n)])
    if dry_run:
        facts = {"style": style, "prompt": prompt, **values_of(options), "output": output}
        print_facts(facts | workflow.dry_run(loaded, options))
        return

    def draw(done: int) -> Iterator[Progress | Result]:
        rest = dataclasses.replace(options, n=options.n - done, seed=options.seed + done)
        return workflow.imagine(loaded, prompt, rest)

    warning = workflow.warning(loaded, options)
    if warning:
        say(quiet, f"Note: {warning}")
    identity = {"prompt": prompt, **values_of(options)}
    _draw(draw, output, targets, [style], identity, overwrite, quiet)
    print_lines(targets)


def _draw(draw, output: Path, targets: Sequence[Path], inputs: Sequence[Path], settings, overwrite: bool, quiet: bool):
    """`jobs.draw_to_files`, shown."""
    from tambour.workflows.jobs import draw_to_files, fingerprint

    identity = {"inputs": [fingerprint(path) for path in inputs], **settings}
    with watching(quiet) as watch:
        return draw_to_files(draw, output, targets, identity, overwrite=overwrite, watch=watch)


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

    targets = [check_writable(path, overwrite) for path in (output, mask) if path is not None]
    with watching(quiet) as progress:
        made = tambour.pair(photo, route=route, describe=describe, models=models, seed=seed, progress=progress)
    for picture, target in zip((made.design, made.mask), targets, strict=False):
        save_image(picture, target, overwrite)
    print_lines(targets)


@app.command()
@takes(LearnOptions, without=("blocks", "stitch", "seed", "report"))
def blocks(
    photo: Photo,
    options: LearnOptions,
    plot: Annotated[Path | None, typer.Option("--plot", help="SVG to draw the similarities into.")] = None,
    as_json: AsJson = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Show how alike each block of the base sees the photo and its design, and which blocks carry the style."""
    import tambour

    if plot is not None:
        check_writable(plot, overwrite, (".svg",))
    with watching(quiet) as watch:
        found = tambour.blocks(photo, options, progress=watch)
    if as_json:
        print_json(dataclasses.asdict(found))
    else:
        segments = len(next(iter(found.similarity.values())))
        head = ("block", *(f"{number}" for number in range(segments)), "score", "style")
        rows = [
            (name, *found.similarity[name], found.scores[name], "yes" if name in found.chosen else "")
            for name in found.names
        ]
        print_table(head, rows)
    if plot is not None:
        plot.write_text(found.plot(), encoding="utf-8")
        say(quiet, f"Drawn into {plot}.")


@app.command()
def inspect(style: StyleFile, as_json: AsJson = False) -> None:
    """Print what a style file says about itself."""
    import tambour

    loaded = tambour.inspect(style)
    facts = {
        "description": loaded.description,
        "base": loaded.base,
        "fingerprint": loaded.fingerprint,
        "trigger": loaded.trigger,
        "rank": loaded.rank,
        "alpha": loaded.alpha,
        "blocks": dict(loaded.blocks),
        "modules": len(loaded.modules),
        "parameters": sum(tensor.numel() for tensor in loaded.tensors.values()),
        "fabric": list(loaded.fabric),
        "stitch": loaded.stitch and dict(loaded.stitch),
        "recipe": dict(loaded.recipe),
    }
    if as_json:
        print_json(facts)
    else:
        print_facts({**facts, "fabric": "#" + bytes(loaded.fabric).hex()})


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
    from tambour.imaging.files import save_image
    from tambour.stitch import Fabric, describe
    from tambour.workflows.parts import choose_stitch, draw_stitches

    check_writable(output, overwrite)
    cloth = Fabric(kind=fabric, colour=None if fabric_colour is None else parse_colour(fabric_colour))
    kind = choose_stitch(family, like=like, size=size, mm=mm, **dict(map(parse_parameter, parameters or ())))
    drawn = draw_stitches(design, kind, fabric=cloth, size=size, mm=mm, seed=seed)
    save_image(drawn.image, output, overwrite)
    say(quiet, describe(kind))
    print_lines([output])


# --- the exit -----------------------------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; its exit code. What the terminal cannot show is replaced, never a fault after the work."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
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

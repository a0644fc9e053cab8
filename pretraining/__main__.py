"""`python -m pretraining STEP`: make mini from nothing, step by step. Every step resumes where it stopped."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    help=__doc__,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 112},
)

Work = Annotated[Path, typer.Option("--work", help="Folder of everything in between.")]
Name = Annotated[str, typer.Option("--name", help="Name of the stage.")]
Start = Annotated[str | None, typer.Option("--start", help="Name of the stage whose averaged weights to start from.")]
Plan = Annotated[str, typer.Option("--plan", help='Changes of the plan, JSON: {"rate": 0.001}.')]
Count = Annotated[int, typer.Option("--count", help="Pictures of the corpus to train on.")]
First = Annotated[int, typer.Option("--first", help="Number of the first picture.")]
Unseen = Annotated[int, typer.Option("--unseen", help="Further pictures, for the sheet alone.")]
Seconds = Annotated[float, typer.Option("--seconds", help="Time to train.")]
Processes = Annotated[int, typer.Option("--processes", help="Processes that render.")]
Ranks = Annotated[int, typer.Option("--ranks", help="Processes that share the work (CPU).")]
Device = Annotated[str | None, typer.Option("--device", help="torch device. [default: cuda where there is one]")]
Each = Annotated[int, typer.Option("--each", help="Samples of every family.")]
Steps = Annotated[int, typer.Option("--steps", help="Steps of the sampler.")]
Guidance = Annotated[float, typer.Option("--guidance", help="Guidance scale of the families' samples.")]
Out = Annotated[Path, typer.Option("--out", help="Folder to write.", show_default=False)]
Read = Annotated[Path, typer.Option("--out", help="Folder to read.", show_default=False)]

WORK, CORES = Path("pretrain-work"), os.cpu_count() or 1


def _run(step: str, device: str | None = None, plan: str = "{}", **settings: Any) -> None:
    """Run a step of `pretraining.steps`; torch is loaded here, so that help is instant."""
    import cv2
    import torch

    from pretraining import steps

    cv2.setNumThreads(1)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    getattr(steps, f"{step}_step")(steps.Run(**settings, device=device, plan=json.loads(plan)))


@app.command()
def art(work: Work = WORK) -> None:
    """Fetch the icon and font packages."""
    _run("art", work=work)


@app.command()
def corpus(
    work: Work = WORK,
    count: Count = 1450,
    unseen: Unseen = 200,
    first: First = 0,
    processes: Processes = CORES,
    device: Device = None,
) -> None:
    """Render designs and stitched pictures."""
    _run("corpus", device, work=work, count=count, unseen=unseen, first=first, processes=processes)


@app.command()
def decoder(work: Work = WORK, count: Count = 1450, seconds: Seconds = 900, device: Device = None) -> None:
    """Fit the PCA encoder, train the decoder."""
    _run("decoder", device, work=work, count=count, seconds=seconds)


@app.command()
def stage(
    work: Work = WORK,
    name: Name = "a",
    start: Start = None,
    plan: Plan = "{}",
    count: Count = 1450,
    seconds: Seconds = 900,
    ranks: Ranks = 1,
    device: Device = None,
) -> None:
    """Train UNet, text encoder and ControlNets for a while."""
    _run("stage", device, plan, work=work, name=name, start=start, count=count, seconds=seconds, ranks=ranks)


@app.command()
def sheet(
    work: Work = WORK,
    name: Name = "a",
    count: Count = 1450,
    each: Each = 2,
    steps: Steps = 25,
    guidance: Guidance = 2.0,
    device: Device = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder to write. [default: the work folder]")] = None,
) -> None:
    """Write the evaluation page of a stage."""
    settings = dict(work=work, name=name, count=count, each=each, steps=steps, guidance=guidance, out=out)
    _run("sheet", device, **settings)


@app.command()
def export(out: Out, work: Work = WORK, name: Name = "a") -> None:
    """Write the base folder of a stage."""
    _run("export", work=work, name=name, out=out)


@app.command()
def words(
    work: Work = WORK,
    plan: Plan = "{}",
    seconds: Seconds = 900,
    device: Device = None,
    out: Annotated[Path | None, typer.Option("--out", help="Base folder to write it into.")] = None,
) -> None:
    """Train the prior, the small model that makes a design of words, and write it into the base folder."""
    _run("words", device, plan, work=work, seconds=seconds, out=out)


@app.command()
def wordsheet(
    out: Read,
    style: Annotated[Path, typer.Option("--style", help="A style file of the base.", show_default=False)],
    work: Work = WORK,
) -> None:
    """Draw forty prompts as the prior of a base folder draws them, and in a style."""
    _run("wordsheet", work=work, style=style, out=out)


@app.command("all")
def everything(
    out: Out,
    work: Work = WORK,
    name: Name = "a",
    start: Start = None,
    plan: Plan = "{}",
    count: Count = 1450,
    unseen: Unseen = 200,
    seconds: Annotated[
        float, typer.Option("--seconds", help="For UNet and the rest; the prior as long again, the decoder a sixth.")
    ] = 900,
    processes: Processes = CORES,
    ranks: Ranks = 1,
    each: Each = 2,
    steps: Steps = 25,
    guidance: Guidance = 2.0,
    device: Device = None,
) -> None:
    """Make mini from nothing: art, corpus, decoder, stage, sheet, export and words, one after the other."""
    settings = dict(work=work, name=name, start=start, count=count, unseen=unseen, seconds=seconds, out=out)
    settings |= dict(processes=processes, ranks=ranks, each=each, steps=steps, guidance=guidance)
    _run("all", device, plan, **settings)


@app.command()
def gpu(
    start: Annotated[str, typer.Option("--start", help="Stage to go on from; `adopt` makes one.", show_default=False)],
    out: Out,
    work: Work = WORK,
    name: Name = "a",
    plan: Plan = "{}",
    count: Count = 1450,
    first: First = 0,
    least: Annotated[int, typer.Option("--least", help="Pictures to have before the training starts.")] = 600,
    decoder: Annotated[float, typer.Option("--decoder", help="Seconds of decoder training beside it.")] = 0,
    seconds: Seconds = 900,
    processes: Processes = CORES,
    device: Device = None,
) -> None:
    """Train a stage on a large GPU while its corpus is rendered, in one run that writes few and small files."""
    settings = dict(work=work, name=name, start=start, count=count, first=first, least=least, decoder=decoder, out=out)
    _run("gpu", device, plan, **settings, seconds=seconds, processes=processes)


@app.command()
def unpack(out: Read, work: Work = WORK, name: Name = "a") -> None:
    """Put the files of a gpu run into the work folder, to go on from them."""
    _run("unpack", work=work, name=name, out=out)


@app.command()
def adopt(out: Read, work: Work = WORK, name: Name = "a") -> None:
    """Put the weights of a base folder, such as the bundled one, into the work folder."""
    _run("adopt", work=work, name=name, out=out)


if __name__ == "__main__":
    app(prog_name="python -m pretraining")

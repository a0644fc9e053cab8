"""Show any embroidery before it is made: learn an embroidery's look from one photo, apply it to any design.

    style = tambour.learn("photo.jpg", "style.safetensors")
    results = tambour.apply(style, ["fox.svg", "rose.png"])
    results[0].image.save("fox.png")

Importing this loads neither torch nor a model; the functions do. Pictures are PIL images or the paths of files. Faults
that a user can mend are raised as `tambour.errors.TambourError`. `progress` is called with a `Progress` after every
step, and with every `Result` as soon as it is drawn.

Options (`LearnOptions`, `ApplyOptions`, `ImagineOptions`: what each does stands in its help text, and in
`tambour COMMAND --help`) are given as an object, or by name as `tambour.apply(style, designs, samples=4)`.

Two functions share their name with a room of the package: `tambour.pair` and `tambour.stitch` are always the functions,
and what the rooms hold is imported from them (`from tambour.stitch import render`).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from tambour.workflows.options import ApplyOptions, ImagineOptions, LearnOptions, make_options

if TYPE_CHECKING:
    from PIL.Image import Image

    from tambour.analysis.blocks import BlockChoice
    from tambour.pair.flat import Pair
    from tambour.progress import Progress
    from tambour.stitch import Fabric, Rendered, Stitch
    from tambour.style import Style
    from tambour.workflows.embroider import Result

    Picture: TypeAlias = str | Path | Image
    Watch: TypeAlias = Callable[[Progress | Result], object]

__all__ = ["ApplyOptions", "ImagineOptions", "LearnOptions", "apply", "blocks", "imagine", "inspect", "learn", "pair",
           "stitch"]  # fmt: skip
__version__ = "0.1.0"


class _Package(ModuleType):
    """This package: importing a room does not hide the function of the same name."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in __all__ and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package

# Threads that have nothing to do shall sleep soon: spinning, two of them beside another busy process were ten times
# slower than one; sleeping at once, half as slow again as need be on a quiet machine (docs/performance.md). Read when
# torch is loaded; a value that the user has set stays.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("GOMP_SPINCOUNT", "800")


def learn(
    photo: str | Path,
    output: str | Path | None = None,
    options: LearnOptions | None = None,
    *,
    overwrite: bool = False,
    progress: Callable[[Progress], object] | None = None,
    **settings: Any,
) -> Style:
    """Learn the style of one embroidery photo (method, sections 1 to 5).

    Args:
        photo: a picture file.
        output: style file to write. Unfinished work lies in OUTPUT.work/ until then, so that the same call continues
            where one was interrupted, and ends with the same file bit for bit (on a CPU). None writes nothing.
        options, settings: see `LearnOptions`.
        overwrite: replace `output` and the report, and drop the unfinished work of other calls.

    Raises:
        InputError, BaseModelError, OutputExists: see `tambour.errors`.
    """
    from tambour.workflows.jobs import learn_style

    options = make_options(LearnOptions, options, settings)
    return learn_style(photo, output, options, overwrite=overwrite, watch=progress)


def apply(
    style: Style | str | Path,
    designs: Sequence[Picture],
    options: ApplyOptions | None = None,
    *,
    progress: Watch | None = None,
    **settings: Any,
) -> list[Result]:
    """Show designs in a style (method, section 6): one `Result` a design, in their order.

    Args:
        style: from `learn` or `inspect`, or a style file.
        designs: pictures; transparent parts are put on the style's fabric colour.
        options, settings: see `ApplyOptions`.

    Raises:
        InputError, StyleError, BaseModelError: see `tambour.errors`.
    """
    from tambour.workflows.apply import apply as run

    return _results(run(inspect(style), designs, make_options(ApplyOptions, options, settings)), progress)


def imagine(
    style: Style | str | Path,
    prompt: str,
    options: ImagineOptions | None = None,
    *,
    progress: Watch | None = None,
    **settings: Any,
) -> list[Result]:
    """Draw pictures of a prompt ("a yellow dog") in a style; options: see `ImagineOptions`; faults as for `apply`."""
    from tambour.workflows.imagine import imagine as run

    return _results(run(inspect(style), prompt, make_options(ImagineOptions, options, settings)), progress)


def blocks(
    photo: str | Path,
    options: LearnOptions | None = None,
    *,
    progress: Callable[[Progress], object] | None = None,
    **settings: Any,
) -> BlockChoice:
    """How alike each block of a base sees a photo and its design, and which blocks carry the style (method, section 2).

    Arguments and faults as for `learn`.
    """
    from tambour.progress import finished
    from tambour.workflows.learn import analyse

    return finished(analyse(photo, make_options(LearnOptions, options, settings)), progress)


def inspect(style: Style | str | Path) -> Style:
    """Read a style file and check that it is whole; a style is given back as it is.

    Raises:
        StyleError: missing, truncated, foreign, or of another version.
    """
    from tambour.style import read_style

    return read_style(style) if isinstance(style, str | Path) else style


def pair(
    photo: Picture,
    *,
    route: Literal["flat", "sd3"] = "flat",
    describe: str | None = None,
    models: str | Path | None = None,
    seed: int = 0,
    progress: Callable[[Progress], object] | None = None,
) -> Pair:
    """The flat design of an embroidery photo, with the photo and the mask of its stitches (method, section 1).

    Args:
        photo: a picture of an embroidery.
        route: "flat" needs no model; "sd3" is the paper's: Stable Diffusion 3 under two ControlNets, for a GPU.
        describe: what the photo shows, in a few words; for "sd3" only.
        models: folder with `base`, `canny` and `tile` in diffusers' layout, in place of the hub's; for "sd3" only.
        seed: the same seed gives the same design; for "sd3" only.

    Raises:
        InputError: the photo cannot be used, or a setting belongs to the other route.
        BaseModelError: the models of "sd3" cannot be loaded.
    """
    from tambour.workflows.parts import make_pair

    return make_pair(photo, route=route, describe=describe, models=models, seed=seed, progress=progress)


def stitch(
    design: Picture,
    kind: Stitch | str | None = None,
    *,
    like: Picture | None = None,
    fabric: Fabric | None = None,
    size: int = 1024,
    mm: float | None = None,
    seed: int = 0,
    **parameters: float | str | bool,
) -> Rendered:
    """Draw a design in stitches, without any model.

    Args:
        design: flat art; transparent parts stay bare fabric.
        kind: a stitch, or one of `tambour.stitch.FAMILIES`; None: the family that fits `like`.
        like: a photo; the stitch, of the family of `kind` if that is given, is fitted to it.
        fabric: None: a weave in the design's own background colour.
        size: longer side of the result, px.
        mm: longer side of the result in millimetres; None: 20 px a mm, as the base model sees stitches.
        seed: the same seed gives the same picture.
        parameters: fields of `tambour.stitch.Stitch` by name (`thread_width=0.4`).

    Raises:
        InputError: a picture cannot be used, or a parameter is unknown or out of range.
    """
    from tambour.workflows.parts import choose_stitch, draw_stitches

    chosen = choose_stitch(kind, like=like, size=size, mm=mm, **parameters)
    return draw_stitches(design, chosen, fabric=fabric, size=size, mm=mm, seed=seed)


def _results(records, progress: Watch | None) -> list[Result]:
    """Every `Result` among the records of a workflow, which `progress` sees too."""
    from tambour.workflows.embroider import Result

    results = []
    for record in records:
        if isinstance(record, Result):
            results.append(record)
        if progress is not None:
            progress(record)
    return results

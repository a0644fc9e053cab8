"""Show any embroidery before it is made: learn an embroidery's look from one photo, apply it to any design.

    style = tambour.learn("photo.jpg", "style.safetensors")
    results = tambour.apply(style, ["fox.svg", "rose.png"])
    results[0].image.save("fox.png")

Importing this loads neither torch nor a model; the functions do. Pictures are PIL images or the paths of files. Faults
that a user can mend are raised as `tambour.errors.TambourError`. `progress` is called with a `Progress` after every
step, and with every `Result` as soon as it is drawn.

Three functions share their name with a module: `tambour.apply`, `tambour.pair` and `tambour.stitch` are always the
functions, and what the modules hold is imported from them (`from tambour.stitch import render`).
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Literal, TypeAlias

from tambour.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

    from tambour.analysis.blocks import BlockChoice
    from tambour.base import Base
    from tambour.config import Recipe
    from tambour.pair.flat import Pair
    from tambour.progress import Progress
    from tambour.stitch import Fabric, Rendered, Stitch
    from tambour.style import Style
    from tambour.workflows.apply import Result

    Picture: TypeAlias = str | Path | Image
    Watch: TypeAlias = Callable[[Progress | Result], object]

__all__ = ["apply", "blocks", "imagine", "inspect", "learn", "pair", "stitch"]
__version__ = "0.1.0"


class _Package(ModuleType):
    """This package: importing a submodule does not hide the function of the same name."""

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
    *,
    design: str | Path | None = None,
    base: str | Path = "mini",
    recipe: Recipe | str | Path | None = None,
    seed: int = 0,
    blocks: Sequence[str] | None = None,
    describe: str | None = None,
    stitch: str | None = None,
    report: str | Path | None = None,
    overwrite: bool = False,
    progress: Watch | None = None,
) -> Style:
    """Learn the style of one embroidery photo (method, sections 1 to 5).

    Args:
        photo: a picture file.
        output: style file to write. Unfinished work lies in OUTPUT.work/ until then, so that the same call continues
            where one was interrupted, and ends with the same file bit for bit (on a CPU). None writes nothing.
        design: your own flat design of the photo, aligned with it; "canny" or "outline": the photo's edge map; None
            makes one, as the recipe says.
        base: "mini" (bundled), "sdxl" (downloaded), a folder or an SDXL checkpoint (.safetensors).
        recipe: every number of the run; a `Recipe`, a .toml file, or the name of a bundled one; None: the base's.
        seed: the same seed gives the same style.
        blocks: style blocks by name, in place of the automatic choice.
        describe: what the photo shows, in a few words.
        stitch: the stitch family on the photo, one of `tambour.stitch.FAMILIES`, for the guide; None: the one that
            fits best.
        report: folder for pictures and plots of every step, and a manifest.
        overwrite: replace `output` and the report, and drop the unfinished work of other calls.

    Raises:
        InputError, BaseModelError, OutputExists: see `tambour.errors`.
    """
    from tambour.style import read_style, write_style
    from tambour.workflows.jobs import check_targets, move, work_folder
    from tambour.workflows.learn import learn as customize

    wanted = dict(design=design, base=base, recipe=recipe, seed=seed, blocks=blocks, describe=describe, stitch=stitch)
    if output is None:
        with tempfile.TemporaryDirectory(prefix="tambour-") as folder:
            return _returned(customize(photo, **wanted, report=report, work=Path(folder)), progress)
    output = Path(output)
    if output.suffix != ".safetensors":
        raise InputError(f"A style file cannot be called {output.name!r}.", "Its name must end in .safetensors.")
    folder = work_folder(output)
    check_targets(folder, [output], overwrite)
    if report is not None and not folder.exists():
        check_targets(folder, [Path(report) / "manifest.json"], overwrite)
    style = _returned(customize(photo, **wanted, report=report, work=folder, overwrite=overwrite), progress)
    write_style(style, folder / output.name, overwrite=True)
    move(folder, [output])
    return read_style(output)


def apply(
    style: Style | str | Path,
    designs: Sequence[Picture],
    *,
    size: int | None = None,
    strength: float | None = None,
    edges: Literal["firm", "free"] = "firm",
    correct_colours: bool | None = None,
    guide: Literal["none", "stitches", "photo"] | None = None,
    samples: int = 1,
    transparent: bool = False,
    draft: bool = False,
    seed: int = 0,
    base: Base | str | Path | None = None,
    recipe: Recipe | str | Path | None = None,
    progress: Watch | None = None,
) -> list[Result]:
    """Show designs in a style (method, section 6): one `Result` a design, in their order.

    Args:
        style: from `learn` or `inspect`, or a style file.
        designs: pictures; transparent parts are put on the style's fabric colour.
        size: longer side of the results, px; None: the recipe's.
        strength: how much is drawn anew, 0 to 1; None: the recipe's.
        edges: "firm" keeps the design's borders, "free" lets raised material change them.
        correct_colours: take the colours from the design; None: as the recipe says for these `edges`, and for firm ones
            wherever the reference's own stitches are laid out, which do not leave their regions.
        guide: "stitches" starts from the design drawn in the stitch fitted to the photo, "photo" from the photo's own
            stitches laid out on it (neither is in the paper), "none" from its flat colours; None: as the recipe says.
        samples: draw this many, keep the one with the best score.
        transparent: keep the design's transparency.
        draft: take few steps, to see the layout sooner; stitches come out less clear.
        seed: the same seed gives the same picture, whatever else is in the list.
        base: a loaded base, its name or folder; None: the one the style was learnt on.
        recipe: other numbers than those the style was learnt with.

    Raises:
        InputError, StyleError, BaseModelError: see `tambour.errors`.
    """
    from tambour.workflows.apply import apply as run

    style = _style(style)
    settings = dict(size=size, strength=strength, edges=edges, guide=guide, samples=samples, transparent=transparent)
    numbers = drawing_recipe(style, recipe, correct_colours, draft)
    return _results(run(style, designs, **settings, seed=seed, base=_name(base), recipe=numbers), progress)


def imagine(
    style: Style | str | Path,
    prompt: str,
    *,
    n: int = 1,
    size: int | None = None,
    seed: int = 0,
    base: Base | str | Path | None = None,
    recipe: Recipe | str | Path | None = None,
    progress: Watch | None = None,
) -> list[Result]:
    """Draw `n` pictures of a prompt ("a yellow dog") in a style; arguments and faults as for `apply`."""
    from tambour.workflows.apply import imagine as run

    style = _style(style)
    numbers = drawing_recipe(style, recipe)
    return _results(run(style, prompt, n=n, size=size, seed=seed, base=_name(base), recipe=numbers), progress)


def blocks(
    photo: str | Path,
    *,
    design: str | Path | None = None,
    base: str | Path | Base = "mini",
    recipe: Recipe | str | Path | None = None,
    describe: str | None = None,
    progress: Watch | None = None,
) -> BlockChoice:
    """How alike each block of a base sees a photo and its design, and which blocks carry the style (method, section 2).

    Arguments and faults as for `learn`.
    """
    from tambour.workflows.learn import analyse

    return _returned(analyse(photo, design=design, base=base, recipe=recipe, describe=describe), progress)


def inspect(style: str | Path) -> Style:
    """Read a style file and check that it is whole.

    Raises:
        StyleError: missing, truncated, foreign, or of a later version.
    """
    return _style(style)


def pair(
    photo: Picture,
    *,
    route: Literal["flat", "sd3"] = "flat",
    describe: str | None = None,
    models: str | Path | None = None,
    seed: int = 0,
    progress: Watch | None = None,
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
    from tambour.imaging.geometry import flatten
    from tambour.pair import flat

    if route not in ("flat", "sd3"):
        raise InputError(f"Pair route {route!r} is not known.", "Allowed: flat, sd3.")
    image = flatten(_picture(photo))
    if route == "flat":
        if describe is not None or models is not None:
            raise InputError("A description and models serve the pair route sd3 only.", "Choose it, or leave them out.")
        return flat.make_design(image)
    from tambour.pair import diffusion

    pipeline = diffusion.load_pipeline(models and diffusion.Sources.under(Path(models)))
    return diffusion.make_design(image, pipeline, describe or "", seed=seed, watch=progress)


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
    from tambour.imaging.geometry import fit
    from tambour.stitch import render

    chosen = choose_stitch(kind, like=like, size=size, mm=mm, **parameters)
    return render(fit(_picture(design, size), size), chosen, fabric, seed=seed, px_per_mm=_scale(size, mm))


def choose_stitch(
    kind: Stitch | str | None = None,
    *,
    like: Picture | None = None,
    size: int = 1024,
    mm: float | None = None,
    **parameters: float | str | bool,
) -> Stitch:
    """The stitch that `stitch` draws with; fitted to a photo, it is as large on `size` px as it is there."""
    from dataclasses import fields, replace

    import numpy as np

    from tambour.imaging.geometry import fit, flatten
    from tambour.stitch import Stitch, default_stitch
    from tambour.stitch.fit import fit_stitch

    if like is not None:
        made = pair(fit(flatten(_picture(like)), size))
        family = kind.family if isinstance(kind, Stitch) else kind
        chosen = fit_stitch(made.embroidery, np.asarray(made.mask) > 127, family=family, px_per_mm=_scale(size, mm))
    elif kind is None:
        raise InputError("No stitch is named.", "Name a family, or a photo to fit a stitch to.")
    else:
        chosen = default_stitch(kind) if isinstance(kind, str) else kind
    kinds = {field.name: type(getattr(chosen, field.name)) for field in fields(Stitch)}
    for name, value in parameters.items():
        if name not in kinds:
            raise InputError(f"A stitch has no {name!r}.", f"Allowed: {', '.join(kinds)}.")
        if not isinstance(value, kinds[name]):
            raise InputError(f"A stitch's {name} cannot be {value!r}.", f"It must be a {kinds[name].__name__}.")
    return replace(chosen, **parameters)


# --- what the functions share -------------------------------------------------------------------------------------


def _picture(source: Picture, size: int | None = None) -> Image:
    from tambour.imaging.files import open_image

    return open_image(source, size) if isinstance(source, str | Path) else source


def _style(source: Style | str | Path) -> Style:
    from tambour.style import read_style

    return read_style(source) if isinstance(source, str | Path) else source


def _scale(size: int, mm: float | None) -> float:
    """Pixels a millimetre."""
    if mm is not None and not mm > 0:
        raise InputError(f"A size of {mm} mm is not possible.", "It must be above 0.")
    return 20.0 if mm is None else size / mm


def _name(base: Base | str | Path | None) -> Base | str | None:
    return str(base) if isinstance(base, Path) else base


def drawing_recipe(
    style: Style, recipe: Recipe | str | Path | None = None, correct_colours: bool | None = None, draft: bool = False
) -> Recipe:
    """The recipe to draw with: the given one or the style's own, with colour correction and steps as asked."""
    from dataclasses import replace

    from tambour.config import Recipe, read_recipe, recipe_from

    if recipe is None:
        recipe = recipe_from(style.recipe)
    elif not isinstance(recipe, Recipe):
        recipe = read_recipe(recipe)
    if draft:
        recipe = replace(recipe, sampling=replace(recipe.sampling, steps=recipe.sampling.draft_steps))
    if correct_colours is None:
        return recipe
    sampling = recipe.sampling
    firm, free = (replace(edges, correct_colours=correct_colours) for edges in (sampling.firm, sampling.free))
    return replace(recipe, sampling=replace(sampling, firm=firm, free=free))


def _returned(work: Iterable[Progress], progress: Watch | None):
    """Run to the end; what the iterator returns."""
    iterator = iter(work)
    while True:
        try:
            record = next(iterator)
        except StopIteration as end:
            return end.value
        if progress is not None:
            progress(record)


def _results(work: Iterable[Progress | Result], progress: Watch | None) -> list[Result]:
    from tambour.workflows.apply import Result

    results = []
    for record in work:
        if isinstance(record, Result):
            results.append(record)
        if progress is not None:
            progress(record)
    return results

"""The steps of learn on their own: a photo's pair, and stitches drawn without any model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from tambour.errors import InputError
from tambour.imaging.files import open_image
from tambour.imaging.geometry import fit, flatten
from tambour.pair import Pair, diffusion, flat
from tambour.progress import Progress
from tambour.scale import px_per_mm
from tambour.stitch import Fabric, Rendered, Stitch, default_stitch, render
from tambour.stitch.fit import fit_stitch

Picture = str | Path | Image.Image


def make_pair(
    photo: Picture,
    *,
    route: Literal["flat", "sd3"] = "flat",
    describe: str | None = None,
    models: str | Path | None = None,
    seed: int = 0,
    progress: Callable[[Progress], object] | None = None,
) -> Pair:
    """The flat design of a photo, with the photo and the mask of its stitches (method, section 1); see `tambour.pair`.

    Raises:
        InputError: the photo cannot be used, or a setting belongs to the other route.
        BaseModelError: the models of "sd3" cannot be loaded.
    """
    if route not in ("flat", "sd3"):
        raise InputError(f"Pair route {route!r} is not known.", "Allowed: flat, sd3.")
    image = flatten(_picture(photo))
    if route == "flat":
        if describe is not None or models is not None:
            raise InputError("A description and models serve the pair route sd3 only.", "Choose it, or leave them out.")
        return flat.make_design(image)
    pipeline = diffusion.load_pipeline(diffusion.Sources.under(Path(models)) if models else None)
    return diffusion.make_design(image, pipeline, describe or "", seed=seed, watch=progress)


def draw_stitches(
    design: Picture,
    stitch: Stitch,
    *,
    fabric: Fabric | None = None,
    size: int = 1024,
    mm: float | None = None,
    seed: int = 0,
) -> Rendered:
    """A design drawn in a stitch; see `tambour.stitch`."""
    return render(fit(_picture(design, size), size), stitch, fabric, seed=seed, px_per_mm=px_per_mm(size, mm))


def choose_stitch(
    kind: Stitch | str | None = None,
    *,
    like: Picture | None = None,
    size: int = 1024,
    mm: float | None = None,
    **parameters: float | str | bool,
) -> Stitch:
    """The stitch that `tambour.stitch` draws with; fitted to a photo, it is as large on `size` px as it is there.

    Raises:
        InputError: neither a family nor a photo is named, or a parameter is unknown or out of range.
    """
    if like is not None:
        pair = make_pair(fit(flatten(_picture(like)), size))
        family = kind.family if isinstance(kind, Stitch) else kind
        mask = np.asarray(pair.mask) > 127
        chosen = fit_stitch(pair.embroidery, mask, family=family, px_per_mm=px_per_mm(size, mm))
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
    return replace(chosen, **parameters)  # type: ignore[arg-type]


def _picture(source: Picture, size: int | None = None) -> Image.Image:
    return source if isinstance(source, Image.Image) else open_image(source, size)

"""What needs no learning: the unstyled design, the truth with another seed, the renderer fitted to the reference."""

from __future__ import annotations

from collections.abc import Iterator

from PIL import Image

from tambour.bench.cases import Target
from tambour.bench.methods.task import Method, Task
from tambour.errors import InputError
from tambour.progress import Progress
from tambour.stitch import Fabric, Stitch, render
from tambour.stitch.fit import fit_stitch


def unstyled(task: Task, learnt: None, target: Target) -> Iterator[Progress]:
    """The flat design: what a method must beat."""
    yield Progress("unstyled", 1, 1)
    return task.flat(target)


def truth(task: Task, learnt: None, target: Target) -> Iterator[Progress]:
    """The same stitches sewn once more: what no method can beat."""
    yield Progress("truth", 0, 1)
    if task.truth is None:
        raise InputError("Nobody knows the truth of a photo.", "Leave the method out for the paper's protocol.")
    return task.truth(target.name, task.seed)


def fitted(task: Task) -> Iterator[Progress]:
    """The stitch that fits the reference (`tambour.stitch.fit`). Returns a `Stitch`."""
    yield Progress("fit", 0, 1, "fitting a stitch to the reference")
    return fit_stitch(task.style.embroidery, task.style.mask)


def rendered(task: Task, stitch: Stitch, target: Target) -> Iterator[Progress]:
    """The target drawn in the fitted stitch, at the scale it was fitted at."""
    yield Progress("render", 0, 1)
    design: Image.Image = target.design
    fabric = Fabric(colour=task.style.fabric) if design.mode == "RGBA" else Fabric()
    return render(design, stitch, fabric, seed=task.seed).image


METHODS = (
    Method("renderer", "fitted renderer", "model-free", "tambour.stitch.fit: nearest family and parameters by texture "
           "statistics. On TruthBench the truth comes from the same renderer, which no rival has: an upper bound for "
           "the guide, not a fair rival", rendered, fitted, needs_base=False),
    Method("unstyled", "unstyled design", "bound", "the flat design", unstyled, needs_base=False),
    Method("truth", "truth, another seed", "bound", "the same stitches sewn once more", truth, needs_base=False),
)  # fmt: skip

"""Plans: which setting a run gets on this machine, what it takes, and refusing what does not fit."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from tambour.base.loader import PRECISIONS, choose_device, compute_dtype
from tambour.config import Recipe
from tambour.errors import BaseModelError, InputError
from tambour.preflight.machine import GIB, free_memory, probe
from tambour.preflight.memory import Setting, drawing_phases, learn_phases
from tambour.preflight.model import BYTES, Model, inspect_base, lora_parameters
from tambour.preflight.work import drawing_operations, learn_operations
from tambour.training.pairs import training_side

INT8_SLOWDOWN = 1.2  # weights in 8 bits are multiplied out anew in every pass: an estimate
LEANER = {"float32": ["float16", "int8"], "bfloat16": ["int8"], "float16": ["int8"], "int8": []}
BATCHES = (8, 4, 2)  # pictures drawn at once on a GPU, where they fit


@dataclass(frozen=True, kw_only=True)
class Plan(Setting):
    """What will be done, and what it takes.

    Attributes:
        phases: name -> bytes at its peak.
        free: bytes free on the device.
        seconds: estimated time of the networks' work; loading and pictures come on top.
        remarks: what was picked in place of the recipe's setting, and what must be fetched.
        batch: how many pictures may be drawn at once.
    """

    phases: Mapping[str, int]
    free: int
    seconds: float
    remarks: tuple[str, ...] = ()
    batch: int = 1

    @property
    def memory(self) -> int:
        """Bytes at the peak."""
        return max(self.phases.values())

    def facts(self) -> dict[str, str]:
        """The plan in words by subject: "device", "memory", "time" and, if there are remarks, "note"."""
        phase = max(self.phases, key=self.phases.get)
        settings = [self.dtype]
        settings += ["gradient checkpointing"] if self.checkpointing else []
        settings += ["idle parts in the computer's memory"] if self.offloaded else []
        return {
            "device": f"{self.device}, {', '.join(settings)}",
            "memory": f"about {self.memory / GIB:.1f} GiB ({phase}), {self.free / GIB:.1f} GiB free",
            "time": f"about {_duration(self.seconds)} and loading",
        } | ({"note": " ".join(self.remarks)} if self.remarks else {})

    def summary(self) -> str:
        """`facts` as one line."""
        return "; ".join(self.facts().values())


def plan_learn(
    base: str, recipe: Recipe, *, controlnets: Sequence[str], report: bool, free_precision: bool = False
) -> Plan:
    """What `learn` takes on this machine, with the leanest settings that are needed.

    Gradient checkpointing is switched on where the run does not fit without it: a third slower, the same style.

    Args:
        base: "mini", "sdxl", a folder or a checkpoint file.
        controlnets: kinds that will be loaded.
        report: the final sheet is drawn too.
        free_precision: the user chose no recipe, so that a leaner precision may stand in for its own on a GPU.

    Raises:
        BaseModelError: the base is not there, or even the leanest settings do not fit.
        InputError: the recipe names a precision that does not exist.
    """
    model, device = inspect_base(base, controlnets), choose_device(_known(recipe.precision))
    free = free_memory(device)
    precisions = [recipe.precision]
    if free_precision and device != "cpu":
        precisions += LEANER[recipe.precision]
    rate = probe(device, compute_dtype(recipe.precision, device))
    own, plans = recipe.training.gradient_checkpointing, []
    leaner = [(False, False)] * (not own) + [(True, False)] + [(True, True)] * (device == "cuda")
    for dtype in precisions:
        for checkpointing, offloaded in leaner:
            setting = Setting(device=device, dtype=dtype, checkpointing=checkpointing, offloaded=offloaded)
            phases = learn_phases(model, recipe, setting, report)
            work = learn_operations(model, recipe, checkpointing)
            plans.append(_plan(setting, model, recipe, phases, free, work / rate))
    plan = _first_that_fits("learn", model, plans)
    lora = BYTES["float32"] * lora_parameters(model.unet, recipe.lora.rank, recipe.lora.convolutions)
    return replace(plan, batch=_batch(model, recipe, training_side(recipe), plan, lora))


def plan_apply(
    base: str,
    recipe: Recipe,
    *,
    controlnets: Sequence[str],
    size: int | None = None,
    pictures: int = 1,
    strength: float | None = None,
) -> Plan:
    """What `apply` takes on this machine. Only `offloaded` is picked: all its other settings change the picture.

    Args:
        size: longer side of the results, px; None: the recipe's.
        pictures: how many are drawn, samples included.
        strength: of SDEdit, which leaves that share of the steps; None: as the recipe draws designs.

    Raises: as `plan_learn`.
    """
    model, device = inspect_base(base, controlnets), choose_device(_known(recipe.precision))
    side, dtype, free = size or recipe.sampling.size, recipe.precision, free_memory(device)
    if strength is None:
        strength = recipe.sampling.guide_strength if recipe.sampling.guide != "none" else 1.0
    work = pictures * strength * drawing_operations(model, recipe, side)
    rate, plans = probe(device, compute_dtype(dtype, device)), []
    for offloaded in (False, True)[: 1 + (device == "cuda")]:
        setting = Setting(device=device, dtype=dtype, offloaded=offloaded)
        phases = drawing_phases(model, recipe, side, setting)
        plans.append(_plan(setting, model, recipe, phases, free, work / rate))
    plan = _first_that_fits("apply", model, plans)
    return replace(plan, batch=_batch(model, recipe, side, plan, 0))


def settled(recipe: Recipe, plan: Plan) -> Recipe:
    """The recipe with the plan's precision."""
    return recipe if recipe.precision == plan.dtype else replace(recipe, precision=plan.dtype)


def _plan(setting: Setting, model: Model, recipe: Recipe, phases: Mapping[str, int], free: int, seconds: float) -> Plan:
    seconds *= INT8_SLOWDOWN if setting.dtype == "int8" else 1.0
    remarks = _remarks(model, recipe, setting)
    return Plan(**vars(setting), phases=phases, free=free, seconds=seconds, remarks=remarks)


def _batch(model: Model, recipe: Recipe, side: int, plan: Plan, more: int) -> int:
    """How many pictures fit at once under a plan, beside `more` bytes."""
    for pictures in BATCHES if plan.device == "cuda" else ():
        if max(drawing_phases(model, recipe, side, plan, pictures, more).values()) <= plan.free:
            return pictures
    return 1


def _known(dtype: str) -> str:
    if dtype not in PRECISIONS:
        raise InputError(f"Recipe precision {dtype!r} is not known.", f"Allowed: {', '.join(PRECISIONS)}.")
    return dtype


def _remarks(model: Model, recipe: Recipe, setting: Setting) -> tuple[str, ...]:
    remarks = []
    if setting.device == "cpu" and setting.dtype == "float16":
        remarks.append("float16 is slow on a CPU: float32 or bfloat16 in the recipe is faster.")
    if not model.here:
        remarks.append("What the base lacks on this machine will be downloaded first.")
    if setting.dtype != recipe.precision:
        remarks.append(f"{setting.dtype} in place of {recipe.precision}, which does not fit.")
    if setting.checkpointing and not recipe.training.gradient_checkpointing:
        remarks.append("Gradient checkpointing is switched on, since it does not fit without: a third slower.")
    if setting.offloaded:
        remarks.append("Idle parts wait in the computer's memory, since all of them do not fit.")
    return tuple(remarks)


def _first_that_fits(what: str, model: Model, plans: Sequence[Plan]) -> Plan:
    for plan in plans:
        if plan.memory <= plan.free:
            return plan
    least = min(plans, key=lambda plan: plan.memory)
    place = "" if least.device == "cpu" else "GPU "
    ways = ["Free some of it", "use a smaller crop or size" if what == "learn" else "choose a smaller --size"]
    if least.dtype != "int8" and least.device != "cpu":
        leaner = "float16" if least.dtype == "float32" else "int8"
        ways.append(f'set precision = "{leaner}" in the recipe')
    raise BaseModelError(
        f"{what} on base {model.name!r} would need {least.memory / GIB:.1f} GiB of {place}memory at the least, "
        f"and {least.free / GIB:.1f} GiB are free.",
        f"{', '.join(ways)}, or use the bundled base mini.",
    )


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{math.ceil(seconds)} s"
    if seconds < 48 * 3600:
        return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:.0f} days"

"""Preflight: what `learn` and `apply` will need on this machine, told before anything is loaded.

Everything is worked out from configurations and the headers of weight files. Where it does not fit, a leaner setting
with the same result is picked, and told: gradient checkpointing, then `offloaded` parts (see `Base`). Another precision
changes a style a little: it is picked only where the user chose no numbers of his own. Where nothing fits the run is
refused: a GPU that spills into the computer's memory crawls, and a computer that swaps does not answer any more.

The constants, and where each comes from:

| constant | meaning | source |
|---|---|---|
| `SAVED` | bytes kept for the backward pass | counted: SDXL's UNet with a float32 LoRA on torch's meta device |
| `WIDENED` | largest live tensors of a forward pass | estimate, not yet measured on a GPU |
| `DECODED` | live feature maps of the autoencoder at full size | estimate, not yet measured on a GPU |
| `AROUND` | what the process takes before any weights | cpu: measured; cuda, mps: estimates |
| `SLACK` | what an allocator wastes | estimate |
| `REACHED` | share of a matrix product's rate that a UNet reaches | cpu: mini's crops of 192 px; cuda, mps: estimates |
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from tambour.base.loader import PRECISIONS, choose_device, computed, find
from tambour.base.model import LARGE, TILE
from tambour.base.tiles import places
from tambour.config import Recipe
from tambour.drawing.sampler import OVERLAP
from tambour.errors import BaseModelError, InputError

GIB = 2**30
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
# Bytes a value (pixel x channel) keeps in a transformer layer and in a resnet, by (checkpointing, bytes of the dtype).
SAVED = {(False, 2): (67, 19), (False, 4): (92, 39), (True, 2): (2, 7.4), (True, 4): (4, 14.7)}
WIDENED = 16  # times pixels x channels of the largest level: concatenated skips, GEGLU's width, copies
DECODED = 6  # times pixels x channels at full resolution
AROUND = {"cpu": int(0.5 * GIB), "cuda": int(0.8 * GIB), "mps": int(0.8 * GIB)}
SLACK = {"cpu": 1.0, "cuda": 1.1, "mps": 1.1}
REACHED = {"cpu": 0.15, "cuda": 0.4, "mps": 0.4}
SLOWER = 1.2  # with weights in 8 bits, which are multiplied out anew in every pass: an estimate
LEANER = {"float32": ["float16", "int8"], "bfloat16": ["int8"], "float16": ["int8"], "int8": []}
BATCHES = (8, 4, 2)  # pictures drawn at once on a GPU, where they fit
LORA = 4 + 4 + 2 * 8  # bytes a parameter: itself, its gradient, Adam's two moments in both sets (theta_a, theta_e)

# SDXL at full size, for the plan where its files are not on this machine yet. Counted from its configuration.
_SDXL_UNET = {
    "in_channels": 4,
    "sample_size": 128,
    "block_out_channels": [320, 640, 1280],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "layers_per_block": 2,
    "transformer_layers_per_block": [1, 2, 10],
    "cross_attention_dim": 2048,
}
_SDXL_VAE = {"block_out_channels": [128, 256, 512, 512], "force_upcast": False}
_SDXL_PARAMETERS = {
    "unet": 2_567_463_684,
    "vae": 83_653_863,
    "text_encoder": 123_060_480,
    "text_encoder_2": 694_659_840,
}
_CONTROLNET_PARAMETERS = 1_251_014_160
_SDXL_LINEAR = {"unet": 2_207_744_000, "controlnet": 1_093_468_160}  # of these, in attention's linear layers


@dataclass(frozen=True)
class Model:
    """What a plan needs to know of a base.

    Attributes:
        name: as the user gave it.
        parameters: numbers of weights by part ("unet", "vae", "text_encoder", "controlnet_tile", ...).
        linear: those among them that `quantize` keeps in 8 bits.
        unet, vae: their configurations.
        here: all its files are on this machine.
    """

    name: str
    parameters: Mapping[str, int]
    linear: Mapping[str, int]
    unet: Mapping
    vae: Mapping
    here: bool = True

    def weights(self, dtype: str, device: str, parts: Sequence[str] | None = None) -> int:
        """Bytes of the parts in a precision on a device; None: of all."""
        parts = self.parameters if parts is None else parts
        total = BYTES[computed(dtype, device)] * sum(self.parameters.get(part, 0) for part in parts)
        if dtype != "int8":
            return total
        return total - (BYTES[computed(dtype, device)] - 1) * sum(self.linear.get(part, 0) for part in parts)

    @property
    def controlnets(self) -> list[str]:
        return [part for part in self.parameters if part.startswith("controlnet_")]

    @property
    def window(self) -> int:
        """Side of the square the base was made for, in latents."""
        return self.unet["sample_size"]

    @property
    def factor(self) -> int:
        """Pixels a latent covers, per side."""
        return 2 ** (len(self.vae["block_out_channels"]) - 1)


@dataclass(frozen=True)
class Plan:
    """What will be done, and what it takes.

    Attributes:
        device, dtype, checkpointing: the settings.
        phases: name -> bytes at its peak.
        free: bytes free on the device.
        seconds: estimated time of the networks' work; loading and pictures come on top.
        remarks: what was picked in place of the recipe's setting, and what must be fetched.
        offloaded: see `Base`.
        batch: how many pictures may be drawn at once.
    """

    device: str
    dtype: str
    checkpointing: bool
    phases: Mapping[str, int]
    free: int
    seconds: float
    remarks: tuple[str, ...] = ()
    offloaded: bool = False
    batch: int = 1

    @property
    def memory(self) -> int:
        """Bytes at the peak."""
        return max(self.phases.values())

    def facts(self) -> dict[str, str]:
        """The plan in words, by what each is about."""
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
        facts = self.facts()
        return "; ".join(facts[key] for key in ("device", "memory", "time", "note") if key in facts)


# -- the plans --------------------------------------------------------------------------------------------------------


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
    rate = probe(device, computed(recipe.precision, device))
    own, plans = recipe.training.gradient_checkpointing, []
    settings = [(False, False)] * (not own) + [(True, False)] + [(True, True)] * (device == "cuda")
    for dtype in precisions:
        for checkpointing, offloaded in settings:
            phases = _learn_phases(model, recipe, device, dtype, checkpointing, offloaded, report)
            seconds = _learn_work(model, recipe, checkpointing) * (SLOWER if dtype == "int8" else 1.0) / rate
            remarks = _remarks(model, recipe, device, dtype, checkpointing, offloaded)
            plans.append(Plan(device, dtype, checkpointing, phases, free, seconds, remarks, offloaded))
    plan = _first_that_fits("learn", model, plans)
    side = min(recipe.crop or recipe.resolution, recipe.resolution)
    lora = BYTES["float32"] * lora_parameters(model.unet, recipe.lora.rank, recipe.lora.convolutions)
    return replace(plan, batch=_batch(model, recipe, side, plan, lora))


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
    work = pictures * strength * _sampling_work(model, recipe, side) * (SLOWER if dtype == "int8" else 1.0)
    seconds = work / probe(device, computed(dtype, device))
    plans = []
    for offloaded in (False, True)[: 1 + (device == "cuda")]:
        phases = _drawing_phases(model, recipe, side, device, dtype, offloaded)
        remarks = _remarks(model, recipe, device, dtype, False, offloaded)
        plans.append(Plan(device, dtype, False, phases, free, seconds, remarks, offloaded))
    plan = _first_that_fits("apply", model, plans)
    return replace(plan, batch=_batch(model, recipe, side, plan, 0))


def _batch(model: Model, recipe: Recipe, side: int, plan: Plan, more: int) -> int:
    """How many pictures fit at once under a plan, beside `more` bytes."""
    for rows in BATCHES if plan.device == "cuda" else ():
        phases = _drawing_phases(model, recipe, side, plan.device, plan.dtype, plan.offloaded, rows, more)
        if max(phases.values()) <= plan.free:
            return rows
    return 1


def _known(dtype: str) -> str:
    if dtype not in PRECISIONS:
        raise InputError(f"Recipe precision {dtype!r} is not known.", f"Allowed: {', '.join(PRECISIONS)}.")
    return dtype


def _remarks(
    model: Model, recipe: Recipe, device: str, dtype: str, checkpointing: bool, offloaded: bool
) -> tuple[str, ...]:
    remarks = []
    if device == "cpu" and dtype == "float16":
        remarks.append("float16 is slow on a CPU: float32 or bfloat16 in the recipe is faster.")
    if not model.here:
        remarks.append("What the base lacks on this machine will be downloaded first.")
    if dtype != recipe.precision:
        remarks.append(f"{dtype} in place of {recipe.precision}, which does not fit.")
    if checkpointing and not recipe.training.gradient_checkpointing:
        remarks.append("Gradient checkpointing is switched on, since it does not fit without: a third slower.")
    if offloaded:
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


# -- what a base is ---------------------------------------------------------------------------------------------------


def inspect_base(name: str, controlnets: Sequence[str]) -> Model:
    """Read configurations and headers only; SDXL that is not on this machine yet is known from its published shape.

    Raises:
        BaseModelError: there is no such base, or its files cannot be read.
    """
    try:
        source = find(name, controlnets, download=False)
    except BaseModelError:
        if name != "sdxl" and not Path(name).is_file():
            raise
        nets = [f"controlnet_{kind}" for kind in controlnets]
        vae = _SDXL_VAE | {"force_upcast": name != "sdxl"}
        parameters = _SDXL_PARAMETERS | dict.fromkeys(nets, _CONTROLNET_PARAMETERS)
        linear = {"unet": _SDXL_LINEAR["unet"]} | dict.fromkeys(nets, _SDXL_LINEAR["controlnet"])
        return Model(name, parameters, linear, _SDXL_UNET, vae, here=False)
    parts = [part for part in source.folders if part in _SDXL_PARAMETERS or part.startswith("controlnet_")]
    counted = {part: _parameters(sorted(source.folders[part].glob("*.safetensors"))) for part in parts}
    parameters, linear = ({part: numbers[i] for part, numbers in counted.items()} for i in (0, 1))
    if source.checkpoint:
        parameters |= _SDXL_PARAMETERS
        linear |= {"unet": _SDXL_LINEAR["unet"]}
    unet, vae = (_configuration(source.folders[part]) for part in ("unet", "vae"))
    return Model(name, parameters, linear, unet, vae)


def _parameters(files: Sequence[Path]) -> tuple[int, int]:
    """Weights in safetensors files, and those in linear layers of attention blocks, by the headers; what two files both
    have (another dtype of it) counts once.
    """
    numbers = {}
    for file in files:
        try:
            with file.open("rb") as stream:
                header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
            numbers |= {name: told["shape"] for name, told in header.items() if name != "__metadata__"}
        except (OSError, ValueError, KeyError, MemoryError, OverflowError) as fault:
            raise BaseModelError(f"{file} cannot be read: {fault}.", "Download or save the base model again.") from None
    inside = [shape for name, shape in numbers.items() if ".attentions." in name and len(shape) == 2]
    return sum(map(math.prod, numbers.values())), sum(map(math.prod, inside))


def _configuration(folder: Path) -> dict:
    try:
        return json.loads((folder / "config.json").read_text())
    except (OSError, ValueError) as fault:
        raise BaseModelError(f"{folder}/config.json cannot be read: {fault}.", "Download it again.") from None


@dataclass(frozen=True)
class Level:
    """One resolution of a UNet: latents covered by a pixel (per side, as a shift), channels, how many of what."""

    shift: int
    channels: int
    before: int  # channels of the level above
    resnets: int  # at this level, the way down
    layers: int  # transformer layers, down, up and in the middle
    middle: bool


def levels(unet: Mapping) -> Iterator[Level]:
    """The levels of a UNet configuration, the widest picture first."""
    widths, kinds = unet["block_out_channels"], unet["down_block_types"]
    per, depth = unet["layers_per_block"], unet.get("transformer_layers_per_block", 1)
    for i, (width, kind) in enumerate(zip(widths, kinds, strict=True)):
        middle = i == len(widths) - 1
        blocks = (2 * per + 1 if "CrossAttn" in kind else 0) + middle
        layers = blocks * (depth[i] if isinstance(depth, Sequence) else depth)
        yield Level(i, width, widths[max(i - 1, 0)], per, layers, middle)


def pass_work(unet: Mapping, height: int, width: int) -> float:
    """Operations (two a product) of a forward pass over one row of latents (height, width)."""
    total = 0.0
    for level in levels(unet):
        pixels, c = (height >> level.shift) * (width >> level.shift), level.channels
        down = 9 * (level.before * c + c * c) + 9 * 2 * c * c * (level.resnets - 1)
        up = (9 * 2 * c * c + 9 * c * c) * level.resnets + 9 * ((c + level.before) * c + c * c)  # skips are joined
        middle = 2 * 9 * 2 * c * c if level.middle else 0
        layer = 20 * c * c + 2 * pixels * c  # projections and GEGLU; then QK and AV, cross attention left out
        total += 2 * pixels * (down + up + middle + level.layers * layer)
    return total


def saved_bytes(unet: Mapping, height: int, width: int, dtype: str, checkpointing: bool, rank: int) -> int:
    """Bytes one row of latents (height, width) keeps for the backward pass of a LoRA."""
    total = 0.0
    for level in levels(unet):  # what lies before the first attention needs no gradient
        resnets = level.resnets + 1 + 2 * level.middle + (level.resnets if level.layers else 0)
        total += _kept(level, height, width, dtype, level.layers, resnets, checkpointing, rank)
    return int(total)


def again_bytes(unet: Mapping, height: int, width: int, dtype: str, rank: int) -> int:
    """Bytes of the largest piece that gradient checkpointing does again, of one row; it is gone before the next one."""
    return int(max(_kept(level, height, width, dtype, min(level.layers, 1), 1, False, rank) for level in levels(unet)))


def _kept(
    level: Level, height: int, width: int, dtype: str, layers: float, resnets: float, checkpointing: bool, rank: int
) -> float:
    values = (height >> level.shift) * (width >> level.shift)
    layer, resnet = SAVED[checkpointing, BYTES[dtype]]
    wide = 0 if checkpointing else rank * 32  # the LoRA's own, in float32 at 8 projections
    return values * (layers * (level.channels * layer + wide) + resnets * level.channels * resnet)


def lora_parameters(unet: Mapping, rank: int, convolutions: bool) -> int:
    """Parameters of theta_a; with convolutions a little more than there are."""
    text, total = unet["cross_attention_dim"], 0
    for level in levels(unet):
        c = level.channels
        total += level.layers * rank * (7 * 2 * c + 2 * (c + text) - 2 * c)
        if convolutions and level.layers:
            total += level.layers * rank * (9 * 3 * c + 2 * c)
    return total


# -- phases -----------------------------------------------------------------------------------------------------------


def _forward(model: Model, height: int, width: int, dtype: str) -> int:
    """Bytes of a forward pass without gradients over one row of latents."""
    largest = max((height >> level.shift) * (width >> level.shift) * level.channels for level in levels(model.unet))
    return WIDENED * largest * BYTES[dtype]


def _decoded(model: Model, side: int, dtype: str, offloaded: bool, rows: int = 1) -> int:
    """Bytes the autoencoder takes for pictures of side x side px."""
    value = 4 if model.vae.get("force_upcast") else BYTES[dtype]
    tile = min(side, TILE) if offloaded or side >= LARGE else side
    sums = 0 if tile == side else 2 * 3 * 4 * side * side
    return rows * (DECODED * tile * tile * max(model.vae["block_out_channels"][:2]) * value + sums)


def _window(model: Model, side: int) -> tuple[int, int]:
    """What the base sees at once of a picture of `side` px, in latents a side, and how often it must look."""
    latent = side // model.factor
    if latent <= 1.5 * model.window:  # see `sampling.windowed`
        return latent, 1
    return model.window, len(places(latent, latent, (model.window, model.window), OVERLAP))


def _drawing_phases(
    model: Model,
    recipe: Recipe,
    side: int,
    device: str,
    dtype: str,
    offloaded: bool,
    rows: int = 1,
    more: int = 0,
) -> dict[str, int]:
    """Phase -> bytes at its peak, of drawing `rows` pictures at once beside `more` bytes."""
    value, latent = computed(dtype, device), _window(model, side)[0]
    both = 2 if recipe.sampling.guidance_scale > 1 else 1
    forward = rows * both * _forward(model, latent, latent, value)
    decoded = _decoded(model, side, value, offloaded, rows)
    if not offloaded:
        return {"drawing": _sum(device, model.weights(dtype, device), more, max(forward, decoded))}
    drawing = model.weights(dtype, device, ["unet", *model.controlnets])
    texts = model.weights(dtype, device, ["unet", "text_encoder", "text_encoder_2"])
    return {
        "reading prompts": _sum(device, texts, more),
        "drawing": _sum(device, drawing, more, forward),
        "decoding": _sum(device, model.weights(dtype, device, ["unet", "vae"]), more, decoded),
    }


def _sum(device: str, *parts: int) -> int:
    return AROUND[device] + int(SLACK[device] * sum(parts))


def _learn_phases(
    model: Model, recipe: Recipe, device: str, dtype: str, checkpointing: bool, offloaded: bool, report: bool
) -> dict[str, int]:
    """Phase -> bytes at its peak; crops are taken as squares."""
    side = min(recipe.crop or recipe.resolution, recipe.resolution)
    latent, value = side // model.factor, computed(dtype, device)
    parameters = lora_parameters(model.unet, recipe.lora.rank, recipe.lora.convolutions)
    lora, drawing = LORA * parameters, BYTES["float32"] * parameters  # optimisers live in a stage only
    trained = ["unet", f"controlnet_{recipe.training_controlnet}"] if recipe.training_controlnet else ["unet"]
    alone = model.weights(dtype, device, None if device == "cpu" else trained)  # see training/run.py, `unet_alone`
    rank = recipe.lora.rank
    row = saved_bytes(model.unet, latent, latent, value, checkpointing, rank)
    again = again_bytes(model.unet, latent, latent, value, rank) if checkpointing else 0
    forward = _forward(model, latent, latent, value)
    second = recipe.stage_two.batch if recipe.stage_two.iterations else 0  # crops of two pairs at once
    rows, passed = max(recipe.batch, 4 * second), max(recipe.batch, 2 * second)  # L_con keeps two passes over both
    whole = model.weights(dtype, device, ["unet"] if offloaded else None)
    encoded = model.weights(dtype, device, ["vae"]) * offloaded + _decoded(model, recipe.resolution, value, offloaded)
    phases = {
        "encoding the pair": _sum(device, whole, encoded),
        "comparing blocks": _sum(device, whole, 5 * forward),
        "training": _sum(device, alone, lora, rows * row + passed * (forward + again)),
    }
    common = (device, dtype, offloaded)
    if recipe.stage_two.iterations:
        phases |= {f"{k}, pairs": v for k, v in _drawing_phases(model, recipe, side, *common, more=drawing).items()}
    if report:
        sheet = _drawing_phases(model, recipe, recipe.sampling.size, *common, more=drawing)
        phases |= {f"{k}, sheet": v for k, v in sheet.items()}
    return phases


def _learn_work(model: Model, recipe: Recipe, checkpointing: bool) -> float:
    """Operations of the whole of `learn` without a report. A backward pass to a LoRA costs as much as its forward."""
    side = min(recipe.crop or recipe.resolution, recipe.resolution)
    unit = pass_work(model.unet, side // model.factor, side // model.factor)
    passes = 3 if checkpointing else 2
    heard = 0.5 if recipe.training.tile else 0.0  # a ControlNet is half a UNet
    analysis, count = recipe.analysis, recipe.complement.count
    each = analysis.steps * (1 + (analysis.renoise_iterations if analysis.inversion == "renoise" else 0))
    work = 2 * each + recipe.batch * recipe.stage_one.iterations * (1 + recipe.stage_one.content_step) * (
        passes + heard
    )
    if recipe.stage_two.iterations:
        late = 1 - recipe.complement.first_segment / analysis.segments if recipe.complement.filters else 0
        work += late * each * (1.25 * count + 1.25 * math.ceil(count / 2))  # both filters
        steps = 2 * 2 * (passes + heard) + 2 * (2 + 2 * passes + heard)  # L_des, L_emb; L_con
        work += recipe.stage_two.batch * recipe.stage_two.iterations * steps
        work += count * _sampling_work(model, recipe, side) / unit
    return unit * work


def _sampling_work(model: Model, recipe: Recipe, side: int) -> float:
    """Operations of drawing one picture under the structure conditions from noise."""
    sampling, (latent, windows) = recipe.sampling, _window(model, side)
    rows = (2 if sampling.guidance_scale > 1 else 1) * (2 if recipe.masked_style else 1)
    nets = 1 + 0.5 * len(model.controlnets)
    return rows * nets * windows * sampling.steps * pass_work(model.unet, latent, latent)


# -- this machine -----------------------------------------------------------------------------------------------------


def free_memory(device: str) -> int:
    """Bytes free on a device: "cuda" and "mps" ask the driver, "cpu" the operating system.

    What this process holds on a GPU in reserve counts as free. Where Linux does not tell what is available, half of the
    whole memory is taken to be.
    """
    if device == "cuda":
        reserve = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
        return torch.cuda.mem_get_info()[0] + reserve
    if device == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    try:
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def probe(device: str, dtype: str) -> float:
    """Operations a second that a UNet will reach here: `REACHED` of a matrix product's, the best of a third second."""
    side = 512 if device == "cpu" else 4096
    matrix = torch.ones(side, side, dtype=getattr(torch, dtype), device=device)
    best, end = math.inf, time.perf_counter() + 0.3
    while (start := time.perf_counter()) < end:
        float((matrix @ matrix)[0, 0])  # waits for the device
        best = min(best, time.perf_counter() - start)
    return REACHED[device] * 2 * side**3 / best


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{math.ceil(seconds)} s"
    if seconds < 48 * 3600:
        return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:.0f} days"


def settled(recipe: Recipe, plan: Plan) -> Recipe:
    """The recipe with the plan's precision."""
    return recipe if recipe.precision == plan.dtype else replace(recipe, precision=plan.dtype)

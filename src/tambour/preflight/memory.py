"""Bytes of a run at its peak, phase by phase."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tambour.analysis import similarity
from tambour.base.loader import compute_dtype
from tambour.base.model import LARGE, TILE
from tambour.config import Recipe
from tambour.drawing.passes import step_passes
from tambour.preflight.machine import GIB
from tambour.preflight.model import BYTES, Level, Model, levels, lora_parameters
from tambour.preflight.work import drawing_window
from tambour.training import stage_one, stage_two
from tambour.training.pairs import training_side

# Bytes that a value (pixel x channel) stores for the backward pass in a transformer layer and in a resnet, by
# (checkpointing, bytes of the dtype). Counted: SDXL's UNet with a float32 LoRA on torch's meta device.
SAVED = {(False, 2): (67, 19), (False, 4): (92, 39), (True, 2): (2, 7.4), (True, 4): (4, 14.7)}
# Largest live tensors of a forward pass, times pixels x channels of the largest level: concatenated skips, GEGLU's
# width, copies. An estimate, not yet measured on a GPU.
FORWARD = 16
DECODER = 6  # live feature maps of the autoencoder, times pixels x channels at full resolution. Likewise an estimate
PROCESS = {"cpu": int(0.5 * GIB), "cuda": int(0.8 * GIB), "mps": int(0.8 * GIB)}  # before any weights. cpu: measured
ALLOCATOR = {"cpu": 1.0, "cuda": 1.1, "mps": 1.1}  # what an allocator takes of what it is asked for: estimates
LORA = 4 + 4 + 2 * 8  # bytes a parameter: itself, its gradient, Adam's two moments in both sets (theta_a, theta_e)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a run can be set to without another style coming out, but for `dtype`, which changes it a little.

    Attributes:
        device: "cpu", "cuda" or "mps".
        dtype: of the frozen base, one of `base.loader.PRECISIONS`.
        checkpointing: gradient checkpointing in training.
        offloaded: see `Base`.
    """

    device: str
    dtype: str
    checkpointing: bool = False
    offloaded: bool = False

    @property
    def compute_dtype(self) -> str:
        """The dtype of activations."""
        return compute_dtype(self.dtype, self.device)


# -- phases -----------------------------------------------------------------------------------------------------------


def learn_phases(model: Model, recipe: Recipe, setting: Setting, report: bool) -> dict[str, int]:
    """Phase of `learn` -> bytes at its peak; crops are taken as squares."""
    side, offloaded = training_side(recipe), setting.offloaded
    latent, rank = side // model.factor, recipe.lora.rank
    parameters = lora_parameters(model.unet, rank, recipe.lora.convolutions)
    lora, drawing = LORA * parameters, BYTES["float32"] * parameters  # optimisers live in a stage only
    trained = ["unet", f"controlnet_{recipe.training_controlnet}"] if recipe.training_controlnet else ["unet"]
    if setting.device == "cpu":  # else see `training.resources.unet_alone`
        trained = list(model.parameters)
    saved = saved_bytes(model.unet, latent, latent, setting.compute_dtype, setting.checkpointing, rank)
    again = again_bytes(model.unet, latent, latent, setting.compute_dtype, rank) if setting.checkpointing else 0
    forward = forward_bytes(model, latent, setting)
    steps = [*stage_one.passes(recipe), *(stage_two.passes(recipe) if recipe.stage_two.iterations else ())]
    alive, together = max(step.rows * step.backward for step in steps), max(step.rows for step in steps)
    encoded = _weights(model, setting, ["vae"]) * offloaded + decoder_bytes(model, recipe.resolution, setting)
    whole = _weights(model, setting, ["unet"] if offloaded else None)
    phases = {
        "encoding the pair": _total(setting, whole, encoded),
        "comparing blocks": _total(setting, whole, similarity.MOST_ROWS * forward),
        "training": _total(
            setting, _weights(model, setting, trained), lora, alive * saved + together * (forward + again)
        ),
    }
    if recipe.stage_two.iterations:
        pairs = drawing_phases(model, recipe, side, setting, more=drawing)
        phases |= {f"{phase}, pairs": peak for phase, peak in pairs.items()}
    if report:
        sheet = drawing_phases(model, recipe, recipe.sampling.size, setting, more=drawing)
        phases |= {f"{phase}, sheet": peak for phase, peak in sheet.items()}
    return phases


def drawing_phases(
    model: Model, recipe: Recipe, side: int, setting: Setting, pictures: int = 1, more: int = 0
) -> dict[str, int]:
    """Phase -> bytes at its peak, of drawing so many pictures of `side` px at once beside `more` bytes."""
    latent, _ = drawing_window(model, side)
    forward = pictures * step_passes(recipe).rows * forward_bytes(model, latent, setting)
    decoded = pictures * decoder_bytes(model, side, setting)
    if not setting.offloaded:
        return {"drawing": _total(setting, _weights(model, setting), more, max(forward, decoded))}
    texts = _weights(model, setting, ["unet", "text_encoder", "text_encoder_2"])
    return {
        "reading prompts": _total(setting, texts, more),
        "drawing": _total(setting, _weights(model, setting, ["unet", *model.controlnets]), more, forward),
        "decoding": _total(setting, _weights(model, setting, ["unet", "vae"]), more, decoded),
    }


def _weights(model: Model, setting: Setting, parts: list[str] | None = None) -> int:
    return model.weights(setting.dtype, setting.device, parts)


def _total(setting: Setting, *parts: int) -> int:
    return PROCESS[setting.device] + int(ALLOCATOR[setting.device] * sum(parts))


# -- networks ---------------------------------------------------------------------------------------------------------


def forward_bytes(model: Model, latent: int, setting: Setting) -> int:
    """Bytes of a forward pass without gradients over one row of `latent` x `latent` latents."""
    largest = max(level.pixels(latent, latent) * level.channels for level in levels(model.unet))
    return FORWARD * largest * BYTES[setting.compute_dtype]


def decoder_bytes(model: Model, side: int, setting: Setting) -> int:
    """Bytes the autoencoder takes for a picture of side x side px."""
    value = 4 if model.vae.get("force_upcast") else BYTES[setting.compute_dtype]
    tile = min(side, TILE) if setting.offloaded or side >= LARGE else side
    sums = 0 if tile == side else 2 * 3 * 4 * side * side
    return DECODER * tile * tile * max(model.vae["block_out_channels"][:2]) * value + sums


def saved_bytes(unet: Mapping, height: int, width: int, dtype: str, checkpointing: bool, rank: int) -> int:
    """Bytes that one row of latents (height, width) stores for the backward pass of a LoRA."""
    total = 0.0
    for level in levels(unet):  # what lies before the first attention needs no gradient
        resnets = level.resnets + 1 + 2 * level.middle + (level.resnets if level.layers else 0)
        total += _saved(level, height, width, dtype, level.layers, resnets, checkpointing, rank)
    return int(total)


def again_bytes(unet: Mapping, height: int, width: int, dtype: str, rank: int) -> int:
    """Bytes of the largest piece, of one row, that gradient checkpointing computes again and frees before the next."""
    return int(max(_saved(level, height, width, dtype, min(level.layers, 1), 1, False, rank) for level in levels(unet)))


def _saved(
    level: Level, height: int, width: int, dtype: str, layers: float, resnets: float, checkpointing: bool, rank: int
) -> float:
    layer, resnet = SAVED[checkpointing, BYTES[dtype]]
    wide = 0 if checkpointing else rank * 32  # the LoRA's own, in float32 at 8 projections
    return level.pixels(height, width) * (layers * (level.channels * layer + wide) + resnets * level.channels * resnet)

"""What a base is, from its configurations and the headers of its weight files alone."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tambour.base.loader import compute_dtype, find_source
from tambour.errors import BaseModelError

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}  # a value

# SDXL at full size, for the plan where its files are not on this machine yet. Counted from its configuration.
SDXL_UNET = {
    "in_channels": 4,
    "sample_size": 128,
    "block_out_channels": [320, 640, 1280],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "layers_per_block": 2,
    "transformer_layers_per_block": [1, 2, 10],
    "cross_attention_dim": 2048,
}
SDXL_VAE = {"block_out_channels": [128, 256, 512, 512], "force_upcast": False}
SDXL_PARAMETERS = {
    "unet": 2_567_463_684,
    "vae": 83_653_863,
    "text_encoder": 123_060_480,
    "text_encoder_2": 694_659_840,
}
CONTROLNET_PARAMETERS = 1_251_014_160
SDXL_LINEAR = {"unet": 2_207_744_000, "controlnet": 1_093_468_160}  # of these, in attention's linear layers


@dataclass(frozen=True)
class Model:
    """What a plan needs to know of a base.

    Attributes:
        name: as the user gave it.
        parameters: numbers of weights by part ("unet", "vae", "text_encoder", "controlnet_tile", ...).
        linear: those among them that `base.quantize` stores in 8 bits.
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
        value = BYTES[compute_dtype(dtype, device)]
        total = value * sum(self.parameters.get(part, 0) for part in parts)
        if dtype != "int8":
            return total
        return total - (value - 1) * sum(self.linear.get(part, 0) for part in parts)

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


def inspect_base(name: str, controlnets: Sequence[str]) -> Model:
    """A base's name and the kinds of ControlNets it is loaded with -> `Model`; no weights are read.

    SDXL that is not on this machine yet is known from its published shape.

    Raises:
        BaseModelError: there is no such base, or its files cannot be read.
    """
    try:
        source = find_source(name, controlnets, download=False)
    except BaseModelError:
        if name != "sdxl" and not Path(name).is_file():
            raise
        nets = [f"controlnet_{kind}" for kind in controlnets]
        vae = SDXL_VAE | {"force_upcast": name != "sdxl"}
        parameters = SDXL_PARAMETERS | dict.fromkeys(nets, CONTROLNET_PARAMETERS)
        linear = {"unet": SDXL_LINEAR["unet"]} | dict.fromkeys(nets, SDXL_LINEAR["controlnet"])
        return Model(name, parameters, linear, SDXL_UNET, vae, here=False)
    parts = [part for part in source.folders if part in SDXL_PARAMETERS or part.startswith("controlnet_")]
    counted = {part: _count_weights(sorted(source.folders[part].glob("*.safetensors"))) for part in parts}
    parameters, linear = ({part: counts[i] for part, counts in counted.items()} for i in (0, 1))
    if source.checkpoint:
        parameters |= SDXL_PARAMETERS
        linear |= {"unet": SDXL_LINEAR["unet"]}
    unet, vae = (_configuration(source.folders[part]) for part in ("unet", "vae"))
    return Model(name, parameters, linear, unet, vae)


def _count_weights(files: Sequence[Path]) -> tuple[int, int]:
    """Weights in safetensors files, and those in linear layers of attention blocks, by the headers.

    A tensor that two files both have (another dtype of it) counts once.
    """
    shapes = {}
    for file in files:
        try:
            with file.open("rb") as stream:
                header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
            shapes |= {name: tensor["shape"] for name, tensor in header.items() if name != "__metadata__"}
        except (OSError, ValueError, KeyError, MemoryError, OverflowError) as fault:
            raise BaseModelError(f"{file} cannot be read: {fault}.", "Download or save the base model again.") from None
    linear = [shape for name, shape in shapes.items() if ".attentions." in name and len(shape) == 2]
    return sum(map(math.prod, shapes.values())), sum(map(math.prod, linear))


def _configuration(folder: Path) -> dict:
    try:
        return json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as fault:
        raise BaseModelError(f"{folder}/config.json cannot be read: {fault}.", "Download it again.") from None


@dataclass(frozen=True)
class Level:
    """One resolution of a UNet.

    Attributes:
        shift: a side of it is that of the latents, shifted right by so many bits.
        channels: of this level.
        before: channels of the level above.
        resnets: at this level, the way down.
        layers: transformer layers, on the way down, up and in the middle.
        middle: the middle block is at this level.
    """

    shift: int
    channels: int
    before: int
    resnets: int
    layers: int
    middle: bool

    def pixels(self, height: int, width: int) -> int:
        """Positions of this level, for latents (height, width)."""
        return (height >> self.shift) * (width >> self.shift)


def levels(unet: Mapping) -> Iterator[Level]:
    """The levels of a UNet configuration, the one of highest resolution first."""
    widths, kinds = unet["block_out_channels"], unet["down_block_types"]
    per, depth = unet["layers_per_block"], unet.get("transformer_layers_per_block", 1)
    for i, (width, kind) in enumerate(zip(widths, kinds, strict=True)):
        middle = i == len(widths) - 1
        blocks = (2 * per + 1 if "CrossAttn" in kind else 0) + middle
        layers = blocks * (depth[i] if isinstance(depth, Sequence) else depth)
        yield Level(i, width, widths[max(i - 1, 0)], per, layers, middle)


def lora_parameters(unet: Mapping, rank: int, convolutions: bool) -> int:
    """Parameters of theta_a; with convolutions a little more than there are."""
    text, total = unet["cross_attention_dim"], 0
    for level in levels(unet):
        c = level.channels
        total += level.layers * rank * (7 * 2 * c + 2 * (c + text) - 2 * c)
        if convolutions and level.layers:
            total += level.layers * rank * (9 * 3 * c + 2 * c)
    return total

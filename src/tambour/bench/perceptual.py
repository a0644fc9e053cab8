"""Metrics that need trained networks: LPIPS, DISTS, DreamSim, CSD and CLIP-Score. Optional: the extra `eval`.

Each loads its own published weights at the first use (from the hub or its package's own place, so the network is needed
once). Pictures are RGB of one size.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from tambour.bench.cases import Pairing
from tambour.bench.metrics import THREAD, Metric
from tambour.errors import InputError
from tambour.imaging.geometry import flatten
from tambour.imaging.tensors import to_tensor

METRICS: tuple[Metric, ...] = (
    Metric("lpips", "LPIPS to design", "lower", 0, np.inf, "Zhang et al. 2018, AlexNet (package lpips)"),
    Metric("dists", "DISTS to truth", "lower", 0, 1, "Ding et al. 2020 (package DISTS-pytorch)"),
    Metric("dreamsim", "DreamSim to design", "lower", 0, 1,
           "Fu et al. 2023, ensemble (package dreamsim), both blurred by a thread's width: what is shown, not how"),
    Metric("csd", "CSD to reference", "higher", -1, 1,
           "Somepalli et al. 2024: cosine of style descriptors; sees colour and meaning too (the paper: unfit)"),
    Metric("clip", "CLIP-Score", "higher", 0, 100,
           "Hessel et al. 2021, 100 cos(image, text) with openai/clip-vit-large-patch14; text task only"),
)  # fmt: skip

_PACKAGES = {"lpips": "lpips", "dists": "DISTS_pytorch", "dreamsim": "dreamsim"}
_CLIP = "openai/clip-vit-large-patch14"
CSD_VARIABLE = "TAMBOUR_CSD"  # the environment variable that names the descriptor's checkpoint
_MEAN, _STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # CLIP's own


def pick(names: Sequence[str]) -> tuple[Metric, ...]:
    """The metrics named; fails before anything is measured where a package is absent.

    Raises:
        InputError: one is not known, or needs the extra `eval`.
    """
    known = [metric.name for metric in METRICS]
    for name in names:
        if name not in known:
            raise InputError(f"There is no metric {name!r}.", f"Allowed: {', '.join(known)}.")
        if name in _PACKAGES:
            package(name)
    return tuple(metric for metric in METRICS if metric.name in names)


def package(name: str):
    """The module behind a metric.

    Raises:
        InputError: it is not installed.
    """
    try:
        return importlib.import_module(_PACKAGES[name])
    except ImportError as fault:
        raise InputError(f"The metric {name!r} needs a package ({fault}).", "pip install 'tambour[eval]'") from None


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


# -- the networks, each as a function of tensors in [-1, 1] -----------------------------------------------------------

Pair = Callable[[torch.Tensor, torch.Tensor], float]


@lru_cache
def lpips() -> Pair:
    network = _loaded("lpips", lambda module: module.LPIPS(net="alex", verbose=False))
    return lambda a, b: float(network(a.to(_device()), b.to(_device())))


@lru_cache
def dists() -> Pair:
    network = _loaded("dists", lambda module: module.DISTS())
    return lambda a, b: float(network((a.to(_device()) + 1) / 2, (b.to(_device()) + 1) / 2))


@lru_cache
def dreamsim() -> Pair:
    module = package("dreamsim")
    try:
        network, _ = module.dreamsim(pretrained=True, device=_device())
    except (OSError, RuntimeError) as fault:
        raise InputError(f"DreamSim's weights cannot be loaded: {fault}.", "Connect to the network once.") from None

    def square(image: torch.Tensor) -> torch.Tensor:
        return F.interpolate((image.to(_device()) + 1) / 2, (224, 224), mode="bicubic", antialias=True).clamp(0, 1)

    return lambda a, b: float(network(square(a), square(b)))


def _loaded(name: str, make: Callable) -> torch.nn.Module:
    try:
        return make(package(name)).to(_device()).eval()
    except (OSError, RuntimeError) as fault:
        raise InputError(f"The weights of {name} cannot be loaded: {fault}.", "Connect to the network once.") from None


class StyleDescriptor(torch.nn.Module):
    """CSD: a CLIP vision transformer whose pooled feature is projected to style and to content, both of length 1.

    The published checkpoint names its parts as OpenAI's CLIP does; `from_checkpoint` reads it.
    """

    def __init__(self, backbone: torch.nn.Module, style: torch.Tensor, content: torch.Tensor) -> None:
        """Args: backbone: transformers' `CLIPVisionModel`; style, content: (width, 768) projections."""
        super().__init__()
        self.backbone = backbone
        self.register_buffer("style", style)
        self.register_buffer("content", content)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) in [-1, 1] -> (B, 768) style descriptors. Gradients flow to the image."""
        side = self.backbone.config.image_size
        small = F.interpolate((image + 1) / 2, (side, side), mode="bicubic", antialias=True).clamp(0, 1)
        mean, std = (torch.tensor(v, device=image.device).view(1, 3, 1, 1) for v in (_MEAN, _STD))
        feature = self.backbone(pixel_values=(small - mean) / std).pooler_output
        return F.normalize(feature @ self.style, dim=1)

    @classmethod
    def from_checkpoint(cls, path: str | Path) -> StyleDescriptor:
        """The published ViT-L weights (checkpoint.pth of learn2phoenix/CSD).

        Raises:
            InputError: not there, or not such a checkpoint.
        """
        from transformers import CLIPVisionConfig, CLIPVisionModel

        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            state = {key.removeprefix("module."): value.float() for key, value in state["model_state_dict"].items()}
            config = CLIPVisionConfig(
                hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, patch_size=14
            )
            backbone = CLIPVisionModel(config)
            missing, _ = backbone.load_state_dict(renamed(state), strict=False)
            missing = [key for key in missing if not key.endswith("position_ids")]
            if missing:
                raise KeyError(missing[0])
            return cls(backbone.eval().requires_grad_(False), state["last_layer_style"], state["last_layer_content"])
        except (OSError, KeyError, RuntimeError) as fault:
            raise InputError(
                f"{path} is not the style descriptor's checkpoint ({fault}).", "Get it from learn2phoenix/CSD."
            ) from None


def renamed(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """OpenAI's names of a CLIP vision transformer ("backbone.*") -> those of transformers' `CLIPVisionModel`."""
    plain = {
        "backbone.class_embedding": "embeddings.class_embedding",
        "backbone.positional_embedding": "embeddings.position_embedding.weight",
        "backbone.conv1.weight": "embeddings.patch_embedding.weight",
        **{f"backbone.ln_pre.{part}": f"pre_layrnorm.{part}" for part in ("weight", "bias")},
        **{f"backbone.ln_post.{part}": f"post_layernorm.{part}" for part in ("weight", "bias")},
    }
    inner = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2",
             "attn.out_proj": "self_attn.out_proj"}  # fmt: skip
    found = {}
    for key, value in state.items():
        if key in plain:
            found[plain[key]] = value
        elif key.startswith("backbone.transformer.resblocks."):
            number, part = key.removeprefix("backbone.transformer.resblocks.").split(".", 1)
            layer = f"encoder.layers.{number}"
            if part.startswith("attn.in_proj_"):
                kind = part.removeprefix("attn.in_proj_")
                for projection, piece in zip("qkv", value.chunk(3), strict=True):
                    found[f"{layer}.self_attn.{projection}_proj.{kind}"] = piece
            else:
                module, kind = part.rsplit(".", 1)
                found[f"{layer}.{inner[module]}.{kind}"] = value
    return found


@lru_cache
def descriptor() -> StyleDescriptor:
    """CSD from the checkpoint that the environment names.

    Raises:
        InputError: it names none.
    """
    import os

    path = os.environ.get(CSD_VARIABLE)
    if not path:
        raise InputError("The style descriptor (CSD) has no weights.", f"Set {CSD_VARIABLE} to its checkpoint.pth.")
    return StyleDescriptor.from_checkpoint(path).to(_device())


def csd(a: torch.Tensor, b: torch.Tensor) -> float:
    """Cosine of two pictures' style descriptors."""
    network = descriptor()
    return float((network(a.to(_device())) * network(b.to(_device()))).sum())


@lru_cache
def _clip():
    from transformers import CLIPModel, CLIPProcessor

    try:
        return CLIPModel.from_pretrained(_CLIP).to(_device()).eval(), CLIPProcessor.from_pretrained(_CLIP)
    except OSError as fault:
        raise InputError(f"{_CLIP} cannot be loaded: {fault}.", "Connect to the network once.") from None


def clip(picture: Image.Image, words: str) -> float:
    """100 max(cos(image, text), 0)."""
    network, processor = _clip()
    inputs = processor(text=[words], images=[picture], return_tensors="pt", padding=True, truncation=True).to(_device())
    output = network(**inputs)
    return float(100 * F.cosine_similarity(output.image_embeds, output.text_embeds).clamp(min=0))


@torch.no_grad()
def of_result(picture: Image.Image, record: Mapping, pairing: Pairing, names: Sequence[str]) -> dict[str, float]:
    """The metrics that make sense for one result.

    Args:
        record: the result's JSON; `item` is the design's name or the prompt, `text` tells which.

    Raises:
        InputError: weights cannot be loaded.
    """
    result, values = to_tensor(picture), {}
    if "csd" in names:
        reference = pairing.embroidery.convert("RGB").resize(picture.size, Image.Resampling.LANCZOS)
        values["csd"] = csd(result, to_tensor(reference))
    if record["text"]:
        return values | ({"clip": clip(picture, record["item"])} if "clip" in names else {})
    target = next(target for target in pairing.targets if target.name == record["item"])
    design = to_tensor(flatten(target.design, pairing.fabric))
    if "lpips" in names:
        values["lpips"] = lpips()(result, design)
    if "dists" in names and target.truth is not None:
        values["dists"] = dists()(result, to_tensor(target.truth))
    if "dreamsim" in names:
        values["dreamsim"] = dreamsim()(_blurred(result), _blurred(design))
    return values


def _blurred(image: torch.Tensor) -> torch.Tensor:
    """Blurred by the width of a thread, as in `texture.edge_f1`."""
    sigma = THREAD * max(image.shape[-2:])
    x = torch.arange(-int(3 * sigma + 1), int(3 * sigma + 1) + 1, dtype=torch.float32)
    kernel = torch.exp(-(x**2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).view(1, 1, -1).expand(3, 1, -1)
    reach = len(x) // 2
    padded = F.pad(image, (reach,) * 4, mode="reflect")
    rows = F.conv2d(padded, kernel.unsqueeze(2), groups=3)
    return F.conv2d(rows, kernel.unsqueeze(3), groups=3)

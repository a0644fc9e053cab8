"""Load a base model: diffusers' and transformers' own components behind one contract.

A base is a folder in the layout of diffusers' StableDiffusionXLPipeline (`model_index.json`, `unet/`, `vae/`,
`text_encoder_2/`, `tokenizer_2/`, `scheduler/`; `text_encoder/` and `tokenizer/` only where the model has two text
encoders) plus `controlnet_tile/` and `controlnet_canny/`. `mini` is bundled; `sdxl` is put together from the hub.
Only safetensors are read, never pickles.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import ExitStack
from importlib import resources
from pathlib import Path

import diffusers
import torch
import transformers
from diffusers import ControlNetModel
from huggingface_hub import snapshot_download
from safetensors import SafetensorError, safe_open

from tambour.base.model import Base
from tambour.base.quiet import quiet
from tambour.errors import BaseModelError

CONTROLS = ("tile", "canny")
DTYPES = ("float32", "bfloat16", "float16")

# The paper's models (method, section 6): part -> (hub id, files).
_SDXL = {
    "": (
        "stabilityai/stable-diffusion-xl-base-1.0",
        [
            *("model_index.json", "scheduler/*", "tokenizer*/*", "text_encoder*/config.json", "unet/config.json"),
            *("text_encoder*/model.fp16.safetensors", "unet/diffusion_pytorch_model.fp16.safetensors"),
        ],
    ),
    "vae": ("madebyollin/sdxl-vae-fp16-fix", ["config.json", "diffusion_pytorch_model.safetensors"]),
    "controlnet_tile": ("xinsir/controlnet-tile-sdxl-1.0", ["config.json", "diffusion_pytorch_model.safetensors"]),
    "controlnet_canny": ("xinsir/controlnet-canny-sdxl-1.0", ["config.json", "diffusion_pytorch_model.safetensors"]),
}


def load(
    name_or_path: str | Path,
    *,
    device: str | None = None,
    dtype: str = "float32",
    controlnets: Sequence[str] = CONTROLS,
) -> Base:
    """Load a base model.

    Args:
        name_or_path: "mini" (bundled), "sdxl" (the hub's, about 12 GB at the first use) or a base folder.
        device: torch device; None: the GPU if there is one.
        dtype: "float32", "bfloat16" or "float16".
        controlnets: which ControlNets to load; a folder may lack them, which only matters when one is asked for.

    Raises:
        BaseModelError: nothing there, files missing or broken, no network, or not of SDXL's shape.
    """
    if dtype not in DTYPES:
        raise BaseModelError(f"dtype {dtype!r} is not known.", f"Allowed: {', '.join(DTYPES)}.")
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    name = str(name_or_path)
    folders = _sdxl_folders(controlnets) if name == "sdxl" else _local_folders(name, controlnets)
    classes = _read_json(folders["model_index"])
    precision = getattr(torch, dtype)
    parts = {}
    for part, folder in folders.items():
        if part == "model_index":
            continue
        kind = ControlNetModel if part.startswith("controlnet_") else _class_of(part, classes, name)
        parts[part] = None if kind is None else _load_part(kind, folder, part, name, precision)

    networks = [module for module in parts.values() if isinstance(module, torch.nn.Module)]
    for module in networks:
        module.to(device).requires_grad_(False).eval()
    base = Base(
        name=name,
        fingerprint=fingerprint(folders["unet"], parts["vae"], parts["scheduler"]),
        controlnets={kind: parts.pop(f"controlnet_{kind}") for kind in CONTROLS if f"controlnet_{kind}" in parts},
        device=torch.device(device),
        dtype=precision,
        **parts,
    )
    _check_shape(base)
    return base


def fingerprint(unet: Path, vae: torch.nn.Module, scheduler: diffusers.SchedulerMixin) -> str:
    """What a style depends on, as sha256 hex: 64 float16 values of every UNet tensor, the latents' scale, the target.

    Read from the files and rounded to float16, so that it does not depend on the dtype of the files or of loading.
    """
    digest = hashlib.sha256(f"{scheduler.config.prediction_type} {vae.config.scaling_factor}".encode())
    owners = {}
    variant = _variant(unet)
    for shard in sorted(unet.glob("*.safetensors")):
        if (".fp16" in shard.name) == (variant == "fp16"):
            with safe_open(shard, "pt") as tensors:
                owners |= {key: shard for key in tensors.keys()}  # noqa: SIM118 (not a dict)
    with ExitStack() as stack:
        files = {shard: stack.enter_context(safe_open(shard, "pt")) for shard in sorted(set(owners.values()))}
        for key in sorted(owners):
            tensor = files[owners[key]].get_slice(key)
            row = tensor[:1].flatten()
            values = row[:: max(1, row.numel() // 64)][:64].to(torch.float16)
            digest.update(f"{key} {tensor.get_shape()}".encode() + values.numpy().tobytes())
    return digest.hexdigest()


def _local_folders(name: str, controlnets: Sequence[str]) -> dict[str, Path]:
    """Part -> folder of the bundled base or of a folder on disk."""
    root = Path(str(resources.files("tambour.base").joinpath("mini"))) if name == "mini" else Path(name)
    if not (root / "model_index.json").is_file():
        if name == "mini":
            raise BaseModelError("The bundled base 'mini' has no weights in this installation.", "Reinstall tambour.")
        raise BaseModelError(
            f"There is no base model {name!r}.",
            "Allowed: mini, sdxl, or a folder with model_index.json as diffusers' StableDiffusionXLPipeline saves it.",
        )
    parts = ("unet", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler")
    folders = {"model_index": root / "model_index.json"} | {part: root / part for part in parts}
    return folders | {
        f"controlnet_{k}": root / f"controlnet_{k}" for k in controlnets if (root / f"controlnet_{k}").is_dir()
    }


def _sdxl_folders(controlnets: Sequence[str]) -> dict[str, Path]:
    """Part -> folder of SDXL's parts, downloaded at the first use."""
    wanted = ["", "vae", *(f"controlnet_{kind}" for kind in controlnets)]
    snapshots = {}
    for part in wanted:
        repository, files = _SDXL[part]
        try:
            snapshots[part] = Path(snapshot_download(repository, allow_patterns=files))
        except OSError as fault:  # every fault of huggingface_hub is one
            raise BaseModelError(
                f"Base 'sdxl' needs {repository}, which is neither cached nor reachable ({type(fault).__name__}).",
                "Connect to the network once, or set HF_HOME to a cache that holds it, or use the bundled base mini.",
            ) from None
    root = snapshots.pop("")
    parts = ("unet", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler")
    return {"model_index": root / "model_index.json"} | {part: root / part for part in parts} | snapshots


def _read_json(path: Path) -> dict:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as fault:
        raise BaseModelError(f"{path} cannot be read: {fault}.", "Download or save the base model again.") from None


def _class_of(part: str, classes: dict, name: str) -> type | None:
    """The class model_index.json names for a part; None where the model has no such part."""
    library, kind = classes.get(part) or (None, None)
    if kind is None:
        if part in ("text_encoder", "tokenizer"):
            return None
        raise BaseModelError(f"Base {name!r} has no {part}.", "It must have the parts of StableDiffusionXLPipeline.")
    allowed = {
        "unet": ("UNet2DConditionModel",),
        "vae": ("AutoencoderKL", "AutoencoderTiny"),
        "text_encoder": ("CLIPTextModel",),
        "text_encoder_2": ("CLIPTextModelWithProjection",),
        "tokenizer": ("CLIPTokenizer", "CLIPTokenizerFast"),
        "tokenizer_2": ("CLIPTokenizer", "CLIPTokenizerFast"),
    }.get(part)
    owner = {"diffusers": diffusers, "transformers": transformers}.get(library)
    if (allowed and kind not in allowed) or not hasattr(owner, kind):
        raise BaseModelError(
            f"Base {name!r} has a {part} of class {library}.{kind}.",
            f"Allowed: {', '.join(allowed or ('a scheduler of diffusers',))}.",
        )
    return getattr(owner, kind)


def _variant(folder: Path) -> str | None:
    """ "fp16" where a folder holds weights only under that name."""
    names = [path.name for path in folder.glob("*.safetensors")]
    return "fp16" if names and all(".fp16" in name for name in names) else None


def _load_part(kind: type, folder: Path, part: str, name: str, dtype: torch.dtype):
    """One component from its folder, refusing what is missing, broken or incomplete."""
    options: dict = {"local_files_only": True}
    network = issubclass(kind, torch.nn.Module)
    if network:
        key = "dtype" if kind.__module__.startswith("transformers") else "torch_dtype"
        options |= {key: dtype, "use_safetensors": True, "variant": _variant(folder), "output_loading_info": True}
    try:
        if not folder.is_dir():
            raise OSError(f"{folder} is missing")
        with quiet():
            loaded = kind.from_pretrained(str(folder), **options)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as fault:
        reason = str(fault).strip().splitlines()
        raise BaseModelError(
            f"The {part} of base {name!r} cannot be loaded: {reason[0] if reason else type(fault).__name__}",
            "Download or save the base model again (safetensors only).",
        ) from None
    if not network:
        return loaded
    module, information = loaded
    if information["missing_keys"]:
        raise BaseModelError(
            f"The {part} of base {name!r} lacks weights: {sorted(information['missing_keys'])[0]}.",
            "Download or save the base model again.",
        )
    return module


def _check_shape(base: Base) -> None:
    """Refuse a model that is not of SDXL's shape."""
    unet = base.unet.config
    width = base.text_encoder_2.config.hidden_size + (base.text_encoder.config.hidden_size if base.text_encoder else 0)
    for holds, problem in (
        (base.attention_blocks, "its UNet has no attention blocks"),
        (unet.addition_embed_type == "text_time", "its UNet takes no pooled text and sizes ('text_time')"),
        (
            unet.in_channels == base.vae.config.latent_channels,
            "its UNet and autoencoder disagree about latent channels",
        ),
        (unet.cross_attention_dim == width, "its UNet and text encoders disagree about the width of text"),
        (base.prediction_type in ("epsilon", "sample", "v_prediction"), f"it predicts {base.prediction_type!r}"),
        (hasattr(base.scheduler, "alphas_cumprod"), "its scheduler has no alphas_cumprod"),
    ):
        if not holds:
            raise BaseModelError(
                f"Base {base.name!r} is not of SDXL's shape: {problem}.", "Use mini, sdxl or a model like them."
            )

"""Load a base model: diffusers' and transformers' own components behind one contract.

A base is a folder in the layout of diffusers' StableDiffusionXLPipeline (`model_index.json`, `unet/`, `vae/`,
`text_encoder_2/`, `tokenizer_2/`, `scheduler/`; `text_encoder/` and `tokenizer/` only where the model has two text
encoders) plus `controlnet_tile/` and `controlnet_canny/`, or `controlnet_union/` for both. `mini` is bundled; `sdxl` is
put together from the hub; of a single .safetensors checkpoint only the weights are in the file, the rest comes from the
hub too. Only safetensors are read, never pickles.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import diffusers
import torch
import transformers
from diffusers import ControlNetModel, ControlNetUnionModel, StableDiffusionXLPipeline
from diffusers.loaders.single_file_utils import SingleFileComponentError
from huggingface_hub import snapshot_download
from huggingface_hub.errors import RepositoryNotFoundError
from safetensors import SafetensorError, safe_open

from tambour.base.model import UNION, Base
from tambour.base.quantize import quantize
from tambour.base.quiet import quiet
from tambour.errors import BaseModelError

CONTROLS = ("tile", "canny")
DTYPES = ("float32", "bfloat16", "float16")
PRECISIONS = (*DTYPES, "int8")  # int8: attention's weights in 8 bits (see quantize), the rest in `compute_dtype`

_PARTS = ("unet", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler")
_WEIGHTS = ("unet", "vae", "text_encoder", "text_encoder_2")  # what a single checkpoint file holds


@dataclass(frozen=True)
class _Hub:
    """What is taken from one repository of the hub: `patterns` are fetched, `files` must then be there."""

    repository: str
    patterns: tuple[str, ...]
    files: tuple[str, ...]

    @property
    def command(self) -> str:
        return shlex.join(["hf", "download", self.repository, *(w for p in self.patterns for w in ("--include", p))])


def _one_part(repository: str) -> _Hub:
    files = ("config.json", "diffusion_pytorch_model.safetensors")
    return _Hub(repository, files, files)


_SDXL = "stabilityai/stable-diffusion-xl-base-1.0"
_TEXTS = ("*.json", "*.txt")  # configurations and tokenizers
_SETTINGS = (
    *("model_index.json", "unet/config.json", "scheduler/scheduler_config.json"),
    *(f"text_encoder{n}/config.json" for n in ("", "_2")),
    *(f"tokenizer{n}/{file}" for n in ("", "_2") for file in ("vocab.json", "merges.txt")),
)
_FP16 = (
    *(f"text_encoder{n}/model.fp16.safetensors" for n in ("", "_2")),
    "unet/diffusion_pytorch_model.fp16.safetensors",
)
# The paper's models (method, section 6), and what a single checkpoint file lacks.
_BASE = _Hub(_SDXL, (*_TEXTS, *_FP16), (*_SETTINGS, *_FP16))
_CONFIGURATION = _Hub(_SDXL, _TEXTS, (*_SETTINGS, "vae/config.json"))
_VAE = _one_part("madebyollin/sdxl-vae-fp16-fix")
_CONTROLNETS = {kind: _one_part(f"xinsir/controlnet-{kind}-sdxl-1.0") for kind in CONTROLS}


@dataclass(frozen=True)
class Source:
    """Where the parts of a base are on this machine.

    Attributes:
        folders: part -> its folder, ControlNets as "controlnet_KIND"; "model_index" -> that file.
        checkpoint: the single file with the weights of `_WEIGHTS` (their folders hold configurations only), or None.
    """

    folders: dict[str, Path]
    checkpoint: Path | None = None


def load(
    name_or_path: str | Path,
    *,
    device: str | None = None,
    dtype: str = "float32",
    controlnets: Sequence[str] = CONTROLS,
    offloaded: bool = False,
) -> Base:
    """Load a base model.

    Args:
        name_or_path: "mini" (bundled), "sdxl" (the hub's, about 12 GB at the first use), a base folder, or an SDXL
            checkpoint in one .safetensors file (a few MB of configurations then come from the hub).
        device: torch device; None: see `choose_device`.
        dtype: "float32", "bfloat16", "float16", or "int8", where the weights of attention take 8 bits. An autoencoder
            that overflows in float16 is run in float32, as its configuration asks (`force_upcast`), and every one of
            them on "mps".
        controlnets: which ControlNets to load; none is downloaded that is not named here. A folder may lack them,
            which only matters when one is asked for.
        offloaded: all but the UNet come to the device only while they work; see `Base`.

    Raises:
        BaseModelError: nothing there, files missing or broken, no network, or not of SDXL's shape.
    """
    if dtype not in PRECISIONS:
        raise BaseModelError(f"dtype {dtype!r} is not known.", f"Allowed: {', '.join(PRECISIONS)}.")
    device = device or choose_device(dtype)
    name = str(name_or_path)
    source = find_source(name, controlnets)
    classes = _read_json(source.folders["model_index"])
    precision = getattr(torch, compute_dtype(dtype, device))
    parts = {} if source.checkpoint is None else _load_checkpoint(source, name)
    rows = _module_rows(parts["unet"]) if source.checkpoint else _file_rows(source.folders["unet"])
    for part, folder in source.folders.items():
        if part != "model_index" and part not in parts:
            kind = _class_of(part, classes, name)
            parts[part] = None if kind is None else _load_part(kind, folder, part, name, precision)

    identity = fingerprint(rows, parts["vae"], parts["scheduler"])
    with quiet():
        for part, module in parts.items():
            if isinstance(module, torch.nn.Module):
                module.to(precision).requires_grad_(False).eval()
                if dtype == "int8" and part.startswith(("unet", "controlnet_")):
                    quantize(module)
                module.to("cpu" if offloaded and part != "unet" else device)
    if torch.device(device).type == "mps" and precision == torch.float16:
        parts["vae"].register_to_config(force_upcast=True)
    base = Base(
        name=name,
        fingerprint=identity,
        controlnets={
            part.removeprefix("controlnet_"): parts.pop(part) for part in list(parts) if part.startswith("controlnet_")
        },
        device=torch.device(device),
        dtype=precision,
        offloaded=offloaded,
        **parts,
    )
    _check_shape(base)
    return base


def compute_dtype(dtype: str, device: str) -> str:
    """The dtype of activations, and of weights that are not in 8 bits."""
    if dtype != "int8":
        return dtype
    return "float32" if torch.device(device).type == "cpu" else "float16"


def choose_device(dtype: str) -> str:
    """The device for a precision: "cuda" where there is one, else Apple's "mps", else "cpu".

    On "mps" float32 and float16 are chosen. float16 halves the memory, but SDXL's autoencoder gives NaN in it there:
    `load` keeps that part in float32. bfloat16, which "mps" lacks before macOS 14, is left to the CPU.
    """
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() and dtype != "bfloat16" else "cpu"


def find_source(name: str, controlnets: Sequence[str], *, download: bool = True) -> Source:
    """The parts of a base on this machine; `download` allows to fetch what is missing, else only the cache is read.

    Raises:
        BaseModelError: nothing there, or it cannot be fetched.
    """
    if name == "sdxl":
        root = _snapshot(_BASE, name, download)
        folders = _parts_under(root) | {"vae": _snapshot(_VAE, name, download)}
        return Source(folders | _hub_controlnets(name, controlnets, download))
    if name.endswith(".safetensors"):
        if not Path(name).is_file():
            raise BaseModelError(f"There is no checkpoint file {name!r}.", _ALLOWED)
        folders = _parts_under(_snapshot(_CONFIGURATION, name, download))
        return Source(folders | _hub_controlnets(name, controlnets, download), Path(name))
    return Source(_local_folders(name, controlnets))


Row = tuple[str, list[int], torch.Tensor]


def fingerprint(unet: Iterator[Row], vae: torch.nn.Module, scheduler: diffusers.SchedulerMixin) -> str:
    """What a style depends on, as sha256 hex: 64 float16 values of every UNet tensor, the latents' scale, the target.

    Rounded to float16 and read before anything is converted, so that it does not depend on the dtype or layout of the
    files or on the dtype of loading.

    Args:
        unet: (name, shape, the tensor's first row) of every tensor, in the order of the names.
    """
    digest = hashlib.sha256(f"{scheduler.config.prediction_type} {vae.config.scaling_factor}".encode())
    for key, shape, row in unet:
        row = row.flatten()
        values = row[:: max(1, row.numel() // 64)][:64].to(torch.float16)
        digest.update(f"{key} {shape}".encode() + values.numpy().tobytes())
    return digest.hexdigest()


def _file_rows(unet: Path) -> Iterator[Row]:
    """What `fingerprint` needs of the safetensors in a folder, all of it but the rows left on the disk."""
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
            yield key, tensor.get_shape(), tensor[:1]


def _module_rows(unet: torch.nn.Module) -> Iterator[Row]:
    """What `fingerprint` needs of a UNet that was loaded in the dtype of its file."""
    for key, tensor in sorted(unet.state_dict().items()):
        yield key, list(tensor.shape), tensor[:1].cpu()


_ALLOWED = (
    "Allowed: mini, sdxl, a folder with model_index.json as diffusers' StableDiffusionXLPipeline saves it, "
    "or an SDXL checkpoint file that ends in .safetensors."
)


def _parts_under(root: Path) -> dict[str, Path]:
    return {"model_index": root / "model_index.json"} | {part: root / part for part in _PARTS}


def _local_folders(name: str, controlnets: Sequence[str]) -> dict[str, Path]:
    """Part -> folder of the bundled base or of a folder on disk."""
    root = Path(str(resources.files("tambour.base").joinpath("mini"))) if name == "mini" else Path(name)
    if not (root / "model_index.json").is_file():
        if name == "mini":
            raise BaseModelError("The bundled base 'mini' has no weights in this installation.", "Reinstall tambour.")
        raise BaseModelError(f"There is no base model {name!r}.", _ALLOWED)
    found = [f"controlnet_{kind}" for kind in controlnets if (root / f"controlnet_{kind}").is_dir()]
    if len(found) < len(controlnets) and (root / f"controlnet_{UNION}").is_dir():
        found.append(f"controlnet_{UNION}")
    return _parts_under(root) | {part: root / part for part in found}


def _hub_controlnets(name: str, controlnets: Sequence[str], download: bool) -> dict[str, Path]:
    return {f"controlnet_{kind}": _snapshot(_CONTROLNETS[kind], name, download) for kind in controlnets}


def _snapshot(hub: _Hub, name: str, download: bool) -> Path:
    """The folder of a repository in the hub's cache, downloaded at the first use."""
    try:
        with quiet():
            root = Path(snapshot_download(hub.repository, allow_patterns=hub.patterns, local_files_only=not download))
    except RepositoryNotFoundError:  # also: not for those who have not logged in or accepted its licence
        raise BaseModelError(
            f"Base {name!r} needs {hub.repository}, which the hub does not give to you.",
            f"Run `hf auth login`, accept its licence at https://huggingface.co/{hub.repository}, then try again.",
        ) from None
    except OSError as fault:  # every fault of huggingface_hub is one
        raise BaseModelError(
            f"Base {name!r} needs {hub.repository}, which is neither cached nor reachable ({type(fault).__name__}).",
            f"Connect to the network and run `{hub.command}`, or set HF_HOME to a cache that holds it, or use the "
            "bundled base mini.",
        ) from None
    missing = [file for file in hub.files if not (root / file).is_file()]
    if missing:
        raise BaseModelError(
            f"Base {name!r} needs {missing[0]} of {hub.repository}, which the cache lacks.",
            f"Connect to the network and run `{hub.command}`.",
        )
    return root


def _read_json(path: Path) -> dict:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as fault:
        raise BaseModelError(f"{path} cannot be read: {fault}.", "Download or save the base model again.") from None


def _class_of(part: str, classes: dict, name: str) -> type | None:
    """The class of a part, as model_index.json names it; None where the model has no such part."""
    if part.startswith("controlnet_"):
        return ControlNetUnionModel if part == f"controlnet_{UNION}" else ControlNetModel
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


def _load_checkpoint(source: Source, name: str) -> dict[str, torch.nn.Module]:
    """The networks of a single checkpoint file by part, in the dtype of the file."""
    settings = source.folders["model_index"].parent
    absent = dict.fromkeys(("scheduler", "tokenizer", "tokenizer_2"))  # need no weights: `load` reads their folders
    try:
        with safe_open(source.checkpoint, "pt") as file:
            marked = "v_pred" in file.keys()  # noqa: SIM118 (not a dict)
        with quiet():
            pipeline = StableDiffusionXLPipeline.from_single_file(
                str(source.checkpoint), config=str(settings), local_files_only=True, add_watermarker=False, **absent
            )
    except (
        *(OSError, ValueError, KeyError, TypeError, RuntimeError, AttributeError),
        *(SafetensorError, SingleFileComponentError),
    ) as fault:
        reason = (str(fault).strip().splitlines() or [type(fault).__name__])[0]
        if "meta tensor" in reason:  # what diffusers left empty
            reason = "weights are missing."
        raise BaseModelError(
            f"The checkpoint {name!r} cannot be loaded: {reason}",
            "It must be a whole SDXL checkpoint (UNet, autoencoder and both text encoders) in safetensors.",
        ) from None
    if marked:  # by its author, with an empty tensor of this name
        raise BaseModelError(
            f"The checkpoint {name!r} predicts v, which SDXL's own schedule does not say.",
            "Save it as a folder with diffusers, with prediction_type v_prediction in its scheduler.",
        )
    parts = {part: getattr(pipeline, part) for part in _WEIGHTS}
    for part, module in parts.items():
        lacking = [key for key, tensor in module.state_dict().items() if tensor.is_meta]
        if lacking:
            raise BaseModelError(
                f"The {part} of checkpoint {name!r} lacks weights: {lacking[0]}.", "Download the file again."
            )
    return parts


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

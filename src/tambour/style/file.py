"""The style file: one .safetensors that explains itself, and that plain diffusers loads (house, habit 8).

Tensors are the LoRA pairs of the style blocks under diffusers' names, `unet.<module>.lora_A.weight` (rank, in[, k, k])
and `unet.<module>.lora_B.weight` (out, rank[, 1, 1]). The header's metadata holds `tambour` (JSON: everything else a
`Style` has) and `lora_adapter_metadata` (JSON: rank, alpha and modules, where diffusers looks for them).
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from tambour.errors import InputError, OutputExists, StyleError

VERSION = 2
_KEY = re.compile(r"unet\.(?P<module>[\w.]+)\.lora_(?P<half>[AB])\.weight")


@dataclass(frozen=True, eq=False)
class Style:
    """A learnt style.

    Attributes:
        tensors: LoRA pairs by diffusers' names (see above); any float dtype.
        blocks: the style blocks, with the similarity that chose each (-1 to 1; lower: more embroidery).
        rank, alpha: of every pair; the LoRA counts alpha / rank times.
        base, fingerprint: name and fingerprint of the base model it belongs to.
        trigger: what a prompt must contain ("[emb]").
        recipe: every number of the run that made it (`config.recipe_values`).
        description: what the reference showed, in words.
        fabric: RGB, 0 to 255; transparent designs are put on it.
        stitch: the stitch fitted to the reference (`stitch.stitch_values`), or None.
        statistics: `imaging.texture.texture_statistics` of the reference at the working size; () if unknown.
        thumbnail: the reference, small, as an image file's bytes; b"" if there is none.
        relief: its stitches without their colours, and how they lie (`guides.photo.relief`); b"" if there is none.
        palette: RGB and share of the colours of the reference's design (`pair.fill`), where the recipe fills outlines
            with them; else ().
    """

    tensors: Mapping[str, torch.Tensor]
    blocks: Mapping[str, float]
    rank: int
    alpha: float
    base: str
    fingerprint: str
    trigger: str
    recipe: Mapping
    description: str = ""
    fabric: tuple[int, int, int] = (255, 255, 255)
    stitch: Mapping | None = None
    statistics: tuple[float, ...] = ()
    thumbnail: bytes = field(default=b"", repr=False)
    relief: bytes = field(default=b"", repr=False)
    palette: tuple[tuple[int, int, int, float], ...] = ()

    @property
    def modules(self) -> tuple[str, ...]:
        """The UNet's modules that carry the style, sorted."""
        matches = (_KEY.fullmatch(key) for key in self.tensors)
        return tuple(sorted({match["module"] for match in matches if match}))

    @property
    def adapter(self) -> dict:
        """peft's configuration of the LoRA, as diffusers keeps it in a file."""
        return {"r": self.rank, "lora_alpha": self.alpha, "target_modules": list(self.modules)}


# -- the file -----------------------------------------------------------------------------------------------------


def write_style(style: Style, path: str | Path, overwrite: bool = False) -> Path:
    """Write a style file, whole or not at all; the same style gives the same bytes.

    Raises:
        InputError: the name does not end in .safetensors, or the place cannot be written.
        OutputExists: the file is there and `overwrite` is False.
        StyleError: the style's tensors contradict its description (a mistake of the caller).
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise InputError(f"A style file cannot be called {path.name!r}.", "Its name must end in .safetensors.")
    if path.exists() and not overwrite:
        raise OutputExists(path)
    tensors = {key: style.tensors[key].detach().cpu().contiguous() for key in sorted(style.tensors)}
    _check_tensors(dataclasses.replace(style, tensors=tensors), path)
    facts = {f.name: getattr(style, f.name) for f in dataclasses.fields(style) if f.name != "tensors"}
    facts |= {name: base64.b64encode(getattr(style, name)).decode() for name in ("thumbnail", "relief")}
    facts |= {"version": VERSION, "digest": _digest(tensors)}
    adapter = {f"unet.{key}": value for key, value in style.adapter.items()}
    metadata = {"format": "pt", "tambour": _json(facts), "lora_adapter_metadata": _json(adapter)}
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(_in_order(save(tensors, metadata)))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as fault:
        raise InputError(f"{path} cannot be written: {fault.strerror or fault}.", "Choose another place.") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    return path


def read_style(path: str | Path) -> Style:
    """Read a style file.

    Raises:
        StyleError: missing, truncated, not made by tambour, of a later version, or with other tensors than it was
            written with; the message says which.
    """
    path = Path(path)
    if not path.is_file():
        raise StyleError(f"There is no style file {path}.", "`tambour learn PHOTO -o STYLE.safetensors` makes one.")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in sorted(file.keys())}
    except (OSError, SafetensorError, ValueError) as fault:
        raise StyleError(
            f"{path} is not a whole .safetensors file ({fault}).", "Copy or download it again, or learn it again."
        ) from None
    if "tambour" not in metadata:
        raise StyleError(
            f"{path} was not made by tambour: it holds {len(tensors)} tensors and no description of a style.",
            "Give a file made by `tambour learn`; other LoRA files say too little about themselves.",
        )
    try:
        facts = json.loads(metadata["tambour"])
        if facts["version"] != VERSION:
            remedy = "Update tambour." if facts["version"] > VERSION else "Learn the style again."
            raise StyleError(f"{path} has version {facts['version']}; this tambour reads {VERSION}.", remedy)
        style = Style(
            tensors=tensors,
            blocks={str(name): float(similarity) for name, similarity in facts["blocks"].items()},
            rank=int(facts["rank"]),
            alpha=float(facts["alpha"]),
            fabric=tuple(facts["fabric"]),
            statistics=tuple(facts["statistics"]),
            thumbnail=base64.b64decode(facts["thumbnail"]),
            relief=base64.b64decode(facts["relief"]),
            palette=_palette(facts["palette"]),
            **{key: facts[key] for key in ("base", "fingerprint", "trigger", "recipe", "description", "stitch")},
        )
        digest = facts["digest"]
    except (KeyError, TypeError, ValueError, AttributeError) as fault:
        raise StyleError(f"{path} describes itself wrongly ({fault!r}).", "Learn the style again.") from None
    _check_tensors(style, path)
    if digest != _digest(tensors):
        raise StyleError(f"{path} holds other values than it was written with.", "Copy it again, or learn it again.")
    return style


def _palette(rows: Sequence) -> tuple[tuple[int, int, int, float], ...]:
    """The file's palette; a ValueError or TypeError where it is none."""
    palette = tuple((int(r), int(g), int(b), float(share)) for r, g, b, share in rows)
    if not all(0 <= value <= 255 for *colour, _ in palette for value in colour):
        raise ValueError("palette")
    return palette


def _check_tensors(style: Style, path: Path) -> None:
    """Refuse tensors that are not the pairs the style speaks of, in the blocks it speaks of."""
    foreign = [key for key in style.tensors if not _KEY.fullmatch(key)]
    if foreign:
        raise StyleError(
            f"{path} holds a tensor {foreign[0]!r} that belongs to no style.",
            "A style holds unet.<module>.lora_A.weight and unet.<module>.lora_B.weight only.",
        )
    homes = {place for block in style.blocks for place in _places(block)}
    for module in style.modules:
        down, up = (style.tensors.get(f"unet.{module}.lora_{half}.weight") for half in "AB")
        if down is None or up is None:
            raise StyleError(f"{path} holds only one half of the pair for {module}.", "Learn the style again.")
        if down.shape[0] != style.rank or up.shape[1] != style.rank:
            raise StyleError(f"{path} says rank {style.rank}, but {module} has {down.shape[0]}.", "Learn it again.")
        if not any(module.startswith(f"{home}.") for home in homes):
            raise StyleError(f"{path} changes {module}, which is in none of its blocks.", "Learn the style again.")
        if not (down.isfinite().all() and up.isfinite().all()):
            raise StyleError(f"{path} holds NaN or infinite values in {module}.", "Learn it again, in float32.")
    empty = [block for block in style.blocks if not any(m.startswith(_places(block)) for m in style.modules)]
    if empty or not style.blocks:
        raise StyleError(f"{path} holds nothing for block {empty[0] if empty else '(none named)'}.", "Learn it again.")


def _places(block: str) -> tuple[str, ...]:
    """Modules that belong to an attention block: itself and the resnets whose convolutions stand beside it."""
    if block.startswith("mid_block"):
        return block, "mid_block.resnets.0", "mid_block.resnets.1"
    return block, block.replace(".attentions.", ".resnets.")


def _json(values: Mapping) -> str:
    return json.dumps(values, sort_keys=True, ensure_ascii=False)


def _digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """sha256 of the tensors' names, dtypes, shapes and bytes."""
    digest = hashlib.sha256()
    for key in sorted(tensors):
        tensor = tensors[key].contiguous()
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _in_order(data: bytes) -> bytes:
    """A safetensors file with its metadata sorted: the library writes them in any order."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[8 + length :]

"""Recipes: frozen dataclasses read from TOML. No torch here, so that the command line starts at once.

Where only some words are allowed, a field's type is a `Literal`; `_build` checks it, and names the words in the error.
"""

from __future__ import annotations

import dataclasses
import tomllib
import typing
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Literal

from tambour.errors import InputError

DesignKind = Literal["flat", "canny", "outline", "filled"]
Precision = Literal["float32", "bfloat16", "float16", "int8"]


@dataclass(frozen=True)
class Prompts:
    """Prompt templates (method, section 3). `{}` is the description of the design."""

    trigger: str = "[emb]"
    content: str = "a {}"  # c_des
    style: str = "a {} in [emb] style"  # c_emb
    negative: str = "lowres, bad anatomy, cropped, worst quality, low quality"


@dataclass(frozen=True)
class Lora:
    """Which layers the adapter touches and how large it is."""

    rank: int = 32
    alpha: float = 32.0
    convolutions: bool = False  # also the resnet convolutions beside each attention block (ours; the paper: False)


@dataclass(frozen=True)
class Analysis:
    """Inversion and block similarity (method, section 2)."""

    inversion: Literal["renoise", "ddim", "noised"] = "renoise"  # "noised": no inversion, for weak bases
    steps: int = 50
    renoise_iterations: int = 4
    segments: int = 10
    fewest: int = 2  # style blocks that are chosen at least
    blocks: tuple[str, ...] = ()  # the style blocks, whatever the similarity says (ours); (): by similarity


@dataclass(frozen=True)
class Training:
    """What both training stages share."""

    tile: float = 0.0  # scale of ControlNet-Tile, fed with the design, in every pass (our option; the paper: none);
    # where the design is an edge map, of ControlNet-Canny
    palettes: int = 0  # recoloured copies of the pair that training sees too: colour is content (our option)
    loss: Literal["noise", "output"] = (
        "noise"  # squared errors of the noise (the paper), or of the base's own "output": v or x0 (our option)
    )
    gradient_checkpointing: bool = False  # less memory, a third more time
    checkpoint_seconds: float = 15.0  # at most this much work is lost when the run is killed


@dataclass(frozen=True)
class Stage:
    """One training stage."""

    iterations: int = 400
    learning_rate: float = 1e-4
    content_step: bool = True  # step 1, on the design, too; False: the embroidery alone is learnt (ours)
    decay: float = 1.0  # the learning rate falls to this share of itself, by half a cosine; 1: it is constant


@dataclass(frozen=True)
class Complement:
    """Self-generated pairs (method, section 4)."""

    count: int = 10  # 0: none; the reference pair, at another place, stands for the generated one (an ablation)
    filters: bool = True  # False: every generated pair is kept, as in the authors' release
    source: Literal["text", "designs"] = (
        "text"  # "text": from prompts alone; "designs": from bundled designs through the structure conditions
    )
    designs: tuple[str, ...] = ()  # the bundled designs that "designs" draws from; (): all
    colours: tuple[str, ...] = ("red", "blue", "yellow", "green", "orange", "purple", "pink", "brown", "black", "white")
    objects: tuple[str, ...] = ("dog", "flower", "star", "bird", "heart", "tree", "fish", "cat", "leaf", "house")
    first_segment: int = 5  # filter 1 looks at segments first_segment .. segments - 1


@dataclass(frozen=True)
class StageTwo:
    """Contrastive stage (method, section 5)."""

    iterations: int = 200
    learning_rate: float = 1e-4
    decay: float = 1.0
    batch: int = 1  # crops an update, of either pair
    contrastive_weight: float = 1e-4
    generated_weight: float = 0.1
    reference_weight: float = 1.0
    temperature: float = 1.0


@dataclass(frozen=True)
class Edges:
    """One inference setting of section 6."""

    tile: float = 0.5
    canny: float = 0.5
    strength: float = 0.95
    correct_colours: bool = True


@dataclass(frozen=True)
class Sampling:
    """Sampling constants (method, section 6)."""

    size: int = 1024  # longer side, px
    steps: int = 30
    draft_steps: int = 10  # in place of `steps` in a draft: a third of the time, texture lost
    guidance_scale: float = 7.0
    lora_scale: float = 1.0
    style_guidance: float = 1.0  # with `masked_style`: how far the style moves the base's prediction (ours)
    blur_kernel: int = 15  # Gaussian kernel of the tile condition, px at `size`
    canny_low: int = 100
    canny_high: int = 200
    prompt_route: Literal["prior", "base"] = (
        "prior"  # how words are drawn: "prior", where the base has one, which makes
    )
    # a flat design of them first (ours); "base": by the base itself (the paper)
    warning: str = ""  # said to who draws from words alone, where the base does so itself
    guide: str = "none"  # what SDEdit starts from: "none", the flat design (the paper);
    # "stitches", it drawn in the stitch fitted to the reference; "photo", it in the reference's own stitches
    guide_strength: float = 0.6  # SDEdit strength when starting from a guide
    firm: Edges = field(default_factory=Edges)
    free: Edges = field(default_factory=lambda: Edges(tile=0.4, canny=0.0, strength=0.85, correct_colours=False))


@dataclass(frozen=True)
class Recipe:
    """Every number of one run. `recipes/sdxl.toml` holds the paper's, `recipes/mini.toml` what works on mini."""

    base: str = "mini"
    design_kind: DesignKind = "flat"  # A of the pair, and what a result is drawn from: "flat" colours; the "canny" map
    # of a picture (method, section 7); its "outline", Canny after flattening, which leaves texture out: in the place of
    # HED; or, of a result alone, its outlines "filled" with the reference's colours, whose own A is flat (ours)
    resolution: int = 1024  # longer side the reference is resized to, px (aspect ratio is kept)
    enlarge: bool = True  # a smaller reference too; False: only a larger one, so that stitches keep their size
    crop: int = 0  # side of random training crops (and of the analysed window) at that resolution, px; 0: all of it
    batch: int = 1  # crops an update of stage one
    masked_style: bool = False  # learn and draw the style where there are stitches alone: its passes see the design on
    # a ground it cannot be confused with, errors count inside, and the base alone draws the ground (ours)
    precision: Precision = "float32"  # of the frozen base; int8: least memory. The LoRA is float32 always
    prompts: Prompts = field(default_factory=Prompts)
    lora: Lora = field(default_factory=Lora)
    analysis: Analysis = field(default_factory=Analysis)
    training: Training = field(default_factory=Training)
    stage_one: Stage = field(default_factory=Stage)
    complement: Complement = field(default_factory=Complement)
    stage_two: StageTwo = field(default_factory=StageTwo)
    sampling: Sampling = field(default_factory=Sampling)

    @property
    def flat(self) -> bool:
        """Designs show areas of colour; False: edges alone."""
        return self.design_kind in ("flat", "filled")

    @property
    def training_controlnet(self) -> str:
        """The kind of the ControlNet that sees A in every training pass, or ""."""
        kind = "tile" if self.flat else "canny"
        return kind if self.training.tile else ""

    @property
    def training_kernel(self) -> int:
        """Gaussian kernel of the tile condition of a reference, px. Crops are seen at the scale of results, so theirs
        is the results' own."""
        scale = 1.0 if self.crop else self.resolution / self.sampling.size
        return round(self.sampling.blur_kernel * scale)

    def working_size(self, width: int, height: int) -> int:
        """The longer side that a reference of so many px is resized to."""
        longer = max(width, height)
        return self.resolution if self.enlarge else min(self.resolution, max(longer, 2 * self.crop))


def _build(cls: type, values: object, where: str = ""):
    """Build dataclass `cls` from a TOML table, refusing unknown keys, wrong types and words that are not allowed."""
    if not isinstance(values, dict):
        raise InputError(f"Recipe key {where.rstrip('.')!r} must be a table, not {values!r}.")
    hints = typing.get_type_hints(cls)
    unknown = sorted(set(values) - set(hints))
    if unknown:
        raise InputError(
            f"Recipe key {where}{unknown[0]!r} is not known.", f"Allowed here: {', '.join(sorted(hints))}."
        )
    return cls(**{key: _value(hints[key], value, f"{where}{key}") for key, value in values.items()})


def _value(kind: type, value: object, key: str):
    """A value of a recipe as its type wants it; see `_build`."""
    if dataclasses.is_dataclass(kind):
        return _build(kind, value, f"{key}.")
    if typing.get_origin(kind) is Literal:
        if value not in typing.get_args(kind):
            allowed = ", ".join(map(str, typing.get_args(kind)))
            raise InputError(f"Recipe key {key!r} cannot be {value!r}.", f"Allowed: {allowed}.")
        return value
    if typing.get_origin(kind) is tuple:
        if not isinstance(value, list | tuple):
            raise InputError(f"Recipe key {key!r} must be a list, not {value!r}.")
        return tuple(_value(typing.get_args(kind)[0], one, key) for one in value)
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise InputError(f"Recipe key {key!r} must be {kind.__name__}, not {value!r}.")
    return value


def read_recipe(source: str | Path) -> Recipe:
    """Read a recipe: a TOML file's path, or the name of a bundled one ("mini", "sdxl", "mini-artistic" ...).

    A recipe that `extends` a bundled one holds only what differs from it.

    Raises:
        InputError: the file cannot be read, or a key or type is wrong.
    """
    return recipe_from(_read(source))


def bundled() -> list[str]:
    """Names of the bundled recipes, those of a whole base first."""
    files = resources.files("tambour").joinpath("recipes").iterdir()
    names = [file.name.removesuffix(".toml") for file in files if file.name.endswith(".toml")]
    return sorted(names, key=lambda name: ("-" in name, name))


def _read(source: str | Path) -> dict:
    path = Path(source)
    try:
        if path.suffix == ".toml":
            text = path.read_text(encoding="utf-8-sig")
        else:
            text = resources.files("tambour").joinpath("recipes", f"{source}.toml").read_text(encoding="utf-8")
        values = tomllib.loads(text)
    except FileNotFoundError:
        known = ", ".join(bundled())
        raise InputError(f"There is no recipe {str(source)!r}.", f"Give a .toml file, or one of: {known}.") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as fault:
        raise InputError(f"Recipe {str(source)!r} cannot be read: {fault}.") from None
    start = values.pop("extends", None)
    if start is None:
        return values
    if start not in bundled():
        raise InputError(f"Recipe key 'extends' cannot be {start!r}.", f"Allowed: {', '.join(bundled())}.")
    return _merged(_read(start), values)


def _merged(values: dict, changes: dict) -> dict:
    """Nested dicts with some values replaced."""
    both = dict(values)
    for key, value in changes.items():
        inside = isinstance(value, dict) and isinstance(both.get(key), dict)
        both[key] = _merged(both[key], value) if inside else value
    return both


def recipe_from(values: dict) -> Recipe:
    """A recipe from the plain dicts that `recipe_values` gives; errors as `read_recipe`."""
    return _build(Recipe, values)


def resolve_recipe(recipe: Recipe | str | Path | None, base: str) -> Recipe:
    """The recipe meant by what the user gave; None: the bundled one of the base's name, for other bases the paper's.

    Raises:
        InputError: see `read_recipe`.
    """
    if isinstance(recipe, Recipe):
        return recipe
    if recipe is not None:
        return read_recipe(recipe)
    return read_recipe(base) if base in ("mini", "sdxl") else Recipe(base=base)


def on_edges(recipe: Recipe, kind: DesignKind) -> Recipe:
    """The recipe for results drawn from edges: "canny" or "outline" (A is one too; method, section 7), or "filled".

    Of a recipe for flat designs, what needs their colours or areas is taken back: no tile condition, no colour
    correction, no guide, no palettes, stitches everywhere; drawn from pure noise under Canny at full scale. A recipe
    for edge maps keeps its numbers, and so does one whose outlines are filled.
    """
    if kind == "filled" or not recipe.flat:
        return replace(recipe, design_kind=kind)
    sampling = recipe.sampling
    edges = Edges(tile=0.0, canny=1.0, strength=1.0, correct_colours=False)
    sampling = replace(sampling, guide="none", style_guidance=1.0, firm=edges, free=edges)
    training = replace(recipe.training, palettes=0)
    return replace(recipe, design_kind=kind, masked_style=False, training=training, sampling=sampling)


def recipe_values(recipe: Recipe) -> dict:
    """The recipe as plain nested dicts, for manifests and style files."""
    return dataclasses.asdict(recipe)

"""Recipes: frozen dataclasses read from TOML. No torch here, so that the command line starts at once."""

from __future__ import annotations

import dataclasses
import tomllib
import typing
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

from tambour.errors import InputError


@dataclass(frozen=True)
class Prompts:
    """Prompt templates (method, section 3). `{}` is the description of the design."""

    trigger: str = "[emb]"
    design: str = "a {}"
    style: str = "a {} in [emb] style"
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

    inversion: str = "renoise"  # "renoise", "ddim" or "noised" (no inversion, for weak bases)
    steps: int = 50
    renoise_iterations: int = 4
    segments: int = 10
    fewest: int = 2  # style blocks that are chosen at least
    blocks: tuple[str, ...] = ()  # the style blocks, whatever the similarity says (ours); (): by similarity


@dataclass(frozen=True)
class Training:
    """What both training stages share."""

    tile: float = 0.0  # scale of ControlNet-Tile, fed with the design, in every pass (our option; the paper: none)
    palettes: int = 0  # recoloured copies of the pair that training sees too: colour is content (our option)
    loss: str = "noise"  # squared errors of the noise (the paper), or of the base's own "output": v or x0 (our option)
    gradient_checkpointing: bool = False  # less memory, a third more time
    checkpoint_seconds: float = 15.0  # at most this much work is lost when the run is killed


@dataclass(frozen=True)
class Stage:
    """One training stage."""

    iterations: int = 400
    learning_rate: float = 1e-4
    designs: bool = True  # step 1 too; False: the embroidery alone is learnt (ours)
    decay: float = 1.0  # the learning rate falls to this share of itself, by half a cosine; 1: it is constant


@dataclass(frozen=True)
class Complement:
    """Self-generated pairs (method, section 4)."""

    count: int = 10  # 0: none; the reference pair, at another place, stands for the generated one (an ablation)
    filters: bool = True  # False: every generated pair is kept, as in the authors' release
    source: str = "text"  # "text": from prompts alone; "designs": from bundled designs through the structure conditions
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
    control_every: int = 1  # ControlNets are asked in every n-th step; above 1 an approximation
    lora_scale: float = 1.0
    style_guidance: float = 1.0  # with `stitches_alone`: how far the style moves the base's prediction (ours)
    blur_kernel: int = 15  # Gaussian kernel of the tile condition, px at `size`
    canny_low: int = 100
    canny_high: int = 200
    words: str = "design"  # how words are drawn: "design", where the base has a prior, which makes a flat design of
    # them first (ours); "direct", by the base itself (the paper)
    warning: str = ""  # told to who draws from words alone, where the base does so itself
    guide: str = "none"  # what SDEdit starts from: "none", the flat design (the paper); "stitches", it drawn in the
    # stitch fitted to the reference; "photo", it covered with the reference's own stitches
    guide_strength: float = 0.6  # SDEdit strength when starting from a guide
    firm: Edges = field(default_factory=Edges)
    free: Edges = field(default_factory=lambda: Edges(tile=0.4, canny=0.0, strength=0.85, correct_colours=False))


@dataclass(frozen=True)
class Recipe:
    """Every number of one run. `recipes/sdxl.toml` holds the paper's, `recipes/mini.toml` what works on mini."""

    base: str = "mini"
    resolution: int = 1024  # longer side the reference is resized to, px (aspect ratio is kept)
    enlarge: bool = True  # a smaller reference too; False: only a larger one, so that stitches keep their size
    crop: int = 0  # side of random training crops (and of the analysed window) at that resolution, px; 0: all of it
    batch: int = 1  # crops an update of stage one
    stitches_alone: bool = False  # learn and draw the style where there are stitches alone: its passes see the design
    # on a ground it cannot be confused with, errors count inside, and the base alone draws the ground (ours)
    precision: str = "float32"  # of the frozen base: float32, bfloat16, float16 or int8 (least memory); LoRA: float32
    prompts: Prompts = field(default_factory=Prompts)
    lora: Lora = field(default_factory=Lora)
    analysis: Analysis = field(default_factory=Analysis)
    training: Training = field(default_factory=Training)
    stage_one: Stage = field(default_factory=Stage)
    complement: Complement = field(default_factory=Complement)
    stage_two: StageTwo = field(default_factory=StageTwo)
    sampling: Sampling = field(default_factory=Sampling)

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


def _build(cls: type, values: dict, where: str):
    """Build dataclass `cls` from a TOML table, refusing unknown keys and wrong types."""
    hints = typing.get_type_hints(cls)
    known = {f.name for f in dataclasses.fields(cls)}
    unknown = sorted(set(values) - known)
    if unknown:
        allowed = ", ".join(sorted(known))
        raise InputError(f"Recipe key {where}{unknown[0]!r} is not known.", f"Allowed here: {allowed}.")
    built = {}
    for key, value in values.items():
        kind = hints[key]
        if dataclasses.is_dataclass(kind):
            if not isinstance(value, dict):
                raise InputError(f"Recipe key {where}{key!r} must be a table, not {value!r}.")
            built[key] = _build(kind, value, f"{where}{key}.")
        elif typing.get_origin(kind) is tuple:
            built[key] = tuple(value)
        elif kind is float and isinstance(value, int) and not isinstance(value, bool):
            built[key] = float(value)
        elif type(value) is not kind:
            raise InputError(f"Recipe key {where}{key!r} must be {kind.__name__}, not {value!r}.")
        else:
            built[key] = value
    return cls(**built)


def read_recipe(source: str | Path) -> Recipe:
    """Read a recipe: a TOML file's path, or the name of a bundled one ("mini", "sdxl").

    Raises:
        InputError: the file cannot be read, or a key or type is wrong.
    """
    path = Path(source)
    try:
        if path.suffix == ".toml":
            text = path.read_text()
        else:
            text = resources.files("tambour").joinpath("recipes", f"{source}.toml").read_text()
        values = tomllib.loads(text)
    except FileNotFoundError:
        raise InputError(f"There is no recipe {str(source)!r}.", "Give a .toml file, or one of: mini, sdxl.") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as fault:
        raise InputError(f"Recipe {str(source)!r} cannot be read: {fault}.") from None
    return recipe_from(values)


def recipe_from(values: dict) -> Recipe:
    """A recipe from the plain dicts that `recipe_values` gives; errors as `read_recipe`."""
    return _build(Recipe, values, "")


def recipe_values(recipe: Recipe) -> dict:
    """The recipe as plain nested dicts, for manifests and style files."""
    return dataclasses.asdict(recipe)

"""Recipes: bundled ones hold the paper's numbers, any recipe survives TOML, and mistakes are named."""

from __future__ import annotations

import dataclasses
import typing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tambour.config import Recipe, read_recipe, recipe_values
from tambour.errors import InputError


def toml(values: dict, prefix: str = "") -> str:
    """Nested dicts as TOML: strings, numbers, booleans, tuples of strings, tables."""
    lines, tables = [], []
    for key, value in values.items():
        if isinstance(value, dict):
            tables.append(f"[{prefix}{key}]\n" + toml(value, f"{prefix}{key}."))
        else:
            lines.append(f"{key} = {literal(value)}")
    return "\n".join([*lines, *tables]) + "\n"


def literal(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return '"' + "".join(c if c.isprintable() else f"\\U{ord(c):08X}" for c in escaped) + '"'
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(literal, value))}]"
    return repr(value)


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
KINDS = {
    bool: st.booleans(),
    int: st.integers(-(2**31), 2**31),
    float: st.floats(allow_nan=False, allow_infinity=False),
    str: TEXT,
}


def recipes(kind: type) -> st.SearchStrategy:
    """Any instance of a dataclass of recipes."""

    def values(hint: object) -> st.SearchStrategy:
        if dataclasses.is_dataclass(hint):
            return recipes(hint)
        if typing.get_origin(hint) is tuple:
            return st.lists(TEXT, max_size=3).map(tuple)
        return st.sampled_from(typing.get_args(hint)) if typing.get_origin(hint) is typing.Literal else KINDS[hint]

    return st.builds(kind, **{name: values(hint) for name, hint in typing.get_type_hints(kind).items()})


@given(recipe=recipes(Recipe))
def test_a_recipe_survives_toml(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_text(toml(recipe_values(recipe)), encoding="utf-8")
    assert read_recipe(path) == recipe


def test_the_paper() -> None:
    recipe = read_recipe("sdxl")
    assert (recipe.resolution, recipe.batch, recipe.precision, recipe.lora.rank) == (1024, 1, "float16", 32)
    assert (recipe.stage_one.iterations, recipe.stage_two.iterations) == (400, 200)
    assert recipe.stage_one.learning_rate == recipe.stage_two.learning_rate == 1e-4
    weights = recipe.stage_two
    assert (weights.contrastive_weight, weights.generated_weight, weights.reference_weight) == (1e-4, 0.1, 1.0)
    assert (recipe.analysis.inversion, recipe.analysis.steps, recipe.analysis.segments) == ("renoise", 50, 10)
    assert (recipe.complement.count, recipe.complement.source) == (10, "text")
    sampling = recipe.sampling
    assert (sampling.size, sampling.steps, sampling.guidance_scale, sampling.lora_scale) == (1024, 30, 7.0, 1.0)
    assert (sampling.blur_kernel, sampling.canny_low, sampling.canny_high) == (15, 100, 200)
    assert (sampling.firm.tile, sampling.firm.canny, sampling.firm.strength) == (0.5, 0.5, 0.95)
    assert (sampling.free.tile, sampling.free.canny, sampling.free.strength) == (0.4, 0.0, 0.85)
    assert sampling.firm.correct_colours and not sampling.free.correct_colours
    assert not recipe.lora.convolutions


def test_mini_is_bundled() -> None:
    assert read_recipe("mini").base == "mini"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("colour = 1", "colour"),
        ("[stage_one]\niteration = 3", "iteration"),
        ("[stage_one]\niterations = 'many'", "many"),
        ("[stage_one]\niterations = 2.5", "2.5"),
        ("[lora]\nconvolutions = 1", "convolutions"),
        ("[lora]\nrank = true", "rank"),
        ("lora = 3", "lora"),
        ("base = ", "cannot be read"),
    ],
)
def test_mistakes_are_named(text: str, named: str, tmp_path: Path) -> None:
    path = tmp_path / "mistaken.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=named):
        read_recipe(path)


@pytest.mark.parametrize("name", ["absent", "absent.toml", "../config", ""])
def test_absent_recipes(name: str) -> None:
    with pytest.raises(InputError, match="one of: mini, sdxl"):
        read_recipe(name)


def test_a_recipe_that_is_not_text(tmp_path: Path) -> None:
    path = tmp_path / "binary.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="cannot be read"):
        read_recipe(path)

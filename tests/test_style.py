"""The style file: round trip, refusals, and the same picture from plain diffusers."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from toy import make_toy

from tambour.base import Base, generator, load
from tambour.config import Recipe, recipe_values
from tambour.errors import InputError, OutputExists, StyleError
from tambour.style import Style, attached, check_base, read_style, write_style

BLOCKS = {"down_blocks.2.attentions.0": 0.71, "mid_block.attentions.0": 0.55, "up_blocks.0.attentions.1": 0.6}
LAYERS = ("to_q", "to_k", "to_v", "to_out.0")


@pytest.fixture
def style(toy_base: Base) -> Style:
    return random_style(toy_base)


def random_style(base: Base, rank: int = 4, alpha: float = 8.0, seed: int = 0) -> Style:
    """A style of random weights on the attention layers of three blocks and the convolutions beside one."""
    modules = [
        f"{b}.transformer_blocks.0.{attn}.{layer}" for b in BLOCKS for attn in ("attn1", "attn2") for layer in LAYERS
    ]
    modules += [f"up_blocks.0.resnets.1.conv{i}" for i in (1, 2)]
    tensors = {}
    for step, module in enumerate(modules):
        weight = base.unet.get_submodule(module).weight
        rng = generator(seed, "style", step)
        down = torch.randn(rank, *weight.shape[1:], generator=rng) * 0.3
        up = torch.randn(weight.shape[0], rank, *[1] * (weight.ndim - 2), generator=rng) * 0.3
        tensors |= {f"unet.{module}.lora_A.weight": down, f"unet.{module}.lora_B.weight": up}
    return Style(
        tensors=tensors,
        blocks=BLOCKS,
        rank=rank,
        alpha=alpha,
        base=base.name,
        fingerprint=base.fingerprint,
        trigger="[emb]",
        recipe=recipe_values(Recipe()),
        description="a flower – été",
        fabric=(240, 230, 210),
        stitch={"family": "satin", "thread_width": 0.5},
        statistics=(0.25, 0.5),
        thumbnail=b"\x89PNG",
    )


def picture(pipeline, **options) -> np.ndarray:
    return pipeline(
        "a dog in [emb] style",
        height=64,
        width=64,
        num_inference_steps=3,
        guidance_scale=1.0,
        generator=generator(0, "parity"),
        output_type="np",
        **options,
    ).images[0]


def change(path: Path, **values) -> None:
    """Rewrite a style file with other metadata values."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    record = json.loads(metadata["tambour"]) | values
    save_file(load_file(path), path, metadata=metadata | {"tambour": json.dumps(record)})


def test_round_trip(style: Style, tmp_path: Path) -> None:
    again = read_style(write_style(style, tmp_path / "a.safetensors"))
    for f in dataclasses.fields(Style):
        if f.name != "tensors":
            mine, read = getattr(style, f.name), getattr(again, f.name)
            assert json.loads(json.dumps(mine)) == json.loads(json.dumps(read)) if f.name == "recipe" else mine == read
    assert set(style.tensors) == set(again.tensors)
    assert all(torch.equal(style.tensors[key], again.tensors[key]) for key in style.tensors)


def test_the_same_style_gives_the_same_bytes(style: Style, tmp_path: Path) -> None:
    shuffled = dataclasses.replace(style, tensors=dict(reversed(style.tensors.items())))
    files = [write_style(s, tmp_path / f"{i}.safetensors").read_bytes() for i, s in enumerate([style, style, shuffled])]
    assert files[0] == files[1] == files[2]


@pytest.mark.parametrize("shape", ["mini", "sdxl"])
def test_plain_diffusers_gives_the_same_picture(shape: str, toy: Path, toy_sdxl: Path, tmp_path: Path) -> None:
    """alpha / rank is 2 here: a loader that forgets it, or counts it twice, is caught."""
    base = load(toy if shape == "mini" else toy_sdxl, controlnets=())
    bare = picture(base.text_pipeline())
    path = write_style(random_style(base), tmp_path / "style.safetensors")
    with attached(base, read_style(path)):
        ours = picture(base.text_pipeline())
    pipeline = load(base.name, controlnets=()).text_pipeline()
    pipeline.load_lora_weights(str(path))
    theirs = picture(pipeline)
    assert np.abs(ours - theirs).max() <= 1e-5
    assert np.abs(ours - bare).max() > 1e-2


def test_the_scale_counts_once(toy_base: Base, style: Style) -> None:
    """Half the scale is half of every layer's change, to the layer's output and nowhere else."""
    layer = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    weight = toy_base.unet.get_submodule(layer).weight
    x = torch.randn(2, weight.shape[1], generator=generator(0, "x"))
    down, up = (style.tensors[f"unet.{layer}.lora_{half}.weight"] for half in "AB")
    for scale in (0.5, 1.0):
        with attached(toy_base, style, scale):
            y = toy_base.unet.get_submodule(layer)(x)
        torch.testing.assert_close(y, x @ weight.T + scale * style.alpha / style.rank * (x @ down.T @ up.T))


def test_the_base_is_as_before_afterwards(toy_base: Base, style: Style) -> None:
    before = {key: value.clone() for key, value in toy_base.unet.state_dict().items()}
    bare = picture(toy_base.text_pipeline())
    with pytest.raises(ZeroDivisionError), attached(toy_base, style):
        raise ZeroDivisionError
    after = toy_base.unet.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[key], before[key]) for key in before)
    assert np.array_equal(picture(toy_base.text_pipeline()), bare)
    with attached(toy_base, style):  # and can be used again
        pass


def test_another_base_is_refused(style: Style, tmp_path: Path) -> None:
    other = load(make_toy(tmp_path / "other", seed=1), controlnets=())
    with pytest.raises(StyleError, match=r"learnt on base .* not on"):
        check_base(style, other)
    posing = dataclasses.replace(style, fingerprint=other.fingerprint)
    check_base(posing, other)
    other.unet.mid_block.attentions[0] = torch.nn.Identity()
    with pytest.raises(StyleError, match=r"no place for the style's mid_block\.attentions\.0"):
        check_base(posing, other)


def test_broken_files_are_refused(style: Style, tmp_path: Path) -> None:
    path = write_style(style, tmp_path / "a.safetensors")
    whole = path.read_bytes()
    for cut in (0, 5, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(StyleError, match=r"not a whole \.safetensors file"):
            read_style(path)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" * 40)
    with pytest.raises(StyleError, match="not a whole"):
        read_style(path)
    flipped = bytearray(whole)
    flipped[-3] ^= 1
    path.write_bytes(flipped)
    with pytest.raises(StyleError, match="other values than it was written with"):
        read_style(path)
    with pytest.raises(StyleError, match="There is no style file"):
        read_style(tmp_path / "b.safetensors")


def test_foreign_files_are_refused(style: Style, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file(dict(style.tensors), path, metadata={"format": "pt"})
    with pytest.raises(StyleError, match="was not made by tambour"):
        read_style(path)
    write_style(style, path, overwrite=True)
    change(path, version=99)
    with pytest.raises(StyleError, match="version 99"):
        read_style(path)
    change(path, version=1)
    with pytest.raises(StyleError, match="Learn the style again"):
        read_style(path)
    change(path, version=2, rank="many")
    with pytest.raises(StyleError, match="describes itself wrongly"):
        read_style(path)


def test_a_palette_is_kept_and_an_impossible_one_refused(style: Style, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    coloured = dataclasses.replace(style, palette=((200, 60, 30, 0.75), (20, 90, 160, 0.25)))
    assert read_style(write_style(coloured, path)).palette == coloured.palette
    for palette in ([[300, 0, 0, 1.0]], [[1, 2, 3]], "red", 5):
        change(path, palette=palette)
        with pytest.raises(StyleError, match="describes itself wrongly"):
            read_style(path)


def test_other_keys_are_refused(style: Style, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    key = next(iter(style.tensors))
    down = style.tensors[key]
    elsewhere = {f"unet.up_blocks.1.attentions.0.proj_in.lora_{half}.weight": torch.zeros(4, 4) for half in "AB"}
    less = {k: v for k, v in style.tensors.items() if k != key}
    for tensors, reason in (
        ({**style.tensors, "text_encoder.q.lora_A.weight": down}, "belongs to no style"),
        ({**style.tensors, **elsewhere}, "in none of its blocks"),
        (less, "only one half"),
        ({**style.tensors, key: down[:2]}, "says rank 4"),
        ({**style.tensors, key: down * float("nan")}, "NaN"),
        (
            {k: v for k, v in style.tensors.items() if "mid_block" not in k},
            r"nothing for block mid_block\.attentions\.0",
        ),
    ):
        broken = dataclasses.replace(style, tensors=tensors)
        with pytest.raises(StyleError, match=reason):
            write_style(broken, path)
        assert not path.exists()
    write_style(style, path)
    tensors = load_file(path)
    pair = [k for k in tensors if "conv1" in k]
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    save_file({k: v for k, v in tensors.items() if k not in pair}, path, metadata=metadata)
    with pytest.raises(StyleError, match="other values than it was written with"):
        read_style(path)


def test_writing_is_careful(style: Style, tmp_path: Path) -> None:
    path = write_style(style, tmp_path / "new" / "a.safetensors")
    with pytest.raises(OutputExists, match="already exists"):
        write_style(style, path)
    write_style(style, path, overwrite=True)
    assert [p.name for p in path.parent.iterdir()] == ["a.safetensors"]
    with pytest.raises(InputError, match=r"must end in \.safetensors"):
        write_style(style, tmp_path / "a.bin")
    with pytest.raises(InputError, match="cannot be written"):
        write_style(style, path / "under_a_file.safetensors")

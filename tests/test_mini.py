"""The bundled base: whole, small, of SDXL's shape, and able to keep stitches."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tambour.base import Base, load
from tambour.config import read_recipe
from tambour.imaging.tensors import to_image, to_tensor
from tambour.imaging.texture import texture_distance, texture_statistics
from tambour.stitch import Fabric, default_stitch, render

FOLDER = Path(str(resources.files("tambour.base").joinpath("mini")))


@pytest.fixture(scope="module")
def mini() -> Base:
    return load("mini", device="cpu")


def test_it_is_small_and_safe() -> None:
    files = [path for path in FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 60 * 2**20
    assert all(path.stat().st_size < 16 * 2**20 for path in files)
    assert {path.suffix for path in files} <= {".safetensors", ".json", ".md", ".txt"}


def test_it_has_the_shape_of_sdxl(mini: Base) -> None:
    counts = [sum(name.startswith(part) for name in mini.attention_blocks) for part in ("down", "mid", "up")]
    assert counts == [4, 1, 6] and len(mini.unet.config.block_out_channels) == 3
    assert set(mini.controlnets) == {"tile", "canny"}
    recipe = read_recipe("mini")
    assert recipe.crop % mini.pixel_multiple == 0 and recipe.resolution % mini.pixel_multiple == 0


@pytest.mark.parametrize("family", ["satin", "chain", "sequin"])  # the last two were held out of its training
def test_its_autoencoder_keeps_stitches(mini: Base, family: str) -> None:
    flat = Image.new("RGB", (192, 192), (180, 70, 60))
    drawn = render(flat, default_stitch(family), Fabric("plain"), px_per_mm=28, background="stitch").image
    kept = to_image(mini.decode(mini.encode_image(to_tensor(drawn))))
    error = np.square(np.float32(kept) - np.float32(drawn)).mean()
    assert 10 * np.log10(255**2 / error) > 22
    measured, wanted, blank = (texture_statistics(np.asarray(picture)) for picture in (kept, drawn, flat))
    assert texture_distance(measured, wanted) < 0.5 * texture_distance(blank, wanted)


def test_the_tile_condition_decides_the_colour(mini: Base) -> None:
    design = Image.new("RGB", (128, 128), (40, 80, 200))
    prompt = mini.encode_prompt(["star, satin stitch"])
    rng = torch.Generator().manual_seed(0)
    picture = mini.image_pipeline(["tile"])(
        image=Image.new("RGB", (128, 128), (128, 128, 128)),
        control_image=[design],
        prompt_embeds=prompt.embeds,
        pooled_prompt_embeds=prompt.pooled,
        strength=1.0,
        num_inference_steps=6,
        guidance_scale=1.0,
        generator=rng,
        output_type="pil",
    ).images[0]
    red, _, blue = np.asarray(picture, np.float32).mean((0, 1))
    assert blue > red + 40

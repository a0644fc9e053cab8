"""The whole flow on the toy base: one photo in, a style out; killed anywhere, it ends the same."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from workflow_calls import analyse, learn

import tambour.workflows.learn as workflow
from tambour.base import load
from tambour.config import Analysis, Complement, Edges, Lora, Recipe, Sampling, Stage, StageTwo, Training, read_recipe
from tambour.errors import BaseModelError, InputError
from tambour.imaging.files import save_image
from tambour.pair.reference import fabric_colour, name_colours, prepare
from tambour.stitch import Fabric, default_stitch, render
from tambour.style import read_style, write_style
from tambour.training.resources import few_threads
from tambour.workflows.report import to_toml

EDGES = Edges(strength=0.9)
RECIPE = Recipe(
    resolution=96,
    crop=48,
    lora=Lora(rank=2, alpha=2.0, convolutions=True),
    analysis=Analysis(steps=4, segments=2, renoise_iterations=1),
    training=Training(checkpoint_seconds=0.0),
    stage_one=Stage(3, 1e-2),
    complement=Complement(count=3, source="designs", first_segment=1),
    stage_two=StageTwo(2, 1e-2),
    sampling=Sampling(size=64, steps=2, guidance_scale=1.0, firm=EDGES),
)


@pytest.fixture(scope="module")
def base(toy):
    return load(toy)


@pytest.fixture(scope="module", autouse=True)
def quick_fit():
    """Fitting a stitch takes seconds and is tested elsewhere."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workflow, "fit_stitch", lambda photo, mask, family=None: default_stitch("satin"))
        yield


@pytest.fixture(scope="module")
def photo(tmp_path_factory) -> Path:
    """A red and blue patch on green fabric, stitched by our renderer; wider than high."""
    art = Image.new("RGBA", (200, 150))
    draw = ImageDraw.Draw(art)
    draw.ellipse((20, 15, 130, 135), fill=(200, 30, 30, 255))
    draw.rectangle((100, 50, 180, 110), fill=(30, 60, 200, 255))
    image = render(art, default_stitch("tatami"), Fabric(colour=(40, 120, 60)), px_per_mm=12).image
    return save_image(image, tmp_path_factory.mktemp("photo") / "photo.png")


def finish(iterator, *, stop=None):
    """Run to the end, or close after `stop` records. Returns (records, what the iterator returns)."""
    records = []
    while True:
        try:
            records.append(next(iterator))
        except StopIteration as end:
            return records, end.value
        if len(records) == stop:
            iterator.close()
            return records, None


@pytest.fixture(scope="module")
def whole(base, photo, tmp_path_factory):
    """An undisturbed run: its records, its style, its report and the bytes of its style file."""
    folder = tmp_path_factory.mktemp("whole")
    run = learn(photo, base=base, recipe=RECIPE, seed=1, work=folder / "work", report=folder / "report")
    records, style = finish(run)
    path = write_style(style, folder / "style.safetensors")
    return records, style, folder / "report", path.read_bytes()


def test_a_style_comes_out(whole, base, tmp_path):
    records, style, _, data = whole
    (tmp_path / "style.safetensors").write_bytes(data)
    again = read_style(tmp_path / "style.safetensors")
    assert again.blocks == style.blocks
    assert 2 <= len(style.blocks) <= 5
    assert set(style.blocks) < set(base.attention_blocks)
    assert style.fingerprint == base.fingerprint
    assert style.rank == 2
    assert style.stitch["family"] == "satin"
    assert len(style.statistics) > 10
    assert np.abs(np.subtract(style.fabric, (40, 120, 60))).max() < 40
    assert any(tensor.abs().max() > 0 for key, tensor in style.tensors.items() if "lora_B" in key)
    stages = list(dict.fromkeys(record.stage for record in records))
    assert stages == [
        *("pair", "blocks", "stage one", "complement", "filter 1", "filter 2", "stage two", "style", "sheet")
    ]
    for stage in stages[:-1]:
        last = [record for record in records if record.stage == stage][-1]
        assert last.step == last.total
    assert not getattr(base.unet, "peft_config", None)


def test_a_named_stitch_is_drawn_not_copied(base, photo, tmp_path):
    sampling = replace(RECIPE.sampling, guide="photo")
    recipe = replace(RECIPE, sampling=sampling, stage_two=replace(RECIPE.stage_two, iterations=0))
    for stitch, guide in ((None, "photo"), ("cross", "stitches")):
        work = tmp_path / guide
        _, style = finish(learn(photo, base=base, recipe=recipe, stitch=stitch, work=work))
        assert style.recipe["sampling"]["guide"] == guide and style.relief


def test_the_report_tells_and_reproduces(whole, photo):
    _, style, report, _ = whole
    names = {str(path.relative_to(report)) for path in report.rglob("*") if path.is_file()}
    assert names == {
        *("embroidery.png", "design.png", "mask.png", "blocks.svg", "losses.svg", "losses.json", "generated.jpg"),
        *("sheet.jpg", "recipe.toml", "manifest.json"),
        *("samples/stage-one-0001.png", "samples/stage-one-0003.png"),
        *("samples/stage-two-0001.png", "samples/stage-two-0002.png"),
    }
    with Image.open(report / "embroidery.png") as image:
        assert image.size == (96, 64)  # the photo's shape on the base's grid, not square
    losses = json.loads((report / "losses.json").read_text())
    assert {stage: len(values["L_emb"]) for stage, values in losses.items()} == {"stage one": 3, "stage two": 2}
    assert len(losses["stage two"]["L_con"]) == 2
    manifest = json.loads((report / "manifest.json").read_text())
    assert manifest["command"].startswith(f"tambour learn {photo} -o style.safetensors --base ")
    assert "--recipe recipe.toml --seed 1" in manifest["command"]
    assert read_recipe(report / "recipe.toml") == RECIPE
    assert manifest["style blocks"] == style.blocks
    assert {"torch", "diffusers", "peft", "tambour", "python"} <= manifest["versions"].keys()
    assert len(manifest["inputs"]["photo"]["sha256"]) == 64
    assert sum(manifest["seconds"].values()) > 0


# Records of the toy run: pair 2, blocks 4, stage one 3, complement 3, filter 1 2, filter 2 2, stage two 2, style.
@pytest.mark.parametrize("stops", [(1, 5, 8), (11, 13, 16, 17)], ids=str)
def test_interrupted_anywhere_it_ends_the_same_bit_for_bit(whole, base, photo, tmp_path, stops):
    arguments = dict(base=base, recipe=RECIPE, seed=1, work=tmp_path / "work")
    for stop in stops:
        finish(learn(photo, **arguments), stop=stop)
        assert not getattr(base.unet, "peft_config", None)
    _, style = finish(learn(photo, **arguments))
    assert write_style(style, tmp_path / "style.safetensors").read_bytes() == whole[3]


def test_killed_between_two_generated_pairs_and_in_mid_write_it_ends_the_same(whole, base, photo, tmp_path):
    """kill -9 leaves temporary files and whatever was finished; a generator that is closed leaves the latter alone."""
    work = tmp_path / "work"
    script = f"""
import os, pathlib, signal
import tambour.workflows.learn as workflow
from tambour.stitch import default_stitch
from test_learn import RECIPE
from workflow_calls import learn
workflow.fit_stitch = lambda photo, mask, family=None: default_stitch("satin")
work = pathlib.Path({str(work)!r})
for record in learn({str(photo)!r}, base={base.name!r}, recipe=RECIPE, seed=1, work=work):
    if (record.stage, record.step) == ("complement", 2):
        os.kill(os.getpid(), signal.SIGKILL)
"""
    root = Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": f"{root / 'tests'}:{root / 'src'}"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, cwd=tmp_path, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    for part in (
        "complement/.02.png.7.tmp",
        ".stage-two.safetensors.7.tmp",
        ".blocks.json.7.tmp",
        "pair/.mask.png.7.tmp",
    ):
        (work / part).write_bytes(b"half a fi")
    (work / "complement" / "02-design.png").unlink(missing_ok=True)
    _, style = finish(learn(photo, base=base, recipe=RECIPE, seed=1, work=work))
    assert write_style(style, tmp_path / "style.safetensors").read_bytes() == whole[3]


def test_the_seed_and_own_blocks_change_the_style(whole, base, photo, tmp_path):
    blocks = ["up_blocks.1.attentions.2", "mid_block.attentions.0"]
    recipe = replace(RECIPE, complement=replace(RECIPE.complement, source="text", count=1))
    _, style = finish(learn(photo, base=base, recipe=recipe, seed=2, blocks=blocks, work=tmp_path, describe="red dog"))
    assert list(style.blocks) == blocks[::-1]
    assert style.description == "red dog"
    homes = ("up_blocks.1.attentions.2", "up_blocks.1.resnets.2", "mid_block.")
    assert all(module.startswith(homes) for module in style.modules)
    assert any("resnets" in module for module in style.modules)


def test_work_of_another_run_is_refused(whole, base, photo, tmp_path):
    finish(learn(photo, base=base, recipe=RECIPE, seed=1, work=tmp_path), stop=2)
    other = dict(base=base, recipe=RECIPE, seed=2, describe="fox", work=tmp_path)
    with pytest.raises(InputError, match=r"differs in: describe, seed"):
        next(learn(photo, **other))
    assert (tmp_path / "pair").exists()
    finish(learn(photo, **other, overwrite=True), stop=1)
    assert not (tmp_path / "pair").exists()


@pytest.mark.parametrize(("wrong", "fault", "match"), [
    (dict(blocks=["up_blocks.7"]), InputError, "up_blocks.7"),
    (dict(recipe=replace(RECIPE, crop=40)), InputError, "multiple of 16"),
    (dict(recipe=replace(RECIPE, training=Training(tile=1.0))), BaseModelError, "no ControlNet 'tile'"),
    (dict(describe="a very " * 20 + "long story"), InputError, "too long by"),
    (dict(photo="no/such.png"), InputError, "no/such.png"),
])  # fmt: skip
def test_wrong_arguments_are_refused(base, photo, tmp_path, monkeypatch, wrong, fault, match):
    monkeypatch.setattr(base, "controlnets", {})
    arguments = dict(photo=photo, base=base, recipe=RECIPE, work=tmp_path) | wrong
    with pytest.raises(fault, match=match):
        finish(learn(arguments.pop("photo"), **arguments))


def test_analyse_gives_the_same_blocks(whole, base, photo):
    _, choice = finish(analyse(photo, base=base, recipe=RECIPE))
    assert {name: choice.scores[name] for name in choice.chosen} == dict(whole[1].blocks)
    assert choice.automatic
    assert "<svg" in choice.plot()


def test_the_tile_condition_and_v_prediction_run_through(toy_sdxl, photo, tmp_path):
    """Another shape of base: two text encoders, noise prediction, f = 8; with the tile condition while training."""
    recipe = replace(RECIPE, crop=0, resolution=64, training=Training(tile=0.5, gradient_checkpointing=True))
    recipe = replace(recipe, complement=replace(RECIPE.complement, count=1), stage_one=Stage(1, 1e-2))
    _, style = finish(learn(photo, base=load(toy_sdxl), recipe=recipe, work=tmp_path))
    assert all(tensor.isfinite().all() for tensor in style.tensors.values())


# -- the reference ----------------------------------------------------------------------------------------------------


def test_an_own_design_must_lie_on_the_photo(base, photo, tmp_path):
    own = Image.new("RGBA", (400, 300))
    ImageDraw.Draw(own).ellipse((100, 75, 300, 225), fill=(255, 0, 0, 255))
    _, pair = finish(prepare(photo, save_image(own, tmp_path / "own.png"), RECIPE, base))
    assert pair.design.size == pair.embroidery.size == pair.mask.size == (96, 64)
    assert pair.design.getpixel((48, 32)) == (255, 0, 0)
    assert pair.design.getpixel((2, 2)) == fabric_colour(pair)
    assert pair.mask.getpixel((48, 32)) == 255
    assert pair.mask.getpixel((2, 2)) == 0
    square = save_image(own.resize((300, 300)), tmp_path / "square.png")
    with pytest.raises(InputError, match=r"300 x 300 px.*200 x 150"):
        finish(prepare(photo, square, RECIPE, base))


def test_the_pair_is_kept(base, photo, tmp_path):
    _, first = finish(prepare(photo, None, RECIPE, base, folder=tmp_path))
    _, second = finish(prepare("moved away.png", None, RECIPE, base, folder=tmp_path))
    for part in ("design", "embroidery", "mask"):
        assert getattr(first, part).tobytes() == getattr(second, part).tobytes()
        assert getattr(first, part).mode == getattr(second, part).mode


def test_colours_in_words(base, photo):
    _, pair = finish(prepare(photo, None, RECIPE, base))
    flat = np.zeros((64, 96, 3), np.uint8) + np.array([40, 120, 60], np.uint8)
    flat[:40, :60], flat[40:60, :60], flat[60:, :4] = (200, 30, 30), (30, 60, 200), (250, 250, 250)
    mask = np.zeros((64, 96), np.uint8)
    mask[:, :60] = 255
    pair = replace(pair, design=Image.fromarray(flat), mask=Image.fromarray(mask))
    names = ("white", "blue", "red", "green")
    assert name_colours(pair, names) == "red and blue design"
    assert name_colours(pair, names, most=1) == "red design"
    assert name_colours(replace(pair, mask=Image.fromarray(0 * mask)), names) == "green, red and blue design"


def test_recipes_survive_toml(tmp_path):
    from tambour.config import recipe_values

    path = tmp_path / "recipe.toml"
    path.write_text(to_toml(recipe_values(RECIPE)))
    assert read_recipe(path) == RECIPE


def test_small_crops_get_one_thread(toy_base):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        side = 48 * toy_base.vae_factor
        with few_threads(toy_base, (side, side)):
            assert torch.get_num_threads() == 1
        for window, rows in (((2 * side, side), 1), ((side, side), 2)):
            with few_threads(toy_base, window, rows):
                assert torch.get_num_threads() == 2
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)

"""The pretraining of the bundled base, at toy size: exact encoder, aligned crops, captions, exact continuation."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pretraining import autoencoder, corpus, data, evaluate, model, muon, train
from tambour.base import load
from tambour.imaging.scores import colour_difference
from tambour.prior.model import find_prior, load_prior
from tambour.prior.words import read_prompt
from tambour.stitch import Fabric, default_stitch, render

SIZE = 64


@pytest.fixture(scope="module")
def pictures() -> data.Corpus:
    """Four pictures of coarse and fine squares, each its own design."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (4, SIZE // 8, SIZE // 8, 3)).repeat(8, 1).repeat(8, 2)
    fine = rng.integers(-20, 20, (4, SIZE // 2, SIZE // 2, 1)).repeat(2, 1).repeat(2, 2)
    pixels = np.uint8(np.clip(coarse + fine, 0, 255))
    captions, kinds = np.array([f"red thing {n}" for n in range(4)]), np.array(["satin"] * 4)
    return data.Corpus(np.uint8(coarse), pixels, np.ones(pixels.shape[:3], bool), captions, kinds)


@pytest.fixture(scope="module")
def vae(pictures: data.Corpus):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return autoencoder.build(pictures.picture, np.random.default_rng(1))


def test_the_encoder_is_the_pca(pictures: data.Corpus, vae) -> None:
    basis, mean, deviation = autoencoder.fit_patches(pictures.picture, np.random.default_rng(1))
    f = autoencoder.FACTOR
    assert np.allclose(np.einsum("aijk,bijk->ab", basis, basis), np.eye(autoencoder.CHANNELS), atol=1e-5)
    latents = vae.encode(data.to_tensor(pictures.picture)).latents.numpy()
    patches = pictures.picture / 255.0
    patches = patches.reshape(4, SIZE // f, f, SIZE // f, f, 3).transpose(0, 1, 3, 5, 2, 4) - mean
    wanted = np.einsum("nhwcyx,kcyx->nkhw", patches, basis / deviation[:, None, None, None] ** autoencoder.WHITENING)
    scale = latents.std() / wanted.std()
    assert np.allclose(latents, wanted * scale, atol=1e-4)
    assert np.sqrt((latents**2).mean()) == pytest.approx(
        autoencoder.RAW_POWER, rel=0.2
    )  # aligned patches are not all patches


def test_the_decoder_learns(pictures: data.Corpus, vae) -> None:
    losses = []
    for _, loss in autoencoder.train_decoder(vae, pictures, seconds=60, crop=32, batch=4):
        losses.append(loss)
        if len(losses) == 30:
            break
    assert np.mean(losses[-5:]) < 0.8 * losses[0]


def _encode(vae):
    return lambda image: vae.encode(image).latents * vae.config.scaling_factor


def _shard(folder: Path, pictures: data.Corpus) -> Path:
    folder.mkdir()
    np.savez(folder / "0000000.npz", **vars(pictures))
    return folder


@pytest.fixture(scope="module")
def work(pictures: data.Corpus, vae, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work folder up to the encoded corpus."""
    work = tmp_path_factory.mktemp("work")
    data.encode_corpus(_shard(work / "corpus", pictures), work / "crops", _encode(vae), autoencoder.FACTOR)
    model.make_tokenizer([str(c) for c in pictures.caption]).save_pretrained(work / "tokenizer")
    return work


def test_crops_are_aligned(pictures: data.Corpus, vae, work: Path) -> None:
    encode, f = _encode(vae), autoencoder.FACTOR
    crops = data.Crops(work / "crops", torch.device("cpu"))
    assert len(crops) == 4
    batch = crops.draw(np.random.default_rng(3), 6, 6)
    assert batch.latents.shape == (6, autoencoder.CHANNELS, 6, 6)
    assert (
        batch.tile.shape == batch.edges.shape == (6, 3, 6 * f, 6 * f) and 0 <= batch.tile.min() <= batch.tile.max() <= 1
    )
    whole = encode(data.to_tensor(pictures.picture))
    for n in range(6):
        number, top, left = batch.places[n]
        assert batch.captions[n] == str(pictures.caption[number])
        assert torch.allclose(batch.latents[n], whole[number, :, top : top + 6, left : left + 6], atol=1e-2)
        blurred = data.blur(pictures.design[number])[top * f : (top + 6) * f, left * f : (left + 6) * f]
        assert np.allclose(batch.tile[n].numpy() * 255, blurred.transpose(2, 0, 1), atol=0.01)


def test_captions_say_how_the_thread_lies() -> None:
    stitch = dataclasses.replace(default_stitch("tatami"), angle=20.0, angle_field="constant", thread_width=0.5)
    captions = [
        corpus.stitch_words(dataclasses.replace(stitch, angle=a), Fabric("felt"), 24.0)
        for a in (0, 45, 90, -90, -45, 179)
    ]
    assert captions[0] == captions[5] == "tatami stitch, matte medium thread, level, on felt"
    assert captions[2] == captions[3] and len({captions[0], captions[1], captions[2], captions[4]}) == 4
    around = dataclasses.replace(stitch, angle_field="contour")
    assert "around the outline" in corpus.stitch_words(around, Fabric("felt"), 24.0)
    assert "fine" in corpus.stitch_words(stitch, Fabric("felt"), 20.0)


def test_pictures_have_the_colours_of_their_designs() -> None:
    """On every ground: one that reaches the edge is stitched in its colour, not left out."""
    box = '<rect x="2" y="2" width="5" height="5" fill="#c33"/>'
    art = [corpus.Art("box", svg=f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9">{box}</svg>')] * 12
    grounded = 0
    for seed in range(40, 60):
        design, picture, _, _, kind = corpus.make_picture(seed, art).values()
        edge = np.concatenate([design[0], design[-1], design[:, 0], design[:, -1]])
        if kind in corpus.TRAINED_FAMILIES and kind not in ("seed", "bead") and np.ptp(edge, 0).max() == 0:
            grounded += 1
            assert colour_difference(picture, design) < 15, seed
    assert grounded >= 6  # the rest have other looks, or show the drawing at the edge


def test_held_out_families_have_no_words() -> None:
    assert not set(corpus.HELD_OUT_FAMILIES) & set(corpus.WORDS)
    assert set(corpus.WORDS) == set(corpus.TRAINED_FAMILIES)


def test_an_encoded_corpus_is_kept(pictures: data.Corpus, vae, work: Path, tmp_path: Path) -> None:
    def refuse(_image: torch.Tensor) -> torch.Tensor:
        raise AssertionError("encoded again")

    data.encode_corpus(work / "corpus", work / "crops", refuse, autoencoder.FACTOR)
    out = tmp_path / "crops"
    data.encode_corpus(work / "corpus", out, _encode(vae), autoencoder.FACTOR, limit=3)
    assert len(data.Crops(out, torch.device("cpu"))) == 3
    (out / "notes.json").unlink()  # as if killed before the end
    data.encode_corpus(work / "corpus", out, _encode(vae), autoencoder.FACTOR, limit=2)
    assert len(data.Crops(out, torch.device("cpu"))) == 2


def test_crops_show_stitches(pictures: data.Corpus, vae, tmp_path: Path) -> None:
    """Bare fabric covers most of this picture, and few crops are of fabric alone."""
    covered = np.zeros(pictures.stitched.shape, bool)
    covered[:, :, : SIZE // 4] = True
    pixels = dataclasses.replace(pictures, stitched=covered)
    data.encode_corpus(_shard(tmp_path / "corpus", pixels), tmp_path / "crops", _encode(vae), autoencoder.FACTOR)
    crops = data.Crops(tmp_path / "crops", torch.device("cpu"))
    assert crops.stitched[0, :, :4].all() and not crops.stitched[0, :, 4:].any()
    columns = [x for _, _, x in crops.draw(np.random.default_rng(0), 200, 4).places]
    assert np.mean(np.array(columns) < 4) > 0.6  # by chance 0.3


def test_muon_steps_are_orthogonal() -> None:
    draw = torch.Generator().manual_seed(0)
    for shape in ((8, 40), (40, 8), (16, 4, 3, 3)):
        values = torch.linalg.svdvals(muon.orthogonalised(torch.randn(shape, generator=draw).flatten(1)).float())
        assert values.min() > 0.5 and values.max() < 1.3
    weight = torch.nn.Parameter(torch.randn(6, 6, generator=draw))
    optimizer = muon.Muon([weight], lr=0.2, weight_decay=0.0)
    wanted = torch.randn(6, 6, generator=draw)
    losses = []
    for _ in range(60):
        loss = (weight - wanted).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]


@pytest.mark.slow
def test_two_processes_train_as_one(work: Path, tmp_path: Path) -> None:
    plan = train.StagePlan(seconds=1.0, tokens=64, sides=((8,),))
    for name in ("corpus", "crops", "tokenizer"):
        (tmp_path / name).symlink_to(work / name)
    train.run_processes(tmp_path, "two", plan, None, torch.device("cpu"), 2)
    networks = model.build(model.read_tokenizer(tmp_path))
    before = networks.unet.conv_out.weight.clone()
    train.load_average(tmp_path / "two.safetensors", networks)
    assert torch.isfinite(networks.unet.conv_out.weight).all() and not torch.equal(
        before, networks.unet.conv_out.weight
    )
    assert not list(tmp_path.glob(".meeting*"))


def test_a_stage_continues_exactly(work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "WIDTHS", (16, 16, 16))
    tokenizer = model.read_tokenizer(work)
    crops = data.Crops(work / "crops", torch.device("cpu"))
    plan = train.StagePlan(seconds=1e9, tokens=128, sides=((8,),))

    def run(path: Path, steps: int) -> dict[str, torch.Tensor]:
        training = train.Training(model.build(tokenizer, seed=5), plan)
        if path.exists():
            training.load(path)
        for step, loss, _ in train.run_stage(training, crops, path, every=0.0):
            assert np.isfinite(loss)
            if step == steps:
                break
        return training.networks.unet.state_dict()

    whole = run(tmp_path / "whole.safetensors", 4)
    run(tmp_path / "part.safetensors", 2)
    assert not (tmp_path / "part.tmp").exists()
    again = run(tmp_path / "part.safetensors", 4)
    assert all(torch.allclose(whole[key], again[key], atol=1e-6) for key in whole)
    networks = model.build(tokenizer, seed=6)
    train.load_average(tmp_path / "whole.safetensors", networks)
    assert not torch.equal(networks.unet.conv_in.weight, whole["conv_in.weight"])


def test_the_judge_knows_the_truth_from_mush() -> None:
    design = np.full((96, 96, 3), (230, 225, 215), np.uint8)
    design[20:76, 20:76] = (180, 40, 50)
    kinds = [family for family in ("satin", "cross") for _ in range(3)]
    stitches = [dataclasses.replace(default_stitch(kind), angle_field="constant") for kind in kinds]
    drawn, again = ([np.asarray(render(Image.fromarray(design), stitch, Fabric("plain"), seed=n + first).image)
                     for n, stitch in enumerate(stitches)] for first in (0, 50))  # fmt: skip
    inside = np.stack([(design == (180, 40, 50)).all(-1)] * 6)
    pictures = data.Corpus(np.stack([design] * 6), np.stack(drawn), inside, np.array(kinds), np.array(kinds))
    judge = evaluate.Judge(pictures, [2, 5], truths=2)
    assert len(judge.library) == 6
    for n in (2, 5):
        same, sewn_again, other = judge(drawn[n], n), judge(again[n], n), judge(drawn[n - 3], n)
        assert same.family == same.named == sewn_again.named == kinds[n] != other.named
        assert same.texture == same.colour == 0 and sewn_again.texture < 0.35 < other.texture
        assert sewn_again.colour < 3
        grain = np.random.default_rng(n).normal(0, 25, design.shape)
        assert judge(np.uint8(np.clip(design + grain, 0, 255)), n).texture > 0.35


def test_a_stage_travels_in_few_small_files(pictures: data.Corpus, vae, tmp_path: Path) -> None:
    networks = model.build(model.make_tokenizer([str(c) for c in pictures.caption]), seed=1)
    files = model.pack(networks, vae, tmp_path / "out", "g")
    assert sorted(tmp_path.glob("out/*")) == files and len(files) <= 3
    assert all(path.stat().st_size < 16 * 2**20 for path in files)
    work = tmp_path / "work"
    model.unpack(tmp_path / "out", work, "g")
    again = model.build(type(networks.tokenizer).from_pretrained(work / "tokenizer"), seed=2)
    train.load_average(work / "g.safetensors", again)
    for key, value in networks.unet.state_dict().items():
        assert torch.equal(again.unet.state_dict()[key], value.half().float())
    assert again.tokenizer("red thing 1").input_ids == networks.tokenizer("red thing 1").input_ids
    image = data.to_tensor(pictures.picture[:1])
    kept = type(vae).from_pretrained(work / "vae")
    assert torch.allclose(kept.encode(image).latents, vae.encode(image).latents, atol=0.02)
    model.save_base(again, kept, tmp_path / "base")
    model.adopt(tmp_path / "base", tmp_path / "next", "a")
    train.load_average(tmp_path / "next" / "a.safetensors", networks)
    assert torch.equal(networks.tile.conv_in.weight, again.tile.conv_in.weight.float())


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_base_from_nothing(tmp_path: Path) -> None:
    """The whole recipe in little: art, corpus, decoder, two processes, sheet, a base folder that draws."""
    if shutil.which("npm") is None:
        pytest.skip("needs npm, which fetches the art")
    work, out = tmp_path / "work", tmp_path / "base"
    options = {"work": work, "out": out, "count": 40, "unseen": 20, "seconds": 60, "ranks": 2, "each": 1, "steps": 3,
               "processes": 2, "device": "cpu"}  # fmt: skip
    words = [word for key, value in options.items() for word in (f"--{key}", str(value))]
    subprocess.run([sys.executable, "-m", "pretraining", "all", *words], check=True, timeout=900)
    figures = json.loads((work / "a.json").read_text())["samples"]
    assert figures["all"]["count"] >= 5 and set(figures) - {"all"} <= set(corpus.TRAINED_FAMILIES)
    assert (work / "a.png").exists() and (work / "a-text.png").exists()
    base = load(out, device="cpu")
    assert set(base.controlnets) == {"tile", "canny"} and len(base.attention_blocks) == 11
    assert "red heart" in str(read_prompt("two red hearts", load_prior(find_prior(str(out)))))

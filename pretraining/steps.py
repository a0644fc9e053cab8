"""The steps of making mini, one function each; `python -m pretraining STEP` runs them. Every step resumes."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderTiny

from pretraining import autoencoder, corpus, data, evaluate, model, prior, resident, train, words
from tambour.style import read_style


@dataclass(frozen=True)
class Run:
    """What the steps read; the command line says what each is for."""

    work: Path
    name: str = "a"
    start: str | None = None
    plan: Mapping[str, Any] = field(default_factory=dict)
    count: int = 1450
    first: int = 0
    least: int = 600
    decoder: float = 0.0
    unseen: int = 200
    seconds: float = 900.0
    processes: int = 1
    ranks: int = 1
    device: str = "cpu"
    each: int = 2
    steps: int = 25
    guidance: float = 2.0
    style: Path | None = None
    out: Path | None = None


DECODER_PICTURES = 1200  # what the decoder trains on at most


def art_step(run: Run) -> None:
    """Fetch the icon and font packages."""
    corpus.fetch(run.work / "art")


def corpus_step(run: Run) -> None:
    """Render designs and stitched pictures."""
    began = time.monotonic()
    count = run.count + run.unseen
    for done in corpus.make_corpus(
        run.work / "art", run.work / "corpus", count, first=run.first, processes=run.processes
    ):
        print(f"corpus {done}/{count}  {time.monotonic() - began:.0f} s", flush=True)


def decoder_step(run: Run) -> None:
    """Fit the PCA encoder, train the decoder."""
    pictures = data.read_corpus(run.work / "corpus", min(run.count, DECODER_PICTURES))
    folder = run.work / "vae"
    if (folder / "config.json").exists():
        vae = AutoencoderTiny.from_pretrained(folder, local_files_only=True)
        vae.encoder.requires_grad_(False)
        rounds = 1 + int((folder / "rounds").read_text()) if (folder / "rounds").exists() else 1
    else:
        vae, rounds = autoencoder.build(pictures.picture, np.random.default_rng(0)), 0
    batch = 64 if run.device == "cuda" else 8
    mean = None
    for step, loss in autoencoder.train_decoder(
        vae.to(run.device), pictures, seconds=run.seconds, seed=rounds, batch=batch
    ):
        mean = loss if mean is None else 0.98 * mean + 0.02 * loss
        if step % 100 == 0:
            print(f"decoder step {step}  loss {mean:.4f}", flush=True)
    vae.to("cpu").save_pretrained(folder)
    (folder / "rounds").write_text(str(rounds))
    for kind in sorted(set(pictures.kind)):
        decibel, detail = autoencoder.reconstruction(vae, pictures.picture[pictures.kind == kind][:8])
        print(f"{kind:12s} {decibel:.1f} dB  detail energy {detail:.2f}", flush=True)


def _networks(run: Run) -> model.Networks:
    return model.build(model.read_tokenizer(run.work))


def _vae(run: Run) -> AutoencoderTiny:
    return AutoencoderTiny.from_pretrained(run.work / "vae", local_files_only=True).to(run.device).eval()


def stage_step(run: Run) -> None:
    """Train UNet, text encoder and ControlNets for a while."""
    _crops(run)
    if not (run.work / "tokenizer").exists():
        captions = json.loads((run.work / "crops" / "notes.json").read_text())["caption"]
        model.make_tokenizer(captions).save_pretrained(run.work / "tokenizer")
    plan = train.StagePlan(seconds=run.seconds, **run.plan)
    train.run_processes(run.work, run.name, plan, run.start, torch.device(run.device), run.ranks)


def _crops(run: Run) -> None:
    vae = _vae(run)
    data.encode_corpus(run.work / "corpus", run.work / "crops", lambda x: vae.encode(
        x.to(run.device)).latents * vae.config.scaling_factor, autoencoder.FACTOR, run.count)  # fmt: skip


def _load(run: Run) -> model.Networks:
    networks = _networks(run)
    train.load_average(run.work / f"{run.name}.safetensors", networks)
    for module in networks.modules().values():
        module.eval().requires_grad_(False)
    return networks.to(run.device)


def sheet_step(run: Run) -> None:
    """Figures and sheets of a stage on pictures that it was not trained on, if the corpus has any."""
    pictures = data.read_corpus(run.work / "corpus")
    unseen = pictures.kind[run.count :]
    rows = [run.count + int(n) for kind in corpus.TRAINED_FAMILIES for n in np.flatnonzero(unseen == kind)[: run.each]]
    if not rows:
        print(f"No pictures beyond the first {run.count}: judged on pictures of the training.")
        rows = evaluate.first_of_each(pictures, count=run.each)
    networks, vae, out = _load(run), _vae(run), run.out or run.work
    out.mkdir(parents=True, exist_ok=True)
    began, judged, shown, judge = time.monotonic(), [], [], evaluate.Judge(pictures, rows)
    for n, picture in evaluate.draw_rows(networks, vae, pictures, rows, steps=run.steps, guidance=run.guidance):
        judged.append(judge(picture, n))
        shown.append((pictures.design[n], pictures.picture[n], picture))
        print(f"{judged[-1]}  {time.monotonic() - began:.0f} s", flush=True)
    art = corpus.read_art(run.work / "art")
    ceiling = [judge(corpus.make_picture(n, art, sewn=n + 2**20)["picture"], n) for n in rows]
    evaluate.family_sheet(shown, min(2, run.each)).save(out / f"{run.name}.png")
    evaluate.text_sheet(networks, vae, steps=run.steps, guidance=3.0).save(out / f"{run.name}-text.png")
    facts = {"samples": evaluate.figures(judged), "ceiling": evaluate.figures(ceiling), "reconstruction": {}}
    for kind in sorted(set(pictures.kind[rows])):
        some = [n for n in rows if pictures.kind[n] == kind]
        decibel, detail = autoencoder.reconstruction(vae, pictures.picture[some])
        facts["reconstruction"][kind] = {"decibel": decibel, "detail": detail}
        one = facts["samples"][kind]
        print(f"{kind:12s} named {one['named']:.2f}  texture {one['texture']:.2f}  colour {one['colour']:.1f}   "
              f"autoencoder {decibel:.1f} dB, detail {detail:.2f}", flush=True)  # fmt: skip
    print("all", facts["samples"]["all"])
    print("the same embroideries sewn again", facts["ceiling"]["all"])
    (out / f"{run.name}.json").write_text(json.dumps(facts, indent=1))


def export_step(run: Run) -> None:
    """The base folder of a stage."""
    run = dataclasses.replace(run, device="cpu")
    model.save_base(_load(run), _vae(run), run.out)


def words_step(run: Run) -> None:
    """Train the prior, and write it into the base folder."""
    usual = {"ema": 0.995, "last": 0.75, "early": 0.15, "drop_text": 0.05}  # it is asked from pure noise, and once
    plan = train.StagePlan(seconds=run.seconds, **{**usual, **run.plan})
    mean = None
    for step, loss, spent in prior.train(run.work, plan, torch.device(run.device)):
        mean = loss if mean is None else 0.98 * mean + 0.02 * loss
        if step % 10 == 0:
            print(f"words step {step}  loss {mean:.4f}  {spent:.0f}/{plan.seconds:.0f} s", flush=True)
    if run.out:
        prior.save_prior(run.work, run.out / "prior")


def wordsheet_step(run: Run) -> None:
    """Forty prompts as the prior of a base folder draws them, and in a style."""
    began = time.monotonic()
    for drawn, sheet in enumerate(prior.sheet(run.out, read_style(run.style), words.prompts())):
        sheet.save(run.work / "words.png")
        print(f"prompt {drawn + 1}  {time.monotonic() - began:.0f} s", flush=True)


def all_step(run: Run) -> None:
    """mini from nothing: art, corpus, decoder, stage, sheet, export and words."""
    art_step(run)
    corpus_step(run)
    if not (run.work / "vae" / "rounds").exists():
        decoder_step(dataclasses.replace(run, seconds=run.seconds / 6))
    stage_step(run)
    sheet_step(dataclasses.replace(run, out=run.work))
    export_step(run)
    words_step(dataclasses.replace(run, plan={}))  # the stage's plan is the stage's own


def gpu_step(run: Run) -> None:
    """A stage on a corpus that is rendered meanwhile, and the decoder beside it; small files into `--out`."""
    began = time.monotonic()
    run.out.mkdir(parents=True, exist_ok=True)
    render = ["corpus", "--first", str(run.first), "--unseen", "0", "--count", str(run.count), "--processes",
              str(run.processes)]  # fmt: skip
    others = [_beside(run, *render)]
    networks = _networks(run)
    train.load_average(run.work / f"{run.start}.safetensors", networks)
    usual = {"tokens": 131072, "sides": [[32, 32, 64], [32, 64], [32, 64, 128], [64, 128]], "ema": 0.9995, "tile": 0.88,
             "last": 0.1, "seconds": max(10.0, run.seconds - (time.monotonic() - began) - 15)}  # fmt: skip
    plan = train.StagePlan(**{**usual, **run.plan})
    printed = 0.0
    try:
        for step, loss, spent, pictures in resident.run(
            networks.to(run.device), _vae(run), run.work / "corpus", plan, room=run.count, least=run.least
        ):
            if run.decoder and pictures >= DECODER_PICTURES and len(others) == 1:
                others.append(_beside(run, "decoder", "--seconds", str(run.decoder)))
            if spent - printed > 5:
                printed = spent
                print(f"step {step}  loss {loss:.4f}  {spent:.0f} s  {pictures} pictures", flush=True)
    finally:
        others[0].kill()
    for other in others[1:]:
        other.wait()
    model.pack(networks, _vae(run), run.out, run.name)
    (run.out / "plan.json").write_text(json.dumps({"steps": step, "pictures": pictures, **dataclasses.asdict(plan)}))


def _beside(run: Run, *words: str) -> subprocess.Popen:
    """Another step of the same work folder as a process of its own."""
    command = [sys.executable, "-m", "pretraining", *words, "--work", str(run.work), "--device", run.device]
    return subprocess.Popen(command)


def unpack_step(run: Run) -> None:
    """Put the files of a gpu run into the work folder, to go on from them."""
    model.unpack(run.out, run.work, run.name)


def adopt_step(run: Run) -> None:
    """The same with the weights of a base folder."""
    model.adopt(run.out, run.work, run.name)

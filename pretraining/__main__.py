"""`python -m pretraining`: make mini from nothing, step by step. Every step resumes where it stopped.

art        fetch the icon and font packages
corpus     render designs and stitched pictures
decoder    fit the PCA encoder, train the decoder
stage      train UNet, text encoder and ControlNets for a while
sheet      the evaluation page of a stage
export     write the base folder
words      train the prior, the small model that makes a design of words, and write it into the base folder
wordsheet  forty prompts as the prior of a base folder draws them, and in a style
all        art, corpus, decoder, stage, sheet, export and words, one after the other: mini from nothing
gpu        one stage on a large GPU, its corpus rendered meanwhile, in one self-contained run; few and small files
unpack     put the files of a gpu run into the work folder, to go on from them
adopt      the same with the weights of a base folder, such as the bundled one
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from diffusers import AutoencoderTiny

from pretraining import autoencoder, corpus, data, evaluate, model, prior, resident, train, words
from tambour.style import read_style

DECODER_PICTURES = 1200  # what the decoder trains on at most


def main() -> None:
    """Parse and run one step."""
    parser = argparse.ArgumentParser(
        prog="python -m pretraining", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "step",
        choices=("art", "corpus", "decoder", "stage", "sheet", "export", "words", "wordsheet", "all", "gpu", "unpack",
                 "adopt"),
    )  # fmt: skip
    parser.add_argument("--work", type=Path, default=Path("pretrain-work"), help="folder of everything in between")
    parser.add_argument("--name", default="a", help="name of the stage")
    parser.add_argument("--start", help="name of the stage whose averaged weights to start from")
    parser.add_argument(
        "--plan",
        type=json.loads,
        default={},
        help='changes of the stage\'s plan, JSON: {"rate": 0.001}',
    )
    parser.add_argument("--count", type=int, default=1450, help="pictures of the corpus to train on")
    parser.add_argument("--first", type=int, default=0, help="corpus, gpu: number of the first picture")
    parser.add_argument("--least", type=int, default=600, help="gpu: pictures to have before the training starts")
    parser.add_argument("--decoder", type=float, default=0, help="gpu: seconds of decoder training beside it")
    parser.add_argument("--unseen", type=int, default=200, help="corpus: further pictures, for the sheet alone")
    parser.add_argument(
        "--seconds",
        type=float,
        default=900,
        help="time to train; `all`: UNet and the rest, the prior as long again, the decoder a sixth",
    )
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--ranks", type=int, default=1, help="stage: processes that share its work (CPU)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--each", type=int, default=2, help="sheet: samples of every family")
    parser.add_argument("--steps", type=int, default=25, help="sheet: steps of the sampler")
    parser.add_argument("--guidance", type=float, default=2.0, help="sheet: guidance scale of the families' samples")
    parser.add_argument("--style", type=Path, help="wordsheet: a style file of the base")
    parser.add_argument(
        "--out", type=Path, help="sheet, export, words, all, gpu: folder to write; unpack, adopt: to read"
    )
    args = parser.parse_args()
    cv2.setNumThreads(1)
    globals()[f"_{args.step}"](args)


def _art(args: argparse.Namespace) -> None:
    corpus.fetch(args.work / "art")


def _corpus(args: argparse.Namespace) -> None:
    began = time.monotonic()
    count = args.count + args.unseen
    for done in corpus.make_corpus(
        args.work / "art", args.work / "corpus", count, first=args.first, processes=args.processes
    ):
        print(f"corpus {done}/{count}  {time.monotonic() - began:.0f} s", flush=True)


def _decoder(args: argparse.Namespace) -> None:
    pictures = data.read_corpus(args.work / "corpus", min(args.count, DECODER_PICTURES))
    folder = args.work / "vae"
    if (folder / "config.json").exists():
        vae = AutoencoderTiny.from_pretrained(folder, local_files_only=True)
        vae.encoder.requires_grad_(False)
        rounds = 1 + int((folder / "rounds").read_text()) if (folder / "rounds").exists() else 1
    else:
        vae, rounds = autoencoder.build(pictures.picture, np.random.default_rng(0)), 0
    batch = 64 if args.device == "cuda" else 8
    mean = None
    for step, loss in autoencoder.train_decoder(
        vae.to(args.device), pictures, seconds=args.seconds, seed=rounds, batch=batch
    ):
        mean = loss if mean is None else 0.98 * mean + 0.02 * loss
        if step % 100 == 0:
            print(f"decoder step {step}  loss {mean:.4f}", flush=True)
    vae.to("cpu").save_pretrained(folder)
    (folder / "rounds").write_text(str(rounds))
    for kind in sorted(set(pictures.kind)):
        decibel, detail = autoencoder.reconstruction(vae, pictures.picture[pictures.kind == kind][:8])
        print(f"{kind:12s} {decibel:.1f} dB  detail energy {detail:.2f}", flush=True)


def _networks(args: argparse.Namespace) -> model.Networks:
    return model.build(model.read_tokenizer(args.work))


def _vae(args: argparse.Namespace) -> AutoencoderTiny:
    return AutoencoderTiny.from_pretrained(args.work / "vae", local_files_only=True).to(args.device).eval()


def _stage(args: argparse.Namespace) -> None:
    _crops(args)
    if not (args.work / "tokenizer").exists():
        captions = json.loads((args.work / "crops" / "notes.json").read_text())["caption"]
        model.make_tokenizer(captions).save_pretrained(args.work / "tokenizer")
    plan = train.StagePlan(seconds=args.seconds, **args.plan)
    train.run_processes(args.work, args.name, plan, args.start, torch.device(args.device), args.ranks)


def _crops(args: argparse.Namespace) -> None:
    vae = _vae(args)
    data.encode_corpus(args.work / "corpus", args.work / "crops", lambda x: vae.encode(
        x.to(args.device)).latents * vae.config.scaling_factor, autoencoder.FACTOR, args.count)  # fmt: skip


def _load(args: argparse.Namespace) -> model.Networks:
    networks = _networks(args)
    train.load_average(args.work / f"{args.name}.safetensors", networks)
    for module in networks.modules().values():
        module.eval().requires_grad_(False)
    return networks.to(args.device)


def _sheet(args: argparse.Namespace) -> None:
    """Figures and sheets of a stage on pictures that it was not trained on, if the corpus has any."""
    pictures = data.read_corpus(args.work / "corpus")
    unseen = pictures.kind[args.count :]
    rows = [
        args.count + int(n) for kind in corpus.TRAINED_FAMILIES for n in np.flatnonzero(unseen == kind)[: args.each]
    ]
    if not rows:
        print(f"No pictures beyond the first {args.count}: judged on pictures of the training.")
        rows = evaluate.first_of_each(pictures, count=args.each)
    networks, vae, out = _load(args), _vae(args), args.out or args.work
    out.mkdir(parents=True, exist_ok=True)
    began, judged, shown, judge = time.monotonic(), [], [], evaluate.Judge(pictures, rows)
    for n, picture in evaluate.draw_rows(networks, vae, pictures, rows, steps=args.steps, guidance=args.guidance):
        judged.append(judge(picture, n))
        shown.append((pictures.design[n], pictures.picture[n], picture))
        print(f"{judged[-1]}  {time.monotonic() - began:.0f} s", flush=True)
    art = corpus.read_art(args.work / "art")
    ceiling = [judge(corpus.make_picture(n, art, sewn=n + 2**20)["picture"], n) for n in rows]
    evaluate.family_sheet(shown, min(2, args.each)).save(out / f"{args.name}.png")
    evaluate.text_sheet(networks, vae, steps=args.steps, guidance=3.0).save(out / f"{args.name}-text.png")
    told = {"samples": evaluate.figures(judged), "ceiling": evaluate.figures(ceiling), "reconstruction": {}}
    for kind in sorted(set(pictures.kind[rows])):
        some = [n for n in rows if pictures.kind[n] == kind]
        decibel, detail = autoencoder.reconstruction(vae, pictures.picture[some])
        told["reconstruction"][kind] = {"decibel": decibel, "detail": detail}
        one = told["samples"][kind]
        print(f"{kind:12s} named {one['named']:.2f}  texture {one['texture']:.2f}  colour {one['colour']:.1f}   "
              f"autoencoder {decibel:.1f} dB, detail {detail:.2f}", flush=True)  # fmt: skip
    print("all", told["samples"]["all"])
    print("the same embroideries sewn again", told["ceiling"]["all"])
    (out / f"{args.name}.json").write_text(json.dumps(told, indent=1))


def _export(args: argparse.Namespace) -> None:
    args.device = "cpu"
    model.save_base(_load(args), _vae(args), args.out)


def _words(args: argparse.Namespace) -> None:
    usual = {"ema": 0.995, "last": 0.75, "early": 0.15, "drop_text": 0.05}  # it is asked from pure noise, and once
    plan = train.StagePlan(seconds=args.seconds, **{**usual, **args.plan})
    mean = None
    for step, loss, spent in prior.train(args.work, plan, torch.device(args.device)):
        mean = loss if mean is None else 0.98 * mean + 0.02 * loss
        if step % 10 == 0:
            print(f"words step {step}  loss {mean:.4f}  {spent:.0f}/{plan.seconds:.0f} s", flush=True)
    if args.out:
        prior.save_prior(args.work, args.out / "prior")


def _wordsheet(args: argparse.Namespace) -> None:
    began = time.monotonic()
    for drawn, sheet in enumerate(prior.sheet(args.out, read_style(args.style), words.prompts())):
        sheet.save(args.work / "words.png")
        print(f"prompt {drawn + 1}  {time.monotonic() - began:.0f} s", flush=True)


def _all(args: argparse.Namespace) -> None:
    seconds = args.seconds
    _art(args)
    _corpus(args)
    if not (args.work / "vae" / "rounds").exists():
        args.seconds = seconds / 6
        _decoder(args)
        args.seconds = seconds
    _stage(args)
    out, args.out = args.out, args.work
    _sheet(args)
    args.out = out
    _export(args)
    args.plan = {}  # the stage's own
    _words(args)


def _gpu(args: argparse.Namespace) -> None:
    """A stage on a corpus that is rendered meanwhile, and the decoder beside it; small files into `--out`."""
    began = time.monotonic()
    if not args.start or not args.out:
        sys.exit("gpu goes on from a stage: name it with --start (`adopt` makes one of a base folder), and --out.")
    args.out.mkdir(parents=True, exist_ok=True)
    render = ["corpus", "--first", str(args.first), "--unseen", "0", "--count", str(args.count), "--processes",
              str(args.processes)]  # fmt: skip
    others = [_beside(args, *render)]
    networks = _networks(args)
    train.load_average(args.work / f"{args.start}.safetensors", networks)
    usual = {"tokens": 131072, "sides": [[32, 32, 64], [32, 64], [32, 64, 128], [64, 128]], "ema": 0.9995, "tile": 0.88,
             "last": 0.1, "seconds": max(10.0, args.seconds - (time.monotonic() - began) - 15)}  # fmt: skip
    plan = train.StagePlan(**{**usual, **args.plan})
    told = 0.0
    try:
        for step, loss, spent, pictures in resident.run(
            networks.to(args.device), _vae(args), args.work / "corpus", plan, room=args.count, least=args.least
        ):
            if args.decoder and pictures >= DECODER_PICTURES and len(others) == 1:
                others.append(_beside(args, "decoder", "--seconds", str(args.decoder)))
            if spent - told > 5:
                told = spent
                print(f"step {step}  loss {loss:.4f}  {spent:.0f} s  {pictures} pictures", flush=True)
    finally:
        others[0].kill()
    for other in others[1:]:
        other.wait()
    model.pack(networks, _vae(args), args.out, args.name)
    (args.out / "plan.json").write_text(json.dumps({"steps": step, "pictures": pictures, **dataclasses.asdict(plan)}))


def _beside(args: argparse.Namespace, *words: str) -> subprocess.Popen:
    """Another step of the same work folder as a process of its own."""
    command = [sys.executable, "-m", "pretraining", *words, "--work", str(args.work), "--device", args.device]
    return subprocess.Popen(command)


def _unpack(args: argparse.Namespace) -> None:
    model.unpack(args.out, args.work, args.name)


def _adopt(args: argparse.Namespace) -> None:
    model.adopt(args.out, args.work, args.name)


if __name__ == "__main__":
    main()

"""`python -m tambour.pretrain`: make mini from nothing, step by step. Every step resumes where it stopped.

art        fetch the icon and font packages
corpus     render designs and stitched pictures
decoder    fit the PCA encoder, train the decoder
stage      train UNet, text encoder and ControlNets for a while
sheet      the evaluation page of a stage
export     write the base folder
gpu        corpus, decoder, one stage, sheet in one self-contained run of a few minutes; few and small files
unpack     put the files of a gpu run into the work folder, to go on from them
adopt      the same with the weights of a base folder, such as the bundled one
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from diffusers import AutoencoderTiny

from tambour.pretrain import autoencoder, corpus, data, evaluate, model, train


def main() -> None:
    """Parse and run one step."""
    parser = argparse.ArgumentParser(
        prog="python -m tambour.pretrain", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "step", choices=("art", "corpus", "decoder", "stage", "sheet", "export", "gpu", "unpack", "adopt")
    )
    parser.add_argument("--work", type=Path, default=Path("pretrain-work"), help="folder of everything in between")
    parser.add_argument("--name", default="a", help="name of the stage")
    parser.add_argument("--start", help="name of the stage whose averaged weights to start from")
    parser.add_argument(
        "--plan",
        type=json.loads,
        default={},
        help='changes of the stage\'s plan, JSON: {"rate": 0.001}',
    )
    parser.add_argument("--count", type=int, default=1500, help="pictures of the corpus")
    parser.add_argument("--seconds", type=float, default=900, help="time to train")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--ranks", type=int, default=1, help="stage: processes that share its work (CPU)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, help="sheet, export, gpu: folder to write; unpack, adopt: to read")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    globals()[f"_{args.step}"](args)


def _art(args: argparse.Namespace) -> None:
    corpus.fetch(args.work / "art")


def _corpus(args: argparse.Namespace) -> None:
    began = time.monotonic()
    for done in corpus.make_corpus(args.work / "art", args.work / "corpus", args.count, processes=args.processes):
        print(f"corpus {done}/{args.count}  {time.monotonic() - began:.0f} s", flush=True)


def _decoder(args: argparse.Namespace) -> None:
    pictures = data.read_corpus(args.work / "corpus", 1200)
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
    pictures = data.read_corpus(args.work / "corpus", 100)
    rows = evaluate.first_of_each(pictures)
    sheet = evaluate.family_sheet(_load(args), _vae(args), pictures, rows)
    text = evaluate.text_sheet(_load(args), _vae(args), steps=25, guidance=3.0)
    for picture, end in ((sheet, ""), (text, "-text")):
        picture.save((args.out or args.work) / f"{args.name}{end}.png")
    vae = _vae(args)
    for kind in sorted(set(pictures.kind)):
        decibel, detail = autoencoder.reconstruction(vae, pictures.picture[pictures.kind == kind][:8])
        print(f"{kind:12s} {decibel:.1f} dB  detail energy {detail:.2f}", flush=True)


def _export(args: argparse.Namespace) -> None:
    args.device = "cpu"
    model.save_base(_load(args), _vae(args), args.out)


def _gpu(args: argparse.Namespace) -> None:
    """Corpus for 90 s on all cores, decoder, one stage, sheet: all within `--seconds`; small files into `--out`."""
    began = time.monotonic()
    args.out.mkdir(parents=True, exist_ok=True)
    _corpus(args)
    if not (args.work / "vae" / "rounds").exists():
        total, args.seconds = args.seconds, 90
        _decoder(args)
        args.seconds = total
    args.plan = {"tokens": 262144, "sides": [[32]], "ema": 0.9995, **args.plan}
    args.seconds -= time.monotonic() - began + 60
    _stage(args)
    model.pack(_load(args), _vae(args), args.out, args.name)
    _sheet(args)
    plan = dataclasses.asdict(train.StagePlan(seconds=args.seconds, **args.plan))
    (args.out / "plan.json").write_text(json.dumps(plan, indent=1))


def _unpack(args: argparse.Namespace) -> None:
    model.unpack(args.out, args.work, args.name)


def _adopt(args: argparse.Namespace) -> None:
    model.adopt(args.out, args.work, args.name)


if __name__ == "__main__":
    main()

"""Does the accelerator compute what the reference computes? Networks of SDXL's shape and random weights.

    python benchmarks/gpu_checks.py [--size toy] [--seconds 240] [--out FOLDER]

Checks, each within the tolerance it prints: half precision against float32; compiled against eager; a batch against its
rows; a resumed stage against an uninterrupted one; shared passes against separate ones; a batch of sampled pictures
against single ones. On a GPU the toy is checked first, against the CPU too, then the full size. Ends with 1 if a check
fails.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import dataclasses
import functools
import json
import math
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from sdxl import SIZES, STYLE_BLOCKS, Source, build, by_pipeline, compile_blocks, uncompile_blocks

from tambour.base import Base, Prompt, generator
from tambour.base.quantize import quantize
from tambour.base.quiet import quiet
from tambour.config import Lora, Stage, StageTwo
from tambour.drawing.sampler import Condition, sample
from tambour.errors import TambourError
from tambour.progress import finished
from tambour.training import routing
from tambour.training.adapter import Adapter, adapted
from tambour.training.loop import train
from tambour.training.losses import contrast
from tambour.training.pairs import EncodedPair, crop, join
from tambour.training.routing import RoutedModel
from tambour.training.stage_one import stage_one
from tambour.training.stage_two import stage_two

TOLERANCE = {  # relative, by precision: of predictions, and of losses after some steps
    torch.float32: (1e-4, 1e-3),
    torch.bfloat16: (3e-2, 5e-2),
    torch.float16: (1e-2, 2e-2),
}
EIGHT = 5e-2  # relative, of a prediction with weights in 8 bits
EFFECT = 0.5  # of the LoRA: what it adds has about a third of its input's size
CONTRAST = 0.1  # absolute, of L_con, whose range is log 2 -+ 2


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """|| a - b || / || b ||; infinite for what is not finite."""
    a, b = a.detach().double().cpu(), b.detach().double().cpu()
    value = float((a - b).norm() / b.norm())
    return value if math.isfinite(value) else math.inf


def apart(a: dict[str, list[float]], b: dict[str, list[float]]) -> float:
    """The largest relative difference of losses; infinite where one is not finite or missing.

    L_con must only be finite: it asks for the direction of small differences, which rounding turns at will.
    """
    if a.keys() != b.keys() or any(len(a[key]) != len(b[key]) for key in a):
        return math.inf
    if not all(math.isfinite(value) for losses in (a, b) for values in losses.values() for value in values):
        return math.inf
    noise = [key for key in a if not key.endswith("L_con")]
    return max(abs(x - y) / max(abs(y), 0.1) for key in noise for x, y in zip(a[key], b[key], strict=True))


class Checks:
    """One base on one device in one precision."""

    def __init__(self, size: str, base: Base, pairs: list[EncodedPair], iterations: int) -> None:
        self.size, self.base, self.pairs, self.iterations = SIZES[size], base, pairs, iterations

    @contextlib.contextmanager
    def lora(self) -> Iterator[Adapter]:
        """A LoRA with an effect, as if it were trained: without one L_con would compare rounding errors."""
        numbers = Lora(rank=self.size.rank, alpha=float(self.size.rank))
        with adapted(self.base, STYLE_BLOCKS, numbers, generator(0, "lora")) as adapter:
            rng = generator(1, "effect")
            for name, parameter in adapter.theta_a.items():
                if name.endswith("lora_B.weight"):  # of the same strength at every width and rank
                    effect = EFFECT / math.sqrt(self.size.rank)
                    parameter.data.copy_(effect * torch.randn(parameter.shape, generator=rng))
            yield adapter

    def prediction(self, rows: Sequence[int] = (0, 1)) -> torch.Tensor:
        """For some of the pairs, in one batch."""
        batch = functools.reduce(join, [crop(self.base, self.pairs[row], [(0, 0)]) for row in rows])
        t = torch.tensor([300, 700], device=self.base.device)[list(rows)]
        z = torch.randn(2, *batch.design.shape[1:], generator=generator(0, "z")).to(self.base.device)[list(rows)]
        with self.lora(), torch.no_grad():
            return RoutedModel(self.base, STYLE_BLOCKS).predict(z, t, batch, style=True)

    def contrasted(self) -> torch.Tensor:
        ref, gen = (crop(self.base, pair, [(0, 0)]) for pair in self.pairs)
        with self.lora(), torch.no_grad():
            return contrast(RoutedModel(self.base, STYLE_BLOCKS), ref, gen, generator(0, "loss"))

    def stages(self, *, only: str | None = None, pause: int = 0, keep: dict | None = None) -> dict[str, list[float]]:
        """Losses of some iterations of both stages (or of `only` one); with `pause`, stopped and continued there."""
        model = RoutedModel(self.base, STYLE_BLOCKS)
        two = StageTwo(self.iterations)
        curves: dict[str, list[float]] = {}
        with self.lora() as adapter, tempfile.TemporaryDirectory() as folder:
            for name, steps, numbers in (
                ("one", stage_one(model, self.pairs[:1], 1), Stage(self.iterations)),
                ("two", stage_two(model, self.pairs[:1], self.pairs[1:], two), two),
            ):
                if only not in (None, name):
                    continue
                state = Path(folder) / name
                for stop in (pause, 0) if pause else (0,):
                    losses = self._train(name, adapter, steps, numbers, state, stop)
                curves |= {f"{name}, {key}": values for key, values in losses.items()}
            if keep is not None:
                keep |= {key: value.detach().cpu().clone() for key, value in adapter.theta_a.items()}
        return curves

    def _train(self, name: str, adapter: Adapter, steps, numbers, state: Path, stop: int) -> dict[str, list[float]]:
        curves: dict[str, list[float]] = {}
        common = dict(seed=0, checkpoint=state, every_seconds=0.0 if stop else 1e9, curves=curves)
        for count, _ in enumerate(train(name, adapter, steps, numbers, **common)):
            if stop and count + 1 == stop:
                break
        return curves

    def pictures(self, seeds: list[int]) -> torch.Tensor:
        """Sampled pictures, a seed each, in one batch."""
        prompt, negative = self.pairs[0].c_emb, self.pairs[0].c_des
        side = self.size.pixels
        picture = torch.rand(1, 3, side, side, generator=generator(0, "picture")).to(self.base.device, self.base.dtype)
        drawing = sample(
            self.base,
            prompt,
            negative=negative,
            guidance_scale=7.0,
            size=(side, side),
            generators=[generator(seed, "apply") for seed in seeds],
            steps=3,
            start=2 * picture - 1,
            conditions={kind: Condition(picture, 0.5) for kind in ("tile", "canny")},
        )
        return finished(drawing)

    def pipelined(self, seed: int) -> torch.Tensor:
        """One of these by diffusers' own pipeline."""
        side = self.size.pixels
        picture = torch.rand(1, 3, side, side, generator=generator(0, "picture")).to(self.base.device, self.base.dtype)
        return 2 * by_pipeline(self.base, self.pairs[0], picture, 3, seed) - 1


def moved(pair: EncodedPair, device: torch.device, dtype: torch.dtype) -> EncodedPair:
    """A pair on another device in another precision."""

    def one(value):
        if isinstance(value, torch.Tensor):
            return value.to(device, dtype)
        return Prompt(value.embeds.to(device, dtype), value.pooled.to(device, dtype))

    return dataclasses.replace(
        pair, **{part: one(getattr(pair, part)) for part in ("design", "embroidery", "c_des", "c_emb")}
    )


def copied(base: Base, device: torch.device, dtype: torch.dtype) -> Base:
    """A base with the same weights on another device in another precision."""

    def one(net: torch.nn.Module) -> torch.nn.Module:
        return copy.deepcopy(net).to(device, dtype)

    with quiet():
        parts = {part: one(getattr(base, part)) for part in ("unet", "vae", "text_encoder", "text_encoder_2")}
        nets = {kind: one(net) for kind, net in base.controlnets.items()}
    return dataclasses.replace(base, **parts, controlnets=nets, device=device, dtype=dtype)


def each_alone(modules) -> contextlib.AbstractContextManager:
    """In place of `computed_once`: every pass computes everything."""
    return contextlib.nullcontext()


def run_checks(size: str, device: torch.device, half: torch.dtype, iterations: int, report: Callable) -> tuple:
    """All checks on one size. `report(name, check, tolerance)` calls each.

    Returns what it would be given for the compiled model: that one takes long, and comes last.
    """
    home = torch.device("cpu") if size == "toy" else device  # of the float32 reference
    exact = build(SIZES[size], home, torch.float32)
    pairs = [Source.random(SIZES[size], exact, seed).encoded(exact) for seed in (0, 1)]

    def checks(base: Base) -> Checks:
        return Checks(size, base, [moved(pair, base.device, base.dtype) for pair in pairs], iterations)

    reference, mine = checks(exact), checks(copied(exact, device, half))
    tight, near, trained = TOLERANCE[torch.float32][0], *TOLERANCE[half]
    dtype = str(half).removeprefix("torch.")

    if size == "toy":
        there = checks(copied(exact, device, torch.float32))
        report("float32: a prediction = the CPU's", lambda: distance(there.prediction(), reference.prediction()), tight)
        report(
            "float32: losses = the CPU's",
            lambda: apart(there.stages(), reference.stages()),
            TOLERANCE[torch.float32][1],
        )
    report(f"{dtype}: a prediction = float32", lambda: distance(mine.prediction(), reference.prediction()), near)
    report(f"{dtype}: losses of both stages = float32", lambda: apart(mine.stages(), reference.stages()), trained)
    report(
        f"{dtype}: L_con = float32, absolute",
        lambda: abs(float(mine.contrasted()) - float(reference.contrasted())),
        CONTRAST,
    )

    def resumed() -> float:
        whole, parts = {}, {}
        gap = apart(mine.stages(keep=whole), mine.stages(pause=1, keep=parts))
        return max(gap, *(distance(parts[key], whole[key]) for key in whole))

    report(f"{dtype}: resumed = uninterrupted", resumed, trained)

    def shared() -> float:
        together, once = mine.contrasted(), routing.computed_once
        routing.computed_once = each_alone
        try:
            return distance(together, mine.contrasted())
        finally:
            routing.computed_once = once

    report(f"{dtype}: shared passes = separate ones", shared, TOLERANCE[torch.float32][0])

    def batched() -> float:
        together = mine.prediction()
        return distance(together, torch.cat([mine.prediction(rows=[row]) for row in range(2)]))

    report(f"{dtype}: a batch = its rows", batched, near)

    def sampled() -> float:
        alone = torch.cat([mine.pictures([seed]) for seed in (0, 1)])
        return distance(mine.pictures([0, 1]), alone)

    report(f"{dtype}: pictures of a batch = single ones", sampled, 3 * near)

    report(
        f"{dtype}: our sampler = diffusers' pipeline",
        lambda: distance(mine.pictures([0]), mine.pipelined(0)),
        3 * near,
    )

    def eighth() -> float:
        lean = checks(copied(mine.base, device, half))
        for net in (lean.base.unet, *lean.base.controlnets.values()):
            quantize(net)
        return distance(lean.prediction(), mine.prediction())

    report(f"weights in 8 bits: a prediction = {dtype}", eighth, EIGHT)

    def compiled() -> float:
        eager, losses = mine.prediction(), mine.stages(only="one")
        compile_blocks(mine.base.unet, device.type == "cuda")
        try:
            return max(distance(mine.prediction(), eager), apart(mine.stages(only="one"), losses))
        finally:
            uncompile_blocks(mine.base.unet)

    return f"{dtype}: compiled = eager", compiled, trained


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, help="one size only; default: on a GPU the toy, then the full size")
    parser.add_argument(
        "--seconds", type=float, default=240.0, help="begin no new check after that; all ends 20 s later"
    )
    parser.add_argument("--out", help="folder for checks.json")
    parser.add_argument("--device", help="default: the GPU if there is one")
    parser.add_argument("--precision", choices=("bfloat16", "float16"), default="bfloat16")
    parser.add_argument("--iterations", type=int, default=3, help="of either stage")
    options = parser.parse_args()
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    sizes = [options.size] if options.size else (["toy", "full"] if device.type == "cuda" else ["toy"])
    torch.backends.cudnn.allow_tf32 = False  # or float32's convolutions would not be float32
    start, results, bad = time.monotonic(), [], []
    print(f"{device}, torch {torch.__version__}, {options.precision}\n")

    def stop(*_) -> None:
        print("time is up", flush=True)
        os._exit(1 if bad else 0)

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(int(options.seconds) + 20)

    def report(name: str, check: Callable[[], float], tolerance: float) -> None:
        if time.monotonic() - start > options.seconds:
            print(f"   -    {name}: no time left", flush=True)
            return
        try:
            difference = check()
        except (RuntimeError, ValueError, TypeError, AttributeError, KeyError, TambourError):  # the others still count
            traceback.print_exc()
            difference = math.inf
        good = difference <= tolerance
        name = f"{size}, {name}"
        results.append({"check": name, "difference": difference, "tolerance": tolerance, "holds": good})
        print(f"{'holds' if good else 'FAILS'}   {name}: {difference:.2e} (at most {tolerance:.0e})", flush=True)
        if not good:
            bad.append(name)
        if options.out:
            Path(options.out).mkdir(parents=True, exist_ok=True)
            (Path(options.out) / "checks.json").write_text(json.dumps(results, indent=1))

    last = []
    for size in sizes:
        if time.monotonic() - start <= options.seconds:
            last.append((size, run_checks(size, device, getattr(torch, options.precision), options.iterations, report)))
    for size, check in last:  # noqa: B007 (`report` says it)
        report(*check)
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()

"""Memory of SDXL at full size, counted without a GPU, beside what the preflight says.

    python benchmarks/memory.py [--size toy] [--pixels 1024]

The networks are built on torch's meta device, where tensors have a shape and no values. What is alive is added up
while the real code takes a step of each phase; the peak, with the weights and the optimiser, is what the tensors need.
Attention is counted as a fused kernel, which keeps no scores. Not counted: the driver's own part, workspaces of its
libraries, and what the allocator wastes (the preflight adds these).
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import weakref
from collections.abc import Callable, Iterator, Sequence
from unittest import mock

import torch
import torch.nn.functional as F
from sdxl import SIZES, STYLE_BLOCKS, build
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tambour.base import Base, Prompt, generator
from tambour.base.quantize import quantize
from tambour.config import read_recipe
from tambour.drawing import sampler as sampling
from tambour.drawing.sampler import Condition, Guided
from tambour.preflight import memory, model
from tambour.training import losses
from tambour.training.adapter import Adapter, adapted, updating
from tambour.training.losses import contrast, denoising
from tambour.training.pairs import Batch, join
from tambour.training.routing import RoutedModel

META = torch.device("meta")


class Alive(TorchDispatchMode):
    """Adds up the bytes of tensors made while it is on, for as long as they live; views of weights are not new."""

    def __init__(self, nets: Sequence[torch.nn.Module]) -> None:
        super().__init__()
        self.now = self.peak = 0
        weights = (tensor for net in nets for tensor in (*net.parameters(), *net.buffers()))
        self.known = {tensor.untyped_storage()._cdata for tensor in weights}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and tensor.device.type == "meta":
                self._add(tensor.untyped_storage())
        return out

    def _add(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self.known:
            return
        self.known.add(key)
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._gone, key, storage.nbytes())

    def _gone(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size


def peak(work: Callable[[], object], nets: Sequence[torch.nn.Module]) -> int:
    with Alive(nets) as alive:
        work()
    return alive.peak


def size_of(nets: Sequence[torch.nn.Module]) -> int:
    """Bytes of weights and buffers, the LoRA's apart."""
    return sum(
        tensor.numel() * tensor.element_size()
        for net in nets
        for name, tensor in net.state_dict().items()
        if ".lora_" not in name
    )


def fused(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *_, **__) -> torch.Tensor:
    """In place of attention. Without gradients nothing is kept, not even until a function's context is collected."""
    return Fused.apply(q, k, v) if torch.is_grad_enabled() else torch.empty_like(q)


class Fused(torch.autograd.Function):
    """softmax(q k^T / sqrt(d)) v as a fused kernel holds it: inputs, output and a number a row."""

    @staticmethod
    def forward(ctx, q, k, v):
        out = torch.empty_like(q)
        ctx.save_for_backward(q, k, v, out, torch.empty(q.shape[:-1], device=q.device))
        return out

    @staticmethod
    def backward(ctx, gradient):
        return tuple(torch.empty_like(value) for value in ctx.saved_tensors[:3])


@contextlib.contextmanager
def without_values() -> Iterator[None]:
    """While open, draws and schedules, which need values, are made up, and attention is a fused kernel."""

    def timesteps(base: Base, count: int, generator) -> torch.Tensor:
        return torch.zeros(count, dtype=torch.long, device=META)

    def schedule(base: Base, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.ones(len(t), device=META), torch.ones(len(t), device=META)

    def own_schedule(self: Base, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return tuple(torch.ones(len(t), 1, 1, 1, device=META, dtype=self.dtype) for _ in range(2))

    with (
        mock.patch.object(F, "scaled_dot_product_attention", fused),
        mock.patch.object(losses, "draw_timesteps", timesteps),
        mock.patch.object(losses, "draw_noise", lambda like, _: torch.empty_like(like, dtype=torch.float32)),
        mock.patch.object(losses, "signal_and_noise", schedule),
        mock.patch.object(Base, "_signal_and_noise", own_schedule),
    ):
        yield


class Count:
    """One base in one setting."""

    def __init__(self, size: str, pixels: int, dtype: str, checkpointing: bool, offloaded: bool) -> None:
        self.dtype, self.checkpointing, self.offloaded = dtype, checkpointing, offloaded
        self.pixels, self.rank = pixels, SIZES[size].rank
        precision = torch.float16 if dtype == "int8" else getattr(torch, dtype)
        self.base = build(SIZES[size], META, precision)
        self.base = dataclasses.replace(self.base, offloaded=offloaded)
        if dtype == "int8":
            for net in (self.base.unet, *self.base.controlnets.values()):
                quantize(net)
        if checkpointing:
            self.base.unet.enable_gradient_checkpointing()

    def prompt(self, rows: int) -> Prompt:
        width = self.base.unet.config.cross_attention_dim
        pooled = self.base.text_encoder_2.config.projection_dim
        shapes = (rows, 77, width), (rows, pooled)
        return Prompt(*(torch.empty(shape, device=META, dtype=self.base.dtype) for shape in shapes))

    def latents(self, rows: int = 1) -> torch.Tensor:
        side = self.pixels // self.base.vae_factor
        return torch.empty(rows, 4, side, side, device=META, dtype=self.base.dtype)

    def training(self) -> int:
        """The dearest step of stage two on both pairs, its LoRA and Adam's moments."""
        base = self.base
        ids = base.time_ids(self.pixels, self.pixels)
        pair = Batch(self.latents(), self.latents(), self.prompt(1), self.prompt(1), ids)
        model, numbers = RoutedModel(base, STYLE_BLOCKS), dataclasses.replace(read_recipe("sdxl").lora, rank=self.rank)
        with without_values(), adapted(base, STYLE_BLOCKS, numbers, generator(0, "lora")) as adapter:
            a, e = (sum(p.numel() for p in theta.values()) for theta in (adapter.theta_a, adapter.theta_e))
            rows = join(pair, pair)
            steps: list[tuple[dict, Callable[[], torch.Tensor]]] = [
                (adapter.theta_a, lambda: denoising(model, rows, None, style=False).sum()),
                (adapter.theta_e, lambda: denoising(model, rows, None, style=True).sum()),
                (adapter.theta_e, lambda: contrast(model, pair, pair, None)),
            ]
            most = max(
                peak(lambda theta=theta, loss=loss: self._step(adapter, theta, loss), [base.unet])
                for theta, loss in steps
            )
        return size_of([base.unet]) + 4 * a + 8 * (a + e) + most

    @staticmethod
    def _step(adapter: Adapter, theta: dict, loss: Callable[[], torch.Tensor]) -> None:
        parameters = list(theta.values())
        with updating(adapter, parameters):
            loss().backward()
        for parameter in parameters:
            parameter.grad = None

    def rest(self) -> list[torch.nn.Module]:
        return [self.base.vae, self.base.text_encoder, self.base.text_encoder_2, *self.base.controlnets.values()]

    def drawing(self) -> int:
        """A step of sampling under guidance and both ControlNets."""
        base, side = self.base, self.pixels
        text = Guided.of(self.prompt(1), self.prompt(1), 7.0, 1)
        picture = torch.empty(1, 3, side, side, device=META, dtype=base.dtype)
        conditions = {kind: Condition(picture, 0.5) for kind in ("tile", "canny")}
        t = torch.zeros((), dtype=torch.long, device=META)

        @torch.no_grad()
        def step() -> None:
            (window,) = sampling._windows(base, (side, side), conditions, text, 1)
            residuals = sampling._residuals(base, self.latents(), t, window, text)
            text.combined(sampling._prediction(base, self.latents(), t, window, text, residuals))

        nets = [base.unet, *base.controlnets.values()] if self.offloaded else [base.unet, *self.rest()]
        with without_values():
            return size_of(nets) + peak(step, nets)

    def decoding(self) -> int:
        base = self.base

        @torch.no_grad()
        def decode() -> None:
            base._in_tiles(self.latents(), lambda part: base.vae.decode(part).sample, encode=False)

        nets = [base.unet, base.vae] if self.offloaded else [base.unet, *self.rest()]
        with without_values():
            return size_of(nets) + peak(decode, nets)

    def planned(self) -> dict[str, int]:
        """What the preflight says of the same phases, without its allowance for the driver and the allocator."""
        kinds = tuple(self.base.controlnets)
        parts = {f"controlnet_{kind}": model.CONTROLNET_PARAMETERS for kind in kinds}
        linear = {"unet": model.SDXL_LINEAR["unet"]}
        linear |= dict.fromkeys(parts, model.SDXL_LINEAR["controlnet"])
        parameters = model.SDXL_PARAMETERS | parts
        sdxl = model.Model("sdxl", parameters, linear, model.SDXL_UNET, model.SDXL_VAE)
        recipe = dataclasses.replace(read_recipe("sdxl"), resolution=self.pixels)
        setting = memory.Setting(
            device="cuda", dtype=self.dtype, checkpointing=self.checkpointing, offloaded=self.offloaded
        )
        with mock.patch.dict(memory.PROCESS, {"cuda": 0}), mock.patch.dict(memory.ALLOCATOR, {"cuda": 1.0}):
            found = memory.learn_phases(sdxl, recipe, setting, report=False)
            found |= memory.drawing_phases(sdxl, recipe, self.pixels, setting)
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="full")
    parser.add_argument("--pixels", type=int, help="default: the size's own")
    options = parser.parse_args()
    pixels = options.pixels or SIZES[options.size].pixels
    print(
        f"torch {torch.__version__}, {options.size} size, {pixels} px; GiB of tensors alive at the peak\n", flush=True
    )
    print(f"{'setting':44} {'phase':10} {'counted':>8} {'planned':>8} {'ratio':>6}")
    settings = [("float16", False, False), ("float16", True, False), ("float16", True, True), ("int8", True, True)]
    for dtype, checkpointing, offloaded in settings:
        count = Count(options.size, pixels, dtype, checkpointing, offloaded)
        planned = count.planned() if options.size == "full" else {}
        words = [dtype, "checkpointing" * checkpointing, "offloaded" * offloaded]
        for phase in ("training", "drawing", "decoding"):
            counted = getattr(count, phase)() / 2**30
            said = planned.get(phase, planned.get("drawing", 0)) / 2**30
            compared = f"{said:8.2f} {counted / said:6.2f}" if said else ""
            print(f"{', '.join(filter(None, words)):44} {phase:10} {counted:8.2f} {compared}", flush=True)


if __name__ == "__main__":
    main()

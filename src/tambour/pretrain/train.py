"""One training stage of the UNet, its text encoder and both ControlNets, together and from scratch.

A stage runs by the clock, keeps an exponential moving average, saves a checkpoint every minute (atomic; the same
command continues) and can start warm from an earlier stage's averaged weights: a long run is a sequence of short
ones.
"""

from __future__ import annotations

import copy
import json
import math
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tambour.pretrain.data import Batch, Crops
from tambour.pretrain.model import Networks, scheduler

LONGEST_STEP = 5.0  # s; what is longer was a pause (a stopped process, a sleeping machine) and is not training


@dataclass(frozen=True)
class StagePlan:
    """One stage: how long, on what crops, under which conditions."""

    seconds: float
    batch: int = 8
    side: int = 24  # crop, latents
    rate: float = 1e-3
    final_rate: float = 5e-5
    ema: float = 0.998
    tile: float = 0.95  # probability that a batch sees the tile condition
    canny: float = 0.5
    drop_text: float = 0.1
    time_mean: float = 0.3  # timesteps: logit-normal, so that most are where stitches decide themselves
    time_std: float = 1.1
    seed: int = 0


def encode_text(networks: Networks, captions: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Captions -> what diffusers' SDXL pipeline would hear: penultimate states (B, T, d), pooled (B, d)."""
    device = next(networks.text.parameters()).device
    tokens = networks.tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids
    out = networks.text(tokens.to(device), output_hidden_states=True)
    return out.hidden_states[-2], out.text_embeds


def predict(networks: Networks, latents, t, text, time_ids, tile=None, canny=None, scales=(1.0, 1.0)) -> torch.Tensor:
    """Clean latents as the UNet sees them in `latents` at `t`, under either, both or no condition."""
    states, pooled = text
    added = {"text_embeds": pooled, "time_ids": time_ids}
    down, mid = None, None
    for net, condition, scale in ((networks.tile, tile, scales[0]), (networks.canny, canny, scales[1])):
        if condition is None:
            continue
        d, m = net(latents, t, states, condition, conditioning_scale=scale, return_dict=False)
        down, mid = (d, m) if down is None else ([a + b for a, b in zip(down, d, strict=True)], mid + m)
    return networks.unet(latents, t, states, added_cond_kwargs=added, down_block_additional_residuals=down,
                         mid_block_additional_residual=mid, return_dict=False)[0]  # fmt: skip


def loss_of(
    networks: Networks, batch: Batch, plan: StagePlan, rng: np.random.Generator, alphas: torch.Tensor
) -> torch.Tensor:
    """Squared error of the clean latents, weighted by sqrt(min(snr, 5)) (between the x0 and the noise objective)."""
    device, n = alphas.device, len(batch.captions)
    z = (rng.permutation(n) + rng.random(n)) / n  # stratified
    normal = torch.special.ndtri(torch.from_numpy(z).clamp(1e-4, 1 - 1e-4))
    share = torch.sigmoid(plan.time_mean + plan.time_std * normal)
    t = (share * len(alphas)).long().clamp(0, len(alphas) - 1).to(device)
    latents = batch.latents
    noise = torch.from_numpy(rng.standard_normal(batch.latents.shape, dtype=np.float32)).to(device)
    signal = alphas[t].view(-1, 1, 1, 1)
    noisy = signal.sqrt() * latents + (1 - signal).sqrt() * noise
    captions = ["" if rng.random() < plan.drop_text else caption for caption in batch.captions]
    tile = batch.tile if rng.random() < plan.tile else None
    canny = batch.edges if rng.random() < plan.canny else None
    out = predict(networks, noisy, t, encode_text(networks, captions), batch.time_ids, tile, canny)
    weight = (signal / (1 - signal)).clamp(0.02, 5).sqrt()
    return (weight * (out.float() - latents) ** 2).mean()


class Training:
    """All mutable state of a stage: networks, their average, the optimizer, the step and the seconds spent."""

    def __init__(self, networks: Networks, plan: StagePlan) -> None:
        self.networks, self.plan = networks, plan
        self.average = {name: copy.deepcopy(module.state_dict()) for name, module in networks.modules().items()}
        matrices, vectors = [], []
        for module in networks.modules().values():
            for parameter in module.parameters():
                (matrices if parameter.dim() > 1 else vectors).append(parameter)
        groups = [{"params": matrices, "weight_decay": 0.01}, {"params": vectors, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=plan.rate, betas=(0.9, 0.98), fused=True)
        self.step, self.spent = 0, 0.0

    def update_average(self) -> None:
        decay = min(self.plan.ema, (1 + self.step) / (20 + self.step))
        with torch.no_grad():
            for name, module in self.networks.modules().items():
                target = self.average[name]
                floats = [(target[k], v) for k, v in module.state_dict().items() if v.is_floating_point()]
                torch._foreach_lerp_([a for a, _ in floats], [b for _, b in floats], 1 - decay)

    def save(self, path: Path) -> None:
        """Write everything as one safetensors file, atomically."""
        tensors = {f"average.{n}.{k}": v for n, state in self.average.items() for k, v in state.items()}
        for n, module in self.networks.modules().items():
            tensors |= {f"model.{n}.{k}": v for k, v in module.state_dict().items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{k}": v for k, v in state.items()}
        notes = {"step": str(self.step), "spent": str(self.spent), "plan": json.dumps(asdict(self.plan))}
        rough = path.with_suffix(".tmp")
        save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, rough, metadata=notes)
        os.replace(rough, path)

    def load(self, path: Path) -> None:
        with safe_open(path, "pt") as file:
            notes = file.metadata()
            self.step, self.spent = int(notes["step"]), float(notes["spent"])
        tensors = load_file(path)
        for n, module in self.networks.modules().items():
            module.load_state_dict(
                {k[len(f"model.{n}.") :]: v for k, v in tensors.items() if k.startswith(f"model.{n}.")}
            )
            for k, v in self.average[n].items():
                v.copy_(tensors[f"average.{n}.{k}"])
        state = self.optimizer.state_dict()
        state["state"] = {}
        for k, v in tensors.items():
            if k.startswith("optimizer."):
                _, index, name = k.split(".")
                state["state"].setdefault(int(index), {})[name] = v
        self.optimizer.load_state_dict(state)

    def averaged(self) -> Networks:
        """A copy of the networks with the averaged weights, in evaluation mode."""
        nets = copy.deepcopy(self.networks)
        for name, module in nets.modules().items():
            module.load_state_dict(self.average[name])
            module.eval().requires_grad_(False)
        return nets


def load_average(path: Path, networks: Networks) -> None:
    """Start warm: a stage's averaged weights into `networks`."""
    tensors = load_file(path)
    for n, module in networks.modules().items():
        prefix = f"average.{n}."
        module.load_state_dict({k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)})


def run_stage(
    training: Training, crops: Crops, checkpoint: Path, every: float = 60.0
) -> Iterator[tuple[int, float, float]]:
    """Train until the plan's seconds are spent. Yields (step, loss, seconds spent). The clock goes on over restarts."""
    plan = training.plan
    device = next(training.networks.unet.parameters()).device
    alphas = scheduler().alphas_cumprod.to(device)
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")
    parameters = [p for m in training.networks.modules().values() for p in m.parameters()]
    last, saved = time.monotonic(), time.monotonic()
    while training.spent < plan.seconds:
        rng = np.random.default_rng([plan.seed, training.step])
        share = training.spent / plan.seconds
        rate = plan.final_rate + (plan.rate - plan.final_rate) * 0.5 * (1 + math.cos(math.pi * min(1, share)))
        for group in training.optimizer.param_groups:
            group["lr"] = rate * min(1.0, (training.step + 1) / 100)
        batch = crops.draw(rng, plan.batch, plan.side)
        with autocast:
            loss = loss_of(training.networks, batch, plan, rng, alphas)
        training.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        training.optimizer.step()
        training.step += 1
        training.update_average()
        now = time.monotonic()
        training.spent, last = training.spent + min(now - last, LONGEST_STEP), now
        if now - saved > every or training.spent >= plan.seconds:
            training.save(checkpoint)
            saved = time.monotonic()
        yield training.step, float(loss.detach()), training.spent

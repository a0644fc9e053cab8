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
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from diffusers.models.attention_processor import AttnProcessor
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from pretraining.data import Batch, Crops, precision
from pretraining.model import Networks, build, read_tokenizer, scheduler
from pretraining.muon import Muon
from pretraining.objective import draw_noise, draw_times, velocity_loss

_ENDS = ("embedding", "conv_in", "conv_out", "cond_embedding", "text_projection")  # Adam's, as is usual with Muon
LONGEST_STEP = 5.0  # s; what is longer was a pause (a stopped process, a sleeping machine) and is not training


@dataclass(frozen=True)
class StagePlan:
    """One stage: how long, on what crops, under which conditions."""

    seconds: float
    tokens: int = 8192  # latent positions a step and process; a batch has as many crops as that holds
    sides: tuple[tuple[int, ...], ...] = ((16, 16, 32), (24, 32), (24, 32, 64))  # of crops, latents: one
    # row after the other, each for its share of the time; every step draws one number of the row
    rate: float = 2e-3
    final_rate: float = 5e-5
    ema: float = 0.998
    tile: float = 0.95  # probability that a batch sees the tile condition
    canny: float = 0.5
    drop_text: float = 0.1
    time_mean: float = 0.3  # timesteps: logit-normal, so that most are where stitches decide themselves
    time_std: float = 1.1
    early: float = 0.25  # share of timesteps in the noisiest fifth: sampling starts there, colours are decided there
    last: float = 0.08  # share of the very last timestep, pure noise
    seed: int = 0


def encode_text(networks: Networks, captions: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Captions -> what diffusers' SDXL pipeline would hear: penultimate states (B, T, d), pooled (B, d)."""
    device = next(networks.text.parameters()).device
    tokens = networks.tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids
    out = networks.text(tokens.to(device), output_hidden_states=True)
    return out.hidden_states[-2], out.text_embeds


def predict(networks: Networks, latents, t, text, time_ids, tile=None, canny=None, scales=(1.0, 1.0)) -> torch.Tensor:
    """v = sqrt(a) noise - sqrt(1 - a) clean, as the UNet sees it in `latents` at `t`; each condition may be None."""
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


def with_conditions(batch: Batch, plan: StagePlan, rng: np.random.Generator) -> Batch:
    """The batch with each condition as often as planned; all its crops, and all processes, agree."""
    tile, canny = rng.random(2)
    return replace(
        batch, tile=batch.tile if tile < plan.tile else None, edges=batch.edges if canny < plan.canny else None
    )


def loss_of(
    networks: Networks, batch: Batch, plan: StagePlan, rng: np.random.Generator, alphas: torch.Tensor
) -> torch.Tensor:
    """`objective.velocity_loss` of a batch of crops; some captions are left out, by the plan's share."""
    device = alphas.device
    t = draw_times(len(batch.captions), plan, rng, len(alphas)).to(device)
    noise = draw_noise(batch.latents, rng)
    captions = ["" if rng.random() < plan.drop_text else caption for caption in batch.captions]

    def velocity(noisy: torch.Tensor) -> torch.Tensor:
        return predict(networks, noisy, t, encode_text(networks, captions), batch.time_ids, batch.tile, batch.edges)

    return velocity_loss(velocity, batch.latents, noise, t, alphas)


def rate_at(plan: StagePlan, share: float) -> float:
    """The learning rate once `share` of the time is spent, before it is warmed up: half a cosine."""
    return plan.final_rate + (plan.rate - plan.final_rate) * 0.5 * (1 + math.cos(math.pi * min(1, share)))


class Training:
    """All mutable state of a stage: networks, their average, the optimizer, the step and the seconds spent."""

    def __init__(self, networks: Networks, plan: StagePlan, *, capturable: bool = False) -> None:
        """`capturable`: its steps are recorded as CUDA graphs (`pretraining.resident`)."""
        self.networks, self.plan = networks, plan
        self.average = {name: copy.deepcopy(module.state_dict()) for name, module in networks.modules().items()}
        matrices, others = [], []
        for module in networks.modules().values():
            for name, parameter in module.named_parameters():
                hidden = parameter.dim() > 1 and not any(part in name for part in _ENDS)
                (matrices if hidden else others).append(parameter)
        self.parameters = [*matrices, *others]
        self.optimizers = {
            "muon": Muon(matrices, lr=plan.rate),
            "adam": torch.optim.AdamW(
                others, lr=plan.rate, betas=(0.9, 0.98), weight_decay=0.0, fused=True, capturable=capturable
            ),
        }
        self.step, self.spent = 0, 0.0

    def set_rate(self) -> float:
        """Set the learning rate by the share of the time that is spent, and return that share."""
        share = self.spent / self.plan.seconds
        rate = rate_at(self.plan, share)
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = rate * min(1.0, (self.step + 1) / 100)
        return share

    def take_step(self) -> None:
        """Clip the gradients that were gathered, and follow them."""
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        for optimizer in self.optimizers.values():
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.update_average()

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
        for name, optimizer in self.optimizers.items():
            for index, state in optimizer.state_dict()["state"].items():
                tensors |= {f"optimizer.{name}.{index}.{k}": v for k, v in state.items()}
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
        states = {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()}
        for k, v in tensors.items():
            if k.startswith("optimizer."):
                _, name, index, key = k.split(".")
                states[name]["state"].setdefault(int(index), {})[key] = v
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(states[name])

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


def _average_over_processes(parameters: list[torch.nn.Parameter], seconds: float) -> float:
    """Average gradients, and the seconds this step took, over all processes of a stage; the averaged seconds."""
    if not dist.is_initialized():
        return seconds
    wanted = [p for p in parameters if p.grad is not None]
    flat = torch.cat([*(p.grad.flatten() for p in wanted), torch.tensor([seconds])])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    parts = flat[:-1].split([p.numel() for p in wanted])
    torch._foreach_copy_([p.grad for p in wanted], [a.view_as(p) for a, p in zip(parts, wanted, strict=True)])
    return float(flat[-1])


def run_stage(
    training: Training, crops: Crops, checkpoint: Path, every: float = 60.0
) -> Iterator[tuple[int, float, float]]:
    """Train until the plan's seconds are spent. Yields (step, loss, seconds spent). The clock goes on over restarts.

    Where a process group is open, its processes draw different crops and share their gradients; the first one saves.
    """
    plan = training.plan
    device = next(training.networks.unet.parameters()).device
    rank, processes = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    alphas = scheduler().alphas_cumprod.to(device)
    dtype = precision(device)
    if device.type == "cpu":  # the fused attention's backward pass is slow there, in bfloat16 above all
        training.networks.unet.set_attn_processor(AttnProcessor())
        training.networks.text.set_attn_implementation("eager")
    last, saved = time.monotonic(), time.monotonic()
    while training.spent < plan.seconds:
        share = training.set_rate()
        common, rng = (np.random.default_rng([plan.seed, training.step, who]) for who in (processes, rank))
        row = plan.sides[min(int(share * len(plan.sides)), len(plan.sides) - 1)]
        side = row[int(common.integers(len(row)))]
        batch = with_conditions(crops.draw(rng, max(1, plan.tokens // side**2), side), plan, common)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            loss = loss_of(training.networks, batch, plan, rng, alphas)
        loss.backward()
        now = time.monotonic()
        training.spent += _average_over_processes(training.parameters, min(now - last, LONGEST_STEP))
        last = now
        training.take_step()
        if rank == 0 and (now - saved > every or training.spent >= plan.seconds):
            training.save(checkpoint)
            saved = now
        yield training.step, float(loss.detach()), training.spent


def run_processes(work: Path, name: str, plan: StagePlan, start: str | None, device: torch.device, count: int) -> None:
    """Train stage `name` of a work folder in `count` processes that share its batches; prints as it goes.

    On a CPU two processes of one thread each use what is free, where two threads of one would wait for each other.
    """
    if count == 1:
        return _process(0, work, name, plan, start, device, 1, None)
    meeting = work / f".meeting-{os.getpid()}"
    torch.multiprocessing.spawn(_process, (work, name, plan, start, device, count, meeting), count)
    meeting.unlink(missing_ok=True)


def _process(rank, work, name, plan, start, device, count, meeting) -> None:
    if meeting:
        torch.set_num_threads(max(1, os.cpu_count() // count))
        dist.init_process_group("gloo", init_method=f"file://{meeting.resolve()}", rank=rank, world_size=count)
    networks = build(read_tokenizer(work))
    if start:
        load_average(work / f"{start}.safetensors", networks)
    training = Training(networks.to(device), plan)
    checkpoint = work / f"{name}.safetensors"
    if checkpoint.exists():
        training.load(checkpoint)
    crops = Crops(work / "crops", device)
    mean, first, began = None, training.step, time.monotonic()
    for step, loss, spent in run_stage(training, crops, checkpoint):
        mean = loss if mean is None else 0.98 * mean + 0.02 * loss
        if rank == 0 and step % 50 == 0:
            rate = (step - first) * plan.tokens * count / (time.monotonic() - began)
            line = f"{name} step {step}  loss {mean:.4f}  {spent:.0f}/{plan.seconds:.0f} s  {rate:.0f} tokens/s"
            print(line, flush=True)
    if meeting:
        dist.destroy_process_group()

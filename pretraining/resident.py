"""A stage for one large GPU: the corpus lives on it, and a whole training step is one CUDA graph.

Mini's layers are so small that a step launched kernel by kernel waits for the processor. Here everything that a step
does (drawing crops, times and noise, both passes, clipping, the optimizers, the average) is recorded once for every
side of crops and then replayed. The corpus grows meanwhile: pictures are taken in as other processes render them. The
text encoder stays as it is, so that captions are encoded once. On a CPU the step runs as it is written, for rehearsal.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
from diffusers import AutoencoderTiny
from torch import nn

from pretraining.autoencoder import CHANNELS, FACTOR
from pretraining.corpus import SHARD, SIZE
from pretraining.data import SHOWN, TILE_KERNEL, Corpus, edges, precision, read_shard, shards, to_tensor
from pretraining.model import TEXT_WIDTH, TOKENS, Networks, scheduler
from pretraining.objective import draw_times_on, velocity_loss
from pretraining.train import StagePlan, Training, encode_text, predict, rate_at

BLUR = cv2.getGaussianKernel(TILE_KERNEL, 0).astype(np.float32)


class Corpora:
    """Up to `room` pictures on the device, with everything that crops of them need."""

    def __init__(
        self, room: int, networks: Networks, vae: AutoencoderTiny, device: torch.device, size: int = SIZE
    ) -> None:
        """`size`: px of the square pictures."""

        def empty(*shape: int, dtype: torch.dtype) -> torch.Tensor:
            return torch.empty(room, *shape, dtype=dtype, device=device)

        self.networks, self.vae, self.device, self.room, self.count = networks, vae, device, room, 0
        self.side = size // FACTOR
        self.latents = empty(self.side, self.side, CHANNELS, dtype=torch.float16)
        self.tile = empty(size, size, 3, dtype=torch.uint8)
        self.edges = empty(size, size, dtype=torch.uint8)
        self.covered = empty(self.side + 1, self.side + 1, dtype=torch.float32)  # sums: a crop's share is four of them
        self.states = empty(TOKENS, TEXT_WIDTH, dtype=torch.float16)
        self.pooled = empty(TEXT_WIDTH, dtype=torch.float16)
        self.ready = torch.zeros((), device=device)  # pictures that may be drawn
        with torch.no_grad():
            self.wordless = encode_text(networks, [""])

    @torch.no_grad()
    def add(self, part: Corpus) -> None:
        """Take in pictures, as many as there is room for."""
        size = min(len(part), self.room - self.count)
        if size == 0:
            return
        at = slice(self.count, self.count + size)
        row = torch.from_numpy(BLUR).to(self.device)
        # Few large operations: a small one waits long beside a graph that keeps the device busy.
        pictures, designs = (to_tensor(pixels[:size]).to(self.device) for pixels in (part.picture, part.design))
        latents = self.vae.encode(pictures).latents * self.vae.config.scaling_factor
        self.latents[at] = latents.permute(0, 2, 3, 1)
        wide = nn.functional.pad(designs.flatten(0, 1)[:, None], (TILE_KERNEL // 2,) * 4, mode="reflect")
        blurred = nn.functional.conv2d(nn.functional.conv2d(wide, row[None, None]), row.T[None, None])
        self.tile[at] = blurred.view_as(designs).permute(0, 2, 3, 1).add(1).mul(127.5).round().byte()
        self.edges[at] = torch.from_numpy(np.stack([edges(design) for design in part.design[:size]])).to(self.device)
        stitched = part.stitched[:size, FACTOR // 2 :: FACTOR, FACTOR // 2 :: FACTOR].astype(np.float32)
        summed = np.pad(stitched, ((0, 0), (1, 0), (1, 0))).cumsum(1).cumsum(2)
        self.covered[at] = torch.from_numpy(summed).to(self.device)
        states, pooled = encode_text(self.networks, [str(c) for c in part.caption[:size]])
        self.states[at], self.pooled[at] = states.half(), pooled.half()
        self.count += size

    def draw(self, size: int, side: int) -> tuple[torch.Tensor, ...]:
        """`size` crops of `side` latents: latents (B, c, s, s), tile and edges (B, 3, f s, f s) in [0, 1], the states
        (B, T, d) and pooled states (B, d) of their captions. All chances are the device's."""
        chance = torch.rand(3, 4, size, device=self.device)
        n = torch.minimum((chance[0] * self.ready).long(), self.ready.long() - 1)
        free = self.side - side
        y, x = (chance[1:] * (free + 1)).long().clamp(max=free)
        c = self.covered
        area = c[n, y + side, x + side] - c[n, y, x + side] - c[n, y + side, x] + c[n, y, x]
        first = (area > SHOWN * side**2).float().argmax(0, keepdim=True)
        n, y, x = (value.gather(0, first)[0] for value in (n, y, x))
        steps = torch.arange(side, device=self.device)
        latents = self.latents[n[:, None, None], (y[:, None] + steps)[:, :, None], (x[:, None] + steps)[:, None]]
        pixels = torch.arange(side * FACTOR, device=self.device)
        rows, columns = (FACTOR * y[:, None] + pixels)[:, :, None], (FACTOR * x[:, None] + pixels)[:, None]
        tile = self.tile[n[:, None, None], rows, columns].permute(0, 3, 1, 2).float().div(255)
        lines = self.edges[n[:, None, None], rows, columns].float().div(255)[:, None].expand(-1, 3, -1, -1)
        return latents.permute(0, 3, 1, 2).float(), tile, lines, self.states[n].float(), self.pooled[n].float()


class Stage:
    """A training whose steps draw from `corpora`; what a step does depends on numbers on the device alone."""

    def __init__(self, networks: Networks, corpora: Corpora, plan: StagePlan) -> None:
        networks.text.requires_grad_(False)
        self.training = Training(networks, plan, capturable=corpora.device.type == "cuda")
        self.corpora, self.plan, self.device = corpora, plan, corpora.device
        self.rate = torch.zeros((), device=self.device)
        for optimizer in self.training.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = self.rate
        self.alphas = scheduler().alphas_cumprod.to(self.device)
        self.loss = torch.zeros((), device=self.device)  # summed over steps
        self.parameters = [p for p in self.training.parameters if p.requires_grad]
        self.averages = [
            (self.training.average[name][key], value)
            for name, module in networks.modules().items()
            for key, value in module.state_dict().items()
            if value.is_floating_point()
        ]

    def _loss(self, size: int, side: int) -> torch.Tensor:
        """`objective.velocity_loss` where every crop of a batch has conditions of its own."""
        plan, networks = self.plan, self.training.networks
        latents, tile, lines, states, pooled = self.corpora.draw(size, side)
        t = draw_times_on(self.device, size, plan, len(self.alphas))
        noise = torch.randn_like(latents)
        chance = torch.rand(4, size, device=self.device)
        silent = chance[0] < plan.drop_text
        states = torch.where(silent[:, None, None], self.corpora.wordless[0], states)
        pooled = torch.where(silent[:, None], self.corpora.wordless[1], pooled)
        # Where the tile condition is missing edges are seldom missing too: so are sketches drawn.
        tiled = chance[1] < plan.tile
        lined = torch.where(tiled, chance[2] < plan.canny, chance[2] < 0.75)
        scales = [known.float().view(-1, 1, 1, 1) for known in (tiled, lined)]
        sizes = 64 * torch.floor(4 + 13 * chance[3])
        ids = torch.stack([sizes, sizes, 0 * sizes, 0 * sizes, sizes, sizes], 1)

        def velocity(noisy: torch.Tensor) -> torch.Tensor:
            return predict(networks, noisy, t, (states, pooled), ids, tile, lines, scales)

        return velocity_loss(velocity, latents, noise, t, self.alphas)

    def step(self, size: int, side: int) -> None:
        """One update; nothing in it waits for the device."""
        dtype = precision(self.device)
        with torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32, cache_enabled=False):
            loss = self._loss(size, side)
        loss.backward()
        self.loss.add_(loss.detach())
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        for optimizer in self.training.optimizers.values():
            optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(*map(list, zip(*self.averages, strict=True)), 1 - self.plan.ema)

    def recorded(self, side: int) -> Callable[[], None]:
        """A step on crops of `side` latents: on a GPU a graph that is replayed. Leaves the weights as they were."""
        size = max(1, self.plan.tokens // side**2)

        def fresh() -> None:
            for parameter in self.parameters:
                parameter.grad = None
            self.step(size, side)

        self.rate.zero_()
        if self.device.type != "cuda":
            return fresh
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(3):
                fresh()
        torch.cuda.current_stream().wait_stream(aside)
        for parameter in self.parameters:
            parameter.grad = None
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.step(size, side)
        return graph.replay

    def keep(self) -> list[torch.Tensor]:
        """A copy of the averaged weights."""
        return [average.clone() for average, _ in self.averages]

    @torch.no_grad()
    def restore(self, snapshot: list[torch.Tensor]) -> None:
        """Go back to a snapshot's weights, with no memory of what came after."""
        for (average, value), old in zip(self.averages, snapshot, strict=True):
            average.copy_(old)
            value.copy_(old)
        for optimizer in self.training.optimizers.values():
            for state in optimizer.state.values():
                for value in state.values():
                    value.zero_()


def feed(corpora: Corpora, folder: Path, seen: set[Path], stop: threading.Event) -> None:
    """Take in the shards of `folder` but `seen` as they appear, on a stream of their own, until the room is filled."""
    aside = torch.cuda.Stream() if corpora.device.type == "cuda" else None
    while not stop.is_set() and corpora.count < corpora.room:
        path = next((path for path in shards(folder) if path not in seen), None)
        if path is None:
            stop.wait(0.2)
            continue
        seen.add(path)
        with torch.cuda.stream(aside):  # None: the stream that is
            corpora.add(read_shard(path))
            if aside:
                aside.synchronize()
            corpora.ready.fill_(corpora.count)


def run(
    networks: Networks, vae: AutoencoderTiny, folder: Path, plan: StagePlan, *, room: int, least: int, each: int = 50
) -> Iterator[tuple[int, float, float, int]]:
    """Train on the shards of `folder`, which may still be growing, for the plan's seconds, the waiting counted.

    Leaves the averaged weights in `networks`. Where the loss is no number it goes back to the last average, at half the
    rate. Yields every `each` steps: steps, mean loss, seconds, pictures.

    Args:
        room: pictures to keep on the device at most. least: pictures to wait for before the first step.
    """
    began, device = time.monotonic(), networks.unet.device
    while len(first := shards(folder)) * SHARD < least:
        if time.monotonic() - began > plan.seconds:
            raise TimeoutError(
                f"{folder} has no {least} pictures after {plan.seconds:.0f} s: see what the rendering said."
            )
        time.sleep(0.2)
    torch.manual_seed(plan.seed)
    parts = [read_shard(path) for path in first]
    corpora = Corpora(room, networks, vae, device, parts[0].picture.shape[1])
    for part in parts:
        corpora.add(part)
    corpora.ready.fill_(corpora.count)
    stage = Stage(networks, corpora, plan)
    steps = {side: stage.recorded(side) for side in sorted({side for row in plan.sides for side in row})}
    stop = threading.Event()
    feeder = threading.Thread(target=feed, args=(corpora, folder, set(first), stop), name="feed", daemon=True)
    feeder.start()
    rng, number, factor = np.random.default_rng(plan.seed), 0, 1.0
    snapshot = older = stage.keep()  # a step whose loss is a number may have spoilt the weights already
    stage.loss.zero_()
    start = time.monotonic() - began
    while (spent := time.monotonic() - began) < plan.seconds:
        share = (spent - start) / (plan.seconds - start)
        row = plan.sides[min(int(share * len(plan.sides)), len(plan.sides) - 1)]
        rate = factor * rate_at(plan, share)
        for _ in range(each):
            number += 1
            stage.rate.fill_(rate * min(1.0, number / 200))
            steps[row[int(rng.integers(len(row)))]]()
        mean = float(stage.loss) / each
        stage.loss.zero_()
        if math.isfinite(mean):
            snapshot, older = stage.keep(), snapshot
        else:
            stage.restore(older)
            snapshot, factor = older, 0.5 * factor
        yield number, mean, time.monotonic() - began, corpora.count
    stop.set()
    feeder.join()
    stage.restore(snapshot)

"""What a run needs around its training: a folder that is its own, a clock, and room on the GPU."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import torch

from tambour.base import Base
from tambour.errors import InputError


class Clock:
    """Seconds spent between laps, by name."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.monotonic()

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self.laps[name], self._last = round(now - self._last, 2), now


@contextmanager
def unet_alone(base: Base, tile: bool) -> Iterator[Callable[[], AbstractContextManager[None]]]:
    """While open, only the UNet (and ControlNet-Tile, if `tile`) stays on the GPU; what it gives brings all back."""
    controls = [net for kind, net in base.controlnets.items() if not (kind == "tile" and tile)]
    idle = [net for net in (base.vae, base.text_encoder, base.text_encoder_2, *controls) if net is not None]

    def move(device: torch.device | str) -> None:
        for net in idle:
            net.to(device)

    @contextmanager
    def everything():
        move(base.device)
        try:
            yield
        finally:
            move("cpu")

    move("cpu")
    try:
        yield everything
    finally:
        move(base.device)


def claim(work: Path, plan: Mapping) -> None:
    """Make the work folder, or check that it is this run's.

    Raises:
        InputError: it belongs to a run with other inputs, numbers or base.
    """
    plan = json.loads(json.dumps(plan))
    path = work / "plan.json"
    if path.exists():
        found = json.loads(path.read_text())
        other = sorted(key for key in plan.keys() | found.keys() if plan.get(key) != found.get(key))
        if other:
            raise InputError(
                f"{work} holds unfinished work that differs in: {', '.join(other)}.", "Use another folder or delete it."
            )
        return
    work.mkdir(parents=True, exist_ok=True)
    write_json(path, plan)


def write_json(path: Path, values: object) -> None:
    """Whole or not at all; floats come back as they were."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(values))
    os.replace(temporary, path)

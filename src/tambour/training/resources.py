"""What a run needs around its training: room on the GPU, the right number of threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import torch

from tambour.base import Base

SMALL = 48 * 48  # latents in a pass; measured on two cores: up to here a second thread brings nothing


@contextmanager
def few_threads(base: Base, window: tuple[int, int], rows: int = 1) -> Iterator[None]:
    """While open, a base on the CPU uses one thread if a pass over `rows` crops of `window` (px) is little work.

    More threads save no time there, and each waits for whatever else the machine does: beside one busy process two
    threads were twenty times slower than one.
    """
    before = torch.get_num_threads()
    small = rows * window[0] * window[1] <= SMALL * base.vae_factor**2
    if base.device.type == "cpu" and small:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def unet_alone(base: Base, control: str) -> Iterator[Callable[[], AbstractContextManager[None]]]:
    """While open, only the UNet and the ControlNet of kind `control` ("": none) are on the GPU.

    Yields a context manager: while that one is open, everything is there.
    """
    nets = {kind: net for kind, net in base.controlnets.items() if kind != control}
    idle = [net for net in (base.vae, base.text_encoder, base.text_encoder_2, *nets.values()) if net is not None]
    if base.offloaded:  # they are in the computer's memory already, see `Base.on_device`
        idle = []
    used = [base.controlnets[control]] if control else []

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
        with base.on_device(*used):
            yield everything
    finally:
        move(base.device)

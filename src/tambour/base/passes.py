"""How often a step runs a base's networks. Steps declare it beside their code, and the preflight adds it up."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Passes:
    """What one step runs.

    Attributes:
        rows: latents in each pass.
        forward: passes of the UNet.
        backward: those of them that gradients flow back through, all alive at once.
        controlnet: passes of each ControlNet in use.
    """

    rows: int
    forward: int
    backward: int = 0
    controlnet: int = 0

"""Muon: momentum whose update is orthogonalised, for the matrices and convolutions of a network trained from scratch.

After Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024); the step is scaled to the root
mean square of an AdamW step, so that both share learning rate and weight decay (Liu et al., arXiv 2502.16982).
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic iteration that drives all singular values towards 1


def orthogonalised(matrix: torch.Tensor, iterations: int = 5) -> torch.Tensor:
    """The nearest (semi-)orthogonal matrix, roughly: singular values land in about [0.7, 1.2]. (m, n) bfloat16."""
    a, b, c = _COEFFICIENTS
    x = matrix.bfloat16()
    if tall := x.shape[0] > x.shape[1]:
        x = x.T
    x = x / (x.norm() + 1e-7)
    for _ in range(iterations):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if tall else x


class Muon(torch.optim.Optimizer):
    """Muon on parameters of two or more dimensions; convolutions are taken as (out, in * kh * kw) matrices."""

    def __init__(
        self, parameters: Iterable[torch.nn.Parameter], lr: float, momentum: float = 0.95, weight_decay: float = 0.01
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:
        """One update of every parameter that has a gradient; the processes of a group share the orthogonalising."""
        rank, processes = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        for group in self.param_groups:
            wanted = [parameter for parameter in group["params"] if parameter.grad is not None]
            updates = []
            for number, parameter in enumerate(wanted):
                state = self.state[parameter]
                if not state:
                    state["momentum"] = torch.zeros_like(parameter)
                moment = state["momentum"].lerp_(parameter.grad, 1 - group["momentum"])
                if number % processes == rank:
                    ahead = parameter.grad.lerp(moment, group["momentum"])  # Nesterov
                    updates.append(orthogonalised(ahead.flatten(1)))
                else:
                    updates.append(torch.zeros_like(parameter.flatten(1), dtype=torch.bfloat16))
            if processes > 1:
                flat = torch.cat([update.flatten() for update in updates])
                dist.all_reduce(flat)
                updates = flat.split([update.numel() for update in updates])
            for parameter, update in zip(wanted, updates, strict=True):
                scale = 0.2 * max(parameter.flatten(1).shape) ** 0.5
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(update.view_as(parameter), alpha=-group["lr"] * scale)

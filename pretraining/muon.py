"""Muon: momentum whose update is orthogonalised, for the matrices and convolutions of a network trained from scratch.

After Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024); the step is scaled to the root
mean square of an AdamW step, so that both share learning rate and weight decay (Liu et al., arXiv 2502.16982).
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic iteration that drives all singular values towards 1


def orthogonalised(matrices: torch.Tensor, iterations: int = 5) -> torch.Tensor:
    """The nearest (semi-)orthogonal matrices, roughly: singular values in about [0.7, 1.2]. (..., m, n) bfloat16."""
    a, b, c = _COEFFICIENTS
    x = matrices.bfloat16()
    if tall := x.shape[-2] > x.shape[-1]:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(iterations):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Muon on parameters of two or more dimensions; convolutions are taken as (out, in * kh * kw) matrices.

    Matrices of one shape are orthogonalised together. The learning rate may be a tensor.
    """

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
            if not wanted:
                continue
            for parameter in wanted:
                if not self.state[parameter]:
                    self.state[parameter]["momentum"] = torch.zeros_like(parameter)
            grads, moments = [p.grad for p in wanted], [self.state[p]["momentum"] for p in wanted]
            torch._foreach_lerp_(moments, grads, 1 - group["momentum"])
            ahead = torch._foreach_lerp(grads, moments, group["momentum"])  # Nesterov
            updates = [  # other processes make theirs
                None if number % processes == rank else torch.zeros_like(grad, dtype=torch.bfloat16)
                for number, grad in enumerate(grads)
            ]
            alike: dict[torch.Size, list[int]] = {}
            for number in range(rank, len(wanted), processes):
                alike.setdefault(ahead[number].flatten(1).shape, []).append(number)
            for numbers in alike.values():
                made = orthogonalised(torch.stack([ahead[number].flatten(1) for number in numbers]))
                for number, update in zip(numbers, made, strict=True):
                    updates[number] = update.reshape(grads[number].shape)
            if processes > 1:
                flat = torch.cat([update.flatten() for update in updates])
                dist.all_reduce(flat)
                updates = [
                    part.view_as(grad) for part, grad in zip(flat.split([g.numel() for g in grads]), grads, strict=True)
                ]
            scaled = [u.float() * (0.2 * max(u.flatten(1).shape) ** 0.5 * group["lr"]) for u in updates]
            torch._foreach_mul_(wanted, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_sub_(wanted, scaled)

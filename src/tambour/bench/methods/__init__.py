"""Ours, its ablations and every rival, one signature (`task.Method`).

Every trained method has the same base, the recipe's rank, targets and learning rate, and as many gradient updates as
ours; every picture drawn with a model has the same colour correction, where the setting of the edges has it.
"""

from __future__ import annotations

from collections.abc import Sequence

from tambour.bench.methods import bounds, classical, guided, lora, ours, pair
from tambour.bench.methods.task import Method
from tambour.errors import InputError

VERSION = 10  # raise it when a method draws other pictures than before: kept results are then made again

METHODS: tuple[Method, ...] = (*ours.METHODS, *lora.METHODS, *pair.METHODS, *guided.METHODS, *classical.METHODS,
                               *bounds.METHODS)  # fmt: skip
MAIN = ("ours", "ours-noise", "ours-guide", "no-lora", "stitches-alone", "paper", "dreambooth", "b-lora", "pair",
        "styleid", "analogies", "transport", "quilting", "renderer", "unstyled", "truth")  # fmt: skip


def pick(names: Sequence[str] | None) -> tuple[Method, ...]:
    """The methods named, in the table's order; None: all.

    Raises:
        InputError: one is not known.
    """
    known = [method.name for method in METHODS]
    for name in names or ():
        if name not in known:
            raise InputError(f"There is no method {name!r}.", f"Allowed: {', '.join(known)}.")
    return tuple(method for method in METHODS if names is None or method.name in names)

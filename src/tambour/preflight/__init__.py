"""Preflight: what `learn` and `apply` will need on this machine, estimated before anything is loaded.

Everything is worked out from configurations, the headers of weight files (`model`) and the passes that the steps of a
run declare (`work`, `memory`). Where a run does not fit, a leaner setting with the same result is picked, and the plan
says so: gradient checkpointing, then `offloaded` parts (see `Base`). Another precision changes a style a little: it is
picked only where the user chose no numbers of his own. Where nothing fits the run is refused: a GPU that spills into
the computer's memory crawls, and a computer that swaps does not answer any more.
"""

from tambour.preflight.machine import GIB
from tambour.preflight.model import inspect_base
from tambour.preflight.plan import Plan, plan_apply, plan_learn, settled

__all__ = ["GIB", "Plan", "inspect_base", "plan_apply", "plan_learn", "settled"]

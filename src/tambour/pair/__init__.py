"""Photo -> aligned (design, embroidery) pair: `flat` needs no model, `diffusion` is the paper's route."""

from tambour.pair.flat import Pair, make_design

__all__ = ["Pair", "make_design"]

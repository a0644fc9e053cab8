"""Base models: one contract for every text-to-image model of SDXL's shape, the bundled `mini` included."""

from tambour.base.quiet import quiet

with quiet():  # transformers announces every optional package that is absent
    from tambour.base.loader import load
    from tambour.base.model import Base, Prompt, base_only
    from tambour.base.seeds import generator

__all__ = ["Base", "Prompt", "base_only", "generator", "load"]

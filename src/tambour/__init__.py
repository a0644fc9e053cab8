"""Show any embroidery before it is made: learn an embroidery's look from one photo, apply it to any design.

    style = tambour.learn("photo.jpg", "style.safetensors")
    results = tambour.apply("style.safetensors", ["fox.svg", "rose.png"])
    results[0].image.save("fox.png")

Importing this loads neither torch nor a model; the functions do. Three of them share their name with a module:
`tambour.apply`, `tambour.pair` and `tambour.stitch` are always the functions, and what the modules hold is imported
from them (`from tambour.stitch import render`).
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Literal, TypeVar

if TYPE_CHECKING:
    from PIL.Image import Image

    from tambour.analysis.similarity import Similarity
    from tambour.apply import Result
    from tambour.base import Base
    from tambour.config import Recipe
    from tambour.pair.flat import Pair
    from tambour.progress import Progress
    from tambour.stitch import Fabric, Rendered, Stitch
    from tambour.style import Style

__all__ = ["apply", "blocks", "imagine", "inspect", "learn", "pair", "stitch"]
__version__ = "0.1.0"

Source = "str | Path | Image"
Watch = "Callable[[Progress], None] | None"
T = TypeVar("T")


class _Package(ModuleType):
    """This package: importing a submodule does not hide the function of the same name."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in __all__ and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package

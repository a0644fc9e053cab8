"""Pixels and millimetres."""

from __future__ import annotations

from tambour.errors import InputError

PX_PER_MM = 20.0  # the scale at which the base model sees stitches; where nobody says how large a picture is


def px_per_mm(size: int, mm: float | None) -> float:
    """Pixels a millimetre of a picture whose longer side is `size` px and `mm` millimetres; None: `PX_PER_MM`.

    Raises:
        InputError: `mm` is not above 0.
    """
    if mm is not None and not mm > 0:
        raise InputError(f"A size of {mm} mm is not possible.", "It must be above 0.")
    return PX_PER_MM if mm is None else size / mm

"""Procedural embroidery: flat art -> regions -> threads in mm -> a lit picture. numpy and OpenCV only."""

from tambour.stitch.parameters import (
    FABRICS,
    FAMILIES,
    Fabric,
    Light,
    Stitch,
    default_stitch,
    describe,
    sample_fabric,
    sample_stitch,
    stitch_values,
)
from tambour.stitch.render import Rendered, render

__all__ = ["FABRICS", "FAMILIES", "Fabric", "Light", "Rendered", "Stitch", "default_stitch", "describe", "render",
           "sample_fabric", "sample_stitch", "stitch_values"]  # fmt: skip

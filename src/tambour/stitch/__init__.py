"""Procedural embroidery: flat art -> regions -> threads in mm -> a lit picture. numpy and OpenCV only."""

from tambour.stitch.camera import Camera, photograph, sample_camera
from tambour.stitch.parameters import (
    FABRICS,
    FAMILIES,
    Fabric,
    Light,
    Stitch,
    default_stitch,
    describe,
    sample_fabric,
    sample_lights,
    sample_stitch,
    stitch_values,
)
from tambour.stitch.render import Rendered, render

__all__ = ["FABRICS", "FAMILIES", "Camera", "Fabric", "Light", "Rendered", "Stitch", "default_stitch", "describe",
           "photograph", "render", "sample_camera", "sample_fabric", "sample_lights", "sample_stitch",
           "stitch_values"]  # fmt: skip

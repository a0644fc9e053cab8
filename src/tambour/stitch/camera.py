"""A clean rendering -> what a camera makes of it: lens, sensor, JPEG."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image

from tambour.errors import InputError


@dataclass(frozen=True)
class Camera:
    """How a picture is taken; the default changes nothing.

    Attributes:
        blur: px, deviation of the lens' Gaussian.
        noise: levels of 255, deviation of the sensor's noise in mid grey; shadows have less.
        quality: JPEG quality, 10 to 100; None: no JPEG.
        vignette: 0 to 1, how much darker the corners are.
    """

    blur: float = 0.0
    noise: float = 0.0
    quality: int | None = None
    vignette: float = 0.0

    def __post_init__(self) -> None:
        for name, low, high in (("blur", 0, 20), ("noise", 0, 40), ("vignette", 0, 1), ("quality", 10, 100)):
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise InputError(f"Camera {name} {value!r} is out of range.", f"Give a number from {low} to {high}.")


def photograph(image: Image.Image, camera: Camera, seed: int = 0) -> Image.Image:
    """Take a picture of an RGB rendering; the same seed gives the same picture, bit for bit."""
    pixels = np.asarray(image.convert("RGB"))
    height, width = pixels.shape[:2]
    if camera.blur > 0:
        pixels = cv2.GaussianBlur(pixels, (0, 0), camera.blur)
    if camera.noise > 0 or camera.vignette > 0:
        light = pixels.astype(np.float32)
        if camera.vignette > 0:
            y, x = np.linspace(-1, 1, height, dtype=np.float32), np.linspace(-1, 1, width, dtype=np.float32)
            light *= (1 - np.float32(0.25 * camera.vignette) * (y[:, None] ** 2 + x[None] ** 2))[..., None]
        if camera.noise > 0:
            rng = np.random.default_rng([seed, 0xCA3E])
            grain = rng.standard_normal((height, width, 1), dtype=np.float32) + np.float32(0.4) * rng.standard_normal(
                light.shape, dtype=np.float32
            )
            light += np.float32(camera.noise / 1.08) * np.sqrt(light / 128 + np.float32(0.1)) * grain
        pixels = cv2.convertScaleAbs(np.maximum(light, 0))
    if camera.quality is not None:
        _, stream = cv2.imencode(".jpg", pixels[..., ::-1], (cv2.IMWRITE_JPEG_QUALITY, int(camera.quality)))
        pixels = cv2.imdecode(stream, cv2.IMREAD_COLOR)[..., ::-1]
    return Image.fromarray(np.ascontiguousarray(pixels))


def sample_camera(rng: np.random.Generator) -> Camera:
    """Draw a camera: half of them nearly perfect, the others soft, grainy or compressed."""
    if rng.random() < 0.5:
        return Camera(quality=int(rng.integers(90, 99)))
    return Camera(
        blur=float(rng.uniform(0.4, 1.4)) if rng.random() < 0.7 else 0.0,
        noise=float(rng.uniform(1, 6)) if rng.random() < 0.5 else 0.0,
        quality=int(rng.integers(55, 97)),
        vignette=float(rng.uniform(0, 0.8)) if rng.random() < 0.3 else 0.0,
    )

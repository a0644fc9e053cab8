"""Embroidery photo -> pair by the paper's own route (method, section 1): SD3-medium under two ControlNets.

For users with a GPU and the weights (SD3-medium is gated: its licence must be accepted on the hub, and one logs in with
`hf auth login`). Soft edges of the photo go into ControlNet-Canny at 0.2, which keeps the structure and drops the
stitches; the photo, blurred, goes into ControlNet-Tile at 0.8, which keeps the colours.

Soft edges: the paper uses HED. Its weights (lllyasviel/Annotators, ControlNetHED.pth) are published as a pickle only,
which can run any code when it is opened, and this project reads safetensors alone. `soft_edges` stands in for it: like
HED's fused map it is high where an edge is seen at every scale, so borders of the motif stay and single threads, which
only the finest scales see, fade. At a scale of 0.2 the ControlNet takes no more than that from it.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from PIL import Image

from tambour.errors import BaseModelError
from tambour.imaging.colour import rgb_to_lab
from tambour.imaging.conditions import tile_condition
from tambour.imaging.geometry import fit, flatten
from tambour.pair.flat import Pair
from tambour.pair.flat import make_design as make_flat_design
from tambour.progress import Progress

if TYPE_CHECKING:
    from diffusers import StableDiffusion3ControlNetPipeline

PROMPT = (
    "flat design, vector graphic design, digital design, cartoon design, clean lines, uniform color blocks, "
    "smooth surface, high quality"
)
NEGATIVE = "lowres, bad anatomy, cropped, worst quality, low quality"


@dataclass(frozen=True)
class Sources:
    """Where the weights come from: names on the hub, or folders in diffusers' layout."""

    base: str = "stabilityai/stable-diffusion-3-medium-diffusers"
    canny: str = "InstantX/SD3-Controlnet-Canny"
    tile: str = "InstantX/SD3-Controlnet-Tile"

    @classmethod
    def under(cls, folder: Path) -> Sources:
        """The folders `base`, `canny` and `tile` in `folder`."""
        return cls(*(str(folder / part) for part in ("base", "canny", "tile")))


@dataclass(frozen=True)
class Settings:
    """Numbers of the paper's pair step; steps and guidance are SD3's usual ones (the paper gives none)."""

    size: int = 1024  # longer side, px
    blur_kernel: int = 15  # Gaussian kernel of the tile condition, px at `size`
    canny_scale: float = 0.2
    tile_scale: float = 0.8
    steps: int = 28
    guidance_scale: float = 7.0


def soft_edges(image: Image.Image) -> Image.Image:
    """RGB picture -> RGB picture of soft white edges on black, standing in for HED (see the top of this file).

    The geometric mean of the colour gradient at four scales, 0.2 % to 1.2 % of the longer side; the strongest hundredth
    is white.
    """
    lab = rgb_to_lab(np.asarray(flatten(image)))
    product = np.ones(lab.shape[:2], np.float32)
    for share in (0.002, 0.004, 0.008, 0.012):
        sigma = max(0.8, share * max(image.size))
        smooth = cv2.GaussianBlur(lab, (0, 0), sigma)
        gx, gy = cv2.Sobel(smooth, cv2.CV_32F, 1, 0), cv2.Sobel(smooth, cv2.CV_32F, 0, 1)
        product *= sigma * np.sqrt((gx**2 + gy**2).sum(2))
    edges = product**0.25
    white = max(float(np.quantile(edges, 0.99)), 1.0)
    return Image.fromarray((255 * (edges / white).clip(0, 1)).astype(np.uint8)).convert("RGB")


def load_pipeline(
    sources: Sources | None = None, device: str | None = None, dtype: str | None = None
) -> StableDiffusion3ControlNetPipeline:
    """diffusers' own SD3 pipeline with both ControlNets; safetensors only, without the T5 encoder (9 GB, little gain).

    `device` None: the GPU if there is one. `dtype` None: float16 on a GPU, float32 elsewhere.

    Raises:
        BaseModelError: a part is not here and cannot be fetched (offline, licence not accepted), or does not fit.
    """
    import torch
    from diffusers import SD3ControlNetModel, SD3MultiControlNetModel, StableDiffusion3ControlNetPipeline

    from tambour.base.quiet import quiet

    sources = sources or Sources()
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    dtype = dtype or ("float16" if device.startswith("cuda") else "float32")
    options = {"use_safetensors": True, "dtype": getattr(torch, dtype)}
    name = sources.base
    try:
        with quiet(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the libraries about one another
            nets = []
            for name in (sources.canny, sources.tile):
                nets.append(SD3ControlNetModel.from_pretrained(name, **options))
            name = sources.base
            pipeline = StableDiffusion3ControlNetPipeline.from_pretrained(
                name, controlnet=SD3MultiControlNetModel(nets), text_encoder_3=None, tokenizer_3=None, **options
            )
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as fault:
        reason = (str(fault).strip().splitlines() or [type(fault).__name__])[0]
        here = "It is not a folder here, so it would come from the hub. " if not Path(name).is_dir() else ""
        raise BaseModelError(
            f"The pair model {name!r} cannot be loaded: {reason}",
            f"{here}Go online, accept its licence at https://huggingface.co/{sources.base} and run `hf auth login`; "
            "or leave this route: the pair step without a model is the default.",
        ) from None
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)


def make_design(
    photo: Image.Image,
    pipeline: StableDiffusion3ControlNetPipeline,
    description: str = "",
    settings: Settings | None = None,
    seed: int = 0,
    watch: Callable[[Progress], object] | None = None,
) -> Pair:
    """Flatten the photo of an embroidery with `pipeline` (from `load_pipeline`); any size and aspect ratio.

    `description`: what the photo shows, put before the fixed prompt (the paper asks a tagger for it). The mask is that
    of the route without a model. The same seed gives the same design on the same machine.
    `watch` is called with the progress after every step.
    """
    import torch

    settings = settings or Settings()
    photo = flatten(photo)
    # what the VAE and the transformer's patches need, and the 8 px the pipeline insists on
    grid = math.lcm(8, pipeline.vae_scale_factor * pipeline.transformer.config.patch_size)
    small = fit(photo, settings.size, grid)
    generator = torch.Generator("cpu").manual_seed(seed)

    def report(_pipeline, step: int, _timestep, values: dict) -> dict:
        if watch is not None:
            watch(Progress("pair", step + 1, settings.steps))
        return values

    devices = [pipeline.device] if pipeline.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):  # the pipeline draws the conditions' latents without a generator
        torch.manual_seed(seed)
        design = pipeline(
            prompt=", ".join(part for part in (description.strip(), PROMPT) if part),
            negative_prompt=NEGATIVE,
            width=small.width,
            height=small.height,
            control_image=[soft_edges(small), tile_condition(small, settings.blur_kernel)],
            controlnet_conditioning_scale=[settings.canny_scale, settings.tile_scale],
            num_inference_steps=settings.steps,
            guidance_scale=settings.guidance_scale,
            generator=generator,
            callback_on_step_end=report,
        ).images[0]
    return Pair(_undo_fit(design, photo.size), photo, make_flat_design(photo).mask)


def _undo_fit(design: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Bring a design made from `fit(photo)` back into register with the photo of `size`; a cropped rim is repeated."""
    scale = max(design.width / size[0], design.height / size[1])
    whole = [max(made, round(side * scale)) for made, side in zip(design.size, size, strict=True)]
    across, down = (whole[0] - design.width, whole[1] - design.height)
    padded = np.pad(
        np.asarray(design.convert("RGB")),
        ((down // 2, down - down // 2), (across // 2, across - across // 2), (0, 0)),
        mode="edge",
    )
    return Image.fromarray(padded).resize(size, Image.Resampling.LANCZOS)

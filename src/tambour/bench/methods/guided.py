"""Rivals without training: StyleID, RB-Modulation, InstantStyle.

All three start from the design, as their papers do, and see the base's own structure conditions where ours does.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import nn

from tambour.analysis.features import self_attentions
from tambour.analysis.inversion import Schedule, invert
from tambour.base import Base, generator
from tambour.bench import perceptual
from tambour.bench.cases import Target
from tambour.bench.methods.task import Method, Task
from tambour.config import Edges
from tambour.drawing.conditions import condition_pictures, controlnet_scales, tile_kernel
from tambour.errors import BaseModelError
from tambour.imaging.colour import correct_colours
from tambour.imaging.geometry import flatten, pad
from tambour.imaging.tensors import to_image, to_tensor
from tambour.progress import Progress
from tambour.training.pairs import Batch
from tambour.training.routing import RoutedModel

# -- what they share --------------------------------------------------------------------------------------------------


def setting(task: Task) -> Edges:
    """The recipe's setting for the style's edges."""
    return task.recipe.sampling.firm if task.style.edges == "firm" else task.recipe.sampling.free


def seen(task: Task, flat: list[Image.Image], words: str) -> Batch:
    """Pictures with their prompt and tile condition, for `RoutedModel.predict`; their latents as `design`."""
    base, recipe = task.base, task.recipe
    width, height = flat[0].size
    prompt = base.encode_prompt([words]).expand(len(flat))
    tile = None
    if recipe.training.tile:
        kernel = tile_kernel(recipe.sampling, base, (width, height))
        pictures = [condition_pictures(picture, ("tile",), kernel, recipe.sampling)["tile"] for picture in flat]
        tile = torch.cat([(to_tensor(picture) + 1) / 2 for picture in pictures]).to(base.device, base.dtype)
    latents = torch.cat([base.encode_image(to_tensor(picture)) for picture in flat])
    return Batch(latents, latents, prompt, prompt, base.time_ids(height, width).expand(len(flat), -1), tile)


def noise_of(task: Task, batch: Batch) -> Callable[[torch.Tensor, int], torch.Tensor]:
    """The noise the base predicts for such pictures at a timestep."""
    model = RoutedModel(task.base, (), task.recipe.training.tile, task.recipe.training.loss)

    def noise(z: torch.Tensor, t: int) -> torch.Tensor:
        times = torch.full((len(z),), t, device=z.device)
        return task.base.to_epsilon(model.predict(z, times, batch, style=False), z, t).float()

    return noise


def finished(task: Task, image: Image.Image, flat: Image.Image, crop_box: tuple[int, int, int, int]) -> Image.Image:
    """Colours from the design, where the setting has it, and the crop_box cut back."""
    if setting(task).correct_colours:
        image = correct_colours(image, flat)
    return image.crop(crop_box).convert("RGB")


def padded(task: Task, target: Target) -> tuple[Image.Image, tuple[int, int, int, int]]:
    """A target on the fabric, in a size that the base takes."""
    return pad(task.flat(target), task.base.pixel_multiple)


# -- StyleID ----------------------------------------------------------------------------------------------------------

GAMMA, TAU = 0.75, 1.5  # query preservation and attention temperature


class Injection:
    """An attention processor for rows (content, style, result): Chung et al. 2024, eq. 3 to 6.

    The result asks with gamma Q_content + (1 - gamma) Q_result, sharpened by tau; the style's K and V answer.
    """

    def __call__(self, attn: Any, hidden_states: torch.Tensor, *args, **kwargs) -> torch.Tensor:
        q, k, v = (layer(hidden_states) for layer in (attn.to_q, attn.to_k, attn.to_v))  # (3, T, C)
        q = torch.cat([q[:2], TAU * (GAMMA * q[:1] + (1 - GAMMA) * q[2:])])
        k, v = (torch.cat([x[:2], x[1:2]]) for x in (k, v))
        q, k, v = (x.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for x in (q, k, v))  # (3, heads, T, d)
        out = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return attn.to_out[1](attn.to_out[0](out))


@contextmanager
def injected(base: Base) -> Iterator[None]:
    """While open, the decoder's self-attention runs on rows (content, style, result)."""
    blocks = [name for name in base.attention_blocks if name.startswith("up_blocks")]
    layers = [base.unet.get_submodule(name) for block in blocks for name in self_attentions(base.unet, block)]
    own = [layer.processor for layer in layers]
    try:
        for layer in layers:
            layer.processor = Injection()
        yield
    finally:
        for layer, processor in zip(layers, own, strict=True):
            layer.processor = processor


def adain(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """x with y's mean and deviation of every channel (Chung et al. 2024, eq. 7)."""

    def moments(z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return z.mean((2, 3), keepdim=True), z.std((2, 3), keepdim=True) + 1e-4

    (mx, sx), (my, sy) = moments(x), moments(y)
    return (x - mx) / sx * sy + my


Path = list[torch.Tensor]  # z_t at every timestep, nearly clean first


@torch.no_grad()
def inverted(task: Task, batch: Batch, start: torch.Tensor, schedule: Schedule) -> Iterator[Progress]:
    """DDIM inversion of latents under a batch's conditions. Returns its `Path`."""
    path: Path = []
    for z in invert(noise_of(task, batch), start, schedule, method="ddim"):
        path.append(z)
        yield Progress("styleid", len(path), len(schedule.timesteps), "inversion")
    return path


def no_paths(task: Task) -> Iterator[Progress]:
    """Where the embroidery's inversion is kept, by the size of the pictures; it is made for the first of each."""
    yield Progress("styleid", 0, 1)
    return {}


@torch.no_grad()
def style_id(task: Task, paths: dict[tuple[int, int], Path], target: Target) -> Iterator[Progress]:
    """DDIM inversion of design and embroidery, then their attention mixed on the way back. Returns the picture."""
    base = task.base
    flat, crop_box = padded(task, target)
    design = ImageOps.fit(flatten(task.style.design, task.style.fabric), flat.size)
    embroidery = ImageOps.fit(task.style.embroidery.convert("RGB"), flat.size)
    schedule = Schedule.of(base, task.recipe.analysis.steps)
    if flat.size not in paths:  # its structure condition is its design's, its latents are its own
        latents = base.encode_image(to_tensor(embroidery))
        paths[flat.size] = yield from inverted(task, seen(task, [design], ""), latents, schedule)
    style, batch = paths[flat.size], seen(task, [flat], "")
    content = yield from inverted(task, batch, batch.design, schedule)
    rows = seen(task, [flat, design, flat], "")
    noise = noise_of(task, rows)
    z = adain(content[-1], style[-1])
    a_next, s_next = (*schedule.signal[-2::-1], 1.0), (*schedule.noise[-2::-1], 0.0)
    back = zip(schedule.timesteps[::-1], schedule.signal[::-1], schedule.noise[::-1], a_next, s_next, strict=True)
    with injected(base):
        for i, (t, a, s, a2, s2) in enumerate(back):
            eps = noise(torch.cat([content[-1 - i], style[-1 - i], z]), t)[2:]
            z = a2 * (z - s * eps) / a + s2 * eps
            yield Progress("styleid", i + 1, len(schedule.timesteps))
    return finished(task, to_image(base.decode(z.to(base.dtype))), flat, crop_box)


# -- RB-Modulation ----------------------------------------------------------------------------------------------------

ETA, REFINED = 0.1, 3  # step size and steps of the controller, as in the authors' release


def controlled(
    base: Base, x0: torch.Tensor, wanted: torch.Tensor, describe: Callable[[torch.Tensor], torch.Tensor], rate: float
) -> torch.Tensor:
    """x0 moved so that its style descriptor nears `wanted` (Rout et al. 2024, algorithm 2: 1 - cos, Adam)."""
    with torch.enable_grad():
        z = x0.detach().clone().requires_grad_(True)
        optimizer = torch.optim.Adam([z], lr=rate)
        for _ in range(REFINED):
            loss = (1 - F.cosine_similarity(describe(base.decode_with_gradient(z).float()), wanted)).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return z.detach()


@torch.no_grad()
def rb_modulation(task: Task, describe: nn.Module, target: Target) -> Iterator[Progress]:
    """SDEdit whose every predicted x0 is moved by the controller. Returns the picture."""
    base, sampling = task.base, task.recipe.sampling
    flat, crop_box = padded(task, target)
    batch = seen(task, [flat], task.recipe.prompts.style.format("design"))
    noise = noise_of(task, batch)
    wanted = describe(to_tensor(task.style.embroidery).to(base.device).float())
    schedule = Schedule.of(base, sampling.steps)
    count = max(1, int(setting(task).strength * sampling.steps))
    steps = list(zip(schedule.timesteps, schedule.signal, schedule.noise, strict=True))[:count]
    _, a, s = steps[-1]
    rng = generator(task.seed, "rb-modulation")
    z = a * batch.design.float() + s * torch.randn(batch.design.shape, generator=rng).to(base.device)
    for i in range(count):
        t, a, s = steps[-1 - i]
        _, a2, s2 = steps[-2 - i] if i + 1 < count else (0, 1.0, 0.0)
        eps = noise(z, t)
        x0 = controlled(base, (z - s * eps) / a, wanted, describe, ETA * (1 - i / count))
        z = a2 * x0 + s2 * eps
        yield Progress("rb-modulation", i + 1, count)
    return finished(task, to_image(base.decode(z.to(base.dtype))), flat, crop_box)


def load_descriptor(task: Task) -> Iterator[Progress]:
    """The style descriptor's network."""
    yield Progress("rb-modulation", 0, 1, "loading the style descriptor")
    return perceptual.descriptor()


def _no_descriptor(base: Base) -> str:
    return "" if os.environ.get(perceptual.CSD_VARIABLE) else f"no style descriptor: set {perceptual.CSD_VARIABLE}"


# -- InstantStyle -----------------------------------------------------------------------------------------------------

ADAPTER = dict(
    pretrained_model_name_or_path_or_dict="h94/IP-Adapter",
    subfolder="sdxl_models",
    weight_name="ip-adapter_sdxl.safetensors",
)
STYLE_BLOCK = {"up": {"block_0": [0.0, 1.0, 0.0]}}  # Wang et al. 2024, section 3.2: up_blocks.0.attentions.1 alone


@contextmanager
def image_prompted(pipeline: Any, weights: dict) -> Iterator[None]:
    """While open, the pipeline's UNet hears a picture in its style block.

    Raises:
        BaseModelError: the IP-Adapter cannot be loaded.
    """
    own = dict(pipeline.unet.attn_processors)
    try:
        try:
            pipeline.load_ip_adapter(**weights)
        except (OSError, ValueError, RuntimeError) as fault:
            raise BaseModelError(f"The IP-Adapter cannot be loaded: {fault}.", "Connect to the network once.") from None
        pipeline.set_ip_adapter_scale(STYLE_BLOCK)
        yield
    finally:
        pipeline.unet.encoder_hid_proj = None
        pipeline.unet.config.encoder_hid_dim_type = None
        pipeline.unet.set_attn_processor(own)


def instant_style(task: Task, learnt: None, target: Target) -> Iterator[Progress]:
    """SDEdit under the recipe's ControlNets with the embroidery as image prompt. Returns the picture."""
    image_prompt = {"ip_adapter_image": task.style.embroidery.convert("RGB")}
    return (yield from prompted_by_image(task, target, ADAPTER, image_prompt))


def prompted_by_image(task: Task, target: Target, weights: dict, image_prompt: dict) -> Iterator[Progress]:
    """`instant_style` with any adapter's weights and any form of the image prompt."""
    base, sampling, edges = task.base, task.recipe.sampling, setting(task)
    flat, crop_box = padded(task, target)
    scales = controlnet_scales(edges)
    conditions = condition_pictures(flat, scales, tile_kernel(sampling, base, flat.size), sampling)
    pipeline = base.image_pipeline(tuple(scales))
    yield Progress("instantstyle", 0, 1)
    with image_prompted(pipeline, weights):
        image = pipeline(
            prompt=task.recipe.prompts.content.format("design"),
            negative_prompt=task.recipe.prompts.negative,
            image=flat,
            control_image=list(conditions.values()),
            controlnet_conditioning_scale=list(scales.values()),
            strength=edges.strength,
            num_inference_steps=sampling.steps,
            guidance_scale=sampling.guidance_scale,
            generator=generator(task.seed, "instantstyle"),
            **image_prompt,
        ).images[0]
    return finished(task, image, flat, crop_box)


def _not_sdxl(base: Base) -> str:
    width = base.unet.config.cross_attention_dim
    return "" if width == 2048 else f"the IP-Adapter is made for SDXL (text width 2048), this base has {width}"


METHODS = (
    Method("styleid", "StyleID", "training-free", "Chung et al. 2024, eq. 3 to 7: gamma 0.75, tau 1.5, AdaIN of the "
           "noise, self-attention of the decoder; DDIM steps as the recipe's analysis", style_id, no_paths),
    Method("rb-modulation", "RB-Modulation", "training-free", "Rout et al. 2024, algorithm 2: stochastic optimal "
           "control with CSD, 3 steps, eta 0.1 falling; without attention feature aggregation, which needs a base that "
           "hears pictures", rb_modulation, load_descriptor, missing=_no_descriptor),
    Method("instantstyle", "InstantStyle", "training-free", "Wang et al. 2024, section 3.2: IP-Adapter in "
           "up_blocks.0.attentions.1 alone", instant_style, missing=_not_sdxl),
)  # fmt: skip

"""Rivals that train a LoRA on the reference: DreamBooth-LoRA and B-LoRA.

Same base, rank, learning rate, targets (attention, and convolutions where the recipe has them), crops and structure
condition as ours, and as many gradient updates; both are drawn with ours' sampler under the same ControlNets. So what
differs is what is trained on, under which words, and which blocks are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch

from tambour.base import Base, generator
from tambour.bench.methods.ours import drawn, imagined
from tambour.bench.methods.task import Method, Task, reference, style_of
from tambour.progress import Progress
from tambour.training.adapter import Adapter, adapted, targets
from tambour.training.loop import Step, train
from tambour.training.losses import denoising
from tambour.training.pairs import EncodedPair, draw
from tambour.training.resources import few_threads, unet_alone
from tambour.training.routing import RoutedModel

CONTENT, STYLE = "up_blocks.0.attentions.0", "up_blocks.0.attentions.1"  # B-LoRA's W_0^4 and W_0^5
Losses = Callable[[torch.Generator], dict[str, torch.Tensor]]


def denoise_embroidery(task: Task, pair: EncodedPair) -> Losses:
    """|| eps - eps_theta(z_t, t, c) ||^2 on the embroidery, the same words to every block (Ruiz et al. 2023, eq. 1)."""
    training = task.recipe.training
    model = RoutedModel(task.base, tuple(task.base.attention_blocks), training.tile, training.loss)

    def losses(rng: torch.Generator) -> dict[str, torch.Tensor]:
        crops = draw(task.base, [pair], task.recipe.batch, rng)
        return {"L": denoising(model, crops, rng, style=True).mean()}

    return losses


def trained(
    task: Task, pair: EncodedPair, adapter: Adapter, phases: Sequence[tuple[str, list[Step], int]]
) -> Iterator[Progress]:
    """Train one phase after another: (name, steps, iterations)."""
    recipe = task.recipe
    with few_threads(task.base, pair.window, recipe.batch), unet_alone(task.base, recipe.training_controlnet):
        for name, steps, iterations in phases:
            checkpoint = task.work / f"{name.replace(' ', '-')}.safetensors"
            common = dict(seed=task.seed, every_seconds=recipe.training.checkpoint_seconds, curves={})
            numbers = replace(recipe.stage_one, iterations=iterations)
            yield from train(name, adapter, steps, numbers, checkpoint=checkpoint, **common)


def dreambooth(task: Task) -> Iterator[Progress]:
    """All LoRA learns the embroidery under "a <des> in [emb] style". Returns a `Style` of all blocks."""
    _, pair = yield from reference(task)
    blocks = tuple(task.base.attention_blocks)
    with adapted(task.base, blocks, task.recipe.lora, generator(task.seed, "lora")) as adapter:
        steps = [Step("theta_a", denoise_embroidery(task, pair))]
        yield from trained(task, pair, adapter, [("dreambooth", steps, task.updates)])
        return style_of(task, adapter.style_tensors(), blocks)


def b_lora(task: Task) -> Iterator[Progress]:
    """The two blocks learn the embroidery under "a [v]"; the style's alone is kept. Returns a `Style` of one block."""
    base, recipe = task.base, task.recipe
    _, pair = yield from reference(task)
    words = base.encode_prompt([f"a {recipe.prompts.trigger}"])
    pair = replace(pair, c_des=words, c_emb=words)
    kept = set(targets(base.unet, (STYLE,), recipe.lora.convolutions))
    with adapted(base, (CONTENT, STYLE), recipe.lora, generator(task.seed, "lora")) as adapter:
        yield from trained(
            task, pair, adapter, [("b-lora", [Step("theta_e", denoise_embroidery(task, pair))], task.updates)]
        )
        tensors = {
            key: value
            for key, value in adapter.style_tensors().items()
            if key.removeprefix("unet.").rsplit(".lora_", 1)[0] in kept
        }
        return style_of(task, tensors, (STYLE,))


def _without_blocks(base: Base) -> str:
    absent = [name for name in (CONTENT, STYLE) if name not in base.attention_blocks]
    return f"the base has no block {absent[0]}" if absent else ""


METHODS = (
    Method("dreambooth", "DreamBooth-LoRA", "trained", "Ruiz et al. 2023, eq. 1, as LoRA (diffusers' SDXL script: "
           "attention projections, no prior preservation)", drawn, dreambooth, imagined),
    Method("b-lora", "B-LoRA", "trained", "Frenkel et al. 2024, section 4: LoRA on up_blocks.0.attentions.0 and .1, "
           "prompt 'A [v]'; for a new content the style block's LoRA alone. Its own constants (rank 64, 1,000 steps, "
           "rate 5e-5) give way to the shared budget", drawn, b_lora, imagined, missing=_without_blocks),
)  # fmt: skip

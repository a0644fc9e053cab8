"""PairCustomization (Jones et al. 2024, "Customizing Text-to-Image Models with a Single Image Pair").

Content and style get a LoRA each, learnt together: the content LoRA alone explains the design, both explain the
embroidery, and there only the style LoRA learns (section 3.1). Their A matrices are fixed and have rows orthogonal to
each other, so that neither can say what the other says (section 3.2). Drawn with style guidance (section 3.3).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from peft import LoraConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from tambour.base import Base, Prompt, generator
from tambour.bench.cases import Target
from tambour.bench.methods.lora import denoise_embroidery, trained
from tambour.bench.methods.ours import drawn
from tambour.bench.methods.task import Method, Task, reference, style_of
from tambour.config import Lora
from tambour.errors import BaseModelError
from tambour.progress import Progress
from tambour.style import Style
from tambour.training.adapter import Adapter, muted, targets
from tambour.training.loop import Step
from tambour.training.losses import denoising
from tambour.training.pairs import draw
from tambour.training.routing import RoutedModel

CONTENT, STYLE = "content", "style"
GUIDANCE = 6 / 5  # lambda_style over the guidance scale, in the authors' release 6 and 5


@contextmanager
def two_loras(base: Base, lora: Lora, rng: torch.Generator) -> Iterator[Adapter]:
    """While open, the UNet carries a content and a style LoRA whose A are orthonormal and fixed.

    theta_a: every B; theta_e: those of the style.

    Raises:
        BaseModelError: a layer has fewer inputs than both ranks together.
    """
    unet = base.unet
    names = targets(unet, base.attention_blocks, lora.convolutions)
    theta: dict[str, dict[str, nn.Parameter]] = {CONTENT: {}, STYLE: {}}
    try:
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Already found a `peft_config`")  # two are meant
            for kind in (CONTENT, STYLE):
                unet.add_adapter(LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=names), kind)
        unet.set_adapter([CONTENT, STYLE])
        for name in names:
            layer = unet.get_submodule(name)
            shape = layer.lora_A[STYLE].weight.shape
            inputs = shape[1:].numel()
            if inputs < 2 * lora.rank:
                raise BaseModelError(
                    f"{name} has {inputs} inputs, two LoRA of rank {lora.rank} need more.", "Lower it."
                )
            rows, _ = torch.linalg.qr(torch.randn(inputs, 2 * lora.rank, generator=rng))  # (inputs, 2 r)
            for kind, part in zip((CONTENT, STYLE), rows.T.chunk(2), strict=True):
                for half in (layer.lora_A[kind].weight, layer.lora_B[kind].weight):
                    half.data = half.data.float()
                layer.lora_A[kind].weight.data.copy_(part.reshape(shape))
                nn.init.zeros_(layer.lora_B[kind].weight)
                theta[kind][f"{name}.{kind}.lora_B.weight"] = layer.lora_B[kind].weight
        for parameter in unet.parameters():
            parameter.requires_grad_(False)
        yield Adapter(unet, theta[CONTENT] | theta[STYLE], theta[STYLE])
    finally:
        unet.unload_lora()


@contextmanager
def content_alone(unet: nn.Module) -> Iterator[None]:
    """While open, the style LoRA counts nothing."""
    with muted([module for module in unet.modules() if isinstance(module, BaseTunerLayer)], STYLE):
        yield


def learn(task: Task) -> Iterator[Progress]:
    """A third of the iterations for the content alone, as in the release, then both losses. Returns a `Style`."""
    base, recipe = task.base, task.recipe
    _, pair = yield from reference(task)
    model = RoutedModel(base, tuple(base.attention_blocks), recipe.training.tile, recipe.training.loss)

    def content(rng: torch.Generator) -> dict[str, torch.Tensor]:
        crops = draw(base, [pair], recipe.batch, rng)
        with content_alone(base.unet):
            return {"L_content": denoising(model, crops, rng, style=False).mean()}

    first, second = Step("theta_a", content), Step("theta_e", denoise_embroidery(task, pair))
    alone = max(1, task.updates // 5)  # N / 3 + 2 (2 N / 3) updates in N iterations
    both = max(1, (task.updates - alone) // 2)
    with two_loras(base, recipe.lora, generator(task.seed, "lora")) as adapter:
        phases = [("pair, content", [first], alone), ("pair, both", [first, second], both)]
        yield from trained(task, pair, adapter, phases)
        tensors = {}
        for name in targets_of(adapter):
            layer = base.unet.get_submodule(name)
            for half in ("lora_A", "lora_B"):
                tensors[f"unet.{name}.{half}.weight"] = getattr(layer, half)[STYLE].weight.detach().cpu().clone()
        return style_of(task, tensors, tuple(base.attention_blocks))


def targets_of(adapter: Adapter) -> list[str]:
    """Names of the modules that carry the LoRA."""
    return [key.removesuffix(f".{STYLE}.lora_B.weight") for key in adapter.theta_e]


@contextmanager
def style_guidance(unet: nn.Module, plain: Prompt, weight: float) -> Iterator[None]:
    """While open, the UNet predicts e + weight (e_style - e) in the rows that hear the prompt, e elsewhere.

    e: without the LoRA, under `plain`; e_style: with it, under the prompt given. Under classifier-free guidance of
    scale g this is section 3.3's e_0 + g (e - e_0) + g weight (e_style - e), with lambda_style = g weight.
    """
    styled = unet.forward

    def forward(sample, timestep, encoder_hidden_states, added_cond_kwargs=None, **others):
        arguments = dict(encoder_hidden_states=encoder_hidden_states, added_cond_kwargs=added_cond_kwargs, **others)
        with_style = styled(sample, timestep, **arguments)[0]
        rows = plain.expand(1)
        embeds, pooled = encoder_hidden_states.clone(), added_cond_kwargs["text_embeds"].clone()
        embeds[-1:], pooled[-1:] = (
            rows.embeds,
            rows.pooled,
        )  # the last row is the prompt's, one before it the negative's
        arguments |= {
            "encoder_hidden_states": embeds,
            "added_cond_kwargs": {**added_cond_kwargs, "text_embeds": pooled},
        }
        unet.disable_adapters()
        try:
            without = styled(sample, timestep, **arguments)[0]
        finally:
            unet.enable_adapters()
        output = without.clone()
        output[-1:] += weight * (with_style - without)[-1:]
        return (output,)

    unet.forward = forward
    try:
        yield
    finally:
        del unet.forward


def draw_guided(task: Task, style: Style, target: Target) -> Iterator[Progress]:
    """A target under style guidance. Returns the picture."""
    plain = task.base.encode_prompt([task.recipe.prompts.content.format("design")])
    with style_guidance(task.base.unet, plain, GUIDANCE):
        return (yield from drawn(task, style, target))


METHODS = (
    Method("pair", "PairCustomization", "trained", "Jones et al. 2024, sections 3.1 to 3.3, lambda_style 6 at guidance "
           "5, a third of the iterations for content alone (the release); its rank 64 and rate 1e-5 give way to the "
           "shared budget", draw_guided, learn),
)  # fmt: skip

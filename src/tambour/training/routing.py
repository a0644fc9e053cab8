"""Which block is given which prompt (method, section 3): c_emb goes to the style blocks, c_des to all others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import nn

from tambour.base import Base
from tambour.base.sharing import computed_once
from tambour.errors import InputError
from tambour.training.pairs import Batch

Residuals = tuple[list[torch.Tensor], torch.Tensor]  # of a ControlNet: for the UNet's way down, for its middle


@dataclass(frozen=True, eq=False)
class RoutedModel:
    """The base in training: predicts under c_des everywhere, or under c_emb in the style blocks.

    Attributes:
        style_blocks: names of the attention blocks that are given c_emb.
        controlnet_scale: of what the ControlNet of the batch's `condition_kind` adds in every pass; 0: no ControlNet.
        loss: "noise" or "output", what errors are measured in (`losses.denoising`).
    """

    base: Base
    style_blocks: tuple[str, ...]
    controlnet_scale: float = 0.0
    loss: str = "noise"

    def __post_init__(self) -> None:
        if self.loss not in ("noise", "output"):
            raise InputError(f"Recipe key training.loss {self.loss!r} is not known.", "Allowed: noise, output.")

    def predict(
        self, z: torch.Tensor, t: torch.Tensor, batch: Batch, *, style: bool, residuals: Residuals | None = None
    ) -> torch.Tensor:
        """Raw output (B, c, h, w), float32, for z noised to t (B,).

        The pooled text, which no block owns, is always that of c_des.

        Args:
            style: False: c_des to every block. True: c_emb to the style blocks and c_des to all others.
            residuals: of `structure` for the same z and t, where several passes share them.
        """
        residuals = residuals or self.structure(z, t, batch, style=style)
        per_block = dict.fromkeys(self.style_blocks, batch.c_emb) if style else None
        with residuals_added(self.base.unet, residuals) if residuals else nullcontext():
            output = self.base.predict(z.to(self.base.dtype), t, batch.c_des, batch.time_ids, per_block=per_block)
        return output.float()

    def predict_both(
        self, z: torch.Tensor, t: torch.Tensor, batch: Batch, *, residuals: Residuals | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """`predict` with `style` False and True, same values; what lies before the style blocks is computed once."""
        with computed_once(parts_before(self.base.unet, self.style_blocks)):
            return tuple(self.predict(z, t, batch, style=style, residuals=residuals) for style in (False, True))

    @torch.no_grad()
    def structure(self, z: torch.Tensor, t: torch.Tensor, batch: Batch, *, style: bool) -> Residuals | None:
        """The ControlNet's residuals for the designs of a batch at z and t; None where no ControlNet is used.

        Its prompt is c_des and no LoRA changes it, so its residuals serve every pass at the same z and t.

        Args:
            style: take the batch's `keyed_condition`, where there is one.
        """
        if not self.controlnet_scale:
            return None
        keyed = style and batch.keyed_condition is not None
        return self.base.controlnets[batch.condition_kind](
            z.to(self.base.dtype),
            t,
            encoder_hidden_states=batch.c_des.embeds,
            controlnet_cond=batch.keyed_condition if keyed else batch.condition,
            conditioning_scale=self.controlnet_scale,
            added_cond_kwargs={"text_embeds": batch.c_des.pooled, "time_ids": batch.time_ids},
            return_dict=False,
        )


@contextmanager
def residuals_added(unet: nn.Module, residuals: Residuals) -> Iterator[None]:
    """While open, every pass of the UNet adds a ControlNet's residuals."""

    def add(_module, args, kwargs):
        down, middle = residuals
        return args, kwargs | {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}

    handle = unet.register_forward_pre_hook(add, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def parts_before(unet: nn.Module, blocks: Sequence[str]) -> list[nn.Module]:
    """Those parts of a UNet that have run before the first of some attention blocks does."""
    stages = [*unet.down_blocks, unet.mid_block, *unet.up_blocks]
    attentions = [unet.get_submodule(block) for block in blocks]
    for index, stage in enumerate(stages):
        for layer, attention in enumerate(getattr(stage, "attentions", ())):
            if attention in attentions:  # resnet i runs before attention i
                return [*stages[:index], *stage.resnets[: layer + 1], *stage.attentions[:layer]]
    return []

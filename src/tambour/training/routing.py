"""Which block hears which prompt (method, section 3): c_emb goes to the style blocks, c_des to all others."""

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

Residuals = tuple[list[torch.Tensor], torch.Tensor]


@dataclass(frozen=True, eq=False)
class RoutedModel:
    """The base in training: predicts under c_des everywhere, or under c_emb in the style blocks.

    Attributes:
        style_blocks: names of the attention blocks that hear c_emb.
        tile: scale of ControlNet-Tile (of the batch's `condition`) in every pass; 0: none.
        loss: "noise" or "output", what errors are measured in (`losses.denoising`).
    """

    base: Base
    style_blocks: tuple[str, ...]
    tile: float = 0.0
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
        heard = dict.fromkeys(self.style_blocks, batch.c_emb) if style else None
        with structured(self.base.unet, residuals) if residuals else nullcontext():
            output = self.base.predict(z.to(self.base.dtype), t, batch.c_des, batch.time_ids, per_block=heard)
        return output.float()

    def predict_both(
        self, z: torch.Tensor, t: torch.Tensor, batch: Batch, *, residuals: Residuals | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """`predict` with `style` False and True: the same values, what lies before the style blocks computed once."""
        with computed_once(before(self.base.unet, self.style_blocks)):
            return tuple(self.predict(z, t, batch, style=style, residuals=residuals) for style in (False, True))

    @torch.no_grad()
    def structure(self, z: torch.Tensor, t: torch.Tensor, batch: Batch, *, style: bool) -> Residuals | None:
        """What the ControlNet adds to the UNet for the crops' designs; None where the recipe does not use it.

        With `style` it is shown the keyed designs, where there are any.

        It hears c_des, and no LoRA touches it, so one answer serves every pass at the same z and t.
        """
        if not self.tile:
            return None
        return self.base.controlnets[batch.condition](
            z.to(self.base.dtype),
            t,
            encoder_hidden_states=batch.c_des.embeds,
            controlnet_cond=batch.keyed if style and batch.keyed is not None else batch.tile,
            conditioning_scale=self.tile,
            added_cond_kwargs={"text_embeds": batch.c_des.pooled, "time_ids": batch.time_ids},
            return_dict=False,
        )


@contextmanager
def structured(unet: nn.Module, residuals: Residuals) -> Iterator[None]:
    """While open, every pass of the UNet adds a ControlNet's residuals."""

    def add(_module, args, kwargs):
        down, middle = residuals
        told = {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
        return args, {**kwargs, **told}

    handle = unet.register_forward_pre_hook(add, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def before(unet: nn.Module, blocks: Sequence[str]) -> list[nn.Module]:
    """Those parts of a UNet that have run before the first of some attention blocks does."""
    stages = [*unet.down_blocks, unet.mid_block, *unet.up_blocks]
    attentions = [unet.get_submodule(block) for block in blocks]
    for index, stage in enumerate(stages):
        for layer, attention in enumerate(getattr(stage, "attentions", ())):
            if attention in attentions:  # resnet i runs before attention i
                return [*stages[:index], *stage.resnets[: layer + 1], *stage.attentions[:layer]]
    return []

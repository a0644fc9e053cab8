"""A style on a base model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tambour.base import Base
from tambour.errors import StyleError
from tambour.style.file import Style


def check_base(style: Style, base: Base) -> None:
    """Refuse a base model that the style was not learnt on.

    Raises:
        StyleError: another base (by fingerprint), or modules and shapes that the base does not have.
    """
    if style.fingerprint != base.fingerprint:
        raise StyleError(
            f"This style was learnt on base {style.base!r} (fingerprint {style.fingerprint[:12]}), "
            f"not on {base.name!r} ({base.fingerprint[:12]}).",
            f"Use base {style.base!r} in that version, or learn the style again on {base.name!r}.",
        )
    weights = base.unet.state_dict()
    for module in style.modules:
        down, up = (style.tensors[f"unet.{module}.lora_{half}.weight"] for half in "AB")
        weight = weights.get(f"{module}.weight")
        if weight is None or (weight.shape[0], *weight.shape[1:]) != (up.shape[0], *down.shape[1:]):
            raise StyleError(f"Base {base.name!r} has no place for the style's {module}.", "Learn the style again.")


# -- on a base ----------------------------------------------------------------------------------------------------


@contextmanager
def attached(base: Base, style: Style, scale: float = 1.0) -> Iterator[Base]:
    """While open, the base draws in the style: its LoRA counts `scale` alpha / rank times. Afterwards it is as before.

    This is the only place that sets the scale; pipelines must not be given one too.

    Raises:
        StyleError: the style belongs to another base.
    """
    check_base(style, base)
    assert not getattr(base.unet, "peft_config", None), "another LoRA is on this base"
    metadata = {f"unet.{key}": value for key, value in style.adapter.items()}
    try:
        base.unet.load_lora_adapter(dict(style.tensors), prefix="unet", adapter_name="style", metadata=metadata)
        base.unet.set_adapters("style", weights=scale)
        yield base
    finally:
        base.unet.unload_lora()

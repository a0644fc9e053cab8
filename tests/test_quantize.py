"""Weights in 8 bits: how far they are off, who is touched, and that a LoRA trains on them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from tambour.base import Base, generator, load
from tambour.base.quantize import Int8Linear, quantizable
from tambour.config import Lora
from tambour.preflight import inspect_base
from tambour.training.adapter import adapted, updating


@pytest.fixture(scope="module")
def lean(toy_sdxl: Path) -> Base:
    return load(toy_sdxl, dtype="int8")


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=generator(seed, "x"))


@pytest.mark.parametrize("bias", [True, False])
def test_no_weight_is_off_by_more_than_half_a_step(bias: bool) -> None:
    linear = nn.Linear(64, 32, bias=bias)
    linear.weight.data[3] = 0
    lean, x = Int8Linear(linear), noise(5, 64)
    off = (lean(torch.eye(64)) - (linear.bias if bias else 0)).T - linear.weight
    assert (off.abs() <= linear.weight.abs().amax(1, keepdim=True) / 254 + 1e-6).all()
    assert (lean(x) - linear(x)).norm() < 0.01 * linear(x).norm()


def test_gradients_flow_to_the_input_and_nothing_large_is_kept() -> None:
    linear = nn.Linear(64, 32)
    lean, x = Int8Linear(linear), noise(5, 64).requires_grad_(True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        out = lean(x)
    assert {t.dtype for t in kept if t.numel() > 32} == {torch.int8}
    out.square().sum().backward()
    whole = lean.weight * lean.factor
    torch.testing.assert_close(x.grad, 2 * out.detach() @ whole)
    assert lean.weight.grad is None and lean.bias.grad is None


def test_attention_alone_is_in_8_bits(lean: Base, toy_sdxl: Path) -> None:
    whole = load(toy_sdxl)
    for name, net in {"unet": lean.unet, "controlnet_tile": lean.controlnets["tile"]}.items():
        eight = {n for n, m in net.named_modules() if isinstance(m, Int8Linear)}
        assert eight == set(quantizable(net)) and all(".attentions." in n for n in eight)
        counted = sum(net.get_submodule(n).weight.numel() for n in eight)
        assert inspect_base(str(toy_sdxl), ("tile",)).linear[name] == counted
    assert lean.fingerprint == whole.fingerprint and lean.dtype == torch.float32
    prompt, z, ids = whole.encode_prompt(["a dog"]), noise(1, 4, 8, 8), whole.time_ids(64, 64)
    exact, near = (base.predict(z, 500, prompt, ids) for base in (whole, lean))
    assert 0 < (exact - near).norm() < 0.02 * exact.norm()


def test_a_lora_trains_on_it(lean: Base) -> None:
    blocks = lean.attention_blocks[:2]
    prompt, z, ids = lean.encode_prompt(["a dog"]), noise(1, 4, 8, 8), lean.time_ids(64, 64)
    before = {name: value.clone() for name, value in lean.unet.state_dict().items()}
    bare = lean.predict(z, 500, prompt, ids)
    with adapted(lean, blocks, Lora(rank=2, alpha=2.0), generator(0, "lora")) as adapter:
        assert torch.equal(lean.predict(z, 500, prompt, ids), bare)
        with updating(adapter, list(adapter.theta_e.values())):
            lean.predict(z, 500, prompt, ids).square().sum().backward()
        grads = [p.grad for name, p in adapter.theta_e.items() if "lora_B" in name]
        assert all(grad is not None and grad.isfinite().all() for grad in grads) and any(grad.any() for grad in grads)
    after = lean.unet.state_dict()
    assert list(after) == list(before) and all(torch.equal(after[name], before[name]) for name in before)

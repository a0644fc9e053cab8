"""Preflight: estimates against counts, what is picked where memory is short, and refusals before anything is loaded."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from peft import LoraConfig
from PIL import Image
from workflow_calls import learn

import tambour.workflows.request as workflow
from tambour.base import load
from tambour.cli import main
from tambour.config import Complement, Recipe, Sampling, Stage, StageTwo, Training, read_recipe
from tambour.errors import BaseModelError, InputError
from tambour.preflight import GIB, inspect_base, memory, model, plan_apply, plan_learn, settled
from tambour.preflight import machine as this_machine
from tambour.preflight import plan as plans
from tambour.preflight import work as operations

SMALL = Recipe(
    resolution=64,
    stage_one=Stage(2),
    stage_two=StageTwo(2),
    complement=Complement(count=2, source="designs"),
    sampling=Sampling(size=64, steps=2),
)


@pytest.fixture
def no_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No network, an empty cache."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch):
    """Lets a test say what machine this is."""

    def set_up(device: str, gib: float) -> None:
        monkeypatch.setattr(plans, "choose_device", lambda _: device)
        monkeypatch.setattr(plans, "free_memory", lambda _: int(gib * GIB))
        monkeypatch.setattr(plans, "probe", lambda *_: 1e13)

    return set_up


# --- the estimate -------------------------------------------------------------------------------------------------


def test_sdxl_is_counted_right() -> None:
    unet = model.SDXL_UNET
    assert model.lora_parameters(unet, 32, convolutions=False) == 46_448_640  # what peft puts on the real shape
    assert 6e12 < operations.pass_operations(unet, 128, 128) < 7e12
    counted = {("float16", False): 7.851e9, ("float16", True): 0.488e9, ("float32", False): 11.236e9}
    for (dtype, checkpointing), saved in counted.items():
        ours = memory.saved_bytes(unet, 128, 128, dtype, checkpointing, 32)
        assert 0.99 * saved < ours < 1.01 * saved, (dtype, checkpointing)
    assert 0.1e9 < memory.again_bytes(unet, 128, 128, "float16", 32) < 0.4e9


@pytest.mark.parametrize("checkpointing", [False, True])
def test_what_is_kept_for_the_backward_pass_is_counted_right(checkpointing: bool) -> None:
    unet = UNet2DConditionModel(
        block_out_channels=(32, 64, 128),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 1, 2),
        attention_head_dim=(1, 2, 4),
        cross_attention_dim=64,
        norm_num_groups=8,
        use_linear_projection=True,
    ).requires_grad_(False)
    names = [name for name, m in unet.named_modules() if ".attn" in name and isinstance(m, torch.nn.Linear)]
    unet.add_adapter(LoraConfig(r=4, target_modules=names))
    if checkpointing:
        unet.enable_gradient_checkpointing()
    unet.train()
    own = {parameter.untyped_storage().data_ptr() for parameter in unet.parameters()}
    kept, sizes = [], {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept.append(tensor)
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        unet(torch.randn(1, 4, 32, 32), 500, torch.randn(1, 8, 64))
    lora = sum(p.numel() for p in unet.parameters() if p.requires_grad)
    assert model.lora_parameters(unet.config, 4, convolutions=False) == lora
    ours = memory.saved_bytes(unet.config, 32, 32, "float32", checkpointing, 4)
    if checkpointing:
        assert ours == pytest.approx(sum(sizes.values()), rel=0.15)
        whole = memory.saved_bytes(unet.config, 32, 32, "float32", False, 4)
        assert ours + memory.again_bytes(unet.config, 32, 32, "float32", 4) < 0.5 * whole
    else:
        assert ours == pytest.approx(sum(sizes.values()), rel=0.15)


@pytest.mark.parametrize("shape", ["toy", "toy_sdxl"])
def test_weights_are_known_from_headers(shape: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(shape)
    base, inspected = load(folder), inspect_base(str(folder), ("tile", "canny"))
    parts = {"unet": base.unet, "vae": base.vae, "text_encoder": base.text_encoder}
    parts |= {"text_encoder_2": base.text_encoder_2} | {f"controlnet_{k}": net for k, net in base.controlnets.items()}
    sizes = {name: sum(p.numel() for p in net.parameters()) if net else 0 for name, net in parts.items()}
    assert inspected.parameters == sizes
    assert inspected.factor == base.vae_factor
    assert inspected.weights("float16", "cuda", ["unet", "vae"]) == 2 * (sizes["unet"] + sizes["vae"])
    assert "controlnet_canny" not in inspect_base(str(folder), ("tile",)).parameters


def test_a_broken_header_is_refused(toy: Path, tmp_path: Path) -> None:
    import shutil

    folder = Path(shutil.copytree(toy, tmp_path / "broken"))
    (folder / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0no header")
    with pytest.raises(BaseModelError, match=r"unet.*cannot be read"):
        inspect_base(str(folder), ())


def test_free_memory_is_within_the_machine() -> None:
    assert 0 < this_machine.free_memory("cpu") <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def test_more_work_takes_longer(toy: Path, machine) -> None:
    machine("cpu", 64)

    def seconds(recipe: Recipe) -> float:
        return plan_learn(str(toy), recipe, controlnets=("tile", "canny"), report=False).seconds

    first = seconds(SMALL)
    assert first < seconds(replace(SMALL, stage_one=Stage(9))) < seconds(replace(SMALL, stage_one=Stage(9), batch=2))
    assert first < seconds(replace(SMALL, training=Training(tile=1.0)))
    one, two = (plan_apply(str(toy), SMALL, controlnets=("tile",), pictures=n).seconds for n in (1, 2))
    assert two == pytest.approx(2 * one)
    guided = replace(SMALL, sampling=replace(SMALL.sampling, guide="photo", guide_strength=0.25))
    assert plan_apply(str(toy), guided, controlnets=("tile",)).seconds == pytest.approx(one / 4)
    assert plan_apply(str(toy), guided, controlnets=("tile",), strength=1.0).seconds == pytest.approx(one)


# --- what is picked, what is refused ------------------------------------------------------------------------------


def test_checkpointing_is_picked_where_it_is_needed_and_told(no_hub: None, machine) -> None:
    recipe = read_recipe("sdxl")
    machine("cuda", 80)
    plan = plan_learn("sdxl", recipe, controlnets=(), report=False)
    assert (plan.checkpointing, plan.dtype) == (False, "float16") and "downloaded first" in plan.summary()
    machine("cuda", 24)
    lean = plan_learn("sdxl", recipe, controlnets=(), report=False)
    assert lean.checkpointing and lean.memory < 24 * GIB < plan.memory and lean.seconds > plan.seconds
    assert "Gradient checkpointing is switched on" in lean.summary()
    own = replace(recipe, training=Training(gradient_checkpointing=True))
    machine("cuda", 80)
    kept = plan_learn("sdxl", own, controlnets=(), report=False)
    assert kept.checkpointing and "switched" not in kept.summary()


def test_what_does_not_fit_is_refused(no_hub: None, machine) -> None:
    machine("cuda", 6)
    with pytest.raises(BaseModelError, match=r"learn on base 'sdxl' would need 1\d\.\d GiB of GPU memory.*6\.0 GiB"):
        plan_learn("sdxl", read_recipe("sdxl"), controlnets=(), report=False)
    with pytest.raises(BaseModelError, match=r"apply on base 'sdxl' would need .*smaller --size"):
        plan_apply("sdxl", read_recipe("sdxl"), controlnets=("tile", "canny"))


def test_a_precision_that_was_chosen_is_kept(no_hub: None, machine) -> None:
    machine("cuda", 14)
    free = plan_learn("sdxl", Recipe(), controlnets=(), report=False, free_precision=True)
    assert free.dtype == "float16" and "float16 in place of float32" in free.summary()
    assert settled(Recipe(), free).precision == "float16"
    machine("cuda", 12)
    with pytest.raises(BaseModelError, match=r'set precision = "float16" in the recipe'):
        plan_learn("sdxl", Recipe(), controlnets=(), report=False)
    with pytest.raises(InputError, match=r"precision 'int4'.*float32, bfloat16, float16, int8"):
        plan_learn("sdxl", Recipe(precision="int4"), controlnets=(), report=False)


def test_sdxl_is_learnt_and_drawn_in_8_gib(no_hub: None, machine) -> None:
    machine("cuda", 8)
    recipe, kinds = read_recipe("sdxl"), ("tile", "canny")
    with pytest.raises(BaseModelError, match=r'set precision = "int8" in the recipe'):
        plan_learn("sdxl", recipe, controlnets=kinds, report=True)
    plan = plan_learn("sdxl", recipe, controlnets=kinds, report=True, free_precision=True)
    assert (plan.dtype, plan.checkpointing, plan.offloaded) == ("int8", True, True)
    assert plan.memory < 8 * GIB and "int8 in place of float16" in plan.summary()
    assert "idle parts in the computer's memory" in plan.summary()
    drawn = plan_apply("sdxl", replace(recipe, precision="int8"), controlnets=kinds)
    assert drawn.offloaded and drawn.memory < 8 * GIB and not drawn.checkpointing
    machine("cuda", 6)
    with pytest.raises(BaseModelError, match=r"would need 7\.\d GiB of GPU memory"):
        plan_learn("sdxl", recipe, controlnets=kinds, report=True, free_precision=True)


def test_the_leanest_settings_come_last(no_hub: None, machine) -> None:
    """Each smaller GPU gets the next leaner plan, and no plan needs more than the one before."""
    recipe, found = read_recipe("sdxl"), []
    for gib in (80, 24, 13, 8):
        machine("cuda", gib)
        plan = plan_learn("sdxl", recipe, controlnets=("tile", "canny"), report=True, free_precision=True)
        assert plan.memory <= gib * GIB
        found.append((plan.dtype, plan.checkpointing, plan.offloaded))
    assert found == [
        ("float16", False, False),
        ("float16", True, False),
        ("float16", True, True),
        ("int8", True, True),
    ]


def test_more_pictures_are_drawn_at_once_where_they_fit(no_hub: None, machine) -> None:
    recipe, batches = read_recipe("sdxl"), []
    for gib in (140, 13.5):
        machine("cuda", gib)
        batches.append(plan_apply("sdxl", recipe, controlnets=("tile", "canny")).batch)
    assert batches[0] == 8 and batches[1] < 8
    machine("cpu", 140)
    assert plan_apply("sdxl", recipe, controlnets=("tile", "canny")).batch == 1


def test_large_pictures_take_more_time_and_little_more_memory(no_hub: None, machine) -> None:
    recipe = read_recipe("sdxl")
    machine("cuda", 140)
    small, large = (plan_apply("sdxl", recipe, controlnets=("tile", "canny"), size=size) for size in (1024, 4096))
    assert large.seconds == pytest.approx(25 * small.seconds)  # five by five windows
    assert large.memory < small.memory + 2 * GIB


def test_only_the_controlnets_of_the_route_are_asked_for() -> None:
    assert workflow.controlnets(read_recipe("sdxl"), report=False) == ()
    assert workflow.controlnets(read_recipe("sdxl"), report=True) == ("tile", "canny")
    assert workflow.controlnets(read_recipe("mini"), report=False) == ("tile",)
    both_stages = replace(read_recipe("mini"), stage_two=StageTwo(3))
    assert workflow.controlnets(both_stages, report=False) == ("tile", "canny")


# --- in the commands ----------------------------------------------------------------------------------------------


@pytest.fixture
def command(toy: Path, tmp_path: Path) -> list[str]:
    photo, recipe = tmp_path / "photo.png", tmp_path / "own.toml"
    Image.new("RGB", (64, 64), "red").save(photo)
    recipe.write_text("resolution = 64\n[sampling]\nsize = 64\n")
    output = ["-o", str(tmp_path / "style.safetensors"), "--base", str(toy), "--recipe", str(recipe)]
    return ["learn", str(photo), *output]


def test_a_dry_run_prints_the_estimate(command: list[str], machine, capsys: pytest.CaptureFixture) -> None:
    machine("cpu", 8)
    assert main([*command, "--dry-run"]) == 0
    captured = capsys.readouterr().out
    assert "GiB free" in captured and "cpu, float32" in captured and "memory" in captured and "time" in captured


@pytest.mark.parametrize("dry", [["--dry-run"], []])
def test_learn_refuses_before_it_loads(
    command: list[str], dry: list[str], machine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def loaded(*_arguments: object, **_settings: object) -> None:
        raise AssertionError("loaded")

    machine("cpu", 0.1)
    monkeypatch.setattr(workflow, "load", loaded)
    assert main([*command, *dry]) == 4
    captured = capsys.readouterr()
    assert "0.1 GiB are free" in captured.err and not captured.out
    assert not list(Path(command[3]).parent.glob("style*"))


def test_learn_does_as_planned(command: list[str], toy: Path, machine) -> None:
    recipe = replace(SMALL, training=Training(checkpoint_seconds=0.0))
    shape = inspect_base(str(toy), ("tile", "canny"))
    settings = [memory.Setting(device="cpu", dtype="float32", checkpointing=lean) for lean in (False, True)]
    peaks = [max(memory.learn_phases(shape, recipe, setting, False).values()) for setting in settings]
    assert peaks[1] < peaks[0]
    machine("cpu", (peaks[0] - 1) / GIB)
    work = Path(command[3]).parent / "work"
    run = learn(command[1], base=toy, recipe=recipe, work=work)
    first = next(run)
    assert first.stage == "plan" and "Gradient checkpointing" in first.message
    while (record := next(run)).stage == "plan":
        pass
    frame = run.gi_frame.f_locals
    assert frame["base"].unet.is_gradient_checkpointing and record.stage == "pair"
    run.close()
    claimed = json.loads((work / "plan.json").read_text())
    assert not claimed["recipe"]["training"]["gradient_checkpointing"]  # free memory decides about no style


def test_half_precision_on_a_cpu_is_warned_of(toy: Path, machine) -> None:
    machine("cpu", 8)
    half = replace(SMALL, precision="float16")
    assert "slow on a CPU" in plan_apply(str(toy), half, controlnets=("tile",)).summary()
    assert "slow on a CPU" not in plan_apply(str(toy), SMALL, controlnets=("tile",)).summary()


def test_the_probe_tells_a_rate() -> None:
    assert 1e6 < this_machine.probe("cpu", "float32") < 1e14

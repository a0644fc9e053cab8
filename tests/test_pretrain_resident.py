"""The stage for a large GPU, as it is written, on the CPU: aligned crops, one step, a corpus that grows."""

from __future__ import annotations

import dataclasses
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from pretraining import autoencoder, data, model, resident, train

SIZE = 64
CPU = torch.device("cpu")
PLAN = train.StagePlan(seconds=2.0, tokens=64, sides=((8,), (4, 8)), rate=1e-3, final_rate=1e-4, ema=0.5)


def _pictures(seed: int) -> data.Corpus:
    rng = np.random.default_rng(seed)
    flat = rng.integers(0, 256, (4, SIZE // 8, SIZE // 8, 3)).repeat(8, 1).repeat(8, 2)
    fine = rng.integers(-20, 20, (4, SIZE // 2, SIZE // 2, 1)).repeat(2, 1).repeat(2, 2)
    stitched = np.zeros((4, SIZE, SIZE), bool)
    stitched[:, :, : SIZE // 2] = True
    captions = np.array([f"red thing {n}" for n in range(4)])
    pixels = np.uint8(np.clip(flat + fine, 0, 255))
    return data.Corpus(np.uint8(flat), pixels, stitched, captions, np.array(["satin"] * 4))


@pytest.fixture(scope="module")
def vae():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return autoencoder.build(_pictures(0).picture, np.random.default_rng(1))


@pytest.fixture
def networks(monkeypatch: pytest.MonkeyPatch) -> model.Networks:
    monkeypatch.setattr(model, "WIDTHS", (16, 16, 16))
    monkeypatch.setattr(model, "HEADS", (1, 1, 1))
    return model.build(model.make_tokenizer([str(c) for c in _pictures(0).caption]), seed=3)


def _corpora(networks: model.Networks, vae, room: int = 6) -> resident.Corpora:
    corpora = resident.Corpora(room, networks, vae, CPU, SIZE)
    corpora.add(_pictures(0))
    corpora.ready.fill_(corpora.count)
    return corpora


def test_crops_are_aligned_and_mostly_stitched(networks: model.Networks, vae) -> None:
    corpora, pictures, f = _corpora(networks, vae), _pictures(0), autoencoder.FACTOR
    torch.manual_seed(1)
    latents, tile, lines, states, pooled = corpora.draw(200, 4)
    assert latents.shape == (200, autoencoder.CHANNELS, 4, 4) and tile.shape == lines.shape == (200, 3, 4 * f, 4 * f)
    with torch.no_grad():
        whole = vae.encode(data.to_tensor(pictures.picture)).latents * vae.config.scaling_factor
        text = train.encode_text(networks, [str(c) for c in pictures.caption])
    windows = whole.unfold(2, 4, 1).unfold(3, 4, 1)  # picture, channel, row, column, 4, 4
    left = 0
    for n in range(200):
        apart = (windows - latents[n, :, None, None]).abs().amax((1, 4, 5))
        number, y, x = np.unravel_index(int(apart.argmin()), apart.shape)
        assert apart[number, y, x] < 0.01
        span = slice(y * f, (y + 4) * f), slice(x * f, (x + 4) * f)
        blurred = data.blur(pictures.design[number])[span].transpose(2, 0, 1)
        assert np.abs(tile[n].numpy() * 255 - blurred).max() < 1.01  # they may be rounded differently
        assert np.array_equal(lines[n, 0].numpy() * 255, data.edges(pictures.design[number])[span])
        assert torch.allclose(states[n], text[0][number], atol=0.01)
        assert torch.allclose(pooled[n], text[1][number], atol=0.01)
        left += x < 8
    assert left > 150  # by chance 120; the right half of every picture is bare


def test_there_are_no_more_pictures_than_room(networks: model.Networks, vae) -> None:
    corpora = _corpora(networks, vae)
    corpora.add(_pictures(1))
    corpora.add(_pictures(2))
    assert corpora.count == corpora.room == 6


def test_a_recorded_step_moves_only_when_it_has_a_rate(networks: model.Networks, vae) -> None:
    stage = resident.Stage(networks, _corpora(networks, vae), PLAN)
    before = {key: value.clone() for key, value in networks.unet.state_dict().items()}
    text = {key: value.clone() for key, value in networks.text.state_dict().items()}
    step, kept = stage.recorded(8), stage.keep()
    step()
    assert all(torch.equal(before[key], value) for key, value in networks.unet.state_dict().items())
    stage.rate.fill_(1e-2)
    step()
    step()
    assert float(stage.loss) > 0
    moved = networks.unet.state_dict()["conv_out.weight"]
    assert not torch.equal(before["conv_out.weight"], moved)
    average = stage.training.average["unet"]["conv_out.weight"]
    assert (average - moved).norm() < (before["conv_out.weight"] - moved).norm()
    assert all(torch.equal(text[key], value) for key, value in networks.text.state_dict().items())
    stage.restore(kept)
    assert all(torch.equal(before[key], value) for key, value in networks.unet.state_dict().items())
    assert not any(value.any() for value in stage.training.optimizers["muon"].state_dict()["state"][0].values())


class Clock:
    """Stands in for `time`; `now` is set by the test."""

    now, sleep = 0.0, staticmethod(time.sleep)

    def monotonic(self) -> float:
        return self.now


def test_a_stage_takes_in_what_is_rendered_meanwhile(
    networks: model.Networks, vae, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(resident, "time", clock)
    np.savez(tmp_path / "0000000.npz", **vars(_pictures(0)))
    np.savez(tmp_path / "0000008.tmp.npz", **vars(_pictures(2)))
    before = networks.unet.conv_out.weight.clone()
    reports = []
    for number, loss, _, pictures in resident.run(networks, vae, tmp_path, PLAN, room=8, least=1, each=1):
        if not reports:
            np.savez(tmp_path / "later.tmp.npz", **vars(_pictures(1)))
            (tmp_path / "later.tmp.npz").rename(tmp_path / "0000004.npz")
        reports.append((number, loss, pictures))
        if pictures == 8:
            clock.now = PLAN.seconds
    numbers, losses, pictures = zip(*reports, strict=True)
    assert numbers == tuple(range(1, len(reports) + 1)) and np.isfinite(losses).all()
    assert pictures[0] == 4 and pictures[-1] == 8
    assert not torch.equal(before, networks.unet.conv_out.weight)
    assert not any(thread.name == "feed" for thread in threading.enumerate())


def test_a_loss_that_is_no_number_costs_the_last_steps_only(
    networks: model.Networks, vae, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, rates, whole = Clock(), [], resident.Stage.step
    monkeypatch.setattr(resident, "time", clock)
    np.savez(tmp_path / "0000000.npz", **vars(_pictures(0)))

    def spoilt(self: resident.Stage, size: int, side: int) -> None:
        whole(self, size, side)
        rates.append(float(self.rate))
        if len(rates) == 3:
            with torch.no_grad():
                self.parameters[0].fill_(float("nan"))
        if len(rates) == 6:
            clock.now = PLAN.seconds

    monkeypatch.setattr(resident.Stage, "step", spoilt)
    plan = dataclasses.replace(PLAN, sides=((8,),), final_rate=PLAN.rate)
    losses = [loss for _, loss, _, _ in resident.run(networks, vae, tmp_path, plan, room=4, least=1, each=1)]
    assert np.isnan(losses[3]) and np.isfinite(losses[:3]).all() and np.isfinite(losses[4:]).all()
    assert all(torch.isfinite(v).all() for v in networks.unet.state_dict().values() if v.is_floating_point())
    assert rates[2] == pytest.approx(PLAN.rate * 3 / 200) and rates[4] == pytest.approx(0.5 * PLAN.rate * 5 / 200)

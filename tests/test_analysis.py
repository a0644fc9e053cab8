"""Inversion, features, similarity and the choice of blocks."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toy import make_toy

from tambour.analysis.blocks import check_blocks, choose_blocks, scores
from tambour.analysis.features import recorded, self_attentions
from tambour.analysis.inversion import Schedule, invert, predicted_noise, reconstruct
from tambour.analysis.similarity import compare, cosine_to_first
from tambour.base import Prompt, generator, load
from tambour.config import Analysis
from tambour.errors import InputError
from tambour.imaging.charts import Panel, draw_charts, smooth

SDXL_BLOCKS = (
    *("down_blocks.1.attentions.0", "down_blocks.1.attentions.1"),
    *("down_blocks.2.attentions.0", "down_blocks.2.attentions.1"),
    "mid_block.attentions.0",
    *(f"up_blocks.{i}.attentions.{j}" for i in (0, 1) for j in range(3)),
)
PAPERS_FOUR = (
    "down_blocks.1.attentions.1",
    "down_blocks.2.attentions.0",
    "up_blocks.0.attentions.1",
    "up_blocks.0.attentions.2",
)


def finish(iterator):
    """Run an iterator of progress records; what it returns."""
    while True:
        try:
            next(iterator)
        except StopIteration as end:
            return end.value


# -- inversion --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def epsilon_base(tmp_path_factory):
    """A toy base that predicts noise, which a random one can be inverted with."""
    return load(make_toy(tmp_path_factory.mktemp("epsilon"), prediction="epsilon"), controlnets=())


def inverted(base, method: str, iterations: int) -> tuple[torch.Tensor, float]:
    """Toy latents inverted in 12 steps, and their relative error when sampled back."""
    latents = torch.randn(1, base.latent_channels, 8, 8, generator=generator(0, "latents"))
    noise = predicted_noise(base, base.encode_prompt(["a red dog"]), base.time_ids(32, 32))
    schedule = Schedule.of(base, 12)
    *_, last = invert(noise, latents, schedule, method=method, iterations=iterations)
    return last, float((reconstruct(noise, last, schedule) - latents).norm() / latents.norm())


def test_round_trip(epsilon_base):
    renoise, ddim = inverted(epsilon_base, "renoise", 4)[1], inverted(epsilon_base, "ddim", 0)[1]
    assert renoise < 0.05
    assert renoise < ddim / 3


@pytest.mark.parametrize("prediction", ["sample", "v_prediction"])
def test_the_same_model_said_in_another_way_is_inverted_the_same(epsilon_base, prediction, monkeypatch):
    expected, error = inverted(epsilon_base, "renoise", 2)
    original = epsilon_base.predict

    def predict(latents, t, prompt, time_ids, *, per_block=None):
        eps = original(latents, t, prompt, time_ids, per_block=per_block)
        a, s = epsilon_base._signal_and_noise(t)
        x0 = (latents - s * eps) / a
        return x0 if prediction == "sample" else a * eps - s * x0

    monkeypatch.setattr(epsilon_base, "predict", predict)
    monkeypatch.setattr(type(epsilon_base), "prediction_type", prediction)
    found, error_again = inverted(epsilon_base, "renoise", 2)
    assert torch.allclose(found, expected, atol=1e-2)
    assert error_again == pytest.approx(error, abs=1e-3)


@pytest.mark.parametrize("method", ["renoise", "ddim"])
def test_a_gaussian_is_inverted_exactly(method):
    """For data N(0, c^2) the flow scales z by sqrt(a^2 c^2 + s^2) / c; both methods converge to it."""
    c, steps = 2.0, 400
    s = np.linspace(0, 0.95, steps + 1)[1:]
    schedule = Schedule(tuple(range(steps)), tuple(np.sqrt(1 - s**2).tolist()), tuple(s.tolist()))

    def noise(z, t):
        a2, s2 = schedule.signal[t] ** 2, schedule.noise[t] ** 2
        return z * schedule.noise[t] / (a2 * c**2 + s2)

    latents = torch.randn(1, 4, 8, 8, generator=generator(0, "latents"))
    *_, last = invert(noise, latents, schedule, method=method)
    exact = latents * math.sqrt(schedule.signal[-1] ** 2 * c**2 + schedule.noise[-1] ** 2) / c
    assert torch.allclose(last, exact, rtol=0.01)


def test_renoise_solves_for_the_noise_at_the_point_it_leads_to():
    schedule = Schedule((0,), (0.8,), (0.6,))
    latents = torch.ones(1, 1, 1, 1)

    def noise(z, t):
        return 0.5 * z  # the fixed point of z = 0.8 + 0.6 * 0.5 z

    found = [float(next(invert(noise, latents, schedule, method="renoise", iterations=k))) for k in (0, 1, 40)]
    assert found == pytest.approx([0.8 + 0.3, 0.8 + 0.3 * 1.1, 0.8 / 0.7])
    assert float(next(invert(noise, latents, schedule, method="ddim"))) == pytest.approx(1.1)


def test_noised_pictures_share_their_noise_and_the_model_sees_each():
    schedule = Schedule((10, 20), (0.8, 0.6), (0.6, 0.8))
    latents = torch.stack([torch.zeros(4, 8, 8), torch.ones(4, 8, 8)])
    seen = []
    path = list(invert(lambda z, t: seen.append((z, t)) or z, latents, schedule, method="noised"))
    assert [t for _, t in seen] == [10, 20]
    for (z, _), yielded, a, s in zip(seen, path, schedule.signal, schedule.noise, strict=True):
        assert z is yielded
        assert torch.allclose(z[1] - z[0], torch.full((4, 8, 8), a))
        assert float(z[0].std()) == pytest.approx(s, rel=0.15)
    assert not torch.allclose(path[0][0] / 0.6, path[1][0] / 0.8)


def test_inversion_refuses_what_it_cannot_do(toy_base):
    with pytest.raises(InputError, match=r"guess.*renoise, ddim, noised"):
        next(invert(lambda z, t: z, torch.zeros(1, 1, 1, 1), Schedule((0,), (0.8,), (0.6,)), method="guess"))
    with pytest.raises(InputError, match="1 to 1000"):
        Schedule.of(toy_base, 2000)
    assert Schedule.of(toy_base, 50).timesteps[-1] == 999
    assert Schedule.of(toy_base, 50).timesteps[0] == 19


# -- features and similarity ------------------------------------------------------------------------------------------


def test_features_are_the_output_of_attention_after_its_projection(toy_base):
    """F^o = f_o(softmax(Q K^T / sqrt(d)) V), written out for one layer."""
    block = "up_blocks.0.attentions.1"
    (name,) = self_attentions(toy_base.unet, block)
    layer = toy_base.unet.get_submodule(name)
    heard = []
    handle = layer.register_forward_pre_hook(lambda _module, args: heard.append(args[0]))
    latents = torch.randn(2, toy_base.latent_channels, 8, 8, generator=generator(0, "latents"))
    with torch.no_grad(), recorded(toy_base.unet, [block], lambda features: features) as found:
        toy_base.predict(latents, 10, toy_base.encode_prompt(["a"]), toy_base.time_ids(32, 32))
        handle.remove()
        x = heard[0]  # (B, T, C)
        q, k, v = (
            project(x).unflatten(-1, (layer.heads, -1)).transpose(1, 2)  # (B, heads, T, d)
            for project in (layer.to_q, layer.to_k, layer.to_v)
        )
        attention = torch.softmax(q @ k.mT / math.sqrt(q.shape[-1]), -1)
        expected = layer.to_out[0]((attention @ v).transpose(1, 2).flatten(2))
    assert list(found) == [name]
    assert torch.allclose(found[name], expected, atol=1e-5)


def test_hooks_are_gone_afterwards(toy_base):
    with pytest.raises(RuntimeError), recorded(toy_base.unet, toy_base.attention_blocks, cosine_to_first):
        raise RuntimeError
    assert not any(module._forward_hooks for module in toy_base.unet.modules())


def test_cosine_to_first():
    features = torch.tensor([[[1.0, 0], [0, 1]], [[2, 0], [0, 2]], [[0, 1], [-1, 0]], [[-1, 0], [0, -1]]])
    assert cosine_to_first(features).tolist() == pytest.approx([1, 0, -1])


def similarity(base, others, **options):
    settings = Analysis(steps=6, segments=3, renoise_iterations=1)
    latents = torch.randn(1, base.latent_channels, 8, 8, generator=generator(0, "latents"))
    prompt = base.encode_prompt(["a dog"])
    batch = torch.cat([latents + noise for noise in others])
    prompts = Prompt(prompt.embeds.expand(len(batch), -1, -1), prompt.pooled.expand(len(batch), -1))
    run = compare(base, (latents, prompt), (batch, prompts), base.time_ids(32, 32), settings, stage="blocks", **options)
    return finish(run)


def test_the_same_picture_is_alike_everywhere_and_others_are_less(toy_base):
    noise = torch.randn(1, toy_base.latent_channels, 8, 8, generator=generator(1, "latents"))
    found = similarity(toy_base, [0 * noise, 0.1 * noise, noise, 3 * noise, 2 * noise])
    assert found.shape == (5, 11, 3)
    assert torch.allclose(found[0], torch.ones(11, 3), atol=1e-4)
    late = found[:, :, -1].mean(1)
    assert late[0] > late[1] > late[2]


def test_late_segments_alone_agree_with_the_whole(toy_base):
    noise = torch.randn(1, toy_base.latent_channels, 8, 8, generator=generator(1, "latents"))
    whole, late = similarity(toy_base, [noise]), similarity(toy_base, [noise], first_segment=1)
    assert late.shape == (1, 11, 2)
    assert torch.allclose(whole[:, :, 1:], late, atol=1e-6)


def test_more_segments_than_steps_are_refused(toy_base):
    run = compare(toy_base, (None, None), (None, None), None, Analysis(steps=4, segments=5), stage="blocks")
    with pytest.raises(InputError, match="5 segments"):
        next(run)


# -- choice -----------------------------------------------------------------------------------------------------------


@given(st.integers(0, 2**32 - 1))
def test_the_papers_pattern_gives_the_papers_four(seed):
    """Four blocks at 0.55 to 0.75 late in denoising, seven at 0.82 to 0.98; all near 1 at the start."""
    rng = np.random.default_rng(seed)
    papers = [name in PAPERS_FOUR for name in SDXL_BLOCKS]
    late = np.where(papers, rng.uniform(0.55, 0.72, 11), rng.uniform(0.84, 0.98, 11))
    similarity = 1 - (1 - late)[:, None] * np.linspace(0.2, 1, 10) ** 2 + rng.normal(0, 0.003, (11, 10))
    chosen = choose_blocks(scores(similarity))
    assert {SDXL_BLOCKS[i] for i in chosen} == set(PAPERS_FOUR)


values = st.lists(st.floats(-1, 1, width=16), min_size=4, max_size=20)


@given(values)
def test_never_empty_never_most(row):
    chosen = choose_blocks(np.array(row))
    assert 2 <= len(chosen) <= len(row) // 2
    assert list(chosen) == sorted(set(chosen))
    assert max(row[i] for i in chosen) <= min(row[i] for i in range(len(row)) if i not in chosen)


@given(st.permutations(range(11)), st.floats(0.01, 100), st.floats(-5, 5))
@settings(max_examples=50)
def test_scale_and_shift_do_not_matter(order, scale, shift):
    row = np.array([0.61, 0.66, 0.7, 0.93, 0.95, 0.94, 0.86, 0.97, 0.99, 0.9, 0.88])[order]
    assert choose_blocks(row) == choose_blocks(row * scale + shift)


def test_scores_weigh_the_late_half():
    assert scores(np.array([[1.0, 1, 0.5, 0.7], [0, 0, 1, 1]])).tolist() == pytest.approx([0.6, 1.0])
    assert scores(np.array([[0.3]])).tolist() == [0.3]


def test_broken_similarities_are_refused():
    with pytest.raises(InputError, match="not finite"):
        choose_blocks(np.array([0.1, np.nan, 0.3, 0.4]))


def test_the_users_own_blocks():
    assert check_blocks([SDXL_BLOCKS[5], SDXL_BLOCKS[1]], SDXL_BLOCKS) == (SDXL_BLOCKS[1], SDXL_BLOCKS[5])
    with pytest.raises(InputError, match=r"up_blocks\.9.*mid_block\.attentions\.0"):
        check_blocks(["up_blocks.9"], SDXL_BLOCKS)
    with pytest.raises(InputError):
        check_blocks([], SDXL_BLOCKS)


# -- charts -----------------------------------------------------------------------------------------------------------


def test_charts_are_valid_svg():
    import xml.etree.ElementTree as ET

    panels = [
        Panel("a < b", "segment", {"up & down": [1, 2, 3], "flat": [1, 1, 1]}, bold=["flat"]),
        Panel("one", "iteration", {"x": [0.5]}, x=[3]),
        Panel("none", "iteration", {}),
    ]
    root = ET.fromstring(draw_charts(panels))
    assert len(root.findall(".//{*}polyline")) == 3


def test_smooth():
    assert smooth([1, 3, 5, 7], 2) == [1, 2, 4, 6]
    assert smooth([], 2) == []

"""The paper's other domains: recipes, edge maps as designs, cases of known truth, and all of it end to end on a toy."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from test_bench_run import finish
from workflow_calls import apply

import tambour.workflows.learn as workflow
from tambour.base import load
from tambour.bench import cases, domains, metrics, report, run
from tambour.bench.looks import LOOKS, look
from tambour.cli import main
from tambour.config import (
    Analysis,
    Complement,
    Edges,
    Lora,
    Recipe,
    Sampling,
    Stage,
    StageTwo,
    Training,
    bundled,
    on_edges,
    read_recipe,
    recipe_from,
    recipe_values,
)
from tambour.errors import InputError
from tambour.imaging.conditions import canny_condition
from tambour.imaging.files import save_image
from tambour.imaging.geometry import flatten
from tambour.imaging.scores import colour_difference
from tambour.imaging.texture import texture_distance, texture_statistics
from tambour.pair.edges import edge_map, find_lines
from tambour.pair.reference import prepare
from tambour.stitch import default_stitch
from tambour.style import read_style
from tambour.training.pairs import draw, encode_pair
from tambour.training.routing import RoutedModel
from tambour.workflows.embroider import Result
from tambour.workflows.report import to_toml

SIDE = 96
CANNY = replace(Recipe(), design_kind="canny")


def toy_recipe(domain: str) -> Recipe:
    """The domain's recipe at toy size."""
    recipe = read_recipe(f"mini-{domain}")
    return replace(
        recipe,
        resolution=SIDE,
        crop=48,
        batch=2,
        lora=Lora(rank=2, alpha=2.0),
        analysis=Analysis(steps=2, segments=2, renoise_iterations=1),
        stage_one=Stage(2, 1e-3),
        complement=Complement(count=1, source="designs", first_segment=1),
        stage_two=StageTwo(1, 1e-3),
        sampling=replace(recipe.sampling, size=SIDE, steps=2, guide_strength=0.5),
    )


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Pictures of 96 px, and no fitting of stitches, which takes seconds."""
    monkeypatch.setattr(cases, "SIZE", SIDE)
    monkeypatch.setattr(cases, "PX_PER_MM", 7.0)
    monkeypatch.setattr(workflow, "fit_stitch", lambda photo, mask, family=None: default_stitch("satin"))
    caches = (cases.design, domains._drawn)
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


@pytest.fixture(scope="module")
def base(toy):
    return load(toy)


# -- recipes ----------------------------------------------------------------------------------------------------------


def test_a_recipe_holds_only_what_differs_from_the_one_it_extends(tmp_path):
    names = ("mini", "mini-artistic", "mini-sketch-paper", "mini-appearance-paper")
    mini, artistic, sketch, appearance = map(read_recipe, names)
    assert not artistic.sampling.firm.correct_colours and mini.sampling.firm.correct_colours
    same = replace(artistic, sampling=mini.sampling, training=mini.training, masked_style=mini.masked_style)
    assert same == mini
    assert not any(r.masked_style or r.training.palettes for r in (artistic, sketch, appearance))
    for recipe, design in ((sketch, "canny"), (appearance, "outline")):
        assert (recipe.design_kind, recipe.training_controlnet) == (design, "canny")
        for edges in (recipe.sampling.firm, recipe.sampling.free):
            assert (edges.tile, edges.canny, edges.strength, edges.correct_colours) == (0.0, 1.0, 1.0, False)
    assert appearance == replace(sketch, design_kind="outline")
    found = on_edges(mini, "outline")
    assert (found.sampling, found.training, found.training_controlnet) == (
        appearance.sampling,
        appearance.training,
        "canny",
    )
    assert not found.masked_style and found.stage_one == mini.stage_one
    mine = tmp_path / "mine.toml"
    assert read_recipe("mini-appearance") == replace(mini, design_kind="filled") == on_edges(mini, "filled")
    assert (read_recipe("mini-sketch").design_kind, read_recipe("mini-sketch").training_controlnet) == (
        "filled",
        "tile",
    )
    mine.write_text('extends = "mini-sketch-paper"\n[stage_one]\niterations = 7\n')
    assert read_recipe(mine) == replace(sketch, stage_one=replace(sketch.stage_one, iterations=7))
    mine.write_text('extends = "maxi"')
    with pytest.raises(InputError, match="Allowed: mini, sdxl"):
        read_recipe(mine)


def test_every_bundled_recipe_is_read():
    of_domains = {f"mini-{name}" for domain in domains.DOMAINS.values() for name in (domain.recipe, domain.paper)}
    assert {"mini", "sdxl", *of_domains} <= set(bundled())
    for name in bundled():
        assert isinstance(read_recipe(name), Recipe)


# -- edge maps --------------------------------------------------------------------------------------------------------


def _disc(ground: int = 255, side: int = SIDE) -> Image.Image:
    image = Image.new("RGB", (side, side), (ground,) * 3)
    ImageDraw.Draw(image).ellipse((16, 16, side - 24, side - 24), fill=(200, 60, 30))
    return image


def test_edges_of_edges_are_the_edges():
    once = canny_condition(_disc())
    white = np.asarray(once)[..., 0] == 255
    assert 0 < white.mean() < 0.1
    assert np.array_equal(np.asarray(canny_condition(once)), np.asarray(once))
    assert np.array_equal(np.asarray(edge_map(once, CANNY)), np.asarray(once))
    solid = Image.fromarray(np.where(np.indices((SIDE, SIDE))[0][..., None] < 40, 255, 0).repeat(3, 2).astype(np.uint8))
    assert (np.asarray(canny_condition(solid)) != np.asarray(solid)).any(), "two halves are no edge map"


@pytest.mark.parametrize(("paper", "ink"), [(250, 20), (5, 240)])
def test_a_drawings_lines_are_taken_as_they_are(paper, ink):
    image = Image.new("RGB", (SIDE, SIDE), (paper,) * 3)
    ImageDraw.Draw(image).ellipse((16, 16, 70, 70), outline=(ink,) * 3, width=3)
    found = np.asarray(edge_map(image, CANNY))[..., 0] == 255
    assert np.array_equal(found, np.asarray(image)[..., 0] == ink)
    assert find_lines(_disc()) is None


def test_outlines_see_no_texture():
    rng = np.random.default_rng(0)
    grain = np.asarray(_disc(side=192)).astype(int) + rng.choice((-50, 50), (192, 192, 1))
    picture = Image.fromarray(grain.clip(0, 255).astype(np.uint8))
    share = [(np.asarray(edge_map(picture, replace(CANNY, design_kind=d))) > 0).mean() for d in ("canny", "outline")]
    assert share[0] > 0.1 and 0.002 < share[1] < 0.03
    with pytest.raises(InputError, match="Allowed: flat, canny, outline"):
        recipe_from({"design_kind": "hed"})


@pytest.mark.parametrize("own", [False, True])
def test_the_pairs_design_is_the_edge_map(base, tmp_path, own):
    photo, design = (save_image(_disc(ground), tmp_path / f"{ground}.png") for ground in (255, 120))
    recipe = replace(toy_recipe("sketch-paper"), resolution=SIDE)
    _, pair = finish(prepare(photo, design if own else None, recipe, base))
    seen = Image.open(design if own else photo)
    assert np.array_equal(np.asarray(pair.design), np.asarray(canny_condition(seen)))
    assert np.array_equal(np.asarray(pair.embroidery), np.asarray(Image.open(photo)))


def test_training_hears_the_canny_of_an_edge_map(base):
    recipe = toy_recipe("sketch-paper")
    edges = canny_condition(_disc())
    pair = encode_pair(base, edges, _disc(), "design", recipe)
    assert pair.condition_kind == "canny" and set(pair.condition.unique().tolist()) == {0.0, 1.0}
    model = RoutedModel(base, tuple(base.attention_blocks), recipe.training.tile, recipe.training.loss)
    batch = draw(base, [pair], 2, torch.Generator().manual_seed(0))
    heard = []
    handle = base.controlnets["canny"].register_forward_hook(lambda *_: heard.append("canny"))
    other = base.controlnets["tile"].register_forward_hook(lambda *_: heard.append("tile"))
    try:
        model.predict(batch.embroidery, 500 * batch.time_ids.new_ones(2).long(), batch, style=True)
    finally:
        handle.remove()
        other.remove()
    assert heard == ["canny"]


# -- looks and cases --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", LOOKS)
def test_a_look_is_deterministic_keeps_colours_and_is_unlike_the_flat(kind):
    flat = np.asarray(flatten(cases.design("heart").resize((192, 192)), (236, 230, 216)))
    one, same, other = (look(kind, flat, seed) for seed in (1, 1, 2))
    assert one.dtype == np.uint8 and one.shape == flat.shape
    assert np.array_equal(one, same) and not np.array_equal(one, other)
    assert colour_difference(one, flat) < 25
    a, b, none = (texture_statistics(picture) for picture in (one, other, flat))
    assert texture_distance(a, b) < 0.5 * texture_distance(a, none)
    assert np.array_equal(look("flat", flat, 1), flat)


def test_looks_are_none_of_the_pretrainings():
    assert not set(LOOKS) & {"flat", "pencil", "watercolour", "halftone"}


def test_cases_are_split_and_whole():
    for domain in domains.DOMAINS:
        split = {s: domains.cases_of(domain, s) for s in cases.SPLITS}
        assert all(split.values())
        for name, found in split.items():
            assert all(case.reference in cases.DESIGNS[name] for case in found)
            assert all(bool(case.look) != bool(case.stitch) for case in found)
        assert len(domains.content_hash(domain)) == 64
    assert len({case.name for case in domains.CASES}) == len(domains.CASES)
    assert len({domains.content_hash(domain) for domain in domains.DOMAINS}) == 3
    with pytest.raises(InputError, match="Allowed: embroidery, artistic"):
        domains.cases_of("photo", "test")
    with pytest.raises(InputError, match="Allowed: oil-broad, mosaic"):
        domains.cases_of("artistic", "test", ["dusk"])


def test_repainting_keeps_shapes_and_uses_the_palette_alone():
    palette = ((20, 30, 60), (120, 60, 90), (250, 220, 150))
    design = cases.design("fox")
    painted = domains.repainted(design, palette)
    pixels = np.asarray(painted)
    assert {tuple(c) for c in pixels[..., :3].reshape(-1, 3).tolist()} == set(palette)
    assert np.array_equal(pixels[..., 3], np.asarray(design)[..., 3])
    assert domains.repainted(design, ()) is design


@pytest.mark.parametrize("case", domains.CASES, ids=lambda case: case.name)
def test_the_truth_comes_before_the_unstyled_design(case):
    name = next(n for n in cases.DESIGNS[case.split] if n != case.reference)
    pair = domains.pairing(case, [name])
    (target,) = pair.targets
    truth_known = run.known(pair, target)
    wanted = domains.DOMAINS[case.domain].metrics
    twin = metrics.measure_look(np.asarray(domains.truth(case, name, 99).image), truth_known, wanted)
    unstyled = flatten(target.design, pair.fabric)
    if case.domain != "artistic":
        unstyled = canny_condition(unstyled)
    bare = metrics.measure_look(np.asarray(unstyled), truth_known, wanted)
    assert set(twin) == set(wanted)
    for metric in metrics.METRICS:
        if metric.name in twin:
            assert metric.low <= twin[metric.name] <= metric.high
    better = {"artistic": ["texture"], "sketch": ["texture", "palette"]}.get(case.domain, [*wanted[:4]])
    for name in better:  # an unpainted design has the very mean colours that paint scatters around
        assert twin[name] < bare[name], name


# -- end to end -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("domain", domains.DOMAINS)
def test_a_domains_benchmark_runs_and_reports(domain, toy, tmp_path):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(to_toml(recipe_values(toy_recipe(domain))))
    case = domains.cases_of(domain, "test")[0]
    name = next(n for n in cases.DESIGNS["test"] if n != case.reference)
    plan = run.Plan(domain=domain, styles=(case.name,), designs=(name,), base=str(toy), recipe=str(recipe))
    plan = replace(plan, methods=("ours", "dreambooth", "unstyled", "truth"))
    out = tmp_path / "out"
    finish(run.run(out, plan))
    found = {record["method"]: record for _, record in run.results(out)}
    assert {record["status"]: record.get("reason") for record in found.values()} == {"done": None} and len(found) == 4
    assert set(found["ours"]["metrics"]) <= set(domains.DOMAINS[domain].metrics)
    assert {record.stage for record in finish(run.run(out, plan))[0]} == {"base"}, "it resumes"
    finish(report.report(out))
    summary = json.loads((out / "report.json").read_text())
    assert summary["cases"] == domains.content_hash(domain) and summary["domain"] == domain
    assert summary["table"]["truth"]["texture"]["mean"] < summary["table"]["unstyled"]["texture"]["mean"]
    assert (out / "sheets" / f"{case.name}.jpg").exists()
    assert domains.DOMAINS[domain].note in (out / "report.md").read_text()


def test_methods_that_need_stitches_are_refused_elsewhere(tmp_path, capsys):
    common = ["bench", "run", str(tmp_path / "out"), "--domain", "sketch", "--quiet"]
    assert main([*common, "--methods", "renderer"]) == 2
    assert "not run in domain sketch" in capsys.readouterr().err
    assert main([*common, "--reduced"]) == 2
    assert main([*common, "--styles", "dusk", "--designs", "heart", "--methods", "unstyled,truth"]) == 0
    assert run.setup_of(tmp_path / "out")["domain"] == "sketch"


def test_a_sketch_is_learnt_and_drawn_from_the_command_line(toy, tmp_path, monkeypatch):
    """`learn --design canny` with a recipe for flat designs is the sketch recipe; `apply` sees edges alone."""
    flat = replace(
        toy_recipe("artistic"), stage_two=StageTwo(0), sampling=Sampling(size=SIDE, steps=2, guidance_scale=1.0)
    )
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(to_toml(recipe_values(replace(flat, training=Training(tile=1.0)))))
    photo = save_image(_disc(), tmp_path / "photo.png")
    style = tmp_path / "style.safetensors"
    common = ["--base", str(toy), "--recipe", str(recipe), "--quiet"]
    assert main(["learn", str(photo), "-o", str(style), "--design", "canny", *common]) == 0
    loaded = read_style(style)
    assert loaded.recipe["design_kind"] == "canny" and loaded.recipe["sampling"]["firm"]["correct_colours"] is False
    red, base = _disc(), load(toy)
    pictures = [r.image for r in apply(loaded, [red, canny_condition(red)], base=base) if isinstance(r, Result)]
    assert np.array_equal(*map(np.asarray, pictures)), "a picture and its edge map give the same result"
    assert Edges(tile=0.0, canny=1.0, strength=1.0, correct_colours=False) == on_edges(flat, "canny").sampling.firm

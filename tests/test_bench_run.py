"""Benchmark runs on the toy base: every method draws, runs resume, failures stay local, the report tells all of it."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import tambour.bench.methods.task as task_module
import tambour.workflows.learn as workflow
from tambour.base import load
from tambour.bench import cases, report, run
from tambour.bench.methods import METHODS, pick
from tambour.bench.methods.task import Method, Task, scaled
from tambour.cli import main
from tambour.config import Analysis, Complement, Edges, Lora, Recipe, Sampling, Stage, StageTwo, Training, recipe_values
from tambour.errors import InputError
from tambour.progress import Progress
from tambour.stitch import default_stitch
from tambour.workflows.report import to_toml

SIDE = 96
STYLES = ("chain-bold", "satin-cable")
RECIPE = Recipe(
    resolution=SIDE,
    crop=48,
    lora=Lora(rank=2, alpha=2.0),
    analysis=Analysis(steps=2, segments=2, renoise_iterations=1),
    training=Training(tile=1.0, checkpoint_seconds=60.0),
    stage_one=Stage(2, 1e-3),
    complement=Complement(count=1, source="designs", first_segment=1),
    stage_two=StageTwo(1, 1e-3),
    sampling=Sampling(size=SIDE, steps=2, guidance_scale=1.0, firm=Edges(strength=0.9)),
)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Cases of 96 px, a library of two styles, and no fitting, which takes seconds and is tested elsewhere."""
    monkeypatch.setattr(cases, "SIZE", SIDE)
    monkeypatch.setattr(cases, "PX_PER_MM", 7.0)
    monkeypatch.setattr(cases, "STYLES", tuple(style for style in cases.STYLES if style.name in STYLES))
    monkeypatch.setattr(workflow, "fit_stitch", lambda photo, mask, family=None: default_stitch("satin"))
    monkeypatch.setattr("tambour.bench.methods.bounds.fit_stitch", lambda photo, mask: default_stitch("satin"))
    caches = (cases.design, cases._drawn, run.library)
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


@pytest.fixture
def plan(toy, tmp_path):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(to_toml(recipe_values(RECIPE)))
    return run.Plan(styles=STYLES[:1], designs=("heart",), base=str(toy), recipe=str(recipe))


def finish(work):
    """Run to the end: (records, what it returned)."""
    records = []
    while True:
        try:
            records.append(next(work))
        except StopIteration as end:
            return records, end.value


@pytest.fixture(scope="module")
def base(toy):
    return load(toy)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_every_method_draws_on_the_toy_base(base, tmp_path, method):
    if method.needs_base and (reason := method.missing(base)):
        assert method.name in ("rb-modulation", "instantstyle", "paper") and reason
        return
    pair = cases.pairing(cases.STYLES[0], ["heart"])
    (target,) = pair.targets
    task = Task(pair, base, RECIPE, 3, tmp_path, lambda name, seed: cases.truth(pair.case, name, seed + 50).image)
    learnt = None
    if method.learn:
        records, learnt = finish(method.learn(task))
        if method.group == "trained":  # as many updates as ours, at most
            iterations = {record.stage: record.total for record in records if record.stage != "pair"}
            assert task.updates == 7 >= sum(iterations.values()) > 2
    records, picture = finish(method.draw(task, learnt, target))
    assert records and all(isinstance(record, Progress) for record in records)
    assert picture.mode == "RGB" and picture.size == target.design.size
    if method.name in ("ours", "analogies", "transport"):
        again = finish(method.draw(task, learnt, target))[1]
        assert np.array_equal(np.asarray(picture), np.asarray(again)), "it is not deterministic"
    if method.name == "unstyled":
        assert np.array_equal(np.asarray(picture), np.asarray(task.flat(target)))
    assert not getattr(base.unet, "peft_config", None), "it left a LoRA on the base"


def test_a_run_is_kept_resumed_and_told(plan, tmp_path):
    out = tmp_path / "out"
    plan = replace(plan, styles=STYLES, methods=("unstyled", "truth", "renderer", "styleid"))
    finish(run.run(out, plan))
    found = run.results(out)
    assert len(found) == 2 * 4 and all(record["status"] == "done" for _, record in found)
    assert not list((out / "work").iterdir())
    before = {path: path.stat().st_mtime_ns for path, _ in found}
    records, _ = finish(run.run(out, plan))
    assert {record.stage for record in records} == {"base"}
    found[0][0].unlink()
    finish(run.run(out, plan))
    after = {path: path.stat().st_mtime_ns for path, _ in run.results(out)}
    assert [path for path in before if before[path] != after[path]] == [found[0][0]]

    _, written = finish(report.report(out))
    summary = json.loads((out / "report.json").read_text())
    assert summary["cases"] == cases.content_hash() and summary["pictures"] == 8
    assert summary["table"]["truth"]["texture"]["mean"] < summary["table"]["unstyled"]["texture"]["mean"]
    assert {path.name for path in written} >= {"report.json", "report.md", "index.html", f"{STYLES[0]}.jpg"}
    assert "Test split" in (out / "report.md").read_text()


def test_the_command_runs_and_reports(tmp_path, capsys):
    out = tmp_path / "out"
    chosen = ["--styles", STYLES[0], "--designs", "heart,fox", "--methods", "unstyled,truth"]
    assert main(["bench", "run", str(out), *chosen, "--quiet"]) == 0
    assert main(["bench", "report", str(out), "--quiet"]) == 0
    assert str(out / "index.html") in capsys.readouterr().out
    assert json.loads((out / "report.json").read_text())["pictures"] == 4
    assert main(["bench", "run", str(out), "--methods", "magic"]) == 2
    assert "Allowed: ours" in capsys.readouterr().err


def test_results_of_another_recipe_are_kept_apart(plan, tmp_path):
    out = tmp_path / "out"
    finish(run.run(out, replace(plan, methods=("unstyled", "dreambooth"))))
    finish(run.run(out, replace(plan, methods=("dreambooth",), budget=2.0)))
    assert [record["method"] for _, record in run.results(out)] == ["dreambooth"]
    finish(run.run(out, replace(plan, methods=("unstyled",), budget=2.0)))
    assert sorted(record["method"] for _, record in run.results(out)) == ["dreambooth", "unstyled"]


def test_a_failing_method_stops_nothing_and_is_tried_again(plan, tmp_path, monkeypatch):
    def broken(task, learnt, target):
        yield Progress("broken", 0, 1)
        raise RuntimeError("out of thread")

    kind = Method("broken", "broken", "trained", "", broken, needs_base=False)
    nowhere = Method("nowhere", "nowhere", "trained", "", broken, missing=lambda base: "it has no such part")
    chosen = (kind, nowhere, *pick(["unstyled", "truth"]))
    monkeypatch.setattr(run, "pick", lambda names: chosen)
    out = tmp_path / "out"
    finish(run.run(out, plan))
    status = {record["method"]: record for _, record in run.results(out)}
    assert status["broken"]["status"] == "failed" and "out of thread" in status["broken"]["reason"]
    assert (status["nowhere"]["status"], status["nowhere"]["reason"]) == ("n/a", "it has no such part")
    assert status["unstyled"]["status"] == status["truth"]["status"] == "done"
    finish(report.report(out))
    text = (out / "report.md").read_text()
    assert "FAILED: broken" in text and "nowhere was not run: it has no such part" in text
    tried = [record.stage for record in finish(run.run(out, plan))[0]]
    assert any("broken" in stage for stage in tried) and not any("unstyled" in stage for stage in tried)


def test_pairs_of_ours_never_come_from_designs_it_is_judged_on():
    for style in cases.STYLES:
        pair = cases.pairing(style, [])
        allowed = run._for(RECIPE, pair).complement.designs
        assert allowed and not set(allowed) & {*cases.targets_of(style), style.reference}


def test_the_budget_scales_every_stage():
    half = scaled(replace(RECIPE, stage_one=Stage(150, 1e-3), stage_two=StageTwo(50, 1e-3)), 0.5)
    assert (half.stage_one.iterations, half.stage_two.iterations) == (75, 25)
    assert scaled(replace(RECIPE, stage_two=StageTwo(0, 1e-3)), 2).stage_two.iterations == 0
    with pytest.raises(InputError, match="budget"):
        scaled(RECIPE, 0)


def test_a_folder_without_a_benchmark_is_refused(tmp_path):
    with pytest.raises(InputError, match="holds no benchmark"):
        finish(report.report(tmp_path))


def test_intervals_hold_the_mean_and_are_the_same_every_time():
    values = np.random.default_rng(0).normal(3, 1, 12)
    low, high = report.interval(values)
    assert low < values.mean() < high and report.interval(values) == (low, high)
    assert report.interval([2.0, 2.0, 2.0]) == (2.0, 2.0)


def test_ours_wins_only_where_the_interval_says_so():
    def row(method, style, texture):
        return {"method": method, "style": style, "metrics": {"texture": texture, "edges": 0.5}}

    rows = [row("ours", f"s{i}", 0.3 + 0.01 * i) for i in range(6)]
    rows += [row("dreambooth", f"s{i}", 0.6 + 0.02 * i) for i in range(6)]
    rows += [row("b-lora", f"s{i}", 0.9) for i in range(6)]
    verdicts = {one["metric"]: one for one in report.against_rivals(rows)}
    assert verdicts["texture"]["rival"] == "dreambooth" and verdicts["texture"]["better"] == "ours"
    assert verdicts["edges"]["better"] == "neither"


def test_who_draws_no_stitches_is_no_rival():
    def row(method, style, edges, passes):
        return {"method": method, "style": style, "metrics": {"edges": edges, "robust": passes}}

    rows = [row("ours", f"s{i}", 0.6, 1.0) for i in range(6)]
    rows += [row("dreambooth", f"s{i}", 0.5, float(i == 0)) for i in range(6)]
    rows += [row("b-lora", f"s{i}", 0.99, 0.0) for i in range(6)]
    assert report.unstitched(rows) == ["b-lora"]
    verdicts = {one["metric"]: one for one in report.against_rivals(rows)}
    assert verdicts["edges"]["rival"] == "dreambooth" and verdicts["edges"]["better"] == "ours"


def test_style_by_style_the_best_that_is_no_bound_stands_out():
    facts = {
        "styles": ["cord", "satin", "sequin"],
        "edges": {"cord": "firm", "satin": "firm", "sequin": "free"},
        "by style": {
            "texture": {
                "ours": {"cord": 0.2, "satin": 0.4, "sequin": 0.3},
                "dreambooth": {"cord": 0.5, "satin": 0.3},
                "truth": {"cord": 0.1, "satin": 0.1, "sequin": 0.1},
            }
        },
    }
    heads, rows = report._style_grid(facts, next(m for m in report.METRICS if m.name == "texture"))
    assert heads == ["style", "ours", "DreamBooth-LoRA", "truth, another seed"]
    assert rows == [
        ["cord", "**0.20**", "0.50", "0.10"],
        ["satin", "0.40", "**0.30**", "0.10"],
        ["sequin", "**0.30**", "", "0.10"],
        ["mean of firm edges", "**0.30**", "0.40", "0.10"],
        ["mean of free edges", "**0.30**", "", "0.10"],
    ]


def test_stitched_is_where_the_design_is(tmp_path):
    target = cases.pairing(cases.STYLES[0], ["heart"]).targets[0]
    opaque = np.asarray(target.design)[..., 3] > 127
    assert (task_module.stitched(target) != opaque).mean() < 0.02
    assert Image.fromarray(opaque).size == target.design.size

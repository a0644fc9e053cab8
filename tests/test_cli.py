"""The command line, end to end on the toy base: results, exit codes, refusals, and work that was interrupted."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

import tambour
from tambour.cli import main
from tambour.imaging.files import open_image
from tambour.workflows.jobs import work_folder

DESIGNS = Path(tambour.__file__).parent / "designs"
RECIPE = """
resolution = 64
crop = 32
[lora]
rank = 2
alpha = 2.0
[analysis]
steps = 10
renoise_iterations = 1
[stage_one]
iterations = 6
learning_rate = 1e-3
[training]
checkpoint_seconds = 0.0
[complement]
count = 4
source = "designs"
[stage_two]
iterations = 12
[sampling]
size = 64
steps = 4
guidance_scale = 1.0
"""


@pytest.fixture(scope="session")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small photo of a cross-stitched fox."""
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    drawn = tambour.stitch(DESIGNS / "fox.svg", "cross", size=128)
    drawn.image.save(path)
    return path


@pytest.fixture(scope="session")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "tiny.toml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="session")
def style(photo: Path, toy: Path, recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A style learnt on the toy base, with its report beside it."""
    folder = tmp_path_factory.mktemp("style")
    path = folder / "style.safetensors"
    command = ["learn", str(photo), "-o", str(path), "--base", str(toy), "--recipe", str(recipe)]
    assert main([*command, "--report", str(folder / "report"), "--quiet"]) == 0
    return path


def run(capsys: pytest.CaptureFixture, *arguments: object) -> tuple[int, str, str]:
    """A command's exit code, output and remarks."""
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


# --- learn --------------------------------------------------------------------------------------------------------


def test_learn_writes_a_style_and_a_report(style: Path) -> None:
    metadata = tambour.inspect(style)
    assert metadata.rank == 2 and len(metadata.blocks) >= 2
    report = style.parent / "report"
    for name in ("sheet.jpg", "manifest.json", "design.png", "mask.png", "losses.svg", "blocks.svg"):
        assert (report / name).exists(), name
    assert not work_folder(style).exists()


def test_learn_says_what_it_wrote(
    photo: Path, toy: Path, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    output = tmp_path / "style.safetensors"
    code, out, err = run(capsys, "learn", photo, "-o", output, "--base", toy, "--recipe", recipe)
    assert (code, out.split()) == (0, [str(output)])
    assert "stage one: 6 steps" in err and "Learnt in" in err


def test_a_plan_touches_nothing(
    photo: Path, toy: Path, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    output = tmp_path / "style.safetensors"
    code, out, _ = run(
        capsys, "learn", photo, "-o", output, "--base", toy, "--recipe", recipe, "--dry-run", "--blocks", "a, b"
    )
    assert code == 0 and "6 iterations" in out and "128 x 128 px" in out and "a, b" in out
    assert list(tmp_path.iterdir()) == []


def test_killed_at_any_moment_it_ends_with_the_same_file(
    style: Path, photo: Path, toy: Path, recipe: Path, tmp_path: Path
) -> None:
    output = tmp_path / "style.safetensors"
    learn = ["learn", str(photo), "-o", str(output), "--base", str(toy), "--recipe", str(recipe), "--quiet"]
    code = "import sys; from tambour.cli import main; sys.exit(main())"
    for sign in ("stage-one.safetensors", "stage-two.safetensors"):
        child = subprocess.Popen([sys.executable, "-c", code, *learn], stderr=subprocess.DEVNULL)
        while not (work_folder(output) / sign).exists() and child.poll() is None:
            time.sleep(0.005)
        child.kill()
        child.wait()
        assert work_folder(output).exists() and not output.exists(), "it was too fast to be killed"
    assert main(learn) == 0
    assert output.read_bytes() == style.read_bytes()
    assert not work_folder(output).exists()


def test_interrupted_it_says_how_to_go_on(
    photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def interrupted(*_arguments: object, **_settings: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tambour.workflows.jobs.learn_style", interrupted)
    code, _, err = run(capsys, "learn", photo, "-o", tmp_path / "style.safetensors")
    assert code == 130 and "same command again" in err


def test_unfinished_work_of_another_command_is_kept(
    photo: Path, toy: Path, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    output = tmp_path / "style.safetensors"
    work = work_folder(output)
    work.mkdir()
    (work / "plan.json").write_text('{"seed": 3}')
    (work / "stage-one.safetensors").write_bytes(b"work of hours")
    command = ["learn", photo, "-o", output, "--base", toy, "--recipe", recipe]
    code, _, err = run(capsys, *command)
    assert code == 2 and "seed" in err and "--overwrite" in err
    assert (work / "stage-one.safetensors").read_bytes() == b"work of hours"
    assert run(capsys, *command, "--overwrite")[0] == 0
    assert output.exists() and not work.exists()


# --- apply, imagine -----------------------------------------------------------------------------------------------


def test_one_design_makes_a_file(style: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    output = tmp_path / "fox.png"
    code, out, _ = run(capsys, "apply", style, DESIGNS / "fox.svg", "-o", output)
    assert (code, out.split()) == (0, [str(output)])
    assert open_image(output).size == (64, 64)
    assert run(capsys, "apply", style, DESIGNS / "fox.svg", "-o", output)[0] == 5
    assert run(capsys, "apply", style, DESIGNS / "fox.svg", "-o", output, "--overwrite", "--seed", 1)[0] == 0


def test_several_designs_make_a_folder(style: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    own = tmp_path / "own" / "fox.png"
    own.parent.mkdir()
    Image.new("RGB", (50, 100), "teal").save(own)
    (own.parent / "notes.txt").write_text("no picture")
    code, out, _ = run(capsys, "apply", style, DESIGNS / "fox.svg", own.parent, "-o", tmp_path / "out")
    assert (code, out.split()) == (0, [str(tmp_path / "out" / name) for name in ("fox.png", "fox-2.png")])
    assert open_image(tmp_path / "out" / "fox-2.png").size == (32, 64)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "own"]


def test_a_batch_continues_where_it_was(
    style: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    command = ["apply", style, DESIGNS / "fox.svg", DESIGNS / "bee.svg", DESIGNS / "cat.svg", "-o"]
    assert run(capsys, *command, tmp_path / "whole", "-q")[0] == 0

    import tambour.imaging.files as images

    save, saved = images.save_image, []

    def interrupted(image: Image.Image, path: Path, overwrite: bool = False) -> Path:
        if len(saved) == 2:
            raise KeyboardInterrupt
        saved.append(path.name)
        return save(image, path, overwrite)

    with monkeypatch.context() as patch:
        patch.setattr(images, "save_image", interrupted)
        assert run(capsys, *command, tmp_path / "out", "-q")[0] == 130
    assert saved == ["fox.png", "bee.png"] and not (tmp_path / "out").exists()
    assert run(capsys, *command, tmp_path / "out", "-q")[0] == 0
    for path in (tmp_path / "whole").iterdir():
        assert path.read_bytes() == (tmp_path / "out" / path.name).read_bytes()


def test_samples_are_scored(style: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    code, out, _ = run(capsys, "apply", style, DESIGNS / "fox.svg", "-o", tmp_path / "fox.png", "--samples", 2)
    assert code == 0
    head, row = out.splitlines()
    assert head.split() == ["picture", "style", "design", "colour", "total", "seed"]
    assert row.split()[0] == str(tmp_path / "fox.png") and all(0 <= float(x) <= 1 for x in row.split()[1:5])


def test_settings_are_heard(style: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    pictures = []
    for number, more in enumerate(
        ([], ["--edges", "free"], ["--colours", "free"], ["--guide", "stitches"], ["--strength", 0.5], ["--seed", 4])
    ):
        output = tmp_path / f"{number}.png"
        assert run(capsys, "apply", style, DESIGNS / "fox.svg", "-o", output, *more)[0] == 0, more
        pictures.append(output.read_bytes())
    assert len(set(pictures)) == len(pictures)
    cut_out = tmp_path / "cut-out.png"
    assert run(capsys, "apply", style, DESIGNS / "fox.svg", "-o", cut_out, "--transparent", "--size", 96)[0] == 0
    assert (open_image(cut_out).mode, open_image(cut_out).size) == ("RGBA", (96, 96))


def test_words(style: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert run(capsys, "imagine", style, "a yellow dog", "-o", tmp_path / "dog.png")[0] == 0
    assert run(capsys, "imagine", style, "a yellow dog", "-o", tmp_path / "dogs", "-n", 2)[0] == 0
    assert (tmp_path / "dogs" / "01.png").read_bytes() == (tmp_path / "dog.png").read_bytes()
    assert (tmp_path / "dogs" / "02.png").exists()


def test_a_base_that_is_weak_at_words_says_so(
    style: Path, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    weak = tmp_path / "weak.toml"
    weak.write_text(recipe.read_text().replace("[sampling]", '[sampling]\nwarning = "Words mean little here."'))
    command = ["imagine", style, "a red star", "-o", tmp_path / "star.png", "--recipe"]
    assert "Note: Words mean little here." in run(capsys, *command, weak)[2]
    assert "Note" not in run(capsys, *command, recipe)[2]
    assert "Note" not in run(capsys, *command, weak, "-q")[2]


def test_plans_of_the_others(style: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    code, out, _ = run(capsys, "apply", style, DESIGNS, "-o", tmp_path / "out", "--dry-run", "--samples", 3)
    assert code == 0 and str(tmp_path / "out" / "anchor.png") in out
    code, out, _ = run(capsys, "imagine", style, "a red star", "-o", tmp_path / "star.png", "--dry-run")
    assert code == 0 and "a red star" in out
    assert list(tmp_path.iterdir()) == []


# --- the parts ----------------------------------------------------------------------------------------------------


def test_pair(photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    command = ["pair", photo, "-o", tmp_path / "flat.png", "--mask", tmp_path / "mask.png"]
    assert run(capsys, *command)[0] == 0
    assert open_image(tmp_path / "flat.png").size == open_image(tmp_path / "mask.png").size == (128, 128)
    assert run(capsys, *command)[0] == 5


def test_blocks(photo: Path, toy: Path, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    command = ["blocks", photo, "--base", toy, "--recipe", recipe, "-q"]
    code, out, _ = run(capsys, *command, "--plot", tmp_path / "blocks.svg")
    assert code == 0 and len(out.splitlines()) == 12 and out.count("yes") >= 2
    assert "<svg" in (tmp_path / "blocks.svg").read_text()
    code, out, _ = run(capsys, *command, "--json")
    similarities = json.loads(out)
    assert len(similarities["names"]) == 11 and set(similarities["chosen"]) < set(similarities["names"])


def test_inspect(style: Path, capsys: pytest.CaptureFixture) -> None:
    code, out, _ = run(capsys, "inspect", style)
    assert code == 0 and "fingerprint" in out and "[emb]" in out and "stage_one" in out
    code, out, _ = run(capsys, "inspect", style, "--json")
    assert json.loads(out)["recipe"]["lora"]["rank"] == 2


def test_stitch(photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    def draw(*arguments: object) -> bytes:
        code, out, _ = run(capsys, "stitch", DESIGNS / "bee.svg", "-o", tmp_path / "bee.png", "--size", 128,
                           "--overwrite", *arguments)  # fmt: skip
        assert (code, out.split()) == (0, [str(tmp_path / "bee.png")])
        return (tmp_path / "bee.png").read_bytes()

    plain = draw("--as", "tatami")
    assert draw("--as", "tatami") == plain
    for more in (["--set", "angle=70"], ["--fabric", "felt"], ["--fabric-colour", "#102030"], ["--mm", 20]):
        assert draw("--as", "tatami", *more) != plain, more
    assert draw("--like", photo) != plain


# --- refusals -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        ("learn {photo}", 2, "output"),
        ("learn absent.png -o {out}/s.safetensors", 2, "absent.png"),
        ("learn {photo} -o {out}/s.pt", 2, ".safetensors"),
        ("learn {photo} -o {out}/s.safetensors --base absent", 4, "absent"),
        ("learn {photo} -o {out}/s.safetensors --recipe absent.toml", 2, "absent.toml"),
        ("learn {photo} -o {out}/s.safetensors --base {toy} --recipe {recipe} --blocks mid", 2, "mid"),
        ("learn {photo} -o {out}/s.safetensors --stitch crewel", 2, "crewel"),
        ("learn {photo} -o {style}", 5, "already exists"),
        ("learn {photo} -o {out}/s.safetensors --report {report}", 5, "manifest.json already exists"),
        ("apply {photo} {fox} -o {out}/fox.png", 3, "safetensors"),
        ("apply absent.safetensors {fox} -o {out}/fox.png", 3, "absent"),
        ("apply {style} absent.svg -o {out}/fox.png", 2, "absent.svg"),
        ("apply {style} {fox} -o {out}/fox.gif", 2, "fox.gif"),
        ("apply {style} {fox} {fox} -o {out}/fox.png", 2, "folder"),
        ("apply {style} {empty} -o {out}/new", 2, "no pictures"),
        ("apply {style} {fox} -o {out}/fox.png --strength 1.5", 2, "1.5"),
        ("apply {style} {fox} -o {out}/fox.png --size 1", 2, "size"),
        ("apply {style} {fox} -o {out}/fox.png --samples 0", 2, "samples"),
        ("apply {style} {fox} -o {out}/fox.png --edges soft", 2, "soft"),
        ("apply {style} {photo} -o {out}/fox.png --transparent", 2, "transparent"),
        ("apply {style} {fox} -o {out}/fox.png --seed -1", 2, "seed -1"),
        ("imagine {style} ' ' -o {out}/dog.png", 2, "empty"),
        ("imagine {style} dog -o {out}/dog.png -n 0", 2, "n 0"),
        ("imagine {style} '{long}' -o {out}/dog.png", 2, "too long"),
        ("pair {recipe} -o {out}/flat.png", 2, "not a picture"),
        ("pair {photo} -o {out}/flat.png --describe fox", 2, "sd3"),
        ("pair {photo} -o {out}/flat.png --route hed", 2, "hed"),
        ("pair {photo} -o {out}/flat.png --route sd3 --models {empty}", 4, "empty/canny"),
        ("blocks {photo} --plot {out}/plot.png", 2, ".svg"),
        ("stitch {fox} -o {out}/fox.png", 2, "No stitch is named"),
        ("stitch {fox} -o {out}/fox.png --as crewel", 2, "crewel"),
        ("stitch {fox} -o {out}/fox.png --as chain --set colour=red", 2, "colour"),
        ("stitch {fox} -o {out}/fox.png --as chain --set thread_width=thick", 2, "thick"),
        ("stitch {fox} -o {out}/fox.png --as chain --set angle", 2, "NAME=VALUE"),
        ("stitch {fox} -o {out}/fox.png --as chain --fabric lace", 2, "lace"),
        ("stitch {fox} -o {out}/fox.png --as chain --fabric-colour pink", 2, "pink"),
        ("stitch {fox} -o {out}/fox.png --as chain --mm 0", 2, "mm"),
        ("inspect {photo}", 3, "safetensors"),
        ("embroider {photo}", 2, "embroider"),
    ],
)
def test_refusals(
    arguments: str,
    code: int,
    named: str,
    photo: Path,
    toy: Path,
    style: Path,
    recipe: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    out, empty = tmp_path / "out", tmp_path / "empty"
    out.mkdir(), empty.mkdir()
    places = dict(photo=photo, toy=toy, style=style, recipe=recipe, out=out, empty=empty, fox=DESIGNS / "fox.svg")
    places["report"] = style.parent / "report"
    words = [word.format(**places, long="red " * 60) for word in shlex.split(arguments)]
    outcome = run(capsys, *words)
    assert outcome[0] == code, outcome
    assert named in outcome[2] and "Traceback" not in outcome[2], outcome[2]
    left = [path for path in out.rglob("*") if path.is_file() and path.name != "plan.json"]
    assert not left, "a refusal leaves nothing behind"


def test_a_style_for_another_base_is_refused(
    style: Path, toy_sdxl: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    command = ["apply", style, DESIGNS / "fox.svg", "-o", tmp_path / "fox.png", "--base", toy_sdxl]
    code, _, err = run(capsys, *command)
    assert code == 3 and "learnt on base" in err


def test_after_a_refusal_the_mended_command_runs(style: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    output = tmp_path / "fox.png"
    assert run(capsys, "apply", style, DESIGNS / "fox.svg", "-o", output, "--strength", 2)[0] == 2
    assert run(capsys, "apply", style, DESIGNS / "fox.svg", "-o", output, "--strength", 0.9)[0] == 0


def test_a_reader_that_leaves_is_no_fault(photo: Path, tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    code = "import sys; from tambour.cli import main; sys.exit(main())"
    plan = ["learn", str(photo), "-o", str(tmp_path / "style.safetensors"), "--dry-run"]
    process = subprocess.run([sys.executable, "-c", code, *plan], stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert process.stderr == ""

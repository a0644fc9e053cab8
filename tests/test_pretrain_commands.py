"""The commands of the pretraining: all of them parse, and help loads nothing heavy."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from pretraining import steps
from pretraining.__main__ import app

COMMANDS = typer.main.get_command(app).commands
PAGES = [Path(__file__).parents[1] / page for page in ("docs/gpu.md", "src/tambour/base/mini/README.md")]


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_has_its_step_and_its_help(name: str, capsys: pytest.CaptureFixture) -> None:
    assert inspect.getdoc(getattr(steps, f"{name}_step"))
    with pytest.raises(SystemExit) as end:
        app([name, "--help"], prog_name="pretraining")
    assert end.value.code == 0 and COMMANDS[name].help.strip() in " ".join(capsys.readouterr().out.split())


def test_every_option_is_one_of_a_run() -> None:
    fields = set(steps.Run.__dataclass_fields__)
    for name, command in COMMANDS.items():
        assert {parameter.name for parameter in command.params} - {"help"} <= fields, name


def test_help_loads_nothing_heavy() -> None:
    code = "import sys, pretraining.__main__; print([n for n in ('torch', 'numpy', 'cv2') if n in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                         cwd=Path(__file__).parents[1])  # fmt: skip
    assert run.stdout.strip() == "[]"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_commands_that_pages_name_exist(page: Path) -> None:
    names = [line.split("-m pretraining ")[1].split()[0] for line in page.read_text().splitlines()
             if "python -m pretraining " in line.replace("python3", "python") and line.startswith("    ")]  # fmt: skip
    assert names and set(names) <= set(COMMANDS)

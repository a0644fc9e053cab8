"""The house's layout: imports point downward, light rooms stay light, nobody imports the pretraining."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "tambour"
# From the top of the house to its foundation; a room imports only rooms below it.
ORDER = (
    "cli", "__init__", "workflows", "preflight", "training", "analysis", "guides", "drawing", "pair", "style", "prior",
    "base", "stitch", "imaging", "scale", "progress", "config", "errors",
)  # fmt: skip
ASIDE = ("bench",)  # may import every room, but not each other, and no room imports them
STARTED = ("bench",)  # but the command line starts these
HEAVY = {"torch", "diffusers", "transformers", "peft", "accelerate"}


def room(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports(path: Path) -> list[tuple[str, ...]]:
    """Every module a file imports, anywhere in it, as parts of its dotted name."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.append(node.module)
            if node.module == "tambour":
                found += [f"tambour.{alias.name}" for alias in node.names]
    return [tuple(name.split(".")) for name in found]


FILES = sorted(SOURCE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_point_downward(path: Path) -> None:
    here = room(path)
    assert here in ORDER + ASIDE, f"{here} has no place in the house: add it to ORDER"
    for name in imports(path):
        if name[0] != "tambour" or len(name) < 2:
            continue
        there = name[1] if name[1] in ORDER + ASIDE else "__init__"  # a function of the package itself
        assert there == here or there not in ASIDE or (here == "cli" and there in STARTED), (
            f"{path} imports {'.'.join(name)}, which nobody may"
        )
        if here in ORDER and there in ORDER and there != here:
            assert ORDER.index(there) > ORDER.index(here), f"{path} imports {'.'.join(name)}, which stands above it"


@pytest.mark.parametrize("light", ["stitch", "progress", "config", "errors"])
def test_light_rooms_import_nothing_heavy(light: str) -> None:
    for path in FILES:
        if room(path) == light:
            assert not {name[0] for name in imports(path)} & HEAVY, path


@pytest.mark.parametrize(
    "module", ["tambour", "tambour.cli", "tambour.stitch", "tambour.imaging.texture", "tambour.imaging.files"]
)
def test_importing_loads_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print([name for name in sorted({HEAVY!r}) if name in sys.modules])"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout.strip() == "[]"


def test_the_command_line_needs_no_pictures_to_print_its_help() -> None:
    code = "import sys, tambour.cli; print([n for n in ('numpy', 'cv2', 'PIL', 'rich') if n in sys.modules])"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout.strip() == "[]"


def test_nothing_else_lies_at_the_root() -> None:
    modules = {path.name for path in SOURCE.glob("*.py")}
    assert modules == {"__init__.py", "config.py", "errors.py", "progress.py", "scale.py"}
    data = {path.name for path in SOURCE.iterdir() if path.is_dir() and path.name != "__pycache__"} - set(ORDER + ASIDE)
    assert data == {"designs", "recipes"}


def test_learn_does_not_import_apply() -> None:
    assert ("tambour", "workflows", "apply") not in imports(SOURCE / "workflows" / "learn.py")


def test_nobody_imports_the_pretraining() -> None:
    assert not [path for path in FILES for name in imports(path) if name[0] == "pretraining"]

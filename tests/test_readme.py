"""The README keeps its word: its commands parse, its links lead somewhere, its make targets exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "examples" / "README.md"]
README = PAGES[0].read_text()
COMMANDS = re.findall(r"^(tambour .+?)(?:\s{2,}#.*)?$", README, re.MULTILINE)


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_parse(command: str) -> None:
    import typer

    from tambour.cli import app

    _, name, *arguments = shlex.split(command)
    parsed = typer.main.get_command(app).commands[name].make_context(name, arguments)
    assert parsed.params


def test_it_shows_commands() -> None:
    assert len(COMMANDS) >= 8


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if not target.startswith("https://"):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_every_file_it_names_in_code_exists() -> None:
    for name in re.findall(r"`python ([\w/]+\.py)`", README):
        assert (ROOT / name).exists(), name

"""The documentation keeps its word: commands parse, links lead somewhere, pages are short and hold today."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "examples" / "README.md", ROOT / "src" / "tambour" / "base" / "mini" / "README.md",
         *sorted((ROOT / "docs").glob("*.md"))]  # fmt: skip
LOG = sorted((ROOT / "docs" / "log").glob("*.md"))
README = PAGES[0].read_text()
COMMANDS = re.findall(r"^(tambour .+?)(?:\s{2,}#.*)?$", README, re.MULTILINE)
LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)")

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def text_lines(page: Path) -> Iterator[tuple[int, str]]:
    """Lines of a page with their numbers, but for code blocks (fenced, or indented and set off by an empty line)."""
    fenced = indented = False
    before = ""
    for number, line in enumerate(page.read_text().splitlines(), 1):
        if line.startswith("```"):
            fenced = not fenced
        elif not fenced:
            indented = line.startswith("    ") and (indented or not before.strip())
            if not indented:
                yield number, line
        before = line


def columns(line: str) -> int:
    """How many columns a row of a table has; 0: it is no row."""
    return len(re.split(r"(?<!\\)\|", line.strip())) - 2 if line.lstrip().startswith("|") else 0


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_parse(command: str) -> None:
    import typer

    from tambour.cli import app

    _, name, *arguments = shlex.split(command)
    parsed = typer.main.get_command(app).commands[name].make_context(name, arguments)
    assert parsed.params


def test_it_shows_commands() -> None:
    assert len(COMMANDS) >= 8


@pytest.mark.parametrize("page", [*PAGES, *LOG], ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text()):
        if not target.startswith("https://"):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


@pages
def test_every_script_and_module_it_runs_exists(page: Path) -> None:
    text = page.read_text()
    for name in re.findall(r"\bpython3? ([\w/]+\.py)\b", text):
        assert (ROOT / name).exists(), name
    for name in re.findall(r"\bpython3? -m ((?:pretraining|tambour)[\w.]*)", text):
        path = (ROOT / "src" if name.startswith("tambour") else ROOT) / name.replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), name


def test_the_method_names_files_that_exist() -> None:
    text = (ROOT / "docs" / "method.md").read_text()
    for name in re.findall(r"`(\w+/(?:\w+/)*\w+\.\w+)`", text):
        assert (ROOT / "src" / "tambour" / name).exists(), name


def test_the_method_has_the_sections_that_code_cites() -> None:
    numbers = set(re.findall(r"^#+ ([\d.]+?)\.? ", (ROOT / "docs" / "method.md").read_text(), re.MULTILINE))
    assert [number for number in map(str, range(1, 19)) if number not in numbers] == []
    for file in sorted((ROOT / "src").rglob("*.py")):
        for cited in re.findall(r"\(method, sections? ([\d., to]+)", file.read_text()):
            for number in re.findall(r"\d+(?:\.\d+)?", cited):
                assert number in numbers, f"{file.relative_to(ROOT)} cites section {number}"


@pages
def test_lines_are_short(page: Path) -> None:
    long = [number for number, line in text_lines(page) if len(line) >= 120 and not columns(line)]
    assert not long, f"{page.name}: lines of 120 characters or more: {long}"


@pages
def test_tables_are_narrow(page: Path) -> None:
    wide = [number for number, line in text_lines(page) if columns(line) > 8]
    assert not wide, f"{page.name}: tables of more than eight columns, in lines {wide}"


@pages
def test_dates_and_commits_are_in_the_log(page: Path) -> None:
    text = LINK.sub("]", page.read_text())
    hashes = [word for word in re.findall(r"\b[0-9a-f]{7,40}\b", text) if re.search(r"[a-f]", word)]
    assert not [word for word in hashes if re.search(r"\d", word)], f"{page.name} names a commit: {hashes}"
    assert not re.search(r"\b20\d\d-\d\d-\d\d\b", text), f"{page.name} names a date"


def test_the_results_are_short() -> None:
    assert len((ROOT / "docs" / "results.md").read_text().splitlines()) <= 120

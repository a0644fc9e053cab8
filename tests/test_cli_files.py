"""Where results go and which files are read."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from tambour.cli import main
from tambour.cli.files import check_transparency, pictures, targets_for
from tambour.config import read_recipe
from tambour.errors import InputError


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        (["logo", "logo-2"], ["logo", "logo-2"]),
        (["fox", "fox-red"], ["fox", "fox-red"]),
        (["fox", "fox"], ["fox", "fox-2"]),  # fox.png and fox.svg
        (["fox", "fox", "fox-2"], ["fox", "fox-3", "fox-2"]),
        (["Fox", "fox"], ["Fox", "fox-2"]),  # one file on some systems
    ],
)
def test_every_result_has_a_name_of_its_own(names: list[str], wanted: list[str], tmp_path: Path) -> None:
    assert [target.stem for target in targets_for(tmp_path, names)] == wanted


def test_what_other_systems_leave_in_a_folder_is_no_picture(tmp_path: Path) -> None:
    for name in ("fox.svg", "._fox.svg", ".DS_Store", "Thumbs.db", ".hidden.png"):
        (tmp_path / name).touch()
    assert [path.name for path in pictures([tmp_path])] == ["fox.svg"]


@pytest.mark.parametrize("name", ["fox.jpg", "fox.JPEG"])
def test_a_jpeg_cannot_be_transparent(name: str) -> None:
    with pytest.raises(InputError, match="cannot be transparent"):
        check_transparency([Path("fox.png"), Path(name)])


def test_a_recipe_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(b"\xef\xbb\xbf" + "extends = 'mini'  # r\u00f6se\n".encode())
    assert read_recipe(path) == read_recipe("mini")


def test_a_terminal_that_cannot_show_a_name_is_no_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    design, output = tmp_path / "\u82b1.svg", tmp_path / "\u82b1.png"
    design.write_text(
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9"><path fill="#c03050" d="M1 1h7v7z"/></svg>'
    )
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="cp1252"))
    assert main(["stitch", str(design), "--as", "satin", "--size", "64", "-o", str(output), "-q"]) == 0
    assert output.exists() and b"?.png" in raw.getvalue()

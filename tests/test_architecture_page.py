"""The map for people names every package, every file that it mentions is there, and so is every room."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "zsad"
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def rows(text):
    """First cells of the tables in a page."""
    return re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)


def test_the_table_names_every_package():
    there = {path.stem for path in PACKAGE.iterdir() if path.is_dir() or path.suffix == ".py"}
    assert set(rows(PAGE)) == {name for name in there if not name.startswith("_")}


def test_the_diagram_shows_every_package():
    diagram = PAGE.partition("```mermaid")[2].partition("```")[0]
    assert set(rows(PAGE)) <= set(re.findall(r"\w+", diagram))


def test_every_file_that_the_page_names_is_there():
    named = set(re.findall(r"`([\w/]+\.(?:py|yaml))`", PAGE))
    assert len(named) > 30
    folders = ("", "src/zsad", "src/zsad/backbones", "src/zsad/methods")
    missing = [name for name in named if not any((ROOT / folder / name).is_file() for folder in folders)]
    assert not missing


@pytest.mark.parametrize(
    "path", sorted(set(re.findall(r"`((?:src|tests|recipes|docs)/[\w/.]*)`", CONTRIBUTING)))
)
def test_every_room_that_contributing_names_is_there(path):
    assert (ROOT / path).exists()

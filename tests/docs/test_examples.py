"""The examples of the documentation run, and every option that it shows exists."""

from __future__ import annotations

import re
import shutil
from functools import cache
from pathlib import Path

import pytest
from typer.testing import CliRunner

from helpers.brightness_bundle import brightness_bundle
from zsad.cli import app

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# tests/methods/test_adding_a_method.py and, because exporting takes a while, tests/cli/test_export.py
RUN_ELSEWHERE = {"adding_a_method.md", "exporting.md"}
NEEDS_DOWNLOADS = "ViT-"


def blocks(page, language):
    return re.findall(
        rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )


@pytest.fixture
def images(tmp_path, monkeypatch):
    """A folder that has what the pages name: an image, parts, good parts, a dataset and a bundle."""
    examples = sorted((ROOT / "examples").glob("*.jpg"))
    monkeypatch.chdir(tmp_path)
    shutil.copy(examples[0], "part.jpg")
    shutil.copy(examples[0], "part.png")
    for folder, count in (("parts", 2), ("folder", 2), ("good", 3), ("dataset/good", 2), ("dataset/cut", 1)):
        Path(folder).mkdir(parents=True)
        for path in examples[:count]:
            shutil.copy(path, folder)
    brightness_bundle(Path("line3-onnx"), threshold=0.5)
    return {"good_pictures": examples[:3], "good_images": examples[:3]}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_python_examples_run(page, images):
    if page.name in RUN_ELSEWHERE:
        pytest.skip("another test runs its example")
    for block in blocks(page, "python"):
        if NEEDS_DOWNLOADS not in block:
            exec(compile(block, str(page), "exec"), images)  # the page's blocks share their names


@cache
def help_of(command):
    return CliRunner().invoke(app, [*command, "--help"], env={"COLUMNS": "300"})


def commands(page):
    """(words of the command, its options) of every `zsad` line."""
    for language in ("sh", "bash", "console"):
        for block in blocks(page, language):
            for line in re.split(r"[\n;]|&&", block.partition("#")[0] if "\n" not in block else block):
                words = line.partition(" #")[0].strip().removeprefix("$ ").split()
                if words and words[0].removeprefix(".venv/bin/") == "zsad":
                    yield words[1:], re.findall(r"(?<!\S)(--?[a-z][\w-]*)", " ".join(words[1:]))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_option_shown_exists(page):
    for words, options in commands(page):
        depth = 2 if words[0] in {"data", "weights"} else 1
        shown = help_of(tuple(words[:depth]))
        assert shown.exit_code == 0, f"{page.name}: zsad {' '.join(words)}"
        for option in options:
            assert re.search(rf"(?<!\S){re.escape(option)}(?![\w-])", shown.stdout), (
                f"{page.name}: {words}: {option}"
            )


def test_the_pages_have_examples():
    assert sum(len(blocks(page, "python")) for page in PAGES) > 6
    assert sum(1 for page in PAGES for _ in commands(page)) > 25

"""The pages of docs/methods are those that tools/make_method_pages.py writes."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path

import pytest

from zsad.methods._registry import list_methods, method_class

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "methods"
OUTDATED = "run `python tools/make_method_pages.py` and commit docs/methods"


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location(
        "make_method_pages", ROOT / "tools" / "make_method_pages.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def said_to_ship():
    """The methods whose weights ship according to the committed table."""
    rows = (FOLDER / "README.md").read_text(encoding="utf-8").splitlines()
    return {row.partition("](")[2].partition(".md)")[0] for row in rows if "| shipped |" in row}


def test_the_committed_pages_are_up_to_date(tool, monkeypatch):
    # Weights that a training run has just added do not outdate the pages; the next test sees to their claims.
    monkeypatch.setattr(tool, "shipped", lambda name, backbone: name if name in said_to_ship() else None)
    committed = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.md")}
    wanted = tool.pages()
    assert committed.keys() == wanted.keys(), OUTDATED
    outdated = [name for name in wanted if committed[name] != wanted[name]]
    assert not outdated, OUTDATED


def test_weights_that_are_said_to_ship_are_there(tool):
    assert "anomalyclip" in said_to_ship()
    for name in said_to_ship():
        assert tool.shipped(name, tool.PACKAGED_BACKBONE) is not None, OUTDATED


def test_every_setting_is_described(tool):
    for name in filter(tool.is_ours, list_methods()):
        described = tool.described_settings(method_class(name))
        assert described.keys() == {field.name for field in dataclasses.fields(method_class(name).Config)}
        assert all(described.values())


def test_what_a_method_is_checked_against_is_recorded(tool):
    """A method with recorded numbers in tests/golden says so in its `INFO`: `checked_by="authors"`."""
    golden = ROOT / "tests" / "golden"
    for name in filter(tool.is_ours, list_methods()):
        info = method_class(name).INFO
        assert (info.checked_by != "own loops") == (golden / f"{name}.npz").is_file(), name
        assert info.checked_by != "authors" or info.code, name


def test_the_advice_follows_from_the_numbers(tool):
    infos = [method_class(name).INFO for name in ("winclip", "musc", "clip_ac", "grounding")]
    assert tool.best_published(infos, "mvtec") == "`musc` (97.8)"
    assert tool.best_published(infos[2:], "mvtec") == "nothing known"  # others ran CLIP-AC


def test_links_lead_to_files(tool):
    for page in FOLDER.glob("*.md"):
        for target in tool.re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert (FOLDER / target).exists(), f"{page.name}: {target}"


def test_attributes_of_several_lines(tool):
    docstring = "Settings.\n\nAttributes:\n    first: one\n        two: three.\n    second: four."
    assert tool.described_attributes(docstring) == {"first": "one two: three.", "second": "four."}

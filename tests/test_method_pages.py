"""The pages of docs/methods are those that tools/make_method_pages.py writes."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path

import pytest

from zsad.registry import list_methods, method_class

ROOT = Path(__file__).parents[1]
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


def test_the_committed_pages_are_up_to_date(tool):
    committed = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.md")}
    wanted = tool.pages()
    assert committed.keys() == wanted.keys(), OUTDATED
    outdated = [name for name in wanted if committed[name] != wanted[name]]
    assert not outdated, OUTDATED


def test_every_setting_is_described(tool):
    for name in filter(tool.is_ours, list_methods()):
        config = method_class(name).Config
        described = tool.described_attributes(tool.inspect.getdoc(config))
        assert list(described) == [field.name for field in dataclasses.fields(config)]
        assert all(described.values())


def test_links_lead_to_files(tool):
    for page in FOLDER.glob("*.md"):
        for target in tool.re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert (FOLDER / target).exists(), f"{page.name}: {target}"


def test_attributes_of_several_lines(tool):
    docstring = "Settings.\n\nAttributes:\n    first: one\n        two: three.\n    second: four."
    assert tool.described_attributes(docstring) == {"first": "one two: three.", "second": "four."}

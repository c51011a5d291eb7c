"""The method on docs/adding_a_method.md, as a plug-in, through the contract that all methods are held to."""

from __future__ import annotations

import dataclasses
import importlib.util
import inspect
import re
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import torch

import zsad
from zsad.methods import _registry as registry
from zsad.types import MethodInfo

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "adding_a_method.md").read_text(encoding="utf-8")
NAME = "linear_probe"


def load_contract():
    spec = importlib.util.spec_from_file_location(
        "contract_of_methods", ROOT / "tests" / "contract" / "test_contract.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


CONTRACT = {
    name: function
    for name, function in inspect.getmembers(load_contract(), inspect.isfunction)
    if name.startswith("test_")
}


@pytest.fixture(autouse=True)
def _plug_in(tmp_path, monkeypatch):
    """The page's file as a module that an installed package offers by an entry point."""
    code = re.search(r"^````python\n(.*?)^````$", PAGE, re.DOTALL | re.MULTILINE)[1]
    (tmp_path / "my_package").mkdir()
    (tmp_path / "my_package" / f"{NAME}.py").write_text(code, encoding="utf-8")
    group, value = re.search(r'entry-points\."(.+)"\]\n\w+ = "(.+)"', PAGE).groups()
    monkeypatch.syspath_prepend(tmp_path)
    found = {NAME: EntryPoint(NAME, value, registry.PLUGIN_GROUP)}
    monkeypatch.setattr(registry, "_plugins", lambda: found)
    assert group == registry.PLUGIN_GROUP
    yield
    for module in [each for each in sys.modules if each.split(".")[0] == "my_package"]:
        del sys.modules[module]


@pytest.fixture
def images():
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def make(make_small_clip):
    def build(name, **settings):
        torch.manual_seed(3)
        return zsad.load(name, make_small_clip(**settings), "fresh", device="cpu")

    return build


@pytest.mark.parametrize("demand", CONTRACT)
def test_contract(demand, request):
    function = CONTRACT[demand]
    names = [name for name in inspect.signature(function).parameters if name != "name"]
    function(NAME, **{name: request.getfixturevalue(name) for name in names})


def test_it_is_listed_and_learns(make, images):
    assert NAME in zsad.list_methods()
    method = make(NAME).method
    masks = torch.zeros(3, 32, 32)
    masks[1:, 8:24, 8:24] = 1
    labels = torch.tensor([0, 1, 1])
    optimizer = torch.optim.Adam([parameter for _, parameter in method.trainable()], lr=1e-2)
    losses = []
    for _ in range(20):
        loss = sum(method.loss(images, masks, labels).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]


def test_the_page_names_what_is_there():
    parts = set(re.findall(r"`([a-z_]+|[A-Z_]+)`", PAGE.partition("| part |")[2].partition("\n\n")[0]))
    members = {name for name, _ in inspect.getmembers(registry.method_class(NAME))}
    members |= {field.name for field in dataclasses.fields(MethodInfo)}
    assert {"prepare", "features", "score", "loss_from_features", "trainable", "load_official"} <= parts
    assert {part for part in parts if part not in {"sigma"}} <= members | {"Config", "NAME"}
    for path in re.findall(r"`(tests/[\w/]+\.py|tools/[\w/]+\.py)`", PAGE):
        assert "NAME" in path or (ROOT / path).is_file()

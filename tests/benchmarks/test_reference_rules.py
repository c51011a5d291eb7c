"""The rules for known-normal images are compared on products made by code."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import zsad
from zsad.methods.functional.reference_rule import OWN_WEIGHT, ReferenceRule
from zsad.methods.functional.references import ReferenceMemory
from zsad.methods.functional.usual import Usual

TOOL = Path(__file__).parents[2] / "benchmarks" / "reference_rules.py"


@pytest.fixture
def tool(monkeypatch):
    if not TOOL.exists():
        pytest.skip("the benchmarks are not part of the installed package")
    monkeypatch.syspath_prepend(str(TOOL.parent))
    return importlib.import_module(TOOL.stem)


@pytest.mark.parametrize("count", [1, 3])
def test_the_present_rule_is_that_of_the_library(tool, count):
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randn(9, 16, width, generator=generator) for width in (4, 6, 5)]
    levels = [torch.nn.functional.normalize(level, dim=-1) for level in drawn]
    own = torch.randn(9, 16, generator=generator)
    product = tool.Product.of(levels, own, np.array([0, 0, 1, 1]), [None] * 4, 5)
    rows = [4, 0, 2][:count]
    rule = ReferenceRule.of(ReferenceMemory.of([level[rows] for level in levels]))
    expected = rule.distances([level[5:] for level in levels])
    expected = expected + OWN_WEIGHT * Usual.of(own[rows]).above(own[5:])
    found = tool.joined_by(tool.RULES["now (own 0.8)"], product, rows)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_rules_are_compared_on_synthetic_products(tool, make_small_clip, monkeypatch, capsys):
    detector = zsad.load("auto", make_small_clip(image_size=32), "fresh", device="cpu")
    monkeypatch.setattr(zsad, "load", lambda *_, **__: detector)
    monkeypatch.setattr(tool, "SIZE", 64)
    monkeypatch.setattr(tool, "MAP_SIDE", 16)
    monkeypatch.setattr(sys, "argv", [str(TOOL), "--synthetic", "1", "--draws", "1"])
    tool.main()
    lines = capsys.readouterr().out.splitlines()
    assert "16 known-normal, 48 test images" in lines[0]
    rows = [line for line in lines if line.startswith("| now")]
    assert [row.split(" | ")[1] for row in rows] == ["1", "4", "16"]
    assert all(0 <= float(row.split(" | ")[2]) <= 1 for row in rows)

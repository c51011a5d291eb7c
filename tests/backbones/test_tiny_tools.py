"""The tools that train `tiny` know every file that ships on it, and average weights rightly."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def tools(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tools" / "tiny"))


def test_one_command_makes_every_file_that_ships_on_tiny():
    from make_weights import RECIPES

    shipped = {path.stem for path in (ROOT / "src/zsad/backbones/tiny").glob("*.safetensors")}
    assert shipped - {"tiny"} == set(RECIPES)


def test_soup_is_the_mean_of_the_weights():
    from soup import mean

    members = [{"a": torch.tensor([1.0, 2.0])}, {"a": torch.tensor([3.0, 6.0])}]
    assert mean(members)["a"].tolist() == [2.0, 4.0]


def test_image_score_is_the_mean_of_the_top_twentieth():
    from train_image import top_mean

    assert top_mean(torch.arange(40.0)[None]).tolist() == [38.5]

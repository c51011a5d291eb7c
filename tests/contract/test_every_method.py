"""`zsad predict --method X` without a network, for every method X: what must have been learnt ships."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from zsad.cli import app
from zsad.detector.choosing import PACKAGED_BACKBONE, shipped
from zsad.methods._registry import list_methods, method_class

IMAGES = 3  # some methods compare images with each other
MARKS = {"anovl": pytest.mark.slow}  # anovl learns anew on each image


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Images of stripes, the last one with a blot."""
    path = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(5)
    for number in range(IMAGES):
        stripes = np.sin(np.arange(96) / 3)[None, :, None] * 40 + 120
        image = stripes + generator.normal(0, 4, (96, 96, 3))
        if number == IMAGES - 1:
            image[30:50, 40:70] = 15
        Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(path / f"{number}.png")
    return path


@pytest.mark.parametrize("name", [pytest.param(name, marks=MARKS.get(name, ())) for name in list_methods()])
@pytest.mark.usefixtures("no_network")
def test_predicts_offline(name, folder, tmp_path, monkeypatch):
    for switch in ("ZSAD_OFFLINE", "HF_HUB_OFFLINE"):  # --offline sets them, and this sets them back
        monkeypatch.setenv(switch, "")
    words = ["predict", str(folder), "--method", name, "--out", str(tmp_path / "out"), "--offline", "--quiet"]
    answer = CliRunner().invoke(app, [*words, "--batch-size", str(IMAGES)])
    assert answer.exit_code == 0, answer.stderr
    lines = (tmp_path / "out" / "results.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    assert len(rows) == IMAGES
    assert all(row["error"] is None and 0 <= row["score"] <= 1 for row in rows)
    assert {row["method"] for row in rows} == {name}
    assert {row["backbone"] for row in rows} == {PACKAGED_BACKBONE}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=MARKS.get(name, ()))
        for name in list_methods()
        if method_class(name).INFO.needs_training
    ],
)
def test_what_is_learnt_ships(name):
    assert shipped(name, None) is not None

"""The plain implementation that the speed benchmark compares with gives the same scores and maps."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import torch

import zsad

PLAIN = Path(__file__).parents[2] / "benchmarks" / "plain_anomalyclip.py"


@pytest.fixture
def plain(monkeypatch):
    if not PLAIN.exists():
        pytest.skip("the benchmarks are not part of the installed package")
    monkeypatch.syspath_prepend(str(PLAIN.parent))
    return importlib.import_module(PLAIN.stem)


@pytest.mark.parametrize("size", [56, 70])
def test_the_same_answers(plain, golden_clip, size):
    torch.manual_seed(0)
    detector = zsad.load("anomalyclip", golden_clip, "fresh", image_size=size, device="cpu")
    method, visual = detector.method, detector.backbone.visual
    images = torch.randn(2, 3, size, size)
    with torch.inference_mode():
        other = plain.PlainAnomalyCLIP(
            visual.state_dict(),
            visual.positions(size // visual.config.patch_size),
            method.prepare(["object"]).text_features[0],
            visual.config.heads,
            method.prompts.value_value_from,
            method.config.temperature,
            method.config.sigma,
        )
    scores, maps = other(images)
    found = detector.score_tensors(images)
    torch.testing.assert_close(found.scores, scores, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.maps, maps, rtol=0, atol=1e-5)
    assert float(maps.max() - maps.min()) > 0.01

"""The plain implementations that the speed benchmark compares with give the same scores and maps."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parents[2] / "benchmarks"
SIZE = 70  # not that of the position table


@pytest.fixture
def inference(monkeypatch):
    """The module `benchmarks/inference.py`."""
    if not FOLDER.exists():
        pytest.skip("the benchmarks are not part of the installed package")
    monkeypatch.syspath_prepend(str(FOLDER))
    yield importlib.import_module("inference")
    for name in [name for name in sys.modules if name.split(".")[0] in ("inference", "plain")]:
        del sys.modules[name]


VARIANTS = (
    "anomalyclip",
    "aa_clip",
    "af_clip",
    "bayes_pfl",
    "crane",
    "crane_plus",
    "faprompt",
    "genclip",
    "grounding",
    "kanoclip",
    "visual_ad",
)


@pytest.mark.parametrize("name", VARIANTS)
def test_the_same_answers(inference, golden_clip, name):
    torch.manual_seed(0)
    detector = inference.make_detector(name, golden_clip, "fp32", SIZE)
    with torch.no_grad():
        for _, parameter in detector.method.trainable():  # so that each of them counts
            parameter.add_(torch.randn_like(parameter) * 0.05)
    images = torch.randn(2, 3, SIZE, SIZE)
    plain = inference.plain_variant(name, detector)
    scores, maps = plain(images)
    found = detector.score_tensors(images)
    spread = float(maps.max() - maps.min())
    assert spread > 0
    torch.testing.assert_close(found.scores, scores, rtol=0, atol=2e-5)
    torch.testing.assert_close(found.maps, maps, rtol=0, atol=2e-5 * max(1.0, spread))


def test_each_plain_file_is_timed(inference):
    files = {path.stem for path in (FOLDER / "plain").glob("*.py")} - {"__init__", "encoders", "maps"}
    assert files == {name.removesuffix("_plus") for name in inference.SETTINGS}
    assert set(VARIANTS) == set(inference.SETTINGS)

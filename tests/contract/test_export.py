"""Every registered method exports as a graph that answers as Python does, or says in one line why not."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch

import zsad
from zsad.deploy.export import export_detector
from zsad.deploy.folding import parts, why_not
from zsad.deploy.graphs import batch_graph
from zsad.deploy.onnx_files import write_graphs
from zsad.errors import ConfigError
from zsad.methods import _registry as registry

METHODS = zsad.list_methods()
FAST = {"clip_ac", "winclip"}  # anomalyclip, fitted, is exported in tests/deploy
SETTINGS = {"anovl": {"tta_steps": 0}, "grounding": {"detector": "foreground"}}  # with which these export
CLASS = "metal nut"
SIDE = 32


def marked(names, fast=FAST):
    return [pytest.param(name, marks=() if name in fast else pytest.mark.slow) for name in names]


@pytest.fixture
def make(make_small_clip):
    """Makes a detector with the same small random backbone and the same fresh parameters each time."""

    def build(name, **settings):
        torch.manual_seed(3)
        detector = zsad.load(name, make_small_clip(), "fresh", device="cpu", **settings)
        detector.is_trained = True  # random parameters will do here
        return detector

    return build


def images(count, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, SIDE, SIDE, generator=generator)


def check_equal(detector, folder):
    """The graph equals Python on each image alone, in batches of several sizes."""
    name = CLASS if detector.method.INFO.uses_class_names else None
    (part,) = parts(detector, name)
    write_graphs({"model.onnx": batch_graph(part.graph(), SIDE)}, folder)
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    width = np.ptp(detector.map_range)
    for count in (1, 2, 9):
        batch = images(count, seed=count)
        scores, maps = session.run(["scores", "maps"], {"images": batch.numpy()})
        for number in range(count):
            python = detector.score_tensors(batch[number : number + 1], CLASS)
            assert scores[number] == pytest.approx(python.scores.item(), abs=1e-5)
            np.testing.assert_allclose(maps[number], python.maps[0].numpy(), rtol=0, atol=1e-4 * width)


@pytest.mark.parametrize("name", marked(METHODS))
def test_the_graph_equals_python_or_the_method_says_why_not(name, make, tmp_path):
    kind = registry.method_class(name)
    detector = make(name, **SETTINGS.get(name, {}))
    if reason := why_not(detector):
        assert kind.EXPORT in reason
        assert "\n" not in reason
        with pytest.raises(ConfigError, match="cannot be exported: ") as caught:
            export_detector(detector, tmp_path / "bundle")
        assert str(caught.value) == reason
        assert list(tmp_path.iterdir()) == []
    else:
        check_equal(detector, tmp_path)


def test_the_methods_that_never_export_are_known():
    """With default settings; the list in the documentation names them too."""
    assert [name for name in METHODS if registry.method_class(name).EXPORT] == ["anovl", "musc"]


@pytest.mark.parametrize("name", marked(METHODS, fast=()))
def test_with_references_too(name, make, tmp_path, uint8_images):
    detector = make(name, **SETTINGS.get(name, {}))
    detector.set_references(uint8_images)
    if why_not(detector):
        assert detector.scores_jointly
        pytest.skip("compares the images of a batch with each other, also beside references")
    check_equal(detector, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("has_references", [False, True])
def test_companions_become_constants(has_references, make, tmp_path):
    detector = make("auto")
    if has_references:
        detector.set_references([np.full((SIDE, SIDE, 3), level, np.uint8) for level in (90, 140)])
    generator = np.random.default_rng(0)
    detector.set_companions([generator.integers(0, 256, (SIDE, SIDE, 3), np.uint8) for _ in range(12)])
    check_equal(detector, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "settings", "exports_with"),
    [
        ("anovl", {}, "tta_steps=0"),
        ("dual_image", {"tta_steps": 2}, "tta_steps=0"),
        ("bayes_pfl", {"image_score": "joint"}, "image_score=prob"),
        ("crane", {"dino_model": "dinov2"}, "dino_model=none"),
        ("musc", {}, "auto"),
    ],
)
def test_the_reason_names_what_exports(name, settings, exports_with, make):
    assert exports_with in why_not(make(name, **settings))

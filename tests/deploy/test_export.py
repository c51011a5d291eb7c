"""From a detector to a bundle: what it holds, what it answers, and what is never left behind."""

from __future__ import annotations

import dataclasses
import importlib.util
import re

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

import zsad
from helpers.brightness_bundle import brightness_bundle, brightness_graph
from helpers.stripes import striped
from zsad.deploy import export, parity
from zsad.deploy.bundle import BUNDLE_FILE, Graphs, read_bundle
from zsad.deploy.export import export_detector
from zsad.deploy.runtime import load_exported
from zsad.errors import ConfigError, DataError, MissingExtraError

GOOD = 8


@pytest.fixture(scope="module")
def fitted(make_small_clip, tmp_path_factory):
    """The bundle of a detector that was fitted to good images, the detector, and what the export said."""
    torch.manual_seed(3)
    detector = zsad.load("anomalyclip", make_small_clip(), "fresh", device="cpu")
    detector.is_trained = True  # random parameters will do here
    detector.fit([striped(number) for number in range(GOOD)], rate=0.2)
    folder = tmp_path_factory.mktemp("bundles") / "line"
    return detector, export_detector(detector, folder, images=[striped(50), striped(51, (70, 30))])


def test_the_bundle_describes_the_detector(fitted):
    detector, result = fitted
    bundle = read_bundle(result.folder)
    assert bundle == result.bundle
    assert (bundle.method, bundle.backbone, bundle.references) == ("anomalyclip", "small", GOOD)
    assert (bundle.threshold, bundle.map_threshold) == (detector.threshold, detector.map_threshold)
    assert bundle.score_scale == detector.decision.scale
    assert bundle.settings == detector.scoring_settings()
    assert bundle.map_range == detector.map_range
    assert bundle.promise.rate == 0.2
    assert bundle.parity.images == parity.LEAST_IMAGES
    assert bundle.parity.source == "2 given images and 6 synthetic images"
    assert bundle.parity.score <= 1e-5
    assert bundle.parity.map <= 1e-4
    assert bundle.parity.source in result.lines[0]


@pytest.mark.parametrize("count", [1, 2, 5])
def test_the_bundle_answers_as_python_does(fitted, count):
    detector, result = fitted
    images = [striped(60 + number, (30 + 9 * number, 64)) for number in range(count)]
    for python, exported in zip(
        detector.predict(images), load_exported(result.folder).predict(images), strict=True
    ):
        assert exported.score == pytest.approx(python.score, abs=1e-5)
        np.testing.assert_allclose(exported.anomaly_map, python.anomaly_map, atol=1e-4)
        assert exported.is_anomalous == python.is_anomalous
        assert exported.p_value == python.p_value


def test_sixty_four_images_at_once(fitted):
    detector, result = fitted
    images = torch.randn(64, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    import onnxruntime

    session = onnxruntime.InferenceSession(result.folder / result.bundle.graphs.whole)
    scores, maps = session.run(["scores", "maps"], {"images": images.numpy()})
    expected = detector.score_tensors(images)
    np.testing.assert_allclose(scores, expected.scores.numpy(), atol=1e-5)
    np.testing.assert_allclose(maps, expected.maps.numpy(), atol=1e-4)


def test_the_python_example_of_the_readme_runs(fitted, tmp_path, monkeypatch):
    """The second example needs ONNX Runtime and Pillow alone."""
    detector, result = fitted
    readme = (result.folder / "README.md").read_text(encoding="utf-8")
    examples = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    assert len(examples) == 2
    for language in ("cpp", "js"):
        assert len(re.findall(rf"```{language}\n", readme)) == 1
    path = tmp_path / "part.png"
    Image.fromarray(striped(70)).save(path)
    monkeypatch.chdir(result.folder)
    printed = []
    code = examples[1].replace("part.png", str(path))
    exec(compile(code, "README.md", "exec"), {"print": lambda *values: printed.append(values)})
    python = detector.predict(path)
    assert printed == [(pytest.approx(python.score, abs=1e-5), python.is_anomalous)]


@pytest.fixture
def small(make_small_clip):
    torch.manual_seed(3)
    detector = zsad.load("clip_ac", make_small_clip(), device="cpu")
    detector.threshold = 0.5
    return detector


@pytest.fixture
def other_graph(monkeypatch):
    """Every export writes a graph that answers with the brightness of the image."""

    def write(parts, preparation, folder, *rest):
        onnx.save(brightness_graph(preparation.size), folder / "model.onnx")
        return Graphs("model.onnx")

    monkeypatch.setattr(export, "write_graphs_for", write)


@pytest.fixture
def no_limits(monkeypatch):
    """Whatever a graph answers is near enough."""
    monkeypatch.setattr(parity, "SCORE_LIMIT", float("inf"))
    monkeypatch.setattr(parity, "MAP_LIMIT", float("inf"))


@pytest.mark.usefixtures("other_graph")
def test_a_bundle_that_differs_is_not_left_behind(small, tmp_path):
    with pytest.raises(DataError, match="does not answer as Python does, so nothing was written") as caught:
        export_detector(small, tmp_path / "bundle")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("other_graph", "no_limits")
def test_only_bundles_are_replaced(small, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "a.png").write_bytes(b"")
    with pytest.raises(ConfigError, match="is no bundle: choose another folder"):
        export_detector(small, photos, overwrite=True)
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    (bundle / BUNDLE_FILE).write_text("{}", encoding="utf-8")
    with pytest.raises(ConfigError, match="--overwrite"):
        export_detector(small, bundle)
    result = export_detector(small, bundle, class_name="metal nut", overwrite=True)
    assert read_bundle(bundle).class_name == "metal nut"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "photos"]
    assert load_exported(result.folder).predict(striped(1)).threshold == 0.5


@pytest.mark.usefixtures("other_graph", "no_limits")
def test_of_two_exports_into_one_folder_the_slower_one_is_refused(small, tmp_path):
    bundle = tmp_path / "bundle"

    def another_export(what, done, total):
        bundle.mkdir(exist_ok=True)
        (bundle / BUNDLE_FILE).write_text("{}", encoding="utf-8")

    with pytest.raises(ConfigError, match="holds a bundle: --overwrite"):
        export_detector(small, bundle, progress=another_export)
    assert [path.name for path in tmp_path.rglob("*")] == ["bundle", BUNDLE_FILE]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "onx"}, "unknown format 'onx', did you mean 'onnx'[?] Known: onnx, openvino, web"),
        ({"format": "web"}, r"type zsad export --format web, or call zsad[.]deploy[.]export_web\(detector"),
        ({"precision": "fp8"}, "unknown precision 'fp8'"),
    ],
)
def test_unknown_words_are_refused(small, tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        export_detector(small, tmp_path / "bundle", **changes)


def test_a_bundle_is_not_exported_again(tmp_path):
    with pytest.raises(ConfigError, match=r"takes a detector .*got ExportedDetector"):
        export_detector(load_exported(brightness_bundle(tmp_path / "bundle")), tmp_path / "again")
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_an_untrained_detector_is_refused(make_small_clip, tmp_path):
    detector = zsad.load("anomalyclip", make_small_clip(), "fresh", device="cpu")
    with pytest.raises(ConfigError, match="random parameters"):
        export_detector(detector, tmp_path / "bundle")


def test_a_lower_precision_is_refused(make_small_clip, tmp_path):
    detector = zsad.load("clip_ac", make_small_clip(), device="cpu", precision="bf16")
    with pytest.raises(ConfigError, match="load it without precision="):
        export_detector(detector, tmp_path / "bundle")


@pytest.mark.usefixtures("other_graph", "no_limits")
def test_a_threshold_for_another_class_is_left_out(small, tmp_path):
    small.decision = dataclasses.replace(small.decision, class_name="screw")
    result = export_detector(small, tmp_path / "bundle", class_name="nut")
    assert result.bundle.threshold is None
    assert any("was left out" in line for line in result.lines)


def test_a_missing_package_is_named_before_anything_is_done(small, tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "nncf" else find(name))
    with pytest.raises(MissingExtraError, match=r"needs the package 'nncf': pip install 'zsad\[openvino\]'"):
        export_detector(small, tmp_path / "bundle", "openvino", "int8")

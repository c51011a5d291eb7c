"""Every format and precision: files of the kind, answers near Python's, and what becomes of thresholds."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import zsad
from helpers.stripes import striped
from zsad.deploy.export import export_detector
from zsad.deploy.runtime import load_exported
from zsad.errors import ConfigError, DataError

SIDE = 64


@pytest.fixture(scope="module")
def detector(make_small_clip):
    """A fitted detector, wide enough that its layers can be quantised."""
    torch.manual_seed(3)
    found = zsad.load("anomalyclip", make_small_clip(width=64, image_size=SIDE), "fresh", device="cpu")
    found.is_trained = True  # random parameters will do here
    found.fit([striped(number) for number in range(8)], rate=0.2)
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("runner", "precision", "near"),
    [
        ("onnx", "fp16", 5e-3),
        ("onnx", "int8", 0.1),
        ("openvino", "fp32", 1e-5),
        ("openvino", "fp16", 0.1),  # runs in bfloat16 where the processor can
        ("openvino", "int8", 0.3),
    ],
)
def test_a_format(detector, tmp_path, runner, precision, near):
    if runner == "openvino":
        pytest.importorskip("openvino")
        pytest.importorskip("nncf")
    images = [striped(number, (50, 60)) for number in range(20, 24)]
    result = export_detector(detector, tmp_path / "bundle", runner, precision, images=images)
    bundle = result.bundle
    assert (bundle.runner, bundle.precision) == (runner, precision)
    assert bundle.graphs.whole == ("model.onnx" if runner == "onnx" else "model.xml")
    assert (bundle.graphs.image is None) == (runner == "openvino")
    exported = load_exported(result.folder)
    for python, found in zip(detector.predict(images), exported.predict(images), strict=True):
        assert found.score == pytest.approx(python.score, abs=near)
        assert np.abs(found.anomaly_map - python.anomaly_map).max() < 3 * near
    if runner == "onnx":
        alone = [exported.predict(image).score for image in images]
        assert [one.score for one in exported.predict(images)] == pytest.approx(alone, abs=1e-5)
    text = "\n".join(result.lines)
    if precision == "fp32":
        assert bundle.threshold == detector.threshold
        return
    assert f"{precision} moves scores by" in text
    assert "verdicts change at the old threshold" in text
    if precision == "int8":
        assert bundle.threshold is None
        assert bundle.calibration is None
        assert "--good FOLDER" in text
    size = sum(file.stat().st_size for file in result.folder.iterdir() if file.suffix == ".bin")
    assert size > 0


@pytest.mark.slow
def test_good_images_make_a_threshold_for_int8(detector, tmp_path):
    good = [striped(number) for number in range(40, 52)]
    result = export_detector(detector, tmp_path / "bundle", precision="int8", good=[*good, striped(0)])
    bundle = result.bundle
    assert bundle.threshold != detector.threshold
    assert bundle.calibration["settings"]["exported_as"] == "int8"
    assert len(bundle.calibration["normal_scores"]) == len(good)
    assert any("already among the references" in line for line in result.lines)
    exported = load_exported(result.folder)
    scores = [exported.predict(image).score for image in good]
    assert sorted(scores) == pytest.approx(list(bundle.score_scale.normal_scores))
    with pytest.raises(DataError, match="among the references"):
        export_detector(detector, tmp_path / "other", precision="int8", good=[striped(0), striped(1)])
    with pytest.raises(ConfigError, match="holds a bundle"):
        export_detector(detector, tmp_path / "bundle")

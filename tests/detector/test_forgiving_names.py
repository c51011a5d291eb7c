"""Names and paths as people type them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

import zsad
from zsad.backbones.devices import check_device, device_asked_for, device_names
from zsad.detector.calibration.calibrating import calibrate
from zsad.detector.calibration.options import CalibrateOptions
from zsad.errors import ConfigError
from zsad.prediction.options import PredictOptions
from zsad.training.options import TrainOptions


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home folder with four images in `good`."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "good").mkdir()
    for seed in range(4):
        pixels = np.random.default_rng(seed).integers(0, 255, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "good" / f"{seed}.png")
    return tmp_path


@pytest.fixture(scope="module")
def detector():
    return zsad.load("WinCLIP", device="CPU", image_size=64, scales=(2,))


@pytest.mark.parametrize("name", ["ClipAC", "CLIP-AC", "clip_ac", "clip ac"])
def test_methods_by_title_and_case(name):
    assert zsad.load(name, device="auto").method.INFO.name == "clip_ac"


def test_training_knows_the_names_too():
    assert TrainOptions(method="AnomalyCLIP", data=["x"], out="w.safetensors").method == "anomalyclip"


@pytest.mark.parametrize("name", ["AnomalyCILP", "anomalyclp", "ANOMALYCLIPS"])
def test_a_near_miss_is_told(name):
    with pytest.raises(ConfigError, match="did you mean 'anomalyclip'"):
        zsad.load(name)


@pytest.mark.parametrize(
    ("typed", "name"),
    [("CPU", "cpu"), ("0", "cuda:0"), (1, "cuda:1"), ("auto", None), ("Cuda:1", "cuda:1"), ("GPU", "cuda")],
)
def test_devices(typed, name):
    assert device_asked_for(typed) == name
    assert check_device("CPU") == torch.device("cpu")
    assert device_names(2, "CPU") == ("cpu", "cpu")


def test_home_and_folders_wherever_images_go(home, detector):
    one = detector.predict("~/good/0.png")
    assert one.path == home / "good" / "0.png"
    assert [p.path.name for p in detector.predict_iter("~/good")] == [f"{n}.png" for n in range(4)]
    options = CalibrateOptions(false_alarm_rate=0.2)
    made = [
        calibrate(detector, given, options=options) for given in ("~/good", home / "good", "~/good/*.png")
    ]
    assert {calibration.threshold for calibration in made} == {made[0].threshold}
    for given in ("~/good", "~/good/*.png", home / "good", ["~/good/0.png", "~/good"], "~/good/1.png"):
        detector.set_references(given)
        assert detector.reference_fingerprints
    detector.set_references(None)
    assert PredictOptions(out="~/results").out == home / "results"

"""One depth of 16-bit files for references, companions, calibration images and images to score."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import zsad
from zsad.cli import app
from zsad.detector.calibration.calibrating import calibrate
from zsad.detector.calibration.options import CalibrateOptions
from zsad.errors import ConfigError
from zsad.prediction.options import PredictOptions
from zsad.prediction.run import predict_folder

if TYPE_CHECKING:
    from zsad.detector.detector import Detector

pytestmark = pytest.mark.filterwarnings("ignore::zsad.errors.ImageWarning")
FEW = CalibrateOptions(false_alarm_rate=0.3)


def _values(seed: int) -> np.ndarray:
    """(48, 48) uint16 of 12 bits."""
    return np.random.default_rng(seed).integers(0, 4096, (48, 48)).astype(np.uint16)


def _levels(values: np.ndarray) -> np.ndarray:
    return np.repeat(np.rint(values / 4095 * 255).astype(np.uint8)[..., None], 3, axis=2)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "parts"
    place.mkdir()
    for number in range(4):
        Image.fromarray(_values(number)).save(place / f"{number}.png")
    return place


@pytest.fixture(scope="module")
def plain() -> Detector:
    return zsad.load("clip_ac")


def _shown(prediction: zsad.Prediction, seed: int) -> bool:
    return bool((prediction.image == _levels(_values(seed))).all())


def test_every_entrance_takes_the_depth(plain: Detector, folder: Path) -> None:
    deep = zsad.load("clip_ac", bits=12)
    first = folder / "0.png"
    assert _shown(deep.predict(first), 0)
    assert _shown(plain.predict(first, bits=12), 0)
    assert _shown(plain.predict(_values(0), bits="12"), 0)  # type: ignore[arg-type]
    assert all(
        _shown(each, seed) for seed, each in enumerate(plain.predict(sorted(folder.iterdir()), bits=12))
    )
    assert all(_shown(each, seed) for seed, each in enumerate(plain.predict_iter(folder, bits="auto")))
    assert plain.predict(first).image.max() == 16
    assert plain.bits is None


def test_one_scale_for_all_images_of_a_list(plain: Detector) -> None:
    dark = _values(0) // 16
    found = plain.predict([dark, _values(1)], bits="auto")
    assert found[0].image.max() == 16
    assert _shown(found[1], 1)
    with pytest.raises(ConfigError, match="a stream can be read only once"):
        plain.predict_iter(iter([dark]), bits="auto")
    with pytest.raises(ConfigError, match="--bits auto is for predict"):
        zsad.load("clip_ac", bits="auto")  # type: ignore[arg-type]


def test_references_and_images_share_the_depth(plain: Detector, folder: Path) -> None:
    levels = [_levels(_values(seed)) for seed in range(4)]
    expected = zsad.load("winclip", references=levels[:2]).predict(levels[3]).score
    loaded = zsad.load("winclip", bits=12, references=[folder / "0.png", folder / "1.png"])
    assert loaded.predict(folder / "3.png").score == pytest.approx(expected, abs=1e-6)
    given = zsad.load("winclip")
    given.set_references([folder / "0.png", folder / "1.png"], bits="auto")
    assert given.bits == 12
    assert given.predict(folder / "3.png").score == pytest.approx(expected, abs=1e-6)
    with pytest.raises(ConfigError, match="read at a depth of 12, got bits=16"):
        given.predict(folder / "3.png", bits=16)


def test_a_calibration_belongs_to_its_depth(plain: Detector, folder: Path, tmp_path: Path) -> None:
    deep = zsad.load("clip_ac", bits=12)
    calibration = calibrate(deep, folder, options=FEW)
    assert calibration.settings["bits"] == 12
    with pytest.raises(ConfigError, match="made with bits of 16-bit files 12, and this detector has none"):
        copy.copy(plain).apply_calibration(calibration)
    assert zsad.load(calibration=calibration).bits == 12
    deep.apply_calibration(calibration)
    assert deep.predict(folder / "0.png", bits=12).is_anomalous is False
    assert deep.predict(folder / "0.png", bits=16).is_anomalous is None
    deep.save(tmp_path / "deep.safetensors")
    assert zsad.load(checkpoint=tmp_path / "deep.safetensors").bits == 12


def test_other_processes_inherit_the_depth(folder: Path, tmp_path: Path) -> None:
    deep = zsad.load("clip_ac", bits=12)
    assert pickle.loads(pickle.dumps(deep)).bits == 12  # what workers get
    expected = [
        record.score for record in predict_folder(folder, deep, PredictOptions(out=tmp_path / "1")).records
    ]
    plain = zsad.load("clip_ac")
    options = PredictOptions(out=tmp_path / "2", bits="auto", devices=2)
    scores = [record.score for record in predict_folder(folder, plain, options).records]
    assert scores == pytest.approx(expected, abs=1e-5)


def test_command_line(folder: Path, tmp_path: Path) -> None:
    out, calibration = str(tmp_path / "out"), str(tmp_path / "line.json")
    run = CliRunner().invoke
    weights = ("--method", "clip_ac")
    done = run(
        app, ["calibrate", str(folder), *weights, "--rate", "0.3", "--bits", "12", "--out", calibration]
    )
    assert done.exit_code == 0, done.output
    arguments = ["predict", str(folder), "--calibration", calibration, "--out", out, "-q"]
    assert run(app, arguments).exit_code == 0
    assert json.loads(Path(out, "settings.json").read_text())["bits"] == 12
    refused = run(app, [*arguments, "--bits", "16"])
    assert refused.exit_code == 2
    assert "bits of 16-bit files 12, and this detector has 16" in refused.stderr


def test_the_networks_input_is_the_same(plain: Detector, folder: Path) -> None:
    deep = zsad.load("clip_ac", bits=12)
    raw = plain.predict(_levels(_values(0)))
    assert torch.equal(
        torch.from_numpy(deep.predict(folder / "0.png").anomaly_map), torch.from_numpy(raw.anomaly_map)
    )

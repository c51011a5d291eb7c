"""`zsad predict --bundle`, end to end on a graph that measures brightness."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
import threading

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import zsad
from helpers.brightness_bundle import brightness_bundle
from zsad.cli import app, doctor
from zsad.errors import ConfigError, MissingTorchError, without_torch
from zsad.prediction.options import PredictOptions
from zsad.prediction.run import predict_folder
from zsad.prediction.watching import WatchOptions, watch_folders
from zsad.types import ScoreScale

DECISION = {"threshold": 0.5, "map_threshold": 0.6, "score_scale": ScoreScale(0.1, (0.2, 0.3))}


@pytest.fixture
def run(monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")  # messages on one line
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def parts(tmp_path):
    """A dark, a bright and a long image, and a file that is none."""
    folder = tmp_path / "parts"
    folder.mkdir()
    for name, level, size in (("dark", 20, (30, 40)), ("bright", 240, (30, 40)), ("long", 99, (30, 200))):
        Image.fromarray(np.full((*size, 3), level, np.uint8)).save(folder / f"{name}.png")
    (folder / "text.png").write_bytes(b"no image")
    return folder


def records(folder):
    lines = (folder / "results.jsonl").read_text().splitlines()
    return {record["path"].rpartition("/")[2]: record for record in map(json.loads, lines)}


def test_tables_overlays_and_page_are_those_of_a_detector(run, parts, tmp_path):
    bundle, out = brightness_bundle(tmp_path / "bundle", **DECISION), tmp_path / "out"
    ran = run("predict", parts, "--bundle", bundle, "--out", out)
    assert ran.exit_code == 3, ran.output
    assert "failed: " in ran.output
    found = records(out)
    assert found["bright.png"]["score"] == pytest.approx(240 / 255)
    assert found["bright.png"]["is_anomalous"] is True
    assert found["dark.png"]["is_anomalous"] is False
    assert found["dark.png"]["p_value"] == 1
    assert found["text.png"]["score"] is None
    assert found["text.png"]["error"]
    assert (found["dark.png"]["method"], found["dark.png"]["backbone"]) == ("clip_ac", "tiny")
    assert (found["long.png"]["width"], found["long.png"]["height"]) == (200, 30)
    with (out / "results.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 4
    for kind in ("overlays/bright_overlay.jpg", "maps/bright_map.png", "masks/bright_mask.png"):
        assert (out / kind).is_file()
    assert np.asarray(Image.open(out / "masks" / "bright_mask.png")).all()
    assert "bright" in (out / "index.html").read_text()
    settings = json.loads((out / "settings.json").read_text())
    assert (settings["bundle"], settings["runner"]) == (str(bundle), "onnx")


def test_a_run_continues_only_with_the_same_bundle(run, parts, tmp_path):
    out, bundle = tmp_path / "out", brightness_bundle(tmp_path / "bundle")
    (parts / "text.png").unlink()
    assert run("predict", parts, "--bundle", bundle, "--out", out).exit_code == 0
    Image.fromarray(np.full((9, 9, 3), 7, np.uint8)).save(parts / "new.png")
    more = run("predict", parts, "--bundle", bundle, "--out", out, "--resume")
    assert more.exit_code == 0
    assert "3 from an earlier run" in more.output
    brightness_bundle(tmp_path / "bundle", precision="fp16")
    other = run("predict", parts, "--bundle", bundle, "--out", out, "--resume")
    assert other.exit_code == 2
    assert "exported_as" in other.output


def test_tiles_thresholds_and_depth_are_options_of_bundles_too(run, parts, tmp_path):
    out, bundle = tmp_path / "out", brightness_bundle(tmp_path / "bundle", **DECISION)
    options = ("--tile", "20", "--threshold", "0.05", "--map-threshold", "0.3", "--bits", "12")
    ran = run("predict", parts, "--bundle", bundle, "--out", out, *options, "--threads", "1")
    assert ran.exit_code == 3, ran.output
    found = records(out)
    assert found["long.png"]["tile"] == 20
    assert found["dark.png"]["is_anomalous"] is True
    assert found["dark.png"]["threshold"] == 0.05


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--method", "winclip"], "--method does not go with --bundle: a bundle holds everything"),
        (["--checkpoint", "a.safetensors"], "--checkpoint does not go with --bundle"),
        (["--references", "good"], "--references does not go with --bundle"),
        (["--precision", "bf16"], "--precision does not go with --bundle: .*zsad export --precision"),
        (["--device", "cuda"], "--device does not go with --bundle: give --providers"),
        (["--devices", "2"], "--devices does not go with --bundle: a bundle runs in this process"),
        (["--engine", "ray"], "--engine does not go with --bundle"),
        (["--set", "sigma=4"], "--set does not go with --bundle"),
        (["--explain", "cracked"], "--explain does not go with --bundle: phrases need"),
        (["--roi", "0,0,9,9"], "--roi does not go with --bundle"),
        (["--providers", "cuda"], "has no CUDAExecutionProvider here"),
        (["--class-name", ""], "a class name must be a text"),
    ],
)
def test_what_a_bundle_cannot_do_is_refused_by_name(run, parts, tmp_path, options, message):
    bundle = brightness_bundle(tmp_path / "bundle")
    ran = run("predict", parts, "--bundle", bundle, "--out", tmp_path / "out", *options)
    assert ran.exit_code == 2
    assert ran.output.startswith("error: ")
    assert len(ran.output.splitlines()) == 1
    assert re.search(message, ran.output), ran.output


def test_options_of_bundles_want_a_bundle(run, parts, tmp_path):
    for option in (("--threads", "2"), ("--providers", "cpu")):
        ran = run("predict", parts, "--out", tmp_path / "out", *option)
        assert ran.exit_code == 2
        assert f"{option[0]} is for exported bundles" in ran.output
    ran = run("predict", parts, "--bundle", tmp_path / "nowhere", "--out", tmp_path / "out")
    assert ran.exit_code == 2
    assert "does not exist: give the folder that `zsad export --out` wrote" in ran.output


def test_python_takes_an_exported_detector_where_it_takes_a_detector(parts, tmp_path):
    exported = zsad.load_exported(brightness_bundle(tmp_path / "bundle"))
    result = predict_folder(parts, exported, PredictOptions(out=tmp_path / "out", tile=20))
    assert {record.tile for record in result.scored} == {20}
    assert len(result.failed) == 1
    for refused in ({"devices": 2}, {"engine": "ray"}, {"roi": "0,0,9,9"}, {"device": "cuda"}):
        (name,) = refused
        with pytest.raises(ConfigError, match=f"{name} is for detectors"):
            predict_folder(parts, exported, PredictOptions(out=tmp_path / "out", **refused))


def test_a_watch_takes_a_bundle_too(parts, tmp_path):
    exported, stop = zsad.load_exported(brightness_bundle(tmp_path / "bundle", **DECISION)), threading.Event()
    found = []

    def report(record):
        found.append(record)
        if len(found) == 3:
            stop.set()

    (parts / "text.png").unlink()
    quick = WatchOptions(interval=0.01, patience=0.1)
    watch_folders(parts, exported, PredictOptions(out=tmp_path / "out"), quick, stop=stop, report=report)
    assert sorted(record.is_anomalous for record in found) == [False, False, True]


@pytest.mark.parametrize(
    "code",
    [
        "zsad.load()",
        "zsad.Detector",
        "import zsad.cli, sys; sys.argv = ['zsad', 'fit', 'a', '--out', 'b']; zsad.cli.main()",
    ],
)
def test_without_torch_one_line_says_what_to_install(code):
    """As in an environment of `zsad-runtime`; this one has torch."""
    hidden = "import sys; sys.modules['torch'] = None; import zsad"
    ran = subprocess.run(
        [sys.executable, "-c", f"{hidden}; {code}"], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 1
    last = ran.stderr.splitlines()[-1]
    assert "this needs PyTorch, which is not installed here" in last
    assert "--bundle DIR, zsad.load_exported" in last


def test_other_missing_modules_are_not_blamed_on_torch():
    assert isinstance(without_torch(ModuleNotFoundError("no", name="torch.nn")), MissingTorchError)
    other = ModuleNotFoundError("no", name="pandas")
    assert without_torch(other) is other


def test_doctor_finds_both_distributions_in_one_environment(monkeypatch):
    there = doctor._is_installed
    monkeypatch.setattr(doctor, "_is_installed", lambda name: name == "zsad-runtime" or there(name))
    monkeypatch.setattr(doctor, "_prediction", lambda: "works")
    found = {finding.name: finding for finding in doctor.diagnose()}
    assert found["zsad-runtime"].state == "problem"
    assert found["zsad-runtime"].advice.startswith("pip uninstall zsad-runtime")
    assert "CPUExecutionProvider" in found["bundles"].value

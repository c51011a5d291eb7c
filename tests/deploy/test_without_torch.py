"""The steps of the Dockerfile as a script in a bare environment: predict and serve without torch."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.brightness_bundle import brightness_bundle

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def runtime(bare):
    """The bare environment with a bundle and two parts in its home."""
    brightness_bundle(bare.home / "bundle", threshold=0.5)
    (bare.home / "parts").mkdir()
    for name, level in (("dark", 20), ("bright", 240)):
        Image.fromarray(np.full((30, 40, 3), level, np.uint8)).save(bare.home / "parts" / f"{name}.png")
    return bare


def test_there_is_no_torch(runtime):
    assert "No module named 'torch'" in runtime.run("python", "-c", "import torch").stderr
    done = runtime.run("python", "-c", "import zsad.deploy.runtime")
    assert done.returncode == 0, done.stderr


def test_predict_writes_everything(runtime):
    done = runtime.run("zsad", "predict", "parts", "--bundle", "bundle", "--out", "results")
    assert done.returncode == 0, done.stderr
    results = runtime.home / "results"
    found = {
        Path(record["path"]).stem: record
        for record in map(json.loads, (results / "results.jsonl").read_text().splitlines())
    }
    assert found["bright"]["score"] == pytest.approx(240 / 255, abs=1e-6)
    assert (found["bright"]["is_anomalous"], found["dark"]["is_anomalous"]) == (True, False)
    assert "onnxruntime" in (results / "index.html").read_text()


@pytest.mark.parametrize(
    "command",
    [
        ("zsad", "predict", "parts", "--out", "none"),
        ("zsad", "predict", "parts", "--method", "winclip", "--out", "none"),
        ("zsad", "fit", "parts", "--out", "fitted.safetensors"),
        ("zsad", "methods"),
        ("zsad", "backbones"),
        ("python", "-m", "zsad", "weights", "list"),
    ],
)
def test_what_needs_torch_says_so_in_one_line(runtime, command):
    done = runtime.run(*command)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: this needs PyTorch, which is not installed here")
    assert "pip uninstall zsad-runtime, pip install zsad" in line


def test_python_says_it_too_and_doctor_is_content(runtime):
    code = "import zsad\ntry:\n    zsad.load()\nexcept zsad.errors.ZsadError as error:\n    print(error)"
    assert runtime.run("python", "-c", code).stdout.startswith("this needs PyTorch")
    done = runtime.run("zsad", "doctor")
    assert done.returncode == 0, done.stdout
    assert "zsad-runtime" in done.stdout


def test_extras_are_those_of_the_runtime(runtime):
    scan = runtime.home / "scan.dcm"
    scan.write_bytes(b"\0" * 128 + b"DICM" + b"\0" * 64)
    done = runtime.run("zsad", "predict", "scan.dcm", "--bundle", "bundle", "--out", "scans")
    assert "pip install 'zsad-runtime[medical]'" in done.stderr


def test_the_server_answers_and_the_health_check_passes(runtime):
    with runtime.served("bundle") as ask:
        row = ask(runtime.home / "parts" / "bright.png")
    assert row["score"] == pytest.approx(240 / 255, abs=1e-6)
    assert row["is_anomalous"] is True

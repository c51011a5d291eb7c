"""The steps of the Dockerfile as a script in a bare environment: predict and serve without torch."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.brightness_bundle import brightness_bundle

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
BUILD, FINAL = re.split(r"^FROM .*$", DOCKERFILE, flags=re.MULTILINE)[1:]
TOKEN = "a-token-for-the-test"


def instructions(stage, name):
    return re.findall(rf"^{name} (.*)$", stage, re.MULTILINE)


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """A home, the sources that .dockerignore lets through, and an environment as the Dockerfile makes it."""
    home = tmp_path_factory.mktemp("bare")
    for copied in instructions(BUILD, "COPY"):
        source, target = copied.split()
        leave_out = shutil.ignore_patterns("tiny", "__pycache__")
        shutil.copytree(ROOT / source, home / "source" / target, ignore=leave_out)
    (home / "bin").mkdir()
    (home / "bin" / "python").symlink_to(Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info.minor}")
    settings = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_"))}
    environment = {**settings, "HOME": str(home), "PATH": f"{home}/bin:/usr/bin:/bin", "ENGINE": "cpu"}
    for step in instructions(BUILD, "RUN"):
        here = step.replace("/opt/zsad", str(home / "zsad"))
        done = run((home / "source", environment), "/bin/sh", "-ec", here)
        assert done.returncode == 0, f"{here}\n{done.stdout}\n{done.stderr}"
    shutil.rmtree(home / "source")
    environment["PATH"] = f"{home}/zsad/bin:/usr/bin:/bin"
    brightness_bundle(home / "bundle", threshold=0.5)
    (home / "parts").mkdir()
    for name, level in (("dark", 20), ("bright", 240)):
        Image.fromarray(np.full((30, 40, 3), level, np.uint8)).save(home / "parts" / f"{name}.png")
    return home, environment


def run(bare, *command):
    home, environment = bare
    return subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, check=False)


def answers(url):
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status == 200
    except OSError:  # nobody listens, or not ready yet
        return False


def test_there_is_no_torch_and_the_import_is_quick(bare):
    found = run(bare, "python", "-c", "import torch")
    assert "No module named 'torch'" in found.stderr
    code = "import time; t = time.process_time(); import zsad.deploy.runtime; print(time.process_time() - t)"
    taken = min(float(run(bare, "python", "-c", code).stdout) for _ in range(3))
    assert taken < 0.3


def test_predict_writes_everything(bare):
    done = run(bare, "zsad", "predict", "parts", "--bundle", "bundle", "--out", "results")
    assert done.returncode == 0, done.stderr
    lines = (bare[0] / "results" / "results.jsonl").read_text().splitlines()
    found = {Path(record["path"]).stem: record for record in map(json.loads, lines)}
    assert found["bright"]["score"] == pytest.approx(240 / 255, abs=1e-6)
    assert (found["bright"]["is_anomalous"], found["dark"]["is_anomalous"]) == (True, False)
    assert "onnxruntime" in (bare[0] / "results" / "index.html").read_text()


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
def test_what_needs_torch_says_so_in_one_line(bare, command):
    done = run(bare, *command)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: this needs PyTorch, which is not installed here")
    assert "pip uninstall zsad-runtime, pip install zsad" in line


def test_python_says_it_too_and_doctor_is_content(bare):
    code = "import zsad\ntry:\n    zsad.load()\nexcept zsad.errors.ZsadError as error:\n    print(error)"
    assert run(bare, "python", "-c", code).stdout.startswith("this needs PyTorch")
    done = run(bare, "zsad", "doctor")
    assert done.returncode == 0, done.stdout
    assert "zsad-runtime" in done.stdout


def test_extras_are_those_of_the_runtime(bare):
    (bare[0] / "parts" / "scan.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\0" * 64)
    done = run(bare, "zsad", "predict", "parts/scan.dcm", "--bundle", "bundle", "--out", "scans")
    (bare[0] / "parts" / "scan.dcm").unlink()
    assert "pip install 'zsad-runtime[medical]'" in done.stderr


def test_the_server_answers_and_the_health_check_passes(bare):
    home, environment = bare
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    words = json.loads(instructions(FINAL, "ENTRYPOINT")[0]) + json.loads(instructions(FINAL, "CMD")[0])
    changed = {"/bundle": "bundle", "0.0.0.0": "127.0.0.1", "8000": port}
    command = [changed.get(word, word) for word in words]
    check = json.loads(re.search(r"HEALTHCHECK .*?CMD (\[.*\])", FINAL)[1])
    asked = {**environment, "ZSAD_SERVE_TOKEN": TOKEN}
    with (home / "server.log").open("wb") as log:
        server = subprocess.Popen(command, cwd=home, env=asked, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 60
        probe = [word.replace("8000", port) for word in check]
        while run(bare, *probe).returncode and time.monotonic() < deadline:
            time.sleep(0.2)
        assert server.poll() is None, (home / "server.log").read_text()
        while not answers(f"http://127.0.0.1:{port}/ready") and time.monotonic() < deadline:
            time.sleep(0.1)
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/v1/predict",
            data=(home / "parts" / "bright.png").read_bytes(),
            headers={"Authorization": f"Bearer {TOKEN}", "Content-Type": "image/png"},
        )
        with urllib.request.urlopen(request, timeout=20) as answer:
            (row,) = json.load(answer)["results"]
        assert row["score"] == pytest.approx(240 / 255, abs=1e-6)
        assert row["is_anomalous"] is True
    finally:
        server.terminate()
        assert server.wait(30) == 0, shlex.join(command)

"""From good parts to a line: fit, export, predict without torch, serve, and the page; one verdict in all."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import httpx
import numpy as np
import pytest
from PIL import Image

from helpers.browser import open_browser, open_page, wait_until_scored
from helpers.server_process import serving

pytestmark = pytest.mark.slow

GOOD, PARTS, SCRATCHED = 8, 6, (1, 4)


def plate(number, *, is_scratched=False):
    """A brushed plate of its own grain; some have a bright scratch."""
    generator = np.random.default_rng(number)
    levels = 120 + 30 * np.sin(np.arange(200) / 6)[:, None] + generator.normal(0, 8, (200, 240))
    if is_scratched:
        levels[60:140, 100:108] = 250
    return Image.fromarray(levels.clip(0, 255).astype(np.uint8)).convert("RGB")


@pytest.fixture(scope="module")
def afternoon(tmp_path_factory):
    """A fitted file and its bundle, made by the command line, and parts to judge."""
    home = tmp_path_factory.mktemp("afternoon")
    for name in ("good", "parts"):
        (home / name).mkdir()
    for number in range(GOOD):
        plate(number).save(home / "good" / f"{number}.png")
    for number in range(PARTS):
        part = plate(100 + number, is_scratched=number in SCRATCHED)
        part.save(home / "parts" / f"{number}.png")
    zsad(home, "fit", "good", "--out", "line.safetensors", "--rate", "0.2")
    zsad(home, "export", "--checkpoint", "line.safetensors", "--out", "line-onnx", "--images", "good")
    return home


def zsad(home, *arguments, without_torch=False):
    paths = [*sys.path]
    if without_torch:
        (home / "blocked").mkdir(exist_ok=True)
        (home / "blocked" / "torch.py").write_text("raise ImportError(\"No module named 'torch'\")")
        paths.insert(0, str(home / "blocked"))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-m", "zsad", *arguments]
    done = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def verdicts(home, out):
    lines = (home / out / "results.jsonl").read_text().splitlines()
    return {
        os.path.basename(row["path"]): (row["score"], row["is_anomalous"]) for row in map(json.loads, lines)
    }


@pytest.fixture(scope="module")
def expected(afternoon):
    """What Python says of each part."""
    zsad(afternoon, "predict", "parts", "--checkpoint", "line.safetensors", "--out", "python")
    found = verdicts(afternoon, "python")
    assert {name for name, (_, is_anomalous) in found.items() if is_anomalous} == {
        f"{number}.png" for number in SCRATCHED
    }
    return found


def check(found, expected):
    assert {name: verdict for name, (_, verdict) in found.items()} == {
        name: verdict for name, (_, verdict) in expected.items()
    }
    assert {name: score for name, (score, _) in found.items()} == pytest.approx(
        {name: score for name, (score, _) in expected.items()}, abs=1e-5
    )


def test_predict_without_torch(afternoon, expected):
    zsad(afternoon, "predict", "parts", "--bundle", "line-onnx", "--out", "bundle", without_torch=True)
    check(verdicts(afternoon, "bundle"), expected)


def test_server_and_page(afternoon, expected):
    files = [afternoon / "parts" / name for name in sorted(expected)]
    with serving("--bundle", str(afternoon / "line-onnx")) as server:
        sent = [("file", (file.name, file.read_bytes(), "image/png")) for file in files]
        rows = httpx.post(f"{server.url}/v1/predict", files=sent, timeout=120).json()["results"]
        check({row["name"]: (row["score"], row["is_anomalous"]) for row in rows}, expected)
        with open_browser() as browser, open_page(browser, server.url) as page:
            page.set_input_files("input[type=file][multiple]:not([webkitdirectory])", files)
            wait_until_scored(page, len(files))
            with page.expect_download() as download:
                page.click("#save-json")
            shown = json.loads(download.value.path().read_bytes())["results"]
            check({row["name"]: (row["score"], row["is_anomalous"]) for row in shown}, expected)
            assert page.problems == []

"""The integrator's afternoon: fit, export, predict, serve, page; the same verdicts everywhere."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.browser import open_browser, open_page, wait_until_scored
from helpers.server_process import serving

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def woven(number, size=(256, 384)):
    """A woven texture, a little different each time."""
    generator = np.random.default_rng(number)
    down, across = np.mgrid[: size[0], : size[1]]
    weave = np.sin(down / 5 + generator.uniform(0, 6)) * np.sin(across / 5) * 40 + 130
    pixels = weave[..., None] * (1.0, 0.9, 0.8) + generator.normal(0, 6, (*size, 3))
    return pixels.clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """Ten good parts to learn from, and two good ones and two with a hole to score."""
    folder = tmp_path_factory.mktemp("line")
    for kind in ("good", "parts"):
        (folder / kind).mkdir()
    for number in range(10):
        Image.fromarray(woven(number)).save(folder / "good" / f"{number}.png")
    for number in range(20, 24):
        pixels = woven(number)
        if number % 2:
            pixels[90:150, 120:200] = 15
        Image.fromarray(pixels).save(folder / "parts" / f"{'hole' if number % 2 else 'fine'}_{number}.png")
    return folder


def zsad(work, *words):
    done = subprocess.run(
        [sys.executable, "-m", "zsad", *words], cwd=work, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def results(folder):
    lines = (folder / "results.jsonl").read_text(encoding="utf-8").splitlines()
    return {Path(row["path"]).name: row for row in map(json.loads, lines)}


@pytest.mark.parametrize("method", ["anomalyclip", "auto"])
def test_the_same_verdicts_from_fit_to_server(work, bare, method):
    fitted, bundle = f"{method}.safetensors", f"{method}-onnx"
    zsad(work, "fit", "good", "--method", method, "--out", fitted)
    zsad(work, "predict", "parts", "--checkpoint", fitted, "--out", f"{method}-python")
    zsad(work, "export", "--checkpoint", fitted, "--out", bundle)
    parts, out = str(work / "parts"), work / f"{method}-bundle"
    done = bare.run("zsad", "predict", parts, "--bundle", str(work / bundle), "--out", str(out))
    assert done.returncode == 0, done.stderr
    python, exported = results(work / f"{method}-python"), results(out)
    assert python.keys() == exported.keys()
    assert {name: row["is_anomalous"] for name, row in python.items()} == {
        name: name.startswith("hole") for name in python
    }
    with bare.served(work / bundle) as ask:
        served = {name: ask(work / "parts" / name) for name in python}
    for name, row in python.items():
        for other in (exported[name], served[name]):
            assert other["score"] == pytest.approx(row["score"], abs=1e-5)
            assert (other["is_anomalous"], other["threshold"]) == (row["is_anomalous"], row["threshold"])


def test_the_page_shows_the_same_verdicts(work):
    zsad(work, "fit", "good", "--out", "shown.safetensors")
    zsad(work, "predict", "parts", "--checkpoint", "shown.safetensors", "--out", "shown-python")
    zsad(work, "export", "--checkpoint", "shown.safetensors", "--out", "shown-onnx", "--images", "good")
    expected = results(work / "shown-python")
    files = [work / "parts" / name for name in expected]
    with (
        serving("--bundle", str(work / "shown-onnx")) as server,
        open_browser() as browser,
        open_page(browser, server.url) as page,
    ):
        page.set_input_files("input[type=file][multiple]:not([webkitdirectory])", files)
        wait_until_scored(page, len(files))
        with page.expect_download() as download:
            page.click("#save-json")
        rows = json.loads(download.value.path().read_bytes())["results"]
        assert page.problems == []
    shown = {row["name"]: row for row in rows}
    assert shown.keys() == expected.keys()
    for name, row in expected.items():
        assert shown[name]["score"] == pytest.approx(row["score"], abs=1e-5)
        assert shown[name]["is_anomalous"] == row["is_anomalous"] == name.startswith("hole")

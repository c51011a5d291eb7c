"""`zsad export`: from good images to a bundle that decides as the file of the fit does."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from helpers.stripes import striped
from zsad.cli import app

ROOT = Path(__file__).parents[2]


def run(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Good images and parts, one of which has a blot."""
    monkeypatch.chdir(tmp_path)
    for folder, first, count in (("good", 0, 6), ("parts", 10, 3)):
        Path(folder).mkdir()
        for number in range(first, first + count):
            image = striped(number, (96, 120))
            if number == 12:
                image[30:60, 40:90] = 15
            Image.fromarray(image).save(f"{folder}/{number}.png")
    return tmp_path


def rows(folder):
    lines = (folder / "results.jsonl").read_text(encoding="utf-8").splitlines()
    return {Path(row["path"]).name: row for row in map(json.loads, lines)}


@pytest.mark.slow
def test_fit_export_predict(folders):
    """The commands of docs/exporting.md, and its Python example on the same file."""
    answer = run("fit", "good", "--out", "line3.safetensors", "--rate", "0.2", "--quiet")
    assert answer.exit_code == 0, answer.output
    answer = run("export", "--checkpoint", "line3.safetensors", "--out", "line3-onnx", "--images", "parts")
    assert answer.exit_code == 0, answer.output
    assert "Compared with Python on 3 given images and 5 synthetic images" in answer.output
    assert "Written: line3-onnx" in answer.output
    again = run("export", "--checkpoint", "line3.safetensors", "--out", "line3-onnx")
    assert again.exit_code == 2
    assert "--overwrite" in again.output
    python = run("predict", "parts", "--checkpoint", "line3.safetensors", "--out", "python", "--quiet")
    exported = run("predict", "parts", "--bundle", "line3-onnx", "--out", "exported", "--quiet")
    assert python.exit_code == exported.exit_code == 0, exported.output
    first, second = rows(folders / "python"), rows(folders / "exported")
    assert first.keys() == second.keys() == {"10.png", "11.png", "12.png"}
    for name, row in first.items():
        assert second[name]["score"] == pytest.approx(row["score"], abs=1e-5)
        for field in ("is_anomalous", "threshold", "width", "height", "method", "backbone"):
            assert second[name][field] == row[field]
    assert first["12.png"]["is_anomalous"]
    maps = [np.asarray(Image.open(next(Path(out, "maps").glob("12*")))) for out in ("python", "exported")]
    assert np.abs(maps[0].astype(int) - maps[1].astype(int)).max() <= 8  # of 65535
    shutil.rmtree("line3-onnx")
    page = (ROOT / "docs" / "exporting.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(compile(example, "exporting.md", "exec"), {})
    assert Path("line3-onnx/model.onnx").is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--method", "musc"], "musc cannot be exported: it compares the images of a folder"),
        (["--method", "winclip", "--format", "onx"], "unknown format 'onx'"),
        (["--method", "winclip", "--images", "nowhere"], "nowhere"),
    ],
)
def test_wrong_usage_is_one_line(folders, words, message):
    answer = run("export", "--out", "bundle", "--quiet", *words)
    assert answer.exit_code != 0
    assert message in answer.stderr
    assert len(answer.stderr.strip().splitlines()) == 1
    assert not Path("bundle").exists()


def test_what_a_page_cannot_have_is_refused_at_once(tmp_path):
    answer = run("export", "--out", tmp_path / "out", "--onnxruntime-web", tmp_path)
    assert answer.exit_code == 2
    assert "add --format web" in answer.output
    answer = run("export", "--format", "web", "--precision", "int8", "--out", tmp_path / "out")
    assert answer.exit_code == 2
    assert "unknown precision 'int8'" in answer.output
    (tmp_path / "bundle.json").write_text("{}")
    answer = run("export", "--format", "web", "--overwrite", "--out", tmp_path)
    assert answer.exit_code == 2
    assert "exists and is no page" in answer.output
    assert [path.name for path in tmp_path.iterdir()] == ["bundle.json"]


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals as on Linux")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_export_that_is_stopped_leaves_nothing(tmp_path, number):
    command = [sys.executable, "-m", "zsad", "export", "--method", "anomalyclip", "--out", "bundle"]
    export = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 300
    while not list(tmp_path.glob(".zsad-bundle-*/new/*")):
        assert export.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    export.send_signal(number)
    _, complaints = export.communicate(timeout=300)
    assert (export.returncode, complaints.splitlines()[-1]) == (130, "error: interrupted")
    assert list(tmp_path.iterdir()) == []

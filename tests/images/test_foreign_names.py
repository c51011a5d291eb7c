"""File names that are not UTF-8 end no run: predict, page, tables, evaluate, data check, train, calibrate."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import zsad
from zsad.cli import app

FOREIGN = os.fsdecode(b"sch\xf6n_\xff.png")  # Latin-1, as from an old archive


def _photo(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    levels = np.random.default_rng(seed).integers(0, 255, (40, 40, 3), dtype=np.uint8)
    try:
        Image.fromarray(levels).save(path)
    except OSError:
        pytest.skip("this file system takes no names that are not UTF-8")


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    root = tmp_path / os.fsdecode(b"caf\xe9")
    for number, name in enumerate(("a.png", FOREIGN, "b.png")):
        _photo(root / "test" / "good" / name, number)
        _photo(root / "test" / "bad" / name, 10 + number)
        mask = np.zeros((40, 40), np.uint8)
        mask[4:20, 4:20] = 255
        (root / "ground_truth" / "bad").mkdir(parents=True, exist_ok=True)
        stem = Path(name).stem
        Image.fromarray(mask).save(root / "ground_truth" / "bad" / f"{stem}_mask.png")
    (root / "test" / "good" / os.fsdecode(b"broken\xe4.png")).write_bytes(b"no image")
    return root


def _run(*arguments: str, code: int = 0) -> str:
    done = CliRunner().invoke(app, [*arguments])
    assert "Traceback" not in done.output
    assert "unexpected" not in done.output, (arguments[0], done.output[-600:], done.exception)
    assert done.exit_code == code, done.output
    return done.output


@pytest.mark.parametrize("extra", [[], ["-q"], ["--json"], ["--resume"]])
def test_predict(dataset: Path, tmp_path: Path, extra: list[str]) -> None:
    out = tmp_path / os.fsdecode(b"out\xe9")
    arguments = ["predict", str(dataset / "test"), "--method", "clip_ac", "--out", str(out)]
    _run(*arguments, code=3)
    _run(*arguments, *extra, code=3)
    rows = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert len(rows) == 7
    assert sum(row["error"] is None for row in rows) == 6
    assert (out / "results.csv").read_text(encoding="utf-8-sig").count("\n") >= 8
    assert (out / "index.html").stat().st_size > 1000
    assert len(list((out / "overlays").rglob("*.jpg"))) == 6


def test_calibrate_and_python(dataset: Path, tmp_path: Path) -> None:
    good = str(dataset / "test" / "good")
    _run("calibrate", good, "--method", "clip_ac", "--rate", "0.4", "--out", str(tmp_path / "c.json"), code=3)
    detector = zsad.load("winclip", references=dataset / "test" / "good" / FOREIGN)
    prediction = detector.predict(dataset / "test" / "bad" / FOREIGN)
    assert prediction.save(tmp_path / "saved")


def test_data_evaluate_and_train(dataset: Path, tmp_path: Path) -> None:
    _run("data", "check", str(dataset), code=3)
    out = tmp_path / "evaluation"
    _run("evaluate", "--data", str(dataset), "--method", "clip_ac", "--out", str(out), code=3)
    _run(
        "evaluate", "--data", str(dataset), "--method", "clip_ac", "--out", str(out), "--resume", "-q", code=3
    )
    _run("report", str(out))
    (dataset / "test" / "good" / os.fsdecode(b"broken\xe4.png")).unlink()
    trained = str(tmp_path / "w.safetensors")
    _run("train", "--data", str(dataset), "--method", "anomalyclip", "--epochs", "1", "--out", trained, "-q")

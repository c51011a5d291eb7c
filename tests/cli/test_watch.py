"""`zsad predict --watch` in a process of its own: with a fitted detector, stopped and started again."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name == "nt", reason="signals as on Linux")]


def texture(seed, has_spot=False):
    pixels = np.random.default_rng(seed).normal(128, 12, (96, 96, 3)).clip(0, 255).astype(np.uint8)
    if has_spot:
        pixels[30:60, 30:60] = (250, 30, 30)
    return Image.fromarray(pixels)


@pytest.fixture
def checkpoint(tmp_path):
    (tmp_path / "good").mkdir()
    for seed in range(12):
        texture(seed).save(tmp_path / "good" / f"{seed}.png")
    command = [sys.executable, "-m", "zsad", "fit", "good", "--out", "line.safetensors", "--rate", "0.2"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=600)
    return "line.safetensors"


def started(folder, *options):
    """A watch of `folder`/in."""
    command = [sys.executable, "-u", "-m", "zsad", "predict", "--watch", "in", "--out", "out", *options]
    return subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8"
    )


def wait_for_rows(folder, count, watch):
    """Waits until the table has a number of rows."""
    table = folder / "out" / "results.jsonl"
    until = time.monotonic() + 300
    while time.monotonic() < until and watch.poll() is None:
        if table.exists() and len(table.read_bytes().splitlines()) >= count:
            return
        time.sleep(0.2)
    watch.kill()
    pytest.fail(f"no {count} rows: {watch.communicate()}")


def test_a_line_is_watched_stopped_and_watched_again(tmp_path, checkpoint):
    folder = tmp_path / "in"
    folder.mkdir()
    texture(50).save(folder / "first.png")
    watch = started(tmp_path, "--checkpoint", checkpoint)
    wait_for_rows(tmp_path, 1, watch)
    texture(51, has_spot=True).save(folder / "spot.jpg")
    (folder / "spot.jpg.part").write_bytes(b"half")
    wait_for_rows(tmp_path, 2, watch)
    watch.send_signal(signal.SIGTERM)
    said, complaints = watch.communicate(timeout=120)
    assert watch.returncode == 0, complaints
    assert "Watching in" in complaints
    assert "Traceback" not in complaints
    assert "2 images scored, 1 anomalous" in said
    assert "anomalous  in/spot.jpg" in said

    (folder / "bad.png").write_bytes(b"no image")
    texture(52).save(folder / "later.png")
    watch = started(tmp_path, "--checkpoint", checkpoint, "--json")
    wait_for_rows(tmp_path, 3, watch)
    time.sleep(3)
    watch.send_signal(signal.SIGINT)
    said, complaints = watch.communicate(timeout=120)
    assert watch.returncode == 3, complaints  # a file could not be read
    assert [Path(json.loads(line)["path"]).name for line in said.splitlines()] == ["later.png", "bad.png"]
    assert "in/bad.png" in complaints
    rows = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    assert [Path(row["path"]).name for row in rows] == ["first.png", "spot.jpg", "later.png", "bad.png"]
    assert [row["is_anomalous"] for row in rows[1:2]] == [True]
    assert (tmp_path / "out" / "index.html").exists()


def test_without_a_fitted_detector_auto_is_not_the_default(tmp_path):
    (tmp_path / "in").mkdir()
    for seed in range(9):
        texture(seed).save(tmp_path / "in" / f"{seed}.png")
    watch = started(tmp_path, "--quiet")
    wait_for_rows(tmp_path, 9, watch)
    watch.send_signal(signal.SIGINT)
    said, _ = watch.communicate(timeout=120)
    assert (watch.returncode, said) == (0, "")
    row = json.loads((tmp_path / "out" / "results.jsonl").read_text().splitlines()[0])
    assert row["method"] == "anomalyclip"


def test_a_method_that_compares_a_folder_is_refused(tmp_path):
    (tmp_path / "in").mkdir()
    watch = started(tmp_path, "--method", "musc")
    _, complaints = watch.communicate(timeout=300)
    assert watch.returncode == 2
    assert "zsad fit" in complaints

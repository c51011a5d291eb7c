"""Runs that meet in one folder: at the same time, one after the other, and resumed."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest
from PIL import Image

import zsad
from zsad.errors import ConfigError
from zsad.files.run_lock import only_writer
from zsad.prediction.options import PredictOptions
from zsad.prediction.run import predict_folder


@pytest.fixture(scope="module")
def detector():
    return zsad.load("winclip", device="cpu", image_size=64, scales=(2,))


@pytest.fixture
def image(tmp_path):
    def write(name, seed):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(seed).integers(0, 255, (16, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
        return path

    return write


def files_of(out):
    return sorted(
        file.relative_to(out).as_posix()
        for folder in ("overlays", "maps", "masks", "thumbnails")
        for file in (out / folder).rglob("*.*")
    )


def test_a_second_run_is_refused_and_the_first_stays(detector, image, tmp_path):
    image("in/a.png", 0)
    out = tmp_path / "out"
    predict_folder(tmp_path / "in", detector, PredictOptions(out=out))
    before = (out / "results.jsonl").read_bytes()
    with only_writer(out), pytest.raises(ConfigError, match=f"process {os.getpid()}"):
        predict_folder(tmp_path / "in", detector, PredictOptions(out=out))
    assert (out / "results.jsonl").read_bytes() == before


def test_a_used_folder_holds_the_files_of_the_last_run_only(detector, image, tmp_path):
    for name in ("one/a.png", "one/deep/a.png", "one/b.jpg", "one/b.png", "two/c.png"):
        image(name, 1)
    out = tmp_path / "out"
    predict_folder(tmp_path / "one", detector, PredictOptions(out=out, map_threshold=0.5))
    (out / "overlays" / "mine_overlay.jpg").write_bytes(b"not of zsad")
    predict_folder(tmp_path / "two", detector, PredictOptions(out=out, formats=("map",)))
    assert files_of(out) == ["maps/c_map.png", "overlays/mine_overlay.jpg", "thumbnails/c.jpg"]


def resumed(folder, detector, out):
    result = predict_folder(folder, detector, PredictOptions(out=out, resume=True))
    return result.resumed, {os.path.basename(record.path): record.score for record in result.records}


@pytest.mark.parametrize("replace", [shutil.copy2, os.replace])
def test_an_image_replaced_by_an_older_file_is_scored_again(replace, detector, image, tmp_path):
    path, other = image("in/a.png", 2), image("in/b.png", 3)
    newer = image("elsewhere/a.png", 4)
    os.utime(newer, (1e9, 1e9))
    out = tmp_path / "out"
    _, first = resumed(path.parent, detector, out)
    assert resumed(path.parent, detector, out) == (2, first)
    replace(newer, path)
    kept, second = resumed(path.parent, detector, out)
    assert kept == 1
    assert second["a.png"] == pytest.approx(detector.predict(path).score, abs=1e-6) != first["a.png"]
    assert second["b.png"] == first["b.png"]
    assert other.exists()


def test_touching_an_image_does_not_score_it_again(detector, image, tmp_path):
    path = image("in/a.png", 5)
    out = tmp_path / "out"
    resumed(path.parent, detector, out)
    os.utime(path)
    assert resumed(path.parent, detector, out)[0] == 1


def test_an_image_that_became_unreadable_loses_its_files(detector, image, tmp_path):
    path = image("in/a.png", 6)
    image("in/b.png", 7)
    out = tmp_path / "out"
    resumed(path.parent, detector, out)
    path.write_bytes(b"damaged")
    resumed(path.parent, detector, out)
    assert files_of(out) == ["maps/b_map.png", "overlays/b_overlay.jpg", "thumbnails/b.jpg"]

"""Saving many results into one folder."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from zsad.types import Prediction


def prediction(path=None):
    shape = (4, 5)
    return Prediction(0.5, np.zeros(shape, np.float32), np.zeros((*shape, 3), np.uint8), path and Path(path))


def saved(folder):
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*_map.png"))


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["nest/good/000.png", "nest/crack/000.png"], ["000", "crack_000"]),
        (["a/x/0.png", "b/x/0.png", "c/x/0.png"], ["0", "x_0", "c_x_0"]),
        (["0.png", "0.jpg", "0.bmp"], ["0", "0_jpg", "0_bmp"]),
        (["good/A.png", "crack/a.png"], ["A", "crack_a"]),
        (["g/Pru\u0308fling.png", "c/Prüfling.png"], ["Pru\u0308fling", "c_Prüfling"]),
        (["scan.nii.gz#slice=3", "scan.nii.gz#slice=4"], ["scan.nii", "scan.nii_gz#slice=4"]),
        ([None, None, None], ["image", "image_2", "image_3"]),
    ],
)
def test_every_image_keeps_files_of_its_own(paths, names, tmp_path):
    written = [prediction(path).save(tmp_path)[1].name.removesuffix("_map.png") for path in paths]
    assert written == names
    assert len(saved(tmp_path)) == len(paths)


def test_the_same_image_again_replaces_its_files(tmp_path):
    first = prediction("good/0.png")
    assert first.save(tmp_path) == first.save(tmp_path) == prediction("good/0.png").save(tmp_path)
    memory = prediction()
    assert memory.save(tmp_path) == memory.save(tmp_path)


def test_a_given_name_is_not_taken_twice_unless_asked(tmp_path):
    one, other = prediction("a/0.png"), prediction("b/0.png")
    assert one.save(tmp_path, name="part")[0].name == "part_overlay.jpg"
    assert other.save(tmp_path, name="part")[0].name == "part_2_overlay.jpg"
    assert other.save(tmp_path, name="part", overwrite=True)[0].name == "part_overlay.jpg"


def test_folders_are_independent_and_may_lie_at_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    first = prediction("a/0.png").save("~/one")
    second = prediction("b/0.png").save(tmp_path / "two")
    assert [file[0].relative_to(tmp_path) for file in (first, second)] == [
        Path("one/0_overlay.jpg"),
        Path("two/0_overlay.jpg"),
    ]
    shutil.rmtree(tmp_path / "one")
    assert prediction("a/0.png").save("~/one") == first
    assert replace(prediction("b/0.png"), score=0.1).save("~/one") != first

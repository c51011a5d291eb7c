"""Files that arrive in folders: slowly, by renaming, changed, deleted, and without an end."""

import os

import pytest
from PIL import Image

from zsad.images.saving import write_file
from zsad.prediction.arrivals import Arrivals


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def arrivals(tmp_path, clock):
    return Arrivals([tmp_path / "in"], left_out=[tmp_path / "in" / "out"], clock=clock)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


def names(paths):
    return [path.name for path in paths]


def test_a_file_is_handed_out_once_when_it_has_stopped_changing(folder, arrivals):
    file = folder / "a.png"
    file.write_bytes(b"one")
    assert arrivals.look() == []
    file.write_bytes(b"one two")
    assert arrivals.look() == []
    assert arrivals.look() == [file]
    assert arrivals.look() == []


def test_an_empty_file_is_waited_for(folder, arrivals):
    (folder / "a.png").touch()
    assert [arrivals.look() for _ in range(3)] == [[], [], []]


def test_natural_order_and_sub_folders(folder, arrivals):
    (folder / "sub").mkdir()
    for name in ("10.png", "9.png", "sub/1.jpg", "notes.txt", ".hidden.png", "copy.png.part"):
        (folder / name).write_bytes(b"content")
    arrivals.look()
    assert names(arrivals.look()) == ["9.png", "10.png", "1.jpg"]


def test_a_file_that_is_renamed_in_counts_under_its_new_name(folder, arrivals):
    (folder / "a.png.part").write_bytes(b"content")
    arrivals.look()
    (folder / "a.png.part").rename(folder / "a.png")
    assert arrivals.look() == []
    assert names(arrivals.look()) == ["a.png"]


def test_a_changed_file_is_handed_out_again(folder, arrivals):
    file = folder / "a.png"
    file.write_bytes(b"one")
    arrivals.look()
    assert arrivals.look() == [file]
    file.write_bytes(b"another")
    arrivals.look()
    assert arrivals.look() == [file]


def test_a_deleted_file_that_comes_back_unchanged_is_not(folder, arrivals):
    file = folder / "a.png"
    file.write_bytes(b"one")
    arrivals.look()
    arrivals.look()
    status = file.stat()
    file.unlink()
    assert arrivals.look() == []
    file.write_bytes(b"one")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert [arrivals.look() for _ in range(3)] == [[], [], []]


def test_a_folder_that_is_away_for_a_while_brings_nothing_twice(folder, arrivals):
    (folder / "a.png").write_bytes(b"one")
    arrivals.look()
    arrivals.look()
    folder.rename(folder.with_name("away"))
    assert arrivals.look() == []
    folder.with_name("away").rename(folder)
    assert [arrivals.look() for _ in range(2)] == [[], []]


def test_what_an_earlier_watch_scored_is_seen(folder, arrivals):
    for name in ("a.png", "b.png"):
        (folder / name).write_bytes(b"content")
    arrivals.mark_seen(folder / "a.png")
    arrivals.mark_seen(folder / "gone.png")
    arrivals.look()
    assert names(arrivals.look()) == ["b.png"]


def test_own_results_do_not_count(folder, arrivals):
    image = Image.new("RGB", (8, 8))
    (folder / "out").mkdir()
    image.save(folder / "out" / "a.png")
    import numpy as np

    write_file("map", folder / "b_map.png", np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8), "f4"), (0, 1))
    arrivals.look()
    assert arrivals.look() == []


def test_seconds_since_the_last_change(folder, arrivals, clock):
    file = folder / "a.png"
    file.write_bytes(b"one")
    arrivals.look()
    clock.now = 5.0
    assert arrivals.look() == [file]
    assert arrivals.quiet_seconds(file) == 5.0

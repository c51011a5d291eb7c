"""Folders that appear when they are complete, and what becomes of those whose process was killed."""

from __future__ import annotations

import os

import pytest

from helpers.stuck_processes import kill, stuck_processes
from zsad.deploy.folders import hidden_folder, take_name

WRITE = """
import sys, time
from pathlib import Path
from zsad.deploy.folders import hidden_folder
target = Path(sys.argv[1])
with hidden_folder(target) as folder:
    (folder / "half").write_text("")
    if target.exists():
        target.rename(folder.with_name("old"))
    print("writing", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def writing():
    """Starts processes that write a folder and do not come to an end."""
    with stuck_processes(WRITE) as start:
        yield start


def export(target, text="new"):
    with hidden_folder(target) as folder:
        (folder / "model").write_text(text)
        take_name(folder, target)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.skipif(os.name == "nt", reason="signals as on Linux")
def test_the_next_export_removes_what_a_killed_one_left_and_nothing_in_use(tmp_path, writing):
    target = tmp_path / "line [3]"
    killed, running = writing(target), writing(target)
    kill(killed)
    assert len(names(tmp_path)) == 2
    export(target)
    assert len(names(tmp_path)) == 2
    assert running.poll() is None
    kill(running)
    export(target, "newer")
    assert names(tmp_path) == [target.name]
    assert (target / "model").read_text() == "newer"
    assert names(target) == ["model"]


@pytest.mark.skipif(os.name == "nt", reason="signals as on Linux")
def test_a_folder_that_a_killed_export_had_set_aside_gets_its_name_back(tmp_path, writing):
    target = tmp_path / "bundle"
    export(target)
    killed = writing(target)
    assert not target.exists()
    kill(killed)
    with pytest.raises(RuntimeError), hidden_folder(target):
        raise RuntimeError("this export fails")
    assert names(tmp_path) == ["bundle"]
    assert (target / "model").read_text() == "new"


def test_a_folder_that_cannot_get_its_name_leaves_the_earlier_one(tmp_path):
    target = tmp_path / "bundle"
    export(target)
    with hidden_folder(target) as folder:
        folder.rmdir()
        with pytest.raises(FileNotFoundError):
            take_name(folder, target)
    assert (target / "model").read_text() == "new"
    assert names(tmp_path) == ["bundle"]

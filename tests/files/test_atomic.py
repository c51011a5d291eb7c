"""Hidden files that a killed process left are removed, and never those of a process that is writing."""

from __future__ import annotations

import os

import pytest

from helpers.stuck_processes import kill, stuck_processes
from zsad.files.atomic import atomic_file, remove_unfinished

WRITE = "import sys, time; from pathlib import Path; from zsad.files.atomic import atomic_file\n"
WRITE += "with atomic_file(sys.argv[1]): print('writing', flush=True); time.sleep(60)"


def hidden(folder):
    return sorted(folder.rglob(".zsad-*.tmp"))


@pytest.fixture
def writing():
    """Starts processes that write a file and do not come to an end."""
    with stuck_processes(WRITE) as start:
        yield start


@pytest.mark.skipif(os.name == "nt", reason="signals as on Linux")
def test_what_a_killed_process_left_is_removed_and_what_is_being_written_stays(tmp_path, writing):
    target = tmp_path / "deep" / "line.json"
    killed, other, running = writing(target), writing(tmp_path / "deep" / "other.json"), writing(target)
    kill(killed)
    kill(other)
    assert len(hidden(tmp_path)) == 3
    with atomic_file(target):
        remove_unfinished(target)
        assert len(hidden(tmp_path)) == 3  # the running one, this one, and that of the other file
    remove_unfinished(tmp_path, deep=False)
    assert len(hidden(tmp_path)) == 2
    remove_unfinished(tmp_path)
    assert len(hidden(tmp_path)) == 1
    kill(running)
    remove_unfinished(target)
    assert hidden(tmp_path) == []


def test_a_file_is_in_use_until_it_has_its_name(tmp_path, monkeypatch):
    replace = type(tmp_path).replace

    def looked_at(self, target):
        remove_unfinished(tmp_path)
        return replace(self, target)

    monkeypatch.setattr(type(tmp_path), "replace", looked_at)
    with atomic_file(tmp_path / "a.txt") as file:
        file.write(b"whole")
    assert (tmp_path / "a.txt").read_bytes() == b"whole"

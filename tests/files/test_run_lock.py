"""Two runs that would write to one place."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from zsad.cli import app
from zsad.errors import ConfigError
from zsad.files.atomic import atomic_file
from zsad.files.run_lock import only_writer

HOLD = "import sys, time; from zsad.files.run_lock import only_writer\n"
HOLD += "with only_writer(sys.argv[1]): print('held', flush=True); time.sleep(60)"
WRITE = "import sys, time; from pathlib import Path; from zsad.files.atomic import atomic_file\n"
WRITE += "from zsad.files.run_lock import only_writer\n"
WRITE += "with only_writer(sys.argv[1]), atomic_file(sys.argv[2]):\n"
WRITE += "    print('held', flush=True); time.sleep(60)"


@pytest.mark.parametrize("name", ["out", "deep/out", "calibration.json", "run.2"])
def test_a_second_run_is_refused_and_told_who_writes(name, tmp_path):
    (tmp_path / "run.2").mkdir()
    target = tmp_path / name
    with only_writer(target):
        reason = rf"{target.name} \(process {os.getpid()} on .*another --out"
        with pytest.raises(ConfigError, match=reason), only_writer(target):
            pass
        with only_writer(tmp_path / "other"):
            pass
    with only_writer(target):
        pass


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs /proc, where no file can be created")
def test_a_place_without_writing_is_not_called_busy():
    with pytest.raises(OSError, match="no file can be written in /proc"), only_writer("/proc/x.safetensors"):
        pass


def test_links_lead_to_the_same_lock(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "out")
    with only_writer(tmp_path / "out"), pytest.raises(ConfigError), only_writer(tmp_path / "link"):
        pass


def test_a_killed_run_holds_nothing(tmp_path):
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(ConfigError, match=f"process {other.pid}"), only_writer(tmp_path):
            pass
        other.send_signal(signal.SIGKILL)
    with only_writer(tmp_path):
        pass


@pytest.mark.parametrize(
    ("target", "written"),
    [("out", "out/overlays/deep/a.jpg"), ("out", "out/results.jsonl"), ("line.json", "line.json")],
)
def test_the_next_run_removes_what_a_killed_one_left(tmp_path, target, written):
    def hidden():
        return sorted(tmp_path.rglob(".zsad-*.tmp"))

    arguments = [str(tmp_path / target), str(tmp_path / written)]
    with subprocess.Popen([sys.executable, "-c", WRITE, *arguments], stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"held\n"
        other.send_signal(signal.SIGKILL)
    assert len(hidden()) == 1
    with atomic_file(tmp_path / "of another run.json"):
        mine = set(hidden())
        with only_writer(tmp_path / target):
            assert len(hidden()) == 1
            assert set(hidden()) < mine
    assert hidden() == []


def test_a_run_that_ended_well_leaves_other_files_alone(tmp_path):
    with only_writer(tmp_path):
        pass
    (tmp_path / ".zsad-mine.tmp").write_text("not from a killed run")
    with only_writer(tmp_path):
        pass
    assert (tmp_path / ".zsad-mine.tmp").exists()


def test_evaluate_train_and_calibrate_refuse_a_place_in_use(tmp_path):
    data = tmp_path / "data" / "part"
    for number in range(4):
        kind = data / "test" / ("crack" if number % 2 else "good")
        kind.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 255, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(kind / f"{number}.png")
        if number % 2:
            (data / "ground_truth" / "crack").mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels[..., 0] // 128 * 255).save(
                data / "ground_truth" / "crack" / f"{number}_mask.png"
            )
    commands = {
        tmp_path / "evaluation": ["evaluate", "--data", data.parent],
        tmp_path / "weights.safetensors": ["train", "--data", data.parent, "--epochs", 1],
        tmp_path / "line.json": ["calibrate", data / "test" / "good"],
    }
    for out, command in commands.items():
        with only_writer(out):
            before = sorted(tmp_path.rglob("*"))
            ran = CliRunner().invoke(app, [*map(str, command), "--out", str(out), "-q"])
            assert ran.exit_code == 2, (command, ran.output)
            assert f"another run is writing to {out} (process {os.getpid()}" in ran.output
            assert sorted(tmp_path.rglob("*")) == before

"""Two runs that would write to one place."""

import os
import signal
import subprocess
import sys

import pytest

from zsad.errors import ConfigError
from zsad.files.run_lock import only_writer

HOLD = "import sys, time; from zsad.files.run_lock import only_writer\n"
HOLD += "with only_writer(sys.argv[1]): print('held', flush=True); time.sleep(60)"


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

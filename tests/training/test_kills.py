"""A training that is killed for good, at any moment, goes on to the same weights, bit for bit."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from helpers.training_examples import assert_same, log_rows
from zsad.backbones.clip import CLIP, ClipConfig, TextConfig, VisionConfig
from zsad.training.state import TrainingState

pytestmark = pytest.mark.skipif(
    not hasattr(signal, "SIGKILL") or sys.platform == "darwin", reason="needs SIGKILL and a safe fork"
)

# During the first and a later step, between gradient and step, while a line of the log, the first or second
# checkpoint or the result is written, and just before and after a checkpoint gets its name.
MOMENTS = [
    "step:0",
    "gradients:3",
    "log:2",
    "checkpoint:0",
    "checkpoint:1",
    "before_rename",
    "after_rename",
    "result",
]


@pytest.fixture
def killed_and_resumed(tmp_path):
    """A function that trains with kills at some moments; the folders of the trainings by moment."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        clip = CLIP(ClipConfig(VisionConfig(32, 8, 64, 3, 1), TextConfig(64, 2, 1), 32, "quick_gelu"))
    torch.save(clip.state_dict(), tmp_path / "clip.pt")

    def run(moments, *options):
        process = subprocess.run(
            [
                sys.executable,
                "-W",
                "ignore",
                "-m",
                "helpers.training_kills",
                tmp_path,
                tmp_path / "clip.pt",
                *options,
                *moments,
            ],
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
            cwd=Path(__file__).parents[1],
        )
        assert process.returncode == 0, process.stdout + process.stderr
        return {moment: tmp_path / moment.replace(":", "-") for moment in moments}, tmp_path / "whole"

    return run


def check(folders, whole):
    expected = TrainingState.read(whole / "out.training" / "last.safetensors")
    result = (whole / "out.safetensors").read_bytes()
    rows = [{**row, "seconds": ""} for row in log_rows(whole / "out.training" / "log.csv")]
    for moment, folder in folders.items():
        found = TrainingState.read(folder / "out.training" / "last.safetensors")
        assert found.epoch == expected.epoch == 3, moment
        assert found.losses == expected.losses, moment
        assert_same(dict(found.learned), dict(expected.learned))
        assert_same(dict(found.optimizer), dict(expected.optimizer))
        assert (folder / "out.safetensors").read_bytes() == result, moment
        assert [{**row, "seconds": ""} for row in log_rows(folder / "out.training" / "log.csv")] == rows, (
            moment
        )


def test_killed_in_a_step_while_writing_and_at_the_end(killed_and_resumed):
    check(*killed_and_resumed(["gradients:3", "checkpoint:1", "result"]))


@pytest.mark.slow
def test_killed_at_chosen_moments(killed_and_resumed):
    check(*killed_and_resumed(MOMENTS))


@pytest.mark.slow
def test_killed_at_chosen_moments_with_a_cache(killed_and_resumed):
    folders, whole = killed_and_resumed(["entry:1", "entry:4", *MOMENTS], "--cache")
    check(folders, whole)
    names = {path.name for path in (whole / "cache").rglob("*/*.safetensors")}
    for folder in folders.values():
        assert {path.name for path in (folder / "cache").rglob("*/*.safetensors")} == names


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--cache"]])
def test_killed_at_random_moments_until_it_gets_through(killed_and_resumed, options):
    check(*killed_and_resumed([f"random{number}" for number in range(2)], *options))

"""A training's checkpoint that is damaged, or that somebody changed, is refused by file and field."""

import json

import pytest
import torch
from safetensors.torch import save_file

from zsad.errors import WeightsError
from zsad.training.devices import _told
from zsad.training.logs import StepLog
from zsad.training.state import HEADER_KEY, TrainingState

HEADER = {"format": 1, "epoch": 2, "setup": {"seed": 1}, "losses": [0.5, 0.25], "scaler": {}}


def written(path, header, tensors=None):
    text = header if isinstance(header, str) else json.dumps(header)
    save_file(tensors or {"learned/a": torch.zeros(2)}, path, metadata={HEADER_KEY: text})
    return path


def test_what_is_written_is_read(tmp_path):
    state = TrainingState(
        1, {"seed": 1}, (0.5,), {"scale": 2.0}, {"a": torch.ones(2)}, {"step/a": torch.ones(1)}
    )
    state.write(tmp_path / "last.safetensors")
    found = TrainingState.read(tmp_path / "last.safetensors")
    assert (found.epoch, found.setup, found.losses, found.scaler) == (1, {"seed": 1}, (0.5,), {"scale": 2.0})
    assert found.learned.keys() == {"a"}
    assert found.optimizer.keys() == {"step/a"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epoch": "two"}, "epoch must be a whole number at least 1, got 'two'"),
        ({"epoch": -1}, "epoch must be a whole number at least 1, got -1"),
        ({"epoch": 3}, "2 losses of 3 epochs"),
        ({"losses": 3}, "losses must be a list of numbers, got 3"),
        ({"losses": [0.5, float("nan")]}, "losses[1] must be a number, got nan"),
        ({"setup": []}, "setup must be a mapping of names to values, got []"),
        ({"scaler": {"scale": "x"}}, "scaler.scale must be a whole number or a number, got 'x'"),
        ({"format": 7}, "another version of zsad wrote it"),
        ({"colour": 1}, "colour is unknown"),
    ],
)
def test_a_field_that_does_not_fit_is_named(tmp_path, change, message):
    path = written(tmp_path / "last.safetensors", {**HEADER, **change})
    with pytest.raises(WeightsError) as caught:
        TrainingState.read(path)
    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)
    assert "--overwrite" in str(caught.value)


@pytest.mark.parametrize("header", ["", "[]", "{", '{"epoch": 1}', "[" * 100_000, '{"epoch": 1, "epoch": 1}'])
def test_a_header_that_is_none_is_refused(tmp_path, header):
    with pytest.raises(WeightsError, match="is not a training checkpoint"):
        TrainingState.read(written(tmp_path / "last.safetensors", header))


def test_other_files_and_tensors_are_refused(tmp_path):
    path = tmp_path / "last.safetensors"
    for content in (b"", b"<html>", b"\0" * 100, (50_000_000).to_bytes(8, "little") + b"{" + b" " * 100):
        path.write_bytes(content)
        with pytest.raises(WeightsError, match="is not a training checkpoint"):
            TrainingState.read(path)
    with pytest.raises(WeightsError, match="the tensor 'other/a' is unknown"):
        TrainingState.read(written(path, HEADER, {"other/a": torch.zeros(2)}))


def test_a_log_with_garbage_keeps_its_good_lines(tmp_path):
    path = tmp_path / "log.csv"
    path.write_bytes(
        b"epoch,loss\n1,0.5\n\0,\xff\n" + b"x" * 200_000 + b'\n"\n1' + b"1" * 5000 + b",2\n1,0.4"
    )
    with StepLog(path, 1) as log:
        assert log.kept_steps == 1
    assert path.read_text() == "epoch,loss\n1,0.5\n"


@pytest.mark.parametrize("kind", ["ConfigError", "MissingExtraError", "annotations", "os", "Nothing"])
def test_the_error_of_a_process_is_told(tmp_path, kind):
    (tmp_path / "0.json").write_text(json.dumps({"kind": kind, "message": "no GPU"}))
    assert str(_told(tmp_path)) == "no GPU"

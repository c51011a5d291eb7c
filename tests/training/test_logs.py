"""Logs beside the CSV table, and what a user sees while a training runs."""

import sys

import pytest

from helpers.training_examples import Interrupted, StoppingAt, log_rows, quietly, stained_pictures
from zsad.errors import MissingExtraError
from zsad.training.options import TrainOptions


@pytest.fixture
def config(make_small_clip, tmp_path):
    def make(**changes):
        settings = {
            "out": tmp_path / "out.safetensors",
            "backbone": make_small_clip(),
            "device": "cpu",
            "method": "april_gan",
            "epochs": 3,
            "batch_size": 4,
            "tensorboard": True,
        }
        return TrainOptions(**{**settings, **changes})

    return make


def curves(config):
    """Name -> values by step, as TensorBoard shows them."""
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulators.EventAccumulator(str(config.folder / "tensorboard")).Reload()
    return {
        name: {event.step: event.value for event in events.Scalars(name)} for name in events.Tags()["scalars"]
    }


def check(config, result):
    rows = log_rows(result.log)
    found = curves(config)
    assert list(found["loss"]) == list(range(6))
    for name in ("loss", "loss/focal", "loss/dice_abnormal", "epoch"):
        column = name.removeprefix("loss/")
        for row, value in zip(rows, found[name].values(), strict=True):
            assert value == pytest.approx(float(row[column]), rel=1e-6)


def test_tensorboard_shows_what_the_table_says(config):
    check(config(), quietly(config(), stained_pictures()))


def test_a_resumed_training_is_one_curve(config):
    with pytest.raises(Interrupted):
        quietly(config(), StoppingAt(stained_pictures(), 12))
    check(config(), quietly(config(resume=True), stained_pictures()))


def test_without_tensorboard_the_extra_is_named(config, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'zsad\[tensorboard\]'"):
        quietly(config(), stained_pictures())
    assert not config().out.exists()
    quietly(config(tensorboard=False), stained_pictures())
    assert not (config().folder / "tensorboard").exists()

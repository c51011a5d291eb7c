"""Half precision: every method learns under bf16 and fp16 autocast, weights and optimiser stay fp32."""

import math

import pytest
import torch

from helpers.training_examples import learned, quietly, stained_pictures
from zsad.methods._registry import list_methods, method_class
from zsad.training.options import TrainOptions
from zsad.training.run import TrainingRun
from zsad.training.state import TrainingState

LEARNT = [name for name in list_methods() if method_class(name).INFO.needs_training]


@pytest.fixture
def config(make_small_clip, tmp_path):
    def make(**changes):
        settings = {
            "out": tmp_path / "out.safetensors",
            "backbone": make_small_clip(),
            "device": "cpu",
            "epochs": 4,
            "batch_size": 6,
            "learning_rate": 1e-3,
            "augmentation": "none",  # images that change hide what 4 steps achieve
        }
        return TrainOptions(**{**settings, **changes})

    return make


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("method", LEARNT)
def test_learns_in_half_precision(config, method, precision, monkeypatch):
    # Every step draws the same noise: that of Bayes-PFL changes the loss by more than 4 steps achieve.
    monkeypatch.setattr("zsad.training.run._epoch_seed", lambda seed, epoch: seed)
    settings = config(method=method, precision=precision)
    result = quietly(settings, stained_pictures())
    assert all(math.isfinite(loss) for loss in result.losses)
    assert result.losses[-1] < result.losses[0]
    checkpoint = TrainingState.read(settings.folder / "last.safetensors")
    tensors = [*checkpoint.learned.values(), *checkpoint.optimizer.values()]
    assert {tensor.dtype for tensor in tensors} == {torch.float32}
    assert bool(checkpoint.scaler) == (precision == "fp16")


@pytest.mark.parametrize("method", LEARNT)
def test_the_network_really_runs_in_half_precision(config, method, monkeypatch):
    """Matrix products inside the loss are made in bf16, and the loss is near that of single precision."""
    seen, original = set(), torch.nn.functional.linear

    def linear(*arguments, **named):
        product = original(*arguments, **named)
        seen.add(product.dtype)
        return product

    monkeypatch.setattr(torch.nn.functional, "linear", linear)
    half = quietly(config(method=method, precision="bf16", epochs=1), stained_pictures())
    assert torch.bfloat16 in seen
    full = quietly(config(method=method, epochs=1, overwrite=True), stained_pictures())
    assert half.losses[0] == pytest.approx(full.losses[0], rel=0.05)


def test_a_step_with_infinite_gradients_is_left_out_and_the_scale_halved(config, monkeypatch):
    """The order is: backward of the scaled loss, sum over devices, look for infinities, step."""
    original, scales, calls = TrainingRun._terms, [], []

    def terms(run, *arguments):
        scales.append(run.scaler.get_scale())
        calls.append({name: each.detach().clone() for name, each in run.parameters.items()})
        found = original(run, *arguments)
        factor = 1e36 if len(calls) == 2 else 1.0  # finite itself, infinite once it is scaled
        return {name: factor * term for name, term in found.items()}

    monkeypatch.setattr(TrainingRun, "_terms", terms)
    quietly(config(precision="fp16"), stained_pictures())
    assert scales == [256.0, 256.0, 128.0, 128.0]
    changed = [
        any(not torch.equal(before[name], after[name]) for name in before)
        for before, after in zip(calls, [*calls[1:], learned(config())], strict=True)
    ]
    assert changed == [True, False, True, True]


def test_the_scale_is_resumed(config):
    quietly(config(precision="fp16", epochs=2), stained_pictures())
    before = TrainingState.read(config().folder / "last.safetensors").scaler
    quietly(config(precision="fp16", epochs=3, resume=True), stained_pictures())
    after = TrainingState.read(config().folder / "last.safetensors").scaler
    assert after["_growth_tracker"] == before["_growth_tracker"] + 1

"""The training loop: what is learnt and written, and that a killed training ends as if it had not been."""

import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import zsad
from helpers.training_examples import (
    Interrupted,
    StoppingAt,
    assert_same,
    learned,
    log_rows,
    quietly,
    stained_pictures,
)
from zsad.backbones.clip import CLIP, ClipConfig, TextConfig, VisionConfig
from zsad.data.samples import prepare_sample
from zsad.errors import ConfigError, DataError, WeightsError, ZsadError
from zsad.training.options import TrainOptions
from zsad.training.state import TrainingState

pytestmark = pytest.mark.filterwarnings("ignore:.*is treated as OpenAI's weights")


@pytest.fixture(scope="session")
def backbone(tmp_path_factory):
    """A small random CLIP as a file in OpenAI's layout."""
    config = ClipConfig(VisionConfig(32, 8, 64, 3, 1), TextConfig(64, 2, 1), 32, "quick_gelu")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        clip = CLIP(config)
    path = tmp_path_factory.mktemp("weights") / "clip.pt"
    torch.save(clip.state_dict(), path)
    return str(path)


@pytest.fixture
def config(backbone, tmp_path):
    """A function that makes a short training's settings."""

    def make(**changes):
        settings = {
            "out": tmp_path / "prompts.safetensors",
            "backbone": backbone,
            "epochs": 3,
            "batch_size": 4,
            "settings": {"n_ctx": 4, "t_n_ctx": 2, "sigma": 1.0},
            "device": "cpu",
        }
        return TrainOptions(**{**settings, **changes})

    return make


@pytest.fixture
def folder(tmp_path):
    """The same images as a category in MVTec layout."""
    root = tmp_path / "toys" / "metal_nut"
    for index, (picture, mask, label, _) in enumerate(stained_pictures()):
        kind = "stain" if label else "good"
        (root / "test" / kind).mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(root / "test" / kind / f"{index}.png")
        if label:
            (root / "ground_truth" / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask * np.uint8(255)).save(root / "ground_truth" / kind / f"{index}_mask.png")
    return root


def test_learns_and_writes_what_load_takes(config, folder):
    settings = config(data=(folder,), epochs=8)
    result = quietly(settings)
    assert result.losses[-1] < result.losses[0]
    assert len(result.losses) == 8
    detector = zsad.load(checkpoint=result.path, backbone=settings.backbone, device="cpu")
    assert_same(detector.method.learned_state(), learned(settings))
    assert "toys: metal nut (test split, 6 images)" in result.path.read_bytes().decode("latin-1")


def test_logs_each_step_and_term(config):
    result = quietly(config(), stained_pictures())
    rows = log_rows(result.log)
    assert [(int(row["epoch"]), int(row["step"])) for row in rows] == [
        (epoch, step) for epoch in (1, 2, 3) for step in (1, 2)
    ]
    terms = [name for name in rows[0] if name not in ("epoch", "step", "seconds", "loss")]
    assert len(terms) >= 2
    for row in rows:
        assert float(row["loss"]) == pytest.approx(sum(float(row[name]) for name in terms))
    # Batches of 4 and 2 images.
    assert result.losses[0] == pytest.approx((4 * float(rows[0]["loss"]) + 2 * float(rows[1]["loss"])) / 6)


def test_the_first_loss_is_that_of_the_fresh_method(config):
    """One batch with everything in it: the logged terms are those of `method.loss` before the first step."""
    settings = config(epochs=1, batch_size=6)
    (row,) = log_rows(quietly(settings, stained_pictures()).log)
    torch.manual_seed(settings.seed)
    detector = zsad.load(settings.method, settings.backbone, "fresh", device="cpu", **settings.settings)
    batch = [prepare_sample(*item, detector.preparation) for item in stained_pictures()]
    terms = detector.method.loss(
        torch.from_numpy(np.stack([one.image for one in batch])),
        torch.from_numpy(np.stack([one.mask for one in batch])),
        torch.tensor([one.label for one in batch]),
    )
    for name, term in terms.items():
        assert float(row[name]) == pytest.approx(term.item(), rel=1e-5)


def test_starts_from_fresh_weights_of_the_seed(config, tmp_path):
    runs = [
        config(epochs=1, seed=seed, out=tmp_path / f"{index}.safetensors")
        for index, seed in enumerate((7, 7, 8))
    ]
    for settings in runs:
        torch.manual_seed(len(runs))  # whatever the caller's random numbers are
        quietly(settings, stained_pictures())
    assert_same(learned(runs[0]), learned(runs[1]))
    assert any(not torch.equal(learned(runs[0])[name], tensor) for name, tensor in learned(runs[2]).items())


def test_leaves_the_callers_random_numbers_alone(config):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    quietly(config(epochs=1), stained_pictures())
    torch.testing.assert_close(torch.rand(3), expected, rtol=0, atol=0)


def test_the_number_of_workers_changes_nothing(config, tmp_path):
    first, second = (config(workers=w, out=tmp_path / f"w{w}.safetensors") for w in (1, 3))
    quietly(first, stained_pictures())
    quietly(second, stained_pictures())
    assert_same(learned(first), learned(second))


@pytest.mark.parametrize("number", [1, 5, 7, 12, 13, 18])
def test_interrupted_and_resumed_equals_uninterrupted(config, tmp_path, number):
    whole, broken = config(), config(out=tmp_path / "broken.safetensors", resume=True)
    expected = quietly(whole, stained_pictures())
    with pytest.raises(Interrupted):
        quietly(broken, StoppingAt(stained_pictures(), number))
    assert not Path(broken.out).exists()
    result = quietly(broken, stained_pictures())
    assert result.losses == expected.losses
    assert_same(learned(broken), learned(whole))
    strip = [{k: v for k, v in row.items() if k != "seconds"} for row in log_rows(result.log)]
    assert strip == [{k: v for k, v in row.items() if k != "seconds"} for row in log_rows(expected.log)]


def test_more_epochs_can_be_added(config, tmp_path):
    whole, grown = config(epochs=4), config(epochs=2, out=tmp_path / "grown.safetensors")
    quietly(whole, stained_pictures())
    quietly(grown, stained_pictures())
    result = quietly(config(epochs=4, out=grown.out, resume=True), stained_pictures())
    assert result.resumed_from == 2
    assert_same(learned(grown), learned(whole))


def test_resuming_a_finished_training_writes_the_result_again(config):
    quietly(config(), stained_pictures())
    config().out.unlink()
    result = quietly(config(resume=True), stained_pictures())
    assert result.resumed_from == 3
    assert result.path.exists()


def test_existing_results_are_not_replaced_unasked(config):
    quietly(config(epochs=1), stained_pictures())
    with pytest.raises(ConfigError, match="already exists: --resume continues"):
        quietly(config(epochs=1), stained_pictures())
    assert quietly(config(epochs=2, overwrite=True), stained_pictures()).resumed_from == 0


def test_resuming_another_training_is_refused(config):
    quietly(config(epochs=1), stained_pictures())
    with pytest.raises(ConfigError, match=r"batch_size was 4 and is now 2; learning_rate was 0\.001 and"):
        quietly(config(batch_size=2, learning_rate=1e-2, resume=True), stained_pictures())
    with pytest.raises(ConfigError, match="data was 'in memory: 6 images' and is now 'in memory: 8 images'"):
        quietly(config(resume=True), stained_pictures(8))


def test_a_damaged_checkpoint_is_refused(config):
    quietly(config(epochs=1), stained_pictures())
    checkpoint = config().folder / "last.safetensors"
    checkpoint.write_bytes(checkpoint.read_bytes()[:-100])
    with pytest.raises(WeightsError, match="not a training checkpoint"):
        quietly(config(resume=True), stained_pictures())


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_checkpoint(config, monkeypatch):
    from zsad.methods.anomalyclip import AnomalyCLIP

    original, calls = AnomalyCLIP.loss, []

    def loss(self, *arguments, **named):
        calls.append(1)
        terms = original(self, *arguments, **named)
        return {**terms, "image": terms["image"] * math.nan} if len(calls) == 4 else terms

    monkeypatch.setattr(AnomalyCLIP, "loss", loss)
    with pytest.raises(ZsadError, match=r"became nan in step 2 of epoch 2 .* checkpoint of epoch 1 is kept"):
        quietly(config(), stained_pictures())
    assert not config().out.exists()
    assert TrainingState.read(config().folder / "last.safetensors").epoch == 1
    assert all(tensor.isfinite().all() for tensor in learned(config()).values())


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_trains_in_half_precision(config, precision):
    result = quietly(config(precision=precision, epochs=2), stained_pictures())
    assert all(math.isfinite(loss) for loss in result.losses)
    assert all(tensor.dtype == torch.float32 for tensor in learned(config()).values())


def test_gradients_reach_only_what_is_trainable(config, monkeypatch):
    from zsad.training.run import TrainingRun

    seen = []
    original = TrainingRun.checkpoint
    monkeypatch.setattr(
        TrainingRun, "checkpoint", lambda run, epoch: (seen.append(run), original(run, epoch))
    )
    quietly(config(epochs=1), stained_pictures())
    (run,) = seen
    trainable = {id(parameter) for _, parameter in run.method.trainable()}
    for parameter in run.method.parameters():
        assert (parameter.grad is not None) == (id(parameter) in trainable)


def test_an_iterable_is_read_once_an_epoch(config):
    class Stream:
        passes = 0

        def __iter__(self):
            self.passes += 1
            return iter(stained_pictures())

    stream = Stream()
    result = quietly(config(), stream)
    assert stream.passes == 3
    assert len(log_rows(result.log)) == 6


def test_a_generator_lasts_for_one_epoch(config):
    assert len(quietly(config(epochs=1), (item for item in stained_pictures())).losses) == 1
    with pytest.raises(DataError, match="a generator can only be read once"):
        quietly(config(overwrite=True), (item for item in stained_pictures()))


def test_samples_of_folders_may_be_given_as_a_dataset(config, folder):
    from zsad.data.layouts import read_mvtec

    assert len(quietly(config(epochs=1), read_mvtec(folder)).losses) == 1


def test_disorder_in_the_data_is_named(config, folder, tmp_path):
    with pytest.raises(ConfigError, match="no training data"):
        quietly(config())
    with pytest.raises(ConfigError, match="not both"):
        quietly(config(data=(folder,)), stained_pictures())
    with pytest.raises(DataError, match="dataset is empty"):
        quietly(config(), [])
    with pytest.raises(DataError, match="the mask is 4 x 3 pixels"):
        quietly(config(overwrite=True), [(stained_pictures()[0][0], np.zeros((3, 4)), 1, "nut")])
    shutil.rmtree(folder / "ground_truth")
    for path in (folder / "test" / "stain").iterdir():
        path.unlink()
    with pytest.raises(DataError, match="no anomalous image"):
        quietly(config(data=(folder,)))


def test_methods_without_training_are_refused(config):
    with pytest.raises(ConfigError, match="winclip has nothing to train"):
        quietly(config(method="winclip", settings={}), stained_pictures())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "epochs must be a whole number"),
        ({"batch_size": 1.5}, "batch_size must be a whole number"),
        ({"learning_rate": math.inf}, "learning rate must be a number above 0"),
        ({"betas": (0.5, 1.0)}, "betas of the optimiser"),
        ({"seed": -1}, "seed must be 0 or more"),
        ({"split": "train"}, "unknown split 'train'"),
        ({"precision": "bf61"}, "did you mean 'bf16'"),
        ({"resume": True, "overwrite": True}, "choose one"),
    ],
)
def test_impossible_settings_are_refused(config, changes, message):
    with pytest.raises(ConfigError, match=message):
        config(**changes)


def test_the_command_trains_and_resumes(backbone, folder, tmp_path):
    from typer.testing import CliRunner

    from zsad.cli import app

    out = tmp_path / "prompts.safetensors"
    command = ["train", "--data", str(folder), "--out", str(out), "--backbone", backbone, "--epochs", "1"]
    command += ["--batch-size", "4", "--set", "n_ctx=4", "--set", "sigma=1", "--device", "cpu"]
    first = CliRunner().invoke(app, command)
    assert first.exit_code == 0, first.output
    assert "1 epoch in" in first.output
    again = CliRunner().invoke(app, command)
    assert again.exit_code == 2
    assert "--resume continues" in again.output
    longer = CliRunner().invoke(app, [*command, "--epochs", "2", "--resume"])
    assert longer.exit_code == 0, longer.output
    assert "continued after epoch 1" in longer.output
    assert zsad.load(checkpoint=out, backbone=backbone, device="cpu").method.config.n_ctx == 4

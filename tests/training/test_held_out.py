"""Categories that are kept back to judge each epoch by, early stopping, and weights to start from."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

import zsad
from helpers.training_examples import stained_pictures
from zsad.errors import ConfigError
from zsad.training.data import data_on_disk
from zsad.training.held_out import HeldOut, quality, set_apart
from zsad.training.loop import train
from zsad.training.options import TrainOptions

NAMES = ("bolt", "carpet", "nut", "tile")


@pytest.fixture
def folder(tmp_path):
    """Four categories of two normal and two stained images each."""
    for number, name in enumerate(NAMES):
        images = stained_pictures(16)[4 * number : 4 * number + 4]
        for index, (image, mask, label, _) in enumerate(images):
            kind = "stain" if label else "good"
            path = tmp_path / "data" / name / "test" / kind / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.asarray(image)).save(path)
            if label:
                truth = tmp_path / "data" / name / "ground_truth" / kind / f"{index}_mask.png"
                truth.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray((np.asarray(mask) > 0).astype(np.uint8) * np.uint8(255)).save(truth)
    return tmp_path / "data"


def options(folder, tmp_path, small_clip, **more):
    settings = {"epochs": 3, "batch_size": 4, "device": "cpu", "method": "anomalyclip", **more}
    return TrainOptions(out=tmp_path / "out.safetensors", data=(folder,), backbone=small_clip, **settings)


def test_the_last_categories_are_set_apart(folder):
    data = data_on_disk([folder], "test")
    kept, samples, names = set_apart(data, 2)
    assert names == ("nut", "tile")
    assert {sample.category for sample in kept.items} == {"bolt", "carpet"}
    assert {sample.category for sample in samples} == {"nut", "tile"}
    assert sum(each.normal + each.anomalous for each in kept.sets) == len(kept.items)
    assert "nut" in kept.description
    with pytest.raises(ConfigError, match=r"3 categories are held out .* has 4 with normal"):
        set_apart(data, 3)


def test_over_when_the_last_epochs_were_no_better():
    held_out = HeldOut([], (), "image_ap", patience=2)
    for found, expected in ((0.5, False), (0.6, False), (0.6, False), (0.55, True)):
        held_out.qualities.append(found)
        assert held_out.is_over == expected
    assert not HeldOut([], (), "image_ap", patience=0, qualities=[0.9, 0.1, 0.1]).is_over


def test_the_best_epoch_is_the_result(folder, tmp_path, small_clip, monkeypatch):
    found = iter([0.3, 0.9, 0.2])
    monkeypatch.setattr("zsad.training.held_out.quality", lambda *_: next(found))
    kept = []
    judge = HeldOut.judge

    def judged(self, detector):
        kept.append(detector.method.learned_state()["ctx_pos"].clone())
        return judge(self, detector)

    monkeypatch.setattr(HeldOut, "judge", judged)
    result = train(options(folder, tmp_path, small_clip, held_out=1), show_progress=False)
    saved = zsad.load(checkpoint=result.path, backbone=small_clip, device="cpu")
    state = saved.method.learned_state()["ctx_pos"]
    assert torch.equal(state, kept[1])
    assert not torch.equal(kept[1], kept[2])
    assert "stopped early by tile" in saved.auxiliary_data


def test_it_ends_early_and_resumes_to_the_same(folder, tmp_path, small_clip, monkeypatch):
    monkeypatch.setattr("zsad.training.held_out.quality", lambda *_: 0.5)
    wanted = options(folder, tmp_path, small_clip, held_out=1, patience=1, epochs=9)
    assert len(train(wanted, show_progress=False).losses) == 2
    again = options(folder, tmp_path, small_clip, held_out=1, patience=1, epochs=9, resume=True)
    result = train(again, show_progress=False)
    assert (len(result.losses), result.resumed_from) == (2, 2)


@pytest.mark.parametrize("judged_by", ["image_ap", "pixel_ap"])
def test_quality_is_a_mean_over_categories(judged_by, folder, small_clip):
    detector = zsad.load("anomalyclip", small_clip, "fresh", device="cpu")
    samples = data_on_disk([folder], "test").items
    together = quality(detector, samples, judged_by)
    alone = [quality(detector, [s for s in samples if s.category == name], judged_by) for name in NAMES]
    assert together == pytest.approx(np.mean(alone))
    assert 0 <= together <= 1


def test_training_starts_from_given_weights(folder, tmp_path, small_clip):
    start = zsad.load("anomalyclip", small_clip, "fresh", device="cpu")
    path = start.save(tmp_path / "start.safetensors")
    tiny_steps = {"learning_rate": 1e-12, "epochs": 1, "checkpoint": path}
    result = train(options(folder, tmp_path, small_clip, **tiny_steps), show_progress=False)
    found = zsad.load(checkpoint=result.path, backbone=small_clip, device="cpu").method.learned_state()
    for name, tensor in start.method.learned_state().items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-6)
    other = zsad.load("anomalyclip", small_clip, "fresh", device="cpu").save(tmp_path / "start.safetensors")
    with pytest.raises(ConfigError, match="start"):
        train(
            options(folder, tmp_path, small_clip, resume=True, **{**tiny_steps, "checkpoint": other}),
            show_progress=False,
        )


def test_augmentation_changes_the_images_and_refuses_a_cache(folder, tmp_path, small_clip):
    losses = [
        train(
            options(folder, tmp_path, small_clip, epochs=1, augmentation=kind, overwrite=True),
            show_progress=False,
        ).losses
        for kind in ("none", "varied", "varied")
    ]
    assert losses[1] == losses[2]
    assert losses[0] != losses[1]
    with pytest.raises(ConfigError, match="--augmentation none"):
        train(
            options(
                folder, tmp_path, small_clip, augmentation="shifted", cache=tmp_path / "c", overwrite=True
            ),
            show_progress=False,
        )


def test_a_loss_that_is_no_mean_refuses_several_devices(folder, tmp_path, small_clip, monkeypatch):
    from zsad.methods.anomalyclip import AnomalyCLIP

    monkeypatch.setattr(AnomalyCLIP, "LOSS_IS_MEAN", False)
    with pytest.raises(ConfigError, match=r"step of anomalyclip is no mean .* use --devices 1"):
        train(options(folder, tmp_path, small_clip, devices=2), show_progress=False)

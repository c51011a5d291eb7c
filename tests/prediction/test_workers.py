"""Prediction in several processes: the same results as in one, whatever happens to a process."""

from __future__ import annotations

import dataclasses
import json
import os

import numpy as np
import pytest
import torch
from PIL import Image

import zsad
from helpers.deadly import DeadlyDetector
from zsad.backbones.devices import device_names
from zsad.errors import ConfigError
from zsad.images.ahead import parts_by_size
from zsad.images.decoding import file_bytes
from zsad.prediction.engines import choose_engine
from zsad.prediction.layout import RunLayout
from zsad.prediction.options import PredictOptions
from zsad.prediction.pipeline import PredictionPipeline
from zsad.prediction.records import read_results
from zsad.prediction.run import in_batches, predict_folder
from zsad.prediction.workers import ShardedPrediction


@pytest.fixture
def detector(make_small_clip):
    return zsad.load("winclip", make_small_clip(), device="cpu")


@pytest.fixture
def folder(tmp_path):
    """Nine images of different widths, 33 to 41, and one file that is none."""
    generator = np.random.default_rng(0)
    (tmp_path / "in" / "deep").mkdir(parents=True)
    for number in range(9):
        picture = generator.integers(0, 256, (30, 33 + number, 3), dtype=np.uint8)
        Image.fromarray(picture).save(tmp_path / "in" / ("deep" if number % 2 else "") / f"{number}.png")
    (tmp_path / "in" / "bad.png").write_bytes(b"no image")
    return tmp_path / "in"


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # as each worker has, since the last bits may depend on it
    yield
    torch.set_num_threads(before)


def without_time(records):
    return [dataclasses.replace(record, seconds=0) for record in records]


def contents(directory):
    """Every image that a run wrote, by relative path."""
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.suffix in (".png", ".jpg", ".npy")
    }


@pytest.mark.slow
def test_two_processes_give_the_results_of_one(detector, folder, tmp_path):
    arguments = {"batch_size": 2, "explain": ["cracked", "stained"], "formats": ("overlay", "map", "npy")}
    one = predict_folder(folder, detector, PredictOptions(out=tmp_path / "one", **arguments))
    seen = []
    two = predict_folder(
        folder,
        detector,
        PredictOptions(out=tmp_path / "two", devices=2, **arguments),
        progress=lambda *counts: seen.append(counts),
    )
    assert without_time(two.records) == without_time(one.records)
    assert len(two.failed) == 1
    assert seen == [(done, 10) for done in range(11)]
    assert contents(tmp_path / "two") == contents(tmp_path / "one")
    assert len(contents(tmp_path / "two")) == 9 * 4
    for name in ("explanations.jsonl", "settings.json"):
        assert (tmp_path / "two" / name).read_text() == (tmp_path / "one" / name).read_text()
    assert len((tmp_path / "two" / "results.csv").read_text().splitlines()) == 11


@pytest.mark.slow
def test_a_dead_process_loses_nothing_and_a_deadly_image_is_named(detector, folder, tmp_path):
    expected = predict_folder(
        folder, detector, PredictOptions(out=tmp_path / "one", batch_size=2, formats=())
    )
    deadly = DeadlyDetector(detector.method, detector.image_size, detector.fingerprint, width=37)
    summary = predict_folder(
        folder, deadly, PredictOptions(out=tmp_path / "two", batch_size=2, formats=(), devices=["cpu"])
    )
    failed = {os.path.basename(record.path): record.error for record in summary.failed}
    assert sorted(failed) == ["4.png", "bad.png"]
    assert "its process died each time it was read or scored (killed by SIGKILL, often for" in failed["4.png"]
    scores = {record.path: record.score for record in expected.records}
    for record in summary.scored:
        assert record.score == pytest.approx(scores[record.path], abs=1e-6)
    assert len(summary.scored) == 8


@pytest.mark.slow
def test_a_process_that_dies_once_is_replaced(detector, folder, tmp_path):
    expected = predict_folder(folder, detector, PredictOptions(out=tmp_path / "one", batch_size=2))
    once = DeadlyDetector(
        detector.method, detector.image_size, detector.fingerprint, width=36, marker=tmp_path / "marker"
    )
    summary = predict_folder(
        folder, once, PredictOptions(out=tmp_path / "two", batch_size=2, devices=["cpu"])
    )
    assert (tmp_path / "marker").exists()
    assert without_time(summary.records) == without_time(expected.records)
    assert contents(tmp_path / "two") == contents(tmp_path / "one")


@pytest.mark.slow
def test_ctrl_c_leaves_whole_files_and_the_run_goes_on(detector, folder, tmp_path):
    def stop(done, total):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict_folder(
            folder,
            detector,
            PredictOptions(out=tmp_path / "out", batch_size=2, devices=["cpu"]),
            progress=stop,
        )
    kept = [record for record in read_results(tmp_path / "out" / "results.jsonl") if record.error is None]
    assert 1 <= len(kept) < 9
    assert not list((tmp_path / "out").rglob(".zsad-*"))
    summary = predict_folder(
        folder, detector, PredictOptions(out=tmp_path / "out", batch_size=2, resume=True)
    )
    assert summary.resumed == len(kept)
    assert len(summary.scored) == 9
    whole = predict_folder(folder, detector, PredictOptions(out=tmp_path / "whole", batch_size=2, formats=()))
    scores = {record.path: record.score for record in whole.scored}
    assert {record.path: record.score for record in summary.scored} == pytest.approx(scores, abs=1e-6)


@pytest.mark.slow
def test_an_error_that_ends_a_run_ends_it_here_too(detector, folder, tmp_path):
    layout = RunLayout.plan(tmp_path / "out", [str(path) for path in folder.glob("*.png")])
    sharded = ShardedPrediction(detector, layout, PredictOptions(formats=(), class_name=" "), ["cpu"])
    with pytest.raises(ConfigError, match="a class name must be a text"):
        list(sharded.records([[folder / "0.png"]]))


def test_methods_that_score_all_images_together_are_refused(make_small_clip, folder, tmp_path):
    musc = zsad.load("musc", make_small_clip(layers=4), device="cpu")
    with pytest.raises(ConfigError, match=r"musc scores all images together.*leave --devices out"):
        predict_folder(folder, musc, PredictOptions(out=tmp_path / "out", devices=2))


def test_device_names(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert device_names(2) == device_names(2, "cuda") == ("cuda:0", "cuda:1")
    assert device_names(2, "cpu") == ("cpu", "cpu")
    assert device_names(1, "cuda:2") == ("cuda:2",)
    for count, device, message in (
        (4, "cuda", r"this machine has 3 GPUs: use --devices 3"),
        (2, "cuda:1", "is a single device"),
        (2, "mps", "is a single device"),
        (0, None, "at least 1"),
    ):
        with pytest.raises(ConfigError, match=message):
            device_names(count, device)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device_names(2) == ("cpu", "cpu")


def test_batches_of_large_images_are_cut(folder):
    paths = [*sorted(folder.glob("*.png")), folder / "none.png"]  # 0 2 4 6 8 bad none
    sizes = [0 if path.stem in ("bad", "none") else 30 * (33 + int(path.stem)) for path in paths]
    whole = list(parts_by_size(paths, file_bytes, None))
    assert whole == [paths]
    for most in (1, 1100, 2200, 10**6):
        parts = list(parts_by_size(paths, file_bytes, most))
        assert [path for part in parts for path in part] == paths
        for part in parts:
            total = sum(sizes[paths.index(path)] for path in part)
            assert total <= most or sum(sizes[paths.index(path)] > 0 for path in part) == 1
    assert len(list(parts_by_size(paths, file_bytes, 10**6))) == 1


def test_cutting_batches_changes_no_record(detector, folder, tmp_path, monkeypatch):
    paths = sorted(folder.glob("*.png"))
    layout = RunLayout.plan(tmp_path, [str(path) for path in paths])

    def run():
        return without_time(PredictionPipeline(detector, layout, PredictOptions(formats=())).records([paths]))

    expected = run()
    monkeypatch.setattr("zsad.prediction.pipeline.MOST_BYTES_AT_ONCE", 2200)
    assert [record.path for record in run()] == [record.path for record in expected]
    for cut, record in zip(run(), expected, strict=True):
        assert cut.score == (None if record.score is None else pytest.approx(record.score, abs=1e-6))


def test_in_batches():
    assert [list(batch) for batch in in_batches([1, 2, 3, 4, 5], 2)] == [[1, 2], [3, 4], [5]]
    assert list(in_batches([], 2)) == []


@pytest.mark.parametrize("method", ["anomalyclip", "adaclip", "april_gan", "glocalclip", "winclip"])
def test_a_detector_answers_the_same_after_being_sent(method, make_small_clip, uint8_images):
    import pickle

    needs_training = zsad.methods._registry.method_class(method).INFO.needs_training
    checkpoint = "fresh" if needs_training else None
    detector = zsad.load(method, make_small_clip(layers=4), checkpoint=checkpoint, device="cpu")
    detector.is_trained = True
    expected = detector.predict(uint8_images)
    copy = pickle.loads(pickle.dumps(detector)).to("cpu")
    for found, prediction in zip(copy.predict(uint8_images), expected, strict=True):
        assert found.score == prediction.score
        assert (found.anomaly_map == prediction.anomaly_map).all()


@pytest.mark.slow
def test_the_page_and_settings_are_those_of_one_process(detector, folder, tmp_path):
    predict_folder(folder, detector, PredictOptions(out=tmp_path / "out", formats=(), devices=("cpu",)))
    settings = json.loads((tmp_path / "out" / "settings.json").read_text())
    assert not {"devices", "engine"} & set(settings)
    assert "index.html" in os.listdir(tmp_path / "out")


def test_options_choose_the_engine():
    from zsad.prediction.ray import RayPrediction

    assert choose_engine(PredictOptions(), "cpu") is PredictionPipeline
    assert choose_engine(PredictOptions(devices=3), "cpu").keywords == {"devices": ("cpu",) * 3}
    chosen = choose_engine(PredictOptions(engine="ray", workers=4), "cpu")
    assert (chosen.func, chosen.keywords) == (RayPrediction, {"workers": 4, "device": "cpu"})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "rays"}, "did you mean 'ray'"),
        ({"workers": 4}, "--workers is for --engine ray"),
        ({"engine": "ray", "devices": 2}, "with --engine ray give --workers"),
        ({"engine": "ray", "workers": 0}, "number of workers must be at least 1, got 0"),
        ({"devices": 0}, "number of devices must be at least 1, got 0"),
        ({"batch_size": 0}, "batch size must be at least 1, got 0"),
        ({"scale": "fix"}, "did you mean 'fixed'"),
        ({"threshold": float("nan")}, "threshold must be a finite number"),
    ],
)
def test_impossible_options(options, message):
    with pytest.raises(ConfigError, match=message):
        PredictOptions(**options)


@pytest.mark.parametrize(
    ("options", "device"),
    [({"device": "cuda:1"}, "cuda:1"), ({}, None), ({"devices": 2}, "cpu")],
)
def test_a_detector_that_is_yet_to_be_loaded_goes_where_it_scores(
    detector, folder, tmp_path, options, device
):
    """In the calling process it takes the device asked for; copies for other processes start on the CPU."""
    asked = []

    def load(paths, device, bits):
        asked.append(device)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict_folder(folder, load, PredictOptions(out=tmp_path / "out", **options))
    assert asked == [device]

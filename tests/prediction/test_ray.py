"""Prediction on a local Ray cluster, and the parts that need none."""

from __future__ import annotations

import dataclasses
import json
import os
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import zsad
from zsad.errors import ConfigError, DataError, MissingExtraError
from zsad.prediction.layout import RunLayout
from zsad.prediction.options import PredictOptions
from zsad.prediction.ray import ImageActor, Ledger, RayPrediction, _ranking, _relative
from zsad.prediction.run import predict_folder

pytestmark = pytest.mark.skipif(find_spec("ray") is None, reason="--engine ray needs the extra ray")


@pytest.fixture
def detector(make_small_clip):
    return zsad.load("winclip", make_small_clip(), device="cpu")


@pytest.fixture
def folder(tmp_path):
    """Nine images of widths 33 to 41, and one file that is none."""
    generator = np.random.default_rng(0)
    (tmp_path / "in" / "deep").mkdir(parents=True)
    for number in range(9):
        picture = generator.integers(0, 256, (30, 33 + number, 3), dtype=np.uint8)
        Image.fromarray(picture).save(tmp_path / "in" / ("deep" if number % 2 else "") / f"{number}.png")
    (tmp_path / "in" / "bad.png").write_bytes(b"no image")
    return tmp_path / "in"


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # as Ray's workers have, since the last bits may depend on it
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def cluster():
    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def without_time(records):
    return [dataclasses.replace(record, seconds=0) for record in records]


def contents(directory):
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.suffix in (".png", ".jpg", ".npy")
    }


@pytest.fixture
def here(monkeypatch):
    """Ray's object store without Ray: a reference is the object."""
    monkeypatch.setattr("ray.get", lambda reference: reference)


class CalledHere:
    """A ledger without Ray: `starts.remote` is a call."""

    def __init__(self):
        self.starts = self
        self.remote = Ledger().starts


def rows_of(actor, *batches):
    return [
        {name: values[0] for name, values in row.items()}
        for row in actor({"batch": [json.dumps(batch) for batch in batches]})
    ]


def test_an_actor_gives_files_and_then_the_record(detector, folder, here):
    uri = f"file://{folder}/2.png"
    actor = ImageActor(
        detector,
        PredictOptions(formats=("overlay", "npy"), explain=("cracked",)),
        CalledHere(),
        has_gpu=False,
    )
    rows = rows_of(actor, [(str(folder / "0.png"), "0"), (uri, "two")], [(str(folder / "bad.png"), "bad")])
    assert [json.loads(row["file"]) if row["file"] else "" for row in rows] == [
        *("overlays/0_overlay.jpg", "maps/0_map.npy", "thumbnails/0.jpg", ""),
        *("overlays/two_overlay.jpg", "maps/two_map.npy", "thumbnails/two.jpg", ""),
        "",
    ]
    records = [json.loads(row["record"]) for row in rows if row["record"]]
    assert [record["path"] for record in records] == [str(folder / "0.png"), uri, str(folder / "bad.png")]
    assert records[0]["score"] == pytest.approx(detector.predict(folder / "0.png").score, abs=1e-6)
    assert records[2]["error"].startswith(f"{folder / 'bad.png'}: ")
    assert json.loads(rows[3]["ranking"])[0]["phrase"] == "cracked"
    kept = [path for path in Path(actor._folder.name).rglob("*") if path.is_file()]
    assert kept == []


def test_an_actor_names_the_uri_that_fails(detector, folder, here):
    actor = ImageActor(detector, PredictOptions(formats=()), CalledHere(), has_gpu=False)
    uris = [f"file://{folder}/none.png", f"file://{folder}/bad.png"]
    records = [json.loads(row["record"]) for row in rows_of(actor, [(uri, None) for uri in uris])]
    assert [record["path"] for record in records] == uris
    assert records[0]["error"].startswith(f"{uris[0]}: cannot be fetched (")
    assert records[1]["error"].startswith(f"{uris[1]}: is a text file")


def test_an_argument_that_is_refused_is_one_problem(detector, folder, here):
    actor = ImageActor(detector, PredictOptions(formats=(), class_name=" "), CalledHere(), has_gpu=False)
    rows = rows_of(actor, [(str(folder / "0.png"), "0")])
    assert [row["problem"][:30] for row in rows] == ["a class name must be a text su"]


def test_a_task_that_was_started_often_gives_nothing(detector, folder, here):
    actor = ImageActor(detector, PredictOptions(formats=()), CalledHere(), has_gpu=False)
    runs = [len(rows_of(actor, [(str(folder / "0.png"), "0")])) for _ in range(4)]
    assert runs == [2, 2, 0, 0]  # thumbnail and record
    assert len(rows_of(actor, [(str(folder / "2.png"), "2")])) == 2


def test_refusals(detector, make_small_clip, monkeypatch):
    layout = RunLayout.plan(Path("out"), [])
    musc = zsad.load("musc", make_small_clip(layers=4), device="cpu")
    with pytest.raises(ConfigError, match=r"musc scores all images together.*leave --engine out"):
        RayPrediction(musc, layout, PredictOptions())
    with pytest.raises(ConfigError, match="at least 1, got 0"):
        RayPrediction(detector, layout, PredictOptions(), workers=0)
    monkeypatch.setitem(__import__("sys").modules, "ray.data", None)
    with pytest.raises(MissingExtraError, match=r"zsad\[ray\]"):
        RayPrediction(detector, layout, PredictOptions())


@pytest.mark.slow
def test_a_cluster_gives_the_results_of_one_process(detector, folder, tmp_path, cluster, one_thread):
    arguments = {"batch_size": 2, "explain": ["cracked", "stained"], "formats": ("overlay", "map", "npy")}
    one = predict_folder(folder, detector, PredictOptions(out=tmp_path / "one", **arguments))
    seen = []
    two = predict_folder(
        folder,
        detector,
        PredictOptions(out=tmp_path / "two", engine="ray", workers=2, **arguments),
        progress=lambda *counts: seen.append(counts),
    )
    assert without_time(two.records) == without_time(one.records)
    assert seen == [(done, 10) for done in range(11)]
    assert contents(tmp_path / "two") == contents(tmp_path / "one")
    for name in ("explanations.jsonl", "settings.json"):
        assert (tmp_path / "two" / name).read_text() == (tmp_path / "one" / name).read_text()

    in_bucket = PredictOptions(out=tmp_path / "remote", engine="ray", workers=2, batch_size=2)
    remote = predict_folder(f"file://{folder}", detector, in_bucket)
    assert len(remote.scored) == 9
    for record in remote.scored:
        local = record.path.removeprefix("file://")
        assert record.score == pytest.approx({r.path: r.score for r in one.records}[local], abs=1e-6)
    assert (tmp_path / "remote" / "overlays" / "deep" / "1_overlay.jpg").exists()
    (folder / "bad.png").unlink()  # so that nothing is left to do
    again = predict_folder(f"file://{folder}", detector, dataclasses.replace(in_bucket, resume=True))
    assert again.resumed == 9
    assert without_time(again.records) == without_time(r for r in remote.records if r.error is None)


@pytest.mark.slow
def test_a_dead_worker_loses_nothing(detector, folder, tmp_path, cluster, one_thread):
    class DeadlyDetector(zsad.Detector):  # local, so that Ray sends its code along
        def predict(self, inputs, classes=None, batch_size=None):
            widths = {image.width for image in inputs}
            if 38 in widths or (34 in widths and not self.marker.exists()):
                self.marker.touch()
                os._exit(1)
            return super().predict(inputs, classes, batch_size)

    expected = predict_folder(folder, detector, PredictOptions(out=tmp_path / "one", batch_size=2))
    deadly = DeadlyDetector(detector.method, detector.image_size, fingerprint=detector.fingerprint)
    deadly.marker = tmp_path / "marker"
    options = PredictOptions(out=tmp_path / "two", batch_size=2, engine="ray", workers=2)
    summary = predict_folder(folder, deadly, options)
    assert deadly.marker.exists()
    failed = {os.path.basename(record.path): record.error for record in summary.failed}
    assert sorted(failed) == ["5.png", "bad.png"]
    assert "its worker died each time" in failed["5.png"]
    scores = {record.path: record.score for record in expected.records}
    assert len(summary.scored) == 8
    for record in summary.scored:
        assert record.score == pytest.approx(scores[record.path], abs=1e-6)


@pytest.mark.parametrize("name", ['"/etc/passwd"', '"../other.png"', '"a/../../b.png"', "{", "[1"])
def test_a_worker_cannot_write_outside_the_results(name):
    with pytest.raises(DataError, match="worker"):
        _relative(name)
    assert str(_relative('"overlays/a.png"')) == "overlays/a.png"


def test_what_a_worker_sends_is_checked():
    assert _ranking('[{"phrase": "a dent", "similarity": 0.5, "share": 1}]')[0].share == 1.0
    for text in ("[3]", '[{"phrase": 3, "similarity": 0, "share": 1}]', '[{"phrase": "a"}]', "3", "NaN"):
        with pytest.raises(DataError, match="a ranking from a worker"):
            _ranking(text)

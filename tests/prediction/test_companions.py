"""Folder mode of predict: companions are drawn, remembered, and the results say so."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import zsad
from zsad.cli import app
from zsad.detector.support import default_method, evenly_spread
from zsad.errors import DataError
from zsad.prediction.options import PredictOptions
from zsad.prediction.run import predict_folder


@pytest.fixture
def folder(tmp_path):
    """Ten noisy images of one motif, and a file that is no image."""
    rng = np.random.default_rng(0)
    motif = rng.integers(0, 256, (64, 64, 3))
    for number in range(10):
        noisy = np.clip(motif + rng.normal(0, 8, motif.shape), 0, 255).astype(np.uint8)
        (tmp_path / "in").mkdir(exist_ok=True)
        Image.fromarray(noisy).save(tmp_path / "in" / f"{number}.png")
    (tmp_path / "in" / "00.png").write_bytes(b"no image")
    return tmp_path / "in"


@pytest.fixture
def auto(make_small_clip):
    torch.manual_seed(0)
    detector = zsad.load("auto", make_small_clip(image_size=64), "fresh", device="cpu")
    detector.is_trained = True
    return detector


def scores(summary):
    return {record.path: record.score for record in summary.records if record.error is None}


def test_images_are_scored_one_by_one_as_they_are_all_at_once(folder, auto, tmp_path):
    summary = predict_folder(folder, auto, PredictOptions(out=tmp_path / "out", batch_size=3, formats=()))
    assert [record.error is None for record in summary.records].count(False) == 1
    assert "others of the folder (10 drawn)" in summary.note
    auto.set_companions(None)
    together = auto.predict(sorted(path for path in folder.iterdir() if path.name != "00.png"))
    for prediction in together:
        assert scores(summary)[str(prediction.path)] == pytest.approx(prediction.score, abs=1e-4)


def test_the_results_say_so(folder, auto, tmp_path):
    summary = predict_folder(folder, auto, PredictOptions(out=tmp_path / "out", formats=()))
    settings = json.loads((tmp_path / "out" / "settings.json").read_text())
    assert settings["folder_mode"] == summary.note
    assert len(settings["companion_images"]) == 10
    assert summary.note in (tmp_path / "out" / "index.html").read_text()


def test_seven_images_have_no_companions(folder, auto, tmp_path):
    few = sorted(folder.glob("[1-7].png"))
    summary = predict_folder(few, auto, PredictOptions(out=tmp_path / "out", formats=()))
    assert "fewer than 8 readable images" in summary.note
    assert summary.note in (tmp_path / "out" / "index.html").read_text()
    assert json.loads((tmp_path / "out" / "settings.json").read_text())["companion_images"] == []


def test_the_page_says_how_far_to_trust_a_comparison(folder, auto, tmp_path):
    summary = predict_folder(folder, auto, PredictOptions(out=tmp_path / "out", formats=()))
    page = (tmp_path / "out" / "index.html").read_text()
    assert ("about 5 %" in page) == ("about 5 %" in summary.note) == ("alike (" in summary.note)


def test_copies_are_called_copies(auto, tmp_path):
    pixels = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for number in range(9):
        (tmp_path / "in" / str(number)).mkdir(parents=True)
        Image.fromarray(pixels).save(tmp_path / "in" / str(number) / f"a.{'png' if number % 2 else 'bmp'}")
    summary = predict_folder(tmp_path / "in", auto, PredictOptions(out=tmp_path / "out", formats=()))
    assert "9 of the 9 images drawn from the folder are copies" in summary.note
    assert "text prompts only" in summary.note
    assert "0.00" not in summary.note
    assert summary.note in (tmp_path / "out" / "index.html").read_text()


def test_other_methods_say_nothing_of_the_folder(folder, make_small_clip, tmp_path):
    plain = zsad.load("clip_ac", make_small_clip(image_size=64), device="cpu")
    assert predict_folder(folder, plain, PredictOptions(out=tmp_path / "out", formats=())).note == ""


def test_new_images_of_a_resumed_run_meet_the_same_companions(folder, auto, tmp_path):
    first = predict_folder(folder, auto, PredictOptions(out=tmp_path / "out", formats=()))
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(folder / "new.png")
    second = predict_folder(folder, auto, PredictOptions(out=tmp_path / "out", formats=(), resume=True))
    assert second.resumed == 10
    assert second.note == first.note
    (folder / "3.png").unlink()
    with pytest.raises(DataError, match=r"3\.png is gone"):
        predict_folder(folder, auto, PredictOptions(out=tmp_path / "out", formats=(), resume=True))


def test_it_is_the_default_from_eight_images_on(folder, tmp_path):
    many, few = tmp_path / "many", tmp_path / "few"
    for out, pattern in ((many, "*.png"), (few, "[1-3].png")):
        result = CliRunner().invoke(
            app, ["predict", str(folder / pattern), "--out", str(out), "--format", "none", "--offline"]
        )
        assert result.exit_code == (3 if out == many else 0), result.output
    methods = [
        {json.loads(line)["method"] for line in (out / "results.jsonl").read_text().splitlines()}
        for out in (many, few)
    ]
    assert methods == [{"auto"}, {"anomalyclip"}]


def test_default_method_counts_files_only(folder):
    assert default_method(sorted(folder.iterdir())) == "auto"
    assert default_method([folder / "missing.png"] * 9) is None


def test_evenly_spread_keeps_both_ends():
    assert evenly_spread(list(range(100)), 4) == [0, 33, 66, 99]
    assert evenly_spread(list(range(3)), 64) == [0, 1, 2]

"""`--roi` in predict, calibrate and evaluate: nothing outside of the region counts."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import zsad
from zsad.cli import app
from zsad.images.saving import read_map
from zsad.prediction.options import PredictOptions
from zsad.prediction.run import predict_folder

BOX = "25%,25%,50%,50%"


def invoke(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def write(path, levels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(levels).save(path)


def parts(folder, count, *, outside=None):
    """Noisy images with a bright square in the middle; `outside` replaces what surrounds the middle half."""
    for number in range(count):
        levels = np.random.default_rng(number).integers(90, 120, (64, 64, 3), dtype=np.uint8)
        levels[28:36, 28:36] = 200
        if outside is not None:
            middle = levels[16:48, 16:48].copy()
            levels[:] = outside
            levels[16:48, 16:48] = middle
        write(folder / f"{number}.png", levels)
    return folder


@pytest.fixture
def mask(tmp_path):
    """A mask at another size than the images, white in the middle half."""
    levels = np.zeros((16, 16), np.uint8)
    levels[4:12, 4:12] = 255
    write(tmp_path / "look.png", levels)
    return tmp_path / "look.png"


def records(out):
    return [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]


def scores(out):
    return [record["score"] for record in records(out)]


@pytest.mark.parametrize("method", ["anomalyclip", "auto"])
def test_predict_ignores_what_is_outside(tmp_path, mask, method):
    found = {}
    for name, outside in (("clean", None), ("dirty", 255)):
        folder = parts(tmp_path / name, 9, outside=outside)
        for roi in (BOX, mask):
            out = tmp_path / f"{name} {roi.name if roi is mask else 'box'}"
            ran = invoke("predict", folder, "--roi", roi, "-m", method, "-o", out, "-q", "-f", "overlay,npy")
            assert ran.exit_code == 0, ran.output
            found[name, roi] = scores(out)
    assert found["clean", BOX] == found["dirty", BOX] == found["clean", mask] == found["dirty", mask]
    values = read_map(out / "maps" / "0_map.npy")
    assert values.shape == (64, 64)
    assert values[16:48, 16:48].max() > values[:16].max() == values.min()
    shown = np.asarray(Image.open(out / "overlays" / "0_overlay.jpg"))
    assert shown[:10].mean() == pytest.approx(255 / 3, abs=3)
    assert "mask 16 x 16" in (out / "index.html").read_text()


def test_resuming_needs_the_same_region(tmp_path):
    folder = parts(tmp_path / "in", 2)
    out = tmp_path / "out"
    assert invoke("predict", folder, "--roi", BOX, "-o", out, "-q").exit_code == 0
    assert "roi was" in invoke("predict", folder, "-o", out, "--resume").output
    assert invoke("predict", folder, "--roi", BOX, "-o", out, "--resume", "-q").exit_code == 0


def test_one_image_outside_of_the_region_does_not_stop_the_others(tmp_path):
    folder = parts(tmp_path / "in", 2)
    write(folder / "small.png", np.zeros((20, 20, 3), np.uint8))
    ran = invoke("predict", folder, "--roi", "40,40,20,20", "-o", tmp_path / "out", "--json")
    assert ran.exit_code == 3
    assert [record["error"] is None for record in records(tmp_path / "out")] == [True, True, False]
    error = records(tmp_path / "out")[-1]["error"]
    assert (
        error
        == f"{folder / 'small.png'}: the region 40,40,20,20 lies outside of this image of 20 x 20 pixels"
    )


@pytest.mark.parametrize("command", ["predict", "calibrate", "evaluate"])
@pytest.mark.parametrize("roi", ["10,10,0,0", "nowhere.png", "1,2,3"])
def test_what_is_no_region_is_refused_at_once(tmp_path, command, roi):
    folder = parts(tmp_path / "in", 2)
    named = ["--data", folder] if command == "evaluate" else [folder]
    ran = invoke(command, *named, "--roi", roi, "-o", tmp_path / "out.json")
    assert ran.exit_code == 2
    assert "region" in ran.output or "mask" in ran.output
    assert ran.output.count("\n") == 1


def test_a_calibration_refuses_another_region(tmp_path, mask):
    folder = parts(tmp_path / "good", 6)
    file = tmp_path / "line.json"
    assert invoke("calibrate", folder, "--roi", mask, "-o", file, "-q").exit_code == 0
    arguments = ["predict", folder, "--calibration", file, "-o", tmp_path / "out", "-q"]
    refused = invoke(*arguments)
    assert refused.exit_code == 2
    assert "region of interest" in refused.output
    assert invoke(*arguments, "--roi", BOX).exit_code == 2
    accepted = invoke(*arguments, "--roi", mask)
    assert accepted.exit_code == 0, accepted.output
    assert {record["is_anomalous"] for record in records(tmp_path / "out")} == {False}


def test_from_python(tmp_path, mask):
    folder = parts(tmp_path / "in", 3, outside=0)
    detector = zsad.load("anomalyclip", device="cpu")
    result = predict_folder(folder, detector, PredictOptions(out=tmp_path / "out", roi=str(mask), formats=()))
    expected = [detector.predict(record.path, roi=mask).score for record in result.records]
    assert [record.score for record in result.records] == pytest.approx(expected, abs=1e-5)
    assert detector.roi is None


def test_evaluate_ignores_pixels_outside(tmp_path):
    """Two datasets that differ outside of the region, in images and in masks, give the same numbers."""
    circle = np.zeros((64, 64), np.uint8)
    circle[np.hypot(*np.mgrid[-32:32, -32:32]) < 20] = 255
    write(tmp_path / "circle.png", circle)
    found = {}
    for name, outside in (("clean", 100), ("dirty", 255)):
        tree = tmp_path / name / "part"
        for number in range(4):
            levels = np.random.default_rng(number).integers(90, 120, (64, 64, 3), dtype=np.uint8)
            marked = np.zeros((64, 64), np.uint8)
            if number % 2:
                levels[30:36, 30:40], marked[30:36, 30:40] = 230, 255
            levels[circle == 0] = outside
            if number % 2 and name == "dirty":
                marked[:8, :8] = 255
            kind = "crack" if number % 2 else "good"
            write(tree / "test" / kind / f"{number}.png", levels)
            if number % 2:
                write(tree / "ground_truth" / kind / f"{number}_mask.png", marked)
        out = tmp_path / f"{name} out"
        arguments = ["--data", tmp_path / name, "--roi", tmp_path / "circle.png", "-o", out, "-q"]
        ran = invoke("evaluate", *arguments)
        assert ran.exit_code == 0, ran.output
        run = json.loads((out / "results.json").read_text())["runs"][0]
        found[name] = run["mean"]
        assert run["roi"].startswith("mask 64 x 64 ")
        refused = invoke("evaluate", *arguments[:2], "-o", out, "--resume")
        assert "roi" in refused.output
    assert found["clean"] == found["dirty"]
    assert found["clean"]["pixel_auroc"] > 0

"""`zsad calibrate` and `zsad predict --calibration` end to end, with a real method on a random backbone."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import zsad
from zsad.cli import app
from zsad.detector.loading import load
from zsad.detector.thresholds import read_calibration


@pytest.fixture
def run(monkeypatch, make_small_clip):
    monkeypatch.setenv("COLUMNS", "400")  # messages on one line

    def load_on_small(**arguments):
        arguments["backbone"] = make_small_clip()
        if arguments["checkpoint"] is None and arguments["calibration"] in (None, "none"):
            arguments["method"] = arguments["method"] or "clip_ac"
        return load(**arguments)

    monkeypatch.setattr(zsad, "load", load_on_small)

    def invoke(*arguments):
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    return invoke


@pytest.fixture
def folders(tmp_path):
    """Twenty normal images in good/, four others in new/, a labelled set in MVTec layout."""
    generator = np.random.default_rng(11)

    def write(path, count, spot=False):
        path.mkdir(parents=True)
        for number in range(count):
            pixels = generator.integers(90, 160, (24, 20, 3), dtype=np.uint8)
            if spot:
                pixels[4:12, 4:12] = 0
            Image.fromarray(pixels).save(path / f"{number}.png")

    write(tmp_path / "good", 20)
    write(tmp_path / "new", 4, spot=True)
    part = tmp_path / "set" / "metal_nut"
    write(part / "test" / "good", 6)
    write(part / "test" / "hole", 3, spot=True)
    masks = part / "ground_truth" / "hole"
    masks.mkdir(parents=True)
    mask = np.zeros((24, 20), np.uint8)
    mask[4:12, 4:12] = 255
    for number in range(3):
        Image.fromarray(mask).save(masks / f"{number}_mask.png")
    return SimpleNamespace(good=tmp_path / "good", new=tmp_path / "new", labelled=part, root=tmp_path)


def records_of(folder):
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(("suffix", "option"), [(".json", "--calibration"), (".safetensors", "--checkpoint")])
def test_calibrate_then_predict(run, folders, suffix, option):
    out = folders.root / f"mine{suffix}"
    result = run("calibrate", folders.good, "--out", out, "--class-name", "nut", "--rate", "0.2")
    assert result.exit_code == 0, result.output
    assert "for at most 20 % false alarms, from 20 normal images of 'nut'" in result.output
    assert f"zsad predict {option} {out}" in result.output
    assert "warning" not in result.output
    calibration = read_calibration(out)

    page = folders.root / "run"
    result = run("predict", folders.good, folders.new, option, out, "--out", page)
    assert result.exit_code == 0, result.output
    assert "20 images of these made the calibration" in result.output
    records = records_of(page)
    assert all(record["threshold"] == calibration.threshold for record in records)
    assert [record["in_calibration"] for record in records] == [True] * 20 + [False] * 4
    flagged = [record["is_anomalous"] for record in records]
    assert flagged == [record["relative_score"] >= 0.5 for record in records]
    assert sum(flagged[:20]) <= 4
    assert (page / "masks").is_dir()
    header = (page / "results.csv").read_text().splitlines()[0]
    assert header.endswith("error,relative_score,p_value,in_calibration")
    text = (page / "index.html").read_text()
    assert text.count('class="rug"') == 20
    cards = json.loads(text.partition('id="cards">')[2].partition("</script>")[0])
    assert len(cards["relative"]) == 24
    assert "confidence at most 20 % of new normal images" in text


def test_predict_by_hand_and_without(run, folders):
    out = folders.root / "c.json"
    assert run("calibrate", folders.good, "--out", out).exit_code == 0
    by_hand = folders.root / "by_hand"
    result = run("predict", folders.new, "--calibration", out, "--threshold", "0.9", "--out", by_hand)
    assert result.exit_code == 0, result.output
    assert {record["threshold"] for record in records_of(by_hand)} == {0.9}
    assert "nothing is promised" in (by_hand / "index.html").read_text()
    without = folders.root / "without"
    assert run("predict", folders.new, "-m", "clip_ac", "--out", without).exit_code == 0
    assert set(records_of(without)[0]) == {
        *("path", "score", "is_anomalous", "threshold", "width"),
        *("height", "seconds", "method", "backbone", "error"),
    }
    raw = [record["score"] for record in records_of(without)]
    assert [record["score"] for record in records_of(by_hand)] == pytest.approx(raw)


def test_predict_refuses_what_does_not_fit(run, folders):
    out = folders.root / "c.json"
    assert run("calibrate", folders.good, "--out", out, "-c", "nut").exit_code == 0
    result = run("predict", folders.new, "--calibration", out, "--out", folders.root / "x", "-c", "bottle")
    assert result.exit_code == 2
    assert "is for images of 'nut', not of 'bottle'" in result.output
    result = run("predict", folders.new, "--calibration", out, "-m", "winclip", "--out", folders.root / "x")
    assert result.exit_code == 2
    assert "method 'clip_ac', and this detector has 'winclip'" in result.output
    result = run("predict", folders.new, "--calibration", folders.root / "gone.json")
    assert result.exit_code == 2
    assert "no such file" in result.output


def test_resuming_with_another_calibration_is_refused(run, folders):
    first, second = folders.root / "1.json", folders.root / "2.json"
    assert run("calibrate", folders.good, "--out", first).exit_code == 0
    assert run("calibrate", folders.good, "--out", second, "--rate", "0.2").exit_code == 0
    page = folders.root / "run"
    assert run("predict", folders.new, "--calibration", first, "--out", page).exit_code == 0
    again = run("predict", folders.new, "--calibration", first, "--out", page, "--resume")
    assert again.exit_code == 0, again.output
    other = run("predict", folders.new, "--calibration", second, "--out", page, "--resume")
    assert other.exit_code == 2
    assert "calibration was" in other.output


def test_labelled_data(run, folders):
    out = folders.root / "c.json"
    result = run("calibrate", "--data", folders.labelled, "--out", out, "--by", "f1")
    assert result.exit_code == 0, result.output
    calibration = read_calibration(out)
    assert calibration.class_name == "metal nut"
    assert calibration.map_rule == "f1"
    assert (len(calibration.normal_scores), len(calibration.anomalous_scores)) == (6, 3)
    result = run(
        *("calibrate", folders.good, "--anomalous", folders.new, "--out", out),
        *("--cost-miss", 10, "--cost-false-alarm", 1, "--prevalence", 0.01),
    )
    assert result.exit_code == 0, result.output
    assert "with the lowest cost (miss 10, false alarm 1, 1 % anomalous)" in result.output


def test_bad_images_are_named_and_the_rest_counts(run, folders):
    (folders.good / "broken.png").write_text("no image")
    result = run("calibrate", folders.good, "--out", folders.root / "c.json", "--quiet")
    assert result.exit_code == 3
    assert "failed: " in result.output
    assert "broken.png" in result.output
    assert len(read_calibration(folders.root / "c.json").normal_scores) == 20


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["{good}", "--strict"], 2, "needs 59 images; give more"),
        ([], 2, "give normal images"),
        (["{good}", "--data", "{labelled}"], 2, "give normal images"),
        (["{good}", "--anomalous", "{good}"], 2, "as normal and as anomalous"),
        (["{good}", "--out", "{root}/c.pt"], 2, "must end in .json"),
        (["{good}", "--out", "{root}/taken.json"], 2, "exists and holds no calibration"),
        (["{good}", "--by", "f1"], 1, "no anomalous image"),
        (["{good}/0.png"], 1, "one normal image says nothing"),
        (["{root}/nowhere"], 2, "no such file or folder"),
        (["{good}", "--rate", "5"], 2, "a share above 0"),
        (["{good}", "--cost-miss", "5"], 2, "needs both costs"),
    ],
)
def test_wrong_usage_is_one_line(run, folders, monkeypatch, arguments, code, message):
    monkeypatch.chdir(folders.root)  # where calibration.json would be written
    (folders.root / "taken.json").write_text("{}")
    places = {"good": folders.good, "labelled": folders.labelled, "root": folders.root}
    result = run("calibrate", *(argument.format(**places) for argument in arguments))
    assert result.exit_code == code, result.output
    line = next(line for line in result.output.splitlines() if line.startswith("error: "))
    assert message in line
    assert (folders.root / "taken.json").read_text() == "{}"


def test_a_set_of_several_categories_needs_a_name(run, folders):
    other = folders.labelled.parent / "bottle" / "test" / "good"
    other.mkdir(parents=True)
    Image.new("RGB", (9, 9)).save(other / "0.png")
    result = run("calibrate", "--data", folders.labelled.parent, "--out", folders.root / "c.json")
    assert result.exit_code == 1
    assert "2 categories (bottle, metal nut) and none is named" in result.output
    chosen = run(
        *("calibrate", "--data", folders.labelled.parent, "-c", "metal nut"),
        *("--out", folders.root / "c.json"),
    )
    assert chosen.exit_code == 0, chosen.output


def test_labels_that_are_not_known_are_never_taken_for_normal(run, folders):
    (folders.labelled / "test" / "good").rename(folders.labelled / "test" / "foo")
    for mask in (folders.labelled / "ground_truth").rglob("*.png"):
        mask.unlink()
    (folders.labelled / "ground_truth" / "hole").rmdir()
    (folders.labelled / "ground_truth").rmdir()
    refused = run("calibrate", "--data", folders.labelled, "--out", folders.root / "c.json")
    assert refused.exit_code == 1
    assert "none of the folders is known to mean normal (folders: foo, hole)" in refused.output
    out = folders.root / "d.json"
    taken = run(
        "calibrate", "--data", folders.labelled, "--normal-labels", "foo", "--rate", "0.2", "--out", out
    )
    assert taken.exit_code == 0, taken.output
    assert len(read_calibration(out).normal_scores) == 6

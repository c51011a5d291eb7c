"""`zsad fit` end to end: fit, predict, add, false alarm, with a real method on a random backbone."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import zsad
from zsad.cli import app
from zsad.detector.checkpoints import read
from zsad.detector.loading import load


@pytest.fixture
def run(monkeypatch, make_small_clip):
    monkeypatch.setenv("COLUMNS", "400")  # messages on one line
    used = {}

    def load_on_small(**arguments):
        used.update(arguments)
        arguments["backbone"] = make_small_clip()
        if arguments["checkpoint"] is None:
            arguments["method"] = "clip_ac"
        return load(**arguments)

    monkeypatch.setattr(zsad, "load", load_on_small)

    def invoke(*arguments):
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    invoke.used = used
    return invoke


@pytest.fixture
def folders(tmp_path):
    generator = np.random.default_rng(5)

    def write(folder, count, spot=False):
        (tmp_path / folder).mkdir()
        for number in range(count):
            pixels = generator.integers(90, 160, (32, 32, 3), dtype=np.uint8)
            if spot:
                pixels[8:20, 8:20] = (255, 0, 0)
            Image.fromarray(pixels).save(tmp_path / folder / f"{folder}{number}.png")

    write("good", 8)
    write("more", 3)
    write("bad", 1, spot=True)
    return SimpleNamespace(
        good=tmp_path / "good", more=tmp_path / "more", bad=tmp_path / "bad", root=tmp_path
    )


def test_two_commands_end_in_verdicts(run, folders):
    out = folders.root / "Linie 3 süd.safetensors"
    result = run("fit", folders.good, "--out", out)
    assert result.exit_code == 0, result.output
    assert run.used["method"] == "auto"
    assert "about 34 % confidence at most 5 % of new normal images" in result.output
    assert "51 more good images (59 in all) would promise at most 5 %" in result.output
    assert f"zsad predict parts/ --checkpoint '{out}'" in result.output
    page = out.with_suffix(".html").read_text()
    assert page.count("data:image/jpeg") == 8
    assert "good0.png" in page

    results = folders.root / "results"
    result = run("predict", folders.more, folders.bad, "--checkpoint", out, "--out", results)
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in (results / "results.jsonl").read_text().splitlines()]
    assert {row["is_anomalous"] for row in rows} <= {True, False}
    threshold = read(out).info.threshold
    assert all(row["is_anomalous"] == (row["score"] >= threshold) for row in rows)
    verdicts = sum(row["is_anomalous"] for row in rows)
    html = (results / "index.html").read_text()
    verb = "is" if verdicts == 1 else "are"
    assert f"{verdicts} of 4 images {verb} anomalous" in html


def test_adding_and_false_alarms(run, folders):
    out = folders.root / "line3.safetensors"
    run("fit", folders.good, "--out", out, "--rate", "0.2")
    before = read(out).info.threshold
    result = run("fit", folders.more, "--add", out)
    assert result.exit_code == 0, result.output
    assert f"8 good images before, 11 now; the threshold was {before:.4g} and is now" in result.output
    info = read(out).info
    assert len(info.good_images) == 11
    assert info.calibration["false_alarm_rate"] == 0.2

    bad = folders.bad / "bad0.png"
    result = run("fit", "--add", out, "--false-alarm", bad)
    assert result.exit_code == 0, result.output
    assert "bad0.png: before, score" in result.output
    assert "now one of the good images" in result.output
    assert len(read(out).info.good_images) == 12
    assert read(out).info.threshold != before
    result = run("fit", "--add", out, "--rate", "0.4", "--drop-outliers")  # without any image
    assert result.exit_code == 0, result.output
    assert read(out).info.calibration["false_alarm_rate"] == 0.4


def test_add_also_names_the_images_and_out_the_file(run, folders):
    out = folders.root / "line3.safetensors"
    run("fit", folders.good, "--out", out)
    result = run("fit", "--add", folders.more, "--out", out)
    assert result.exit_code == 0, result.output
    assert "8 good images before, 11 now" in result.output
    assert len(read(out).info.good_images) == 11


def test_tiles_and_turned_references(run, folders):
    out = folders.root / "line3.safetensors"
    result = run("fit", folders.good, "--out", out, "--tile", "24", "--augment-references")
    assert result.exit_code == 0, result.output
    info = read(out).info
    assert (info.tile, info.augment_references) == (24, True)
    results = folders.root / "results"
    result = run("predict", folders.more, "--checkpoint", out, "--out", results)
    assert result.exit_code == 0, result.output
    assert "3 of 3 images cut into tiles of 24 pixels" in result.output
    result = run("fit", "--add", folders.more, "--out", out)
    assert result.exit_code == 0, result.output
    assert "8 good images before, 11 now" in result.output
    bad = folders.bad / "bad0.png"
    result = run("fit", "--add", out, "--false-alarm", bad)
    assert result.exit_code == 0, result.output
    assert "bad0.png: before, score" in result.output
    assert (len(read(out).info.good_images), read(out).info.tile) == (12, 24)
    bad.unlink()
    result = run("fit", "--add", out, "--rate", "0.4")
    assert result.exit_code == 1
    assert "bad0.png cannot be found or changed: give the earlier images too" in result.stderr
    result = run("predict", folders.more, "--augment-references", "--out", results)
    assert result.exit_code == 2
    assert "no references to turn" in result.stderr


def test_a_broken_file_is_named_and_the_others_count(run, folders):
    (folders.good / "broken.png").write_bytes(b"nothing")
    out = folders.root / "line3.safetensors"
    result = run("fit", folders.good, "--out", out)
    assert result.exit_code == 3
    assert "failed: " in result.stderr
    assert result.stderr.count("broken.png") == 1
    assert len(read(out).info.good_images) == 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give good images: zsad fit good/"),
        (["{good}", "--out", "a.json"], "must end in .safetensors"),
        (["{good}", "--false-alarm", "x.png"], "--add line3.safetensors --false-alarm"),
        (["--add", "{more}"], "there is no --out"),
        (["--add", "{more}", "--out", "gone.safetensors"], "gone.safetensors does not exist"),
        (["--add", "missing.safetensors"], "does not exist"),
        (["{good}", "--rate", "0.7"], "below 0.5"),
    ],
)
def test_wrong_usage_says_what_to_type(run, folders, monkeypatch, arguments, message):
    monkeypatch.chdir(folders.root)
    names = {"good": folders.good, "more": folders.more}
    result = run("fit", *[each.format(**names) for each in arguments])
    assert result.exit_code == 2, result.output
    assert message in result.stderr


def test_a_page_of_somebody_else_stays(run, folders):
    (folders.root / "line3.html").write_text("<title>mine</title>")
    result = run("fit", folders.good, "--out", folders.root / "line3.safetensors")
    assert result.exit_code == 2
    assert "choose another --out" in result.stderr
    assert (folders.root / "line3.html").read_text() == "<title>mine</title>"


def test_references_is_the_name_of_the_option(run, folders):
    results = folders.root / "results"
    result = run("predict", folders.more, "--references", folders.good, "--out", results, "-m", "clip_ac")
    assert result.exit_code == 0, result.output

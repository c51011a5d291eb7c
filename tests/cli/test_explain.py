"""`zsad predict --explain`: the rankings of a folder, beside results that stay as they were."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import zsad
from zsad.cli import app
from zsad.errors import DataError
from zsad.prediction.options import PredictOptions
from zsad.prediction.records import EXPLANATIONS_FILE, read_explanations
from zsad.prediction.run import predict_folder

PHRASES = ["cracked", "a scratch"]


@pytest.fixture
def run(small_clip, uint8_images, tmp_path, monkeypatch):
    """Invokes `zsad predict` on three images and one broken file; `run.out` is the results' folder."""
    detector = zsad.load("clip_ac", backbone=small_clip, device="cpu")
    monkeypatch.setattr(zsad, "load", lambda **_: detector, raising=False)
    (tmp_path / "in").mkdir()
    for number, image in enumerate(uint8_images):
        Image.fromarray(image).save(tmp_path / "in" / f"{number}.png")
    (tmp_path / "in" / "broken.png").write_bytes(b"no image")

    def invoke(*arguments):
        options = ["--out", tmp_path / "out", "--format", "none", *arguments]
        return CliRunner().invoke(app, ["predict", str(tmp_path / "in"), *map(str, options)])

    invoke.out, invoke.detector = tmp_path / "out", detector
    return invoke


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_rankings_are_those_of_the_predictions(run, uint8_images):
    assert run("--explain", "cracked, a scratch").exit_code == 3
    rows = lines(run.out / EXPLANATIONS_FILE)
    assert [row["path"].rsplit("/")[-1] for row in rows] == ["0.png", "1.png", "2.png"]
    for row, image in zip(rows, uint8_images, strict=True):
        expected = run.detector.predict(image).explain(PHRASES)
        assert row["phrase"] == expected[0].phrase
        assert [fit["phrase"] for fit in row["ranking"]] == [fit.phrase for fit in expected]
        found = [fit["similarity"] for fit in row["ranking"]]
        assert found == pytest.approx([fit.similarity for fit in expected], abs=1e-5)
    results = lines(run.out / "results.jsonl")
    assert len(results) == 4
    assert [len(record) for record in results] == [12, 12, 12, 10]
    assert [record.get("phrase") for record in results] == [*(row["phrase"] for row in rows), None]


@pytest.mark.parametrize("extra", [[], ["--devices", "2"]])
def test_the_answer_is_in_the_tables_and_on_the_page(run, extra):
    shown = run("--explain", "cracked,a scratch", *extra).output
    rows = lines(run.out / EXPLANATIONS_FILE)
    page = (run.out / "index.html").read_text(encoding="utf-8")
    header, *table = (run.out / "results.csv").read_text(encoding="utf-8-sig").splitlines()
    assert header.endswith("error,phrase,phrase_share")
    assert "fits best" in shown
    for row, cells in zip(rows, table, strict=False):
        answer = f"{row['phrase']} ({row['ranking'][0]['share']:.0%})"
        assert f",{row['phrase']},{row['ranking'][0]['share']!r}" in cells
        assert answer in page
        assert answer in shown


def test_json_lines_hold_the_answer(run):
    shown = run("--explain", "cracked", "--json").stdout
    records = [json.loads(line) for line in shown.splitlines() if line.startswith("{")]
    assert [record.get("phrase") for record in records] == ["cracked", "cracked", "cracked", None]


def test_without_phrases_the_columns_are_left_out(run):
    assert "fits best" not in run().output
    assert "phrase_share" not in (run.out / "results.csv").read_text(encoding="utf-8-sig")


def test_the_map_threshold_marks_the_region(run, uint8_images):
    values = run.detector.predict(uint8_images[0]).anomaly_map
    threshold = float(np.quantile(values, 0.8))
    run("--explain", ",".join(PHRASES), "--map-threshold", threshold)
    expected = run.detector.predict(uint8_images[0]).explain(PHRASES, values >= threshold)
    found = lines(run.out / EXPLANATIONS_FILE)[0]["ranking"]
    assert found[0]["similarity"] == pytest.approx(expected[0].similarity, abs=1e-4)


def test_resume_keeps_rankings_and_makes_missing_ones(run, monkeypatch):
    run("--explain", "cracked,stained")
    file = run.out / EXPLANATIONS_FILE
    before = lines(file)
    before[0]["ranking"][0]["share"] = 0.125
    file.write_text("\n".join(json.dumps(row) for row in before[:2]) + "\n", encoding="utf-8")
    assert run("--explain", "cracked,stained", "--resume").exit_code == 3
    after = lines(file)
    assert after[:2] == before[:2]
    assert after[2]["phrase"] == before[2]["phrase"]
    refused = run("--explain", "cracked,torn", "--resume")
    assert refused.exit_code == 2
    assert "explain was" in refused.output


def test_a_new_run_without_phrases_leaves_no_old_rankings(run):
    run("--explain", "cracked")
    run()
    assert not (run.out / EXPLANATIONS_FILE).exists()
    assert (run.out / "results.jsonl").exists()


@pytest.mark.parametrize(("phrases", "message"), [("", "at least one"), ("cracked,cracked", "again")])
def test_impossible_phrases(run, phrases, message):
    refused = run("--explain", phrases)
    assert refused.exit_code == 2
    assert message in refused.output


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / EXPLANATIONS_FILE).write_text('{"path": "a.png"}\n', encoding="utf-8")
    with pytest.raises(DataError, match="line 1"):
        read_explanations(tmp_path)


def test_from_python(run):
    predict_folder(
        run.out.parent / "in",
        run.detector,
        PredictOptions(out=run.out, formats=(), explain=["stained"]),
    )
    assert {fit.share for fits in read_explanations(run.out).values() for fit in fits} == {1.0}

"""The page of an evaluation and `zsad report`: complete, self-contained, safe, and of bounded size."""

import base64
import dataclasses
import hashlib
import json
import re
import sys

import pytest
from PIL import Image
from typer.testing import CliRunner

from helpers.evaluation_examples import evaluation_result, run_result, write_example_folder
from helpers.html_page import Page
from zsad.cli import app
from zsad.errors import ConfigError, DataError, MissingExtraError
from zsad.evaluation.report.page import write_evaluation_report
from zsad.evaluation.report.reading import (
    EvaluationFolder,
    open_evaluation,
    read_curves,
    read_scores,
    thumbnail_url,
)
from zsad.evaluation.report.writing import checked_formats, write_report_files
from zsad.evaluation.results import WorstPicture, write_evaluation

EVIL = "\"><img src=x onerror=alert(1)><script>alert(2)</script>'"


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    """A results' folder with its page, drawn once."""
    folder = tmp_path_factory.mktemp("evaluation")
    write_example_folder(folder)
    write_evaluation_report([open_evaluation(folder)], folder)
    return folder


def page_of(folder):
    return Page((folder / "index.html").read_text(encoding="utf-8"))


def without_files(result, directory):
    """A page of runs that left no files beside results.json: quick to make, without figures of runs."""
    write_evaluation_report([EvaluationFolder(result, directory)], directory)
    return page_of(directory)


def test_every_run_is_there(example):
    page = page_of(example)
    runs = page.of("details", **{"class": "run panel"})
    assert [run["id"] for run in runs] == ["r0", "r1", "r2"]
    links = [a["href"] for a in page.of("a") if re.fullmatch(r"#r\d+", a["href"])]
    assert links == ["#r0", "#r1", "#r2"]
    page.assert_safe()
    text = " ".join(page.words)
    for piece in ("metal nut", "Missed:", "False alarms:", "adaclip needs --checkpoint", "2.14.1"):
        assert piece in text


def test_ids_are_unique_and_references_lead_somewhere(example):
    page = page_of(example)
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    targets = {a["href"][1:] for tag, a in page.tags if tag in ("a", "use") and a["href"].startswith("#")}
    text = (example / "index.html").read_text(encoding="utf-8")
    targets |= set(re.findall(r"url\(#([\w.-]+)\)", text))
    assert targets
    assert targets <= set(ids)


def test_nothing_comes_from_the_network(example):
    page = page_of(example)
    assert not [a for tag, a in page.tags if tag in ("link", "iframe", "object", "embed")]
    assert all(a["src"].startswith("data:image/") for a in page.of("img"))
    assert not [a for a in page.of("script") if "src" in a]
    text = (example / "index.html").read_text(encoding="utf-8")
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)
    assert "{{" not in text
    assert "{%" not in text


def test_the_policy_admits_the_script_of_the_page(example):
    text = (example / "index.html").read_text(encoding="utf-8")
    script = re.search(r"<script>(.*)</script>", text, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in text


def test_figures_have_names_and_take_the_pages_colour(example):
    page = page_of(example)
    figures = page.of("svg")
    # Five curves and the histograms of two runs; the medical run has no normal images; two comparisons.
    assert len(figures) == 6 + 6 + 4 + 2
    assert all(figure["role"] == "img" and figure["aria-label"] for figure in figures)
    text = (example / "index.html").read_text(encoding="utf-8")
    assert "currentColor" in text
    assert "#010203" not in text


def test_tables_are_for_screen_readers_too(example):
    page = page_of(example)
    assert len(page.of("table")) == 4
    assert {a.get("scope") for a in page.of("th")} == {"col", "row"}
    assert len(page.of("div", role="region")) == 4
    assert all(image["alt"] for image in page.of("img"))


def test_names_cannot_become_markup(tmp_path):
    run = run_result(
        categories={EVIL: (5, 5, True)}, dataset=EVIL, backbone=EVIL, auxiliary_data=EVIL, notes=(EVIL,),
        settings={EVIL: EVIL}, overlap=EVIL, split=EVIL,
    )  # fmt: skip
    worst = WorstPicture("false negative", f"data/{EVIL}.png", EVIL, EVIL, 0.1, 0.9, EVIL)
    rows = (dataclasses.replace(run.categories[0], failed=(f"{EVIL}: {EVIL}",)),)
    run = dataclasses.replace(run, worst=(worst,), categories=rows)
    result = evaluation_result(runs=(run, run_result("winclip", dataset=EVIL)), provenance={EVIL: EVIL})
    page = without_files(result, tmp_path)
    page.assert_safe()
    assert page.of("img") == []
    assert any(EVIL in words for words in page.words)


def test_figures_escape_names_too(tmp_path):
    curve = {"x": [0.0, 0.5, 1.0], "y": [0.0, 0.8, 1.0]}
    run = run_result(
        categories={EVIL: (5, 5, True)}, pictures_file="pictures.jsonl", curves_file="curves.json"
    )
    (tmp_path / "curves.json").write_text(json.dumps({"categories": {EVIL: {"image_roc": curve}}}))
    lines = [{"category": EVIL, "label": label, "score": 0.1 + label} for label in (0, 1)]
    (tmp_path / "pictures.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    page = without_files(evaluation_result(runs=(run,)), tmp_path)
    assert len(page.of("svg")) == 2
    page.assert_safe()
    assert page.of("img") == []


def test_paths_that_lead_out_of_the_folder_are_not_read(tmp_path):
    (tmp_path / "secret.jsonl").write_text('{"category": "bottle", "label": 1, "score": 0.5}\n')
    folder = tmp_path / "results"
    folder.mkdir()
    run = run_result(pictures_file="../secret.jsonl", curves_file=str(tmp_path / "secret.jsonl"))
    assert read_scores(folder, run) == {}
    assert read_curves(folder, run) == {}
    assert read_scores(tmp_path, dataclasses.replace(run, pictures_file="secret.jsonl")) == {
        "bottle": ([], [0.5])
    }


def test_damaged_files_of_a_run_leave_a_page_without_its_figures(tmp_path):
    run = run_result(pictures_file="pictures.jsonl", curves_file="curves.json")
    (tmp_path / "pictures.jsonl").write_text(
        '{"score"\n[1]\n{"category": "screw", "label": 0, "score": null}\n'
    )
    (tmp_path / "curves.json").write_text('{"categories": []}')
    worst = WorstPicture("false positive", "data/a.png", "screw", "good", 0.9, float("nan"), "pictures.jsonl")
    page = without_files(evaluation_result(runs=(dataclasses.replace(run, worst=(worst,)),)), tmp_path)
    assert page.of("svg") == []
    assert page.of("img") == []
    assert "0.9000" in page.words


def test_without_matplotlib_there_is_a_page_and_one_line_that_says_so(tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    write_example_folder(tmp_path)
    write_evaluation_report([open_evaluation(tmp_path)], tmp_path)
    page = page_of(tmp_path)
    assert page.of("svg") == []
    (line,) = [words for words in page.words if "zsad[figures]" in words]
    assert line.startswith("No figures: ")
    assert len(page.of("img")) > 0
    from zsad.evaluation.report.figures import histogram_figure

    with pytest.raises(MissingExtraError, match="figures"):
        histogram_figure({})


def test_several_evaluations_are_joined(tmp_path):
    folders = []
    for name, runs in (
        ("first", (run_result("winclip"),)),
        ("second", (run_result("musc"), run_result("winclip"))),
    ):
        write_evaluation(evaluation_result(runs=runs, failed_runs=()), tmp_path / name)
        folders.append(open_evaluation(tmp_path / name / "results.json"))
    write_evaluation_report(folders, tmp_path / "joined")
    page = page_of(tmp_path / "joined")
    assert len(page.of("details")) == 2  # the run that both have counts once
    assert str(tmp_path / "second") in " ".join(page.words)


def test_many_runs_make_a_page_of_bounded_size(tmp_path):
    Image.effect_noise((400, 300), 60).save(tmp_path / "map.png")
    small, large = (len(thumbnail_url(tmp_path, "map.png", side)) for side in (144, 224))
    assert 0 < small < large < 40_000
    runs = tuple(run_result(f"method_{i}", f"set_{j}") for i in range(3) for j in range(5))
    page = without_files(evaluation_result(runs=runs), tmp_path)
    assert len(page.of("details", **{"class": "run panel"})) == 15
    assert not [run for run in page.of("details") if "open" in run]
    assert (tmp_path / "index.html").stat().st_size < 400_000


def test_nothing_finished_is_refused(tmp_path):
    empty = EvaluationFolder(evaluation_result(runs=()), tmp_path)
    for write in (write_evaluation_report, write_report_files):
        with pytest.raises(DataError, match="none of these evaluations has a finished run"):
            write([empty], tmp_path)
    with pytest.raises(ConfigError, match="did you mean 'latex'"):
        checked_formats(["latx"])


def run_command(*arguments):
    return CliRunner().invoke(app, ["report", *map(str, arguments)])


def test_command_writes_every_format(tmp_path, example):
    out = tmp_path / "out"
    found = run_command(
        example, "--out", out, "--format", "html,markdown,csv,latex", "--metrics", "image_auroc"
    )
    assert found.exit_code == 0, found.output
    names = ["index.html", "tables.md", "overview.csv", "categories.csv", "tables.tex"]
    table, *files = found.stdout.partition(str(out))
    assert "MVTec AD" in table
    assert "".join(files).split() == [str(out / name) for name in names]
    assert (out / "categories.csv").read_text(encoding="utf-8").count("metal nut") == 2
    assert "pixel" not in (out / "overview.csv").read_text(encoding="utf-8")
    assert (out / "tables.tex").read_text(encoding="utf-8").count("\\begin{tabular}") == 4


def test_command_refuses_in_one_line(tmp_path, example):
    for arguments, piece in (
        ([tmp_path / "absent"], "cannot be read"),
        ([example, "--format", "pdf"], "unknown report format 'pdf'"),
        ([example, "--metrics", "auroc"], "unknown metric 'auroc'"),
    ):
        found = run_command(*arguments)
        assert found.exit_code in (2, 3, 1)
        assert piece in found.stderr
        assert "Traceback" not in found.stderr


def test_page_of_a_prediction_run_is_rebuilt(tmp_path):
    import zsad
    from zsad.prediction.options import PredictOptions
    from zsad.prediction.run import predict_folder

    image = tmp_path / "in" / "a.png"
    image.parent.mkdir()
    Image.new("RGB", (16, 16), "grey").save(image)
    out = tmp_path / "out"
    page = predict_folder(image.parent, zsad.load("clip_ac"), PredictOptions(out=out)).page
    before = page.read_text(encoding="utf-8")
    page.unlink()
    found = run_command(out)
    assert found.exit_code == 0, found.output
    after = page.read_text(encoding="utf-8")
    when = re.compile(r"\d+ \w+ \d{4}, \d\d:\d\d")
    assert when.sub("", after) == when.sub("", before)
    (out / "settings.json").unlink()
    refused = run_command(out)
    assert refused.exit_code != 0
    assert "settings.json is missing" in refused.stderr


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"category": ["screw"], "label": 0, "score": 1}', "line 2: category must be a text"),
        ('{"category": "screw", "label": 7, "score": 1}', "line 2: label must be 0 or 1, got 7"),
        (
            '{"category": "screw", "label": 0, "score": true}',
            "line 2: score must be a number or None, got True",
        ),
        ('{"category": "screw", "label": 0, "score": NaN}', "line 2: score must be a number, got nan"),
        ('{"category": "screw", "label": 0}', "line 2: score is missing"),
        ("[" * 5000, "line 2: is nested deeper than 64 levels"),
    ],
)
def test_a_damaged_line_is_left_out_and_named(tmp_path, line, message):
    good = '{"category": "screw", "label": 1, "score": 0.5}\n'
    (tmp_path / "pictures.jsonl").write_text(f"{good}{line}\n{good}")
    run = run_result(categories={"screw": (1, 1, True)}, pictures_file="pictures.jsonl")
    with pytest.warns(UserWarning, match=re.escape(message)):
        assert read_scores(tmp_path, run) == {"screw": ([], [0.5, 0.5])}


@pytest.mark.parametrize(
    ("curve", "message"),
    [
        ({"x": [0, "a"], "y": [0, 1]}, "categories.screw.image_roc.x[1] must be a number"),
        (
            {"x": [0, 2], "y": [0, 1]},
            "categories.screw.image_roc.x[1] must be a number at least 0 and at most 1",
        ),
        ({"x": [0], "y": [0, 1]}, "categories.screw.image_roc has 1 x and 2 y"),
        ([], "categories.screw.image_roc must be a mapping"),
    ],
)
def test_damaged_curves_are_left_out_and_named(tmp_path, curve, message):
    (tmp_path / "curves.json").write_text(json.dumps({"categories": {"screw": {"image_roc": curve}}}))
    with pytest.warns(UserWarning, match=re.escape(message)):
        assert read_curves(tmp_path, run_result(curves_file="curves.json")) == {}

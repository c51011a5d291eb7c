"""results.json: what is written is what is read, and what cannot be read is refused in one line."""

import json
import math

import pytest

from helpers.evaluation_examples import evaluation_result, run_result, write_example_folder
from zsad.errors import DataError
from zsad.evaluation.results import read_evaluation, write_evaluation
from zsad.files.plain import to_plain


def test_round_trip(tmp_path):
    written = write_example_folder(tmp_path)
    for place in (tmp_path, tmp_path / "results.json"):
        found = read_evaluation(place)
        assert to_plain(found) == to_plain(written)
        assert found.runs[0] == written.runs[0]  # no NaN in it, so the dataclasses are equal too
        assert found.failed_runs == written.failed_runs
    assert math.isnan(found.runs[2].mean["image_auroc"])
    assert found.runs[2].categories[0].metrics["pixel_auroc"] == written.runs[2].mean["pixel_auroc"]


def test_the_file_is_strict_json_with_null_for_undefined(tmp_path):
    path = write_evaluation(evaluation_result(), tmp_path)
    content = json.loads(path.read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert content["schema"] == 1
    assert content["runs"][2]["mean"]["image_auroc"] is None


def test_undecodable_names_survive(tmp_path):
    strange = "data/caf\udce9.png"
    write_evaluation(evaluation_result(runs=(run_result(notes=(strange,)),)), tmp_path)
    assert read_evaluation(tmp_path).runs[0].notes == (strange,)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        ("{", "is not JSON"),
        ("[]", "expected a JSON object, got list"),
        ('{"schema": 2}', "is of schema 2, this zsad reads 1"),
        ('{"schema": 1, "runs": [{}], "provenance": {}}', "is damaged or no evaluation"),
    ],
)
def test_other_files_are_refused(tmp_path, content, message):
    if content is not None:
        (tmp_path / "results.json").write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=message) as caught:
        read_evaluation(tmp_path)
    assert "\n" not in str(caught.value)

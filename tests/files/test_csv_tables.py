"""CSV files for spreadsheets."""

import csv
import io

import numpy as np
import pytest

from zsad.errors import ConfigError
from zsad.files.csv_tables import checked_delimiter, csv_text, safe_cell, write_csv_file


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n", "＝", "＠"])  # noqa: RUF001
def test_no_text_runs_as_a_formula(start):
    assert safe_cell(f"{start}1+1.png") == f"'{start}1+1.png"


@pytest.mark.parametrize(
    ("value", "cell"),
    [(-0.5, "-0.5"), (np.float64(-0.25), "-0.25"), (-3, "-3"), (None, ""), (False, "false"), ("a=b", "a=b")],
)
def test_numbers_and_other_texts_stay(value, cell):
    assert safe_cell(value) == cell


@pytest.mark.parametrize(
    ("typed", "delimiter"), [(";", ";"), ("tab", "\t"), ("TAB", "\t"), ("\\t", "\t"), ("comma", ",")]
)
def test_delimiters(typed, delimiter):
    assert checked_delimiter(typed) == delimiter
    text = csv_text(["path", "score"], [{"path": f"a{delimiter}b", "score": 0.5}], delimiter)
    assert list(csv.reader(io.StringIO(text), delimiter=delimiter))[1] == [f"a{delimiter}b", "0.5"]


@pytest.mark.parametrize("typed", ["", ";;", "x", '"'])
def test_other_delimiters_are_refused(typed):
    with pytest.raises(ConfigError, match=r"must be one of , ; \|"):
        checked_delimiter(typed)


def test_excel_sees_the_encoding(tmp_path):
    path = write_csv_file(tmp_path / "a.csv", "Prüfling\udcff\n")
    assert path.read_bytes().startswith(b"\xef\xbb\xbfPr\xc3\xbcfling")

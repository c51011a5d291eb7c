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


NASTY = [
    "a,=1+1.png",
    'a";"=1+1.png',
    'x"=1',
    "a;@SUM(1).png",
    "a|-2.png",
    "a\t+3.png",
    "a\r=4.png",
    " =5.png",
    "\u3000=6",
]


@pytest.mark.parametrize("name", NASTY)
@pytest.mark.parametrize("written", [",", ";", "|", "\t"])
@pytest.mark.parametrize("read", [",", ";", "|", "\t"])
def test_no_cell_is_a_formula_whatever_delimiter_the_reader_expects(name, written, read):
    text = csv_text([name, "score"], [{name: name, "score": -0.5}] * 2, written)
    cells = [cell for row in csv.reader(io.StringIO(text, newline=""), delimiter=read) for cell in row]
    assert not [cell for cell in cells if cell.strip().startswith(("=", "+", "@", "-2"))]
    assert "-0.5" in cells or read != written


@pytest.mark.parametrize(
    "name", ["a-b,c.png", "a, -b.png", "x=1;y.png", "5 + 3.png", "/in/-a.png", "it's.png"]
)
def test_harmless_names_stay(name):
    assert safe_cell(name) == name


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

"""JSON lists of other programs and damaged ones: read where they are clear, otherwise named by field."""

import json
from pathlib import Path

import pytest

from zsad.data.layouts.lists import read_head_ct, read_list, rows_of_file
from zsad.data.layouts.opening import Opening
from zsad.errors import DataError


def spaced(name):
    return name


@pytest.mark.parametrize("name", ["list.json", "list.jsonl", "LIST.NDJSON"])
@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"path": ["a.png"], "label": 0}', "path must be a text or a number, got ['a.png']"),
        ('{"path": "a.png", "label": {"is": 0}}', "label must be a text or a number, got {'is': 0}"),
        ('{"path": "a.png", "label": Infinity}', "label must be a number, got inf"),
        ('{"path": "a.png", "label": 0, "path": "b.png"}', "'path' stands twice in one object"),
        (r'{"path": "a\u0000.png"}', "path must be a text without NUL and broken characters"),
        (r'{"path": "\ud800.png"}', "path must be a text without NUL and broken characters"),
        ('{"path": ' + "[" * 5000 + "]" * 5000 + "}", "is nested deeper than 64 levels"),
        ('{"path": ' + "9" * 5000 + "}", "is not JSON (Exceeds the limit"),
        ('{"path": "a.png"', "is not JSON ("),
        (
            '{"path": "a.png", "split": "' + "x" * 9999 + '"}',
            "'split' must be a text of at most 1000",
        ),
    ],
)
def test_a_damaged_list_is_named_by_file_and_field(tmp_path, name, row, message):
    path = tmp_path / name
    path.write_text(f"[{row}]" if name.endswith(".json") else f"{row}\n")
    with pytest.raises(DataError) as caught:
        rows_of_file(path)
    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < len(str(path)) + 300


def test_nan_of_an_exported_table_means_nothing(tmp_path):
    for name in ("a.png", "b.png", "m.png"):
        (tmp_path / name).touch()
    rows = [{"path": "a.png", "mask": float("nan")}, {"path": "b.png", "mask": "m.png", "size": [3, 4]}]
    (tmp_path / "list.json").write_text(json.dumps(rows))
    found = read_list(tmp_path / "list.json", Opening("test"))
    assert [(sample.path.name, sample.label) for sample in found.samples] == [("a.png", 0), ("b.png", 1)]


def test_labels_of_head_ct_that_are_damaged(tmp_path):
    (tmp_path / "head_ct").mkdir()
    (tmp_path / "labels.csv").write_text("id, hemorrhage\n²,1\n7,1\n", encoding="utf-8")
    found = read_head_ct(tmp_path, Opening("test"))
    assert [Path(line.split(" is not there")[0]).name for line in found.problems] == [
        "labels.csv, line 2: image ²",
        "labels.csv, line 3: image 007.png",
    ]
    (tmp_path / "labels.csv").write_bytes(b"id, hemorrhage\n\xff,1\n")
    with pytest.raises(DataError, match="is not UTF-8 text"):
        read_head_ct(tmp_path, Opening("test"))

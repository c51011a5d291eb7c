"""Records, their files, and taking a run up again."""

import csv
import errno
import json
import os
from pathlib import Path

import pytest

from zsad.errors import ConfigError, DataError, one_line
from zsad.files.atomic import atomic_file
from zsad.files.run_settings import check_same_settings, read_settings, write_settings
from zsad.prediction import records as results
from zsad.prediction.layout import RunLayout, common_folder
from zsad.prediction.records import COLUMNS, RESULTS_FILE, ResultRecord, ResultsWriter, read_results


def record(path="a.png", score=0.5, error=None):
    return ResultRecord(path, score, None, None, 4, 3, 0.01, "winclip", "tiny", error)


def failed(path="bad.png"):
    return record(path, None, "cannot be read")


def test_a_line_has_exactly_the_promised_fields():
    fields = list(json.loads(record().to_json()))
    assert fields == [
        *("path", "score", "is_anomalous", "threshold", "width", "height"),
        *("seconds", "method", "backbone", "error"),
    ]


@pytest.mark.parametrize(
    "path", ["plain.png", "Prüfling 件.png", 'quote".png', "line\nbreak.png", "\udcff.png"]
)
def test_names_survive_the_round_trip(path, tmp_path):
    with ResultsWriter(tmp_path) as writer:
        writer.add(record(path))
    assert [r.path for r in read_results(tmp_path / "results.jsonl")] == [path]
    assert len((tmp_path / "results.jsonl").read_bytes().splitlines()) == 1
    assert (tmp_path / "results.csv").stat().st_size > 0


def test_readable_names_stay_readable():
    assert "Prüfling" in record("Prüfling.png").to_json()


def test_lines_are_there_at_once_and_ordered_at_the_end(tmp_path):
    with ResultsWriter(tmp_path, order=["a", "b", "c"]) as writer:
        writer.add(record("c"))
        assert [r.path for r in read_results(tmp_path / "results.jsonl")] == ["c"]
        writer.add(failed("a"))
        writer.add(record("b"))
    assert [r.path for r in read_results(tmp_path / "results.jsonl")] == ["a", "b", "c"]


def test_csv_has_the_same_columns_and_values(tmp_path):
    with ResultsWriter(tmp_path) as writer:
        writer.add(ResultRecord("a,b.png", 0.123456789, True, 0.1, 4, 3, 0.01, "winclip", "tiny"))
        writer.add(failed())
    with (tmp_path / "results.csv").open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    assert (rows[0]["path"], float(rows[0]["score"]), rows[0]["is_anomalous"]) == (
        "a,b.png",
        0.123456789,
        "true",
    )
    assert (rows[1]["score"], rows[1]["error"]) == ("", "cannot be read")


def test_an_interrupted_run_leaves_whole_files(tmp_path):
    with pytest.raises(KeyboardInterrupt), ResultsWriter(tmp_path) as writer:  # noqa: PT012
        writer.add(record())
        raise KeyboardInterrupt
    assert len(read_results(tmp_path / "results.jsonl")) == 1
    assert (tmp_path / "results.csv").exists()


def test_kept_records_come_first(tmp_path):
    with ResultsWriter(tmp_path, [record("old", 0.1)], ["new"]) as writer:
        writer.add(record("new"))
    assert [r.path for r in read_results(tmp_path / "results.jsonl")] == ["old", "new"]


@pytest.mark.parametrize("ending", [b'{"path": "b.pn', b'{"path": "b.pn\n', b"\x00\x00\x00"])
def test_a_cut_last_line_is_passed_over(tmp_path, ending):
    file = tmp_path / "results.jsonl"
    file.write_bytes(record().to_json().encode() + b"\n" + ending)
    assert [r.path for r in read_results(file)] == ["a.png"]


def test_a_damaged_line_in_the_middle_is_named(tmp_path):
    file = tmp_path / "results.jsonl"
    file.write_text(f'{record().to_json()}\n{{"path": 1}}\n{record("b").to_json()}\n')
    with pytest.raises(DataError, match="line 2"):
        read_results(file)


def test_the_last_record_of_a_path_counts(tmp_path):
    file = tmp_path / "results.jsonl"
    file.write_text(f"{failed('a').to_json()}\n{record('a').to_json()}\n")
    assert [r.error for r in read_results(file)] == [None]
    assert read_results(tmp_path / "none.jsonl") == []


def test_settings_round_trip(tmp_path):
    assert read_settings(tmp_path) is None
    write_settings(tmp_path, {"method": "winclip", "scales": (2, 3)})
    earlier = read_settings(tmp_path)
    check_same_settings(tmp_path, earlier, {"method": "winclip", "scales": (2, 3)})
    with pytest.raises(ConfigError, match=r"method was 'winclip' and is now 'musc'.*--resume"):
        check_same_settings(tmp_path, earlier, {"method": "musc", "scales": [2, 3]})
    (tmp_path / "settings.json").write_text("{")
    with pytest.raises(DataError, match="damaged"):
        read_settings(tmp_path)


def test_atomic_file_keeps_the_old_file_after_an_error(tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(RuntimeError), atomic_file(target) as file:  # noqa: PT012
        file.write(b"new")
        raise RuntimeError
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_atomic_file_names_the_file_that_was_asked_for(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file") as caught, atomic_file(tmp_path / "file" / "a.txt"):
        pass
    assert ".tmp" not in str(caught.value)
    with pytest.raises(OSError, match=r"a\.txt") as caught, atomic_file(tmp_path / "a.txt"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert not (tmp_path / "a.txt").exists()


def test_atomic_file_has_the_usual_permissions(tmp_path):
    with atomic_file(tmp_path / "a"):
        pass
    (tmp_path / "b").touch()
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_a_full_disk_leaves_what_was_written(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space"), ResultsWriter(tmp_path) as writer:  # noqa: PT012
        writer.add(record())
        monkeypatch.setattr(results, "write_jsonl", full)
        raise OSError(errno.ENOSPC, "No space left on device")
    assert [r.path for r in read_results(tmp_path / "results.jsonl")] == ["a.png"]


def test_one_line():
    assert one_line(ValueError("two\nlines\x1b[31m")) == "two lines [31m"
    assert one_line(MemoryError()) == "MemoryError"
    assert one_line(OSError(28, "No space left on device", "/x")) == "No space left on device: /x"


def layout_names(*paths):
    layout = RunLayout.plan(Path("out"), [str(path) for path in paths])
    return [layout.file(str(path), "overlay").as_posix() for path in paths]


def test_folders_are_mirrored():
    assert layout_names("in/a/1.png", "in/b/1.png") == [
        "out/overlays/a/1_overlay.jpg",
        "out/overlays/b/1_overlay.jpg",
    ]
    assert layout_names("in/a/1.png") == ["out/overlays/1_overlay.jpg"]


def test_equal_stems_get_their_suffix():
    assert layout_names("in/1.png", "in/1.JPG", "in/2.png") == [
        "out/overlays/1_png_overlay.jpg",
        "out/overlays/1_JPG_overlay.jpg",
        "out/overlays/2_overlay.jpg",
    ]


def test_names_stay_apart_where_letter_case_does_not_count():
    names = layout_names("in/a.png", "in/A.png", "in/a_png.bmp", "in/a.PNG")
    assert len({name.casefold() for name in names}) == 4


def test_long_names_are_shortened():
    first, second = layout_names("in/" + "é" * 120 + "1.png", "in/" + "é" * 120 + "2.png")
    assert first != second
    assert max(len(os.fsencode(Path(name).name)) for name in (first, second)) < 255


def test_a_resumed_run_keeps_its_names():
    layout = RunLayout.plan(Path("out"), ["in/b/1.png"], root=os.path.abspath("in"))
    assert layout.file("in/b/1.png", "map").as_posix() == "out/maps/b/1_map.png"
    moved = RunLayout.plan(Path("out"), ["in/b/1.png", "other/1.png"], root=os.path.abspath("in"))
    assert moved.root == os.getcwd()
    assert common_folder([]) == ""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"width": "<script>alert(1)</script>"},
            "width must be a whole number at least 1 or None, got",
        ),
        ({"height": 0}, "height must be a whole number at least 1 or None, got 0"),
        ({"width": True}, "width must be"),
        ({"seconds": -1}, "seconds must be a number at least 0, got -1"),
        ({"score": "0.5"}, "score must be a number at least -1e+06 and at most 1e+06 or None, got '0.5'"),
        ({"score": float("nan")}, "score must be a number, got nan"),
        ({"path": ["a.png"]}, "path must be a text"),
        ({"path": "a\0.png"}, "path must be a text without NUL"),
        ({"p_value": 1.5}, "p_value must be a number at least 0 and at most 1"),
        ({"error": "why"}, "either score or error must be null"),
        ({"colour": 1}, "colour is unknown"),
    ],
)
@pytest.mark.parametrize("place", ["first", "last"])
def test_a_tampered_line_is_refused_by_file_line_and_field(tmp_path, change, message, place):
    good = ResultRecord("a.png", 0.25, None, None, 8, 8, 0.01, "winclip", "tiny").to_json()
    bad = json.dumps({**json.loads(good), **change})
    lines = [bad, good] if place == "first" else [good, bad]
    (tmp_path / RESULTS_FILE).write_text("\n".join(lines) + "\n")
    with pytest.raises(DataError) as caught:
        read_results(tmp_path / RESULTS_FILE)
    assert f"line {lines.index(bad) + 1}: " in str(caught.value)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_line_that_is_not_utf_8_is_no_other_path(tmp_path):
    good = ResultRecord("a.png", 0.25, None, None, 8, 8, 0.01, "winclip", "tiny").to_json().encode()
    (tmp_path / RESULTS_FILE).write_bytes(good.replace(b"a.png", b"\xff.png") + b"\n" + good[:20])
    with pytest.raises(DataError, match="line 1: "):
        read_results(tmp_path / RESULTS_FILE)


def test_only_the_setting_that_differs_is_shown(tmp_path):
    earlier = {"method": "winclip", "config": {"sigma": 4, "scales": [2, 3], "deep": {"a": 1}}}
    check_same_settings(tmp_path, earlier, {**earlier, "config": {**earlier["config"], "scales": (2, 3)}})
    now = {"method": "winclip", "config": {"sigma": 8, "scales": (2, 3), "deep": {}}}
    with pytest.raises(ConfigError) as caught:
        check_same_settings(tmp_path, earlier, now)
    assert "config.sigma was 4 and is now 8" in str(caught.value)
    assert "config.deep.a was 1 and is now None" in str(caught.value)
    assert "scales" not in str(caught.value)

"""What `zsad predict --watch` prints for each image."""

from zsad.cli.watching import run_watch
from zsad.prediction import watching
from zsad.prediction.options import PredictOptions
from zsad.prediction.records import ResultRecord


def record(path, **fields):
    values = {"score": None, "is_anomalous": None, "threshold": 0.5, "width": 4, "height": 4, "error": None}
    return ResultRecord(path, **{**values, **fields}, seconds=0.1, method="auto", backbone="tiny")


def test_a_file_that_failed_is_printed_with_its_reason(monkeypatch, capsys, tmp_path):
    found = [
        record("in/a.png", score=0.25, is_anomalous=False),
        record("in/b.png", error="the file is empty\x1b[2J"),
    ]

    def watch_folders(folders, load, options, report):
        for each in found:
            report(each)

    monkeypatch.setattr(watching, "watch_folders", watch_folders)
    run_watch(["in"], None, PredictOptions(out=tmp_path), as_json=False, quiet=False)
    assert capsys.readouterr().out.splitlines() == [
        "0.2500  normal     in/a.png",
        "        failed     in/b.png: the file is empty\\x1b[2J",
    ]

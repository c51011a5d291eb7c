"""The commands end to end, in one process, with a detector that knows every answer."""

import csv
import json
import os
import subprocess
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import typer
from PIL import Image
from typer.testing import CliRunner

import zsad
from zsad.cli import app, doctor
from zsad.cli.doctor import Finding, human_bytes
from zsad.cli.options import parse_setting
from zsad.detector.decision import Decision
from zsad.detector.predicting import Predicts
from zsad.errors import ConfigError, ZsadError
from zsad.images.looking import Looking
from zsad.images.preparing import Preparation
from zsad.images.saving import read_map
from zsad.methods import _registry as registry
from zsad.prediction.options import PredictOptions
from zsad.prediction.run import predict_folder
from zsad.types import Prediction, WeightRecord

FIELDS = [
    "path",
    "score",
    "is_anomalous",
    "threshold",
    "width",
    "height",
    "seconds",
    "method",
    "backbone",
    "error",
]


@dataclass(frozen=True)
class FakeConfig:
    sigma: float = 4.0


class FakeDetector(Predicts):
    """The score is the image's mean brightness and the map its red channel."""

    method_name, backbone_name = "fake", "toy"
    scores_jointly = False

    def __init__(self, clip, joint=False):
        self.backbone = clip
        self.record = WeightRecord("toy", "tests", 32, (0, 0, 0), (1, 1, 1), "gelu", "none")
        self.looking = Looking(Preparation(32, self.record.mean, (1.0, 1.0, 1.0)))
        self.decision = Decision()
        self.map_range = (0.0, 1.0)
        self.learned = {"prompt": torch.zeros(3)}
        self.method = SimpleNamespace(
            INFO=SimpleNamespace(name="fake", scores_batch_jointly=joint),
            config=FakeConfig(),
            learned_state=lambda: self.learned,
            MOST_COMPANIONS=0,
        )
        self.scores_jointly, self.about_companions = joint, ""
        self.calls = []
        self.before_batch = lambda images: None

    def scoring_settings(self):
        return {"method": "fake", "backbone": "toy", "weights": repr(self.learned)}

    def predict(self, images, classes=None, batch_size=None):
        if not isinstance(images, list):
            return self.predict([images])[0]
        self.before_batch(images)
        self.calls.append((len(images), classes))
        pixels = [np.asarray(image) for image in images]
        thresholds = {"threshold": self.threshold, "map_threshold": self.map_threshold}
        return [
            Prediction(float(p.mean()) / 255, (p[..., 0] / 255).astype(np.float32), p, **thresholds)
            for p in pixels
        ]


@pytest.fixture
def detector(small_clip):
    return FakeDetector(small_clip)


@pytest.fixture
def run(detector, monkeypatch):
    """Invokes the command line, which loads the fake detector; `run.loads`: the arguments of `zsad.load`."""
    loads = []

    def load(**arguments):
        loads.append(arguments)
        return detector

    monkeypatch.setattr(zsad, "load", load, raising=False)

    def invoke(*arguments):
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    invoke.loads = loads
    return invoke


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Images of known brightness in two folders, with one stem used three times."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    for name, level in (("a/1.png", 51), ("a/2.png", 204), ("b/1.png", 102), ("b/1.jpg", 153)):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (12, 8), (level, level, level)).save(path)
    return tmp_path


def records(out="zsad-results"):
    return [json.loads(line) for line in (Path(out) / "results.jsonl").read_text().splitlines()]


def scores(out="zsad-results"):
    return {record["path"]: record["score"] and round(record["score"], 2) for record in records(out)}


def test_a_folder(run, folder, detector):
    result = run("predict", "in")
    assert result.exit_code == 0, result.output
    rows = records()
    assert [list(row) for row in rows] == [FIELDS] * 4
    assert scores() == {"in/a/1.png": 0.2, "in/a/2.png": 0.8, "in/b/1.jpg": 0.6, "in/b/1.png": 0.4}
    assert rows[0] | {"seconds": 0, "score": 0} == {
        "path": "in/a/1.png", "score": 0, "is_anomalous": None, "threshold": None, "width": 12, "height": 8,
        "seconds": 0, "method": "fake", "backbone": "toy", "error": None,
    }  # fmt: skip
    assert all(0 < row["seconds"] < 10 for row in rows)
    out = folder / "zsad-results"
    names = ["a/1_{}", "a/2_{}", "b/1_jpg_{}", "b/1_png_{}"]
    assert all((out / "overlays" / name.format("overlay.jpg")).exists() for name in names)
    assert all((out / "maps" / name.format("map.png")).exists() for name in names)
    assert Image.open(out / "overlays" / "a" / "1_overlay.jpg").size == (12, 8)
    assert read_map(out / "maps" / "a" / "2_map.png") == pytest.approx(np.full((8, 12), 0.8), abs=1e-4)
    with (out / "results.csv").open(newline="", encoding="utf-8-sig") as file:
        assert [row["path"] for row in csv.DictReader(file)] == [row["path"] for row in rows]
    page = (out / "index.html").read_text()
    assert page.index("in/a/2.png") < page.index("in/b/1.jpg") < page.index("in/a/1.png")
    assert detector.calls == [(4, None)]
    assert result.stdout.index("in/a/2.png") < result.stdout.index("in/b/1.jpg")
    assert "4 images scored" in result.stdout
    assert "index.html" in result.stdout


def test_options_reach_the_library(run, folder, detector):
    result = run(
        "predict", "in/a", "-m", "winclip", "-b", "toy", "--checkpoint", "w.safetensors", "-c", "metal nut",
        "--out", "elsewhere", "--batch-size", 1, "--device", "cpu", "--precision", "fp32", "--image-size", 64,
        "--set", "sigma=8", "--set", "features_list=[1,2]", "--threshold", 0.5,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert run.loads == [
        {
            "method": "winclip", "backbone": "toy", "checkpoint": "w.safetensors", "image_size": 64,
            "device": "cpu", "precision": "fp32", "bits": None, "references": None, "calibration": None,
            "roi": None, "tile": None, "augment_references": False,
            "sigma": 8, "features_list": [1, 2],
        }
    ]  # fmt: skip
    assert detector.calls == [(1, "metal nut"), (1, "metal nut")]
    assert [(row["threshold"], row["is_anomalous"]) for row in records("elsewhere")] == [
        (0.5, False),
        (0.5, True),
    ]
    assert "1 anomalous" in result.stdout


def test_only_what_is_asked_for_is_written(run, folder):
    assert run("predict", "in/a", "--format", "npy,contour,mask", "--map-threshold", 0.5).exit_code == 0
    files = sorted(p.relative_to("zsad-results").as_posix() for p in Path("zsad-results").rglob("1_*"))
    assert files == ["contours/1_contour.jpg", "maps/1_map.npy", "masks/1_mask.png"]
    assert not np.asarray(Image.open("zsad-results/masks/1_mask.png")).any()
    assert np.asarray(Image.open("zsad-results/masks/2_mask.png")).all()


def test_masks_come_with_a_map_threshold(run, folder):
    assert run("predict", "in/a", "--map-threshold", 0.5).exit_code == 0
    assert Path("zsad-results/masks/1_mask.png").exists()
    assert Path("zsad-results/overlays/1_overlay.jpg").exists()


def test_a_calibrated_detector_decides(run, folder, detector):
    detector.decision = Decision(0.7, 0.7)
    assert run("predict", "in").exit_code == 0
    assert [row["path"] for row in records() if row["is_anomalous"]] == ["in/a/2.png"]
    assert all(row["threshold"] == 0.7 for row in records())
    assert Path("zsad-results/masks/a/2_mask.png").exists()


def test_quiet_and_json(run, folder):
    assert run("predict", "in", "--quiet").stdout == ""
    lines = run("predict", "in", "--json").stdout.splitlines()
    assert [json.loads(line)["path"] for line in lines] == [row["path"] for row in records()]


def test_sub_folders_can_be_left_out(run, folder):
    Image.new("RGB", (4, 4)).save("in/top.png")
    assert run("predict", "in", "--no-recursive").exit_code == 0
    assert list(scores()) == ["in/top.png"]


def test_results_inside_the_input_are_not_scored(run, folder):
    assert run("predict", ".", "--out", "in/results").exit_code == 0
    assert run("predict", ".", "--out", "in/results").exit_code == 0
    assert len(records("in/results")) == 4


def test_bad_files_are_reported_and_the_others_done(run, folder):
    Path("in/a/0.png").write_bytes(b"")
    result = run("predict", "in", "gone.png")
    assert result.exit_code == 3
    failed = {row["path"]: row["error"] for row in records() if row["error"]}
    assert set(failed) == {"in/a/0.png", "gone.png"}
    assert "empty" in failed["in/a/0.png"]
    assert sum(score is not None for score in scores().values()) == 4
    assert "failed: in/a/0.png" in result.stderr
    assert "2 failed" in result.stdout
    assert "2 files could not be scored" in Path("zsad-results/index.html").read_text()


def test_an_image_that_the_network_cannot_take_spares_its_batch(run, folder, detector):
    def refuse(images):
        if any(np.asarray(image).max() == 204 for image in images):
            raise RuntimeError("out of\nmemory")

    detector.before_batch = refuse
    assert run("predict", "in").exit_code == 3
    assert {row["path"]: row["error"] for row in records() if row["error"]} == {"in/a/2.png": "out of memory"}


def test_values_that_are_not_finite_are_an_error(run, folder, detector, monkeypatch):
    whole = detector.predict

    def broken(images, **options):
        first, *others = whole(images, **options)
        return [Prediction(float("nan"), first.anomaly_map, first.image), *others]

    monkeypatch.setattr(detector, "predict", broken)
    assert run("predict", "in").exit_code == 3
    assert [row["path"] for row in records() if "not finite" in (row["error"] or "")] == ["in/a/1.png"]


def test_an_argument_that_no_image_can_satisfy_stops_the_run(run, folder, detector):
    def refuse(images):
        raise ConfigError("the class name is too long")

    detector.before_batch = refuse
    result = run("predict", "in")
    assert (result.exit_code, result.stderr.strip()) == (2, "error: the class name is too long")


def test_resume_does_only_what_is_missing(run, folder, detector):
    Path("in/a/0.png").write_bytes(b"")
    run("predict", "in")
    first = records()
    detector.calls.clear()
    Image.new("RGB", (5, 5), (255, 255, 255)).save("in/a/0.png")
    Image.new("RGB", (5, 5)).save("in/b/new.png")
    Path("zsad-results/overlays/a/2_overlay.jpg").unlink()
    Image.new("RGB", (5, 5), (9, 9, 9)).save("in/b/1.png")
    result = run("predict", "in", "--resume")
    assert result.exit_code == 0
    assert sum(count for count, _ in detector.calls) == 4  # failed, new, output lost, changed
    assert "2 from an earlier run" in result.stdout
    kept = [row for row in first if row["path"] in ("in/a/1.png", "in/b/1.jpg")]
    assert [row for row in records() if row["path"] in ("in/a/1.png", "in/b/1.jpg")] == kept
    assert [row["path"] for row in records()] == [
        f"in/{n}" for n in ("a/0.png", "a/1.png", "a/2.png", "b/1.jpg", "b/1.png", "b/new.png")
    ]


def test_resume_after_a_crash(run, folder, detector):
    """A process that was killed leaves appended lines, the last one perhaps cut, and no page."""
    run("predict", "in")
    results = Path("zsad-results/results.jsonl")
    lines = results.read_text().splitlines(keepends=True)
    results.write_text("".join(lines[:2]) + lines[2][:20])
    Path("zsad-results/index.html").unlink()
    detector.calls.clear()
    assert run("predict", "in", "--resume").exit_code == 0
    assert detector.calls == [(2, None)]
    assert len(records()) == 4
    assert Path("zsad-results/index.html").exists()


def test_resume_keeps_images_that_are_not_given_again(run, folder):
    run("predict", "in/a")
    assert run("predict", "in/b", "--resume").exit_code == 0
    assert len(records()) == 4
    page = Path("zsad-results/index.html").read_text()
    assert all(name in page for name in ("in/a/1.png", "in/b/1.png"))


def test_without_resume_a_run_starts_over(run, folder):
    run("predict", "in/a")
    run("predict", "in/b")
    assert all(path.startswith("in/b") for path in scores())


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (["--threshold", 0.5], "threshold was None and is now 0.5"),
        (["-c", "screw"], "class_name was None and is now 'screw'"),
        (["--format", "npy"], "formats was"),
    ],
)
def test_resume_refuses_other_settings(run, folder, change, named):
    run("predict", "in")
    before = records()
    result = run("predict", "in", "--resume", *change)
    assert result.exit_code == 2
    assert named in result.stderr
    assert records() == before


def test_resume_notices_other_weights(run, folder, detector):
    run("predict", "in")
    detector.learned = {"prompt": torch.ones(3)}
    result = run("predict", "in", "--resume")
    assert result.exit_code == 2
    assert "weights was" in result.stderr


def test_a_method_that_scores_a_batch_together_gets_all_images(small_clip, folder):
    detector = FakeDetector(small_clip, joint=True)
    predict_folder("in", detector, PredictOptions(out="out", batch_size=2))
    assert detector.calls == [(4, None)]
    with pytest.raises(ConfigError, match="all images together"):
        predict_folder("in", detector, PredictOptions(out="out", resume=True))


def test_interruption_leaves_valid_files(run, folder, detector):
    def interrupt(images):
        if len(detector.calls) == 2:
            raise KeyboardInterrupt

    detector.before_batch = interrupt
    result = run("predict", "in", "--batch-size", 1)
    assert result.exit_code == 130
    assert "Traceback" not in result.output
    assert result.stderr.strip().count("\n") == 0
    assert "--resume" in result.stderr
    assert list(scores()) == ["in/a/1.png", "in/a/2.png"]
    assert "2 images scored" in Path("zsad-results/index.html").read_text()
    detector.before_batch = lambda images: None
    assert run("predict", "in", "--resume").exit_code == 0
    assert len(records()) == 4


def test_progress_counts_to_the_end(detector, folder):
    seen = []
    predict_folder(
        "in",
        detector,
        PredictOptions(out="out", batch_size=2),
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(count, 4) for count in range(5)]


def test_the_library_gives_what_the_command_prints(detector, folder):
    Path("in/a/0.png").write_bytes(b"")
    options = PredictOptions(out="out", threshold=0.5)
    summary = predict_folder(["in"], lambda files, device, bits: detector, options)
    assert [record.path for record in summary.scored] == [
        "in/a/2.png",
        "in/b/1.jpg",
        "in/b/1.png",
        "in/a/1.png",
    ]
    assert [record.path for record in summary.failed] == ["in/a/0.png"]
    assert summary.page.exists()
    assert (summary.resumed, summary.directory) == (0, Path("out"))


def test_nothing_is_loaded_for_inputs_that_are_not_there(run, folder):
    assert run("predict", "gone").exit_code == 2
    assert run.loads == []
    assert not Path("zsad-results").exists()


def test_offline_is_passed_on(run, folder, monkeypatch):
    monkeypatch.setenv("ZSAD_OFFLINE", "0")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    assert run("predict", "in", "--offline").exit_code == 0
    assert os.environ["ZSAD_OFFLINE"] == "1"


def test_errors_are_one_line_unless_debugging(run, folder, detector, monkeypatch):
    def refuse(images):
        raise SystemError("two\nlines")

    detector.before_batch = refuse
    result = run("predict", "in")
    assert result.exit_code == 1
    assert result.stderr == "error: unexpected SystemError: two lines (ZSAD_DEBUG=1 shows where)\n"
    monkeypatch.setenv("ZSAD_DEBUG", "1")
    assert isinstance(run("predict", "in").exception, SystemError)


def test_warnings_are_one_line(run, folder, detector):
    detector.before_batch = lambda images: warnings.warn("of little use", stacklevel=2)
    result = run("predict", "in")
    assert result.exit_code == 0
    assert "warning: of little use\n" in result.stderr
    assert ".py" not in result.stderr


def test_the_real_detector(folder, small_clip, monkeypatch):
    whole = zsad.load
    monkeypatch.setattr(zsad, "load", lambda **kw: whole(**{**kw, "backbone": small_clip}), raising=False)
    result = CliRunner().invoke(app, ["predict", "in", "-m", "winclip", "-c", "tile"])
    assert result.exit_code == 0, result.output
    assert all(0 <= row["score"] <= 1 for row in records())
    assert {row["method"] for row in records()} == {"winclip"}


def test_methods(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    result = CliRunner().invoke(app, ["methods"])
    assert result.exit_code == 0
    assert all(name in result.stdout for name in registry.list_methods())
    facts = ("91.8 / 85.1", "the authors' code", "reconstruction", "anomalyclip-trained-on-visa", "-", "2024")
    assert all(fact in result.stdout for fact in facts)


def test_methods_as_json():
    result = CliRunner().invoke(app, ["methods", "--json"])
    assert result.exit_code == 0
    listed = {row["name"]: row for row in json.loads(result.stdout)}
    assert list(listed) == list(registry.list_methods())
    winclip, genclip = listed["winclip"], listed["genclip"]
    assert winclip["published"]["mvtec"]["image_auroc"]["value"] == 91.8
    assert (winclip["needs"], winclip["year"], winclip["weights"]) == (["class name"], 2023, [])
    assert genclip["is_reconstruction"]
    assert genclip["published"]["visa"]["image_auroc"] is None
    assert "anomalyclip-trained-on-visa" in listed["anomalyclip"]["weights"]


def test_backbones(monkeypatch, tmp_path):
    monkeypatch.setenv("ZSAD_CACHE", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")
    from zsad.backbones import catalog as table

    tiny = WeightRecord(
        "tiny", "package:tiny/none", 240, (0, 0, 0), (1, 1, 1), "gelu", "Apache-2.0", 20_000_000
    )
    monkeypatch.setattr(table, "backbone_records", lambda: [tiny, *table.WELL_KNOWN])
    result = CliRunner().invoke(app, ["backbones"])
    assert result.exit_code == 0
    assert "Apache-2.0" in result.stdout
    assert "20 MB" in result.stdout
    assert "MIT" in result.stdout


def test_doctor_prints_findings_and_fails_on_problems(monkeypatch):
    findings = [Finding("device", "cpu"), Finding("extra x", "without y", "note", "pip install 'zsad[x]'")]
    monkeypatch.setattr(doctor, "diagnose", lambda: iter(findings))
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 0
    assert "pip install 'zsad[x]'" in result.stdout
    findings.append(Finding("prediction", "no weights", "problem", "install zsad again"))
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 1
    assert "1 problem" in result.stderr


def test_diagnosis_survives_a_broken_installation(detector, monkeypatch, tmp_path):
    def broken():
        raise ZsadError("weights\nmissing")

    monkeypatch.setenv("ZSAD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(zsad, "load", lambda: detector, raising=False)
    found = {finding.name: finding for finding in doctor.diagnose()}
    assert found["zsad"].value == zsad.__version__
    assert "cpu" in found["device"].value
    assert str(tmp_path / "cache") in found["cache"].value
    assert "extra open-clip" in found
    assert found["prediction"].state == "ok"
    monkeypatch.setattr(zsad, "load", broken, raising=False)
    assert {f.name: f for f in doctor.diagnose()}["prediction"] == Finding(
        "prediction",
        "weights missing",
        "problem",
        "the package's own weights should work: install zsad again",
    )


def test_version_and_help():
    assert CliRunner().invoke(app, ["--version"]).stdout == f"zsad {zsad.__version__}\n"
    result = CliRunner().invoke(app, ["--help"])
    assert all(name in result.stdout for name in ("predict", "methods", "backbones", "doctor", "train"))
    assert CliRunner().invoke(app, []).exit_code == 2


def run_fresh(*arguments, heavy=("torch",)):
    """Exit code of the program in a new process, 99 if it has loaded a heavy package; and its messages."""
    code = (
        f"import sys; sys.argv = ['zsad', *{arguments!r}]\n"
        "from zsad.cli import main\n"
        "try: main()\n"
        f"except SystemExit as end: sys.exit(99 if set({heavy!r}) & set(sys.modules) else end.code)"
    )
    result = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    return result.returncode, result.stderr


def test_help_needs_neither_torch_nor_numpy():
    assert run_fresh("--help", heavy=("torch", "numpy"))[0] == 0


def commands():
    found = typer.main.get_command(app).commands
    for name, command in found.items():
        yield from (
            [(name, inner) for inner in command.commands] if hasattr(command, "commands") else [(name,)]
        )


def test_no_commands_help_needs_torch():
    """In one process, since the first one to import torch would be seen by all that follow."""
    code = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from zsad.cli import app\n"
        f"for command in {list(commands())!r}:\n"
        "    assert CliRunner().invoke(app, [*command, '--help']).exit_code == 0, command\n"
        "    assert 'torch' not in sys.modules, command\n"
    )
    result = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predict", "x", "--scale", "fix"], "did you mean 'fixed'"),
        (["predict", "x", "--format", "overly"], "did you mean 'overlay'"),
        (["predict", "x", "--engine", "rays"], "did you mean 'ray'"),
        (["predict", "x", "--method", "winclp"], "did you mean 'winclip'"),
        (["predict", "x", "--precision", "fp61"], "unknown precision 'fp61'"),
        (["predict", "x", "--threshold", "nan"], "threshold must be a finite number"),
        (["calibrate", "x", "--rate", "5"], "a share above 0"),
        (["calibrate", "x", "--by", "luck"], "unknown rule 'luck'"),
        (["train", "-d", "x", "-o", "y", "--optimizer", "adma"], "did you mean 'adam'"),
        (["train", "-d", "x", "-o", "y", "--method", "winclp"], "did you mean 'winclip'"),
        (["train", "-d", "x", "-o", "y", "--epochs", "0"], "epochs must be a whole number"),
        (["evaluate", "-d", "x", "--split", "valid"], "unknown split 'valid'"),
        (["evaluate", "-d", "x", "--pro", "exakt"], "exakt"),
        (["evaluate", "-d", "x", "--method", "winclp"], "did you mean 'winclip'"),
        (["reproduce", "anomalyclip-mvtec", "--precision", "fp61"], "unknown precision 'fp61'"),
        (["reproduce", "anomalyclip-mvtek"], "did you mean 'anomalyclip-mvtec'"),
        (["report", "x", "--format", "htm"], "did you mean 'html'"),
    ],
)
def test_a_wrong_option_is_refused_without_torch(arguments, message):
    code, stderr = run_fresh(*arguments)
    assert (code, message in stderr) == (2, True), stderr


@pytest.mark.parametrize(
    ("typed", "value"),
    [
        ("x=1e-3", 0.001), ("x=-2", -2), ("x=[6, 12]", [6, 12]), ("x=6,12", (6, 12)), ("x=True", True),
        ("x=no", False), ("x=None", None), ("x=", ""), ("x=a=b", "a=b"), ("x='7'", "7"), ("x=SD", "SD"),
    ],
)  # fmt: skip
def test_settings_are_read_as_values(typed, value):
    assert parse_setting(typed) == ("x", value)


@pytest.mark.parametrize("typed", ["sigma", "=3", "a b=3", "3=3"])
def test_settings_need_a_name_and_a_value(typed):
    with pytest.raises(ConfigError, match="KEY=VALUE"):
        parse_setting(typed)


def test_bytes_for_people():
    sizes = (0, 999, 1000, 1_340_000, 12_300_000, 999_900_000, 5e15)
    assert [human_bytes(int(n)) for n in sizes] == [
        "0 B",
        "999 B",
        "1 kB",
        "1.3 MB",
        "12 MB",
        "1 GB",
        "5000 TB",
    ]


def test_formats_are_checked():
    with pytest.raises(ConfigError, match="unknown format 'overly', did you mean 'overlay'"):
        PredictOptions(formats=["overly"])

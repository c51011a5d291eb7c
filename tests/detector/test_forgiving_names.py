"""Names and paths as people type them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import zsad
from zsad.backbones.devices import check_device, device_asked_for, device_names
from zsad.cli import app, at_home
from zsad.data.folder import open_datasets
from zsad.detector.calibration.calibrating import calibrate
from zsad.detector.calibration.options import CalibrateOptions
from zsad.errors import ConfigError
from zsad.evaluation.options import EvaluateOptions
from zsad.evaluation.reproduction.finding import find_recipe
from zsad.evaluation.reproduction.plan import ReproduceOptions
from zsad.methods._registry import known_name
from zsad.prediction.options import PredictOptions
from zsad.training.options import TrainOptions


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home folder with four images in `good`."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "good").mkdir()
    for seed in range(4):
        pixels = np.random.default_rng(seed).integers(0, 255, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "good" / f"{seed}.png")
    return tmp_path


@pytest.fixture(scope="module")
def detector():
    return zsad.load("WinCLIP", device="CPU", image_size=64, scales=(2,))


@pytest.mark.parametrize("name", ["ClipAC", "CLIP-AC", "clip_ac", "clip ac"])
def test_methods_by_title_and_case(name):
    assert zsad.load(name, device="auto").method.INFO.name == "clip_ac"


def test_training_knows_the_names_too():
    assert TrainOptions(method="AnomalyCLIP", data=["x"], out="w.safetensors").method == "anomalyclip"


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("Dual-Image Enhanced CLIP", "dual_image"),
        ("dual image enhanced clip", "dual_image"),
        ("April GAN", "april_gan"),
        ("WinCLIP+", "winclip"),
        ("Folder mode", "auto"),
        (" MuSc ", "musc"),
    ],
)
def test_titles_that_are_unlike_the_name(typed, name):
    assert known_name(typed) == name
    assert EvaluateOptions(data="x", methods=typed).methods == (name,)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"method": "Dual-Image Enhancd CLIP"}, "did you mean 'dual_image'"),
        ({"device": "cdua:0"}, "did you mean 'cuda'"),
        ({"device": "gpuu"}, "did you mean 'gpu'"),
        ({"precision": "FP61"}, "did you mean 'fp16'"),
        ({"backbone": "tinny"}, "did you mean 'tiny'"),
        ({"featureslist": (1,)}, "did you mean 'features_list'"),
        ({"Sigm": 4}, "did you mean 'sigma'"),
    ],
)
def test_near_misses_of_every_kind(given, message):
    with pytest.raises(ConfigError, match=message):
        zsad.load(**given)


def test_near_misses_of_datasets():
    with pytest.raises(ConfigError, match="did you mean 'mvtec'"):
        open_datasets("mvtce:somewhere")


def test_one_value_where_several_are_possible():
    options = EvaluateOptions(data="x", methods="winclip", backbones="tiny", seeds=3)
    assert (options.data, options.backbones, options.seeds) == (("x",), ("tiny",), (3,))
    assert TrainOptions(method="anomalyclip", data="x", out="w.safetensors").data == ("x",)
    assert PredictOptions(formats="overlay", explain="cracked").explain == ("cracked",)


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("~/a", "HOME/a"),
        ("--out=~/a", "HOME/a"),
        ("mvtec:~/a", "mvtec:HOME/a"),
        ("mvtec=~/a", "mvtec=HOME/a"),
        ("~", "HOME"),
        ("~other/a", "~other/a"),
        ("a~/b", "a~/b"),
        ("x/~/b", "x/~/b"),
    ],
)
def test_the_home_folder_in_arguments(typed, expected, monkeypatch):
    monkeypatch.setenv("HOME", "/users/me")
    assert at_home(typed) == ("--out=" * typed.startswith("--")) + expected.replace("HOME", "/users/me")


def test_the_home_folder_from_the_command_line(home):
    ran = CliRunner().invoke(
        app, ["calibrate", "~/good", "--rate", "0.2", "--out=~/c/line.json", "--offline", "-q"]
    )
    assert ran.exit_code == 0, ran.output
    assert (home / "c" / "line.json").exists()


def test_the_home_folder_in_python(home):
    assert open_datasets("~/good")[0].root == home / "good"
    assert ReproduceOptions(recipe=find_recipe("winclip-mvtec"), out="~/out").out == home / "out"
    cached = TrainOptions(method="anomalyclip", data=["x"], out="~/w.safetensors", cache="~/cache")
    assert (cached.out, cached.cache) == (home / "w.safetensors", home / "cache")


@pytest.mark.parametrize("name", ["AnomalyCILP", "anomalyclp", "ANOMALYCLIPS"])
def test_a_near_miss_is_told(name):
    with pytest.raises(ConfigError, match="did you mean 'anomalyclip'"):
        zsad.load(name)


@pytest.mark.parametrize(
    ("typed", "name"),
    [("CPU", "cpu"), ("0", "cuda:0"), (1, "cuda:1"), ("auto", None), ("Cuda:1", "cuda:1"), ("GPU", "cuda")],
)
def test_devices(typed, name):
    assert device_asked_for(typed) == name
    assert check_device("CPU") == torch.device("cpu")
    assert device_names(2, "CPU") == ("cpu", "cpu")


def test_home_and_folders_wherever_images_go(home, detector):
    one = detector.predict("~/good/0.png")
    assert one.path == home / "good" / "0.png"
    assert [p.path.name for p in detector.predict_iter("~/good")] == [f"{n}.png" for n in range(4)]
    options = CalibrateOptions(false_alarm_rate=0.2)
    made = [
        calibrate(detector, given, options=options) for given in ("~/good", home / "good", "~/good/*.png")
    ]
    assert {calibration.threshold for calibration in made} == {made[0].threshold}
    for given in ("~/good", "~/good/*.png", home / "good", ["~/good/0.png", "~/good"], "~/good/1.png"):
        detector.set_references(given)
        assert detector.reference_fingerprints
    detector.set_references(None)
    assert PredictOptions(out="~/results").out == home / "results"

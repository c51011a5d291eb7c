"""`zsad train` for every method that learns: train, go on, use what was learnt; by the command line alone."""

import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from helpers.training_examples import stained_pictures
from zsad.backbones.clip import CLIP, ClipConfig, TextConfig, VisionConfig
from zsad.cli import app
from zsad.methods._registry import list_methods, method_class
from zsad.training.run import TrainingRun

pytestmark = pytest.mark.filterwarnings("ignore:.*is treated as OpenAI's weights")

LEARNT = [name for name in list_methods() if method_class(name).INFO.needs_training]


@pytest.fixture
def backbone(tmp_path):
    """A small random CLIP as a file in OpenAI's layout."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        clip = CLIP(ClipConfig(VisionConfig(32, 8, 64, 3, 1), TextConfig(64, 2, 1), 32, "quick_gelu"))
    torch.save(clip.state_dict(), tmp_path / "clip.pt")
    return str(tmp_path / "clip.pt")


@pytest.fixture
def folder(tmp_path):
    """Six images of one category, as MVTec AD lays them out."""
    root = tmp_path / "mvtec" / "metal_nut"
    for index, (image, mask, label, _) in enumerate(stained_pictures()):
        kind = "stain" if label else "good"
        (root / "test" / kind).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(root / "test" / kind / f"{index}.png")
        if label:
            (root / "ground_truth" / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask * np.uint8(255)).save(root / "ground_truth" / kind / f"{index}_mask.png")
    return root.parent


def run(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.output


def interrupted_after(checkpoint, last):
    """A function that writes the checkpoint of an epoch, and presses Ctrl-C after that of the last one."""

    def write(training, epoch):
        checkpoint(training, epoch)
        if epoch == last:
            raise KeyboardInterrupt

    return write


def losses(log):
    with log.open(newline="") as file:
        return [(row["epoch"], row["step"], row["loss"]) for row in csv.DictReader(file)]


@pytest.mark.parametrize("method", LEARNT)
def test_train_resume_and_predict(method, backbone, folder, tmp_path, monkeypatch):
    title, recipe = method_class(method).INFO.title, method_class(method).TRAINING
    common = [
        "train",
        "--method",
        method,
        "--data",
        f"mvtec:{folder}",
        "--backbone",
        backbone,
        "--device",
        "cpu",
    ]
    cache = [] if method_class(method).FEATURES is None else ["--cache", tmp_path / "cache"]
    changed = [] if recipe.for_dataset("mvtec").epochs == 2 else ["epochs"]
    if cache and recipe.augmentation != "none":  # features of images that change cannot be kept
        common += ["--augmentation", "none"]
        changed += ["augmentation"]
    whole, parts = tmp_path / "whole.safetensors", tmp_path / "parts.safetensors"
    told = run(*common, *cache, "--out", whole, "--epochs", 2)
    but_for = f" but for {' and '.join(changed)}" if changed else ""
    assert f"{title}'s recipe{but_for}: 2 epochs, {recipe.batch_size} image" in told
    assert "mvtec: 3 normal and 3 anomalous images" in told
    with monkeypatch.context() as patch:
        patch.setattr(TrainingRun, "checkpoint", interrupted_after(TrainingRun.checkpoint, 1))
        command = [str(each) for each in [*common, "--out", parts, "--epochs", 2]]
        assert CliRunner().invoke(app, command).exit_code == 130
    assert "continued after epoch 1" in run(*common, "--out", parts, "--epochs", 2, "--resume")
    logs = [losses(path.with_suffix(".training") / "log.csv") for path in (whole, parts)]
    assert len(logs[0]) == len(logs[1]) == 2 * -(-6 // recipe.batch_size)
    for first, second in zip(*logs, strict=True):
        assert first[:2] == second[:2]
        assert float(first[2]) == pytest.approx(float(second[2]), rel=1e-4)
    run(
        "predict", folder / "metal_nut" / "test", "--checkpoint", parts, "--backbone", backbone,
        "--device", "cpu", "--out", tmp_path / "results", "--quiet",
    )  # fmt: skip
    records = [json.loads(line) for line in (tmp_path / "results" / "results.jsonl").read_text().splitlines()]
    assert [record["error"] for record in records] == [None] * 6
    assert {record["method"] for record in records} == {method}
    assert all(0 <= record["score"] <= 1 for record in records)


def test_the_options_reach_the_training(backbone, folder, tmp_path):
    told = run(
        "train", "--method", "april_gan", "--data", folder, "--out", tmp_path / "out.safetensors",
        "--backbone", backbone, "--device", "cpu", "--epochs", 1, "--batch-size", 3, "--optimizer", "adamw",
        "--lr", 0.02, "--weight-decay", 0.5, "--schedule", "cosine", "--mosaic", 0.5, "--precision", "bf16",
        "--tensorboard",
    )  # fmt: skip
    assert (
        "1 epoch, 3 images a step, AdamW at 0.02 (betas 0.5 and 0.999, weight decay 0.5), cosine schedule, "
        "bf16, mosaics at a chance of 0.5"
    ) in told
    assert list((tmp_path / "out.training" / "tensorboard").iterdir())
    quiet = run(
        "train", "--data", folder, "--out", tmp_path / "quiet.safetensors", "--backbone", backbone,
        "--device", "cpu", "--epochs", 1, "--quiet",
    )  # fmt: skip
    assert quiet == ""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--devices", "2", "--method", "adaclip"], "2 devices cannot share the steps of adaclip's recipe"),
        (["--optimizer", "sgd"], "unknown optimizer 'sgd'"),
        (["--epochs", "0"], "epochs must be a whole number of at least 1"),
        (["--data", "visaa:nowhere"], "visaa"),
    ],
)
def test_impossible_options_end_in_one_line(options, message, backbone, folder, tmp_path):
    command = ["train", "--data", folder, "--out", tmp_path / "x.safetensors", "--backbone", backbone]
    result = CliRunner().invoke(app, [str(each) for each in [*command, "--device", "cpu", *options]])
    assert result.exit_code == 2
    (line,) = [line for line in result.output.splitlines() if line.startswith("error: ")]
    assert message in line


@pytest.mark.parametrize("more", [(), ("--resume",), ("--overwrite", "--cache", "fea tures")])
def test_ctrl_c_names_the_command_that_continues(tmp_path, monkeypatch, more):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    arguments = ["train", "-d", "my data", "-o", str(tmp_path / "p.safetensors"), *more]
    monkeypatch.setattr("zsad.training.loop.train", interrupted)
    monkeypatch.setattr("sys.argv", ["zsad", *arguments])
    (tmp_path / "p.training").mkdir()
    for kept in ("no epoch was finished", f"finished epochs are in {tmp_path / 'p.training'}"):
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 130
        (line,) = result.stderr.splitlines()
        assert kept in line
        assert ("computed features are in fea tures" in line) == ("--cache" in more)
        command = line.partition("continue with: ")[2]
        assert command.startswith(f"zsad train -d 'my data' -o {tmp_path / 'p.safetensors'}")
        assert command.endswith("--resume")
        assert command.count("--resume") == 1
        assert "--overwrite" not in command
        (tmp_path / "p.training" / "last.safetensors").touch()

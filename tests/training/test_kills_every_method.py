"""`zsad train` of each method, killed for good in its second epoch and resumed, ends with the same file."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.training_examples import log_rows, stained_pictures
from zsad.backbones.clip import CLIP, ClipConfig, TextConfig, VisionConfig
from zsad.methods._registry import list_methods, method_class

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL"),
]

# Both stages of the methods that learn in two, and the variants that learn other tensors.
SETTINGS = {
    "aa_clip": (["stage=text", "surgery_attention=fixed"], ["stage=image"]),
    "bayes_pfl": (["stage=1"], ["stage=2"]),
    "faprompt": (["k=4"],),
}
LEARNING = [name for name in list_methods() if method_class(name).INFO.needs_training]
CASES = [
    pytest.param(name, settings, id=f"{name} {' '.join(settings)}".strip())
    for name in LEARNING
    for settings in SETTINGS.get(name, ([],))
]
EPOCHS, PATIENCE = 3, 900


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    """A folder with a category in MVTec's layout and a small random CLIP."""
    root = tmp_path_factory.mktemp("kills")
    for number, (image, mask, label, _) in enumerate(stained_pictures(8, 32)):
        kind = "stain" if label else "good"
        for folder in (root / "plate" / "test" / kind, root / "plate" / "ground_truth" / "stain"):
            folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(root / "plate" / "test" / kind / f"{number}.png")
        if label:
            path = root / "plate" / "ground_truth" / kind / f"{number}_mask.png"
            Image.fromarray((mask * 255).astype(np.uint8)).save(path)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        clip = CLIP(ClipConfig(VisionConfig(32, 8, 64, 4, 1), TextConfig(64, 2, 1), 64, "quick_gelu"))
    torch.save(clip.state_dict(), root / "clip.pt")
    return root


def started(material, name, settings, out):
    """Starts `zsad train`."""
    words = [sys.executable, "-m", "zsad", "train", "--data", str(material / "plate"), "--method", name]
    words += ["--backbone", str(material / "clip.pt"), "--out", str(out), "--device", "cpu", "--resume"]
    words += ["--epochs", str(EPOCHS), "--batch-size", "2", "--augmentation", "none", "--held-out", "0"]
    words += [word for setting in settings for word in ("--set", setting)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish(process):
    """Waits for a training that must succeed."""
    output = process.communicate(timeout=PATIENCE)[0]
    assert process.returncode == 0, output


def kill_in_the_second_epoch(process, log: Path):
    """Ends a training for good as soon as its log holds a step of the second epoch."""
    end = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < end:
        if log.exists() and "\n2," in log.read_text(encoding="utf-8"):
            process.kill()
            break
        time.sleep(0.001)
    output = process.communicate(timeout=PATIENCE)[0]
    assert process.returncode == -signal.SIGKILL, output


@pytest.mark.parametrize(("name", "settings"), CASES)
def test_killed_and_resumed(material, tmp_path, name, settings):
    whole, cut = tmp_path / "whole.safetensors", tmp_path / "cut.safetensors"
    process = started(material, name, settings, whole)
    kill_in_the_second_epoch(started(material, name, settings, cut), tmp_path / "cut.training" / "log.csv")
    assert not cut.exists()
    finish(process)
    finish(started(material, name, settings, cut))
    assert cut.read_bytes() == whole.read_bytes()
    first, second = (
        [{**row, "seconds": ""} for row in log_rows(tmp_path / f"{each}.training" / "log.csv")]
        for each in ("whole", "cut")
    )
    assert first == second

"""Damaged images and records through the command line: one clear line each, never a crash, in bounded time.

The fast suite takes 100 cases, the slow one 2,000, both from fixed seeds. A case that fails is named by its
kind and number; `ZSAD_FUZZ_KEEP=DIR` keeps its file.
"""

from __future__ import annotations

import json
import os
import random
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner, Result

import zsad
from helpers.bad_files import FORMATS
from helpers.evaluation_examples import write_example_folder
from helpers.mutations import broken_bytes, broken_json, broken_safetensors, broken_zip
from helpers.training_examples import quietly, stained_pictures
from zsad.backbones.loading import write_packaged
from zsad.cli import app
from zsad.training.options import TrainOptions

pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(os.name == "nt", reason="links of files"),
]
IMAGES_AT_ONCE = 25
SLOWEST = 120.0  # seconds of one case on a busy machine; most take a third of a second
LONGEST_LINE = 2100
SETTINGS = {"features_list": [1, 2, 3], "dpam_layer": 2, "depth": 2}
YAML = (
    "title: own\nextends: anomalyclip\nsettings: {n_ctx: 12, depth: 9}\n"
    "train: {data: [mvtec]}\ntest: {data: visa, seeds: [0, 1]}\n"
)
WORDS = "normal: [new, 'without rust']\nabnormal:\n  - cracked\n  - bent\ntemplates: ['a photo of a {}.']\n"
LIST = [
    {"path": "a.png", "label": 0, "mask": None, "category": "nut", "split": "test"},
    {"path": "b.png", "label": 1, "mask": "m.png", "category": "nut", "defect": "bent", "split": "test"},
]
PREDICT = ("predict", "good.png", "--backbone", "small", "--format", "none", "-q")
LEARNT = (*PREDICT, "--checkpoint", "learnt.safetensors")
SET = tuple(f"--set={name}={value}" for name, value in SETTINGS.items())
TRAIN = ("train", "-d", "toys", "-o", "trained.safetensors", "-b", "small", "--epochs", "1", "--resume", "-q")


def winclip(backbone: str, *more: str) -> tuple[str, ...]:
    return ("predict", "good.png", "-m", "winclip", "-b", backbone, "--format", "none", "-q", *more)


@dataclass(frozen=True)
class Kind:
    """A kind of record: its file, how it is damaged, and the command that reads it."""

    file: str
    damage: Callable[[bytes, random.Random], bytes]
    command: tuple[str, ...]


def either(content: bytes, draw: random.Random) -> bytes:
    return broken_json(content, draw) if draw.randrange(3) else broken_bytes(content, draw)


def lines(content: bytes, draw: random.Random) -> bytes:
    rows = content.splitlines()
    place = draw.randrange(len(rows))
    rows[place] = either(rows[place], draw)
    return b"\n".join(rows) + b"\n"


KINDS = {
    "results.jsonl": Kind("run/results.jsonl", lines, (*LEARNT, "--out", "run", "--resume")),
    "page": Kind("run/results.jsonl", lines, ("report", "run", "-q")),
    "settings.json": Kind("run/settings.json", either, (*LEARNT, "--out", "run", "--resume")),
    "results.json": Kind("evaluation/results.json", either, ("report", "evaluation", "-f", "csv", "-q")),
    "calibration": Kind("calibration.json", either, (*LEARNT, "--calibration", "calibration.json")),
    "checkpoint": Kind("w.safetensors", broken_safetensors, (*PREDICT, "--checkpoint", "w.safetensors")),
    "authors' file": Kind(
        "w.pth", broken_zip, (*PREDICT, "-m", "anomalyclip", "--checkpoint", "w.pth", *SET)
    ),
    "training state": Kind("trained.training/last.safetensors", broken_safetensors, (*TRAIN, *SET)),
    "packaged config": Kind("broken/config.json", either, winclip("broken")),
    "packaged weights": Kind("broken/small.safetensors", broken_safetensors, winclip("broken")),
    "Hugging Face config": Kind("hub/config.json", either, winclip("hub")),
    "shard index": Kind("hub/model.safetensors.index.json", either, winclip("hub")),
    "open_clip config": Kind("open/open_clip_config.json", either, winclip("open")),
    "TorchScript": Kind("script.pt", broken_zip, winclip("script.pt")),
    "recipe": Kind("own.yaml", broken_bytes, ("reproduce", "own.yaml", "--dry-run")),
    "state words": Kind("words.yaml", broken_bytes, winclip("small", "--state-words", "words.yaml")),
    "JSON list": Kind("list.json", either, ("data", "check", "list.json", "-q")),
    "JSON lines": Kind("list.jsonl", lines, ("data", "check", "list.jsonl", "-q")),
    "CSV list": Kind("list.csv", broken_bytes, ("data", "check", "list.csv", "-q")),
}


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory, make_small_clip: Callable[..., Any]) -> Iterator[Path]:
    """A folder with one good file of every kind, which is the current folder meanwhile."""
    folder = tmp_path_factory.mktemp("fuzz")
    before = Path.cwd()
    os.chdir(folder)
    patch = pytest.MonkeyPatch()
    for name, value in {"COLUMNS": "2000", "ZSAD_OFFLINE": "1", "ZSAD_CACHE": str(folder / "cache")}.items():
        patch.setenv(name, value)
    for name in ("good.png", "a.png", "b.png", "m.png"):
        Path(name).write_bytes(FORMATS["png"])
    clip = make_small_clip(name="small")
    write_packaged(clip, Path("small"))
    write_packaged(clip, Path("broken"))
    _published_layouts(clip)
    detector = zsad.load("anomalyclip", "small", "fresh", **SETTINGS)
    detector.save("learnt.safetensors")
    detector.save("w.safetensors")
    Path("calibration.json").write_text(json.dumps(_calibration(detector)))
    torch.save({"prompt_learner": detector.method.learned_state()}, "w.pth")
    write_example_folder(Path("evaluation"))
    run(*LEARNT, "--out", "run")
    _training_folder()
    quietly(
        TrainOptions(out="trained.safetensors", data=("toys",), backbone="small", epochs=1, settings=SETTINGS)
    )
    marked = np.zeros((16, 16), dtype=np.uint8)
    marked[2:5, 2:5] = 255
    Image.fromarray(marked).resize(Image.open("b.png").size, Image.Resampling.NEAREST).save("m.png")
    Path("own.yaml").write_text(YAML)
    Path("words.yaml").write_text(WORDS)
    Path("list.json").write_text(json.dumps(LIST))
    Path("list.jsonl").write_text("".join(json.dumps(row) + "\n" for row in LIST))
    Path("list.csv").write_text("path,label,mask,category\na.png,good,,nut\nb.png,bent,m.png,nut\n")
    yield folder
    patch.undo()
    os.chdir(before)


def _published_layouts(clip: Any) -> None:
    """Small random models in the layouts of Hugging Face, open_clip and OpenAI."""
    open_clip = pytest.importorskip("open_clip")
    transformers = pytest.importorskip("transformers")
    from safetensors.torch import save_file

    text = {"hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = {**text, "image_size": 42, "patch_size": 14}
    config = transformers.CLIPConfig(text_config={**text, "vocab_size": 49408}, vision_config=vision)
    transformers.CLIPModel(config).save_pretrained("hub", max_shard_size="300KB")
    model = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 42, "patch_size": 14, "width": 64, "layers": 1},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 1},
    }
    preprocessing = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "interpolation": "bicubic"}
    Path("open").mkdir()
    Path("open/open_clip_config.json").write_text(
        json.dumps({"model_cfg": model, "preprocess_cfg": preprocessing})
    )
    network = open_clip.CLIP(**model, quick_gelu=True).eval()
    save_file(network.state_dict(), "open/open_clip_model.safetensors")
    example = (torch.zeros(1, 3, 42, 42), torch.ones(1, 77, dtype=torch.long))
    torch.jit.trace(network, example, check_trace=False).save("script.pt")


def _calibration(detector: zsad.Detector) -> dict[str, Any]:
    return {
        "zsad_calibration": 1,
        "threshold": 0.5,
        "map_rule": "rate",
        "map_threshold": 0.5,
        "normal_scores": [0.1, 0.2, 0.3],
        "anomalous_scores": [0.6],
        "false_alarm_rate": 0.1,
        "settings": detector.scoring_settings(),
        "warnings": ["few images"],
    }


def _training_folder() -> None:
    for index, (image, mask, label, _) in enumerate(stained_pictures()):
        name = f"{'stain' if label else 'good'}/{index}.png"
        for folder, pixels in (("test", image), ("ground_truth", mask * 255)):
            if folder == "test" or label:
                path = Path("toys/nut", folder, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def problem_of(result: Result, seconds: float) -> str | None:
    """What is wrong with the answer of a command to a damaged file; None if nothing is."""
    if seconds > SLOWEST:
        return f"took {seconds:.0f} s"
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        return f"raised {result.exception!r}"
    if result.exit_code not in (0, 1, 2, 3):
        return f"exit code {result.exit_code}"
    if re.search(r"Traceback|unexpected \w*(Error|Exception|Warning)", result.output):
        return "shows a crash"
    told = [line for line in result.stderr.splitlines() if line.startswith(("error:", "failed:", "problem:"))]
    if result.exit_code and not told:
        return "does not say why"
    if any(len(line) > LONGEST_LINE or not line.isprintable() for line in told):
        return "says a line that is too long or not printable"
    return None


def check_records(count: int, seed: int) -> None:
    """Damages records, in turn of every kind, and gives each to its command.

    Raises:
        AssertionError: listing every case that did not end with one clear line.
    """
    good = {name: Path(kind.file).read_bytes() for name, kind in KINDS.items()}
    keep = os.environ.get("ZSAD_FUZZ_KEEP")
    found = []
    for number in range(count):
        name = list(KINDS)[number % len(KINDS)]
        kind = KINDS[name]
        damaged = kind.damage(good[name], random.Random(f"{seed} {number}"))
        Path(kind.file).unlink()  # the folder may have been linked
        Path(kind.file).write_bytes(damaged)
        Path("trained.safetensors").unlink(missing_ok=True)
        started = time.monotonic()
        result = run(*kind.command)
        problem = problem_of(result, time.monotonic() - started)
        if problem:
            found.append(f"{name} {number}: {problem}: {result.stderr[-600:]}")
            if keep:
                Path(keep, f"{number}-{Path(kind.file).name}").write_bytes(damaged)
        for written, content in good.items():  # resuming replaces tables
            if KINDS[written].file == kind.file or KINDS[written].file.startswith("run/"):
                Path(KINDS[written].file).write_bytes(content)
    assert not found, f"{len(found)} of {count}:\n" + "\n".join(found)


def check_images(count: int, seed: int) -> None:
    """Scores damaged images, many in one run: each has a score or one line.

    Raises:
        AssertionError: listing every image without a clear line.
    """
    draw = random.Random(seed)
    found = []
    for start in range(0, count, IMAGES_AT_ONCE):
        folder = Path(f"images-{seed}-{start}")
        folder.mkdir()
        for number in range(start, min(start + IMAGES_AT_ONCE, count)):
            suffix = draw.choice(list(FORMATS))
            content = broken_bytes(FORMATS[suffix], draw, most=draw.choice((60, 400, None)))
            (folder / f"{number}.{suffix}").write_bytes(content)
        files = len(list(folder.iterdir()))
        started = time.monotonic()
        result = run(*LEARNT[:1], str(folder), *LEARNT[2:], "--out", f"{folder}-out")
        told = [line for line in result.stderr.splitlines() if line.startswith("failed:")]
        if time.monotonic() - started > SLOWEST or result.exit_code not in (0, 3) or len(told) > 11:
            found.append(f"{folder}: exit code {result.exit_code}: {result.stderr[-600:]}")
            continue
        rows = [json.loads(line) for line in Path(f"{folder}-out/results.jsonl").read_text().splitlines()]
        if len(rows) != files or any((row["score"] is None) == (row["error"] is None) for row in rows):
            found.append(f"{folder}: {len(rows)} rows of {files} images")
        for row in rows:
            text = row["error"] or ""
            if re.search(r"unexpected|Traceback", text) or len(text) > LONGEST_LINE or not text.isprintable():
                found.append(f"{row['path']}: {text[:600]}")
    assert not found, f"{len(found)}:\n" + "\n".join(found)


def test_100_cases(workshop: Path) -> None:
    check_records(len(KINDS) * 3, seed=1)
    check_images(50, seed=1)


@pytest.mark.slow
def test_1000_records(workshop: Path) -> None:
    check_records(1000, seed=2)


@pytest.mark.slow
def test_1000_images(workshop: Path) -> None:
    check_images(1000, seed=2)


@pytest.mark.parametrize("name", KINDS)
def test_the_undamaged_file_is_read(name: str, workshop: Path) -> None:
    Path("trained.safetensors").unlink(missing_ok=True)
    result = run(*KINDS[name].command)
    assert result.exit_code == 0, result.output

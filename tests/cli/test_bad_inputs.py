"""Everything a user can get wrong, through the command line: exit code, one message, never a stack trace."""

from __future__ import annotations

import errno
import io
import json
import os
import pickle
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner, Result

import zsad
from helpers.bad_files import BAD_FILES, FORMATS, IMAGE
from helpers.image_bytes import encode
from zsad.backbones.loading import write_packaged
from zsad.cli import app

DONE, FAILED, WRONG_USAGE, SOME_FAILED = 0, 1, 2, 3
SETTINGS = {"features_list": [1, 2, 3], "dpam_layer": 2, "depth": 2}


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory, make_small_clip: Callable[..., Any]) -> Path:
    """A folder with an image, two small random backbones, and learnt weights for the first."""
    folder = tmp_path_factory.mktemp("workshop")
    (folder / "good.png").write_bytes(FORMATS["png"])
    write_packaged(make_small_clip(name="small"), folder / "small")
    write_packaged(make_small_clip(seed=1, name="other"), folder / "other")
    detector = zsad.load("anomalyclip", folder / "small", "fresh", **SETTINGS)
    detector.save(folder / "learnt.safetensors")
    return folder


@pytest.fixture
def here(workshop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, the current one, with links to what the workshop holds."""
    for item in workshop.iterdir():
        (tmp_path / item.name).symlink_to(item)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "400")  # messages on one line
    monkeypatch.setenv("ZSAD_OFFLINE", "1")
    monkeypatch.setenv("ZSAD_CACHE", str(tmp_path / "cache"))
    return tmp_path


BACKBONE = ("--backbone", "small")
WEIGHTS = (*BACKBONE, "--checkpoint", "learnt.safetensors")


def predict(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["predict", *arguments])


def check(result: Result, code: int, reason: str) -> None:
    """One message with the reason, the right exit code, and nothing that looks like a crash."""
    assert result.exit_code == code, result.output
    assert re.search(reason, result.stderr), result.stderr
    assert "Traceback" not in result.output
    assert "unexpected" not in result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    lines = [line for line in result.stderr.splitlines() if line.startswith(("error:", "failed:"))]
    assert len(lines) == 1 or "Usage:" in result.stderr, result.stderr  # typer explains its own usage


def records(folder: str = "zsad-results") -> dict[str, dict[str, object]]:
    lines = (Path(folder) / "results.jsonl").read_text().splitlines()
    return {Path(record["path"]).name: record for record in map(json.loads, lines)}


# ---- images: one run over all of them ----


def image_sizes() -> dict[str, bytes]:
    """Images that look odd and are fine."""
    level = np.random.default_rng(2).integers(0, 256, (20, 30), dtype=np.uint8)
    deep = level.astype(np.uint16) * 257
    grey = Image.fromarray(level)
    return {
        "1x1.png": encode(Image.new("RGB", (1, 1)), "PNG"),
        "1x3000.png": encode(Image.new("RGB", (1, 3000)), "PNG"),
        "3000x1.bmp": encode(Image.new("RGB", (3000, 1)), "BMP"),
        "mode-1.png": encode(grey.convert("1"), "PNG"),
        "mode-L.jpg": encode(grey, "JPEG"),
        "mode-LA.png": encode(grey.convert("LA"), "PNG"),
        "mode-I16.png": encode(Image.fromarray(deep), "PNG"),
        "mode-I16.tif": encode(Image.fromarray(deep), "TIFF"),
        "mode-I.tif": encode(Image.fromarray(deep.astype(np.int32)), "TIFF"),
        "mode-F.tif": encode(Image.fromarray(deep.astype(np.float32) / 65535), "TIFF"),
        "mode-P.gif": encode(IMAGE.convert("P"), "GIF"),
        "mode-RGBA.webp": encode(IMAGE.convert("RGBA"), "WEBP"),
        "mode-CMYK.jpg": encode(IMAGE.convert("CMYK"), "JPEG"),
        "mode-YCbCr.tif": encode(IMAGE.convert("YCbCr"), "TIFF"),
        "animated.gif": encode(IMAGE, "GIF", save_all=True, append_images=[IMAGE.rotate(90)]),
        "jpeg2000.jp2": FORMATS["jp2"],
        "portable.ppm": FORMATS["ppm"],
        "wrong-suffix.jpg": FORMATS["png"],
        "UPPER.PNG": FORMATS["png"],
        "ümlaut ñ 写真 [1].png": FORMATS["png"],
    }


GOOD_IMAGES = image_sizes()


@pytest.fixture(scope="module")
def big_run(
    workshop: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Result, dict[str, dict[str, object]]]:
    """One run over every bad file and every odd good one."""
    folder = tmp_path_factory.mktemp("images")
    for name, content in GOOD_IMAGES.items():
        (folder / name).write_bytes(content)
    for name, (content, _) in BAD_FILES.items():
        (folder / f"bad {name}.png").write_bytes(content)
    out = folder / "results"
    result = predict(
        str(folder), "--out", str(out), "--backbone", str(workshop / "small"),
        "--checkpoint", str(workshop / "learnt.safetensors"), "--format", "none",
    )  # fmt: skip
    return result, records(str(out))


def test_bad_images_do_not_stop_the_others(big_run: tuple[Result, dict[str, dict[str, object]]]) -> None:
    result, rows = big_run
    assert result.exit_code == SOME_FAILED
    assert "Traceback" not in result.output
    assert len(rows) == len(GOOD_IMAGES) + len(BAD_FILES)
    failures = [line for line in result.stderr.splitlines() if line.startswith("failed:")]
    assert 1 <= len(failures) <= 11
    assert str(len(BAD_FILES) - 10) in failures[-1]


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_image_is_reported(name: str, big_run: tuple[Result, dict[str, dict[str, object]]]) -> None:
    row = big_run[1][f"bad {name}.png"]
    assert row["score"] is None
    assert row["is_anomalous"] is None
    assert re.search(BAD_FILES[name][1], str(row["error"]))
    assert "\n" not in str(row["error"])


@pytest.mark.parametrize("name", GOOD_IMAGES)
def test_odd_image_is_scored(name: str, big_run: tuple[Result, dict[str, dict[str, object]]]) -> None:
    row = big_run[1][name]
    assert row["error"] is None
    assert 0 <= float(str(row["score"])) <= 1
    with Image.open(io.BytesIO(GOOD_IMAGES[name])) as image:
        assert (row["width"], row["height"]) == image.size


def test_one_bad_image_alone(here: Path) -> None:
    Path("bad.png").write_text("hello")
    check(predict("bad.png", *WEIGHTS), SOME_FAILED, r"bad\.png: is a text file; expected PNG")
    assert records()["bad.png"]["score"] is None


def test_missing_among_others(here: Path) -> None:
    check(predict("good.png", "gone.png", *WEIGHTS), SOME_FAILED, r"gone\.png: no such file")
    assert records()["good.png"]["error"] is None


@pytest.mark.skipif(os.name == "nt", reason="names of bytes as on Unix")
def test_names_cannot_write_on_the_terminal(here: Path) -> None:
    Path(os.fsdecode(b"bad\x1b[2J\xff\n.png")).write_text("hello")
    Path(os.fsdecode(b"good\x1b[2J\xff\n.png")).write_bytes(FORMATS["png"])
    result = predict("*.png", *WEIGHTS)
    check(result, SOME_FAILED, r"failed: bad\\x1b\[2J\\udcff\\n\.png: is a text file")
    assert result.stderr.count("bad\\x1b") == 1
    assert "\x1b[2J" not in result.output


def test_pixel_limit(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZSAD_MAX_PIXELS", "100")
    check(
        predict("good.png", *WEIGHTS),
        SOME_FAILED,
        "768 pixels are more than the limit of 100.*ZSAD_MAX_PIXELS=768",
    )


# ---- places ----

PLACES: dict[str, tuple[Callable[[], tuple[str, ...]], int, str]] = {
    "missing file": (lambda: ("gone.png",), WRONG_USAGE, r"no such file.*gone\.png"),
    "pattern without match": (lambda: ("*.jpeg",), FAILED, r"no images found in \*\.jpeg"),
    "empty folder": (lambda: (folder_with(),), FAILED, "no images found in .*looked for"),
    "folder of texts": (lambda: (folder_with("notes.txt"),), FAILED, "no images found"),
    "images only in a sub-folder": (
        lambda: (folder_with("sub/a.png"), "--no-recursive"), FAILED, "sub-folders were not searched",
    ),
    "web address": (lambda: ("https://example.org/a.png",), WRONG_USAGE, "no such file"),
    "empty path": (lambda: ("",), WRONG_USAGE, "an empty path was given"),
    "results folder is a file": (lambda: ("good.png", "--out", "good.png"), WRONG_USAGE, "is a file"),
    "results folder below a file": (lambda: ("good.png", "--out", "good.png/x"), FAILED, "Not a directory"),
    "only its own results": (
        lambda: (folder_with("zsad-results/overlays/a_overlay.png"), "--out", "images/zsad-results"),
        FAILED, "wrote itself",
    ),
}  # fmt: skip


def folder_with(*names: str) -> str:
    """Makes the folder "images" with files of these names, each holding an image."""
    Path("images").mkdir()
    for name in names:
        path = Path("images", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(FORMATS["png"])
    return "images"


@pytest.mark.parametrize("name", PLACES)
def test_places(name: str, here: Path) -> None:
    make, code, reason = PLACES[name]
    check(predict(*make(), *WEIGHTS), code, reason)


def refuse_with(number: int) -> Callable[..., object]:
    def refuse(*arguments: object, **options: object) -> object:
        raise OSError(number, os.strerror(number))

    return refuse


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENOSPC, errno.EDQUOT])
def test_results_cannot_be_written(here: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    monkeypatch.setattr(tempfile, "mkstemp", refuse_with(number))
    check(predict("good.png", *WEIGHTS), FAILED, re.escape(os.strerror(number)))


def test_disk_full_while_writing(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    predict("good.png", *WEIGHTS)
    before = {path: path.read_bytes() for path in Path("zsad-results").rglob("*") if path.is_file()}
    monkeypatch.setattr(Path, "replace", refuse_with(errno.ENOSPC))
    monkeypatch.setattr(os, "replace", refuse_with(errno.ENOSPC))
    check(predict("good.png", *WEIGHTS), FAILED, "No space left on device")
    after = {path: path.read_bytes() for path in Path("zsad-results").rglob("*") if path.is_file()}
    overlays = [path for path in before if path.suffix in (".jpg", ".png")]
    assert overlays
    assert all(after[path] == before[path] for path in overlays)
    assert not [path for path in after if path.suffix == ".tmp"]


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write everywhere")
def test_folder_without_permission(here: Path) -> None:
    Path("locked").mkdir(mode=0o500)
    check(predict("good.png", "--out", "locked/out", *WEIGHTS), FAILED, "Permission denied")


# ---- arguments ----

ARGUMENTS: dict[str, tuple[tuple[str, ...], str]] = {
    "no input": ((), "Missing argument"),
    "unknown option": (("good.png", "--treshold", "1"), "No such option.*--treshold"),
    "unknown method": (("good.png", "--method", "anomalyclp", *BACKBONE), "did you mean 'anomalyclip'"),
    "unknown backbone": (("good.png", "--backbone", "ViT-L-41"), "unknown backbone 'ViT-L-41'"),
    "malformed hub name": (("good.png", "--backbone", "hf-hub:nothing"), "hf-hub:ORG/REPO"),
    "unknown device": (("good.png", *WEIGHTS, "--device", "tpu"), "device 'tpu' is not available"),
    "device not here": (("good.png", *WEIGHTS, "--device", "cuda:99"), "device 'cuda:99' is not available"),
    "unknown format": (("good.png", *WEIGHTS, "--format", "overlay,pdf"), "unknown format 'pdf'"),
    "unknown precision": (("good.png", *WEIGHTS, "--precision", "int4"), "unknown precision 'int4'"),
    "unknown scale": (("good.png", *WEIGHTS, "--scale", "rainbow"), "unknown scale 'rainbow'"),
    "unknown setting": (("good.png", *WEIGHTS, "--set", "sigme=4"), "did you mean 'sigma'"),
    "setting of a wrong type": (("good.png", *WEIGHTS, "--set", "sigma=wide"), "sigma .*must be a number"),
    "setting without value": (("good.png", *WEIGHTS, "--set", "sigma"), "KEY=VALUE"),
    "setting twice": (("good.png", *WEIGHTS, "--set", "sigma=1", "--set", "sigma=2"), "twice"),
    "setting against the checkpoint": (("good.png", *WEIGHTS, "--set", "n_ctx=5"), "contradicts"),
    "threshold nan": (("good.png", *WEIGHTS, "--threshold", "nan"), "threshold must be a finite number"),
    "threshold infinite": (("good.png", *WEIGHTS, "--threshold", "inf"), "threshold must be a finite number"),
    "threshold text": (("good.png", *WEIGHTS, "--threshold", "high"), "--threshold.*(valid|number)"),
    "map threshold nan": (("good.png", *WEIGHTS, "--map-threshold", "nan"), "map threshold must be"),
    "mask without threshold": (("good.png", *WEIGHTS, "--format", "mask"), "--map-threshold"),
    "batch size 0": (("good.png", *WEIGHTS, "--batch-size", "0"), "--batch-size.*1"),
    "batch size text": (("good.png", *WEIGHTS, "--batch-size", "many"), "--batch-size.*(valid|integer)"),
    "image size 0": (("good.png", *WEIGHTS, "--image-size", "0"), "--image-size.*1"),
    "image size no multiple": (("good.png", *WEIGHTS, "--image-size", "33"), "multiple of"),
    "untrained method": (("good.png", *BACKBONE), "random parameters.*zsad train"),
}  # fmt: skip


@pytest.mark.parametrize("name", ARGUMENTS)
def test_wrong_arguments(name: str, here: Path) -> None:
    arguments, reason = ARGUMENTS[name]
    check(predict(*arguments), WRONG_USAGE, reason)


@pytest.mark.parametrize("value", ["many", "-1", "1e9"])
def test_wrong_pixel_limit(here: Path, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("ZSAD_MAX_PIXELS", value)
    result = predict("good.png", *WEIGHTS)
    assert result.exit_code in (WRONG_USAGE, SOME_FAILED)
    assert "ZSAD_MAX_PIXELS must be a whole number" in result.stderr


def test_unknown_command() -> None:
    result = CliRunner().invoke(app, ["predikt"])
    assert result.exit_code == WRONG_USAGE
    assert "No such command" in result.stderr


# ---- weights ----


class Bomb:
    """Unpickling this makes a file: the proof that code ran."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, str]]:
        return (open, ("code-ran", "w"))


def cut(source: str, target: str) -> None:
    content = Path(source).read_bytes()
    Path(target).write_bytes(content[: len(content) // 2])


def zipped(name: str, entry: str) -> None:
    with zipfile.ZipFile(name, "w") as archive:
        archive.writestr(entry, "x")


def pickled_state() -> None:
    torch.save({"prompt": torch.zeros(2), "hidden": Bomb()}, "learnt.pt")


def make_other_method() -> None:
    zsad.load("winclip", "small").save("winclip.safetensors")


CHECKPOINTS: dict[str, tuple[str, Callable[[], object], str]] = {
    "missing": ("gone.safetensors", lambda: None, "does not exist"),
    "folder": ("small", lambda: None, "is a folder"),
    "empty file": ("w.pt", lambda: Path("w.pt").touch(), "is empty"),
    "text file": ("w.pt", lambda: Path("w.pt").write_text("hello"), "not a file of weights"),
    "web page": ("w.pt", lambda: Path("w.pt").write_text("<!doctype html>"), "web page"),
    "Git LFS pointer": (
        "w.pt", lambda: Path("w.pt").write_text("version https://git-lfs.github.com/spec/v1\nsize 9\n"),
        "git lfs pull",
    ),
    "image": ("good.png", lambda: None, "not a file of weights"),
    "truncated": ("w.safetensors", lambda: cut("learnt.safetensors", "w.safetensors"), "damaged|not a whole"),
    "ZIP of other things": ("w.zip", lambda: zipped("w.zip", "readme.txt"), "zip archive of other things"),
    "ZIP with a false pickle": ("w.pt", lambda: zipped("w.pt", "a/data.pkl"), "damaged"),
    "pickle with code": ("w.pt", lambda: Path("w.pt").write_bytes(pickle.dumps(Bomb())), "run code|damaged"),
    "pickle with code among tensors": ("learnt.pt", pickled_state, "run code"),
    "pickle of a number": ("w.pt", lambda: torch.save(3, "w.pt"), "not a state dict"),
    "weights of something else": (
        "w.pt", lambda: torch.save({"fc.weight": torch.zeros(2)}, "w.pt"), "fc.weight|not .*layout",
    ),
    "other method": ("winclip.safetensors", make_other_method, "weights of winclip, not of anomalyclip"),
    "a backbone": ("small/small.safetensors", lambda: None, r"small\.safetensors: not a file of AnomalyCLIP"),
}  # fmt: skip


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_wrong_checkpoint(name: str, here: Path) -> None:
    path, make, reason = CHECKPOINTS[name]
    make()
    check(predict("good.png", *BACKBONE, "--method", "anomalyclip", "--checkpoint", path), FAILED, reason)
    assert not Path("code-ran").exists()
    assert not Path("zsad-results", "results.jsonl").exists()


def test_checkpoint_of_another_backbone(here: Path) -> None:
    result = predict("good.png", "--backbone", "other", "--checkpoint", "learnt.safetensors")
    check(result, FAILED, "trained on backbone 'small', not on 'other'")


def copy_backbone(**changes: bytes) -> None:
    Path("broken").mkdir()
    for file in Path("small").iterdir():
        Path("broken", file.name).write_bytes(file.read_bytes())
    for name, content in changes.items():
        Path("broken", name.replace("__", ".")).write_bytes(content)


BACKBONES: dict[str, tuple[str, Callable[[], object], str]] = {
    "missing path": ("weights/gone.pt", lambda: None, "no such file or folder"),
    "empty folder": ("hollow", lambda: Path("hollow").mkdir(), "hollow"),
    "text file": ("w.pt", lambda: Path("w.pt").write_text("hello"), "not a file of weights"),
    "pickle with code": ("w.pt", lambda: Path("w.pt").write_bytes(pickle.dumps(Bomb())), "run code|damaged"),
    "configuration damaged": ("broken", lambda: copy_backbone(config__json=b"{"), "config.json"),
    "configuration of nothing": ("broken", lambda: copy_backbone(config__json=b"{}"), "broken"),
    "weights truncated": (
        "broken", lambda: copy_backbone(small__safetensors=b"\x10\0\0\0\0\0\0\0{"), "whole safetensors",
    ),
    "weights missing": (
        "broken", lambda: (copy_backbone(), Path("broken/small.safetensors").unlink()), "small.safetensors",
    ),
    "another network's weights": ("w.pt", lambda: torch.save({"fc.weight": torch.zeros(2)}, "w.pt"), "w.pt"),
    "hub while offline": ("hf-hub:nobody/nothing", lambda: None, "offline"),
}  # fmt: skip


@pytest.mark.parametrize("name", BACKBONES)
def test_wrong_backbone(name: str, here: Path) -> None:
    path, make, reason = BACKBONES[name]
    make()
    check(predict("good.png", "--method", "winclip", "--backbone", path), FAILED, reason)
    assert not Path("code-ran").exists()


# ---- resuming ----


def test_resume_with_other_settings(here: Path) -> None:
    assert predict("good.png", *WEIGHTS).exit_code == DONE
    result = predict("good.png", *WEIGHTS, "--resume", "--class-name", "screw")
    check(result, WRONG_USAGE, "class_name was None and is now 'screw'")


@pytest.mark.parametrize(("file", "content"), [("settings.json", "{"), ("results.jsonl", "nonsense\n{}\n")])
def test_resume_damaged_results(here: Path, file: str, content: str) -> None:
    assert predict("good.png", *WEIGHTS).exit_code == DONE
    Path("zsad-results", file).write_text(content)
    check(predict("good.png", *WEIGHTS, "--resume"), FAILED, f"{file}.*damaged|{file}, line 1")


# ---- the real program ----


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (("gone.png", *WEIGHTS), WRONG_USAGE, "no such file"),
        (("bad.png", "good.png", *WEIGHTS), SOME_FAILED, "is a text file"),
    ],
)
def test_as_a_program(here: Path, arguments: tuple[str, ...], code: int, reason: str) -> None:
    Path("bad.png").write_text("hello")
    command = [sys.executable, "-c", "from zsad.cli import main; main()", "predict", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == code, result.stderr
    assert re.search(reason, result.stderr)
    assert "Traceback" not in result.stderr
    assert "Warning" not in result.stderr


def _dark(folder: Path) -> None:
    for number in range(3):
        values = np.full((32, 32), 900 if number < 2 else 4000, np.uint16)
        Image.fromarray(values).save(folder / f"dark{number}.png")


def test_depth_of_16_bit_files(here: Path) -> None:
    _dark(here)
    told = predict("dark*.png", *WEIGHTS)
    assert told.exit_code == DONE, told.output
    assert re.search("uses 10 bits of 16.*--bits 10", told.stderr)
    assert told.stderr.count("uses 10 bits") == 1
    depth = {bits: predict("dark*.png", *WEIGHTS, "--bits", bits, "--json") for bits in ("12", "AUTO")}
    assert all("uses 1" not in result.stderr for result in depth.values())
    scores = [[json.loads(line)["score"] for line in result.stdout.splitlines()] for result in depth.values()]
    assert scores[0] == scores[1]
    assert "ZSAD_BITS" not in os.environ


@pytest.mark.parametrize("bits", ["0", "17", "twelve", "1.5"])
def test_wrong_depth(here: Path, bits: str) -> None:
    check(predict("good.png", *WEIGHTS, "--bits", bits), WRONG_USAGE, "1 to 16, or auto")


@pytest.mark.parametrize("command", ["calibrate", "evaluate", "train"])
def test_depth_of_the_other_commands(here: Path, command: str) -> None:
    result = CliRunner().invoke(app, [command, "--bits", "auto", *(["x"] if command == "calibrate" else [])])
    check(result, WRONG_USAGE, "--bits auto is for predict")


def test_name_that_the_file_system_cannot_hold(here: Path) -> None:
    result = predict("good.png", "a\ud800.png", *WEIGHTS)
    check(result, SOME_FAILED, r"a\\ud800\.png: cannot be opened")
    assert "good.png" in Path("zsad-results/results.csv").read_text()

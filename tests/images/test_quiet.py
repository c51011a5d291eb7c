"""Decoders write nothing on the terminal, and files damaged in any way give one error each."""

from __future__ import annotations

import ast
import contextlib
import logging
import random
import re
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.bad_files import FORMATS
from helpers.image_bytes import encode
from images.test_depth import RAMP, _dicom
from images.test_tiff import DEEP, tiff
from zsad.errors import ImageReadError, ImageWarning
from zsad.images import looking
from zsad.images.looking import Looking
from zsad.images.preparing import Preparation
from zsad.images.quiet import DECODERS, quiet_decoders
from zsad.images.reading import read_image


def mutated(content: bytes, chance: random.Random, last: int | None = None) -> bytes:
    changed = bytearray(content)
    for _ in range(chance.randint(1, 8)):
        place = chance.randrange(min(len(changed), last or len(changed)))
        changed[place] = chance.randrange(256)
    if chance.random() < 0.2:
        del changed[chance.randrange(1, len(changed)) :]
    return bytes(changed)


def reason(path: Path) -> str:
    """Why a file cannot be read; empty if it can."""
    try:
        return "" if read_image(path, bits=16).mode == "RGB" else "not RGB"
    except ImageReadError as error:
        return str(error)


def nifti(folder: Path) -> bytes:
    nibabel = pytest.importorskip("nibabel")
    nibabel.save(nibabel.Nifti1Image(np.zeros((5, 6, 7), np.int16), np.eye(4)), folder / "volume.nii")
    return (folder / "volume.nii").read_bytes()


def test_medical_decoders_are_quiet(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    chance = random.Random(0)
    dicom, volume = _dicom(RAMP), nifti(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        for number in range(60):
            for name, content in (("a.dcm", mutated(dicom, chance)), ("a.nii", mutated(volume, chance, 352))):
                (tmp_path / name).write_bytes(content)
                assert len(reason(tmp_path / name)) < 700, number
    assert capfd.readouterr().err == ""
    logging.getLogger("pydicom").warning("a message of the program's own use of pydicom")


@pytest.mark.parametrize(
    "name", ["a\ud800.png", "\ud800.tif#page=1", "\ud800.nii.gz#slice=1", "\ud800/a.dcm"]
)
def test_name_that_the_file_system_cannot_hold(name: str) -> None:
    with pytest.raises(ImageReadError, match="cannot be opened"):
        read_image(name)


@pytest.mark.parametrize("error", [RuntimeError("odd"), KeyError("x"), MemoryError(), RecursionError("deep")])
def test_unexpected_error_is_that_of_the_image(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("zsad.images.reading.check_size", fail)
    with pytest.raises(ImageReadError, match=r"ndarray: (cannot be read|not enough memory)"):
        read_image(RAMP)


@pytest.mark.slow
def test_2000_mutated_images(tmp_path: Path) -> None:
    chance = random.Random(0)
    sources = dict(FORMATS) | {
        "deep tiff": tiff(DEEP, photometric="rgb"),
        "zlib tiff": tiff(DEEP, photometric="rgb", compression="zlib", predictor=True),
        "float tiff": tiff(np.float64(DEEP) / 65535, photometric="rgb"),
        "progressive": encode(Image.new("RGB", (40, 30), (9, 8, 200)), "JPEG", progressive=True),
        "pgm17": b"P5 8 8 17\n" + bytes(range(64)),
        "dicom": _dicom(RAMP),
        "nifti": nifti(tmp_path),
    }
    names = sorted(sources)
    started = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number in range(2000):
            name = names[number % len(names)]
            path = tmp_path / ("a.nii" if name == "nifti" else "a.image")
            path.write_bytes(mutated(sources[name], chance))
            before = time.perf_counter()
            assert reason(path).isprintable(), (number, name)
            assert time.perf_counter() - before < 10, (number, name)
    assert time.perf_counter() - started < 120


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "jpeg", "group4"])
def test_libtiff_is_quiet(compression: str, capfd: pytest.CaptureFixture[str]) -> None:
    levels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    image = Image.fromarray(levels).convert("1" if compression == "group4" else "RGB")
    content = encode(image, "TIFF", compression=compression)
    chance = random.Random(1)
    for _ in range(40):
        with contextlib.suppress(ImageReadError):
            read_image(mutated(content, chance))
    assert capfd.readouterr() == ("", "")


def test_notes_for_the_user_come_through_while_other_threads_read(tmp_path):
    """Two threads read; the note of one is not silenced by the other, whatever module it is blamed on."""
    pages = [Image.new("L", (8, 8), value) for value in (10, 200)]
    pages[0].save(tmp_path / "two.tif", save_all=True, append_images=pages[1:])
    reading, told_of = threading.Event(), threading.Event()

    def read_on():
        with quiet_decoders():
            reading.set()
            told_of.wait(10)

    def read_beside():
        """After `pytest.warns`, whose filter would otherwise stand before that of the other reader."""
        other = threading.Thread(target=read_on)
        other.start()
        try:
            assert reading.wait(10)
            Looking(Preparation(8, (0, 0, 0), (1, 1, 1))).read(tmp_path / "two.tif")
        finally:
            told_of.set()
            other.join()

    with pytest.warns(ImageWarning, match="several pages"):
        read_beside()


def test_no_other_module_of_images_is_blamed_for_notes():
    folder = Path(looking.__file__).parent
    callers = {
        f"zsad.images.{path.stem}"
        for path in folder.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("read_image", "find_and_tell")
    }
    assert callers == {"zsad.images.looking"}
    assert not any(re.match(DECODERS, name) for name in callers)
    assert re.match(DECODERS, "zsad.images.decoding")

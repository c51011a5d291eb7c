"""Whatever is not a readable image raises one `ImageReadError` with its name, the reason and what to do."""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from helpers.bad_files import BAD_FILES, FORMATS, IMAGE
from helpers.image_bytes import encode
from zsad.errors import ImageReadError
from zsad.images.reading import read_image


def refusal(source: object, **options: int) -> str:
    """Returns the message, after checking the rules for all messages."""
    with pytest.raises(ImageReadError) as caught:
        read_image(source, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert message.isprintable()
    assert "<_io" not in message
    assert len(message) < 700
    return message


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_file(name: str, tmp_path: Path) -> None:
    content, reason = BAD_FILES[name]
    path = tmp_path / "part.png"
    path.write_bytes(content)
    message = refusal(path)
    assert message.startswith(f"{path}: ")
    assert re.search(reason, message), message
    assert refusal(content) == message.replace(f"{path}: ", "bytes: ")
    assert refusal(io.BytesIO(content)) == message.replace(f"{path}: ", "file object: ")
    with path.open("rb") as stream:
        assert refusal(stream) == message


BAD_PATHS: dict[str, tuple[Callable[[Path], str], str]] = {
    "missing": (lambda folder: str(folder / "no.png"), "no such file"),
    "missing folder": (lambda folder: str(folder / "no" / "no.png"), "no such file"),
    "empty": (lambda folder: "", "the path is empty"),
    "folder": (str, "is a folder"),
    "below a file": (lambda folder: str(folder / "ok.png" / "x.png"), "cannot be opened"),
    "name too long": (lambda folder: str(folder / ("x" * 300)), "cannot be opened"),
    "null character": (lambda folder: str(folder / "a\0b.png"), "cannot be opened"),
    "web address": (lambda folder: "https://example.org/part.png", "download it first"),
    "link to nothing": (lambda folder: str(folder / "dangling.png"), "link to a file that does not exist"),
    "link to itself": (lambda folder: str(folder / "self.png"), "cannot be opened"),
    "pipe": (lambda folder: str(folder / "pipe.png"), "device or a pipe"),
    "device": (lambda folder: "/dev/zero", "device or a pipe"),
    "pattern without a match": (lambda folder: str(folder / "*.jpg"), "no file matches this pattern"),
    "name with a line break and lone bytes": (
        lambda folder: os.fsdecode(b"a\n\xffb.png"),
        r"a\\n\\udcffb.png: no such",
    ),
}


@pytest.mark.skipif(os.name == "nt", reason="pipes, devices and links as on Unix")
@pytest.mark.parametrize("name", BAD_PATHS)
def test_bad_path(name: str, tmp_path: Path) -> None:
    (tmp_path / "ok.png").write_bytes(FORMATS["png"])
    (tmp_path / "dangling.png").symlink_to(tmp_path / "gone.png")
    (tmp_path / "self.png").symlink_to(tmp_path / "self.png")
    os.mkfifo(tmp_path / "pipe.png")
    make, reason = BAD_PATHS[name]
    assert re.search(reason, refusal(make(tmp_path)))


def test_permission_denied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "part.png"
    path.write_bytes(FORMATS["png"])

    def refuse(*_: object) -> None:  # root may read a file of any mode
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    assert "permission denied; allow reading it" in refusal(path)
    monkeypatch.setattr(os, "scandir", refuse)
    assert "permission denied" in refusal(tmp_path)


def test_failing_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class FailingDisk(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise OSError(5, "Input/output error")

    path = tmp_path / "part.png"
    path.write_bytes(FORMATS["png"])
    monkeypatch.setattr("builtins.open", lambda *_: contextlib.closing(FailingDisk()))
    assert "Input/output error" in refusal(path)
    assert "Input/output error" in refusal(FailingDisk())


def test_out_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Image.Image, "convert", exhausted)
    assert "not enough memory" in refusal(FORMATS["gif"])


BAD_OBJECTS: dict[str, tuple[object, str]] = {
    "None": (None, "NoneType: is not an image; expected a path"),
    "number": (3.5, "float: is not an image"),
    "list of lists": ([[1, 2], [3, 4]], "list: is not an image"),
    "NumPy scalar": (np.float32(0.5), "0 dimensions"),
    "one dimension": (np.zeros(9, np.uint8), "1 dimensions, expected 2 or 3"),
    "batch": (np.zeros((2, 3, 8, 8), np.float32), "this is a batch"),
    "batch of one": (torch.zeros(1, 3, 8, 8), "this is a batch"),
    "no pixels": (np.zeros((0, 8, 3), np.uint8), "no pixels"),
    "no channels": (np.zeros((8, 8, 0), np.uint8), "no pixels"),
    "five channels": (np.zeros((8, 8, 5), np.uint8), "5 channels"),
    "uint8 channels first": (np.zeros((3, 8, 9), np.uint8), r"looks like \(C, H, W\).*transpose\(1, 2, 0\)"),
    "float channels last": (np.zeros((8, 9, 3), np.float32), r"looks like \(H, W, C\).*transpose\(2, 0, 1\)"),
    "tensor channels last": (torch.zeros(8, 9, 3), r"looks like \(H, W, C\).*permute\(2, 0, 1\)"),
    "int64": (np.zeros((8, 8, 3), np.int64), r"int64 array.*astype\('uint8'\)"),
    "complex": (np.zeros((8, 8), np.complex64), "complex64"),
    "objects": (np.array([[None, 1]], dtype=object), "object array"),
    "strings": (np.array([["a", "b"]]), "not an image"),
    "float 0 to 255": (np.full((3, 8, 8), 200.0), "from 200 to 200.*divide by 255"),
    "normalised": (
        torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(0)),
        "undo the normalisation",
    ),
    "NaN": (np.full((3, 8, 8), np.nan), "not finite"),
    "infinite": (torch.full((3, 8, 8), float("inf")), "not finite"),
    "meta tensor": (torch.zeros(3, 8, 8, device="meta"), "cannot become a NumPy array"),
    "sparse tensor": (torch.zeros(8, 8).to_sparse(), "cannot become a NumPy array"),
    "text file object": (io.StringIO("hello"), "str, expected bytes; open it with mode 'rb'"),
    "mode F beyond 65535": (
        Image.fromarray(np.array([[0, 1e6]], np.float32)),
        r"0\.\.1, 0\.\.255 or 0\.\.65535",
    ),
    "mode F below 0": (Image.fromarray(np.array([[-5, 1]], np.float32)), "mode 'F' with values from -5 to 1"),
    "mode F with NaN": (Image.fromarray(np.array([[np.nan, 1]], np.float32)), "not finite"),
    "mode I of 32 bits": (Image.fromarray(np.array([[0, 2**30]], np.int32)), r"0\.\.255 or 0\.\.65535"),
    "mode I below 0, as in CT": (Image.fromarray(np.array([[-1024, 3000]], np.int32)), "-1024 to 3000"),
    "Pillow 0 x 4": (Image.new("RGB", (0, 4)), "0 x 4 pixels"),
}


@pytest.mark.parametrize("name", BAD_OBJECTS)
def test_bad_object(name: str) -> None:
    source, reason = BAD_OBJECTS[name]
    assert re.search(reason, refusal(source))


def test_closed_objects(tmp_path: Path) -> None:
    path = tmp_path / "part.png"
    path.write_bytes(FORMATS["png"])
    stream = path.open("rb")
    stream.close()
    assert "closed file" in refusal(stream)
    lazy = Image.open(path)
    lazy.close()
    assert refusal(lazy).startswith(f"{path}: ")


def test_limit_holds_for_every_kind_of_input() -> None:
    chw = np.zeros((3, 24, 32), np.float32)
    for source in (FORMATS["png"], IMAGE, np.zeros((24, 32, 3), np.uint8), chw, torch.tensor(chw)):
        message = refusal(source, max_pixels=100)
        assert "32 x 24 = 768 pixels are more than the limit of 100" in message
        assert "ZSAD_MAX_PIXELS=768" in message


def test_small_file_of_very_many_pixels_is_refused_before_decoding() -> None:
    bomb = encode(Image.new("1", (20000, 20000)), "PNG")
    assert len(bomb) < 100_000
    assert "20000 x 20000" in refusal(bomb)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=300))
@example(b"\x00\x00\x00\x0cJXL ")
def test_random_bytes_never_raise_anything_else(content: bytes) -> None:
    with contextlib.suppress(ImageReadError):
        read_image(content)


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(sorted(FORMATS)),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(max_size=4)), min_size=1, max_size=6),
    st.floats(0.3, 1),
)
def test_mutated_files_never_raise_anything_else(
    suffix: str, edits: list[tuple[float, bytes]], kept: float
) -> None:
    content = bytearray(FORMATS[suffix])
    for place, patch in edits:
        start = int(place * len(content))
        content[start : start + len(patch)] = patch
    with contextlib.suppress(ImageReadError):
        result = read_image(bytes(content[: int(kept * len(content)) + 1]), max_pixels=1_000_000)
        assert result.mode == "RGB"

"""Files of tensors: every format read, no code run, clear words for what is something else."""

from __future__ import annotations

import io
import itertools
import pickle
import random
import re
import subprocess
import sys
import types
import unittest.mock
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from zsad.errors import WeightsError
from zsad.files.tensors import file_kind, read_checkpoint, read_tensors

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2, dtype=torch.float16)}


class Module(nn.Module):
    """All that an archive of weights holds: parameters, buffers, precisions, nesting, a shared storage."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
        self.attention = nn.MultiheadAttention(4, 2)
        self.norm = nn.LayerNorm(4).double()
        self.scale = nn.Parameter(torch.tensor(4.6))
        self.register_buffer("resolution", torch.tensor(224))
        self.register_buffer("flags", torch.tensor([True, False]))
        self.register_buffer("column", torch.arange(12.0).reshape(3, 4)[:, 1])
        self.register_buffer("empty", torch.zeros(0, 3))
        self.half_layer = nn.Linear(4, 2).half()
        self.brain = nn.Parameter(torch.randn(3, dtype=torch.bfloat16))

    def forward(self, x: Tensor) -> Tensor:
        x = self.layers[0](x)
        return self.attention(x, x, x)[0] + self.scale


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Tensor]]:
    torch.manual_seed(0)
    module = Module().eval()
    path = tmp_path_factory.mktemp("script") / "ViT-tiny.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(module, torch.randn(1, 2, 3)).save(str(path))
    return path, module.state_dict()


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor), name


def test_torchscript_archive(archive: tuple[Path, dict[str, Tensor]]) -> None:
    path, state = archive
    assert file_kind(path) == "torchscript"
    assert_equal(read_tensors(path), state)


def test_torchscript_archive_under_another_name(
    archive: tuple[Path, dict[str, Tensor]], tmp_path: Path
) -> None:
    renamed = tmp_path / "weights.bin"
    renamed.write_bytes(archive[0].read_bytes())
    assert_equal(read_tensors(renamed), archive[1])


def test_torchscript_archive_runs_nothing(tmp_path: Path) -> None:
    path = tmp_path / "evil.pt"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("evil/data.pkl", pickle.dumps(subprocess.Popen))
        file.writestr("evil/constants.pkl", b"")
    with pytest.raises(WeightsError, match=r"it refers to subprocess\.Popen, which is not loaded"):
        read_tensors(path)


def test_torchscript_tensor_outside_its_storage(
    archive: tuple[Path, dict[str, Tensor]], tmp_path: Path
) -> None:
    path = tmp_path / "short.pt"
    with zipfile.ZipFile(archive[0]) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name)[:4] if "/data/" in name else old.read(name))
    with pytest.raises(WeightsError, match="damaged TorchScript archive"):
        read_tensors(path)


@pytest.mark.parametrize("legacy", [False, True])
def test_torch_files(tmp_path: Path, legacy: bool) -> None:
    path = tmp_path / "a.pth"
    torch.save(OrderedDict(STATE), path, _use_new_zipfile_serialization=not legacy)
    assert file_kind(path) == "torch"
    assert_equal(read_tensors(path), STATE)


def test_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "a.whatever"
    save_file(STATE, path)
    assert file_kind(path) == "safetensors"
    assert_equal(read_tensors(path), STATE)


@pytest.mark.parametrize("key", ["state_dict", "model", "model_state_dict"])
def test_wrapped_and_parallel(tmp_path: Path, key: str) -> None:
    path = tmp_path / "a.pt"
    torch.save({"epoch": 3, key: {f"module.{name}": tensor for name, tensor in STATE.items()}}, path)
    assert_equal(read_tensors(path), STATE)


def test_checkpoint_keeps_its_nesting(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    torch.save({"prompt_learner": STATE, "epoch": 15}, path)
    content = read_checkpoint(path)
    assert content["epoch"] == 15
    assert_equal(content["prompt_learner"], STATE)


def test_python_objects_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save({"model": Path("a")}, path)
    with pytest.raises(
        WeightsError, match=r"holds Python objects \(pathlib\.\w*Path\), which could run code"
    ):
        read_tensors(path)


def web_page() -> bytes:
    return b"\n<!DOCTYPE html><html>404</html>"


def lfs_pointer() -> bytes:
    return b"version https://git-lfs.github.com/spec/v1\noid sha256:30\nsize 934088680\n"


def truncated(kind: str) -> bytes:
    buffer = io.BytesIO()
    if kind == "legacy":
        torch.save(STATE, buffer, _use_new_zipfile_serialization=False)
    else:
        torch.save(STATE, buffer)
    return buffer.getvalue()[:-100]


def other_zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("photo.jpg", b"")
    return buffer.getvalue()


def saved(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty: download it again"),
        (web_page(), "is a web page"),
        (lfs_pointer(), "only a git-lfs pointer to a file of 934 MB: run `git lfs pull`"),
        (truncated("zip"), "is damaged or truncated: download it again"),
        (truncated("legacy"), "is damaged, truncated or not PyTorch weights"),
        (other_zip(), r"zip archive of other things \(photo.jpg\)"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "is not a file of weights"),
        (b"\xff" * 7 + b"\x00{" + b"a" * 100, "is not a file of weights"),
        (b"\x40" + bytes(7) + b'{"a": 1', "is not a whole safetensors file"),
        (saved([1, 2]), "holds a list, not a state dict"),
        (saved({"epoch": 3}), r"holds no state dict \(found: epoch\)"),
        (saved({}), r"holds no state dict \(found: nothing\)"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_other_files(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=message) as raised:
        read_tensors(path)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"none\.pt does not exist"):
        read_tensors(tmp_path / "none.pt")
    with pytest.raises(WeightsError, match="is a folder"):
        read_tensors(tmp_path)


def test_safetensors_cut_in_the_data(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file(STATE, path)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(WeightsError, match="is not a whole safetensors file"):
        read_tensors(path)


# --- archives that take for ever


@pytest.fixture
def linked(tmp_path: Path) -> Callable[[Callable[[list[Any]], None]], Path]:
    """Writes a TorchScript archive of 41 modules whose attributes the caller links."""

    def write(link: Callable[[list[Any]], None]) -> Path:
        name = "__torch__"
        module = types.ModuleType(name)
        kind = type("Linked", (), {"__module__": name})
        module.Linked = kind  # type: ignore[attr-defined]
        modules = [kind() for _ in range(41)]
        link(modules)
        path = tmp_path / "linked.pt"
        with unittest.mock.patch.dict(sys.modules, {name: module}), zipfile.ZipFile(path, "w") as file:
            file.writestr("a/data.pkl", pickle.dumps(modules[0], protocol=2))
            file.writestr("a/constants.pkl", b"")
        return path

    return write


def test_doubly_linked_modules_end(linked: Callable[[Callable[[list[Any]], None]], Path]) -> None:
    def twice(modules: list[Any]) -> None:
        for upper, lower in itertools.pairwise(modules):
            upper.left = upper.right = lower

    with pytest.raises(WeightsError, match="its modules have more than 100000 names"):
        read_tensors(linked(twice))


def test_a_module_inside_itself(linked: Callable[[Callable[[list[Any]], None]], Path]) -> None:
    def ring(modules: list[Any]) -> None:
        modules[0].a, modules[1].b = modules[1], modules[0]

    with pytest.raises(WeightsError, match=r"the module 'a\.b' contains itself"):
        read_tensors(linked(ring))


@pytest.mark.parametrize("other", ["constants.pkl", "version"])
def test_an_archive_that_would_fill_the_memory(tmp_path: Path, other: str) -> None:
    path = tmp_path / "bomb.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a/data.pkl", pickle.dumps(3))
        file.writestr(f"a/{other}", b"")
        with file.open("a/data/0", "w", force_zip64=True) as storage:
            for _ in range(100):
                storage.write(bytes(1_000_000))
    with pytest.raises(WeightsError, match="would be 100 MB in memory"):
        read_tensors(path)


def test_a_header_of_a_million_tensors(tmp_path: Path) -> None:
    path = tmp_path / "many.safetensors"
    path.write_bytes((80_000_000).to_bytes(8, "little") + b"{" + b" " * 1000)
    with pytest.raises(WeightsError, match="has a header of 80 MB"):
        read_tensors(path)


@pytest.mark.parametrize("kind", ["script", "torch", "safetensors"])
def test_flipped_bits_are_weights_errors(
    archive: tuple[Path, dict[str, Tensor]], tmp_path: Path, kind: str
) -> None:
    """Seeded: one flipped bit either leaves tensors or gives one line that names the file."""
    path = tmp_path / "flipped"
    if kind == "script":
        whole = archive[0].read_bytes()
    else:
        (torch.save if kind == "torch" else save_file)(STATE, path)
        whole = path.read_bytes()
    chance = random.Random(20)
    zip_versions = [match.start() + 6 for match in re.finditer(b"PK\x01\x02", whole)]
    for place in [*zip_versions, *(chance.randrange(len(whole)) for _ in range(100)), *range(60)]:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << chance.randrange(8) if place not in zip_versions else 0x80
        path.write_bytes(damaged)
        try:
            read_tensors(path)
        except WeightsError as error:
            assert str(path) in str(error)  # noqa: PT017 - a file that is still whole is fine

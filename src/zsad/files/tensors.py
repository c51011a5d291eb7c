"""Reads files of tensors without ever running what is inside them.

Formats: safetensors; PyTorch's own format, through `torch.load(weights_only=True)`; and TorchScript archives,
the format of OpenAI's CLIP weights. TorchScript archives are read here, because `torch.jit.load` (deprecated)
builds the program inside the archive, and only its tensors are needed.
"""

from __future__ import annotations

import io
import pickle
import re
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from zsad.errors import WeightsError, one_line

if TYPE_CHECKING:
    from torch import Tensor

FileKind = Literal["safetensors", "torchscript", "torch"]

AGAIN = "download it again"
LONGEST_HEADER = 100_000_000  # bytes that the safetensors format allows its header
LARGEST_READ_HEADER = 8_000_000  # bytes; the largest CLIP has a header of 0.1 MB
MOST_NAMES = 100_000  # of modules and tensors in a TorchScript archive; the largest CLIP has some thousands
SMALL_ARCHIVE = 64_000_000  # bytes of all parts that every archive may have
MOST_EXPANSION = 20  # times that the parts of an archive may be larger than its file; weights hardly compress
WRAPPERS = (
    "state_dict",
    "model_state_dict",
    "model",
)  # keys under which training scripts store a state dict
PARALLEL_PREFIX = "module."  # prefix of every name in torch's (Distributed)DataParallel
STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
}


def file_kind(path: Path) -> FileKind:
    """The format of a file of tensors, by its content; its suffix is ignored.

    Raises:
        WeightsError: the file does not exist or has another format; the message says what it is.
    """
    if not path.is_file():
        raise WeightsError(
            f"{path} {'is a folder' if path.is_dir() else 'does not exist'}: give a file of weights"
        )
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        raise WeightsError(f"cannot read {path}: {error.strerror}") from error
    if not head:
        raise WeightsError(f"{path} is empty: {AGAIN}")
    if head.startswith(b"version https://git-lfs"):
        size = re.search(rb"size (\d+)", head)
        whole = f" of {int(size[1]) / 1e6:.0f} MB" if size else ""
        raise WeightsError(
            f"{path} is only a git-lfs pointer to a file{whole}: run `git lfs pull` in its repository"
        )
    if head.lstrip()[:1] == b"<":
        raise WeightsError(f"{path} is a web page (probably a saved error message), not weights: {AGAIN}")
    if head.startswith(b"PK\x03\x04"):
        return _zip_kind(path)
    # Checked before the mark of pickles, because the length of a safetensors header may look like that mark.
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= LONGEST_HEADER:
        _check_header(head, path)
        return "safetensors"
    if head.startswith(b"\x80"):
        return "torch"
    raise WeightsError(
        f"{path} is not a file of weights (it begins with {head[:8]!r}): "
        "give a .safetensors, PyTorch .pt/.pth/.bin or TorchScript file"
    )


def _zip_kind(path: Path) -> FileKind:
    """Distinguishes a TorchScript archive from a file of `torch.save`."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            _check_uncompressed(archive, path)
    except WeightsError:
        raise
    except Exception as error:  # a damaged archive may fail anywhere inside zipfile
        raise WeightsError(f"{path} is damaged or truncated: {AGAIN}") from error
    if not any(name.endswith("/data.pkl") for name in names):
        raise WeightsError(
            f"{path} is a zip archive of other things ({', '.join(names[:3])}), not PyTorch weights"
        )
    return "torchscript" if any(name.endswith("/constants.pkl") for name in names) else "torch"


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """The content of a file, nested as it was saved, which files of the methods' authors need.

    Args:
        path: safetensors, PyTorch or TorchScript file.

    Returns:
        Tensors, numbers and strings by name; tensors are on the CPU, in the precision of the file.

    Raises:
        WeightsError: the file is missing or damaged, has another format, or holds Python objects.
    """
    path = Path(path)
    kind = file_kind(path)
    if kind == "safetensors":
        return _read_safetensors(path)
    if kind == "torchscript":
        return ScriptArchive.read(path)
    return _read_torch(path)


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """The state dict of a file: tensors by name.

    A state dict that a training script wrapped in {"state_dict": ...} is unwrapped, the prefix "module." of
    parallel training is removed, and everything that is not a tensor is left out.

    Args:
        path: safetensors, PyTorch or TorchScript file.

    Raises:
        WeightsError: the file is missing or damaged, has another format, or holds Python objects or no
            tensors.
    """
    import torch

    content: Mapping[str, Any] = read_checkpoint(path)
    wrapper = next((key for key in WRAPPERS if isinstance(content.get(key), Mapping)), None)
    if wrapper is not None:
        content = content[wrapper]
    tensors = {
        name: value.detach()
        for name, value in content.items()
        if isinstance(name, str) and isinstance(value, torch.Tensor)
    }
    if not tensors:
        keys = ", ".join(map(str, list(content)[:5])) or "nothing"
        raise WeightsError(
            f"{path} holds no state dict (found: {keys}): save it as torch.save(model.state_dict(), path)"
        )
    if all(name.startswith(PARALLEL_PREFIX) for name in tensors):
        return {name.removeprefix(PARALLEL_PREFIX): tensor for name, tensor in tensors.items()}
    return tensors


def _check_uncompressed(archive: zipfile.ZipFile, path: Path) -> None:
    """Refuses an archive that would fill the memory: PyTorch and TorchScript store tensors uncompressed.

    Raises:
        WeightsError: its parts are many times as large as the file.
    """
    parts = sum(part.file_size for part in archive.infolist())
    size = path.stat().st_size
    if parts > max(MOST_EXPANSION * size, SMALL_ARCHIVE):
        raise WeightsError(
            f"{path} is {size / 1e6:.1f} MB and would be {parts / 1e6:.0f} MB in memory, as no published "
            f"weights: {AGAIN}"
        )


def _check_header(head: bytes, path: Path) -> None:
    """Refuses a safetensors file whose header would take minutes to read.

    Raises:
        WeightsError: the header is longer than that of any CLIP by far.
    """
    length = int.from_bytes(head[:8], "little")
    if length > LARGEST_READ_HEADER:
        raise WeightsError(
            f"{path} has a header of {length / 1e6:.0f} MB, and no weights of a CLIP have more than "
            f"{LARGEST_READ_HEADER / 1e6:.0f}: {AGAIN}"
        )


def _read_safetensors(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(path))
    except (SafetensorError, ValueError, OSError) as error:
        raise WeightsError(
            f"{path} is not a whole safetensors file ({one_line(error)[:300]}): {AGAIN}"
        ) from error


def _read_torch(path: Path) -> dict[str, Any]:
    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns about unusual pickles; real problems raise an error
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file may fail anywhere inside torch
        text = str(error)
        refused = re.search(r"GLOBAL ([\w.]+)", text) or re.search(r"(?:global|class) ([\w.]+\.[\w.]+)", text)
        if refused:
            raise WeightsError(
                f"{path} holds Python objects ({refused[1]}), which could run code and are not loaded: "
                "save only the state dict, best as safetensors"
            ) from error
        raise WeightsError(f"{path} is damaged, truncated or not PyTorch weights: {AGAIN}") from error
    if not isinstance(content, Mapping):
        raise WeightsError(
            f"{path} holds a {type(content).__name__}, not a state dict: save model.state_dict()"
        )
    return dict(content)


class ScriptArchive(pickle.Unpickler):
    """Reads the tensors of a TorchScript archive and cannot create anything else.

    The archive's data.pkl describes the module tree. An unpickler calls whatever `find_class` returns. This
    one returns empty classes for those of the archive, a tensor builder, lists and ordered dicts, and refuses
    every other name, so that no code from the archive or elsewhere is run.
    """

    def __init__(self, archive: zipfile.ZipFile, root: str) -> None:
        super().__init__(io.BytesIO(archive.read(f"{root}/data.pkl")))
        self._archive = archive
        self._root = root
        self._names = 0
        self._storages: dict[str, Tensor] = {}
        # One class per file, because a pickle can set attributes of a class, which must not outlive the file.
        self._module = type("ScriptModule", (), {})

    @classmethod
    def read(cls, path: Path) -> dict[str, Any]:
        """Tensors by their dotted names in the state dict of the module.

        Raises:
            WeightsError: the archive is damaged, or holds anything other than modules and tensors.
        """
        try:
            with zipfile.ZipFile(path) as archive:
                root = next(name for name in archive.namelist() if name.endswith("/data.pkl")).split("/")[0]
                reader = cls(archive, root)
                return dict(reader._walk(reader.load(), "", ()))
        except pickle.UnpicklingError as error:
            raise WeightsError(f"{path} is not an archive of plain weights: {error}") from error
        except Exception as error:  # a damaged archive may fail anywhere
            raise WeightsError(
                f"{path} is a damaged TorchScript archive ({one_line(error)[:300]}): {AGAIN}"
            ) from error

    def find_class(self, module: str, name: str) -> Any:
        """The class or function for a name that a pickle of modules may refer to."""
        if module == "__torch__" or module.startswith("__torch__."):
            return self._module
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return self._tensor
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch.jit._pickle" and name.startswith("build_") and name.endswith("list"):
            return list
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        raise pickle.UnpicklingError(f"it refers to {module}.{name}, which is not loaded")

    def persistent_load(self, pid: Any) -> Tensor:
        """A storage of the archive as a flat tensor."""
        import torch

        _, dtype, key, _, _ = pid
        kind = getattr(torch, dtype)
        if f"{key} {dtype}" not in self._storages:
            data = bytearray(self._archive.read(f"{self._root}/data/{key}"))
            self._storages[f"{key} {dtype}"] = (
                torch.frombuffer(data, dtype=kind) if data else torch.empty(0, dtype=kind)
            )
        return self._storages[f"{key} {dtype}"]

    def _tensor(self, storage: Tensor, offset: int, size: Any, stride: Any, *_: Any) -> Tensor:
        """A tensor over a storage; torch refuses a tensor that reaches outside it."""
        return storage.as_strided(tuple(size), tuple(stride), offset)

    def _walk(self, module: Any, prefix: str, above: tuple[int, ...]) -> Iterator[tuple[str, Tensor]]:
        """The tensors of a module and those inside it, under each name that they have.

        Raises:
            pickle.UnpicklingError: a module contains itself, or the modules have more names than any
                network.
        """
        import torch

        if id(module) in above:
            raise pickle.UnpicklingError(f"the module {prefix.rstrip('.')!r} contains itself")
        for name, value in vars(module).items():
            self._names += 1
            if self._names > MOST_NAMES:
                raise pickle.UnpicklingError(f"its modules have more than {MOST_NAMES} names")
            if isinstance(value, torch.Tensor):
                yield prefix + name, value
            elif isinstance(value, self._module):
                yield from self._walk(value, f"{prefix}{name}.", (*above, id(module)))


def mismatches(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> str:
    """Describes how names and shapes of tensors differ from the expected ones.

    Args:
        expected: tensors of the network by name.
        found: tensors of the file by name.

    Returns:
        Missing, unexpected and wrongly shaped entries, at most five of each; "" if all fit.
    """
    wrong = {
        "missing": sorted(expected.keys() - found.keys()),
        "unexpected": sorted(found.keys() - expected.keys()),
        "wrong shape": [
            f"{name} {tuple(found[name].shape)} instead of {tuple(expected[name].shape)}"
            for name in sorted(expected.keys() & found.keys())
            if found[name].shape != expected[name].shape
        ],
    }
    return "; ".join(
        f"{title}: {', '.join(names[:5])}{f' and {len(names) - 5} more' if len(names) > 5 else ''}"
        for title, names in wrong.items()
        if names
    )

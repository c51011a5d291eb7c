"""Caches the outputs of a frozen image encoder for the images of a training on disk.

If nothing that is learnt enters the image encoder, its outputs are the same in every epoch. They are
computed once per image and later read from memory-mapped files, so that the image encoder does not run
again. One file holds the features and the mask of one image. Its name is a hash of everything that they
depend on: the contents of image and mask, the preparation, the weights of the backbone, the method and its
relevant settings. A changed image or setting therefore makes a new entry, and trainings may share a folder.
Entries appear in one step and carry a checksum; a damaged one is computed again.

Each image goes through the image encoder alone, so that an entry computed again is the same to the bit (with
the same software and number of threads on the same processor), and a training that was killed resumes to the
same weights. Without the cache the images of a step go through together, which is the same only to rounding.

The name depends on the version of zsad but not on the code of the method: after changing `features` of a
method, empty the folder.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from zsad._version import __version__
from zsad.backbones.transformer import Mlp
from zsad.data.mosaic import Mosaic, prepare_item
from zsad.errors import ConfigError, ZsadError, unknown_name
from zsad.files.atomic import atomic_file
from zsad.files.json_text import parse_object
from zsad.images.names import file_and_part
from zsad.types import Sample

if TYPE_CHECKING:
    from zsad.images.preparing import Preparation
    from zsad.methods.base import Method

CachePrecision = Literal["fp32", "bf16", "fp16"]
STORED_AS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
HEADER_KEY = "zsad_features"
FORMAT = 2  # in format 1 the last bits of an entry depended on the batch
MASK = "mask"
READ_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class CachedSample:
    """One labelled image, ready for a batch: its features, or the image to compute them from.

    Attributes:
        key: name of the entry; None for an image that is not cached.
        stored: fields of the method's features without the batch dimension; None if not computed yet.
        image: (3, S, S) float32, resized and normalised; None if `stored` is given.
        mask: (S, S) uint8 in {0, 1}, 1 where anomalous; None for an anomalous image without a mask.
        label: 1 anomalous, 0 normal.
        class_name: as prompts should read it.
    """

    key: str | None
    stored: Mapping[str, Tensor] | None
    image: NDArray[np.float32] | None
    mask: NDArray[np.uint8] | None
    label: int
    class_name: str


def cacheable_features(method: type[Method], settings: Mapping[str, Any]) -> type[Any]:
    """The dataclass of (B, ...) tensors that a method's `features_for_loss` returns.

    Args:
        method: class of the method.
        settings: settings of the method that the user chose, by name.

    Raises:
        ConfigError: what the method learns enters its image encoder.
    """
    kind = method.cached_features(settings)
    if kind is None:
        also = "" if method.cached_features({}) is None else " with these settings"
        raise ConfigError(
            f"{method.INFO.name} has no features to cache{also}, since what it learns, or another "
            "image, enters the image encoder, which must run in every step; train it without --cache"
        )
    return kind


class FeatureCache:
    """The features of one method on one backbone, kept in a folder.

    Attributes:
        folder: folder of the entries, inside the given one.
        computed: number of images that went through the image encoder.
    """

    def __init__(
        self,
        root: str | Path,
        method: Method,
        *,
        fingerprint: str,
        preparation: Preparation,
        precision: CachePrecision = "fp32",
        computed_in: str = "fp32",
    ) -> None:
        """Creates the folder.

        Args:
            root: folder that may hold the features of several methods and backbones.
            method: method whose `features_for_loss` are cached.
            fingerprint: fingerprint of the backbone's weights.
            preparation: size and normalisation of the network's input.
            precision: precision of the numbers in the files.
            computed_in: precision in which the image encoder runs.

        Raises:
            ConfigError: the method has nothing to cache, or the precision is unknown.
            ZsadError: the folder cannot be written.
        """
        self._kind = cacheable_features(type(method), vars(method.config))
        if precision not in STORED_AS:
            raise unknown_name("cache precision", precision, STORED_AS)
        self._method = method
        self._image_size = preparation.size
        self._prepare_item = functools.partial(prepare_item, preparation=preparation)
        self._dtype = STORED_AS[precision]
        description = {
            "format": FORMAT,
            "zsad": __version__,
            "method": method.INFO.name,
            "settings": {name: getattr(method.config, name) for name in sorted(method.FEATURE_FIELDS)},
            "backbone": fingerprint,
            "activation": sorted(
                {mlp.activation for mlp in method.backbone.visual.modules() if isinstance(mlp, Mlp)}
            ),
            "position_interpolation": method.backbone.position_interpolation,
            "preparation": dataclasses.asdict(preparation),
            "computed_in": computed_in,
            "stored_in": precision,
        }
        text = json.dumps(description, indent=1, sort_keys=True)
        self._identity = hashlib.sha256(text.encode()).hexdigest()
        self.folder = Path(root) / f"{method.INFO.name}-{self._identity[:16]}"
        self.computed = 0
        self._verified: set[str] = set()
        self._digests: dict[tuple[str, int, int], str] = {}
        if not (self.folder / "settings.json").exists():
            self._write(self.folder / "settings.json", text.encode())

    def prepare(self, item: Any) -> CachedSample:
        """Finds the entry of an item of the training data, or prepares its image; called in threads.

        Args:
            item: item as `zsad.training.data.prepare_item` takes it. The image of a `Sample` is not decoded
                if it has an entry. A `Mosaic` has none, because it hardly ever occurs twice.

        Raises:
            ImageReadError: image or mask cannot be read.
            DataError: a mask does not have the size of its image.
        """
        if isinstance(item, Mosaic):
            mosaic = self._prepare_item(item)
            return CachedSample(None, None, mosaic.image, mosaic.mask, mosaic.label, mosaic.class_name)
        prepared = None
        try:
            contents = self._file_contents(item) if isinstance(item, Sample) else None
        except OSError:  # reading the image raises the better message
            contents = None
        if contents is None:
            prepared = self._prepare_item(item)
            mask_bytes = b"" if prepared.mask is None else prepared.mask.tobytes()
            contents = [hashlib.sha256(each).hexdigest() for each in (prepared.image.tobytes(), mask_bytes)]
        label, class_name = (
            (item.label, item.category) if prepared is None else (prepared.label, prepared.class_name)
        )
        key = hashlib.sha256(json.dumps([self._identity, int(label), *contents]).encode()).hexdigest()
        stored = self._read(key)
        if stored is not None:
            packed = stored.pop(MASK)
            mask = self._unpacked(packed) if len(packed) else None
            return CachedSample(key, stored, None, mask, label, class_name)
        prepared = prepared or self._prepare_item(item)
        return CachedSample(key, None, prepared.image, prepared.mask, label, class_name)

    def features(self, batch: Sequence[CachedSample], device: torch.device) -> Any:
        """The features of a batch in single precision; computes and writes those that are missing.

        Args:
            batch: samples from `prepare`.
            device: device of the method.

        Raises:
            ZsadError: the folder cannot be written, or a value does not fit into the files' precision.
        """
        rows = [self._compute(each, device) if each.stored is None else each.stored for each in batch]
        stacked = {name: torch.stack([row[name] for row in rows]).to(device).float() for name in rows[0]}
        return self._kind(**stacked)

    def _compute(self, sample: CachedSample, device: torch.device) -> dict[str, Tensor]:
        """Runs the image encoder on one image and writes its entry.

        Never on several, because the last bits depend on how many images go through together and on an
        image's place among them, as a processor's matrix kernels do. Alone, an image gives the same entry
        whichever of its neighbours are cached already.
        """
        image = torch.tensor(sample.image, device=device)  # copied, because torch always aligns memory alike
        features = self._method.features_for_loss(image[None])
        row = {
            field.name: getattr(features, field.name)[0].detach().to("cpu", self._dtype).clone()
            for field in dataclasses.fields(features)
        }
        self._check_finite(row)
        if sample.key is not None:
            self._write_entry(sample, sample.key, row)
        self.computed += 1
        return row

    def _check_finite(self, row: Mapping[str, Tensor]) -> None:
        for name, tensor in row.items():
            if not bool(tensor.isfinite().all()):
                raise ZsadError(
                    f"{name} of an image does not fit into {self._dtype}, or the network gave NaN; use "
                    "--cache-precision fp32 or bf16"
                )

    def _write_entry(self, sample: CachedSample, key: str, row: Mapping[str, Tensor]) -> None:
        bits = np.zeros(0, np.uint8) if sample.mask is None else np.packbits(sample.mask)
        tensors = {**row, MASK: torch.from_numpy(bits)}
        header = {"key": key, "checksum": checksum(tensors)}
        self._write(self._path(key), save(tensors, metadata={HEADER_KEY: json.dumps(header)}))

    def _read(self, key: str) -> dict[str, Tensor] | None:
        """The tensors of an entry, mapped into memory; None if it is missing or damaged.

        The checksum is compared when a run first meets the entry.
        """
        path = self._path(key)
        expected = {MASK, *(field.name for field in dataclasses.fields(self._kind))}
        try:
            with safe_open(path, framework="pt") as file:
                header = parse_object((file.metadata() or {})[HEADER_KEY], HEADER_KEY)
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
            if header["key"] != key or tensors.keys() != expected:
                raise ValueError("it is the entry of something else")
            if key not in self._verified and checksum(tensors) != header["checksum"]:
                raise ValueError("its checksum differs")
        except FileNotFoundError:
            return None
        except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
            warnings.warn(
                f"{path}: damaged entry of the feature cache ({error}); it is computed again", stacklevel=2
            )
            return None
        self._verified.add(key)
        return tensors

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.safetensors"

    def _write(self, path: Path, content: bytes) -> None:
        try:
            with atomic_file(path) as file:
                file.write(content)
        except OSError as error:
            raise ZsadError(
                f"{self.folder}: the feature cache cannot be written ({error}); make room, choose another "
                "folder for --cache, or train without it"
            ) from error

    def _unpacked(self, packed: Tensor) -> NDArray[np.uint8]:
        """(S, S) mask from its bits."""
        size = self._image_size
        return np.unpackbits(packed.numpy(), count=size * size).reshape(size, size)

    def _file_contents(self, sample: Sample) -> list[str]:
        """Hashes of the files of image and mask, with the slice of a volume or all masks of a folder."""
        return ["none" if path is None else self._digest(path) for path in (sample.path, sample.mask_path)]

    def _digest(self, path: Path) -> str:
        if path.is_dir():
            return " ".join(self._file_digest(each) for each in sorted(path.iterdir()) if each.is_file())
        file, part = file_and_part(path)
        return f"{self._file_digest(Path(file))} {part}".rstrip()

    def _file_digest(self, path: Path) -> str:
        """SHA-256 of a file, remembered while its size and modification time stay the same."""
        status = path.stat()
        identity = (str(path), status.st_size, status.st_mtime_ns)
        if identity not in self._digests:
            digest = hashlib.sha256()
            with path.open("rb") as file:
                while chunk := file.read(READ_AT_ONCE):
                    digest.update(chunk)
            self._digests[identity] = digest.hexdigest()
        return self._digests[identity]


def checksum(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over the names, shapes, types and values of tensors.

    Args:
        tensors: tensors by name, on the CPU.

    Example:
        >>> one = checksum({"a": torch.zeros(2)})
        >>> one == checksum({"a": torch.zeros(2)}), one == checksum({"a": torch.ones(2)})
        (True, False)
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()

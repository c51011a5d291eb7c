"""Files of learnt weights: those that zsad writes, and those that the authors of a method published.

zsad writes safetensors with a description (`CheckpointInfo`) in the metadata.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zsad._version import __version__
from zsad.detector.fitting.good_images import GoodImage  # noqa: TC001 - read by from_plain
from zsad.errors import DataError, WeightsError, one_line
from zsad.files.atomic import atomic_file, remove_unfinished
from zsad.files.fields import Count  # noqa: TC001 - read by from_plain
from zsad.files.json_text import parse_object
from zsad.files.plain import from_plain, to_plain
from zsad.files.tensors import file_kind, read_checkpoint
from zsad.images.tiles import Tile  # noqa: TC001 - read by from_plain

if TYPE_CHECKING:
    from torch import Tensor

    from zsad.detector.weights import PublishedWeights


FORMAT = 2
METADATA_KEY = "zsad"
GOOD_IMAGES = "good_images."  # beginning of the names of tensors that are not learnt


@dataclass(frozen=True)
class CheckpointInfo:
    """Description beside the tensors, which is all that `zsad.load(checkpoint=...)` needs.

    Attributes:
        method: registry name.
        backbone: name of the backbone, as a user types it for `backbone=`.
        fingerprint: digest of the backbone's weights, from `zsad.backbones.loading.backbone_fingerprint`.
        image_size: pixels a side that images are resized to.
        config: all settings of the method, by name.
        version: version of zsad that wrote the file.
        auxiliary_data: description of the training data.
        auxiliary_pictures: digests of the training image files, from `zsad.data.fingerprints.pack_digests`;
            "" if they are not known.
        threshold: image score from which on an image counts as anomalous; None while uncalibrated.
        map_threshold: map value from which on a pixel counts as anomalous; None while uncalibrated.
        calibration: calibration that gave the thresholds, from `Calibration.to_dict`; None for thresholds
            set by hand.
        class_name: class name of the images that the thresholds are for; None for images of any name.
        good_images: known-normal images that the detector was fitted to; their features are among the
            tensors.
        augment_references: whether good images also count turned and flipped.
        bits: depth at which the detector reads 16-bit files; None for what each file states.
        tile: how the detector cuts images; None for whole images.
        roi: region of interest, from `Region.to_text`; None for whole images.
        format: version of this description; one above `FORMAT` comes from a newer zsad.
    """

    method: str
    backbone: str
    fingerprint: str
    image_size: Count
    config: dict[str, Any]
    version: str = __version__
    auxiliary_data: str = ""
    auxiliary_pictures: str = ""
    threshold: float | None = None
    map_threshold: float | None = None
    calibration: dict[str, Any] | None = None
    class_name: str | None = None
    good_images: tuple[GoodImage, ...] = ()
    augment_references: bool = False
    bits: int | None = None
    tile: Tile = None
    roi: str | None = None
    format: int = FORMAT


@dataclass(frozen=True)
class Checkpoint:
    """A file of learnt weights that has been read.

    Attributes:
        path: path of the file.
        content: learnt tensors by name; in an authors' file whatever they saved, nested as they saved it.
        info: description of a file that zsad wrote; None for an authors' file.
        published: entry of `zsad weights list`, for an authors' file that was asked for by its name.
        good_images: tensors of the images that the detector was fitted to, from `GoodImages.tensors`.
    """

    path: Path
    content: Mapping[str, Any] = field(repr=False)
    info: CheckpointInfo | None
    published: PublishedWeights | None = None
    good_images: Mapping[str, Tensor] = field(default_factory=dict, repr=False)

    @property
    def method(self) -> str | None:
        """Registry name of the method that the weights belong to; None if unknown."""
        if self.info is not None:
            return self.info.method
        return None if self.published is None else self.published.method

    @property
    def backbone(self) -> str | None:
        """Name of the backbone that the weights were learnt on; None if unknown."""
        if self.info is not None:
            return self.info.backbone
        return None if self.published is None else self.published.record.backbone

    @property
    def auxiliary_data(self) -> str:
        """Description of the data that the weights were learnt from; "" if unknown."""
        if self.info is not None:
            return self.info.auxiliary_data
        return "" if self.published is None else self.published.record.auxiliary_data


def read(path: str | Path) -> Checkpoint:
    """Reads a file of learnt weights without running anything in it.

    Args:
        path: a file that `Detector.save` wrote, or that the authors of a method published.

    Raises:
        WeightsError: the file is missing, damaged, holds Python objects, or was written by a newer zsad.
    """
    path = Path(path)
    info = _read_info(path) if file_kind(path) == "safetensors" else None
    content = read_checkpoint(path)
    if info is None:
        return Checkpoint(path, content, info)
    good = {name.removeprefix(GOOD_IMAGES): content[name] for name in content if name.startswith(GOOD_IMAGES)}
    learned = {name: content[name] for name in content if not name.startswith(GOOD_IMAGES)}
    return Checkpoint(path, learned, info, good_images=good)


def joined(parts: Sequence[Checkpoint]) -> Checkpoint:
    """Files that the authors of a method publish apart, as one.

    Args:
        parts: checkpoints in any order; their entries must have different names, "epoch" apart.

    Raises:
        WeightsError: none is given, one of them was written by zsad, which always writes a single file, or
            two hold the same entry.
    """
    if not parts:
        raise WeightsError("checkpoint is an empty list: give one file, or the files of the method's authors")
    content: dict[str, Any] = {}
    for part in parts:
        if part.info is not None:
            raise WeightsError(f"{part.path} holds everything that zsad saved: give it alone as checkpoint")
        repeated = sorted(content.keys() & part.content.keys() - {"epoch"})
        if repeated:
            raise WeightsError(
                f"{part.path} holds {repeated[0]!r}, as another of the files does: give each once"
            )
        content.update(part.content)
    return Checkpoint(Path(" and ".join(str(part.path) for part in parts)), content, None)


def official_files(folder: Path, names: Sequence[str]) -> list[Path]:
    """The files of a method's authors in a folder.

    A file may stand under its name, or under its name with the number of an epoch ("image_adapter_15.pth") if
    there is only one such file. A file that is missing is left out: the method says which one it needs.

    Args:
        folder: folder to look in.
        names: the names that the authors' code gives its files.

    Raises:
        WeightsError: the method has no such files, none is there, several numbered ones are, or the folder is
            an exported bundle.
    """
    if (folder / "bundle.json").is_file():
        raise WeightsError(
            f"{folder} is a bundle of `zsad export`, which holds no checkpoint: --bundle {folder} "
            "(zsad.load_exported) runs it"
        )
    if not names:
        raise WeightsError(f"{folder} is a folder: give the file of the weights in it")
    found = []
    for name in names:
        plain, stem = folder / name, Path(name)
        numbered = sorted(folder.glob(f"{stem.stem}_[0-9]*{stem.suffix}"))
        if not plain.is_file() and len(numbered) > 1:
            listed = ", ".join(path.name for path in numbered)
            raise WeightsError(f"{folder} holds several: {listed}; give the two files by name")
        found += [plain] if plain.is_file() else numbered
    if not found:
        raise WeightsError(f"{folder} holds none of {', '.join(names)}")
    return found


def write(
    path: str | Path,
    tensors: Mapping[str, Tensor],
    info: CheckpointInfo,
    good_images: Mapping[str, Tensor] | None = None,
) -> None:
    """Writes learnt weights; the file appears under its name when it is complete.

    Args:
        path: file to write, ".safetensors" by custom; missing folders are created.
        tensors: learnt tensors by name; may be empty.
        info: description of the tensors.
        good_images: tensors of the images that the detector was fitted to; None without any.

    Raises:
        WeightsError: the file cannot be written; an older file of that name stays as it is.
    """
    from safetensors.torch import save

    everything = {**tensors, **{GOOD_IMAGES + name: each for name, each in (good_images or {}).items()}}
    content = save(
        {name: tensor.detach().cpu().contiguous() for name, tensor in everything.items()},
        metadata={METADATA_KEY: json.dumps(to_plain(info), sort_keys=True)},
    )
    try:
        remove_unfinished(Path(path))
        with atomic_file(path) as file:
            file.write(content)
    except OSError as error:
        raise WeightsError(
            f"cannot write {path} ({error.strerror or error}): choose a writable folder"
        ) from error


def _read_info(path: Path) -> CheckpointInfo | None:
    """The description in a safetensors file; None if another program wrote it."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path} is damaged or not a safetensors file: {one_line(error)[:300]}") from error
    if METADATA_KEY not in metadata:
        return None
    try:
        description = parse_object(metadata[METADATA_KEY], "JSON")
        written_as = description.get("format")
        if isinstance(written_as, int) and written_as > FORMAT:
            raise WeightsError(
                f"{path} was written by zsad {description.get('version', '?')}, which is newer than this "
                f"{__version__}: pip install --upgrade zsad"
            )
        return from_plain(CheckpointInfo, description, "fields")
    except DataError as error:
        raise WeightsError(f"{path} has a damaged zsad description ({error}): save it again") from error

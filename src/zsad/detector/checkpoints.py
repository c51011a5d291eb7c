"""Files of learnt weights: zsad's own, and those that a method's authors published.

zsad's own are safetensors with a description (`CheckpointInfo`) in the metadata.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zsad._version import __version__
from zsad.backbones.clip import CLIP
from zsad.detector.published_weights import PAPERS_BACKBONE, PublishedWeights
from zsad.detector.support import DEFAULT_METHOD
from zsad.detector.weights import fetched_file, published_weights
from zsad.errors import ConfigError, WeightsError
from zsad.files.atomic import atomic_file
from zsad.files.tensors import file_kind, read_checkpoint
from zsad.methods import _registry as registry

if TYPE_CHECKING:
    from torch import Tensor

    from zsad.methods.base import Method
    from zsad.types import WeightRecord

FRESH = "fresh"
FORMAT = 1
METADATA_KEY = "zsad"
PACKAGED_BACKBONE = "tiny"


@dataclass(frozen=True)
class CheckpointInfo:
    """What zsad writes beside the tensors, so that `zsad.load(checkpoint=...)` needs nothing else.

    Attributes:
        method: registry name.
        backbone: what a user types for `backbone=`.
        fingerprint: of the backbone's weights, as `zsad.backbones.loading.backbone_fingerprint` gives it.
        image_size: pixels a side that images were resized to.
        config: the method's settings, all of them.
        version: of zsad.
        auxiliary_data: what the method was trained on.
        auxiliary_pictures: digests of the training images' files, as `pack_digests` gives them; "" if they
            are not known.
        threshold: image score from which on an image counts as anomalous; None while uncalibrated.
        map_threshold: map value from which on a pixel counts as anomalous; None while uncalibrated.
        calibration: how the thresholds came about, as `Calibration.to_dict` gives it; None if set by hand.
        format: of the description; larger than `FORMAT` means that a newer zsad wrote it.
    """

    method: str
    backbone: str
    fingerprint: str
    image_size: int
    config: dict[str, Any]
    version: str = __version__
    auxiliary_data: str = ""
    auxiliary_pictures: str = ""
    threshold: float | None = None
    map_threshold: float | None = None
    calibration: dict[str, Any] | None = None
    format: int = FORMAT


@dataclass(frozen=True)
class Checkpoint:
    """A file of learnt weights that has been read.

    Attributes:
        path: where it lies.
        content: tensors by name; in an authors' file whatever they saved, nested as they saved it.
        info: zsad's description; None for an authors' file.
        published: what the manifest knows of an authors' file that was asked for by its name there.
    """

    path: Path
    content: Mapping[str, Any] = field(repr=False)
    info: CheckpointInfo | None
    published: PublishedWeights | None = None

    @property
    def method(self) -> str | None:
        """Registry name of the method that the weights belong to; None if nothing tells it."""
        if self.info is not None:
            return self.info.method
        return None if self.published is None else self.published.method

    @property
    def backbone(self) -> str | None:
        """The backbone that the weights were learnt on, by its name; None if nothing tells it."""
        if self.info is not None:
            return self.info.backbone
        return None if self.published is None else self.published.record.backbone

    @property
    def auxiliary_data(self) -> str:
        """What the weights were learnt from; empty if nothing tells it."""
        if self.info is not None:
            return self.info.auxiliary_data
        return "" if self.published is None else self.published.record.auxiliary_data


def read(path: str | Path) -> Checkpoint:
    """Reads a file of learnt weights without running anything in it.

    Args:
        path: what `Detector.save` wrote, or a file of a method's authors.

    Raises:
        WeightsError: the file is missing, damaged, holds Python objects, or was written by a newer zsad.
    """
    path = Path(path)
    info = _read_info(path) if file_kind(path) == "safetensors" else None
    return Checkpoint(path, read_checkpoint(path), info)


def write(path: str | Path, tensors: Mapping[str, Tensor], info: CheckpointInfo) -> None:
    """Writes learnt weights; the file appears under its name when it is complete.

    Args:
        path: ends in ".safetensors" by custom; missing folders are made.
        tensors: what was learnt, by name; may be empty.
        info: the description.

    Raises:
        WeightsError: the file cannot be written; an older file of that name is still there then.
    """
    from safetensors.torch import save

    content = save(
        {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
        metadata={METADATA_KEY: json.dumps(asdict(info), sort_keys=True)},
    )
    try:
        with atomic_file(path) as file:
            file.write(content)
    except OSError as error:
        raise WeightsError(
            f"cannot write {path} ({error.strerror or error}): choose a writable folder"
        ) from error


def shipped(method: str, backbone: str | Path | None) -> Path | None:
    """The weights of a method that come with zsad for a backbone.

    Args:
        method: registry name.
        backbone: as given to `zsad.load`; None means the packaged one.

    Returns:
        The file, or None if zsad ships none.
    """
    if backbone is not None and str(backbone) != PACKAGED_BACKBONE:
        return None
    folder = Path(str(files("zsad.backbones"))) / PACKAGED_BACKBONE
    paths = [folder / f"{name}.safetensors" for name in (method, registry.method_class(method).WEIGHTS_OF)]
    return next((path for path in paths if path.is_file()), None)


def merge_settings(
    checkpoint: Checkpoint, method: type[Method], explicit: Mapping[str, Any]
) -> dict[str, Any]:
    """The settings of a checkpoint with the user's over them.

    Args:
        checkpoint: the file.
        method: whose settings they are.
        explicit: what the user typed.

    Returns:
        Settings by name.

    Raises:
        ConfigError: the user's setting contradicts what the shapes in the file say.
        WeightsError: the file is not of this method.
    """
    if checkpoint.info is None:
        try:
            found = method.official_config(checkpoint.content)
        except WeightsError as error:
            raise WeightsError(f"{checkpoint.path}: {error}") from error
        fixed = set(found)
    else:
        found = checkpoint.info.config
        known = {each.name for each in fields(method.Config)}
        if checkpoint.info.method != method.INFO.name:
            found = {name: value for name, value in found.items() if name in known}
        fixed = set(method.SHAPE_FIELDS) & found.keys()
    for name in sorted(fixed & explicit.keys()):
        if _plain(explicit[name]) != _plain(found[name]):
            raise ConfigError(
                f"{name}={explicit[name]!r} contradicts {checkpoint.path}, whose weights were made with "
                f'{name}={found[name]!r}: leave {name} out, or start from new weights with checkpoint="fresh"'
            )
    return {**found, **explicit}


def find(
    method: str | None, backbone: str | Path | CLIP | None, checkpoint: str | Path | None
) -> Checkpoint | None:
    """The weights to take, read; None for new parameters.

    Raises:
        WeightsError: there is no such file, it is damaged, or it has a name of the manifest and has not been
            fetched.
    """
    if checkpoint == FRESH:
        return None
    if checkpoint is not None:
        published = None if Path(checkpoint).exists() else published_weights().get(str(checkpoint))
        if published is None:
            return read(checkpoint)
        return replace(read(fetched_file(published)), published=published)
    path = None if isinstance(backbone, CLIP) else shipped(method or DEFAULT_METHOD, backbone)
    return None if path is None else read(path)


def method_name(method: str | None, found: Checkpoint | None) -> str:
    """The method asked for, or the checkpoint's.

    Raises:
        WeightsError: both are there and differ, and the method does not take the other's weights.
    """
    own = None if found is None else found.method
    if found is None or method is None or own is None:
        return method or own or DEFAULT_METHOD
    if own not in (method, registry.method_class(method).WEIGHTS_OF):
        raise WeightsError(f"{found.path} holds weights of {own}, not of {method}: use method={own!r}")
    return method


def check_backbone(found: Checkpoint, record: WeightRecord, fingerprint: str) -> None:
    """Refuses weights that were learnt on another backbone.

    Args:
        found: a file of zsad's own.
        record: of the backbone that is there.
        fingerprint: of its weights.

    Raises:
        WeightsError: naming both.
    """
    if found.info is None or fingerprint == found.info.fingerprint:
        return
    own, given = found.info.backbone, record.name
    if own == given:
        raise WeightsError(
            f"{found.path} was trained on other weights named {own!r} than those that are here"
        )
    raise WeightsError(
        f"{found.path} was trained on backbone {own!r}, not on {given!r}: use backbone={own!r}"
    )


def take_weights(method: Method, found: Checkpoint) -> None:
    """Puts the learnt weights of a file into a method.

    Raises:
        WeightsError: they do not fit; the message holds the file's path.
    """
    record = method.backbone.record
    try:
        if found.info is None:
            method.load_official(found.content)
        else:
            method.load_learned(found.content)
    except WeightsError as error:
        name = record.name if record else "this network"
        raise WeightsError(
            f"{found.path} on backbone {name!r}: {error}{backbone_hint(found, name)}"
        ) from error


def backbone_hint(found: Checkpoint, backbone: str) -> str:
    """The end of a message on an authors' file that does not fit a backbone: which one it was made for.

    Args:
        found: the file.
        backbone: name of the one that it was to be used on.

    Returns:
        Empty for zsad's own files, and on the papers' backbone.
    """
    if found.info is not None or backbone == PAPERS_BACKBONE:
        return ""
    return (
        "; the authors publish weights for OpenAI's ViT-L/14-336: "
        f"give backbone={PAPERS_BACKBONE!r} (--backbone {PAPERS_BACKBONE})"
    )


def _plain(value: Any) -> Any:
    """Lists of JSON and tuples of dataclasses compare as equal."""
    return list(value) if isinstance(value, tuple) else value


def _read_info(path: Path) -> CheckpointInfo | None:
    """The description in a safetensors file; None if another program wrote it."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path} is damaged or not a safetensors file: {error}") from error
    if METADATA_KEY not in metadata:
        return None
    try:
        description = json.loads(metadata[METADATA_KEY])
        written_as = int(description["format"])
        if written_as > FORMAT:
            raise WeightsError(
                f"{path} was written by zsad {description.get('version', '?')}, which is newer than this "
                f"{__version__}: pip install --upgrade zsad"
            )
        return CheckpointInfo(**description)
    except (ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{path} has a damaged zsad description ({error}): save it again") from error

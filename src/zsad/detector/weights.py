"""The weights that zsad knows, which of their files are on this machine, and whether these are intact.

The manifest lists the backbones, the learnt weights that lie beside the packaged backbone, and the files that
the authors of the methods published (`Method.WEIGHTS`).
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError
from importlib.metadata import files as installed_files
from pathlib import Path
from typing import Any, Literal

from zsad.backbones.catalog import (
    HUB,
    OPEN_CLIP_WEIGHTS,
    PACKAGE,
    PACKAGE_FOLDER,
    backbone_records,
)
from zsad.errors import WeightsError, unknown_name
from zsad.files.cache import OTHER_CACHES, cached_path, find_cached, is_offline, sha256_of
from zsad.files.download import download
from zsad.files.json_text import parse_object
from zsad.methods import _registry as registry
from zsad.types import WeightRecord

PACKAGED_BACKBONE = "tiny"
DESCRIPTION_KEY = "zsad"  # as zsad.detector.checkpoints writes it, which needs torch
OPEN_CLIP = "open_clip:"
BLOB_NAME = re.compile(r"[0-9a-f]{64}")

State = Literal["ok", "broken", "no checksum"]


@dataclass(frozen=True)
class Check:
    """Result of comparing a file with its checksum.

    Attributes:
        record: record that the file belongs to.
        path: path of the file.
        state: "ok", "broken", or "no checksum" where its publisher gives none.
        found: SHA-256 of the file.
        expected: SHA-256 that it should have, perhaps only its first digits; None if unknown.
    """

    record: WeightRecord
    path: Path
    state: State
    found: str
    expected: str | None


@dataclass(frozen=True)
class PublishedWeights:
    """A file of learnt weights that the authors of a method published.

    Attributes:
        method: registry name.
        record: entry of the method's `WEIGHTS`.
    """

    method: str
    record: WeightRecord


def manifest() -> list[WeightRecord]:
    """Records of all backbones, of the learnt weights that zsad ships, and of the files of the authors.

    Raises:
        WeightsError: the package's own files are missing or damaged.
    """
    backbones = backbone_records()
    packaged = next(record for record in backbones if record.name == PACKAGED_BACKBONE)
    return [
        *backbones,
        *shipped_records(packaged),
        *(published.record for published in published_weights().values()),
    ]


def without_weights() -> dict[str, str]:
    """Methods whose authors published code, but no weights that can be fetched: title and advice."""
    from zsad.methods.base import Method

    kinds = {name: registry.method_class(name) for name in registry.list_methods()}
    return {
        kind.INFO.title: kind.WEIGHTS_NOTE
        or f"its authors published no weights: train with `zsad train --method {name}`, or give files of "
        "their training code as --checkpoint"
        for name, kind in kinds.items()
        if (kind.WEIGHTS_NOTE or kind.load_official is not Method.load_official)
        and not (kind.WEIGHTS or kind.WEIGHTS_OF)
    }


def shipped_records(packaged: WeightRecord) -> list[WeightRecord]:
    """Records of the learnt weights beside the packaged backbone, named "tiny/METHOD".

    Args:
        packaged: record of that backbone.

    Raises:
        WeightsError: a file is damaged.
    """
    sums = _sums_of_the_wheel()
    records = []
    for path in sorted((PACKAGE_FOLDER / packaged.name).glob("*.safetensors")):
        description = _description(path)
        if description is None:
            continue
        records.append(
            WeightRecord(
                name=f"{packaged.name}/{path.stem}",
                source=f"{PACKAGE}{packaged.name}/{path.name}",
                image_size=description["image_size"],
                mean=packaged.mean,
                std=packaged.std,
                activation=description["config"].get("activation") or packaged.activation,
                licence=packaged.licence,
                bytes=path.stat().st_size,
                sha256=sums.get(path.resolve()),
                auxiliary_data=description.get("auxiliary_data", ""),
                backbone=description["backbone"],
                notes=f"what {description['method']} learns",
            )
        )
    return records


def find_record(name: str) -> WeightRecord:
    """A record of the manifest by its name, also in OpenAI's spelling ("ViT-L/14@336px").

    Raises:
        ConfigError: the name is unknown.
    """
    records = {record.name: record for record in manifest()}
    plain = name.replace("/", "-").replace("@336px", "-336")
    found = records.get(name) or records.get(plain)
    if found is None:
        raise unknown_name("weights", name, [*records, "hf-hub:ORG/REPO", "open_clip:ARCH/TAG"])
    return found


def files_of(record: WeightRecord) -> list[Path]:
    """The files of a record that are on this machine, not yet verified.

    A file in another program's cache counts only if it has the checksum, because zsad does not load
    unverified files.
    """
    if record.source.startswith(PACKAGE):
        path = PACKAGE_FOLDER / record.source.removeprefix(PACKAGE)
        return [path] if path.is_file() else []
    if record.source.startswith(HUB):
        return _hub_files(record.source)
    own = cached_path(record.source, record.sha256)
    if own.is_file():
        return [own]
    others = (folder.expanduser() / own.name for folder in OTHER_CACHES)
    checksum = record.sha256
    return [path for path in others if checksum and path.is_file() and sha256_of(path).startswith(checksum)]


def _hub_files(source: str) -> list[Path]:
    """The weight file of a repository in huggingface_hub's cache; the first one is loaded."""
    from huggingface_hub import try_to_load_from_cache

    repository, _, revision = source.removeprefix(HUB).partition("@")
    for name in OPEN_CLIP_WEIGHTS:
        found = try_to_load_from_cache(repository, name, revision=revision or None)
        if isinstance(found, str):
            return [Path(found)]
    return []


def verify(record: WeightRecord) -> list[Check]:
    """Compares every file of a record on this machine with its SHA-256; reads the files completely.

    Args:
        record: one of `manifest`.

    Returns:
        One result per file; none if no file is on this machine.
    """
    checks = []
    for path in files_of(record):
        found, expected = sha256_of(path), record.sha256 or _sum_of_the_hub(path)
        state: State = "no checksum"
        if expected is not None:
            state = "ok" if found.startswith(expected.lower()) else "broken"
        checks.append(Check(record, path, state, found, expected))
    return checks


def fetch(name: str, offline: bool | None = None) -> list[Path]:
    """Downloads a backbone or the weights of a method's authors unless they are on this machine.

    Args:
        name: name in the manifest, or "hf-hub:ORG/REPO" or "open_clip:ARCH/TAG", which are then loaded once,
            because only that shows which files they need.
        offline: True never uses the network; None reads ZSAD_OFFLINE.

    Returns:
        The files with known names; empty for "hf-hub:" and "open_clip:".

    Raises:
        ConfigError: the name is unknown.
        WeightsError: offline and not on this machine, no network, disk full, or a wrong checksum.
        MissingExtraError: "open_clip:" without the package open_clip_torch.
    """
    if name.startswith((HUB, OPEN_CLIP)):
        _load_once(name, offline)
        return []
    record = find_record(name)
    if record.source.startswith(HUB):
        _load_once(record.source, offline)
    elif not record.source.startswith(PACKAGE):
        return [_download(record, offline)]
    found = files_of(record)
    if not found:
        raise WeightsError(f"{record.name} is missing in this installation: install zsad again")
    return found


def _download(record: WeightRecord, offline: bool | None) -> Path:
    """The file of a URL; the message for an authors' file also says how to put it in place by hand."""
    try:
        return download(record.source, record.sha256, record.bytes, offline=offline)
    except WeightsError as error:
        published = published_weights().get(record.name)
        if published is None:
            raise
        raise WeightsError(f"{error}; {by_hand(published)}") from error


def _load_once(name: str, offline: bool | None) -> None:
    """Reads a backbone, which fetches what it needs and proves that it is usable."""
    from zsad.backbones.sources import read_source

    read_source(name, None, is_offline(offline))


def _description(path: Path) -> dict[str, Any] | None:
    """The description that `zsad.detector.checkpoints.write` put into a file; None for other files."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            written = (file.metadata() or {}).get(DESCRIPTION_KEY)
            return None if written is None else parse_object(written, str(path))
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"{path} is damaged ({error}): install zsad again") from error


def _sums_of_the_wheel() -> dict[Path, str]:
    """SHA-256 of each file as pip recorded it at installation; empty for a checkout."""
    try:
        listed = installed_files("zsad") or []
    except PackageNotFoundError:
        return {}
    return {
        Path(str(entry.locate())).resolve(): base64.urlsafe_b64decode(f"{entry.hash.value}==").hex()
        for entry in listed
        if entry.suffix == ".safetensors" and entry.hash is not None and entry.hash.mode == "sha256"
    }


def _sum_of_the_hub(path: Path) -> str | None:
    """SHA-256 that the hub gives for a large file: the name of the file that huggingface_hub links to."""
    name = path.resolve().name
    return name if BLOB_NAME.fullmatch(name) else None


def published_weights() -> Mapping[str, PublishedWeights]:
    """The files that the authors of all methods published, by the name that a user types."""
    return {
        record.name: PublishedWeights(name, record)
        for name in registry.list_methods()
        for record in registry.method_class(name).WEIGHTS
    }


def fetched_file(published: PublishedWeights) -> Path:
    """The file of an authors' record on this machine.

    Raises:
        WeightsError: it has not been fetched; the message holds the command.
    """
    found = find_cached(published.record.source, published.record.sha256)
    if found is None:
        name = published.record.name
        raise WeightsError(f"{name} is not on this machine: zsad weights fetch {name}")
    return found


def by_hand(published: PublishedWeights) -> str:
    """How a person gets the file if no program can, as the end of a message."""
    target = cached_path(published.record.source, published.record.sha256)
    return f"or get it by hand from {published.record.page} and put it at {target}"

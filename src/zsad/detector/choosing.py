"""Chooses the learnt weights of a detector, given or shipped with zsad, and checks that they fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zsad.backbones.catalog import PAPERS_BACKBONE
from zsad.backbones.clip import CLIP
from zsad.detector.checkpoints import Checkpoint, joined, official_files, read
from zsad.detector.weights import fetched_file, published_weights
from zsad.errors import ConfigError, WeightsError
from zsad.files.plain import to_plain
from zsad.images.region import Region
from zsad.methods import _registry as registry

if TYPE_CHECKING:
    from zsad.detector.checkpoints import CheckpointInfo
    from zsad.images.tiles import Tile
    from zsad.methods.base import Method
    from zsad.types import WeightRecord

DEFAULT_METHOD = "anomalyclip"
FRESH = "fresh"
PACKAGED_BACKBONE = "tiny"


def shipped(method: str, backbone: str | Path | None) -> Path | None:
    """The weights that zsad ships for a method on a backbone.

    Args:
        method: registry name.
        backbone: name as for `zsad.load`; None for the packaged backbone.

    Returns:
        Path of the file; None if zsad ships no weights.
    """
    if backbone is not None and str(backbone) != PACKAGED_BACKBONE:
        return None
    folder = Path(str(files("zsad.backbones"))) / PACKAGED_BACKBONE
    paths = [folder / f"{name}.safetensors" for name in (method, registry.method_class(method).WEIGHTS_OF)]
    return next((path for path in paths if path.is_file()), None)


def merge_settings(
    checkpoint: Checkpoint, method: type[Method], explicit: Mapping[str, Any]
) -> dict[str, Any]:
    """The settings of a checkpoint, overridden by those of the user.

    Args:
        checkpoint: file of learnt weights.
        method: class of the method that the settings are for.
        explicit: settings that the user typed.

    Returns:
        Settings by name.

    Raises:
        ConfigError: a setting of the user contradicts the shapes of the tensors in the file.
        WeightsError: the file holds weights of another method.
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
        if to_plain(explicit[name]) != to_plain(found[name]):
            raise ConfigError(
                f"{name}={explicit[name]!r} contradicts {checkpoint.path}, whose weights were made with "
                f'{name}={found[name]!r}: leave {name} out, or start from new weights with checkpoint="fresh"'
            )
    return {**found, **explicit}


def find(
    method: str | None,
    backbone: str | Path | CLIP | None,
    checkpoint: str | Path | Sequence[str | Path] | None,
) -> Checkpoint | None:
    """Finds and reads the weights that `zsad.load` takes.

    Args:
        method: registry name; None for the default method.
        backbone: name, path or network as for `zsad.load`.
        checkpoint: file, several files or a folder of files that authors publish apart, name of `zsad weights
            list`, or "fresh" for new parameters; None for the weights that zsad ships.

    Returns:
        The checkpoint; None for new parameters.

    Raises:
        WeightsError: the file is missing, damaged, or named in `zsad weights list` and not fetched yet.
    """
    if checkpoint == FRESH:
        return None
    if checkpoint is not None and not isinstance(checkpoint, str | Path):
        if len(checkpoint) != 1:
            return joined([read(Path(each).expanduser()) for each in checkpoint])
        [checkpoint] = checkpoint
    if checkpoint is not None:
        checkpoint = Path(checkpoint).expanduser() if str(checkpoint).startswith("~") else checkpoint
        if Path(checkpoint).is_dir():
            kind = registry.method_class(method or DEFAULT_METHOD)
            return joined([read(path) for path in official_files(Path(checkpoint), kind.OFFICIAL_FILES)])
        published = None if Path(checkpoint).exists() else published_weights().get(str(checkpoint))
        if published is None:
            return read(checkpoint)
        return replace(read(fetched_file(published)), published=published)
    path = None if isinstance(backbone, CLIP) else shipped(method or DEFAULT_METHOD, backbone)
    return None if path is None else read(path)


def method_name(method: str | None, found: Checkpoint | None) -> str:
    """The method asked for, else the method of the checkpoint, else the default.

    Args:
        method: registry name; None if the user names none.
        found: checkpoint from `find`.

    Raises:
        WeightsError: the checkpoint holds weights of a method that the requested method cannot use.
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
        found: checkpoint that zsad wrote; an authors' file is not checked.
        record: weight record of the backbone in use.
        fingerprint: digest of the weights of that backbone.

    Raises:
        WeightsError: the backbones differ; the message names both.
    """
    if found.info is None or fingerprint == found.info.fingerprint:
        return
    own, given = found.info.backbone, record.name
    if own == given:
        raise WeightsError(f"{found.path} was trained on other weights named {own!r} than those in use here")
    raise WeightsError(
        f"{found.path} was trained on backbone {own!r}, not on {given!r}: use backbone={own!r}"
    )


def check_fitted(
    path: Path, info: CheckpointInfo, method: Method, image_size: int, tile: Tile, roi: Region | None
) -> None:
    """Refuses to compare images with good images that another method or other settings looked at.

    Args:
        path: file of a fitted detector.
        info: description in that file.
        method: method in use.
        image_size: pixels a side in use.
        tile: tile setting in use.
        roi: region of interest in use.

    Raises:
        ConfigError: something differs; the message names it, with both values.
    """
    kept = None if info.roi is None else Region.from_text(info.roi).identity
    there = {"method": info.method, "image_size": info.image_size, "tile": info.tile, "roi": kept}
    here = {"method": method.INFO.name, "image_size": image_size, "tile": tile, "roi": roi and roi.identity}
    there.update(info.config)
    here.update(to_plain(method.config))
    for name, own in there.items():
        if own != here.get(name):
            raise ConfigError(
                f"{path} was fitted with {name}={own!r}, not with {here.get(name)!r}: leave {name} out, or "
                "fit again with zsad fit"
            )


def take_weights(method: Method, found: Checkpoint) -> None:
    """Loads the learnt weights of a file into a method.

    Raises:
        WeightsError: the weights do not fit; the message names the file.
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
    """Names the backbone that an authors' file was made for, as the end of an error message.

    Args:
        found: checkpoint that does not fit.
        backbone: name of the backbone that it was loaded on.

    Returns:
        The hint; empty for a file that zsad wrote, and on the backbone of the papers.
    """
    if found.info is not None or backbone == PAPERS_BACKBONE:
        return ""
    return (
        "; the authors publish weights for OpenAI's ViT-L/14-336: "
        f"give backbone={PAPERS_BACKBONE!r} (--backbone {PAPERS_BACKBONE})"
    )

"""Finds and reads the weights that the name of a backbone stands for, in any layout they are published in."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zsad.backbones.catalog import (
    CLIP_MEAN,
    CLIP_STD,
    HUB,
    OPEN_CLIP_WEIGHTS,
    PACKAGE_FOLDER,
    WELL_KNOWN,
    list_backbones,
    read_json,
    record_from_json,
)
from zsad.backbones.clip import ClipConfig
from zsad.backbones.configurations import clip_config_from_hugging_face, clip_config_from_open_clip
from zsad.backbones.state_dicts import clip_config_from_state_dict, find_layout, to_openai_names
from zsad.errors import ConfigError, DataError, MissingExtraError, WeightsError, unknown_name
from zsad.files.download import download
from zsad.files.fields import shortened
from zsad.files.hub import hub_file
from zsad.files.plain import from_plain
from zsad.files.tensors import file_kind, read_tensors
from zsad.types import Activation, WeightRecord

if TYPE_CHECKING:
    from torch import Tensor

OPEN_CLIP = "open_clip:"
OPEN_CLIP_CONFIG = "open_clip_config.json"
HUGGING_FACE_CONFIG = "config.json"
HUGGING_FACE_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
PACKAGED_CONFIG = "config.json"
PACKAGED_WEIGHTS = "tiny.safetensors"
FORMS = (
    "hf-hub:ORG/REPO",
    "open_clip:ARCH/TAG",
    "a path (OpenAI .pt, open_clip file or folder, Hugging Face folder)",
)
WEIGHT_SUFFIXES = {".pt", ".pth", ".bin", ".safetensors"}
SEE_PUBLISHER = "see the publisher"
OPENAI_LAYOUT = "a file in OpenAI's layout"

Triple = tuple[float, float, float]
Colours = tuple[Triple, Triple]  # mean and standard deviation of the RGB channels
Fetch = Callable[[str], Path | None]  # file name -> path; None if the folder or repository lacks it


class FilesMissingError(WeightsError):
    """A folder or repository lacks files; offline, those of a repository may only not be cached."""


@dataclass(frozen=True)
class Source:
    """Weights that have been read, ready to become a network.

    Attributes:
        config: shape of the network, with the activation of the weights.
        tensors: tensors by OpenAI's names.
        record: record of the weights.
    """

    config: ClipConfig
    tensors: dict[str, Tensor]
    record: WeightRecord


def read_source(name: str | Path | None, activation: Activation | None, offline: bool) -> Source:
    """Reads the weights that the name of a backbone stands for.

    Args:
        name: name as for `load_backbone`.
        activation: activation of weights that do not state it; None if the caller does not know.
        offline: whether the network must not be used.

    Raises:
        ConfigError: the name is unknown.
        WeightsError: the weights are missing, damaged, unsupported, or not on this machine while offline.
        MissingExtraError: "open_clip:" without the package open_clip_torch.
    """
    if name is None or name == "tiny":
        return packaged_source(PACKAGE_FOLDER / "tiny")
    if isinstance(name, str):
        if name.startswith(HUB):
            return _from_hub(name, offline)
        if name.startswith(OPEN_CLIP):
            return _from_open_clip_table(name, offline)
        # OpenAI and the papers write "ViT-L/14@336px".
        plain = name.replace("/", "-").replace("@336px", "-336")
        record = next((record for record in WELL_KNOWN if record.name == plain), None)
        if record is not None:
            return _from_record(record, offline)
        if not name:
            raise unknown_name("backbone", name, [*list_backbones(), *FORMS])
    path = Path(name).expanduser()
    if path.is_dir():
        return _from_folder(_folder(path), str(name), str(path))
    if path.exists():
        return _from_file(path, str(name), activation)
    if isinstance(name, Path) or path.suffix in WEIGHT_SUFFIXES or "/" in name or os.sep in name:
        raise WeightsError(f"backbone {str(name)!r}: no such file or folder ({path.absolute()})")
    raise unknown_name("backbone", name, [*list_backbones(), *FORMS])


def _folder(path: Path) -> Fetch:
    """Finds the files of a folder by their names."""
    return lambda file: path / file if (path / file).is_file() else None


def _from_record(record: WeightRecord, offline: bool) -> Source:
    """One of the well-known weights."""
    if record.source.startswith(HUB):
        source = _from_hub(record.source, offline)
        return dataclasses.replace(source, record=record)
    tensors = to_openai_names(
        read_tensors(download(record.source, record.sha256, record.bytes, offline=offline)), record.name
    )
    return Source(clip_config_from_state_dict(tensors, record.activation, record.name), tensors, record)


def _from_hub(name: str, offline: bool) -> Source:
    """A repository of the Hugging Face hub, in open_clip's, Hugging Face's or our own layout."""
    repository, _, revision = name.removeprefix(HUB).partition("@")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise ConfigError(f"backbone {name!r} is not of the form hf-hub:ORG/REPO or hf-hub:ORG/REPO@REVISION")

    def fetch(file: str) -> Path | None:
        return hub_file(repository, file, revision or None, offline=offline)

    try:
        return _from_folder(fetch, name, name)
    except FilesMissingError as error:
        raise _not_cached(name, repository) if offline else error from None


def _not_cached(name: str, repository: str) -> WeightsError:
    return WeightsError(
        f"{name} is not completely in the Hugging Face cache and the offline switch is on: run "
        f"`hf download {repository}` with a network, then copy the cache here or give the folder as a path"
    )


def _from_folder(fetch: Fetch, name: str, source: str) -> Source:
    """A folder or repository; its configuration file shows the layout."""
    config_file = fetch(OPEN_CLIP_CONFIG)
    if config_file is not None:
        names = OPEN_CLIP_WEIGHTS + HUGGING_FACE_WEIGHTS
        return _open_clip(
            read_json(config_file), lambda: read_tensors(_first(fetch, names, name)), name, source
        )
    config_file = fetch(HUGGING_FACE_CONFIG)
    if config_file is None:
        raise FilesMissingError(
            f"{name} has neither {OPEN_CLIP_CONFIG} nor {HUGGING_FACE_CONFIG}: "
            "it is no folder of CLIP weights"
        )
    config = read_json(config_file)
    if "record" in config:
        return _packaged_files(config_file, config, fetch)
    shape = clip_config_from_hugging_face(config, name)
    tensors = to_openai_names(_hugging_face_tensors(fetch, name), name)
    preprocessing = fetch("preprocessor_config.json")
    image = read_json(preprocessing) if preprocessing is not None else {}
    colours = _colours(image, "image_mean", "image_std", name)
    return Source(shape, tensors, _record(name, source, shape, colours))


def _first(fetch: Fetch, names: tuple[str, ...], origin: str) -> Path:
    """The first of several files that exists."""
    for name in names:
        path = fetch(name)
        if path is not None:
            return path
    raise FilesMissingError(f"{origin} has none of the weight files {', '.join(names)}")


def _hugging_face_tensors(fetch: Fetch, origin: str) -> dict[str, Tensor]:
    """The tensors of a CLIPModel, in one file or in several with an index; safetensors first."""
    for name in HUGGING_FACE_WEIGHTS:
        whole = fetch(name)
        if whole is not None:
            return read_tensors(whole)
        index_file = fetch(f"{name}.index.json")
        if index_file is not None:
            weight_map = read_json(index_file).get("weight_map")
            if not isinstance(weight_map, dict) or not weight_map:
                raise WeightsError(f"{index_file} has no weight_map")
            tensors: dict[str, Tensor] = {}
            for tensor, shard in weight_map.items():
                if not isinstance(shard, str):
                    raise WeightsError(
                        f"{index_file}: weight_map.{tensor} must be the name of a file, got {shard!r}"
                    )
            for shard in sorted(set(weight_map.values())):
                if Path(shard).name != shard:
                    raise WeightsError(f"{index_file} names a file outside its folder: {shard!r}")
                tensors.update(read_tensors(_first(fetch, (shard,), origin)))
            return tensors
    raise FilesMissingError(f"{origin} has none of the weight files {', '.join(HUGGING_FACE_WEIGHTS)}")


def _open_clip(
    config: Mapping[str, Any], read: Callable[[], Mapping[str, Tensor]], name: str, source: str
) -> Source:
    """open_clip's configuration and tensors; the tensors are read after the configuration is checked."""
    model = config.get("model_cfg", config)
    preprocessing = config.get("preprocess_cfg", {})
    if not isinstance(model, Mapping) or not isinstance(preprocessing, Mapping):
        raise WeightsError(f"{name}: model_cfg and preprocess_cfg must be objects")
    shape = clip_config_from_open_clip(model, name)
    colours = _colours(preprocessing, "mean", "std", name)
    interpolation = preprocessing.get("interpolation", "bicubic")
    notes = (
        "" if interpolation == "bicubic" else f"trained on images resized by {interpolation} interpolation"
    )
    tensors = to_openai_names(read(), name)
    return Source(shape, tensors, _record(name, source, shape, colours, notes))


def _from_open_clip_table(name: str, offline: bool) -> Source:
    """An entry of open_clip's table of architectures and tags; only the table comes from that package."""
    arch, _, tag = name.removeprefix(OPEN_CLIP).rpartition("/")
    arch = arch.replace("/", "-")
    if not arch or not tag:
        raise ConfigError(
            f"backbone {name!r} is not of the form open_clip:ARCH/TAG, for example open_clip:ViT-B-16/openai"
        )
    try:
        import open_clip
        from open_clip.pretrained import get_pretrained_cfg
    except ImportError as error:
        raise MissingExtraError("open_clip_torch", "open-clip", f"backbone {name!r}") from error
    model = open_clip.get_model_config(arch)
    if model is None:
        raise unknown_name("open_clip architecture", arch, _supported(open_clip))
    entry = get_pretrained_cfg(arch, tag)
    if not entry:
        tags = open_clip.list_pretrained_tags_by_model(arch)
        raise unknown_name(f"open_clip tag of {arch}", tag, tags)
    # The tag states how its weights were trained; the architecture's flag counts only if the tag does not.
    model["quick_gelu"] = bool(entry.get("quick_gelu", model.get("quick_gelu", False))) or tag == "openai"
    config = {"model_cfg": model, "preprocess_cfg": entry}
    if not entry.get("hf_hub"):
        url = entry["url"]
        sha256 = _published_sum(url)
        return _open_clip(config, lambda: read_tensors(download(url, sha256, offline=offline)), name, url)
    repository, _, file = entry["hf_hub"].rpartition("/")

    def fetch(wanted: str) -> Path | None:
        return hub_file(repository, wanted, offline=offline)

    source = f"{HUB}{repository}"
    names = (file,) if file else OPEN_CLIP_WEIGHTS
    try:
        return _open_clip(config, lambda: read_tensors(_first(fetch, names, source)), name, source)
    except FilesMissingError as error:
        raise _not_cached(source, repository) if offline else error from None


def _supported(open_clip: Any) -> list[str]:
    """The architectures of open_clip that the network of zsad can represent."""
    names = []
    for arch in open_clip.list_models():
        with contextlib.suppress(WeightsError):
            clip_config_from_open_clip(open_clip.get_model_config(arch), arch)
            names.append(arch)
    return names


def _published_sum(url: str) -> str | None:
    """The checksum in the addresses of OpenAI and open_clip, complete or its first eight digits."""
    folder, file = url.split("/")[-2:]
    if re.fullmatch(r"[0-9a-f]{64}", folder):
        return folder
    digits = re.search(r"-([0-9a-f]{8})\.\w+$", file)
    return digits[1] if digits and "/open_clip/releases/" in url else None


def _from_file(path: Path, name: str, activation: Activation | None) -> Source:
    """One file of weights, with its configuration beside it unless it is a file of OpenAI."""
    kind = file_kind(path)
    tensors = read_tensors(path)
    layout = find_layout(tensors, str(path))
    if layout == "hugging_face":
        return _from_folder(_beside(path), name, str(path))
    for config_file in (
        path.with_name(OPEN_CLIP_CONFIG),
        path.with_suffix(".json"),
        path.with_name(HUGGING_FACE_CONFIG),
    ):
        if config_file.is_file() and (
            "vision_cfg" in (config := read_json(config_file)) or "model_cfg" in config
        ):
            return _open_clip(config, lambda: tensors, name, str(path))
    record = next((record for record in WELL_KNOWN if record.source.endswith(f"/{path.name}")), None)
    if record is None and activation is None and kind != "torchscript":
        if path.suffix in {".safetensors", ".bin"} or layout == "custom_text":
            raise WeightsError(
                f"{path} does not state its activation: put its {OPEN_CLIP_CONFIG} beside it, "
                'or pass activation="gelu" or "quick_gelu"'
            )
        warnings.warn(
            f"{path.name} is treated as OpenAI's weights, with QuickGELU; if open_clip trained it, put its "
            f'{OPEN_CLIP_CONFIG} beside it or pass activation="gelu"',
            stacklevel=4,
        )
    tensors = to_openai_names(tensors, str(path))
    trained: Activation = "quick_gelu"
    if record is not None:
        trained = record.activation
    elif activation is not None and kind != "torchscript":
        trained = activation
    shape = clip_config_from_state_dict(tensors, trained, str(path))
    colours = (record.mean, record.std) if record else (CLIP_MEAN, CLIP_STD)
    # Methods read these notes: the authors' code treats OpenAI's weights differently.
    notes = OPENAI_LAYOUT if record is None else f"a copy of {record.source}"
    return Source(shape, tensors, _record(name, str(path), shape, colours, notes))


def _beside(path: Path) -> Fetch:
    """Finds files in the folder of a weights file, which counts as the only file of weights there."""

    def fetch(file: str) -> Path | None:
        if file == HUGGING_FACE_WEIGHTS[0]:
            return path
        return path.with_name(file) if path.with_name(file).is_file() else None

    return fetch


def _record(name: str, source: str, config: ClipConfig, colours: Colours, notes: str = "") -> WeightRecord:
    mean, std = colours
    return WeightRecord(
        name=name,
        source=source,
        image_size=config.vision.image_size,
        mean=mean,
        std=std,
        activation=config.activation,
        licence=SEE_PUBLISHER,
        notes=notes,
    )


def _colours(settings: Mapping[str, Any], mean: str, std: str, origin: str) -> Colours:
    """Mean and deviation of the RGB channels from a configuration; CLIP's own where it has none."""
    deviations = _three(settings.get(std, CLIP_STD), f"{origin}: {std}")
    if min(deviations) <= 0:
        raise WeightsError(f"{origin}: {std} is {deviations}, expected three numbers above 0")
    return _three(settings.get(mean, CLIP_MEAN), f"{origin}: {mean}"), deviations


def _three(values: Any, where: str) -> Triple:
    """Three numbers, one per colour channel."""
    if isinstance(values, (list, tuple)) and [type(value) in (int, float) for value in values] == [True] * 3:
        red, green, blue = (float(value) for value in values)
        return red, green, blue
    raise WeightsError(f"{where} is {shortened(values)}, expected three numbers")


def packaged_source(folder: Path) -> Source:
    """Reads a folder that `write_packaged` wrote.

    Raises:
        WeightsError: files are missing, damaged or contradict each other.
    """
    card = folder / PACKAGED_CONFIG
    if not card.is_file():
        if folder.parent == PACKAGE_FOLDER:
            raise WeightsError(f"the package's own weights are missing ({card}): install zsad again")
        raise WeightsError(f"{folder} is no folder that zsad wrote: {card.name} is missing")
    return _packaged_files(card, read_json(card), _folder(folder))


def _packaged_files(card: Path, content: Mapping[str, Any], fetch: Fetch) -> Source:
    """The layout of `write_packaged`: config.json with "config", "record" and the weights' file name."""
    record = record_from_json(content.get("record"), card)
    weights_name = content.get("weights", PACKAGED_WEIGHTS)
    if not isinstance(weights_name, str) or Path(weights_name).name != weights_name:
        raise WeightsError(f'{card}: "weights" must name a file of the same folder, got {weights_name!r}')
    try:
        config = from_plain(ClipConfig, content.get("config"), "config")
    except DataError as error:
        raise WeightsError(f'{card}: "config" does not describe a backbone ({error})') from error
    return Source(config, read_tensors(_first(fetch, (weights_name,), str(card.parent))), record)

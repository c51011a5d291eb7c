"""The table of well-known CLIP weights, and which of them are on this machine. Does not import torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zsad.errors import RUNTIME_DISTRIBUTION, DataError, MissingTorchError, WeightsError, distribution_name
from zsad.files import json_text
from zsad.files.cache import find_cached
from zsad.files.plain import from_plain
from zsad.types import Activation, WeightRecord

HUB = "hf-hub:"
PACKAGE = "package:"
PACKAGE_FOLDER = Path(__file__).parent  # "package:FOLDER/FILE" of a record is relative to it
OPEN_CLIP_WEIGHTS = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
)
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

OPENAI_URL = (
    "https://openaipublic.azureedge.net/clip/models"  # the path after it begins with the file's SHA-256
)
OPENAI_LICENCE = "MIT; OpenAI's model card asks not to deploy it untested"
WIT = "WIT: 400 million image-text pairs from the web, not published"


PAPERS_BACKBONE = "ViT-L-14-336"
PAPERS_SIZE = 518
MVTEC = "MVTec AD's test images (CC BY-NC-SA 4.0)"
VISA = "VisA's test images (CC BY 4.0)"
CODE_LICENCE = "MIT, as the authors' code; none is stated for the weights by themselves"


def authors_weights(
    name: str,
    source: str,
    page: str,
    auxiliary_data: str,
    *,
    activation: Activation = "gelu",
    sha256: str | None = None,
    size: int | None = None,
    notes: str = "",
) -> WeightRecord:
    """The record of a file of learnt weights that the authors of a method publish, for a method's `WEIGHTS`.

    The methods of the literature learn on OpenAI's ViT-L/14-336 at 518 x 518. No authors give checksums: a
    SHA-256 belongs here where at least two independent projects pin the same one for the file, a size where
    one of them gives it. Without a checksum a fetched file cannot be verified.

    Args:
        name: name that a user types for `checkpoint=`.
        source: URL of the file.
        page: page where a person can get the file if `source` does not answer.
        auxiliary_data: data that the weights were learnt from, by names, so that an evaluation on them is
            refused.
        activation: activation of the MLPs that the weights were learnt with.
        sha256: SHA-256 of the file in hexadecimal digits; None if unknown.
        size: size of the file in bytes; None if unknown.
        notes: anything else worth a line.
    """
    return WeightRecord(
        name=name,
        source=source,
        image_size=PAPERS_SIZE,
        mean=CLIP_MEAN,
        std=CLIP_STD,
        activation=activation,
        licence=CODE_LICENCE,
        bytes=size,
        sha256=sha256,
        auxiliary_data=auxiliary_data,
        backbone=PAPERS_BACKBONE,
        notes=notes,
        page=page,
    )


def _openai(name: str, file: str, image_size: int, size: int, sha256: str) -> WeightRecord:
    return WeightRecord(
        name=name,
        source=f"{OPENAI_URL}/{sha256}/{file}",
        image_size=image_size,
        mean=CLIP_MEAN,
        std=CLIP_STD,
        activation="quick_gelu",
        licence=OPENAI_LICENCE,
        bytes=size,
        sha256=sha256,
        auxiliary_data=WIT,
    )


WELL_KNOWN = (
    _openai(
        "ViT-B-32",
        "ViT-B-32.pt",
        224,
        353_976_522,
        "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af",
    ),
    _openai(
        "ViT-B-16",
        "ViT-B-16.pt",
        224,
        350_837_078,
        "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f",
    ),
    _openai(
        "ViT-L-14",
        "ViT-L-14.pt",
        224,
        932_768_134,
        "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836",
    ),
    _openai(
        "ViT-L-14-336",
        "ViT-L-14-336px.pt",
        336,
        934_088_680,
        "3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02",
    ),
    WeightRecord(
        name="ViT-B-16-plus-240",
        source="hf-hub:timm/vit_base_patch16_plus_clip_240.laion400m_e31",
        image_size=240,
        mean=CLIP_MEAN,
        std=CLIP_STD,
        activation="gelu",
        licence="MIT",
        auxiliary_data="LAION-400M, 31 epochs",
        notes="WinCLIP's backbone; the 31st epoch, as anomalib uses it",
    ),
    WeightRecord(
        name="ViT-B-16-plus-240-e32",
        source="https://github.com/mlfoundations/open_clip/releases/download/v0.2-weights/"
        "vit_b_16_plus_240-laion400m_e32-699c4b84.pt",
        image_size=240,
        mean=CLIP_MEAN,
        std=CLIP_STD,
        activation="gelu",
        licence="MIT",
        bytes=833_559_975,
        sha256="699c4b84",  # its publisher gives the first eight digits, in the file's name
        auxiliary_data="LAION-400M, 32 epochs",
        notes="open_clip's tag laion400m_e32 leads to the hub's e31 files; these are the 32nd epoch",
    ),
)


def list_backbones() -> list[str]:
    """Names that `load_backbone` knows: "tiny", which ships in the package, then well-known CLIP weights."""
    return ["tiny", *(record.name for record in WELL_KNOWN)]


def backbone_records() -> list[WeightRecord]:
    """The records behind `list_backbones`, in its order.

    Raises:
        WeightsError: the package's own weights are missing.
    """
    card = PACKAGE_FOLDER / "tiny" / "config.json"
    if not card.is_file():
        if distribution_name() == RUNTIME_DISTRIBUTION:
            raise MissingTorchError
        raise WeightsError(f"the package's own weights are missing ({card}): install zsad again")
    return [record_from_json(read_json(card).get("record"), card), *WELL_KNOWN]


def is_available_offline(record: WeightRecord) -> bool:
    """Whether the weights of a record can be loaded now without the network.

    Args:
        record: one of `backbone_records()`.
    """
    if record.source.startswith(PACKAGE):
        return (PACKAGE_FOLDER / record.source.removeprefix(PACKAGE)).is_file()
    if record.source.startswith(HUB):
        from huggingface_hub import try_to_load_from_cache

        repository, _, revision = record.source.removeprefix(HUB).partition("@")
        return any(
            isinstance(try_to_load_from_cache(repository, name, revision=revision or None), str)
            for name in OPEN_CLIP_WEIGHTS
        )
    return find_cached(record.source, record.sha256) is not None


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        WeightsError: the file is missing, not JSON, or holds something other than an object.
    """
    try:
        return json_text.read_json(path)
    except DataError as error:
        raise WeightsError(str(error)) from error


def record_from_json(content: Any, path: Path) -> WeightRecord:
    """A weight record from its JSON form.

    Args:
        content: value of "record" in the file.
        path: path of the file, for the message.

    Raises:
        WeightsError: fields are missing or unknown.
    """
    if not isinstance(content, Mapping):
        raise WeightsError(f'{path} has no "record" object')
    try:
        record = from_plain(WeightRecord, content, f'{path}, "record"')
    except DataError as error:
        raise WeightsError(str(error)) from error
    if record.image_size < 1 or min(record.std) <= 0 or (record.bytes or 0) < 0:
        raise WeightsError(f'{path}, "record": image_size and std must be above 0, and bytes not below')
    return record


def is_openai(record: WeightRecord | None) -> bool:
    """Whether weights are OpenAI's, or in OpenAI's format, which the authors' code treats the same way."""
    return record is not None and "openai" in f"{record.name} {record.source} {record.notes}".lower()

"""`Bundle`: what an exported folder holds, and everything that a runner has to know about it. No torch.

A bundle is a folder with `bundle.json`, graphs (image tensor in, score and map out), a README, and for some
regions of interest a mask. Text features, the memory of references, and companions are constants of the
graphs.

Tensors of the graphs "whole" and "tiles": input `images`, (B, 3, S, S) float32, resized and normalised as
`Bundle.preparation` says; outputs `scores`, (B,) float32, and `maps`, (B, S, S) float32. Tensors of the graph
"image": input `image`, (H, W, 3) uint8 RGB of any size; outputs `score`, a float32 scalar, and `map`, (H, W)
float32.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
from PIL import Image

from zsad._version import __version__
from zsad.errors import ConfigError, DataError, printable
from zsad.files.fields import Count  # noqa: TC001 - `from_plain` reads the annotations
from zsad.files.json_text import read_json
from zsad.files.plain import from_plain, to_plain, write_json
from zsad.images.preparing import Preparation
from zsad.images.region import Region
from zsad.images.tiles import Tile  # noqa: TC001 - `from_plain` reads the annotations
from zsad.types import ScoreScale  # noqa: TC001 - `from_plain` reads the annotations

BUNDLE_FILE = "bundle.json"
REGION_FILE = "region.png"
FORMAT = 1
_FORMAT_KEY = "zsad_bundle"
_DIGEST_KEY = "sha256"
README_FILE = "README.md"
_BLOCK = 1 << 20  # bytes read at once

Runner = Literal["onnx", "openvino"]
ExportPrecision = Literal["fp32", "fp16", "int8"]
GraphKind = Literal["whole", "tiles", "image"]


@dataclass(frozen=True)
class Graphs:
    """File names of the graphs.

    Attributes:
        whole: graph for whole images.
        tiles: graph for the tiles of large images, if tiles are compared with other references than whole
            images; None if `whole` serves both.
        image: graph from the pixels of one image of any size to its score and map; None without one.
    """

    whole: str
    tiles: str | None = None
    image: str | None = None


@dataclass(frozen=True)
class FileRecord:
    """Size and digest of a file of the bundle.

    Attributes:
        bytes: size in bytes.
        sha256: SHA-256 in hexadecimal digits.
    """

    bytes: int
    sha256: str


@dataclass(frozen=True)
class RegionRecord:
    """The region of interest.

    Attributes:
        identity: what tells regions apart; see `zsad.images.region.Region`.
        box: text of a box, as `Region.of_box` reads it; None for a mask.
        mask: file name of a mask, above 0 where to look; None for a box.
    """

    identity: str
    box: str | None = None
    mask: str | None = None


@dataclass(frozen=True)
class Promise:
    """What the thresholds promise.

    Attributes:
        rate: share of new normal images that may be called anomalous; None for a threshold by another rule.
        confidence: probability with which the rate is kept; None for a threshold by another rule.
        lines: the promise in sentences.
        warnings: sentences on its limits.
    """

    rate: float | None
    confidence: float | None
    lines: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Parity:
    """How far the graphs differ from Python, measured when the bundle was made.

    Attributes:
        images: number of images that were compared.
        source: where the images come from, in words.
        batch_sizes: numbers of images that went through the graphs at once.
        score: largest absolute difference of a score.
        map: largest absolute difference of a map value, in units of the width of `Bundle.map_range`.
        score_limit: largest difference of a score that was accepted; None for a precision that only reports.
        map_limit: largest difference of a map value that was accepted, in the same units; None likewise.
        per_graph: (score, map) differences of each graph by name.
    """

    images: int
    source: str
    batch_sizes: tuple[int, ...]
    score: float
    map: float
    score_limit: float | None = None
    map_limit: float | None = None
    per_graph: Mapping[str, tuple[float, float]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """What an exported folder holds; the content of its `bundle.json`.

    Attributes:
        runner: program that runs the graphs.
        precision: number format of the graphs' weights.
        method: registry name of the method.
        backbone: name of the CLIP network.
        weights: short digest of the network's weights and of everything that was learnt.
        settings: everything that the scores depend on, as `zsad.Detector.scoring_settings` gives it.
        image_size: side of the square network input, in pixels.
        mean: mean of the R, G and B channels, in [0, 1] units, that is subtracted.
        std: standard deviation of the R, G and B channels, in [0, 1] units, by which they are divided.
        bits: depth at which 16-bit files are read, 1 to 16; None for what each file states.
        uses_class_names: whether scores depend on the class name.
        class_name: class name whose prompts are part of the graphs; None if scores depend on none.
        decision_class_name: class name that the thresholds are for; None for images of any name.
        map_range: smallest and largest value that a map can take.
        threshold: image score from which on an image counts as anomalous; None without a decision.
        map_threshold: map value from which on a pixel counts as anomalous; None without a decision.
        score_scale: scale of relative scores and p-values; None without a calibration.
        promise: what the thresholds promise; None without a calibration.
        calibration: the whole calibration, as `zsad.Calibration.to_dict` gives it; None without one.
        tile: how large images are cut into tiles; None for whole images.
        roi: region of interest; None for whole images.
        references: number of known-normal images whose features are part of the graphs.
        companions: number of unlabelled images whose features are part of the graphs.
        most_at_once: largest batch that the graphs take.
        graphs: file names of the graphs.
        notes: what the method could not do as it was set up, for every `Prediction`.
        licences: a line for each licence that the weights come under.
        parity: how far the graphs differ from Python.
        files: size and digest of each file that a runner reads, by name.
        versions: versions of the programs that made the bundle, by name.
        created: date, YYYY-MM-DD.
        version: version of zsad that made the bundle.
    """

    runner: Runner
    precision: ExportPrecision
    method: str
    backbone: str
    weights: str
    settings: Mapping[str, Any] = field(default_factory=dict, repr=False)
    image_size: Count
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    bits: int | None = None
    uses_class_names: bool = False
    class_name: str | None = None
    decision_class_name: str | None = None
    map_range: tuple[float, float] = (0.0, 1.0)
    threshold: float | None = None
    map_threshold: float | None = None
    score_scale: ScoreScale | None = field(default=None, repr=False)
    promise: Promise | None = None
    calibration: Mapping[str, Any] | None = field(default=None, repr=False)
    tile: Tile = None
    roi: RegionRecord | None = None
    references: int = 0
    companions: int = 0
    most_at_once: Count = 64
    graphs: Graphs
    notes: tuple[str, ...] = ()
    licences: tuple[str, ...] = ()
    parity: Parity | None = None
    files: Mapping[str, FileRecord] = field(default_factory=dict, repr=False)
    versions: Mapping[str, str] = field(default_factory=dict)
    created: str = ""
    version: str = __version__

    @property
    def preparation(self) -> Preparation:
        """How images become the graphs' input."""
        return Preparation(self.image_size, self.mean, self.std, self.bits)


def write_bundle(bundle: Bundle, folder: Path) -> Path:
    """Writes `bundle.json` with a digest of its values, whole or not at all.

    Returns:
        Path of the file.

    Raises:
        OSError: the file cannot be written.
    """
    path = folder / BUNDLE_FILE
    values = {_FORMAT_KEY: FORMAT, **to_plain(bundle)}
    write_json(path, {**values, _DIGEST_KEY: _digest_of_values(values)})
    return path


def read_bundle(folder: str | Path) -> Bundle:
    """Reads what a bundle holds, and checks that its values and files are those that were exported.

    Args:
        folder: folder that `zsad export` wrote.

    Raises:
        ConfigError: the folder does not exist or is no bundle.
        DataError: `bundle.json` is damaged, was edited or comes from a newer zsad, or a file is missing or
            has changed.
    """
    folder = Path(folder).expanduser()
    path = folder / BUNDLE_FILE
    if not path.is_file():
        problem = "is a file" if folder.is_file() else "does not exist"
        if folder.is_dir():
            problem = "holds no bundle.json"
        raise ConfigError(f"{printable(folder)} {problem}: give the folder that `zsad export --out` wrote")
    values = read_json(path)
    digest, found = values.pop(_DIGEST_KEY, None), _digest_of_values(values)
    written_as = values.pop(_FORMAT_KEY, None)
    if not isinstance(written_as, int) or isinstance(written_as, bool) or written_as < 1:
        raise DataError(f"{printable(path)} is not a bundle of zsad: make it with `zsad export`")
    if written_as > FORMAT:
        raise DataError(
            f"{printable(path)} was written by zsad {values.get('version', '?')}, which is newer than this "
            f"{__version__}: pip install --upgrade zsad"
        )
    bundle = from_plain(Bundle, values, printable(path))
    _check_files(bundle, folder)
    if digest != found:
        raise DataError(
            f"{printable(path)} was edited after the export, so that scores and promises may not hold: copy "
            "the folder again, or export again (another threshold: --threshold when predicting)"
        )
    return bundle


def file_records(folder: Path) -> dict[str, FileRecord]:
    """Size and digest of every file in a bundle's folder that a runner reads, by name."""
    return {
        path.name: FileRecord(path.stat().st_size, _digest(path))
        for path in sorted(folder.iterdir())
        if path.name not in (BUNDLE_FILE, README_FILE)
    }


def region_record(region: Region, folder: Path) -> RegionRecord:
    """The region of interest as a bundle keeps it; a mask is written as `region.png`."""
    if region.mask is None:
        return RegionRecord(region.identity, box=region.identity)
    Image.fromarray(region.mask).save(folder / REGION_FILE)
    return RegionRecord(region.identity, mask=REGION_FILE)


def region_of(bundle: Bundle, folder: str | Path) -> Region | None:
    """The region of interest of a bundle; None for whole images."""
    record = bundle.roi
    if record is None:
        return None
    if record.mask is None:
        return Region.of_box(record.box or record.identity)
    with Image.open(Path(folder).expanduser() / record.mask) as image:
        return Region.of_mask(np.asarray(image.convert("L")))


def _check_files(bundle: Bundle, folder: Path) -> None:
    """Refuses a bundle whose files are not those that were exported.

    Raises:
        DataError: a file is missing, changed or unknown to the bundle, or its name leads out of the folder.
    """
    graphs = [name for name in (bundle.graphs.whole, bundle.graphs.tiles, bundle.graphs.image) if name]
    mask = [bundle.roi.mask] if bundle.roi and bundle.roi.mask else []
    where = printable(folder / BUNDLE_FILE)
    for name in (*bundle.files, *graphs, *mask):
        if PurePosixPath(name).name != name or "\\" in name or name in ("", ".", ".."):
            raise DataError(f"{where}: {name!r} is no name of a file in the folder")
        if name not in bundle.files:
            raise DataError(f"{where}: {name} has no digest in files: export the detector again")
    for name, record in bundle.files.items():
        path = folder / name
        if not path.is_file():
            raise DataError(
                f"{printable(path)} is missing: copy the whole folder, or export the detector again"
            )
        if path.stat().st_size != record.bytes or _digest(path) != record.sha256:
            raise DataError(
                f"{printable(path)} is not the file that was exported (damaged or changed): copy the folder "
                "again, or export the detector again"
            )


def _digest_of_values(values: Mapping[str, Any]) -> str:
    """Digest of the content of `bundle.json`, however it is indented and ordered."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()

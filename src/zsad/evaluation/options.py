"""Options of an evaluation; no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zsad.backbones.devices import PRECISIONS
from zsad.data.layouts import Split, check_split
from zsad.detector.looking import RegionInput, as_region
from zsad.detector.support import DEFAULT_METHOD
from zsad.errors import ConfigError, unknown_name
from zsad.files.settings import one_or_more
from zsad.images.limits import common_depth
from zsad.images.tiles import Tile, setting_of
from zsad.methods._registry import known_name
from zsad.metrics.pro import check_pro

if TYPE_CHECKING:
    from zsad.metrics.pro import ProVariant

ALL_METHODS = "all"
LEAST = {"batch_size": 1, "devices": 1, "limit": 1, "image_size": 1, "bootstrap": 0, "references": 0}


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """What to evaluate, on what and how. Each combination of method, backbone, seed and dataset is a run.

    Attributes:
        data: datasets, each as `zsad.data.folder.open_datasets` takes it.
        normal_labels: labels and names of class folders that alone mean "normal"; None: known words.
        include_results: whether images that zsad wrote itself count as images of a dataset.
        out: folder for the results.
        methods: names of methods; "all" stands for every method.
        backbones: backbones as for `zsad.load`; None: the backbone of the checkpoint, or "tiny" without one.
        checkpoint: learnt weights as for `zsad.load`; {method}, {backbone} and {seed} in it are filled in for
            each run.
        seeds: seeds of everything that is random, each 0 or more.
        split: part of the datasets, "test", "train" or "all".
        pro: variant of AUPRO, "exact" or "script".
        fpr_limit: false-positive rate up to which the PRO curve counts, in (0, 1].
        bootstrap: number of resamples for the 95 % intervals of the image metrics; 0 for none.
        references: number of normal training images per category that each method is given; 0 for zero-shot.
        augment_references: whether references also count turned and flipped, for parts in any direction.
        limit: maximum number of images per category, evenly spread; None for all.
        roi: region of interest, as `Detector.with_roi` takes it; pixels outside count in no metric.
        image_size: side of the network's input, in pixels; None as for `zsad.load`.
        batch_size: number of images that go through the network at once.
        bits: depth of the values in 16-bit files, 1 to 16; None for what the files state.
        tile: how large images are cut into overlapping tiles, as `Detector.with_tile` takes it. Pixel metrics
            are then computed at the size of each image, otherwise at that of the network's input.
        settings: settings of the methods, by the names of their `Config`; every method must know them.
        precision: precision of the backbone; None for fp32.
        device: device as for `zsad.load`.
        devices: number of processes that share the images of a category, each with its own GPU if there are
            any.
        resume: whether to keep the runs that an earlier evaluation with the same settings finished in `out`.
        allow_overlap: whether to evaluate although the weights were trained on some of the test data.
    """

    data: tuple[str | Path, ...]
    normal_labels: tuple[str, ...] | None = None
    include_results: bool = False
    out: Path = Path("zsad-evaluation")
    methods: tuple[str, ...] = (DEFAULT_METHOD,)
    backbones: tuple[str | None, ...] = (None,)
    checkpoint: str | None = None
    seeds: tuple[int, ...] = (0,)
    split: Split = "test"
    pro: ProVariant = "exact"
    fpr_limit: float = 0.3
    bootstrap: int = 0
    references: int = 0
    augment_references: bool = False
    limit: int | None = None
    roi: RegionInput = None
    image_size: int | None = None
    batch_size: int = 8
    bits: int | None = None
    tile: Tile = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    precision: str | None = None
    device: str | None = None
    devices: int = 1
    resume: bool = False
    allow_overlap: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "out", Path(self.out).expanduser())  # a plain string is accepted too
        for name in ("data", "methods", "backbones", "seeds"):  # one value as well as several
            value = getattr(self, name)
            object.__setattr__(self, name, one_or_more(value))
        known = (each if each.lower() == ALL_METHODS else known_name(each) for each in self.methods)
        object.__setattr__(self, "methods", tuple(each.lower() for each in known))
        object.__setattr__(self, "bits", common_depth(self.bits))
        object.__setattr__(self, "tile", setting_of(self.tile))
        check_pro(self.pro, self.fpr_limit)
        for name, least in LEAST.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"{name} must be at least {least}, got {value!r}")
        if self.augment_references and not self.references:
            raise ConfigError(
                "augment_references turns known-normal images, and there are none: give references=4 as well "
                "(--reference 4), or leave it out"
            )
        object.__setattr__(self, "roi", as_region(self.roi))
        check_split(self.split)
        if self.precision is not None and self.precision not in PRECISIONS:
            raise unknown_name("precision", self.precision, PRECISIONS)
        if not self.data:
            raise ConfigError("no data to evaluate on: give --data FOLDER or --data NAME:FOLDER")
        if not (self.methods and self.backbones and self.seeds) or min(self.seeds) < 0:
            raise ConfigError("an evaluation needs a method, a backbone and a seed of 0 or more")

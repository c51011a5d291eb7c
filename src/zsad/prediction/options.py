"""Options of `zsad predict`, which are those of `predict_folder`; no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from zsad.errors import ConfigError, unknown_name
from zsad.files.csv_tables import checked_delimiter
from zsad.files.settings import one_or_more
from zsad.images.drawing import SCALES, Scale
from zsad.images.limits import Bits, checked_bits
from zsad.images.names import Pages
from zsad.images.saving import FILE_SUFFIXES, FileKind
from zsad.images.tiles import Tile, checked_tile

if TYPE_CHECKING:
    from zsad.detector.looking import RegionInput

EngineName = Literal["local", "ray"]


@dataclass(frozen=True, kw_only=True)
class PredictOptions:
    """What to do with each image, and how to run over all of them.

    Attributes:
        out: folder for the results, created if missing. Without `resume`, earlier results are replaced.
        class_name: name of what the images show, for methods that use class names.
        threshold: image score at and above which an image counts as anomalous; None: the detector's, if any.
        map_threshold: map value at and above which a pixel counts as anomalous; None: the detector's, if any.
        formats: files to write for each image: "overlay", "map" (16-bit PNG), "npy", "mask", "contour";
            None: overlay and map, and the mask if there is a map threshold.
        scale: colour scale of the overlays: "fixed" (comparable between images) or "image" (its own range).
        explain: defect phrases for `Prediction.explain`; their ranking for each image is written to
            `explanations.jsonl`.
        roi: region of interest, as `Detector.with_roi` takes it; None: that of the detector.
        csv_delimiter: what separates the cells of `results.csv`: ",", ";", "|" or "tab".
        batch_size: number of images that go through the network at once. A method that scores all images
            together gets them as one batch.
        bits: depth of the values in 16-bit files, 1 to 16, such as 12 for a 12-bit camera; "auto": the
            smallest usual depth that all images of the run fit in, for which they are read once more; None:
            what the files state. Companions, and references loaded for the run, are read at the same depth.
        pages: "first": the first page of a file with several, and the middle slice of a volume; "all": every
            page, frame and slice, each with a row under a name such as "scan.tif#page=3".
        tile: how large images are cut into overlapping tiles, as `Detector.with_tile` takes it; None: as the
            detector was calibrated or loaded.
        recursive: whether to search sub-folders too.
        include_results: whether to score the images that zsad wrote itself, and masks, in folders too.
        resume: whether to keep the results that an earlier run with the same settings left in `out`, and to
            score only images that are new, have changed or failed. The batches may then differ from those of
            one uninterrupted run, so scores are equal to rounding.
        loaded_with: how the detector was loaded, where its own settings do not say so (the name of the
            checkpoint file, for example). Stored, compared on `resume` and shown on the page.
        engine: "local": this machine; "ray": a Ray cluster, which also reads the URIs of buckets.
        devices: number of processes that score, each with a GPU ("cuda:0", "cuda:1", ...) or a share of the
            CPU; or the device names themselves. For "local". Results equal those of one process; on a GPU
            only to rounding. A script that asks for several needs `if __name__ == "__main__":`, because new
            Python processes import it.
        workers: maximum number of processes of "ray"; None: one per GPU or, without GPUs, per CPU.
        device: device to load the detector on and kind of device of the processes, as for `zsad.load`; None:
            the device of the detector, or the fastest if the detector is yet to be loaded.
    """

    out: str | Path = Path("zsad-results")
    class_name: str | None = None
    threshold: float | None = None
    map_threshold: float | None = None
    formats: Sequence[FileKind] | None = None
    scale: Scale = "fixed"
    explain: Sequence[str] | None = None
    roi: RegionInput = None
    csv_delimiter: str = ","
    batch_size: int = 8
    bits: Bits = None
    tile: Tile = None
    pages: Pages = "first"
    recursive: bool = True
    include_results: bool = False
    resume: bool = False
    loaded_with: Mapping[str, Any] = field(default_factory=dict)
    engine: EngineName = "local"
    devices: int | Sequence[str] = 1
    workers: int | None = None
    device: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "out", Path(self.out).expanduser())
        for name in ("formats", "explain"):
            object.__setattr__(self, name, one_or_more(getattr(self, name)))
        if self.scale not in SCALES:
            raise unknown_name("scale", str(self.scale), SCALES)
        for kind in self.formats or ():
            if kind not in FILE_SUFFIXES:
                raise unknown_name("format", kind, FILE_SUFFIXES)
        for name in ("threshold", "map_threshold"):
            value = getattr(self, name)
            if value is not None and not np.isfinite(value):
                raise ConfigError(f"the {name.replace('_', ' ')} must be a finite number, got {value!r}")
        checked_delimiter(self.csv_delimiter)
        if self.roi is not None:
            from zsad.detector.looking import as_region

            object.__setattr__(self, "roi", as_region(self.roi))
        if self.batch_size < 1:
            raise ConfigError(f"the batch size must be at least 1, got {self.batch_size}")
        checked_bits(self.bits)
        object.__setattr__(self, "tile", checked_tile(self.tile))
        if self.pages not in get_args(Pages):
            raise unknown_name("pages", str(self.pages), get_args(Pages))
        if self.explain is not None:
            from zsad.detector.explanation import checked_phrases  # needs torch, which other options do not

            checked_phrases(self.explain)
        self._check_engine()

    @property
    def scores_elsewhere(self) -> bool:
        """Whether other processes score, each with its own copy of the detector."""
        return self.engine == "ray" or self.devices != 1

    def _check_engine(self) -> None:
        if self.engine not in get_args(EngineName):
            raise unknown_name("engine", self.engine, get_args(EngineName))
        if self.engine == "local" and self.workers is not None:
            raise ConfigError("--workers is for --engine ray; on this machine give --devices")
        if self.engine == "ray" and self.devices != 1:
            raise ConfigError("--devices is for this machine; with --engine ray give --workers")
        if self.workers is not None and self.workers < 1:
            raise ConfigError(f"the number of workers must be at least 1, got {self.workers}")
        if isinstance(self.devices, int) and self.devices < 1:
            raise ConfigError(f"the number of devices must be at least 1, got {self.devices}")

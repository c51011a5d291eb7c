"""Results of an evaluation as small frozen dataclasses, and the JSON file that holds them.

`zsad evaluate --out DIR` writes:

    DIR/results.json                 everything of this module; "schema" tells its version
    DIR/runs/RUN/pictures.jsonl      one line per image: path, mask_path, category, label, defect, score,
                                     seconds, error
    DIR/runs/RUN/curves.json         {"schema": 1, "categories": {CATEGORY: {CURVE: {"x": [...],
                                     "y": [...]}}}} with the names of `CURVES`; at most 200 points per
                                     curve; undefined curves are left out
    DIR/runs/RUN/maps/*.png          overlays of the images of `RunResult.worst`

Numbers that are undefined are NaN in Python and null in the file. Paths inside the file are relative to DIR.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from zsad.errors import DataError
from zsad.files.fields import AtLeast, Count, Share, Undefinable
from zsad.files.json_text import read_json
from zsad.files.plain import from_plain, to_plain, write_json
from zsad.images.tiles import Tile  # noqa: TC001 - read by from_plain

RESULTS_FILE = "results.json"
SCHEMA = 1
CURVES = {
    "image_roc": ("false-positive rate", "recall"),
    "image_pr": ("recall", "precision"),
    "pixel_roc": ("false-positive rate", "recall"),
    "pixel_pr": ("recall", "precision"),
    "pixel_pro": ("false-positive rate", "per-region overlap"),
}
"""Names of the curves, with the names of their x and y, which lie in [0, 1]."""

Mistake = Literal["false negative", "false positive"]


@dataclass(frozen=True)
class CategoryResult:
    """One row of a table.

    Attributes:
        category: name of the row ("metal nut").
        normal: normal images that were scored.
        anomalous: anomalous images that were scored.
        masks: whether every anomalous image has a mask; otherwise the pixel metrics are undefined.
        metrics: fractions under `zsad.metrics.METRIC_NAMES`, NaN where undefined.
        intervals: 95 % bootstrap intervals (low, high) of the metrics that have one; empty without bootstrap.
        is_exact: whether the pixel metrics are exact; otherwise they come from the bounded summary.
        error_bound: largest possible distance of a pixel metric from its exact value; 0 if exact.
        seconds: median time to read, prepare and score an image.
        failed: one line for each image that was left out, beginning with the path of the file at fault.
        references: files of the normal reference images; () for zero-shot.
        unmasked: one line for each mask that could not be used, beginning with its path. Its image counts in
            the image metrics only.
        notes: lines on the masks that a reader of the numbers should know.
    """

    category: str
    normal: Annotated[int, AtLeast(0)]
    anomalous: Annotated[int, AtLeast(0)]
    masks: bool
    metrics: Mapping[str, Undefinable]
    intervals: Mapping[str, tuple[Undefinable, Undefinable]] = field(default_factory=dict)
    is_exact: bool = True
    error_bound: float = 0.0
    seconds: Undefinable = math.nan
    failed: tuple[str, ...] = ()
    references: tuple[str, ...] = ()
    unmasked: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class WorstPicture:
    """An image that its score puts on the wrong side of many others, with its overlay.

    Attributes:
        mistake: "false negative": an anomalous image with a low score; "false positive": the reverse.
        path: file of the image.
        category: category of the image.
        defect: kind of defect, "good" for a normal image.
        score: image anomaly score.
        outranked: share of the images of the other class, in the same category, whose scores lie on the wrong
            side of this one, in [0, 1]; NaN if the category has only one class.
        file: file of the overlay, relative to the results' folder.
    """

    mistake: Mistake
    path: str
    category: str
    defect: str
    score: float
    outranked: Undefinable
    file: str


@dataclass(frozen=True)
class RunResult:
    """One method on one backbone, with one seed, on one dataset.

    Attributes:
        id: name of the run's folder, unique within an evaluation.
        method: registry name.
        backbone: name of the backbone.
        checkpoint: file of learnt weights; None for those that zsad ships, or for none.
        weights_sha256: digest of the backbone and of the learnt weights.
        auxiliary_data: what the learnt weights were trained on, "" if nothing was learnt.
        dataset: name of the dataset.
        seed: seed of the choice of reference images, of new parameters and of the bootstrap.
        image_size: pixels a side at which maps and masks were compared.
        precision: precision of the backbone: "fp32", "bf16" or "fp16".
        settings: all settings of the method.
        split: split of the dataset.
        pro: variant of AUPRO, "exact" or "script".
        fpr_limit: false-positive rate at which the PRO curve is cut.
        categories: rows of the table.
        mean: macro mean of each metric over the categories that define it, NaN if none does.
        pictures_file: file with a line per image, relative to the results' folder.
        curves_file: file with the curves, relative to the results' folder; None if there is none.
        seconds: wall time of the run.
        references: normal reference images per category; 0 for zero-shot.
        augment_references: whether references also counted turned and flipped.
        limit: largest number of images per category; None for all.
        bits: depth at which 16-bit files were read; None for what each file states.
        tile: how images were cut; None for whole images.
        roi: region of interest, as `zsad.images.region.Region.identity`; None for whole images.
        overlap: what auxiliary data and test data share, "" if nothing; only with `--allow-overlap`.
        mean_intervals: 95 % bootstrap intervals of the means.
        notes: lines on how the run was done that a reader of its numbers should know.
        worst: the worst false negatives, then the worst false positives, each worst first.
        problems: one line for each file of the dataset that could not be used, beginning with its path.
    """

    id: str
    method: str
    backbone: str
    checkpoint: str | None
    weights_sha256: str
    auxiliary_data: str
    dataset: str
    seed: int
    image_size: Count
    precision: str
    settings: Mapping[str, Any]
    split: str
    pro: str
    fpr_limit: Share
    categories: tuple[CategoryResult, ...]
    mean: Mapping[str, Undefinable]
    pictures_file: str
    curves_file: str | None
    seconds: float
    references: int = 0
    augment_references: bool = False
    limit: int | None = None
    bits: int | None = None
    tile: Tile = None
    roi: str | None = None
    overlap: str = ""
    mean_intervals: Mapping[str, tuple[Undefinable, Undefinable]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    worst: tuple[WorstPicture, ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def shots(self) -> str:
        """The references in a word: "4-shot", "4-shot turned"; "" for zero-shot."""
        if not self.references:
            return ""
        return f"{self.references}-shot turned" if self.augment_references else f"{self.references}-shot"

    @property
    def failed(self) -> tuple[str, ...]:
        """The lines of all images that were left out."""
        return tuple(line for category in self.categories for line in category.failed)

    @property
    def unmasked(self) -> tuple[str, ...]:
        """The lines of all masks that could not be used."""
        return tuple(line for category in self.categories for line in category.unmasked)


@dataclass(frozen=True)
class FailedRun:
    """A run that gave no numbers.

    Attributes:
        id: name that the folder of the run would have.
        method: registry name.
        backbone: name of the backbone as typed.
        dataset: name of the dataset.
        error: one line that says why.
    """

    id: str
    method: str
    backbone: str
    dataset: str
    error: str


@dataclass(frozen=True)
class EvaluationResult:
    """All results of one `zsad evaluate`.

    Attributes:
        runs: in the order of the command: methods, backbones, seeds, datasets.
        provenance: how the results were made: versions, commit, platform, device, command, time. Plain JSON.
        failed_runs: runs that gave no numbers.
    """

    runs: tuple[RunResult, ...]
    provenance: Mapping[str, Any]
    failed_runs: tuple[FailedRun, ...] = ()


def write_evaluation(result: EvaluationResult, directory: str | Path) -> Path:
    """Writes `results.json`, whole or not at all.

    Args:
        result: what to write.
        directory: results' folder; created if missing.

    Returns:
        The path of the file.

    Raises:
        OSError: the folder cannot be written.
    """
    path = Path(directory) / RESULTS_FILE
    write_json(path, {"schema": SCHEMA, **to_plain(result)})
    return path


def read_evaluation(path: str | Path) -> EvaluationResult:
    """Reads what `write_evaluation` wrote.

    Args:
        path: path of `results.json`, or of the folder that holds it.

    Raises:
        DataError: the file is missing or damaged, or a newer zsad wrote it.
    """
    file = Path(path)
    file = file / RESULTS_FILE if file.is_dir() else file
    content = read_json(file)
    if content.get("schema") != SCHEMA:
        raise DataError(
            f"{file}: is of schema {content.get('schema')!r}, this zsad reads {SCHEMA}; evaluate again, or "
            "use the zsad that wrote it"
        )
    values = {name: value for name, value in content.items() if name != "schema"}
    try:
        return from_plain(EvaluationResult, values, str(file))
    except DataError as error:
        raise DataError(f"{error}: is damaged or no evaluation of zsad; evaluate again") from error

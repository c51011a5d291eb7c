"""What an evaluation came to, as small frozen dataclasses, and the one JSON file that holds it.

A folder of `zsad evaluate --out DIR`:

    DIR/results.json                 everything of this module; "schema" tells its version
    DIR/runs/RUN/pictures.jsonl      one line per image: path, mask_path, category, label, defect, score,
                                     seconds, error
    DIR/runs/RUN/curves.json         {"schema": 1, "categories": {CATEGORY: {CURVE: {"x": [...],
                                     "y": [...]}}}} with the names of `CURVES`; at most 200 points of a
                                     curve, one that is undefined is missing
    DIR/runs/RUN/maps/*.png          overlays of the images of `RunResult.worst`

Numbers that are undefined are NaN in Python and null in the file. Paths inside the file are relative to DIR.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from zsad.errors import DataError
from zsad.files.fields import Undefinable  # noqa: TC001 - read by from_plain
from zsad.files.plain import from_plain, read_json, to_plain, write_json

RESULTS_FILE = "results.json"
SCHEMA = 1
CURVES = {
    "image_roc": ("false-positive rate", "recall"),
    "image_pr": ("recall", "precision"),
    "pixel_roc": ("false-positive rate", "recall"),
    "pixel_pr": ("recall", "precision"),
    "pixel_pro": ("false-positive rate", "per-region overlap"),
}
"""Names of the curves with what their x and y are; all in [0, 1]."""

Mistake = Literal["false negative", "false positive"]


@dataclass(frozen=True)
class CategoryResult:
    """One row of a table.

    Attributes:
        category: name of the row ("metal nut").
        normal: normal images that were scored.
        anomalous: anomalous images that were scored.
        masks: whether every anomalous one has a mask; without, the pixel metrics are undefined.
        metrics: fractions under `zsad.metrics.METRIC_NAMES`, NaN where undefined.
        intervals: 95 % bootstrap intervals (low, high) of the metrics that have one; empty without bootstrap.
        is_exact: whether the pixel metrics are exact; else they come from the bounded summary.
        error_bound: how far a pixel metric may lie from the exact one at most; 0 if exact.
        seconds: median over the images of reading, preparing and scoring one.
        failed: one line for each image that was left out, beginning with the path of the file at fault.
        references: files of the normal reference images; () for zero-shot.
    """

    category: str
    normal: int
    anomalous: int
    masks: bool
    metrics: Mapping[str, Undefinable]
    intervals: Mapping[str, tuple[Undefinable, Undefinable]] = field(default_factory=dict)
    is_exact: bool = True
    error_bound: float = 0.0
    seconds: Undefinable = math.nan
    failed: tuple[str, ...] = ()
    references: tuple[str, ...] = ()


@dataclass(frozen=True)
class WorstPicture:
    """An image that its score puts on the wrong side of many others, with its overlay.

    Attributes:
        mistake: "false negative": an anomalous image with a low score; "false positive": the reverse.
        path: of the image.
        category: of the image.
        defect: its kind of defect, "good" for a normal image.
        score: its image score.
        outranked: share of the other class's images of its category that lie on the wrong side of it, in
            [0, 1]; NaN if the category has no other class.
        file: the overlay, relative to the results' folder.
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
        backbone: its name.
        checkpoint: the file of learnt weights; None for those that zsad ships, or for none.
        weights_sha256: digest of the backbone and of what was learnt.
        auxiliary_data: what the learnt weights were trained on, "" if nothing was learnt.
        dataset: its name.
        seed: of the choice of reference images, of new parameters and of the bootstrap.
        image_size: pixels a side at which maps and masks were compared.
        precision: of the backbone: "fp32", "bf16", "fp16".
        settings: the method's settings, all of them.
        split: of the dataset.
        pro: variant of AUPRO, "exact" or "script".
        fpr_limit: where the PRO curve is cut.
        categories: the rows.
        mean: macro mean of each metric over the categories that define it, NaN if none does.
        pictures_file: relative to the results' folder.
        curves_file: likewise, None if there is none.
        seconds: wall time of the run.
        references: normal reference images per category; 0 for zero-shot.
        limit: at most so many images of a category; None for all.
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
    image_size: int
    precision: str
    settings: Mapping[str, Any]
    split: str
    pro: str
    fpr_limit: float
    categories: tuple[CategoryResult, ...]
    mean: Mapping[str, Undefinable]
    pictures_file: str
    curves_file: str | None
    seconds: float
    references: int = 0
    limit: int | None = None
    overlap: str = ""
    mean_intervals: Mapping[str, tuple[Undefinable, Undefinable]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    worst: tuple[WorstPicture, ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def failed(self) -> tuple[str, ...]:
        """The lines of all images that were left out."""
        return tuple(line for category in self.categories for line in category.failed)


@dataclass(frozen=True)
class FailedRun:
    """A run that gave no numbers.

    Attributes:
        id: as it would have been called.
        method: registry name.
        backbone: as it was typed.
        dataset: its name.
        error: one line that says why.
    """

    id: str
    method: str
    backbone: str
    dataset: str
    error: str


@dataclass(frozen=True)
class EvaluationResult:
    """Everything that one `zsad evaluate` came to.

    Attributes:
        runs: in the order of the command: methods, backbones, seeds, datasets.
        provenance: how it was made: versions, commit, platform, device, command, time. Plain JSON.
        failed_runs: runs that gave no numbers.
    """

    runs: tuple[RunResult, ...]
    provenance: Mapping[str, Any]
    failed_runs: tuple[FailedRun, ...] = ()


def write_evaluation(result: EvaluationResult, directory: str | Path) -> Path:
    """Writes `results.json`, whole or not at all.

    Args:
        result: what to write.
        directory: the results' folder; made if it is not there.

    Returns:
        The file.

    Raises:
        OSError: the folder cannot be written.
    """
    path = Path(directory) / RESULTS_FILE
    write_json(path, {"schema": SCHEMA, **to_plain(result)})
    return path


def read_evaluation(path: str | Path) -> EvaluationResult:
    """Reads what `write_evaluation` wrote.

    Args:
        path: `results.json`, or the folder that holds it.

    Raises:
        DataError: there is no such file, it is damaged, or a newer zsad wrote it.
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

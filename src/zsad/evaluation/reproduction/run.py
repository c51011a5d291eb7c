"""Does what a recipe says: trains if need be, evaluates, and puts our numbers beside the published ones.

A folder of `zsad reproduce` is one of `zsad evaluate` (zsad.evaluation.results) with more in it:

    DIR/weights.safetensors   what was trained here, with its log and checkpoint in weights.training/
    DIR/reproduction.json     the recipe, what is not as published, the comparison, the commands
    DIR/index.html            the page of `zsad report`
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from zsad.errors import ConfigError
from zsad.evaluation.report.notes import missing_categories
from zsad.evaluation.reproduction.commands import commands
from zsad.evaluation.reproduction.comparison import as_json, compare
from zsad.evaluation.reproduction.datasets import locate
from zsad.evaluation.reproduction.plan import (
    CACHE_FOLDER,
    TRAINING_FOLDER,
    WEIGHTS_FILE,
    deviations,
    evaluation_of,
    training_of,
)
from zsad.evaluation.reproduction.recipe import check_checkpoint
from zsad.evaluation.results import RESULTS_FILE, EvaluationResult, write_evaluation
from zsad.files.plain import write_json

if TYPE_CHECKING:
    from zsad.evaluation.report.tables import Cell
    from zsad.evaluation.reproduction.plan import Request

REPRODUCTION_FILE = "reproduction.json"
SCHEMA = 1
NOT_PUBLISHED = "not the published setting"


@dataclass(frozen=True)
class Reproduction:
    """What came of a recipe.

    Attributes:
        result: of the evaluation, with the deviations among its notes.
        comparison: our numbers with the published ones, by metric.
        deviations: what is not as published, one line each; () if everything is.
        page: the report.
    """

    result: EvaluationResult
    comparison: Mapping[str, Cell]
    deviations: tuple[str, ...]
    page: Path


def reproduce(
    request: Request,
    *,
    show_training: bool = False,
    progress: Callable[[int, int], None] | None = None,
    command: str | None = None,
) -> Reproduction:
    """Trains, evaluates, compares and writes everything into a folder.

    Args:
        request: recipe, data and what is wished otherwise.
        show_training: whether to draw the bar of the training.
        progress: of the evaluation, called with the number of images done and to do.
        command: as it was typed, for the provenance.

    Raises:
        ConfigError: an impossible wish, or `out` holds another run and `resume` is not set.
        DataError: a dataset is missing or in disorder.
        WeightsError: weights are missing or do not fit.
        OSError: the folder cannot be written.
        KeyboardInterrupt: after Ctrl-C; the same request with `resume` goes on.
    """
    from zsad.evaluation.run import evaluate

    check_checkpoint(request.recipe)
    folders = locate(request)
    _refuse_to_replace(request)
    training = training_of(request, folders)
    if training is not None:
        from zsad.training.loop import train

        train(training, show_progress=show_training)
        shutil.rmtree(request.out / CACHE_FOLDER, ignore_errors=True)
    result = evaluate(evaluation_of(request, folders), progress, command)
    found = (*deviations(request), *_missing(result))
    result = _with_notes(result, request, found)
    write_evaluation(result, request.out)
    comparison = compare(request.recipe, result.runs)
    write_json(
        request.out / REPRODUCTION_FILE,
        {
            "schema": SCHEMA,
            "recipe": dataclasses.asdict(request.recipe),
            "is_published_setting": not found,
            "deviations": list(found),
            "comparison": as_json(comparison),
            "commands": commands(request, folders),
        },
    )
    return Reproduction(result, comparison, found, _write_page(request.out))


def _refuse_to_replace(request: Request) -> None:
    """Stops before an older run is overwritten, which may have taken hours."""
    if request.resume:
        return
    for name in (RESULTS_FILE, WEIGHTS_FILE, TRAINING_FOLDER):
        if (request.out / name).exists():
            raise ConfigError(
                f"{request.out} holds {name} of an earlier run: --resume goes on with it; or choose another "
                "--out"
            )


def _missing(result: EvaluationResult) -> tuple[str, ...]:
    """What the test data lack, since a mean over other categories is another number."""
    found = {f"{run.dataset}: {missing_categories(run)}" for run in result.runs if missing_categories(run)}
    failed = sum(len(run.failed) + len(run.problems) for run in result.runs)
    return (*sorted(found), *([f"{failed} files were left out"] if failed else []))


def _with_notes(result: EvaluationResult, request: Request, found: tuple[str, ...]) -> EvaluationResult:
    """The result with the recipe, its assumptions and the deviations among the notes of every run."""
    notes = [f"Recipe {request.recipe.name}"]
    if found:
        notes.append(f"{NOT_PUBLISHED.capitalize()}: {'; '.join(found)}")
    notes += [f"Assumed: {each}" for each in request.recipe.assumptions]
    return replace(result, runs=tuple(replace(run, notes=(*run.notes, *notes)) for run in result.runs))


def _write_page(out: Path) -> Path:
    from zsad.evaluation.report.page import open_evaluation
    from zsad.evaluation.report.writing import write_report_files

    return write_report_files([open_evaluation(out)], out)[0]

"""Carries out a recipe: trains if necessary, evaluates, and compares our numbers with the published ones.

The results folder of `zsad reproduce` is one of `zsad evaluate` (zsad.evaluation.results) with more files:

    DIR/first_stage.safetensors  weights of the first of two stages, with first_stage.training/
    DIR/weights.safetensors   learnt weights, with the log and state of the training in weights.training/
    DIR/reproduction.json     recipe, deviations from it, comparison, commands
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
    trainings_of,
)
from zsad.evaluation.reproduction.recipe import check_checkpoint
from zsad.evaluation.results import RESULTS_FILE, EvaluationResult, write_evaluation
from zsad.files.plain import write_json

if TYPE_CHECKING:
    from zsad.evaluation.report.tables import Cell
    from zsad.evaluation.reproduction.plan import ReproduceOptions

REPRODUCTION_FILE = "reproduction.json"
SCHEMA = 1
NOT_PUBLISHED = "not the published setting"


@dataclass(frozen=True)
class Reproduction:
    """Result of a reproduction.

    Attributes:
        result: result of the evaluation, with the deviations among its notes.
        comparison: metric -> our values and the published number.
        deviations: deviations from the published setting, one line each; () if there are none.
        page: path of the report page.
        is_whole: whether all categories of the dataset were evaluated, so that means can be compared.
    """

    result: EvaluationResult
    comparison: Mapping[str, Cell]
    deviations: tuple[str, ...]
    page: Path
    is_whole: bool = True


def reproduce(
    request: ReproduceOptions,
    *,
    show_training: bool = False,
    progress: Callable[[int, int], None] | None = None,
    command: str | None = None,
) -> Reproduction:
    """Trains, evaluates, compares and writes everything into a folder.

    Args:
        request: what to reproduce.
        show_training: whether to show a progress bar of the training.
        progress: called during the evaluation with the numbers of finished and of all images.
        command: command line as the user typed it, for the provenance.

    Raises:
        ConfigError: an option is impossible, or `out` holds another run and `resume` is not set.
        DataError: a dataset is missing or its files are not laid out as expected.
        WeightsError: weights are missing or do not fit.
        OSError: the folder cannot be written.
        KeyboardInterrupt: the user pressed Ctrl-C; the same request with `resume` continues.
    """
    from zsad.evaluation.run import evaluate

    check_checkpoint(request.recipe)
    folders = locate(request)
    _refuse_to_replace(request)
    for training in trainings_of(request, folders):
        from zsad.training.loop import train

        train(training, show_progress=show_training)
        shutil.rmtree(request.out / CACHE_FOLDER, ignore_errors=True)
    result = evaluate(evaluation_of(request, folders), progress=progress, command=command)
    found = (*deviations(request), *_missing(result))
    result = _with_notes(result, request, found)
    write_evaluation(result, request.out)
    comparison = compare(request.recipe, result.runs)
    is_whole = not any(missing_categories(run) for run in result.runs)
    write_json(
        request.out / REPRODUCTION_FILE,
        {
            "schema": SCHEMA,
            "recipe": dataclasses.asdict(request.recipe),
            "is_published_setting": not found,
            "deviations": list(found),
            "comparison": as_json(comparison, is_whole=is_whole),
            "commands": commands(request, folders),
        },
    )
    return Reproduction(result, comparison, found, _write_page(request.out), is_whole)


def _refuse_to_replace(request: ReproduceOptions) -> None:
    """Refuses to overwrite an earlier run, which may have taken hours."""
    if request.resume:
        return
    for name in (RESULTS_FILE, WEIGHTS_FILE, TRAINING_FOLDER):
        if (request.out / name).exists():
            raise ConfigError(
                f"{request.out} holds {name} of an earlier run: add --resume to continue it, or choose "
                "another --out"
            )


def _missing(result: EvaluationResult) -> tuple[str, ...]:
    """Lists what the test data lack, because a mean over other categories is not comparable."""
    found = {f"{run.dataset}: {missing_categories(run)}" for run in result.runs if missing_categories(run)}
    failed = sum(len(run.failed) + len(run.problems) for run in result.runs)
    return (*sorted(found), *([f"{failed} files were left out"] if failed else []))


def _with_notes(
    result: EvaluationResult, request: ReproduceOptions, found: tuple[str, ...]
) -> EvaluationResult:
    """Adds the recipe, its assumptions and the deviations to the notes of every run."""
    notes = [f"Recipe {request.recipe.name}"]
    if found:
        notes.append(f"{NOT_PUBLISHED.capitalize()}: {'; '.join(found)}")
    notes += [f"Assumed: {each}" for each in request.recipe.assumptions]
    return replace(result, runs=tuple(replace(run, notes=(*run.notes, *notes)) for run in result.runs))


def _write_page(out: Path) -> Path:
    from zsad.evaluation.report.reading import open_evaluation
    from zsad.evaluation.report.writing import write_report_files

    return write_report_files([open_evaluation(out)], out)[0]

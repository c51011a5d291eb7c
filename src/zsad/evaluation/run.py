"""Evaluates any methods on any datasets, as the papers do, in bounded memory.

Protocol (conventions of the papers' scripts): maps and masks have the network's input size; metrics are
computed for each category over all its images, and then averaged without weights; scores and maps are not
normalised between images. Each finished category is written at once, so a killed run loses at most one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from zsad.backbones.devices import device_names
from zsad.detector.choosing import FRESH
from zsad.detector.identity import weights_digest
from zsad.detector.loading import load
from zsad.detector.support import choose_companions
from zsad.detector.thresholds import NO_CALIBRATION
from zsad.errors import ConfigError, ZsadError, one_line
from zsad.evaluation.category import CategoryOutcome, data_digest, evaluate_category
from zsad.evaluation.folder import RunFolder, check_directory
from zsad.evaluation.plan import PlannedRun, plan_runs
from zsad.evaluation.provenance import describe_environment, now, peak_memory
from zsad.evaluation.results import EvaluationResult, FailedRun, RunResult, write_evaluation
from zsad.evaluation.scoring import joint_note, make_batches
from zsad.evaluation.workers import LocalScorer, ProcessScorer, Scorer
from zsad.evaluation.worst import worst_of_run
from zsad.files.plain import to_plain
from zsad.files.run_lock import only_writer
from zsad.metrics import METRIC_NAMES
from zsad.metrics.bootstrap import IMAGE_METRICS, bootstrap_draws, interval

if TYPE_CHECKING:
    from collections.abc import Mapping

    from zsad.detector.detector import Detector
    from zsad.evaluation.options import EvaluateOptions

Progress = Callable[[int, int], None]
# What may end one run while others can go on; a full disk ends them all.
_RUN_ERRORS = (ZsadError, RuntimeError, MemoryError)


def evaluate(
    options: EvaluateOptions, *, progress: Progress | None = None, command: str | None = None
) -> EvaluationResult:
    """Evaluates methods on datasets and writes everything into a folder.

    Args:
        options: what to evaluate, and how.
        progress: called with the numbers of images done and to do, over all runs.
        command: command line as typed, for the provenance.

    Returns:
        The content of `results.json`. It lists failed runs with their reasons, unless there is only one run.

    Raises:
        ConfigError: an impossible option, overlapping data, or `resume` meets other settings.
        DataError: there are no data, or no reference images.
        WeightsError: a checkpoint cannot be read.
        OSError: the results cannot be written.
        KeyboardInterrupt: after Ctrl-C, when the finished runs have been written.
    """
    runs = plan_runs(options)
    devices = device_names(options.devices, options.device) if options.devices > 1 else None
    check_directory(options.out)
    with only_writer(options.out):
        return _evaluate(options, runs, devices, progress or (lambda done, total: None), command)


def _evaluate(
    options: EvaluateOptions,
    runs: Sequence[PlannedRun],
    devices: tuple[str, ...] | None,
    progress: Progress,
    command: str | None,
) -> EvaluationResult:
    """Evaluates planned runs into a folder that is locked for them."""
    started = time.perf_counter()
    provenance = describe_environment(command)
    counter = _Counter(options, runs, progress)
    finished: list[RunResult] = []
    failed: list[FailedRun] = []

    def result() -> EvaluationResult:
        ended = {"ended": now(), "seconds": round(time.perf_counter() - started, 1)}
        return EvaluationResult(
            tuple(finished), {**provenance, **ended, "peak_memory_mib": peak_memory()}, tuple(failed)
        )

    write_evaluation(result(), options.out)  # an older one would be taken for this one's
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        # Runs on one network come one after another; it is loaded once for all datasets.
        for _, group in groupby(runs, key=lambda run: (run.method, run.backbone, run.checkpoint, run.seed)):
            on_network = list(group)
            try:
                with _network(options, on_network[0], devices) as (detector, scorer):
                    for run in on_network:
                        try:
                            finished.append(_evaluate_run(options, run, detector, scorer, counter))
                        except _RUN_ERRORS as error:
                            _refuse_if_alone(error, runs)
                            failed.append(_failed(run, error))
                            counter.skip([run])
                            scorer.close()  # what is still on its way belongs to the run that failed
                        write_evaluation(result(), options.out)
            except _RUN_ERRORS as error:
                _refuse_if_alone(error, runs)
                failed += [_failed(run, error) for run in on_network]
                counter.skip(on_network)
    write_evaluation(result(), options.out)
    return result()


def macro_mean(outcomes: Sequence[CategoryOutcome]) -> dict[str, float]:
    """The unweighted mean of each metric over the categories that define it; NaN if none does."""
    found = {}
    for name in METRIC_NAMES:
        values = [outcome.result.metrics[name] for outcome in outcomes]
        defined = [value for value in values if not math.isnan(value)]
        found[name] = sum(defined) / len(defined) if defined else math.nan
    return found


def mean_intervals(
    outcomes: Sequence[CategoryOutcome], draws: int, seed: int
) -> dict[str, tuple[float, float]]:
    """95 % bootstrap intervals of the means of the image metrics.

    Each draw resamples the images of every category that has both classes and averages over them.
    """
    per_category: list[Mapping[str, Any]] = []
    for number, outcome in enumerate(outcomes):
        scored = [record for record in outcome.records if record["error"] is None]
        anomalous, normal = (
            np.array([record["score"] for record in scored if record["label"] == label]) for label in (1, 0)
        )
        if anomalous.size and normal.size:
            own_seed = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
            per_category.append(bootstrap_draws(anomalous, normal, draws, own_seed))
    if not (draws and per_category):
        return {}
    return {
        name: interval(np.mean([found[name] for found in per_category], axis=0)) for name in IMAGE_METRICS
    }


class _Counter:
    """Images done and to do in all runs; those of categories finished earlier are not counted."""

    def __init__(self, options: EvaluateOptions, runs: Sequence[PlannedRun], progress: Progress) -> None:
        self._to_do = {
            run.id: sum(
                len(samples)
                for number, (name, samples) in enumerate(run.samples.items())
                if not (options.resume and RunFolder(options.out, run.id).has(number, name))
            )
            for run in runs
        }
        self._progress = progress
        self._done = 0
        self.add(0)

    def add(self, images: int) -> None:
        """Counts some more images as done."""
        self._done += images
        self._progress(self._done, max(self._done, sum(self._to_do.values())))

    def skip(self, runs: Sequence[PlannedRun]) -> None:
        """Leaves out runs that cannot be done."""
        for run in runs:
            self._to_do[run.id] = 0
        self.add(0)


@contextmanager
def _network(
    options: EvaluateOptions, run: PlannedRun, devices: Sequence[str] | None
) -> Iterator[tuple[Detector, Scorer]]:
    """Loads the network of a run, and makes what scores with it.

    Raises:
        ConfigError: an impossible setting, or a method without weights.
        WeightsError: weights are missing or do not fit.
    """
    torch.manual_seed(run.seed)  # for new parameters
    detector = load(
        run.method,
        run.backbone,
        run.checkpoint,
        image_size=options.image_size,
        device=options.device if devices is None else "cpu",
        precision=options.precision,
        bits=options.bits,
        tile=options.tile,
        roi=options.roi,
        calibration=NO_CALIBRATION,  # metrics need none, and its class name is not that of every category
        **options.settings,
    )
    if not detector.is_trained and run.checkpoint != FRESH:
        raise ConfigError(
            f"there are no weights of {run.method} for {detector.record.name}, and random ones would mean "
            f"nothing: give --checkpoint FILE, or train it with `zsad train --method {run.method}`"
        )
    scorer: Scorer = (
        LocalScorer(detector, options.augment_references)
        if devices is None
        else ProcessScorer(detector, devices, options.augment_references)
    )
    try:
        yield detector, scorer
    finally:
        scorer.close()


def _evaluate_run(
    options: EvaluateOptions, run: PlannedRun, detector: Detector, scorer: Scorer, counter: _Counter
) -> RunResult:
    """Evaluates the categories of a run that are not finished yet, and writes the files of the run."""
    folder = RunFolder(options.out, run.id)
    described = _described(options, run, detector)
    folder.open(
        {**described, "batch_size": options.batch_size, "bootstrap": options.bootstrap}, resume=options.resume
    )
    outcomes = []
    for number, (category, samples) in enumerate(run.samples.items()):
        references = run.references.get(category, ())
        outcome = folder.finished(number, category, data_digest(samples, references))
        if outcome is None:
            companions = choose_companions(samples, detector.method.MOST_COMPANIONS)
            comparing = scorer.compare_with(references, companions)
            batches = make_batches(
                samples, options.batch_size, run.seed, scores_jointly=comparing.scores_jointly
            )
            outcome = evaluate_category(
                category,
                samples,
                scorer.score(batches),
                options,
                seed=run.seed,
                references=references,
                map_range=comparing.map_range,
                bits=detector.bits,
                stem=folder.map_stem(number),
                on_images=counter.add,
            )
            folder.keep(number, category, outcome)
        outcomes.append(outcome)
    worst = worst_of_run([image for outcome in outcomes for image in outcome.worst])
    folder.finish(outcomes, worst)
    note = joint_note(detector.method, max(map(len, run.samples.values())))
    return RunResult(
        id=run.id,
        **described,
        auxiliary_data=run.auxiliary_data,
        categories=tuple(outcome.result for outcome in outcomes),
        mean=macro_mean(outcomes),
        mean_intervals=mean_intervals(outcomes, options.bootstrap, run.seed),
        pictures_file=folder.pictures_file,
        curves_file=folder.curves_file,
        seconds=round(sum(outcome.seconds for outcome in outcomes), 3),
        overlap=run.overlap,
        notes=(
            *run.notes,
            *run.dataset.left_out,
            *((note,) if note else ()),
            *(line for outcome in outcomes for line in outcome.result.notes),
        ),
        worst=worst,
        problems=run.dataset.problems,
    )


def _described(options: EvaluateOptions, run: PlannedRun, detector: Detector) -> dict[str, Any]:
    """The fields of a `RunResult` that its numbers depend on."""
    return {
        "method": run.method,
        "backbone": detector.record.name,
        "checkpoint": run.checkpoint,
        "weights_sha256": weights_digest(detector.fingerprint, detector.method.learned_state()),
        "dataset": run.dataset.name,
        "seed": run.seed,
        "image_size": detector.image_size,
        "precision": options.precision or "fp32",
        "settings": to_plain(detector.method.config),
        "split": options.split,
        "pro": options.pro,
        "fpr_limit": options.fpr_limit,
        "references": options.references,
        "augment_references": options.augment_references,
        "limit": options.limit,
        "bits": detector.bits,
        "tile": detector.tile,
        "roi": None if detector.roi is None else detector.roi.identity,
    }


def _failed(run: PlannedRun, error: BaseException) -> FailedRun:
    return FailedRun(run.id, run.method, run.backbone or "", run.dataset.name, one_line(error))


def _refuse_if_alone(error: BaseException, runs: Sequence[PlannedRun]) -> None:
    """Lets an error end the evaluation if there is no other run that could go on."""
    if len(runs) == 1:
        raise error

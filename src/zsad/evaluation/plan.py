"""Plans the runs of an evaluation: one per method, backbone, seed and dataset."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from zsad.data.folder import Dataset, open_datasets
from zsad.data.limiting import spread
from zsad.detector.support import choose_references
from zsad.errors import ConfigError, DataError
from zsad.evaluation.options import ALL_METHODS
from zsad.evaluation.weights import DatasetDigests, RunWeights
from zsad.files.plain import slug
from zsad.methods import _registry as registry
from zsad.types import UNLABELLED

if TYPE_CHECKING:
    from zsad.data.layouts import Split
    from zsad.evaluation.options import EvaluateOptions
    from zsad.types import Sample


@dataclass(frozen=True)
class PlannedRun:
    """One method on one backbone, with one seed, on one dataset.

    Attributes:
        id: name of the run's folder.
        method: registry name.
        backbone: name as for `zsad.load`; None: the checkpoint's own, else "tiny".
        checkpoint: file or word as for `zsad.load`.
        seed: seed of the choice of references, of new parameters and of the bootstrap.
        dataset: dataset to test on.
        samples: images by category, already limited.
        references: files of the reference images by category; empty for zero-shot.
        auxiliary_data: what the learnt weights were trained on, in their own words.
        overlap: what auxiliary data and dataset share, "" for nothing.
        notes: lines that a reader of the numbers should know.
    """

    id: str
    method: str
    backbone: str | None
    checkpoint: str | None
    seed: int
    dataset: Dataset
    samples: Mapping[str, tuple[Sample, ...]]
    references: Mapping[str, tuple[Path, ...]]
    auxiliary_data: str
    overlap: str
    notes: tuple[str, ...]


def plan_runs(options: EvaluateOptions) -> list[PlannedRun]:
    """Plans the runs of an evaluation, in the order methods, backbones, seeds, datasets.

    Refuses everything that can be refused without loading a network, before hours are spent.

    Raises:
        ConfigError: an unknown method or setting; test data among the auxiliary data of the weights, unless
            `allow_overlap`.
        DataError: no data, or no reference images.
        WeightsError: a checkpoint cannot be read.
    """
    methods = _methods(options.methods)
    datasets = _opened(options, options.split)
    for dataset in datasets:
        if not dataset.samples:
            raise DataError(f"{dataset.root}: no usable image; {'; '.join(dataset.problems[:3])}")
        if all(sample.label == UNLABELLED for sample in dataset.samples):
            if why := dataset.undecided:
                raise DataError(f"{dataset.root}: {why}")
            raise DataError(
                f"{dataset.root}: no image has a label to compare scores with; put the normal ones into a "
                "folder 'good' and the anomalous ones into others beside it, or give a CSV list with the "
                "columns path,label (`zsad predict` needs none)"
            )
    good = _reference_candidates(options, datasets)
    digests = DatasetDigests()
    runs: list[PlannedRun] = []
    for method in methods:
        for backbone in options.backbones:
            for seed in options.seeds:
                weights = RunWeights.find(options.checkpoint, method, backbone, seed)
                for dataset, candidates in zip(datasets, good, strict=True):
                    common = weights.overlap_with(dataset, digests)
                    taken = {run.id for run in runs}
                    runs.append(_plan(options, weights, dataset, candidates, overlap=common, taken=taken))
    overlapping = [run for run in runs if run.overlap]
    if overlapping and not options.allow_overlap:
        run = overlapping[0]
        more = f" (and {len(overlapping) - 1} more runs overlap)" if len(overlapping) > 1 else ""
        raise ConfigError(
            f"{run.method} was trained on {run.overlap} and would be tested on {run.dataset.name}{more}: not "
            "zero-shot; take other data, or say --allow-overlap"
        )
    return runs


def _opened(options: EvaluateOptions, split: Split) -> list[Dataset]:
    """Opens the datasets of an evaluation."""
    return [
        dataset
        for spec in options.data
        for dataset in open_datasets(
            spec, split, normal_labels=options.normal_labels, include_results=options.include_results
        )
    ]


def _plan(
    options: EvaluateOptions,
    weights: RunWeights,
    dataset: Dataset,
    candidates: Mapping[str, Sequence[Sample]],
    *,
    overlap: str,
    taken: set[str],
) -> PlannedRun:
    turned = "-turned" if options.augment_references else ""
    shots = f"_{options.references}-shot{turned}" if options.references else ""
    wanted = f"{weights.method}{shots}_{slug(weights.backbone_name)}_{slug(dataset.name)}_seed{weights.seed}"
    identity, number = wanted, 2
    while identity in taken:
        identity, number = f"{wanted}_{number}", number + 1
    samples = {name: spread(found, options.limit) for name, found in dataset.by_category().items()}
    return PlannedRun(
        identity,
        weights.method,
        weights.backbone,
        weights.checkpoint,
        weights.seed,
        dataset,
        samples,
        {
            name: choose_references(candidates.get(name, ()), options.references, weights.seed, name)
            for name in samples
        }
        if options.references
        else {},
        weights.auxiliary_data,
        overlap,
        (weights.note,) if weights.note else (),
    )


def _methods(names: Iterable[str]) -> list[str]:
    known = registry.list_methods()
    wanted = [
        each for name in names for each in (known if name == ALL_METHODS else [registry.known_name(name)])
    ]
    return list(dict.fromkeys(wanted))


def _reference_candidates(
    options: EvaluateOptions, datasets: Sequence[Dataset]
) -> list[Mapping[str, Sequence[Sample]]]:
    """The training images of each dataset by category; empty for zero-shot."""
    if not options.references:
        return [{} for _ in datasets]
    found = {each.root: each.by_category() for each in _opened(options, "train")}
    return [found.get(dataset.root, {}) for dataset in datasets]

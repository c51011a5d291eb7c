"""The images of a training: where they come from, their order, and batches of them prepared ahead."""

from __future__ import annotations

import functools
import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from zsad.data.augmentation import Augmented
from zsad.data.auxiliary import AuxiliarySet, auxiliary_set, described, fingerprint
from zsad.data.folder import open_datasets
from zsad.data.layouts import Split, refuse_problems
from zsad.data.mosaic import Mosaics
from zsad.errors import ConfigError, DataError
from zsad.images.ahead import read_ahead
from zsad.training.devices import Ranks
from zsad.training.labels import MaskCount, count_masks
from zsad.types import Augmentation, Sample

Prepared = TypeVar("Prepared")


@dataclass(frozen=True)
class TrainingData:
    """Training images and their description.

    Attributes:
        items: `Sample`s, or (image, mask, label, class name) as `zsad.training.loop.train` takes them.
        description: training data in words, as the record of the weights keeps them.
        fingerprint: digest that changes with the images; a training is resumed only with the same one.
        sets: datasets of the samples, in the order of the samples; () for images from Python.
        left_out: one line for each dataset whose folder holds images that are not trained on.
        masks: how many of the anomalous images have a mask; None if it is not known beforehand, and all must.
    """

    items: Any
    description: str
    fingerprint: str
    sets: tuple[AuxiliarySet, ...] = ()
    left_out: tuple[str, ...] = ()
    masks: MaskCount | None = None

    @property
    def note(self) -> str:
        """What is trained on if masks are missing; else empty."""
        return "" if self.masks is None else self.masks.note

    def steps(self, batch_size: int) -> int | None:
        """Number of batches of an epoch; None if it is not known beforehand."""
        return math.ceil(len(self.items) / batch_size) if isinstance(self.items, Sized) else None

    def files(self) -> list[Path]:
        """Files of the images; an empty list for images from Python, which may have no files."""
        return [sample.path for sample in self.items] if self.sets else []

    def mosaics(self, chance_of: Callable[[AuxiliarySet], float]) -> Mosaics | None:
        """Makes the mosaics that replace some images.

        Args:
            chance_of: chance, in [0, 1], that an image of a set is replaced.

        Returns:
            The mosaics; None if no image is replaced.
        """
        groups: list[int] = []
        chances: list[float] = []
        numbers: dict[tuple[int, str], int] = {}
        samples = iter(self.items if self.sets else ())
        for position, each in enumerate(self.sets):
            for sample in itertools.islice(samples, each.normal + each.anomalous):
                groups.append(numbers.setdefault((position, sample.category), len(numbers)))
                chances.append(chance_of(each))
        return Mosaics(self.items, groups, chances) if any(chances) else None


@dataclass(frozen=True)
class Batch(Generic[Prepared]):
    """The images of a step.

    Attributes:
        images: images of this process, at least one.
        weight: weight of this process's images in the step's loss, in [0, 1]; the weights of all processes
            add up to 1.
        size: number of images of the whole step.
    """

    images: list[Prepared]
    weight: float
    size: int


def data_in_memory(dataset: Iterable[Any]) -> TrainingData:
    """Makes training data from a Python object.

    Raises:
        DataError: the dataset is empty.
    """
    size = len(dataset) if isinstance(dataset, Sized) else None
    if size == 0:
        raise DataError("the training dataset is empty")
    masks = None
    if isinstance(dataset, list | tuple):  # reading the items of another kind of dataset may take long
        masks = count_masks(
            (item.label, item.mask_path is not None)
            if isinstance(item, Sample)
            else (int(item[2]), item[1] is not None)
            for item in dataset
        )
    description = f"{type(dataset).__name__} in memory"
    return TrainingData(dataset, description, f"in memory: {size} images", masks=masks)


def data_on_disk(
    specs: Sequence[str | Path],
    split: Split,
    normal_labels: Sequence[str] | None = None,
    *,
    include_results: bool = False,
) -> TrainingData:
    """Joins datasets on disk.

    Args:
        specs: specifications as `zsad.data.folder.open_datasets` takes them: NAME:PATH, a folder or a list.
        split: "test" or "all".
        normal_labels: labels that alone mean "normal", as `open_datasets` takes them.
        include_results: whether images that zsad wrote itself count as images of a dataset.

    Raises:
        ConfigError: no specification, or an image that occurs twice.
        DataError: a folder with problems other than missing masks, or no anomalous image.
    """
    if not specs:
        raise ConfigError(
            "no training data: give a dataset, as in `zsad train --data mvtec:FOLDER` or `--data FOLDER`"
        )
    datasets = [
        dataset
        for spec in specs
        for dataset in open_datasets(
            spec, split, normal_labels=normal_labels, include_results=include_results
        )
    ]
    for dataset in datasets:
        dataset.require_labels()
    samples = [sample for dataset in datasets for sample in dataset.samples]
    unmasked = tuple(f"{sample.path}: " for sample in samples if sample.label and sample.mask_path is None)
    # What is wrong with an image that is trained on nevertheless is that its mask is missing.
    problems = [problem for dataset in datasets for problem in dataset.problems]
    refuse_problems([problem for problem in problems if not problem.startswith(unmasked)])
    repeated = [path for path, times in Counter(sample.path for sample in samples).items() if times > 1]
    if repeated:
        raise ConfigError(f"{repeated[0]} occurs twice in the training data; give each folder once")
    if not any(sample.label for sample in samples):
        raise DataError("no anomalous image in the training data; add a folder with test/DEFECT and masks")
    sets = tuple(auxiliary_set(dataset) for dataset in datasets)
    left_out = tuple(line for dataset in datasets for line in dataset.left_out)
    masks = count_masks((sample.label, sample.mask_path is not None) for sample in samples)
    return TrainingData(samples, described(sets, split), fingerprint(datasets), sets, left_out, masks)


def batches(
    data: TrainingData,
    batch_size: int,
    seed: int,
    epoch: int,
    *,
    workers: int,
    prepare: Callable[[Any], Prepared],
    mosaics: Mosaics | None = None,
    augmentation: Augmentation = "none",
    ranks: Ranks = Ranks(),  # noqa: B008 - frozen
) -> Iterator[Batch[Prepared]]:
    """Yields the prepared batches of an epoch, read ahead in threads.

    Args:
        data: images to read.
        batch_size: number of images per step over all processes; the last step may have fewer.
        seed: seed that, with the epoch, determines the order.
        epoch: number of the epoch, from 1.
        workers: number of threads; the result does not depend on it.
        prepare: makes an item ready for a batch, as `prepare_item` does; called in the threads.
        mosaics: mosaics that replace some images of `data`.
        augmentation: random changes of each image and its mask.
        ranks: processes that share each batch; each of them iterates over all batches.

    Yields:
        The share of this process in each step.

    Raises:
        ImageReadError: an image or mask cannot be read.
        DataError: a mask does not fit its image or is missing.
    """
    sources = _epoch_items(data.items, seed, epoch, mosaics)
    if augmentation != "none":
        sources = (
            functools.partial(_augmented, fetch, augmentation, (seed, epoch, number))
            for number, fetch in enumerate(sources)
        )
    steps, sizes = itertools.tee(iter(lambda: list(itertools.islice(sources, batch_size)), []))
    own = (step[ranks.share(len(step))[0]] for step in steps)
    with closing(read_ahead(lambda fetch: prepare(fetch()), own, threads=workers)) as reading:
        for images, step in zip(reading, sizes, strict=True):
            yield Batch(images, ranks.share(len(step))[1], len(step))


def _epoch_items(items: Any, seed: int, epoch: int, mosaics: Mosaics | None) -> Iterator[Callable[[], Any]]:
    """Yields functions that fetch the items of an epoch, shuffled if items can be fetched by number."""
    if hasattr(items, "__len__") and hasattr(items, "__getitem__"):
        fetch = items.__getitem__
        if mosaics is not None:
            fetch = functools.partial(mosaics.draw, seed=seed, epoch=epoch)
        for index in np.random.default_rng([seed, epoch]).permutation(len(items)):
            yield functools.partial(fetch, int(index))
    else:
        for item in items:
            yield functools.partial(_itself, item)


def _augmented(fetch: Callable[[], Any], kind: Augmentation, seed: tuple[int, ...]) -> Augmented:
    return Augmented(fetch(), kind, seed)


def _itself(item: Any) -> Any:
    return item

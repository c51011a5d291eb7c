"""The pictures that a training runs over: where they come from, in which order, prepared in batches ahead."""

from __future__ import annotations

import functools
import hashlib
import itertools
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from zsad.data.layouts import CategoryListing, Split, find_categories, list_category, refuse_problems
from zsad.data.transforms import PreparedSample, load_sample, prepare_sample
from zsad.errors import ConfigError, DataError
from zsad.types import Sample

BATCHES_AHEAD = 2

Prepared = TypeVar("Prepared")


@dataclass(frozen=True)
class TrainingData:
    """Pictures and how to name them.

    Attributes:
        items: `Sample`s, or (picture, mask, label, class name); `training.train` says what these may be.
        description: in words, as the weights' record keeps them.
        fingerprint: differs if the pictures do; the order of the epochs depends on it.
    """

    items: Any
    description: str
    fingerprint: str

    def steps(self, batch_size: int) -> int | None:
        """Batches of an epoch, None if that is not known beforehand."""
        return math.ceil(len(self.items) / batch_size) if isinstance(self.items, Sized) else None


def data_in_memory(dataset: Iterable[Any]) -> TrainingData:
    """Training data from a Python object.

    Raises:
        DataError: it is empty.
    """
    size = len(dataset) if isinstance(dataset, Sized) else None
    if size == 0:
        raise DataError("the training dataset is empty")
    return TrainingData(dataset, f"{type(dataset).__name__} in memory", f"in memory: {size} pictures")


def data_in_folders(folders: Sequence[str | Path], split: Split) -> TrainingData:
    """Training data from folders in MVTec layout.

    Args:
        folders: each a category, a dataset or a folder of datasets.
        split: "test" or "all".

    Raises:
        ConfigError: no folder was given.
        DataError: disorder in the folders, an anomalous picture without a mask, or no anomalous picture.
    """
    if not folders:
        raise ConfigError(
            "no training data: give a folder in MVTec AD layout, as in `zsad train --data FOLDER`"
        )
    listings = [list_category(category, split) for folder in folders for category in find_categories(folder)]
    refuse_problems([problem for listing in listings for problem in listing.problems])
    samples = [sample for listing in listings for sample in listing.samples]
    unmasked = [sample.path for sample in samples if sample.label and sample.mask_path is None]
    refuse_problems([f"{path}: anomalous without a mask, which training needs" for path in unmasked])
    if not any(sample.label for sample in samples):
        raise DataError("no anomalous picture in the training data; add a folder with test/DEFECT and masks")
    return TrainingData(samples, _described(listings, split), _fingerprint(listings))


def _described(listings: Sequence[CategoryListing], split: str) -> str:
    """The training data in words, as the weights' record keeps them.

    Datasets and categories are named, so that an evaluation can see whether it would test on training data.
    """
    by_dataset: dict[str, list[str]] = {}
    for listing in listings:
        by_dataset.setdefault(listing.category.dataset, []).append(listing.category.name)
    names = "; ".join(f"{dataset}: {', '.join(categories)}" for dataset, categories in by_dataset.items())
    pictures = sum(len(listing.samples) for listing in listings)
    return f"{names} ({split} split, {pictures} pictures)"


def _fingerprint(listings: Sequence[CategoryListing]) -> str:
    """SHA-256 over names, labels and sizes of the pictures, wherever their folders lie."""
    digest = hashlib.sha256()
    for listing in listings:
        for sample in listing.samples:
            name = sample.path.relative_to(listing.category.folder).as_posix()
            line = f"{listing.category.name}/{name} {sample.label} {sample.path.stat().st_size}\n"
            digest.update(line.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def batches(
    data: TrainingData,
    batch_size: int,
    seed: int,
    epoch: int,
    *,
    workers: int,
    prepare: Callable[[Any], Prepared],
) -> Iterator[list[Prepared]]:
    """The prepared batches of an epoch, read ahead by threads.

    Args:
        data: what to read.
        batch_size: pictures of a batch; the last one may have fewer.
        seed: with the epoch, decides the order.
        epoch: from 1.
        workers: threads; the result does not depend on their number.
        prepare: makes an item ready for a batch, as `prepare_item` does; it is called from the threads.

    Yields:
        Lists of prepared pictures.

    Raises:
        ImageReadError: a picture or mask cannot be read.
        DataError: a mask does not fit its picture or is missing.
    """
    sources = _epoch_items(data.items, seed, epoch)
    pending: deque[list[Future[Prepared]]] = deque()
    pool = ThreadPoolExecutor(workers)
    try:
        while True:
            while len(pending) < BATCHES_AHEAD and (chunk := list(itertools.islice(sources, batch_size))):
                pending.append([pool.submit(_fetch_and_prepare, source, prepare) for source in chunk])
            if not pending:
                return
            yield [future.result() for future in pending.popleft()]
    finally:
        pool.shutdown(cancel_futures=True)


def _epoch_items(items: Any, seed: int, epoch: int) -> Iterator[Callable[[], Any]]:
    """Functions that fetch the items of an epoch, shuffled if they can be fetched by number."""
    if hasattr(items, "__len__") and hasattr(items, "__getitem__"):
        for index in np.random.default_rng([seed, epoch]).permutation(len(items)):
            yield functools.partial(items.__getitem__, int(index))
    else:
        for item in items:
            yield functools.partial(_itself, item)


def _itself(item: Any) -> Any:
    return item


def _fetch_and_prepare(source: Callable[[], Any], prepare: Callable[[Any], Prepared]) -> Prepared:
    return prepare(source())


def prepare_item(item: Any, *, size: int, mean: Sequence[float], std: Sequence[float]) -> PreparedSample:
    """Makes an item of the training data ready for a batch.

    Args:
        item: a `Sample`, or (picture, mask, label, class name).
        size: pixels a side.
        mean: of R, G and B in [0, 1] units.
        std: of R, G and B in [0, 1] units.

    Returns:
        The picture with its mask.

    Raises:
        ImageReadError: picture or mask cannot be read.
        DataError: the mask does not fit the picture or is missing.
    """
    if isinstance(item, Sample):
        prepared = load_sample(item, size=size, mean=mean, std=std)
    else:
        picture, mask, label, class_name = item
        mask = None if mask is None else np.asarray(mask)
        prepared = prepare_sample(picture, mask, int(label), str(class_name), size=size, mean=mean, std=std)
    if prepared.mask is None:
        raise DataError("an anomalous picture of the dataset has no mask, which training needs")
    return prepared

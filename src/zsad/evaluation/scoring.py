"""Scores labelled images; maps and masks have the network's input size, as in the papers.

Images are read ahead in threads while the network works. An image that cannot be read or scored becomes a
record with an error and never stops the others.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zsad.data.samples import PreparedSample, load_for_scoring
from zsad.errors import ConfigError, ZsadError, one_line
from zsad.evaluation.tiled import predict_sample, read_samples
from zsad.images.ahead import read_ahead
from zsad.images.scoring import score_batch

if TYPE_CHECKING:
    from zsad.detector.detector import Detector
    from zsad.methods.base import Method
    from zsad.types import Sample

_ScoreAndMap = tuple[float, NDArray[np.float32]]

READ_AHEAD = 16  # images beyond the batch that is being scored
IMAGES_SCORED_JOINTLY = 256  # the categories of MVTec AD and VisA stay whole


@dataclass(frozen=True)
class Batch:
    """Images that go through the network at once.

    Attributes:
        indices: positions of the samples within their category.
        samples: the images, all of one category.
        seed: seed of the random numbers that the method draws.
        is_joint: whether the score of each image depends on the others, so that the batch cannot be divided.
    """

    indices: tuple[int, ...]
    samples: tuple[Sample, ...]
    seed: int
    is_joint: bool = False

    def parts(self) -> list[Batch]:
        """The images as batches of one each; only the batch itself if it cannot be divided."""
        if self.is_joint:
            return [self]
        pairs = zip(self.indices, self.samples, strict=True)
        return [Batch((index,), (sample,), self.seed) for index, sample in pairs]


@dataclass(frozen=True)
class ScoredImage:
    """Result of scoring one image.

    Attributes:
        index: position of the sample within its category.
        seconds: time to read and prepare the image, plus its share of the time to score its batch.
        score: image score; None after an error.
        anomaly_map: (S, S) float32; None after an error.
        mask: (S, S) bool; None if unknown, or after an error.
        inside: (S, S) bool, pixels of the region of interest; None for all.
        error: one line that begins with the path of the file at fault; None if the image was scored.
        mask_fault: one line that begins with the path of a mask that cannot be used; None otherwise.
    """

    index: int
    seconds: float
    score: float | None = None
    anomaly_map: NDArray[np.float32] | None = None
    mask: NDArray[np.bool_] | None = None
    inside: NDArray[np.bool_] | None = None
    error: str | None = None
    mask_fault: str | None = None


def make_batches(
    samples: Sequence[Sample], batch_size: int, seed: int, *, scores_jointly: bool = False
) -> list[Batch]:
    """Divides a category into batches, the same on any number of devices.

    Args:
        samples: images of the category.
        batch_size: number of images that go through the network at once.
        seed: seed of the run, from which each batch gets its own.
        scores_jointly: whether the method compares the images of a batch with each other. It then gets the
            whole category at once, or the fewest parts of at most `IMAGES_SCORED_JOINTLY` images. With N
            parts, part k holds the images k, k + N, k + 2N, ..., so that all parts have the same mixture.
    """
    count = len(samples)
    if scores_jointly:
        parts = -(-count // IMAGES_SCORED_JOINTLY)
        chosen = [range(part, count, parts) for part in range(parts)]
    else:
        chosen = [range(first, min(first + batch_size, count)) for first in range(0, count, batch_size)]
    return [
        Batch(
            tuple(indices),
            tuple(samples[index] for index in indices),
            batch_seed(seed, number),
            is_joint=scores_jointly,
        )
        for number, indices in enumerate(chosen)
    ]


def joint_note(method: Method, largest: int) -> str:
    """A line on how a method compares the images of a category with each other; empty if it does not.

    Args:
        method: with its settings, on which this may depend.
        largest: number of images of the largest category.
    """
    if not method.scores_jointly:
        return ""
    if method.MOST_COMPANIONS:
        count = method.MOST_COMPANIONS
        return f"{method.INFO.title} compares each test image with up to {count} others of its category"
    parts = -(-largest // IMAGES_SCORED_JOINTLY)
    divided = f", large ones in up to {parts} parts" if parts > 1 else ""
    return f"{method.INFO.title} compares the test images of a category with each other{divided}"


def batch_seed(seed: int, number: int) -> int:
    """A seed that differs between batches and between seeds of runs."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])


def score_batches(detector: Detector, batches: Iterable[Batch]) -> Iterator[list[ScoredImage]]:
    """Scores batches in their order.

    Args:
        detector: detector with the references and companions of the category, if any.
        batches: from `make_batches`; taken one by one as their images are read.

    Yields:
        One list per batch, in the order of its images.

    Raises:
        ConfigError: the method refuses its settings, which would be the same for every image.
    """
    if detector.tile is not None:
        yield from _score_by_tiles(detector, batches)
        return
    batches, coming = itertools.tee(batches)
    samples = (sample for batch in coming for sample in batch.samples)
    # Read one by one, not by batch: a batch may be a whole category, of which memory should not hold two.
    reading = read_ahead(partial(_read, detector), ([sample] for sample in samples), ahead=READ_AHEAD)
    with closing(reading):
        for batch in batches:
            reads = itertools.islice(reading, len(batch.samples))
            yield _score_batch(detector, batch, (read for (read,) in reads))


def _score_by_tiles(detector: Detector, batches: Iterable[Batch]) -> Iterator[list[ScoredImage]]:
    """Scores batches whose images are cut into tiles, image by image; maps have the size of the image."""
    batches, coming = itertools.tee(batches)
    samples = (sample for batch in coming for sample in batch.samples)
    with closing(read_samples(samples, detector.bits, detector.roi)) as reading:
        for batch in batches:
            scored = []
            for place, sample in enumerate(batch.samples):
                read = next(reading)
                started = time.perf_counter()
                outcome: _ScoreAndMap | str = read.error or ""
                if read.image is not None:
                    outcome = predict_sample(detector, read.image, sample.category, batch.seed)
                seconds = read.seconds + time.perf_counter() - started
                marks = _Marks(read.mask, read.inside, read.mask_fault)
                scored.append(_record(batch, place, outcome, seconds, marks))
            yield scored


@dataclass(frozen=True)
class _Read:
    """An image as the network takes it, or the line that says why it cannot be read."""

    prepared: PreparedSample | None
    error: str | None
    seconds: float


@dataclass(frozen=True)
class _Marks:
    """Mask, region of interest, and fault of the mask of an image, as `PreparedSample` holds them."""

    mask: NDArray[np.bool_] | None = None
    inside: NDArray[np.bool_] | None = None
    fault: str | None = None


def _read(detector: Detector, sample: Sample) -> _Read:
    started = time.perf_counter()
    try:
        prepared = load_for_scoring(sample, detector.preparation, detector.roi)
    except (ZsadError, OSError, MemoryError) as error:
        return _Read(None, one_line(error), time.perf_counter() - started)
    return _Read(prepared, None, time.perf_counter() - started)


def _score_batch(detector: Detector, batch: Batch, reading: Iterator[_Read]) -> list[ScoredImage]:
    """Scores the images of a batch that could be read."""
    side = detector.image_size
    images = torch.empty(len(batch.samples), 3, side, side)
    marks: dict[int, _Marks] = {}  # of the readable images, by place in the batch
    outcomes: dict[int, _ScoreAndMap | str] = {}
    seconds = []
    # Each image is released once it is copied, so that a large batch is not held twice.
    for place, read in enumerate(reading):
        seconds.append(read.seconds)
        if read.prepared is None:
            outcomes[place] = read.error or ""
            continue
        images[len(marks)] = torch.from_numpy(read.prepared.image)
        mask = None if read.prepared.mask is None else read.prepared.mask.astype(np.bool_)
        marks[place] = _Marks(mask, read.prepared.inside, read.prepared.mask_fault)
    places = list(marks)
    started = time.perf_counter()
    names = [batch.samples[place].category for place in places]
    scored = _score(detector, batch, images[: len(places)], names)
    share = (time.perf_counter() - started) / max(1, len(places))
    for place, outcome in zip(places, scored, strict=True):
        outcomes[place] = outcome
        seconds[place] += share
    return [
        _record(batch, place, outcomes[place], seconds[place], marks.get(place, _Marks()))
        for place in range(len(batch.samples))
    ]


def _score(
    detector: Detector, batch: Batch, images: Tensor, names: Sequence[str]
) -> list[_ScoreAndMap | str]:
    """Score and map of each image of a batch, or the line that says why there are none."""

    def score(rows: Sequence[int]) -> list[_ScoreAndMap]:
        torch.manual_seed(batch.seed)
        part = slice(rows[0], rows[-1] + 1)  # all rows or one; a list of rows would copy the batch
        raw = detector.score_tensors(images[part], classes=names[part])
        return list(zip(raw.scores.tolist(), raw.maps.cpu().numpy(), strict=True))

    try:
        return score_batch(score, range(len(names)), is_joint=batch.is_joint)
    except ConfigError as error:
        if not batch.is_joint:
            raise
        # Too few images to compare with each other, for instance; other categories may have more.
        return [one_line(error)] * len(names)


def _record(
    batch: Batch,
    place: int,
    outcome: _ScoreAndMap | str,
    seconds: float,
    marks: _Marks,
) -> ScoredImage:
    """The result of the image at a place of a batch."""
    index = batch.indices[place]
    if isinstance(outcome, str):
        return ScoredImage(index, seconds, error=_about(batch.samples[place], outcome))
    score, anomaly_map = outcome
    return ScoredImage(index, seconds, score, anomaly_map, marks.mask, marks.inside, mask_fault=marks.fault)


def _about(sample: Sample, text: str) -> str:
    """The line of an error, beginning with the file that is at fault."""
    names = (str(sample.path), str(sample.mask_path))
    return text if text.startswith(names) else f"{sample.path}: {text}"

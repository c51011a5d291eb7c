"""Scoring in this process or in several.

Batches are the same whatever the number of processes, and their results are handed on in order, so the
numbers do not depend on it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch

from zsad.detector.workers import Lost, Workers
from zsad.errors import ZsadError
from zsad.evaluation.scoring import Batch, ScoredPicture, score_batches

if TYPE_CHECKING:
    from zsad.detector.detector import Detector
    from zsad.types import Sample


class Scorer(Protocol):
    """Turns batches into scored images."""

    def set_support(self, images: Sequence[Path]) -> None:
        """Gives the detector the reference images or companions of a category, whichever its method takes."""
        ...

    def score(self, batches: Iterable[Batch]) -> Iterator[list[ScoredPicture]]:
        """Scores the batches of a category; one list per batch, batches and images in their order."""
        ...

    def close(self) -> None:
        """Ends what was started."""
        ...


class LocalScorer:
    """Scores in this process."""

    def __init__(self, detector: Detector) -> None:
        self._detector = detector

    def set_support(self, images: Sequence[Path]) -> None:
        """Gives the detector the reference images or companions of a category, whichever its method takes."""
        if self._detector.method.INFO.accepts_references:
            self._detector.set_references(images)
        elif self._detector.method.MOST_COMPANIONS:
            self._detector.set_companions(images)

    def score(self, batches: Iterable[Batch]) -> Iterator[list[ScoredPicture]]:
        """Scores the batches of a category; one list per batch, batches and images in their order."""
        return score_batches(self._detector, batches)

    def close(self) -> None:
        """Nothing was started."""


class ProcessScorer:
    """Scores in several processes (`zsad.detector.workers`), each with a copy of the detector."""

    def __init__(self, detector: Detector, devices: Sequence[str]) -> None:
        """Starts nothing yet.

        Args:
            detector: on the CPU; sent to every process by pickle.
            devices: one for each process.
        """
        threads = torch.get_num_threads()  # another number would round differently; OMP_NUM_THREADS sets it
        self._local = LocalScorer(detector)
        self._support: tuple[Path, ...] = ()
        self._workers: Workers[int, ScoredPicture] = Workers(_Setup(detector), devices, threads)

    def set_support(self, images: Sequence[Path]) -> None:
        """Gives the detector and its copies the reference images or companions of a category."""
        self._local.set_support(images)
        self._support = tuple(images)

    def score(self, batches: Iterable[Batch]) -> Iterator[list[ScoredPicture]]:
        """Scores the batches of a category; one list per batch, batches and images in their order.

        Raises:
            ZsadError: the processes only die.
        """
        waiting = deque(batches)
        sample_of = dict(pair for batch in waiting for pair in zip(batch.indices, batch.samples, strict=True))
        found: dict[int, ScoredPicture] = {}
        with closing(self._workers.run(_Share(batch, self._support) for batch in tuple(waiting))) as outcomes:
            for index, outcome in outcomes:
                found[index] = (
                    _failed(index, sample_of[index], outcome) if isinstance(outcome, Lost) else outcome
                )
                while waiting and found.keys() >= set(waiting[0].indices):
                    yield [found.pop(each) for each in waiting.popleft().indices]

    def close(self) -> None:
        """Ends the processes, also in the middle of their work."""
        self._workers.close()


@dataclass(frozen=True)
class _Share:
    """A batch for a worker, with the reference images or companions of its category."""

    batch: Batch
    support: tuple[Path, ...]

    @property
    def keys(self) -> tuple[int, ...]:
        return self.batch.indices

    def parts(self) -> list[_Share]:
        return [_Share(part, self.support) for part in self.batch.parts()]


@dataclass(frozen=True)
class _Setup:
    """What a worker needs to score; see `zsad.detector.workers.Setup`."""

    detector: Detector

    def __call__(self, device: str) -> Callable[[Iterator[_Share]], Iterator[tuple[int, ScoredPicture]]]:
        scorer = LocalScorer(self.detector.to(device))

        def scored(shares: Iterator[_Share]) -> Iterator[tuple[int, ScoredPicture]]:
            for support, group in groupby(shares, key=lambda share: share.support):
                scorer.set_support(support)
                for pictures in scorer.score(share.batch for share in group):
                    yield from ((picture.index, picture) for picture in pictures)

        return scored


def _failed(index: int, sample: Sample, lost: Lost) -> ScoredPicture:
    """The record of an image whose process died.

    Raises:
        ZsadError: the workers gave up, which is not the fault of this image.
    """
    if not lost.is_to_blame:
        raise ZsadError(
            f"{lost.reason} (out of memory?): what is finished is kept, go on with --resume and fewer "
            "--devices or a smaller --batch-size"
        )
    advice = "give fewer --devices, a smaller --image-size, or leave the image out"
    return ScoredPicture(index, 0.0, error=f"{sample.path}: {lost.reason}; {advice}")

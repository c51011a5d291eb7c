"""Scoring in this process or in several.

Batches are the same whatever the number of processes, and their results are handed on in order, so the
numbers do not depend on it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch

from zsad.detector.workers import Lost, Workers
from zsad.errors import ZsadError
from zsad.evaluation.scoring import Batch, ScoredImage, score_batches

if TYPE_CHECKING:
    from zsad.detector.detector import Detector
    from zsad.types import Sample

_QUESTION = -1  # key of the answer to `compare_with`; those of images are their indices


@dataclass(frozen=True)
class Comparing:
    """What a detector says of itself once it has the references and companions of a category.

    Attributes:
        map_range: smallest and largest value of a map.
        scores_jointly: whether an image's score depends on the other images of its batch.
    """

    map_range: tuple[float, float]
    scores_jointly: bool


class Scorer(Protocol):
    """Turns batches into scored images."""

    def compare_with(self, references: Sequence[Path], companions: Sequence[Path]) -> Comparing:
        """Takes the references and companions of a category; returns what follows from them."""
        ...

    def score(self, batches: Sequence[Batch]) -> Iterator[list[ScoredImage]]:
        """Scores the batches of a category; yields one list per batch, in order."""
        ...

    def close(self) -> None:
        """Ends what was started."""
        ...


class LocalScorer:
    """Scores in this process."""

    def __init__(self, detector: Detector, augment_references: bool = False) -> None:
        """Scores with a detector, and turns and flips the references for it if asked to."""
        self._detector = detector
        self._augment = augment_references

    def compare_with(self, references: Sequence[Path], companions: Sequence[Path]) -> Comparing:
        """Takes the references and companions of a category; returns what follows from them."""
        self._detector.set_references(references, augment=self._augment and bool(references))
        self._detector.set_companions(companions)
        return Comparing(self._detector.map_range, self._detector.scores_jointly)

    def score(self, batches: Iterable[Batch]) -> Iterator[list[ScoredImage]]:
        """Scores the batches of a category; yields one list per batch, in order."""
        return score_batches(self._detector, batches)

    def close(self) -> None:
        """Nothing was started."""


class ProcessScorer:
    """Scores in several processes (`zsad.detector.workers`), each with a copy of the detector."""

    def __init__(self, detector: Detector, devices: Sequence[str], augment_references: bool = False) -> None:
        """Starts nothing yet.

        Args:
            detector: on the CPU; sent to every process by pickle.
            devices: one for each process.
            augment_references: whether references also count turned and flipped.
        """
        threads = torch.get_num_threads()  # another number would round differently; OMP_NUM_THREADS sets it
        self._support = _Support()
        self._workers: Workers[int, ScoredImage | Comparing] = Workers(
            partial(_Job, detector, augment_references), devices, threads
        )

    def compare_with(self, references: Sequence[Path], companions: Sequence[Path]) -> Comparing:
        """Takes the references and companions of a category; returns what follows from them.

        Raises:
            ZsadError: an image cannot be read, or the process that reads them dies.
        """
        self._support = _Support(tuple(references), tuple(companions))
        ((_, answer),) = self._workers.run([_Share(None, self._support)])
        if not isinstance(answer, Comparing):
            reason = answer.reason if isinstance(answer, Lost) else ""
            raise ZsadError(f"the references and companions cannot be prepared: {reason}")
        return answer

    def score(self, batches: Sequence[Batch]) -> Iterator[list[ScoredImage]]:
        """Scores the batches of a category; yields one list per batch, in order.

        Raises:
            ZsadError: the processes only die.
        """
        waiting = deque(batches)
        sample_of = dict(pair for batch in batches for pair in zip(batch.indices, batch.samples, strict=True))
        found: dict[int, ScoredImage] = {}
        with closing(self._workers.run(_Share(batch, self._support) for batch in batches)) as outcomes:
            for index, outcome in outcomes:
                if isinstance(outcome, Lost):
                    found[index] = _failed(index, sample_of[index], outcome)
                elif isinstance(outcome, ScoredImage):
                    found[index] = outcome
                while waiting and found.keys() >= set(waiting[0].indices):
                    yield [found.pop(each) for each in waiting.popleft().indices]

    def close(self) -> None:
        """Ends the processes, also in the middle of their work."""
        self._workers.close()


@dataclass(frozen=True)
class _Support:
    """Files of the images that a category is compared with."""

    references: tuple[Path, ...] = ()
    companions: tuple[Path, ...] = ()


@dataclass(frozen=True)
class _Share:
    """What a worker gets at once: a batch or, without one, the question what follows from the support."""

    batch: Batch | None
    support: _Support

    @property
    def keys(self) -> tuple[int, ...]:
        return (_QUESTION,) if self.batch is None else self.batch.indices

    def parts(self) -> list[_Share]:
        if self.batch is None:
            return [self]
        return [_Share(part, self.support) for part in self.batch.parts()]


class _Job:
    """The work of a process; see `zsad.detector.workers.Job`."""

    def __init__(self, detector: Detector, augment_references: bool, device: str) -> None:
        self._scorer = LocalScorer(detector.to(device), augment_references)
        self._support: _Support | None = None
        self._comparing: Comparing | None = None

    def __call__(self, shares: Iterator[_Share]) -> Iterator[tuple[int, ScoredImage | Comparing]]:
        for support, group in groupby(shares, key=lambda share: share.support):
            if support != self._support:
                self._comparing = self._scorer.compare_with(support.references, support.companions)
                self._support = support
            yield from self._answers(group)

    def _answers(self, shares: Iterator[_Share]) -> Iterator[tuple[int, ScoredImage | Comparing]]:
        """Answers shares with the same support."""
        for is_question, group in groupby(shares, key=lambda share: share.batch is None):
            if is_question and self._comparing is not None:
                yield from ((_QUESTION, self._comparing) for _ in group)
            else:
                batches = (share.batch for share in group if share.batch is not None)
                for scored in self._scorer.score(batches):
                    yield from ((image.index, image) for image in scored)


def _failed(index: int, sample: Sample, lost: Lost) -> ScoredImage:
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
    return ScoredImage(index, 0.0, error=f"{sample.path}: {lost.reason}; {advice}")

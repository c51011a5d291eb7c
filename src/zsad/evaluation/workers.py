"""Scoring in this process, or in several that each take every so many-th batch.

Batches are the same whatever the number of processes, and their results come back in order, so the numbers do
not depend on it. Results travel through pipes, which hold little: a process that is ahead waits.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch

from zsad.errors import ZsadError, one_line
from zsad.evaluation.scoring import Batch, ScoredPicture, score_batches

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from zsad.detector.detector import Detector


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
    """Whatever turns batches into scored images."""

    def compare_with(self, references: Sequence[Path], companions: Sequence[Path]) -> Comparing:
        """Takes the references and companions of a category; says what follows from them."""
        ...

    def score(self, batches: Sequence[Batch]) -> Iterator[list[ScoredPicture]]:
        """Scores the batches of a category in their order."""
        ...

    def close(self) -> None:
        """Ends what was started."""
        ...


class LocalScorer:
    """Scores in this process."""

    def __init__(self, detector: Detector) -> None:
        self._detector = detector

    def compare_with(self, references: Sequence[Path], companions: Sequence[Path]) -> Comparing:
        """As `Scorer.compare_with`."""
        self._detector.set_references(references)
        self._detector.set_companions(companions)
        return Comparing(self._detector.map_range, self._detector.scores_jointly)

    def score(self, batches: Sequence[Batch]) -> Iterator[list[ScoredPicture]]:
        """As `Scorer.score`."""
        return score_batches(self._detector, batches)

    def close(self) -> None:
        """Nothing was started."""


class ProcessScorer:
    """Scores in several processes, each with a copy of the detector on a device of its own."""

    def __init__(self, detector: Detector, devices: Sequence[str]) -> None:
        """Starts the processes.

        Args:
            detector: on the CPU; it is sent to each process by pickle.
            devices: one for each process.
        """
        self._detector, self._devices = detector, devices
        self._workers: list[tuple[Any, Connection]] = []

    def compare_with(self, references: Sequence[Path], companions: Sequence[Path]) -> Comparing:
        """As `Scorer.compare_with`; the processes are started when they are first needed.

        Raises:
            ZsadError: a process died, or an image cannot be read.
        """
        if not self._workers:
            self._start()
        for _, connection in self._workers:
            connection.send((tuple(references), tuple(companions)))
        answers: list[Comparing] = [_received(*worker) for worker in self._workers]
        return answers[0]

    def score(self, batches: Sequence[Batch]) -> Iterator[list[ScoredPicture]]:
        """As `Scorer.score`, after `compare_with`.

        Raises:
            ZsadError: a process died.
        """
        count = len(self._workers)
        for number, (_, connection) in enumerate(self._workers):
            connection.send(batches[number::count])
        for number in range(len(batches)):
            scored: list[ScoredPicture] = _received(*self._workers[number % count])
            yield scored

    def close(self) -> None:
        """Ends the processes, also in the middle of their work."""
        for process, connection in self._workers:
            connection.close()
            process.terminate()
        for process, _ in self._workers:
            process.join()
        self._workers = []

    def _start(self) -> None:
        # Processes are spawned, since a fork of one that uses a GPU or threads is not safe.
        context = torch.multiprocessing.get_context("spawn")
        threads = torch.get_num_threads()  # another number would round differently; OMP_NUM_THREADS sets it
        for device in self._devices:
            own, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs, threads), daemon=True)
            process.start()
            theirs.close()  # so that the pipe ends when the process does
            own.send((self._detector, device))
            self._workers.append((process, own))


def _received(process: Any, connection: Connection) -> Any:
    """The next answer of a process.

    Raises:
        ZsadError: it died, or could not score.
    """
    try:
        found = connection.recv()
    except (EOFError, ConnectionError) as error:
        process.join(timeout=5)
        raise ZsadError(
            f"a scoring process ended with exit code {process.exitcode} (out of memory?): what is finished "
            "is kept, go on with --resume and fewer --devices or a smaller --batch-size"
        ) from error
    if isinstance(found, str):
        raise ZsadError(found)
    return found


def _work(connection: Connection, threads: int) -> None:
    """The life of a process: a detector, then one share of batches after another."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the first one decides
    torch.set_num_threads(threads)
    try:
        detector, device = connection.recv()
        scorer = LocalScorer(detector.to(device))
        while True:
            asked = connection.recv()
            try:
                if isinstance(asked, tuple):
                    connection.send(scorer.compare_with(*asked))
                    continue
                for scored in scorer.score(asked):
                    connection.send(scored)
            except (ZsadError, RuntimeError, MemoryError) as error:
                connection.send(one_line(error))
    except (EOFError, ConnectionError):
        return  # the first process is gone or has enough

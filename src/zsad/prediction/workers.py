"""Prediction in several processes, one for each GPU or a share of the CPU each; `zsad predict --devices N`.

The calling process plans the run and keeps its tables; worker processes score batches and write the
images' files. Batches are those of a run in one process, so the numbers are the same too; on a CPU, where
the processes share its threads, the number of threads may change their last digits. A worker asks for its
next batch when it needs one, so a fast device gets more of them.

A worker that dies (killed, out of memory, a crash in a driver) loses nothing: another one takes its place and
its batches are scored again, each alone, and then image by image, which rounds differently. An image
whose process dies even then becomes a record with an error.

Processes and pipes are used directly, since `concurrent.futures` gives up all workers and all tasks when one
process dies and does not tell whose fault it was, and `torch.multiprocessing.spawn` ends the run.
"""

from __future__ import annotations

import contextlib
import pickle
import signal
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING

from zsad.errors import ConfigError, one_line
from zsad.prediction.layout import RunLayout
from zsad.prediction.pipeline import PredictionPipeline
from zsad.prediction.records import ResultRecord

if TYPE_CHECKING:
    from zsad.detector.detector import Detector
    from zsad.prediction.options import PredictOptions
    from zsad.types import PhraseFit

_SECONDS_TO_STOP = 10
_DEATHS_BEFORE_BLAME = 2  # once among other batches, once alone


@dataclass
class _Batch:
    """Images that go through the network together, and how often their process died."""

    paths: tuple[Path, ...]
    deaths: int = 0
    missing: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.missing = self.missing or {str(path) for path in self.paths}


@dataclass
class _Worker:
    """A process, its pipe, and the batches whose records have not all come back."""

    device: str
    process: BaseProcess
    connection: Connection
    in_hand: list[_Batch] = field(default_factory=list)
    is_ready: bool = False
    is_asking: bool = False


class ShardedPrediction:
    """Scores images in worker processes; the counterpart of `zsad.prediction.pipeline.PredictionPipeline`.

    Attributes:
        explanations: rankings of the phrases to explain with, by path, of the images scored so far.
    """

    def __init__(
        self, detector: Detector, layout: RunLayout, options: PredictOptions, devices: Sequence[str]
    ) -> None:
        """Starts nothing yet.

        Args:
            detector: sent to every worker as it is.
            layout: where the images' files go.
            options: what is done with each image.
            devices: one for each worker; "cpu" may come several times.

        Raises:
            ConfigError: the method scores all images together.
        """
        info = detector.method.INFO
        if detector.scores_jointly:
            raise ConfigError(
                f"{info.name} scores all images together, which cannot be split over {len(devices)} "
                "processes: leave --devices out"
            )
        self.explanations: dict[str, Sequence[PhraseFit]] = {}
        self._detector = detector
        self._layout = layout
        self._options = options
        self._devices = tuple(devices)
        self._workers: list[_Worker] = []
        self._suspects: deque[_Batch] = deque()  # batches whose process has died
        self._coming: Iterator[_Batch] = iter(())
        self._next: _Batch | None = None
        self._left: list[ResultRecord] = []
        self._deaths_in_a_row = 0

    def records(self, batches: Iterable[Sequence[Path]]) -> Iterator[ResultRecord]:
        """Scores images; records come as the workers finish them, those of a worker in order.

        Args:
            batches: paths of the images that go through the network at once.

        Yields:
            One record per path.

        Raises:
            ConfigError: the detector refuses an argument, or the processes cannot be started.
            OSError: an image's files cannot be written.
        """
        self._coming = (_Batch(tuple(batch)) for batch in batches)
        self._next = next(self._coming, None)
        try:
            while self._is_going_on():
                self._workers = self._workers or [self._start(device) for device in self._devices]
                for worker in self._workers:
                    if worker.is_asking:
                        self._answer(worker)
                yield from self._heard()
                if self._deaths_in_a_row > 3 * len(self._devices) + 2:
                    yield from self._given_up()
                    return
        finally:
            self._stop()

    def written(self) -> Iterator[ResultRecord]:
        """After an interruption: the records that came in while the workers stopped."""
        self._stop()
        yield from self._left

    def _start(self, device: str) -> _Worker:
        context = get_context("spawn")  # a forked process cannot use a GPU
        own, theirs = context.Pipe()
        threads = self._threads()
        process = context.Process(target=_work, args=(theirs, device, threads), daemon=True, name="zsad")
        process.start()
        theirs.close()  # so that the worker's death ends the pipe
        return _Worker(device, process, own)

    def _threads(self) -> int:
        """The share of this process's threads that each worker gets."""
        import torch

        return max(1, torch.get_num_threads() // len(self._devices))

    def _is_going_on(self) -> bool:
        in_hand = any(worker.in_hand for worker in self._workers)
        return in_hand or bool(self._suspects) or self._next is not None

    def _answer(self, worker: _Worker) -> None:
        """Gives a worker that asks its next batch, or tells it to finish what it has.

        A worker with neither is left asking: a batch of another one may come back.
        """
        batch = self._next_for(worker)
        if batch is None and not worker.in_hand:
            return
        names: dict[str, Path | None] | None = None
        if batch is not None:
            worker.in_hand.append(batch)
            names = {str(path): self._layout.names.get(str(path)) for path in batch.paths}
        worker.is_asking = False
        with contextlib.suppress(OSError):  # it has died, which the next reading finds
            worker.connection.send(names)

    def _next_for(self, worker: _Worker) -> _Batch | None:
        """A suspect goes to a worker that has nothing else, which gets nothing else until it is done."""
        if self._suspects and not worker.in_hand:
            return self._suspects.popleft()
        if any(batch.deaths for batch in worker.in_hand):
            return None
        batch, self._next = self._next, next(self._coming, None)
        return batch

    def _heard(self) -> Iterator[ResultRecord]:
        """Waits for messages and handles one of each worker that has some."""
        for connection in wait([worker.connection for worker in self._workers]):
            worker = next(worker for worker in self._workers if worker.connection is connection)
            try:
                message = worker.connection.recv()
            except (EOFError, OSError):
                yield from self._buried(worker)
                continue
            if isinstance(message, BaseException):
                raise message
            if message is not None:
                self._deaths_in_a_row = 0
                yield from self._taken(worker, *message)
            elif worker.is_ready:
                worker.is_asking = True
            else:
                worker.is_ready = True
                self._equip(worker)

    def _equip(self, worker: _Worker) -> None:
        """Sends what a worker needs before it can ask for batches."""
        with contextlib.suppress(OSError):
            # as plain bytes: multiprocessing would put tensors into shared memory, which containers limit
            worker.connection.send_bytes(pickle.dumps(self._detector))
            worker.connection.send((self._layout.directory, self._layout.root, self._options))

    def _taken(
        self, worker: _Worker, record: ResultRecord, ranking: Sequence[PhraseFit] | None
    ) -> Iterator[ResultRecord]:
        """Ticks a record off; one that has come before, from a worker that died then, is dropped."""
        for batch in worker.in_hand:
            if record.path in batch.missing:
                batch.missing.discard(record.path)
                if ranking is not None:
                    self.explanations[record.path] = ranking
                yield record
        worker.in_hand = [batch for batch in worker.in_hand if batch.missing]

    def _buried(self, worker: _Worker) -> Iterator[ResultRecord]:
        """Replaces a worker that has died; yields the record of an image that is to blame."""
        worker.process.join(_SECONDS_TO_STOP)
        reason = _reason(worker.process.exitcode)
        if not worker.is_ready and (worker.process.exitcode or 0) > 0:
            raise ConfigError(
                f"a worker process ended before it could start ({reason}): in a script of your own, call "
                "this below `if __name__ == '__main__':`"
            )
        self._deaths_in_a_row += 1
        worker.connection.close()
        for batch in worker.in_hand:
            batch.deaths += 1
            if batch.deaths < _DEATHS_BEFORE_BLAME:
                self._suspects.append(batch)
            elif len(batch.paths) == 1:
                self._deaths_in_a_row = 0
                yield self._failed(
                    batch.paths[0],
                    f"its process died each time it was read or scored ({reason}); "
                    "give a smaller --image-size or make the image smaller, or leave it out",
                )
            else:
                self._suspects.extend(
                    _Batch((path,), deaths=1) for path in batch.paths if str(path) in batch.missing
                )
        self._workers.remove(worker)
        self._workers.append(self._start(worker.device))

    def _given_up(self) -> Iterator[ResultRecord]:
        """Records for everything that is left when processes only die."""
        in_hand = [batch for worker in self._workers for batch in worker.in_hand]
        coming = () if self._next is None else (self._next, *self._coming)
        for batch in (*in_hand, *self._suspects, *coming):
            for path in batch.paths:
                if str(path) in batch.missing:
                    yield self._failed(
                        path,
                        f"not scored, since {self._deaths_in_a_row} processes died one after the other; give "
                        "fewer --devices or a smaller --batch-size, then --resume",
                    )

    def _failed(self, path: Path, reason: str) -> ResultRecord:
        return ResultRecord(
            path=str(path),
            score=None,
            is_anomalous=None,
            threshold=self._options.threshold,
            width=None,
            height=None,
            seconds=0.0,
            method=self._detector.method.INFO.name,
            backbone=self._detector.record.name,
            error=f"{path}: {reason}",
        )

    def _stop(self) -> None:
        """Ends all workers; records that were on their way are kept for `written`."""
        for worker in self._workers:
            worker.process.terminate()
        for worker in self._workers:
            with contextlib.suppress(Exception):  # its end, or a message that Ctrl-C cut in two
                while worker.connection.poll(_SECONDS_TO_STOP):
                    message = worker.connection.recv()
                    if isinstance(message, tuple):
                        self._left.extend(self._taken(worker, *message))
            worker.process.join(_SECONDS_TO_STOP)
            if worker.process.is_alive():
                worker.process.kill()
            worker.connection.close()
        self._workers = []


def _work(connection: Connection, device: str, threads: int) -> None:
    """A worker's life: says that it is there, takes the detector, then asks for batches until stopped."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the caller handles it
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # files that are being written are finished
    try:
        detector, directory, root, options = _equipment(connection, device, threads)
        names: dict[str, Path] = {}
        pipeline = PredictionPipeline(detector, RunLayout(directory, root, names), options)
        while True:
            for record in pipeline.records(_asked_for(connection, names)):
                connection.send((record, pipeline.explanations.pop(record.path, None)))
                names.pop(record.path)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the caller is gone
    except Exception as error:  # as in one process, where it would end the run
        connection.send(_portable(error))


def _equipment(
    connection: Connection, device: str, threads: int
) -> tuple[Detector, Path, str, PredictOptions]:
    """What the caller sends to a worker that is there: the detector and what is done with images."""
    import torch

    torch.set_num_threads(threads)
    if device.startswith("cuda:"):
        torch.cuda.set_device(device)
    connection.send(None)
    content = connection.recv_bytes()
    detector = pickle.loads(content)  # noqa: S301 - from the process that began this one
    return (detector.to(device), *connection.recv())


def _asked_for(connection: Connection, names: dict[str, Path]) -> Iterator[Sequence[Path]]:
    """Batches from the caller, until it has none for now; their files' names are added to `names`."""
    while True:
        connection.send(None)
        batch = connection.recv()
        if batch is None:
            return
        names.update(batch)
        yield [Path(path) for path in batch]


def _portable(error: Exception) -> Exception:
    """The exception, or one with the same message if it cannot be sent to another process."""
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 - our own exception
    except Exception:  # a constructor of any signature
        return RuntimeError(f"{type(error).__name__}: {one_line(error)}")
    return error


def _reason(exit_code: int | None) -> str:
    """How a process ended, in words."""
    if exit_code is not None and exit_code < 0:
        name = signal.Signals(-exit_code).name if -exit_code in set(signal.Signals) else str(-exit_code)
        hint = ", often for lack of memory" if name == "SIGKILL" else ""
        return f"killed by {name}{hint}"
    return f"exit code {exit_code}"

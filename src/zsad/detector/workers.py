"""Worker processes that score batches: who gets which batch, and what happens when a process dies.

A worker asks for its next batch when it has room for one, so a fast device gets more of them. Batches are
those of a run in one process, so the results are the same; on a CPU, the number of threads may change their
last digits.

A worker that dies (killed, out of memory, a crash in a driver) loses nothing. Another one takes its place,
and the batches that it had not finished are scored again, each alone in its process, and then image by image,
which rounds differently. An image whose process dies even then is reported as `Lost`.

Processes and pipes are used directly: `concurrent.futures` gives up all workers and all tasks when one
process dies, without telling which task it died of, and `torch.multiprocessing.spawn` ends the run.
"""

from __future__ import annotations

import contextlib
import pickle
import signal
import sys
from collections import deque
from collections.abc import Callable, Generator, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Generic, Protocol, TypeVar

from zsad.errors import ConfigError, one_line

_SECONDS_TO_STOP = 10
_DEATHS_BEFORE_BLAME = 2  # once among other batches, once alone


Key = TypeVar("Key", bound=Hashable)
Key_co = TypeVar("Key_co", bound=Hashable, covariant=True)
Result = TypeVar("Result")


class Batch(Protocol[Key_co]):
    """Images that go through the network together; sent to a worker by pickle."""

    @property
    def keys(self) -> Sequence[Key_co]:
        """A name of each image, unique among all batches of a run."""

    def parts(self) -> Sequence[Batch[Key_co]]:
        """The images as batches of one each; the batch itself if it has to stay whole."""


Job = Callable[[Iterator[Any]], Iterator[tuple[Key, Result]]]
"""Scores batches in a worker: yields the key and the result of each image, in any order."""

Setup = Callable[[str], Job[Key, Result]]
"""Makes the job of a worker from the name of its device; sent to the worker by pickle, once."""


@dataclass(frozen=True)
class Lost:
    """An image without a result, because processes died.

    Attributes:
        reason: one line without the image's name.
        is_to_blame: whether its process died each time; otherwise the workers gave up before it was scored.
    """

    reason: str
    is_to_blame: bool


@dataclass
class _InHand(Generic[Key]):
    """A batch, the keys that have no result yet, and how often its process died."""

    batch: Batch[Key]
    deaths: int = 0
    missing: set[Key] = field(init=False)

    def __post_init__(self) -> None:
        self.missing = set(self.batch.keys)


@dataclass
class _Worker(Generic[Key]):
    """A process, its pipe, and the batches whose results have not all come back."""

    device: str
    process: BaseProcess
    connection: Connection
    in_hand: list[_InHand[Key]] = field(default_factory=list)
    is_ready: bool = False
    is_asking: bool = False


class Workers(Generic[Key, Result]):
    """Worker processes, each with a device; they start with the first batch and live until `close`.

    Attributes:
        left: keys and results that came in while the workers were stopped, after an interruption.
    """

    def __init__(self, setup: Setup[Key, Result], devices: Sequence[str], threads: int) -> None:
        """Starts nothing yet.

        Args:
            setup: makes each worker's job, from the name of its device.
            devices: one for each worker; "cpu" may come several times.
            threads: number of torch threads of each worker.
        """
        self.left: list[tuple[Key, Result]] = []
        self._setup = setup
        self._devices = tuple(devices)
        self._threads = threads
        self._workers: list[_Worker[Key]] = []
        self._suspects: deque[_InHand[Key]] = deque()  # batches whose process has died
        self._coming: Iterator[_InHand[Key]] = iter(())
        self._next: _InHand[Key] | None = None
        self._deaths_in_a_row = 0

    def run(self, batches: Iterable[Batch[Key]]) -> Generator[tuple[Key, Result | Lost], None, None]:
        """Scores batches; results come as the workers finish them.

        Args:
            batches: taken one by one, as workers ask for them.

        Yields:
            The key and the result of each image, in any order.

        Raises:
            Exception: whatever a job raised; the workers are stopped, as after any other interruption.
            ConfigError: the processes cannot be started.
        """
        self._coming = (_InHand(batch) for batch in batches)
        self._next = next(self._coming, None)
        self._deaths_in_a_row = 0
        try:
            while self._is_going_on():
                self._workers = self._workers or [self._start(device) for device in self._devices]
                for worker in self._workers:
                    if worker.is_asking:
                        self._answer(worker)
                yield from self._heard()
                if self._deaths_in_a_row > 3 * len(self._devices) + 2:
                    yield from self._given_up()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Ends the workers, also in the middle of their work; what was on its way goes into `left`."""
        for worker in self._workers:
            worker.process.terminate()
        for worker in self._workers:
            with contextlib.suppress(Exception):  # its end, or a message that Ctrl-C cut in two
                while worker.connection.poll(_SECONDS_TO_STOP):
                    message = worker.connection.recv()
                    if isinstance(message, tuple):
                        self.left.extend(self._taken(worker, *message))
            worker.process.join(_SECONDS_TO_STOP)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
            worker.connection.close()
        self._workers = []
        self._suspects.clear()

    def _start(self, device: str) -> _Worker[Key]:
        context = get_context("spawn")  # a forked process cannot use a GPU
        own, theirs = context.Pipe()
        arguments = (theirs, device, self._threads)
        process = context.Process(target=_work, args=arguments, daemon=True, name="zsad")
        process.start()
        theirs.close()  # so that the worker's death ends the pipe
        return _Worker(device, process, own)

    def _is_going_on(self) -> bool:
        in_hand = any(worker.in_hand for worker in self._workers)
        return in_hand or bool(self._suspects) or self._next is not None

    def _answer(self, worker: _Worker[Key]) -> None:
        """Gives a worker that asks its next batch, or tells it to finish what it has.

        A worker with neither is left asking: a batch of another one may come back.
        """
        given = self._next_for(worker)
        if given is None and not worker.in_hand:
            return
        if given is not None:
            worker.in_hand.append(given)
        worker.is_asking = False
        with contextlib.suppress(OSError):  # the worker has died, which the next reading finds
            worker.connection.send(None if given is None else given.batch)

    def _next_for(self, worker: _Worker[Key]) -> _InHand[Key] | None:
        """A suspect goes to a worker that has nothing else, which gets nothing else until it is done."""
        if self._suspects and not worker.in_hand:
            return self._suspects.popleft()
        if any(each.deaths for each in worker.in_hand):
            return None
        given, self._next = self._next, next(self._coming, None)
        return given

    def _heard(self) -> Iterator[tuple[Key, Result | Lost]]:
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
                # as plain bytes: multiprocessing would put tensors into shared memory, which containers limit
                with contextlib.suppress(OSError):
                    worker.connection.send_bytes(pickle.dumps(self._setup))

    def _taken(self, worker: _Worker[Key], key: Key, result: Result) -> Iterator[tuple[Key, Result]]:
        """Marks a result as received. A duplicate, from a worker that died after sending it, is ignored."""
        for each in worker.in_hand:
            if key in each.missing:
                each.missing.discard(key)
                yield key, result
        worker.in_hand = [each for each in worker.in_hand if each.missing]

    def _buried(self, worker: _Worker[Key]) -> Iterator[tuple[Key, Lost]]:
        """Replaces a worker that has died; yields the images that are to blame."""
        worker.process.join(_SECONDS_TO_STOP)
        reason = _reason(worker.process.exitcode)
        if not worker.is_ready and (worker.process.exitcode or 0) > 0:
            raise ConfigError(
                f"a worker process ended before it could start ({reason}): in a script of your own, call "
                "this below `if __name__ == '__main__':`"
            )
        self._deaths_in_a_row += 1
        worker.connection.close()
        self._workers.remove(worker)
        for each in worker.in_hand:
            each.deaths += 1
            parts = each.batch.parts()
            if each.deaths < _DEATHS_BEFORE_BLAME:
                self._suspects.append(each)
            elif len(parts) == 1:
                self._deaths_in_a_row = 0
                blame = Lost(f"its process died each time it was read or scored ({reason})", True)
                yield from ((key, blame) for key in each.missing)
            else:
                alone = [_InHand(part, deaths=1) for part in parts]
                self._suspects.extend(one for one in alone if one.missing & each.missing)
        self._workers.append(self._start(worker.device))

    def _given_up(self) -> Iterator[tuple[Key, Lost]]:
        """Everything that is left when processes only die."""
        in_hand = [each for worker in self._workers for each in worker.in_hand]
        coming = () if self._next is None else (self._next, *self._coming)
        keys = [key for each in (*in_hand, *self._suspects, *coming) for key in each.missing]
        lost = Lost(f"not scored, because {self._deaths_in_a_row} processes died one after the other", False)
        self._next = None
        self.close()
        yield from ((key, lost) for key in keys)


def _work(connection: Connection, device: str, threads: int) -> None:
    """A worker's life: says that it is there, takes its job, then asks for batches until it is stopped."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the caller handles it
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # files that are being written are finished
    try:
        job = _job(connection, device, threads)
        while True:
            for key, result in job(_asked_for(connection)):
                connection.send((key, result))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the caller is gone
    except Exception as error:  # as in one process, where it would end the run
        connection.send(_portable(error))


def _job(connection: Connection, device: str, threads: int) -> Job[Any, Any]:
    """Makes the job that the caller sends to a worker that is there."""
    import torch

    torch.set_num_threads(threads)
    if device.startswith("cuda:"):
        torch.cuda.set_device(device)
    connection.send(None)
    content = connection.recv_bytes()
    setup: Setup[Any, Any] = pickle.loads(content)  # noqa: S301 - from the process that began this one
    return setup(device)


def _asked_for(connection: Connection) -> Iterator[Any]:
    """Batches from the caller, until it has none for now."""
    while True:
        connection.send(None)
        batch = connection.recv()
        if batch is None:
            return
        yield batch


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

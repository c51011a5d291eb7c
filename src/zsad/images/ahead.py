"""Reads items ahead in threads and hands them out in order: the files come in while the network works."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

THREADS = min(4, os.cpu_count() or 1)

Item = TypeVar("Item")
Result = TypeVar("Result")


def read_ahead(
    read: Callable[[Item], Result],
    batches: Iterable[Sequence[Item]],
    *,
    ahead: int = 1,
    threads: int = THREADS,
) -> Generator[list[Result], None, None]:
    """Applies a function to the items of batches, in threads, some batches before they are asked for.

    Args:
        read: called once per item, several at a time in different threads.
        batches: taken from the iterable one by one, never further ahead than `ahead`.
        ahead: number of batches that are read while the caller works on the one it was given, at least 1.
        threads: number of threads, at least 1; the results do not depend on it.

    Yields:
        The results of each batch, batches and items in their order. Close the generator when leaving it early
        (`contextlib.closing`): this drops what waits and ends the threads.

    Raises:
        Exception: whatever `read` raises, when its batch is due.

    Example:
        >>> list(read_ahead(str.upper, [["a", "b"], ["c"]]))
        [['A', 'B'], ['C']]
    """
    waiting: deque[list[Future[Result]]] = deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="zsad-read")
    try:
        for batch in batches:
            waiting.append([pool.submit(read, item) for item in batch])
            if len(waiting) > ahead:
                yield _results(waiting)
        while waiting:
            yield _results(waiting)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _results(waiting: deque[list[Future[Result]]]) -> list[Result]:
    """The results of the oldest batch, to which nothing else refers, so that the caller can release them."""
    return [future.result() for future in waiting.popleft()]

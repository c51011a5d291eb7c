"""Reads items ahead in threads and hands them out in order: the files come in while the network works."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

THREADS = min(4, os.cpu_count() or 1)

MOST_BYTES_AT_ONCE = 512_000_000
"""Most memory in bytes that decoding a batch may take: that of 64 megapixels of JPEG."""

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


def parts_by_size(
    batch: Sequence[Item], bytes_of: Callable[[Item], int], most_bytes: int | None = MOST_BYTES_AT_ONCE
) -> Iterator[Sequence[Item]]:
    """Splits a batch of very large images into parts, so that only few are in memory at once.

    Args:
        batch: images, or what they are read from.
        bytes_of: memory in bytes that decoding one of them takes; 0 if it is not known.
        most_bytes: most memory for a part with several images; None keeps the batch whole.

    Yields:
        The images of each part, at least one, in order.

    Example:
        >>> list(parts_by_size([3, 4, 9, 1], lambda size: size, most_bytes=8))
        [[3, 4], [9], [1]]
    """
    if most_bytes is None:
        yield batch
        return
    part: list[Item] = []
    needed = 0
    for item in batch:
        size = bytes_of(item)
        if part and needed + size > most_bytes:
            yield part
            part, needed = [], 0
        part.append(item)
        needed += size
    if part:
        yield part


def _results(waiting: deque[list[Future[Result]]]) -> list[Result]:
    """The results of the oldest batch, to which nothing else refers, so that the caller can release them."""
    return [future.result() for future in waiting.popleft()]

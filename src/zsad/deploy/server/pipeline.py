"""The way of an uploaded image: decoded in a thread, scored in a batch, turned into a row in a thread.

Only so many images are decoded at a time as the next batches need. All others wait as the bytes that were
uploaded, which take much less memory.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from time import perf_counter
from typing import TYPE_CHECKING, TypeVar

from PIL import Image

from zsad.deploy.server.queue import ScoringQueue
from zsad.deploy.server.refusals import status_of
from zsad.deploy.server.rows import NO_FILES, Inline, Row, failed_row, row_of
from zsad.errors import one_line
from zsad.images.decoding import decode_stream
from zsad.images.limits import chosen_reading

if TYPE_CHECKING:
    from zsad.deploy.server.models import Model
    from zsad.deploy.server.options import ServeOptions
    from zsad.deploy.server.uploads import Upload

ResultT = TypeVar("ResultT")

PIXELS_AT_ONCE = 100_000_000
"""Pixels of decoded images that are in memory at once, about a gigabyte with their maps; a larger image has
the memory for itself."""

RAISING_PIXELS = ("the server's --max-pixels",)
RAISING_BYTES = ("the server's variable ZSAD_MAX_BYTES",)

_BATCHES_DECODED = 3
"""One that is scored, one that waits, and one whose rows are made."""


@dataclass(frozen=True)
class Task:
    """What is done with the images of a request.

    Attributes:
        model: what scores.
        class_name: class name of the images; None for that of the model.
        inline: files that come inside the answer.
    """

    model: Model
    class_name: str | None = None
    inline: Inline = NO_FILES


@dataclass(frozen=True)
class Outcome:
    """What became of an image.

    Attributes:
        row: row of the answer.
        status: status that the request would have if this were its only image.
        error: error of the image; None for a scored one.
    """

    row: Row
    status: int = 200
    error: Exception | None = None


class Pipeline:
    """Scores uploaded images within bounded memory."""

    def __init__(
        self, options: ServeOptions, most_at_once: int, observe: Callable[[int, float], None]
    ) -> None:
        """Makes the way; `run` works on it.

        Args:
            options: limits.
            most_at_once: largest batch of any model.
            observe: called after each batch with its number of images and the seconds it took.
        """
        self.queue = ScoringQueue(options.max_wait, lambda: self._coming > 0, observe)
        self._max_pixels = options.max_pixels
        self._coming = 0
        self._decoded = asyncio.Semaphore(_BATCHES_DECODED * most_at_once)
        self._decoding = asyncio.Semaphore(options.threads)
        self._pixels = PixelBudget(PIXELS_AT_ONCE)
        self._threads = ThreadPoolExecutor(options.threads, thread_name_prefix="zsad-image")

    async def run(self) -> None:
        """Scores what comes, until it is cancelled."""
        await self.queue.run()

    def close(self) -> None:
        """Ends the threads after what they are doing."""
        self.queue.close()
        self._threads.shutdown(wait=True, cancel_futures=True)

    async def outcome(self, upload: Upload, task: Task) -> Outcome:
        """Scores an image; whatever is wrong with it becomes its row."""
        with self._on_its_way() as arrived:
            try:
                return Outcome(await self._row(upload, task, arrived))
            except Exception as error:  # one image never stops the others
                return Outcome(failed_row(upload.name, one_line(error)), status_of(error), error)

    async def _row(self, upload: Upload, task: Task, arrived: Callable[[], None]) -> Row:
        async with self._decoded, AsyncExitStack() as memory:
            async with self._decoding:
                started = perf_counter()
                image = await self.in_thread(lambda: self.read(upload, task.model))
                seconds = perf_counter() - started
                await memory.enter_async_context(self._pixels.holding(image.width * image.height))
            arrived()
            scored = await self.queue.score(task.model, image, task.class_name)
            seconds += scored.seconds

            def row() -> Row:
                return row_of(upload.name, scored.prediction, seconds, task.inline)

            return await self.in_thread(row) if task.inline else row()

    async def error_of(self, upload: Upload, model: Model) -> Exception | None:
        """Why an image cannot be read; None if it can. The pixels are dropped."""

        def check() -> None:
            self.read(upload, model)

        try:
            async with self._decoding:
                await self.in_thread(check)
        except Exception as error:  # one image never stops the others
            return error
        return None

    def read(self, upload: Upload, model: Model) -> Image.Image:
        """Decodes an upload from memory, within the limits; upright RGB.

        Raises:
            ImageReadError: it is not an image, damaged or too large; the message does not hold its name.
        """
        reading = chosen_reading(self._max_pixels, bits=model.bits, for_tiles=model.is_tiled)
        reading = replace(reading, raising_pixels=RAISING_PIXELS, raising_bytes=RAISING_BYTES)
        return decode_stream(io.BytesIO(upload.content), reading)

    async def in_thread(self, work: Callable[[], ResultT]) -> ResultT:
        """Runs a function in one of the threads for images."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    @contextmanager
    def _on_its_way(self) -> Iterator[Callable[[], None]]:
        """Counts an image as coming until the function is called or the image has failed."""
        is_coming = True

        def arrived() -> None:
            nonlocal is_coming
            self._coming -= is_coming
            is_coming = False

        self._coming += 1
        try:
            yield arrived
        finally:
            arrived()


class PixelBudget:
    """Bounds the pixels of images that are in memory at once; a larger image has it for itself."""

    def __init__(self, pixels: int) -> None:
        self._left = self._all = pixels
        self._change = asyncio.Condition()

    @asynccontextmanager
    async def holding(self, pixels: int) -> AsyncIterator[None]:
        """Waits until there is room for an image, and keeps that room."""
        taken = min(pixels, self._all)
        async with self._change:
            await self._change.wait_for(lambda: self._left >= taken)
            self._left -= taken
        try:
            yield
        finally:
            self._left += taken
            async with self._change:
                self._change.notify_all()

"""`ScoringQueue`: one thread scores what waits, in small batches that form by themselves.

While a batch is scored, images arrive; the next batch takes as many of them as fit. Only when more images are
known to be on their way does a batch that is not full wait for them, for a moment.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from time import perf_counter
from typing import TYPE_CHECKING

from PIL import Image

if TYPE_CHECKING:
    from zsad.deploy.server.models import Model
    from zsad.types import Prediction

_PACE_WEIGHT = 0.2  # of the newest batch in the running mean of seconds per image


@dataclass(frozen=True)
class Scored:
    """An image's prediction.

    Attributes:
        prediction: what the model says.
        seconds: the image's share of the time that its batch took.
    """

    prediction: Prediction
    seconds: float


@dataclass(eq=False)
class _Waiting:
    model: Model
    class_name: str | None
    image: Image.Image = field(repr=False)
    answer: asyncio.Future[Scored]


class ScoringQueue:
    """Collects images into batches of one model and class name each and scores them, oldest first.

    Attributes:
        seconds_per_image: running mean of the time that scoring an image takes; 0 before the first one.
    """

    def __init__(
        self,
        max_wait: float,
        is_more_coming: Callable[[], bool],
        observe: Callable[[int, float], None],
    ) -> None:
        """Makes a queue; `run` works on it.

        Args:
            max_wait: seconds that a batch that is not full waits for more images.
            is_more_coming: whether an image is on its way to the queue.
            observe: called after each batch with its number of images and the seconds it took.
        """
        self.seconds_per_image = 0.0
        self._max_wait = max_wait
        self._is_more_coming = is_more_coming
        self._observe = observe
        self._waiting: deque[_Waiting] = deque()
        self._arrival = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="zsad-score")

    def __len__(self) -> int:
        return len(self._waiting)

    async def score(self, model: Model, image: Image.Image, class_name: str | None = None) -> Scored:
        """Scores an image with others; a caller that is cancelled gives its place up.

        Args:
            model: what scores.
            image: RGB image.
            class_name: class name of the image; None for that of the model.

        Raises:
            Exception: whatever the model raises for this image alone.
        """
        item = _Waiting(model, class_name, image, asyncio.get_running_loop().create_future())
        self._waiting.append(item)
        self._arrival.set()
        try:
            return await item.answer
        finally:
            with suppress(ValueError):  # it is in a batch already
                self._waiting.remove(item)

    async def run(self) -> None:
        """Scores what arrives, until it is cancelled."""
        while True:
            await self._arrival.wait()
            await self._fill()
            batch = self._take()
            if not self._waiting:
                self._arrival.clear()
            if batch:
                await self._score(batch)

    def close(self) -> None:
        """Ends the thread after the batch that it is scoring."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    async def _fill(self) -> None:
        """Waits until the batch is full, nothing more comes, or the time is up."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._max_wait
        while (
            self._waiting and len(self._waiting) < self._waiting[0].model.max_batch and self._is_more_coming()
        ):
            self._arrival.clear()
            try:
                await asyncio.wait_for(self._arrival.wait(), deadline - loop.time())
            except (asyncio.TimeoutError, TimeoutError):
                return

    def _take(self) -> list[_Waiting]:
        """The next batch: images for the model and class name of the oldest one, in order of arrival."""
        if not self._waiting:
            return []
        model, class_name = self._waiting[0].model, self._waiting[0].class_name
        alike = (item for item in self._waiting if item.model is model and item.class_name == class_name)
        batch = list(islice(alike, model.max_batch))
        taken = set(map(id, batch))
        self._waiting = deque(item for item in self._waiting if id(item) not in taken)
        return batch

    async def _score(self, batch: Sequence[_Waiting]) -> None:
        model, class_name = batch[0].model, batch[0].class_name
        images = [item.image for item in batch]

        def predict(some: list[Image.Image]) -> Sequence[Prediction]:
            return model.predict(some, class_name)

        loop = asyncio.get_running_loop()
        started = perf_counter()
        outcomes = await loop.run_in_executor(self._thread, score_each, predict, images)
        seconds = perf_counter() - started
        share = seconds / len(batch)
        self.seconds_per_image += (share - self.seconds_per_image) * (
            _PACE_WEIGHT if self.seconds_per_image else 1
        )
        self._observe(len(batch), seconds)
        for item, outcome in zip(batch, outcomes, strict=True):
            if item.answer.done():  # its client hung up
                continue
            if isinstance(outcome, Exception):
                item.answer.set_exception(outcome)
            else:
                item.answer.set_result(Scored(outcome, share))


def score_each(
    predict: Callable[[list[Image.Image]], Sequence[Prediction]], images: Sequence[Image.Image]
) -> list[Prediction | Exception]:
    """Scores a batch; one that fails is scored image by image.

    Args:
        predict: scores several images at once.
        images: images of the batch.

    Returns:
        A prediction for each image, or the error that it caused.
    """
    try:
        outcomes = list(predict(list(images)))
        if len(outcomes) != len(images):
            raise RuntimeError(f"the model gave {len(outcomes)} predictions for {len(images)} images")
        return [*outcomes]
    except Exception as error:  # whatever one image causes, the others are scored
        failure = error.with_traceback(None)  # the traceback would keep the tensors of the batch in memory
    if len(images) == 1:
        return [failure]
    return [outcome for image in images for outcome in score_each(predict, [image])]

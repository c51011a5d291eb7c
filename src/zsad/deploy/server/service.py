"""`Service`: everything that the routes of one server share."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from starlette.requests import Request

from zsad.deploy.server.metrics import Metrics
from zsad.deploy.server.models import MOST_AT_ONCE, Models
from zsad.deploy.server.pipeline import Outcome, Pipeline
from zsad.deploy.server.places import Places
from zsad.deploy.server.refusals import CLIENT_GONE, Refusal, later

if TYPE_CHECKING:
    from zsad.deploy.server.options import ServeOptions
    from zsad.deploy.server.pipeline import Task
    from zsad.deploy.server.uploads import Upload

ResultT = TypeVar("ResultT")


class Service:
    """One server's models, limits, queue and counters.

    Attributes:
        models: models by name.
        options: limits and permissions.
        places: images and bytes that are accepted and not answered yet.
        pipeline: way of an image to its row.
        metrics: counters.
        is_stopping: whether new requests are refused because the server is about to end.
        open_requests: requests that came before the server began to stop and are not answered yet.
    """

    def __init__(self, models: Models, options: ServeOptions) -> None:
        self.models = models
        self.options = options
        self.places = Places(options, lambda: self.pipeline.queue.seconds_per_image)
        self.metrics = Metrics(lambda: self.places.images, lambda: self.places.bytes)
        self.pipeline = Pipeline(options, options.max_batch or MOST_AT_ONCE, self.metrics.count_batch)
        self.is_stopping = False
        self.open_requests = 0

    def check_ready(self) -> None:
        """Refuses work while the models are being loaded or the server stops.

        Raises:
            Refusal: 503.
        """
        if self.is_stopping:
            raise later(503, "the server is stopping; send the request to another one or again later", 10)
        if not self.models.is_ready:
            raise later(503, "the models are being loaded; send the request again", 2)

    async def outcomes(self, request: Request, uploads: Sequence[Upload], task: Task) -> list[Outcome]:
        """Scores the images of a request, in order.

        Raises:
            Refusal: 503, it takes longer than the time limit; 499, the client hung up.
        """

        async def all_outcomes() -> list[Outcome]:
            return await asyncio.gather(*(self.pipeline.outcome(upload, task) for upload in uploads))

        found = await self.while_connected(request, all_outcomes())
        for outcome in found:
            self.metrics.count_image(outcome.row["is_anomalous"], outcome.error is not None)
        return found

    async def while_connected(self, request: Request, work: Coroutine[Any, Any, ResultT]) -> ResultT:
        """The result of work for a request; the work ends when the client hangs up or the time is over.

        Args:
            request: request whose body has been received.
            work: what is done for it.

        Raises:
            Refusal: 503, the work takes longer than the time limit; 499, the client hung up.
        """
        task, gone = asyncio.ensure_future(work), asyncio.ensure_future(hung_up(request))
        try:
            await asyncio.wait(
                {task, gone}, timeout=self.options.timeout, return_when=asyncio.FIRST_COMPLETED
            )
            if task.done():
                return task.result()
            if gone.done():
                raise Refusal(CLIENT_GONE, "the client hung up")
            raise later(
                503,
                f"the answer would take longer than {self.options.timeout:g} seconds: send fewer or smaller "
                "images, or the request again later",
                self.places.images * self.pipeline.queue.seconds_per_image,
            )
        finally:
            task.cancel()
            gone.cancel()


async def hung_up(request: Request) -> None:
    """Returns when the client has hung up."""
    while (await request.receive())["type"] != "http.disconnect":
        pass

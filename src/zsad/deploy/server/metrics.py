"""What Prometheus reads at /metrics; each server counts in a registry of its own."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_IMAGES = (1, 2, 4, 8, 16, 32, 64)

CONTENT_TYPE = CONTENT_TYPE_LATEST


class Metrics:
    """Counters of one server."""

    def __init__(self, waiting_images: Callable[[], int], held_bytes: Callable[[], int]) -> None:
        """Makes the counters.

        Args:
            waiting_images: number of images that are accepted and not answered yet.
            held_bytes: bytes of uploads that are held in memory.
        """
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "zsad_requests", "Answered requests.", ["method", "path", "status"], registry=self._registry
        )
        self._request_seconds = Histogram(
            "zsad_request_seconds",
            "Time from the head of a request to the end of its answer.",
            ["path"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._images = Counter("zsad_images", "Images by result.", ["result"], registry=self._registry)
        for result in ("normal", "anomalous", "undecided", "failed"):
            self._images.labels(result)
        self._batch_images = Histogram(
            "zsad_batch_images", "Images that were scored at once.", buckets=_IMAGES, registry=self._registry
        )
        self._batch_seconds = Histogram(
            "zsad_batch_seconds", "Time that a batch took.", buckets=_SECONDS, registry=self._registry
        )
        queue = Gauge("zsad_queue_images", "Images accepted and not answered yet.", registry=self._registry)
        queue.set_function(waiting_images)
        held = Gauge("zsad_held_bytes", "Bytes of uploads held in memory.", registry=self._registry)
        held.set_function(held_bytes)

    def count_request(self, method: str, path: str, status: int, seconds: float) -> None:
        """Counts an answered request; `path` is a route, so that clients cannot invent time series."""
        self._requests.labels(method, path, str(status)).inc()
        self._request_seconds.labels(path).observe(seconds)

    def count_image(self, is_anomalous: bool | None, has_failed: bool) -> None:
        """Counts an image of an answered request."""
        verdicts = {None: "undecided", True: "anomalous", False: "normal"}
        self._images.labels("failed" if has_failed else verdicts[is_anomalous]).inc()

    def count_batch(self, images: int, seconds: float) -> None:
        """Counts a batch."""
        self._batch_images.observe(images)
        self._batch_seconds.observe(seconds)

    def text(self) -> bytes:
        """All counters in the text format of Prometheus."""
        return generate_latest(self._registry)

"""How much the server has accepted and not answered: images and bytes, within limits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from zsad.deploy.server.refusals import Refusal, later

if TYPE_CHECKING:
    from zsad.deploy.server.options import ServeOptions


class Places:
    """Counts accepted images and held bytes of all requests; a request gives its places back at its end.

    Attributes:
        max_body: largest size of a request, in bytes.
        images: images that are accepted and not answered yet.
        bytes: bytes of uploads that are held.
    """

    def __init__(self, options: ServeOptions, seconds_per_image: Callable[[], float]) -> None:
        self.max_body = options.max_body
        self._options = options
        self._seconds_per_image = seconds_per_image
        self.images = 0
        self.bytes = 0

    @contextmanager
    def request(self) -> Iterator[Place]:
        """The places of one request, given back at the end."""
        place = Place(self)
        try:
            yield place
        finally:
            self.images -= place.images
            self.bytes -= place.bytes

    def check_images(self, count: int) -> None:
        """Refuses images for which there is no room, or that could not be scored within the time limit.

        Raises:
            Refusal: 429, with the time in which the queue will be shorter.
        """
        wait = self.images * self._seconds_per_image()
        if self.images + count > self._options.max_queue:
            raise later(429, f"the queue is full: {self.images} images wait; send the request again", wait)
        if self.images and wait + count * self._seconds_per_image() > self._options.timeout:
            raise later(
                429,
                f"{self.images} images wait, which takes longer than the {self._options.timeout:g} seconds "
                "that a request may take; send it again",
                wait,
            )

    def check_bytes(self, count: int) -> None:
        """Refuses bytes for which there is no room.

        Raises:
            Refusal: 429.
        """
        if self.bytes + count > self._options.max_held:
            wait = max(1.0, self.images * self._seconds_per_image())
            raise later(429, "too many uploads at once; send the request again", wait)


class Place:
    """What one request holds.

    Attributes:
        images: images of the request.
        bytes: bytes of its body that have come.
    """

    def __init__(self, places: Places) -> None:
        self._places = places
        self.images = 0
        self.bytes = 0

    def check_room(self) -> None:
        """Refuses the request before its body comes, if there is no room for a single image.

        Raises:
            Refusal: 429.
        """
        self._places.check_images(1)

    def take_images(self, count: int) -> None:
        """Accepts images.

        Raises:
            Refusal: 429, there is no room.
        """
        self._places.check_images(count)
        self._places.images += count
        self.images += count

    def take_bytes(self, count: int) -> None:
        """Accepts bytes of the body.

        Raises:
            Refusal: 413, the body is too large; 429, there is no room.
        """
        most = self._places.max_body
        if self.bytes + count > most:
            raise Refusal(
                413, f"the request has more than {most} bytes: send fewer or smaller images at a time"
            )
        self._places.check_bytes(count)
        self._places.bytes += count
        self.bytes += count

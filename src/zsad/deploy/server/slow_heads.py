"""Closes connections on which no whole head of a request arrives; uvicorn limits only idle ones."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


class SlowHeads:
    """Remembers since when each connection has been waiting for the head of its next request.

    A client that sends one byte of the head now and then would hold a connection for ever.
    """

    def __init__(self, seconds: float) -> None:
        """Takes the time that a head may take, from connecting or from the last answer on."""
        self._seconds = seconds
        self._waiting: dict[Any, tuple[object, float]] = {}  # last request of a connection, and since when

    def close(self, connections: Iterable[Any], now: float) -> int:
        """Closes the connections that have been waiting for too long.

        Args:
            connections: uvicorn's protocols, whose `cycle` is the last request of a connection.
            now: time in seconds.

        Returns:
            Number of connections that were closed.
        """
        waiting = {}
        late = []
        for connection in connections:
            cycle: Any = getattr(connection, "cycle", self)
            if cycle is self or (cycle is not None and not cycle.response_complete):
                continue  # no connection of HTTP/1, or one that is being answered
            last, since = self._waiting.get(connection, (cycle, now))
            waiting[connection] = (cycle, since if last is cycle else now)
            if now - waiting[connection][1] > self._seconds:
                late.append(connection)
        self._waiting = waiting
        for connection in late:
            connection.transport.close()
        return len(late)

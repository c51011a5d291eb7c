"""`Drain`: takes the rest of a request that is refused before it has come completely.

Many clients read no answer before they have sent everything, and find the connection broken if the server
answers and closes it meanwhile.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MOST_BYTES = 2**28
MOST_SECONDS = 5.0


class Drain:
    """Drops what is left of a body, within limits, before the answer begins."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        has_more = "transfer-encoding" in headers or headers.get("content-length", "0") != "0"
        # A client that waits for `100 Continue` sends nothing before somebody asks for the body.
        is_waiting = "100-continue" in headers.get("expect", "").lower()

        async def receiving() -> Message:
            nonlocal has_more, is_waiting
            is_waiting = False
            message = await receive()
            has_more = message.get("more_body", False)
            return message

        async def discard() -> None:
            dropped = 0
            while has_more and dropped < MOST_BYTES:
                dropped += len((await receiving()).get("body", b""))

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start" and has_more and not is_waiting:
                with suppress(asyncio.TimeoutError, TimeoutError):
                    await asyncio.wait_for(discard(), MOST_SECONDS)
            await send(message)

        await self._app(scope, receiving, sending)

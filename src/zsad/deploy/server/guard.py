"""What stands before every route: who may ask, what is counted and logged."""

from __future__ import annotations

import hmac
import logging
from time import perf_counter
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from zsad.deploy.server.logs import log
from zsad.deploy.server.options import ServeOptions, is_loopback
from zsad.deploy.server.refusals import Refusal
from zsad.errors import printable

if TYPE_CHECKING:
    from zsad.deploy.server.service import Service

API = "/v1"
OTHER = "other"
"""Stands in metrics for paths that are no routes and for unusual methods, which clients invent."""

_LONGEST_PATH = 200  # characters that are logged

WATCHED = {"/health", "/ready", "/metrics"}
"""Routes that other programs ask every few seconds; they are logged only when debugging."""

_METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}


def refusal_answer(refusal: Refusal) -> JSONResponse:
    """A refusal as the client gets it."""
    return JSONResponse({"error": refusal.line}, refusal.status, refusal.headers)


class Guard:
    """Refuses clients that may not ask, before anything of their request is read."""

    def __init__(self, app: ASGIApp, options: ServeOptions) -> None:
        self._app = app
        self._options = options

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, or answers 401 or 403."""
        if scope["type"] == "http":
            try:
                headers = Headers(scope=scope)
                _check_host(headers, self._options)
                _check_origin(headers, self._options)
                if scope["path"] == API or scope["path"].startswith(f"{API}/"):
                    _check_token(headers, self._options.token)
            except Refusal as refusal:
                await refusal_answer(refusal)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _check_host(headers: Headers, options: ServeOptions) -> None:
    """Without a token, refuses a name that another site has made to mean this machine (DNS rebinding)."""
    if options.token is not None or not options.is_local:
        return
    if not is_loopback(_host_of(f"//{headers.get('host', 'localhost')}")[0]):
        raise Refusal(
            403,
            "without a token this server answers only under the names of its own machine, such as localhost: "
            "start it with --token to use another name",
        )


def _check_origin(headers: Headers, options: ServeOptions) -> None:
    """Refuses requests that a page of another site makes a browser send."""
    origin = headers.get("origin")
    if origin is None or origin in options.cors or "*" in options.cors:
        return
    if _host_of(origin)[1] != headers.get("host", "").lower():
        raise Refusal(403, "pages of other origins may not ask: start the server with --cors and the origin")


def _host_of(address: str) -> tuple[str, str]:
    """Host name, and name with port, of an address; empty for one that cannot be read."""
    try:
        parts = urlsplit(address)
        return parts.hostname or "", parts.netloc.lower()
    except ValueError:
        return "", ""


def _check_token(headers: Headers, token: str | None) -> None:
    if token is None:
        return
    kind, _, given = headers.get("authorization", "").partition(" ")
    is_known = hmac.compare_digest(given.strip().encode(), token.encode())
    if kind.lower() != "bearer" or not is_known:
        raise Refusal(
            401,
            "a token is needed: send the header Authorization: Bearer TOKEN",
            {"WWW-Authenticate": "Bearer"},
        )


class HeadAsGet:
    """Answers HEAD as GET; the server leaves the body out. Load balancers and monitors ask in this way."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return
        asked = {**scope, "method": "GET"}
        try:
            await self._app(asked, receive, send)
        finally:
            scope.update({**asked, "method": "HEAD"})  # the route, for what counts and logs


class Watch:
    """Counts and logs every request, and knows how many are being answered.

    A client that hangs up before the answer counts with the status 499.
    """

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = perf_counter(), 500

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        is_accepted = not self._service.is_stopping
        self._service.open_requests += is_accepted
        try:
            await self._app(scope, receive, sending)
        finally:
            self._service.open_requests -= is_accepted
            self._tell(scope, status, perf_counter() - started)

    def _tell(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", OTHER)
        method = scope["method"] if scope["method"] in _METHODS else OTHER
        self._service.metrics.count_request(method, route, status, seconds)
        is_fault = status >= 500 and status != 503
        log(
            "request",
            logging.ERROR if is_fault else logging.DEBUG if route in WATCHED else logging.INFO,
            method=method,
            path=printable(scope["path"])[:_LONGEST_PATH],
            status=status,
            ms=round(1000 * seconds, 1),
            images=scope.get("state", {}).get("images", 0),
        )

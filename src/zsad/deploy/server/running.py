"""Runs a server until it is told to stop, and then answers what it has accepted."""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn

from zsad.deploy.server.app import create_app
from zsad.deploy.server.keeping import prepare_folder
from zsad.deploy.server.logs import log
from zsad.deploy.server.service import Service
from zsad.deploy.server.slow_heads import SlowHeads
from zsad.errors import ConfigError, one_line

if TYPE_CHECKING:
    from zsad.deploy.server.models import Models
    from zsad.deploy.server.options import ServeOptions

_BACKLOG = 2048
_KEEP_ALIVE = 75  # seconds that a connection without requests stays open; proxies expect about a minute
_HEAD = 90  # seconds that the head of a request may take; more than _KEEP_ALIVE, which it includes
_REFUSING = 0.5  # seconds in which a server that stops still answers new requests, with 503
_CLOSING = 10  # seconds in which clients take their last answers
_TICK = 0.05


def run(models: Models, options: ServeOptions, on_start: Callable[[str], None] | None = None) -> None:
    """Serves until SIGTERM, SIGINT or an error.

    Args:
        models: models, loaded or to be loaded.
        options: where to listen, who may ask, and how much.
        on_start: called with the server's address when it listens.

    Raises:
        ConfigError: the address cannot be listened on, the TLS files do not fit, or the folder `keep`
            cannot be written to.
        ZsadError: a model cannot be loaded.
    """
    if options.keep is not None:
        prepare_folder(Path(options.keep).expanduser())
    service = Service(models, options)
    failures: list[Exception] = []

    def fail(error: Exception) -> None:
        failures.append(error)
        server.should_exit = True

    server = _Server(_config(create_app(service, fail), options), service)
    with _listen(options) as listening:
        url = _url(listening, options)
        log("listening", url=url)
        if on_start is not None:
            on_start(url)
        server.run(sockets=[listening])
    log("stopped")
    if failures:
        raise failures[0]


class _Server(uvicorn.Server):
    """Ends at the first signal when all requests are answered, at the second one at once.

    Meanwhile it refuses new requests with 503 and tells load balancers so at /ready.
    """

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service
        self._stopping: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._slow_heads = SlowHeads(_HEAD)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """See uvicorn."""
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)

    async def on_tick(self, counter: int) -> bool:
        """See uvicorn; called ten times a second."""
        if counter % 10 == 0:
            loop = asyncio.get_running_loop()
            if closed := self._slow_heads.close(self.server_state.connections, loop.time()):
                log("closed without a request", connections=closed)
        return await super().on_tick(counter)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handles the signals; uvicorn would raise them again in the end, as if the server had died."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {
            number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begins to stop; the second signal ends the server at once."""
        if self._service.is_stopping:
            self.should_exit = self.force_exit = True
            return
        self._service.is_stopping = True
        if self._loop is None:
            self.should_exit = True
        else:
            self._loop.call_soon_threadsafe(self._begin_to_stop)

    def _begin_to_stop(self) -> None:
        self._stopping = asyncio.ensure_future(self._stop())

    async def _stop(self) -> None:
        """Waits until everything that was accepted is answered, at most as long as a request may take."""
        service, loop = self._service, asyncio.get_running_loop()
        log("stopping", open_requests=service.open_requests, images=service.places.images)
        begin = loop.time()
        # Receiving and scoring may take the time limit each.
        while service.open_requests and loop.time() - begin < 2 * service.options.timeout:
            await asyncio.sleep(_TICK)
        await asyncio.sleep(max(0.0, begin + _REFUSING - loop.time()))
        self.should_exit = True


def _listen(options: ServeOptions) -> socket.socket:
    """A socket that listens at the address, so that a wrong one is refused before anything is loaded."""
    host = options.host.strip("[]")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, options.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind, protocol)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
            listening.listen(_BACKLOG)
        except BaseException:
            listening.close()
            raise
    except OSError as error:
        raise ConfigError(
            f"cannot listen at {options.host} port {options.port} ({one_line(error)}): give another one, as "
            f"in --port {options.port + 1 if 0 < options.port < 65_535 else 8001}"
        ) from error
    return listening


def _url(listening: socket.socket, options: ServeOptions) -> str:
    host = options.host.strip("[]")
    shown = f"[{host}]" if ":" in host else host
    return f"{'https' if options.tls_cert else 'http'}://{shown}:{listening.getsockname()[1]}"


def _config(app: object, options: ServeOptions) -> uvicorn.Config:
    try:
        config = uvicorn.Config(
            app,  # type: ignore[arg-type]
            log_config=None,
            access_log=False,
            server_header=False,
            lifespan="on",
            backlog=_BACKLOG,
            timeout_keep_alive=_KEEP_ALIVE,
            timeout_graceful_shutdown=_CLOSING,
            ssl_certfile=options.tls_cert,
            ssl_keyfile=options.tls_key,
        )
        config.load()
    except OSError as error:  # of the TLS library
        raise ConfigError(
            f"--tls-cert {options.tls_cert} and --tls-key {options.tls_key} cannot be used "
            f"({one_line(error)}): give a PEM certificate and the key that belongs to it"
        ) from error
    return config

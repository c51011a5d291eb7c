"""Options of `zsad serve`; needs neither torch nor a web framework."""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from zsad.errors import ConfigError
from zsad.files.fields import Above, AtLeast, AtMost, Count

TOKEN_VARIABLE = "ZSAD_SERVE_TOKEN"  # noqa: S105 - a name, no secret
MIB = 2**20
THREADS = min(4, os.cpu_count() or 1)

Port = Annotated[int, AtLeast(0), AtMost(65_535)]
Seconds = Annotated[float, Above(0)]


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """Where a server listens, who may ask, and how much.

    Attributes:
        host: address to listen on; without a token only one of this machine.
        port: port to listen on; 0 takes a free one.
        token: what clients have to send as `Authorization: Bearer TOKEN`; None for no token.
        cors: origins of web pages on other hosts that may ask ("https://line.example"), or "*" for all.
        tls_cert: file of the certificate chain (PEM); None for HTTP.
        tls_key: file of the private key (PEM).
        allow_fit: whether clients may replace references and thresholds.
        keep: folder in which uploaded images and their results are kept; None writes nothing.
        max_body: size of a request, in bytes.
        max_images: images in a request.
        max_pixels: pixels of an image; None for the limit of `zsad.images.read_image`.
        max_queue: images that are accepted and not answered yet, of all requests.
        max_held: bytes of uploaded files that are held in memory, of all requests.
        timeout: seconds in which a request is received and scored.
        max_batch: images that are scored at once; None chooses by the size of the network's input.
        max_wait: seconds that an image may wait for others to be scored with it.
        threads: threads that decode images and encode results.
    """

    host: str = "127.0.0.1"
    port: Port = 8000
    token: str | None = field(default=None, repr=False)
    cors: tuple[str, ...] = ()
    tls_cert: str | None = None
    tls_key: str | None = None
    allow_fit: bool = False
    keep: str | None = None
    max_body: Count = 128 * MIB
    max_images: Count = 64
    max_pixels: Count | None = None
    max_queue: Count = 256
    max_held: Count = 512 * MIB
    timeout: Seconds = 60.0
    max_batch: Count | None = None
    max_wait: Annotated[float, AtLeast(0)] = 0.02
    threads: Count = THREADS

    def __post_init__(self) -> None:
        if not self.host.strip():
            raise ConfigError("host is empty: give an address, as in --host 127.0.0.1 or --host 0.0.0.0")
        _check_token(self.token, self.host)
        _check_tls(self.tls_cert, self.tls_key)
        for origin in self.cors:
            if origin != "*" and not re.fullmatch(r"https?://[^/\s,]+", origin):
                raise ConfigError(
                    f"--cors takes an origin without path, as in --cors https://line.example, got {origin!r}"
                )
        if self.max_images > self.max_queue:
            raise ConfigError(
                f"a request of {self.max_images} images never fits into a queue of {self.max_queue}: lower "
                "max_images or raise max_queue"
            )
        if self.max_body > self.max_held:
            raise ConfigError(
                f"a request of {self.max_body} bytes never fits into max_held={self.max_held}: lower "
                "max_body or raise max_held"
            )

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach the server."""
        return is_loopback(self.host)


def is_loopback(host: str) -> bool:
    """Whether a host name or address means this machine alone.

    Example:
        >>> is_loopback("127.0.0.1"), is_loopback("[::1]"), is_loopback("localhost"), is_loopback("0.0.0.0")
        (True, True, True, False)
    """
    name = host.strip("[]").rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _check_token(token: str | None, host: str) -> None:
    if token is None:
        if not is_loopback(host):
            raise ConfigError(
                f"--host {host} lets other machines in, which needs a token: set {TOKEN_VARIABLE} or type "
                f'zsad serve --host {host} --token "$(openssl rand -hex 16)"'
            )
        return
    if not re.fullmatch(r"[!-~]+", token):
        raise ConfigError(
            "the token must consist of visible ASCII characters without spaces, because it travels in a "
            'header: --token "$(openssl rand -hex 16)" makes one'
        )


def _check_tls(certificate: str | None, key: str | None) -> None:
    if (certificate is None) != (key is None):
        missing = "--tls-key" if key is None else "--tls-cert"
        raise ConfigError(
            f"TLS needs a certificate and its key, and {missing} is missing: --tls-cert cert.pem --tls-key "
            "key.pem"
        )
    for option, path in (("--tls-cert", certificate), ("--tls-key", key)):
        if path is not None and not Path(path).expanduser().is_file():
            raise ConfigError(f"{option} {path}: no such file; give a PEM file")

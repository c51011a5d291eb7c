"""`Refusal`: a request that is not carried out, with the status and the line that the client gets."""

from __future__ import annotations

from collections.abc import Mapping

from zsad.errors import ImageTooLargeError, NotAnImageError, ZsadError

CLIENT_GONE = 499
"""Status of a request whose client hung up; it stands in logs and metrics only."""


class Refusal(Exception):  # noqa: N818 - an answer, and not a failure of the server
    """A request that is not carried out.

    Attributes:
        status: HTTP status.
        line: one line for the client: what came, what was expected, what to do.
        headers: headers of the answer.
    """

    def __init__(self, status: int, line: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(line)
        self.status = status
        self.line = line
        self.headers = dict(headers or {})


def later(status: int, line: str, seconds: float) -> Refusal:
    """A refusal of what may work in some seconds: 429 for too much, 503 for not now."""
    return Refusal(status, line, {"Retry-After": str(max(1, min(60, round(seconds))))})


def status_of(error: Exception) -> int:
    """The status for an image that failed: the client's fault (413, 415, 422) or the server's (500)."""
    if isinstance(error, ImageTooLargeError):
        return 413
    if isinstance(error, NotAnImageError):
        return 415
    return 422 if isinstance(error, ZsadError) else 500

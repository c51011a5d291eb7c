"""Structured logs: one JSON object per line, without image content, file names or tokens."""

from __future__ import annotations

import json
import logging
import sys
from datetime import datetime, timezone
from typing import Any, TextIO

LOGGER = logging.getLogger("zsad.serve")
_VALUES = "values"


def log(event: str, level: int = logging.INFO, **values: Any) -> None:
    """Logs an event.

    Args:
        event: what happened, in one or two words.
        level: level of the `logging` module.
        **values: plain JSON values.
    """
    LOGGER.log(level, event, extra={_VALUES: values})


def write_logs(stream: TextIO | None = None, level: int = logging.INFO) -> None:
    """Writes the logs of this server and the warnings of the web server to a stream; None for stderr."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(_JsonLines())
    for logger, lowest in ((LOGGER, level), (logging.getLogger("uvicorn"), logging.WARNING)):
        logger.handlers = [handler]
        logger.propagate = False
        logger.setLevel(lowest)


class _JsonLines(logging.Formatter):
    """A log record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, timezone.utc)
        values = {
            "time": moment.isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, _VALUES, {}),
        }
        if record.exc_info:
            values["trace"] = self.formatException(record.exc_info)
        return json.dumps(values, default=str)

"""Processes that write something and do not come to an end."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path


@contextlib.contextmanager
def stuck_processes(program: str) -> Iterator[Callable[[Path], subprocess.Popen[bytes]]]:
    """Yields a function that starts one more, given its target; all are killed at the end.

    Args:
        program: Python, which takes the target as its argument, and prints "writing" before it gets stuck.
    """
    started: list[subprocess.Popen[bytes]] = []

    def start(target: Path) -> subprocess.Popen[bytes]:
        process = subprocess.Popen([sys.executable, "-c", program, str(target)], stdout=subprocess.PIPE)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == b"writing\n"
        return process

    try:
        yield start
    finally:
        for process in started:
            kill(process)
            assert process.stdout is not None
            process.stdout.close()


def kill(process: subprocess.Popen[bytes]) -> None:
    """Ends a process as `kill -9` does."""
    process.kill()
    process.wait(60)

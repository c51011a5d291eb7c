"""A server in a process of its own, for the tests that stop and overrun it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx

TESTS = Path(__file__).parents[1]


class ServerProcess:
    """A running server.

    Attributes:
        url: its address.
        process: the process.
        logs: its log lines so far, as objects.
    """

    def __init__(self, arguments: list[str], verify: object = True) -> None:
        self._verify = verify
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path])}
        self.process = subprocess.Popen(
            [sys.executable, *arguments], stderr=subprocess.PIPE, text=True, env=environment
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        found = self._wait(lambda: next(filter(None, map(_address, self.lines)), None))
        self.url: str = found

    @property
    def logs(self) -> list[dict]:
        return [json.loads(line) for line in self.lines if line.startswith("{")]

    def wait_ready(self) -> None:
        def is_ready() -> bool | None:
            with suppress(httpx.TimeoutException):  # importing torch holds Python for seconds
                return self._get("/ready").status_code == 200 or None
            return None

        self._wait(is_ready, 120)

    def counter(self, name: str) -> float:
        """Value of a counter of /metrics without labels."""
        text = self._get("/metrics").text
        return float(re.search(rf"^{name} (\S+)$", text, re.MULTILINE)[1])

    def wait_accepted(self, images: int) -> None:
        """Waits until so many images have been accepted since the start."""
        self._wait(
            lambda: (
                self.counter("zsad_queue_images") + self.counter("zsad_batch_images_sum") >= images or None
            )
        )

    def memory(self) -> float:
        """Resident memory in MiB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="utf-8")
        return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024

    def _get(self, path: str) -> httpx.Response:
        return httpx.get(f"{self.url}{path}", verify=self._verify)

    def _read(self) -> None:
        for line in self.process.stderr:
            self.lines.append(line)

    def _wait(self, look, seconds=60):
        deadline = time.monotonic() + seconds
        while (found := look()) is None:
            assert self.process.poll() is None, self.lines
            assert time.monotonic() < deadline, self.lines
            time.sleep(0.05)
        return found


def _address(line: str) -> str | None:
    found = re.search(r"https?://[\w.:\[\]]+:\d+", line)
    return found[0] if found else None


@contextmanager
def serving(*arguments: str, verify: object = True):
    """`zsad serve` with these arguments, at a free port; `verify` as httpx takes it."""
    yield from _running(["-m", "zsad", "serve", "--port", "0", *arguments], verify)


@contextmanager
def serving_brightness(seconds: float, **options: object):
    """A server over `helpers.serving.Brightness`, each batch of which takes some seconds."""
    code = (
        "import zsad, zsad.deploy.server.logs as logs; from helpers.serving import Brightness; "
        f"logs.write_logs(); zsad.serve(Brightness({seconds}), port=0, **{options!r})"
    )
    yield from _running(["-c", code])


def _running(arguments: list[str], verify: object = True):
    server = ServerProcess(arguments, verify)
    try:
        server.wait_ready()
        yield server
    finally:
        server.process.kill()
        server.process.wait()

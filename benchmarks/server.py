"""Load test of `zsad serve`: throughput against the bare predict loop of the same run, times, memory, losses.

The loop and the server take turns (loop, server, loop, ...), so that a machine that is busy with something
else slows both alike. Each client sends one image, waits for the answer, and sends the next one.

    python benchmarks/server.py --clients 8 64 --seconds 30 --images PATH --out server.json

Options of the server follow "--": `-- --bundle line3-onnx` or `-- --checkpoint line3.safetensors`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from zsad.images.finding import find_images

WARM_UP_SECONDS = 3.0
READ_EVERY = 0.5  # seconds between two looks at the server's memory


@dataclass
class Load:
    """What clients met.

    Attributes:
        clients: number of clients.
        seconds: time from the first request to the last answer.
        statuses: answers by status.
        lost: requests without an answer.
        wrong: answers with another score than the loop's, by more than 1e-4.
        times: seconds of each answered request with status 200.
        memory: resident memory of the server in MiB, one value each `READ_EVERY` seconds.
        cpu: seconds of all processors that the server used, which other programs change little.
    """

    clients: int
    seconds: float = 0.0
    statuses: Counter[int] = field(default_factory=Counter)
    lost: int = 0
    wrong: int = 0
    times: list[float] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)
    cpu: float = 0.0

    @property
    def throughput(self) -> float:
        """Images scored in a second."""
        return self.statuses[200] / self.seconds

    def row(self) -> dict[str, Any]:
        """The figures, without the single times."""
        times = sorted(self.times) or [0.0]
        half = len(self.memory) // 2
        return {
            "clients": self.clients,
            "seconds": round(self.seconds, 1),
            "images": self.statuses[200],
            "images_per_second": round(self.throughput, 2),
            "p50": round(statistics.median(times), 3),
            "p95": round(times[int(0.95 * (len(times) - 1))], 3),
            "statuses": dict(self.statuses),
            "cpu_seconds_per_image": round(self.cpu / max(1, self.statuses[200]), 4),
            "lost": self.lost,
            "wrong": self.wrong,
            "memory_first_half": max(self.memory[:half], default=0.0),
            "memory_second_half": max(self.memory[half:], default=0.0),
        }


def server(arguments: Sequence[str]) -> tuple[subprocess.Popen[str], str]:
    """A server at a free port, ready, and its address."""
    process = subprocess.Popen(
        [sys.executable, "-m", "zsad", "serve", "--port", "0", *arguments],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    line = ""
    while not (found := re.search(r"Serving at (\S+)", line)):
        line = process.stderr.readline()
        if not line:
            sys.exit("the server ended before it listened")
    url = found[1]
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        subprocess.Popen(["cat"], stdin=process.stderr, stdout=nowhere)  # keeps the pipe of logs empty
    while httpx.get(f"{url}/ready", timeout=120).status_code != 200:
        time.sleep(0.2)
    return process, url


def resident(process: int) -> float:
    """Resident memory of a process in MiB."""
    status = Path(f"/proc/{process}/status").read_text(encoding="utf-8")
    found = re.search(r"VmRSS:\s+(\d+)", status)
    return 0.0 if found is None else int(found[1]) / 1024


def cpu_seconds(process: int) -> float:
    """Seconds of all processors that a process has used."""
    fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def load(
    url: str, process: int, images: Sequence[tuple[bytes, float]], clients: int, seconds: float
) -> Load:
    """Sends images from many clients for some seconds, and then waits for the last answers."""
    found = Load(clients)
    begin, used = time.perf_counter(), cpu_seconds(process)
    end = begin + seconds

    async def client(number: int, session: httpx.AsyncClient) -> None:
        turn = number
        while time.perf_counter() < end:
            content, score = images[turn % len(images)]
            turn += clients
            sent = time.perf_counter()
            try:
                answer = await session.post(f"{url}/v1/predict", content=content)
            except httpx.HTTPError:
                found.lost += 1
                continue
            found.statuses[answer.status_code] += 1
            if answer.status_code == 200:
                found.times.append(time.perf_counter() - sent)
                found.wrong += abs(answer.json()["results"][0]["score"] - score) > 1e-4
            else:
                await asyncio.sleep(0.1)

    async def watch() -> None:
        while True:
            found.memory.append(round(resident(process), 1))
            await asyncio.sleep(READ_EVERY)

    limits = httpx.Limits(max_connections=clients, max_keepalive_connections=clients)
    async with httpx.AsyncClient(timeout=120, limits=limits) as session:
        watching = asyncio.create_task(watch())
        await asyncio.gather(*(client(number, session) for number in range(clients)))
        watching.cancel()
    found.seconds = time.perf_counter() - begin
    found.cpu = cpu_seconds(process) - used
    return found


@dataclass
class Loop:
    """What the bare loop reached.

    Attributes:
        images: images scored.
        seconds: time that it took.
        cpu: seconds of all processors that it used.
    """

    images: int = 0
    seconds: float = 0.0
    cpu: float = 0.0

    def run(
        self, predict: Callable[[list[Path]], Any], paths: Sequence[Path], seconds: float, batch: int
    ) -> None:
        """Scores files for some seconds, `batch` of them at a time."""
        begin, used, first = time.perf_counter(), time.process_time(), self.images
        while time.perf_counter() - begin < seconds:
            at = self.images - first
            predict([paths[(at + place) % len(paths)] for place in range(batch)])
            self.images += batch
        self.seconds += time.perf_counter() - begin
        self.cpu += time.process_time() - used


def predictor(arguments: Sequence[str]) -> Any:
    """The detector or bundle that the server's options name."""
    import zsad

    if "--bundle" in arguments:
        return zsad.load_exported(arguments[arguments.index("--bundle") + 1])
    known = ("--method", "--backbone", "--checkpoint")
    return zsad.load(
        **{name[2:]: arguments[arguments.index(name) + 1] for name in known if name in arguments}
    )


def main() -> None:
    """Measures and prints one JSON object for each number of clients."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", required=True, help="folder of images")
    parser.add_argument("--clients", type=int, nargs="+", default=[8, 64])
    parser.add_argument("--seconds", type=float, default=30.0, help="of each number of clients")
    parser.add_argument("--turns", type=int, default=3, help="turns of loop and server in that time")
    parser.add_argument("--most", type=int, default=32, help="number of different images")
    parser.add_argument("--batch", type=int, default=16, help="images at a time in the bare loop")
    parser.add_argument("--out", type=Path, default=None, help="JSON file, written after each number")
    parser.add_argument("server", nargs="*", help="options of zsad serve, after --")
    options = parser.parse_args()
    paths = [Path(path) for path in find_images([options.images])][: options.most]
    detector = predictor(options.server)
    images = [
        (path.read_bytes(), prediction.score)
        for path, prediction in zip(paths, detector.predict(paths), strict=True)
    ]
    process, url = server(options.server)
    rows: list[dict[str, Any]] = []
    try:
        asyncio.run(load(url, process.pid, images, max(options.clients), WARM_UP_SECONDS))
        for clients in options.clients:
            each = options.seconds / options.turns
            total, bare = Load(clients), Loop()
            for _ in range(options.turns):
                bare.run(detector.predict, paths, each, options.batch)
                add(total, asyncio.run(load(url, process.pid, images, clients, each)))
            row = total.row()
            row["loop_images_per_second"] = round(bare.images / bare.seconds, 2)
            row["loop_cpu_seconds_per_image"] = round(bare.cpu / bare.images, 4)
            row["of_the_loop"] = round(total.throughput * bare.seconds / bare.images, 3)
            rows.append(row)
            print(json.dumps(row), flush=True)
            if options.out is not None:
                options.out.write_text(json.dumps(rows, indent=2), encoding="utf-8")
    finally:
        process.terminate()
        process.wait(60)


def add(total: Load, turn: Load) -> None:
    """Adds the figures of a turn."""
    total.seconds += turn.seconds
    total.statuses += turn.statuses
    total.lost += turn.lost
    total.wrong += turn.wrong
    total.times += turn.times
    total.memory += turn.memory
    total.cpu += turn.cpu


if __name__ == "__main__":
    main()

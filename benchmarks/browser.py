"""Times the page of `zsad export --format web` in a real browser, and compares its scores with Python's.

    npm install onnxruntime-web@1.30.0
    zsad export --format web --out demo --onnxruntime-web node_modules/onnxruntime-web
    python benchmarks/browser.py demo ../shared/data/validation

The folder is handed out by a plain file server, without the headers that allow threads. Images are scored
by `window.zsadScore`, from bytes to score and map. One of them is enlarged to 1024 x 1024 and timed: on the
clock, and as processor seconds of all processes of the browser, which say more next to other work on the
machine.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import statistics
import threading
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from PIL import Image

import zsad
from zsad.images.finding import search_images

SIDE = 1024  # pixels
SCORE = """async text => {
  const bytes = Uint8Array.from(atob(text), character => character.charCodeAt(0));
  const start = performance.now();
  const found = await window.zsadScore(new Blob([bytes]));
  return { score: found.score, seconds: (performance.now() - start) / 1000 };
}"""


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Says nothing."""


def processor_seconds(parent: int) -> float:
    """Processor time of all processes below one, from /proc (Linux)."""
    parents, used = {}, {}
    for entry in Path("/proc").iterdir():
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue  # no process, or one that has just ended
        if entry.name.isdigit():
            parents[int(entry.name)] = int(fields[1])
            used[int(entry.name)] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def is_below(process: int) -> bool:
        while process in parents and process != parent:
            process = parents[process]
        return process == parent

    return sum(seconds for process, seconds in used.items() if process != parent and is_below(process))


def measure(folder: Path, detector: Any, images: list[Path], rounds: int, chromium: str) -> dict[str, Any]:
    """Scores of the browser against Python's, and times of a large image."""
    from playwright.sync_api import sync_playwright

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        page = browser.new_page()
        start = time.perf_counter()
        page.goto(f"http://127.0.0.1:{server.server_port}/")
        page.wait_for_selector("body[data-ready=true]", timeout=300_000)
        ready = time.perf_counter() - start

        def scored(content: bytes) -> dict[str, float]:
            return dict(page.evaluate(SCORE, base64.b64encode(content).decode()))

        differences = [
            abs(scored(path.read_bytes())["score"] - detector.predict(path).score) for path in images
        ]
        stream = io.BytesIO()
        with Image.open(images[0]) as image:
            image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(
                stream, "JPEG", quality=92
            )
        scored(stream.getvalue())
        before = processor_seconds(os.getpid())
        seconds = [scored(stream.getvalue())["seconds"] for _ in range(rounds)]
        used = (processor_seconds(os.getpid()) - before) / rounds
        browser.close()
    server.shutdown()
    return {
        "images": len(images),
        "largest_difference_of_a_score": max(differences),
        "seconds_until_ready": ready,
        "side": SIDE,
        "rounds": rounds,
        "seconds_median": statistics.median(seconds),
        "seconds_least": min(seconds),
        "processor_seconds": used,
        "load": os.getloadavg()[0],
    }


def main() -> None:
    """Runs the measurements and prints them as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="folder that zsad export --format web wrote")
    parser.add_argument("images", help="images to compare scores on: a folder or a pattern")
    parser.add_argument("--checkpoint", help="file that the folder was exported from, if any")
    parser.add_argument("--most", type=int, default=24, help="number of images, evenly spread")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    given = parser.parse_args()
    found = [Path(str(path)) for path in search_images([given.images]).images]
    chosen = found[:: max(1, len(found) // given.most)][: given.most]
    method = json.loads((given.folder / "web.json").read_text(encoding="utf-8"))["method"]
    detector = zsad.load(checkpoint=given.checkpoint) if given.checkpoint else zsad.load(method)
    print(json.dumps(measure(given.folder, detector, chosen, given.rounds, given.chromium), indent=1))


if __name__ == "__main__":
    main()

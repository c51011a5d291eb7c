"""Times how long the results page of a large run takes to open in headless Chromium, from disk.

    python benchmarks/results_page.py --images 100000 --out benchmarks/results/results_page.json

The page is that of invented scores; thumbnails exist for the images that are seen first. Measured are the
time until the script has run and the first images are drawn, and the time of each of the controls. Needs
`playwright` and a Chromium, whose path `--chromium` gives.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from playwright.sync_api import Page, sync_playwright

from zsad.prediction.layout import RunLayout
from zsad.prediction.page import write_prediction_page
from zsad.prediction.records import ResultRecord

SETTINGS = {"method": "auto", "backbone": "tiny", "formats": ["overlay"], "threshold": 0.5, "scale": "fixed"}
STEPS = {
    "threshold": "document.getElementById('slider').value = 0.3;"
    "document.getElementById('slider').dispatchEvent(new Event('input'))",
    "search": "document.getElementById('search').value = 'line-07 left';"
    "document.getElementById('search').dispatchEvent(new Event('input'))",
    "lowest first": "document.getElementById('search').value = '';"
    "document.getElementById('order').value = 'low';"
    "document.getElementById('order').dispatchEvent(new Event('change'))",
    "by name": "document.getElementById('order').value = 'name';"
    "document.getElementById('order').dispatchEvent(new Event('change'))",
}


def write_page(folder: Path, images: int) -> Path:
    """Writes the page of a run with invented scores."""
    random = np.random.default_rng(0)
    records = [
        ResultRecord(
            str(folder / f"parts/line-{number % 50:02d}/left_{number:06d}.jpg"),
            float(random.beta(2, 6)),
            **dict.fromkeys(("is_anomalous", "threshold")),
            width=1024,
            height=1024,
            seconds=0.1,
            method="auto",
            backbone="tiny",
        )
        for number in range(images)
    ]
    layout = RunLayout.plan(folder, [record.path for record in records])
    for record in sorted(records, key=lambda record: -(record.score or 0))[:300]:
        thumbnail = layout.thumbnail(record.path)
        thumbnail.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (320, 320, 3), dtype=np.uint8)).save(thumbnail)
    return write_prediction_page(layout, records, SETTINGS, (0.0, 4.0), None)


def open_page(page: Page, file: Path) -> dict[str, float]:
    """Measures the seconds until the first images are drawn, and those of each control."""
    start = time.perf_counter()
    page.goto(file.as_uri(), wait_until="domcontentloaded")
    page.wait_for_selector("#grid li")
    seconds = {"open": time.perf_counter() - start}
    for name, step in STEPS.items():
        milliseconds = page.evaluate(
            f"() => {{ const start = performance.now(); {step}; document.body.offsetHeight;"
            " return performance.now() - start; }"
        )
        seconds[name] = milliseconds / 1000
    return {name: round(value, 3) for name, value in seconds.items()}


def main() -> None:
    """Prints the figures and writes them as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--chromium", default=shutil.which("chromium"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--screenshot", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        file = write_page(Path(name), args.images)
        browser = playwright.chromium.launch(executable_path=args.chromium, args=["--no-sandbox"])
        rounds = []
        for _ in range(args.rounds):
            page = browser.new_page(viewport={"width": 1400, "height": 900})
            rounds.append({"load_before": round(os.getloadavg()[0], 1), **open_page(page, file)})
            print(json.dumps(rounds[-1]), flush=True)
            if args.screenshot:
                page.screenshot(path=args.screenshot)
            page.close()
        figures = {"images": args.images, "megabytes": round(file.stat().st_size / 1e6, 1), "rounds": rounds}
    print(json.dumps(figures))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

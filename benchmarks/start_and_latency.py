"""Times the waits of a new user: the import, one image after start-up, a cold start of `zsad predict`.

    python benchmarks/start_and_latency.py --image examples/nut_lump.jpg --out benchmarks/results/tiny.json

Every figure is the median of several runs in fresh processes (import, cold start) or of several calls in one
process (one image). Run it on an idle machine; the figures hold for that machine alone.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def seconds_of(command: list[str], runs: int) -> float:
    """Measures the median seconds of a command in a fresh process, after one uncounted run."""
    times = []
    for run in range(runs + 1):
        start = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if run:
            times.append(time.perf_counter() - start)
    return statistics.median(times)


def one_image(image: Path, threads: int, calls: int) -> float:
    """Measures the median seconds of `predict` on one image file, with a loaded detector."""
    code = f"""
import statistics, time, torch, zsad
torch.set_num_threads({threads})
detector = zsad.load()
for _ in range(3):
    detector.predict({str(image)!r})
times = []
for _ in range({calls}):
    start = time.perf_counter()
    detector.predict({str(image)!r})
    times.append(time.perf_counter() - start)
print(statistics.median(times))
"""
    output = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    return float(output)


def main() -> None:
    """Prints the figures and writes them as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--image", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    python = sys.executable
    with tempfile.TemporaryDirectory() as folder:
        command = [python, "-m", "zsad", "predict", str(args.image), "--out"]
        cold = []
        for run in range(args.runs):
            start = time.perf_counter()
            subprocess.run([*command, f"{folder}/{run}"], check=True, capture_output=True)
            cold.append(time.perf_counter() - start)
    figures = {
        "import_numpy_seconds": seconds_of([python, "-c", "import numpy"], args.runs),
        "import_zsad_seconds": seconds_of([python, "-c", "import zsad"], args.runs),
        "import_numpy_and_zsad_seconds": seconds_of(
            [python, "-c", "import numpy, zsad, zsad.types"], args.runs
        ),
        "one_image_seconds": one_image(args.image, args.threads, 20),
        "cold_start_predict_seconds": statistics.median(cold),
        "threads": args.threads,
        "machine": f"{platform.machine()}, {os.cpu_count()} processors, Python {platform.python_version()}",
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(figures, indent=2) + "\n")
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()

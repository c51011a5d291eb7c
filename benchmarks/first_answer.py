"""Times the first answer of a fresh process: an exported bundle beside the detector that it came from.

    zsad export --method anomalyclip --out tiny-onnx
    python benchmarks/first_answer.py tiny-onnx --image examples/nut_lump.jpg --python RUNTIME/bin/python

`--python` is the interpreter of an environment with `zsad-runtime[cpu]`; without it, both run in this one.
The two take turns. On a busy machine the processor's seconds mean more than those of the clock.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

IMPORT = "import zsad.deploy.runtime"
BUNDLE = "import zsad; print(zsad.load_exported({bundle!r}).predict({image!r}).score)"
DETECTOR = "import zsad; print(zsad.load({method!r}, {backbone!r}).predict({image!r}).score)"


def measured(python: str, code: str) -> dict[str, float]:
    """Seconds of the clock and of the processor, and the peak of memory in MB, of a fresh process."""
    started = time.perf_counter()
    process = subprocess.Popen([python, "-c", code], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{python} -c {code!r} failed")
    return {
        "seconds": time.perf_counter() - started,
        "processor_seconds": usage.ru_utime + usage.ru_stime,
        "peak_mb": usage.ru_maxrss / 1024,
    }


def main() -> None:
    """Prints the medians, and writes them as JSON if asked to."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--image", type=Path, required=True)
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    exported = json.loads((args.bundle / "bundle.json").read_text())
    names = {
        "bundle": str(args.bundle.resolve()),
        "image": str(args.image.resolve()),
        "method": exported["method"],
        "backbone": exported["backbone"],
    }
    ways = {
        "import": (args.python, IMPORT),
        "bundle": (args.python, BUNDLE.format(**names)),
        "detector": (sys.executable, DETECTOR.format(**names)),
    }
    runs: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    for run in range(args.runs + 1):
        for way, (python, code) in ways.items():
            found = measured(python, code)
            if run:  # the first one fills the file cache
                runs[way].append(found)
    figures = {
        way: {name: round(statistics.median(run[name] for run in found), 3) for name in found[0]}
        for way, found in runs.items()
    }
    report = {
        **figures,
        "load_average": os.getloadavg()[0],
        "machine": f"{platform.machine()}, {os.cpu_count()} processors, Python {platform.python_version()}",
    }
    print(json.dumps(report, indent=2))
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()

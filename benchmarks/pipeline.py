"""Times the whole way of `zsad predict`, files to files, against another checkout of zsad, in one run.

    git worktree add ../before 54389f6
    python benchmarks/pipeline.py ../shared/data/validation --baseline ../before --out results/pipeline

Photographs are enlarged to JPEG files of one size. Both checkouts score them in processes of their own and
take turns, so that a slow phase of the machine affects both; ratios are those of the same round. Processor
seconds are summed over all threads and say more than the clock next to other work on the machine (its load is
noted, 1 for each busy processor). Start-up is measured on 8 images and taken off. Only the ratios carry over
to other machines. Scores of both are compared.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from zsad.images.finding import search_images

START_UP = 8  # images; the fewest that `auto` compares with each other


@dataclass(frozen=True)
class Run:
    """One run of `zsad predict`.

    Attributes:
        seconds: wall time.
        processor_seconds: time of all threads.
        peak_mib: largest memory in mebibytes.
        load: load of the machine before the run.
    """

    seconds: float
    processor_seconds: float
    peak_mib: float
    load: float


def enlarged(source: Path, folder: Path, count: int, side: int) -> list[Path]:
    """Makes JPEG files of photographs, enlarged to one size, with the noise of a camera."""
    photographs = search_images(source).images
    random = np.random.default_rng(0)
    files = []
    for number in range(count):
        with Image.open(photographs[7 * number % len(photographs)]) as photograph:
            image = photograph.convert("RGB").resize((side, side), Image.Resampling.BICUBIC)
        noisy = np.asarray(image, np.int16) + random.normal(0, 3, (side, side, 1)).astype(np.int16)
        files.append(folder / f"{number:05d}.jpg")
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(files[-1], quality=90)
    return files


def predict(checkout: Path, inputs: Path, out: Path, method: str) -> Run:
    """Runs `zsad predict` of a checkout in a process of its own."""
    load = os.getloadavg()[0]
    command = [sys.executable, "-m", "zsad", "predict", str(inputs), "--out", str(out)]
    started = time.perf_counter()
    process = subprocess.Popen(
        [*command, "--method", method, "--quiet"],
        env={**os.environ, "PYTHONPATH": str(checkout.resolve() / "src")},
    )
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    if status:
        raise SystemExit(f"zsad predict of {checkout} failed")
    return Run(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, load)


def scores(out: Path) -> dict[str, float]:
    """Scores of a run by path."""
    lines = (out / "results.jsonl").read_text(encoding="utf-8").splitlines()
    return {row["path"]: row["score"] for row in map(json.loads, lines)}


def compare(checkouts: dict[str, Path], images: Path, few: Path, method: str, rounds: int) -> dict:
    """Times both checkouts in turns and compares their scores."""
    count = sum(1 for _ in images.iterdir())
    times: dict[str, list[dict[str, object]]] = {name: [] for name in checkouts}
    found: dict[str, dict[str, float]] = {}
    for _ in range(rounds):
        for name, checkout in checkouts.items():
            with tempfile.TemporaryDirectory() as folder:
                start = predict(checkout, few, Path(folder, "few"), method)
                run = predict(checkout, images, Path(folder, "all"), method)
                found[name] = scores(Path(folder, "all"))
            more = count - START_UP
            times[name].append(
                {
                    **asdict(run),
                    "milliseconds_an_image": 1000 * (run.seconds - start.seconds) / more,
                    "processor_milliseconds_an_image": 1000
                    * (run.processor_seconds - start.processor_seconds)
                    / more,
                }
            )
            print(method, name, json.dumps(times[name][-1]), flush=True)
    before, after = (found[name] for name in checkouts)
    return {
        "images": count,
        "runs": times,
        "times_faster": ratios(times, "milliseconds_an_image"),
        "times_fewer_processor_seconds": ratios(times, "processor_milliseconds_an_image"),
        "largest_score_difference": max(abs(before[path] - after[path]) for path in before),
    }


def ratios(times: dict[str, list[dict]], value: str) -> list[float]:
    """The first checkout's value over the second's, round by round."""
    before, after = times.values()
    return [round(one[value] / other[value], 2) for one, other in zip(before, after, strict=True)]


def growth(checkout: Path, images: Path, folder: Path, method: str, times: int) -> dict[str, object]:
    """Compares a run on many images, each file several times under another name, with one on the images."""
    many = folder / "many"
    many.mkdir()
    for copy in range(times):
        for file in images.iterdir():
            os.link(file, many / f"{copy:02d}-{file.name}")
    runs = {}
    for name, inputs in (("few", images), ("many", many)):
        out = folder / f"out-{name}"
        run = predict(checkout, inputs, out, method)
        runs[name] = {
            **asdict(run),
            "images": sum(1 for _ in inputs.iterdir()),
            "page_mb": round((out / "index.html").stat().st_size / 1e6, 2),
        }
        print(method, name, json.dumps(runs[name]), flush=True)
        shutil.rmtree(out)
    shutil.rmtree(many)
    return runs


def table(figures: dict) -> str:
    """Formats the figures as Markdown."""
    lines = [
        f"`zsad predict` on JPEG files of {figures['side']} pixels a side, `tiny`; {figures['machine']}. "
        "Times faster than the baseline in each round, median in front.",
        "",
        "| method | images | times faster | times fewer processor seconds | load | ms an image "
        "| largest score difference |",
        "|---" * 7 + "|",
    ]
    for method, run in figures["methods"].items():
        cells = []
        for name in ("times_faster", "times_fewer_processor_seconds"):
            rounds = ", ".join(f"{ratio:.2f}" for ratio in run[name])
            cells.append(f"{statistics.median(run[name]):.2f} ({rounds})")
        loads = [each["load"] for each in run["runs"]["now"]]
        each = statistics.median(one["milliseconds_an_image"] for one in run["runs"]["now"])
        lines.append(
            f"| {method} | {run['images']} | {cells[0]} | {cells[1]} | {min(loads):.0f} to {max(loads):.0f} "
            f"| {each:.0f} | {run['largest_score_difference']:.1e} |"
        )
    if "growth" in figures:
        lines += ["", "| method | images | processor ms an image | peak memory, MiB |", "|---" * 4 + "|"]
        for method, runs in figures["growth"].items():
            for run in runs.values():
                each = 1000 * run["processor_seconds"] / run["images"]
                lines.append(f"| {method} | {run['images']} | {each:.0f} | {run['peak_mib']:.0f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Prints the table, and writes it and the figures as PREFIX.md and PREFIX.json."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photographs", type=Path, help="folder with photographs to enlarge")
    parser.add_argument("--baseline", type=Path, required=True, help="checkout of zsad to compare with")
    parser.add_argument("--now", type=Path, default=Path(__file__).parents[1])
    parser.add_argument("--methods", nargs="+", default=["anomalyclip", "auto"])
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--side", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--times", type=int, default=0, help="also score so many times the images")
    parser.add_argument("--out", type=Path, metavar="PREFIX", required=True)
    args = parser.parse_args()
    checkouts = {"before": args.baseline, "now": args.now}
    figures: dict = {
        "machine": f"{platform.machine()}, {os.cpu_count()} processors, Python {platform.python_version()}, "
        f"OMP_NUM_THREADS {os.environ.get('OMP_NUM_THREADS', 'not set')}",
        "side": args.side,
        "methods": {},
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images, few = folder / "images", folder / "few"
        images.mkdir()
        few.mkdir()
        for file in enlarged(args.photographs, images, args.count, args.side)[:START_UP]:
            os.link(file, few / file.name)
        for method in args.methods:
            figures["methods"][method] = compare(checkouts, images, few, method, args.rounds)
            if args.times:
                grown = growth(args.now, images, folder, method, args.times)
                figures.setdefault("growth", {})[method] = grown
            args.out.parent.mkdir(parents=True, exist_ok=True)
            args.out.with_suffix(".json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
            args.out.with_suffix(".md").write_text(table(figures), encoding="utf-8")
    print(table(figures))


if __name__ == "__main__":
    main()

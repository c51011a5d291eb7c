"""Times the ways to run one detector, in one run on one machine, each engine in a process of its own.

    python benchmarks/deploy.py
    python benchmarks/deploy.py --backbone vit-l-14-336 --batches 1 --rounds 2

From a prepared batch to scores and maps: zsad in float32 and bfloat16, ONNX Runtime in float32 and int8, and
OpenVINO in float32, bfloat16 and int8 (its other operations in bfloat16). Threads of one engine that wait
for work slow the others, so that each engine runs in its own process, one after the other, and the rounds
take turns. Times are the shortest call of each round; ratios are those of the same round, and their median is
shown. Only the ratios carry over to other machines. `vit-l-14-336` is the papers' network with random weights
at 518 pixels; `tiny` has its learnt weights.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from zsad.detector.detector import Detector

REFERENCE = "zsad fp32"
ENGINES = {  # name -> bundle that it runs; none for zsad itself
    REFERENCE: "",
    "zsad bf16": "",
    "onnxruntime fp32": "onnx-fp32",
    "onnxruntime int8": "onnx-int8",
    "openvino fp32": "openvino-fp32",
    "openvino bf16": "openvino-fp32",
    "openvino int8": "openvino-int8",
}
FEWEST_CALLS, FEWEST_SECONDS = 3, 2.0

Call = Callable[[NDArray[np.float32]], Any]


def detector(backbone: str, precision: str | None = None) -> Detector:
    """The detector that is measured."""
    import zsad

    if backbone == "tiny":
        return zsad.load("anomalyclip", device="cpu", precision=precision)
    from random_backbone import random_l14

    found = zsad.load("anomalyclip", random_l14(), "fresh", image_size=518, device="cpu", precision=precision)
    found.is_trained = True  # random parameters take the same time
    return found


def export(backbone: str, folder: Path) -> None:
    """Writes the bundles that the engines run; those that exist stay."""
    from zsad.deploy.export import export_detector

    for bundle in sorted({name for name in ENGINES.values() if name}):
        if not (folder / bundle).exists():
            print(f"exporting {bundle}", flush=True)
            export_detector(detector(backbone), folder / bundle, *bundle.split("-"))  # type: ignore[arg-type]


def opened(engine: str, backbone: str, folder: Path) -> Call:
    """The function of an engine from a prepared batch to scores and maps."""
    kind, precision = engine.split()
    if kind == "zsad":
        import torch

        own = detector(backbone, None if precision == "fp32" else precision)
        return lambda images: own.score_tensors(torch.from_numpy(images))
    from zsad.deploy.bundle import read_bundle

    graph = folder / ENGINES[engine] / read_bundle(folder / ENGINES[engine]).graphs.whole
    if kind == "onnxruntime":
        import onnxruntime

        session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
        return lambda images: session.run(None, {"images": images})
    import openvino

    hint = "f32" if precision == "fp32" else "bf16"
    settings = {"INFERENCE_PRECISION_HINT": hint, "PERFORMANCE_HINT": "LATENCY"}
    compiled = openvino.Core().compile_model(graph, "CPU", settings)
    return lambda images: compiled({"images": images})


def measure(engine: str, backbone: str, folder: Path, batch: int) -> dict[str, float]:
    """Shortest wall and processor seconds of a call, in this process."""
    call = opened(engine, backbone, folder)
    size = 320 if backbone == "tiny" else 518
    images = np.random.default_rng(0).normal(size=(batch, 3, size, size)).astype(np.float32)
    call(images)  # what is made once
    walls: list[float] = []
    processors: list[float] = []
    begin = time.perf_counter()
    while len(walls) < FEWEST_CALLS or time.perf_counter() - begin < FEWEST_SECONDS:
        wall, processor = time.perf_counter(), time.process_time()
        call(images)
        walls.append(time.perf_counter() - wall)
        processors.append(time.process_time() - processor)
    return {"wall": min(walls), "processor": min(processors), "load": os.getloadavg()[0]}


def measured_apart(engine: str, arguments: argparse.Namespace, folder: Path, batch: int) -> dict[str, float]:
    """`measure` in a process of its own."""
    words = [sys.executable, __file__, "--engine", engine, "--bundles", str(folder)]
    words += ["--backbone", arguments.backbone, "--batches", str(batch)]
    answer = subprocess.run(words, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(answer.stdout.splitlines()[-1])
    return found


def table(results: list[dict[str, Any]], batches: list[int]) -> str:
    """Times faster than zsad in float32, as Markdown; by the clock, and by processor seconds in brackets."""
    lines = ["| engine | " + " | ".join(f"{batch} at once" for batch in batches) + " |"]
    lines.append("|---" * (1 + len(batches)) + "|")
    for engine in ENGINES:
        cells = []
        for batch in batches:
            ratios = {
                clock: statistics.median(
                    row["times"][REFERENCE][clock] / row["times"][engine][clock]
                    for row in results
                    if row["batch"] == batch
                )
                for clock in ("wall", "processor")
            }
            cells.append(f"{ratios['wall']:.2f} ({ratios['processor']:.2f})")
        lines.append(f"| {engine} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Runs all engines in turn, or measures one of them in this process."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backbone", choices=("tiny", "vit-l-14-336"), default="tiny")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--bundles", type=Path, help="folder that keeps the exported bundles")
    parser.add_argument("--out", type=Path, help="file of the results, .json")
    parser.add_argument("--engine", choices=tuple(ENGINES), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.engine:
        found = measure(arguments.engine, arguments.backbone, arguments.bundles, arguments.batches[0])
        print(json.dumps(found))
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.bundles or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        export(arguments.backbone, folder)
        results: list[dict[str, Any]] = []
        for number in range(arguments.rounds):
            for batch in arguments.batches:
                times = {engine: measured_apart(engine, arguments, folder, batch) for engine in ENGINES}
                results.append({"round": number, "batch": batch, "times": times})
                if arguments.out:
                    arguments.out.write_text(json.dumps(results, indent=1), encoding="utf-8")
            print(
                f"round {number + 1} of {arguments.rounds}\n{table(results, arguments.batches)}", flush=True
            )


if __name__ == "__main__":
    main()

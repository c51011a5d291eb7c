"""Times AnomalyCLIP end to end against a plain implementation, in one run on one machine.

    python benchmarks/inference.py --out benchmarks/results/inference

From an image tensor to a smoothed map, on the shape of ViT-L/14-336 with random weights at 518 pixels.
`plain` is `plain_anomalyclip.py`, in float32 and in bfloat16; `zsad` is `Detector.score_tensors`. Both encode
their prompts beforehand, like the authors' script. All variants use the same weights and threads and take
turns, so that a slow phase of the machine affects all of them; ratios are those of the same round. Processor
seconds are summed over the threads; next to other work on the machine (its load is noted, 1 for each busy
processor) they say more than the clock. Only the ratios carry over to other machines. Peak memory is the
growth of the process during a call, each variant in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

import zsad
from plain_anomalyclip import PlainAnomalyCLIP
from random_backbone import random_l14

if TYPE_CHECKING:
    from zsad.detector.detector import Detector

Variant = Callable[[Tensor], tuple[Tensor, Tensor]]
VARIANTS = ("plain fp32", "plain bf16", "zsad fp32", "zsad bf16")
REFERENCE = "plain fp32"
TARGETS = {"zsad fp32": 1.6, "zsad bf16": 2.4}
TARGET_OF_HALF = 1.8  # zsad bf16 against zsad fp32
SMALL = 70  # side, in pixels, of the image of the first call, which is not measured


def random_detector(precision: str) -> Detector:
    """Makes AnomalyCLIP with random prompts on a random backbone, the same for every precision."""
    return zsad.load("anomalyclip", random_l14(), "fresh", image_size=518, device="cpu", precision=precision)


def plain_variant(detector: Detector, size: int) -> Variant:
    """Makes the plain implementation with the weights of a detector, for images of one size."""
    method, visual = detector.method, detector.backbone.visual
    with torch.inference_mode():
        text_features = method.prepare(["object"]).text_features[0]
        positions = visual.positions(size // visual.config.patch_size)
    return PlainAnomalyCLIP(
        visual.state_dict(),
        positions,
        text_features,
        visual.config.heads,
        method.prompts.value_value_from,
        method.config.temperature,
        method.config.sigma,
    )


def zsad_variant(detector: Detector) -> Variant:
    """Makes the variant of zsad; the first call encodes the prompts, which all later calls use."""

    def call(images: Tensor) -> tuple[Tensor, Tensor]:
        raw = detector.score_tensors(images)
        return raw.scores, raw.maps

    return call


def build(variant: str, detector: Detector, size: int) -> Variant:
    """Makes a variant by its name."""
    return plain_variant(detector, size) if variant.startswith("plain") else zsad_variant(detector)


def noise_images(batch: int, size: int) -> Tensor:
    """Returns noise (batch, 3, size, size), the same in every process."""
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(1))


def wake_up(variant: str, detector: Detector) -> None:
    """Makes a first call on a small image, which starts threads and encodes the prompts."""
    build(variant, detector, SMALL)(noise_images(1, SMALL))


def time_in_turns(batch: int, size: int, rounds: int) -> dict[str, dict[str, object]]:
    """Measures the seconds of each variant over several rounds, and the difference of its maps."""
    detectors = {precision: random_detector(precision) for precision in ("fp32", "bf16")}
    variants = {name: build(name, detectors[name.split()[1]], size) for name in VARIANTS}
    images = noise_images(batch, size)
    for name in VARIANTS:
        wake_up(name, detectors[name.split()[1]])
    results: dict[str, tuple[Tensor, Tensor]] = {}
    seconds: dict[str, list[float]] = {name: [] for name in VARIANTS}
    processor: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for _ in range(rounds):
        for name, call in variants.items():
            start, start_processor = time.perf_counter(), time.process_time()
            results[name] = call(images)
            seconds[name].append(time.perf_counter() - start)
            processor[name].append(time.process_time() - start_processor)
    scores, maps = results[REFERENCE]
    spread = float(maps.max() - maps.min())
    figures: dict[str, dict[str, object]] = {}
    reference = statistics.median(processor[REFERENCE])
    for name in VARIANTS:
        ratios = [there / here for there, here in zip(seconds[REFERENCE], seconds[name], strict=True)]
        figures[name] = {
            "median_seconds": round(statistics.median(seconds[name]), 3),
            "seconds": [round(value, 3) for value in seconds[name]],
            "median_processor_seconds": round(statistics.median(processor[name]), 3),
            "times_fewer_processor_seconds": round(reference / statistics.median(processor[name]), 2),
            "median_times_faster": round(statistics.median(ratios), 2),
            "times_faster": [round(value, 2) for value in ratios],
            "largest_map_difference": float((results[name][1] - maps).abs().max()),
            "largest_score_difference": float((results[name][0] - scores).abs().max()),
            "share_of_the_map_s_range": float((results[name][1] - maps).abs().max()) / spread,
        }
    figures["zsad bf16"]["times_faster_than_zsad_fp32"] = [
        round(full / half, 2) for full, half in zip(seconds["zsad fp32"], seconds["zsad bf16"], strict=True)
    ]
    return figures


def peak_growth(variant: str, batch: int, size: int, threads: int) -> float | None:
    """Measures the peak growth of the process during a call, in mebibytes; None if the system cannot tell."""
    peak = Path("/proc/self/clear_refs")
    if not peak.exists():
        return None
    torch.set_num_threads(threads)
    detector = random_detector(variant.split()[1])
    wake_up(variant, detector)
    call, images = build(variant, detector, size), noise_images(batch, size)
    peak.write_text("5")  # resets the peak
    before = status_mebibytes("VmRSS")
    call(images)
    return round(status_mebibytes("VmHWM") - before, 1)


def status_mebibytes(name: str) -> float:
    """Returns a size of this process from Linux, in mebibytes."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) / 1024


def machine(threads: int) -> str:
    """Describes processor class, threads and versions, without anything that identifies the machine."""
    cpuinfo = Path("/proc/cpuinfo")
    flags = cpuinfo.read_text(encoding="ascii").split() if cpuinfo.exists() else []
    units = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in flags]
    return (
        f"{platform.machine()}, {os.cpu_count()} processors ({', '.join(units) or 'units unknown'}), "
        f"{threads} threads, torch {torch.__version__}, Python {platform.python_version()}"
    )


def table(figures: dict) -> str:
    """Formats the figures as Markdown."""
    lines = [
        f"AnomalyCLIP end to end at {figures['size']} pixels, ViT-L/14-336's shape, random weights; "
        f"{figures['machine']}. Factors are against plain fp32, in brackets those of the single rounds.",
        "",
        "| batch | load before | variant | seconds | times faster | target | processor seconds "
        "| times fewer | largest difference of a map | of its range | peak memory of a call, MiB |",
        "|---" * 11 + "|",
    ]
    for batch, run in figures["batches"].items():
        for name, row in run["variants"].items():
            rounds = ", ".join(f"{factor:.2f}" for factor in row["times_faster"])
            growth = "-" if row["peak_growth_mib"] is None else f"{row['peak_growth_mib']:.0f}"
            lines.append(
                f"| {batch} | {run['load_before']:.1f} | {name} | {row['median_seconds']:.2f} "
                f"| {row['median_times_faster']:.2f} ({rounds}) | {TARGETS.get(name, '-')} "
                f"| {row['median_processor_seconds']:.2f} | {row['times_fewer_processor_seconds']:.2f} "
                f"| {row['largest_map_difference']:.1e} | {row['share_of_the_map_s_range']:.1%} "
                f"| {growth} |"
            )
    for batch, run in figures["batches"].items():
        factors = run["variants"]["zsad bf16"]["times_faster_than_zsad_fp32"]
        rounds = ", ".join(f"{factor:.2f}" for factor in factors)
        median = statistics.median(factors)
        lines += [
            "",
            f"Batch {batch}, zsad bf16 against zsad fp32: {median:.2f} ({rounds}); {TARGET_OF_HALF} wanted.",
        ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Prints the table, and writes it and the figures as PREFIX.md and PREFIX.json if asked to."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--image-size", type=int, default=518)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, metavar="PREFIX")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    spawn = multiprocessing.get_context("spawn")
    batches = {}
    for batch in args.batches:
        load = os.getloadavg()[0]
        rows = time_in_turns(batch, args.image_size, args.rounds)
        for name in VARIANTS:
            with ProcessPoolExecutor(1, mp_context=spawn) as pool:
                growth = pool.submit(peak_growth, name, batch, args.image_size, args.threads).result()
            rows[name]["peak_growth_mib"] = growth
        batches[str(batch)] = {"load_before": round(load, 1), "variants": rows}
    figures = {"machine": machine(args.threads), "size": args.image_size, "batches": batches}
    print(table(figures))
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.with_suffix(".json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
        args.out.with_suffix(".md").write_text(table(figures), encoding="utf-8")


if __name__ == "__main__":
    main()

"""Times methods end to end against plain implementations, in one run on one machine.

    python benchmarks/inference.py --out benchmarks/results/inference
    python benchmarks/inference.py --method faprompt bayes_pfl --batches 1
    python benchmarks/inference.py --method all --backbone tiny

From an image tensor to a smoothed map, on the shape of ViT-L/14-336 with random weights at 518 pixels.
`plain` is the method's file in `plain/`, in float32 and in bfloat16; `zsad` is `Detector.score_tensors`.
Both encode prompts that do not depend on the image beforehand, like the authors' scripts. All variants use
the same weights and threads and take turns, so that a slow phase of the machine affects all of them; ratios
are those of the same round. Processor seconds are summed over the threads; next to other work on the machine
(its load is noted, 1 for each busy processor) they say more than the clock. Only the ratios carry over to
other machines. Peak memory is the growth of the process during a call, each variant in a process of its own.
"""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as functional
from torch import Tensor

import zsad
from random_backbone import random_l14
from zsad.methods import method_class

if TYPE_CHECKING:
    from zsad.backbones.clip import CLIP
    from zsad.detector.detector import Detector

Variant = Callable[[Tensor], tuple[Tensor, Tensor]]
VARIANTS = ("plain fp32", "plain bf16", "zsad fp32", "zsad bf16")
REFERENCE = "plain fp32"
SMALL = {"vit-l-14-336": 70, "tiny": 64}  # side of the image of the first call, which is not measured
SIZES = {"vit-l-14-336": 518, "tiny": 320}
SETTINGS: dict[str, dict[str, object]] = {
    "aa_clip": {},
    "af_clip": {},
    "anomalyclip": {},
    "bayes_pfl": {"stage": 2},
    "crane": {},
    "crane_plus": {"dino_model": "dinov2"},
    "faprompt": {"topk_selection": "fixed"},
    "genclip": {},
    "grounding": {"detector": "none"},
    "kanoclip": {},
    "visual_ad": {},
}


def make_detector(name: str, backbone: CLIP | str, precision: str, size: int) -> Detector:
    """Makes a method with new weights, the same for every precision.

    Grounding is given the box that all but an eighth of each side fills, and Crane+ a random convolution in
    place of DINOv2: both variants would spend the same time on those networks.
    """
    torch.manual_seed(1)
    method = name.removesuffix("_plus")
    start = "fresh" if method_class(method).INFO.needs_training else None
    detector = zsad.load(
        method, backbone, start, image_size=size, device="cpu", precision=precision, **SETTINGS[name]
    )
    if name == "grounding":
        detector.method.detector = inner_boxes
    if name == "crane_plus":
        patch = detector.backbone.config.vision.patch_size
        weights = torch.randn(64, 3, patch, patch)
        detector.method.vfm = lambda images: functional.conv2d(images, weights, stride=patch)
    return detector


def inner_boxes(images: Tensor, names: object) -> Tensor:
    """Returns the same box (B, 4) for every image."""
    side = images.shape[-1]
    edge = side // 16
    return torch.tensor([[edge, edge, side - edge, side - edge]] * len(images))


def plain_variant(name: str, detector: Detector) -> Variant:
    """Makes the plain implementation with the weights of a detector."""
    module = importlib.import_module(f"plain.{name.removesuffix('_plus')}")
    with torch.inference_mode():
        scorer: Variant = module.plain(detector.method)
    return scorer


def zsad_variant(detector: Detector) -> Variant:
    """Makes the variant of zsad; the first call encodes the prompts, which all later calls use."""

    def call(images: Tensor) -> tuple[Tensor, Tensor]:
        raw = detector.score_tensors(images)
        return raw.scores, raw.maps

    return call


@dataclass(frozen=True)
class Timing:
    """What is timed.

    Attributes:
        method: name of the method, one of `SETTINGS`.
        backbone: "vit-l-14-336" or "tiny".
        variants: some of `VARIANTS`, the reference among them.
        size: pixels of one side of the images.
        rounds: number of times that each variant is called.
        threads: number of threads.
    """

    method: str
    backbone: str
    variants: tuple[str, ...]
    size: int
    rounds: int
    threads: int

    def detector(self, precision: str) -> Detector:
        """Makes the detector of a precision."""
        backbone = "tiny" if self.backbone == "tiny" else random_l14()
        return make_detector(self.method, backbone, precision, self.size)

    def build(self, variant: str, detector: Detector) -> Variant:
        """Makes a variant by its name, and calls it once with a small image, which starts threads."""
        is_plain = variant.startswith("plain")
        made = plain_variant(self.method, detector) if is_plain else zsad_variant(detector)
        made(noise_images(1, SMALL[self.backbone]))
        return made

    def in_turns(self, batch: int) -> dict[str, dict[str, object]]:
        """Measures the seconds of each variant over several rounds, and the difference of its maps."""
        detectors = {precision: self.detector(precision) for precision in precisions(self.variants)}
        variants = {name: self.build(name, detectors[name.split()[1]]) for name in self.variants}
        images = noise_images(batch, self.size)
        results: dict[str, tuple[Tensor, Tensor]] = {}
        seconds: dict[str, list[float]] = {name: [] for name in variants}
        processor: dict[str, list[float]] = {name: [] for name in variants}
        for _ in range(self.rounds):
            for name, call in variants.items():
                start, start_processor = time.perf_counter(), time.process_time()
                results[name] = call(images)
                seconds[name].append(time.perf_counter() - start)
                processor[name].append(time.process_time() - start_processor)
        return {name: row(name, seconds, processor, results) for name in variants}

    def peak_growth(self, variant: str, batch: int) -> float | None:
        """Measures the peak growth of the process during a call, in mebibytes; None if it is not known."""
        peak = Path("/proc/self/clear_refs")
        if not peak.exists():
            return None
        torch.set_num_threads(self.threads)
        call = self.build(variant, self.detector(variant.split()[1]))
        images = noise_images(batch, self.size)
        peak.write_text("5")  # resets the peak
        before = status_mebibytes("VmRSS")
        call(images)
        return round(status_mebibytes("VmHWM") - before, 1)


def precisions(variants: Sequence[str]) -> set[str]:
    """Returns the precisions that variants need."""
    return {name.split()[1] for name in variants}


def noise_images(batch: int, size: int) -> Tensor:
    """Returns noise (batch, 3, size, size), the same in every process."""
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(1))


def row(
    name: str,
    seconds: dict[str, list[float]],
    processor: dict[str, list[float]],
    results: dict[str, tuple[Tensor, Tensor]],
) -> dict[str, object]:
    """Returns the figures of a variant, against the reference in the same rounds."""
    scores, maps = results[REFERENCE]
    difference = float((results[name][1] - maps).abs().max())
    ratios = [there / here for there, here in zip(seconds[REFERENCE], seconds[name], strict=True)]
    used = statistics.median(processor[name])
    return {
        "median_seconds": round(statistics.median(seconds[name]), 3),
        "seconds": [round(value, 3) for value in seconds[name]],
        "median_processor_seconds": round(used, 3),
        "times_fewer_processor_seconds": round(statistics.median(processor[REFERENCE]) / used, 2),
        "median_times_faster": round(statistics.median(ratios), 2),
        "times_faster": [round(value, 2) for value in ratios],
        "largest_map_difference": difference,
        "largest_score_difference": float((results[name][0] - scores).abs().max()),
        "share_of_the_map_s_range": difference / float(maps.max() - maps.min()),
    }


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
        f"Methods end to end at {figures['size']} pixels, {figures['backbone']}, against plain "
        f"implementations; {figures['machine']}. Factors are against plain fp32, in brackets those of the "
        "single rounds.",
        "",
        "| method | batch | load before | variant | seconds | times faster | processor seconds | times fewer "
        "| largest difference of a map | of its range | peak memory of a call, MiB |",
        "|---" * 11 + "|",
    ]
    for run in figures["runs"]:
        for name, values in run["variants"].items():
            rounds = ", ".join(f"{factor:.2f}" for factor in values["times_faster"])
            growth = values.get("peak_growth_mib")
            lines.append(
                f"| {run['method']} | {run['batch']} | {run['load_before']:.1f} | {name} "
                f"| {values['median_seconds']:.2f} | {values['median_times_faster']:.2f} ({rounds}) "
                f"| {values['median_processor_seconds']:.2f} "
                f"| {values['times_fewer_processor_seconds']:.2f} "
                f"| {values['largest_map_difference']:.1e} | {values['share_of_the_map_s_range']:.1%} "
                f"| {'-' if growth is None else f'{growth:.0f}'} |"
            )
    return "\n".join(lines) + "\n"


def write(figures: dict, prefix: Path) -> None:
    """Writes the table and the figures as PREFIX.md and PREFIX.json."""
    prefix.parent.mkdir(parents=True, exist_ok=True)
    prefix.with_suffix(".json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    prefix.with_suffix(".md").write_text(table(figures), encoding="utf-8")


def main() -> None:
    """Prints tables; with --out, files are written after each method."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--method", nargs="+", choices=[*SETTINGS, "all"], default=["anomalyclip"])
    parser.add_argument("--backbone", choices=list(SIZES), default="vit-l-14-336")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-memory", action="store_true", help="measure no peak memory")
    parser.add_argument("--out", type=Path, metavar="PREFIX")
    args = parser.parse_args()
    if REFERENCE not in args.variants:
        parser.error(f"--variants needs {REFERENCE!r}, which the others are compared with")
    torch.set_num_threads(args.threads)
    spawn = multiprocessing.get_context("spawn")
    size = args.image_size or SIZES[args.backbone]
    figures = {"machine": machine(args.threads), "backbone": args.backbone, "size": size, "runs": []}
    for method in SETTINGS if "all" in args.method else args.method:
        timing = Timing(method, args.backbone, tuple(args.variants), size, args.rounds, args.threads)
        for batch in args.batches:
            load = os.getloadavg()[0]
            rows = timing.in_turns(batch)
            for name in () if args.no_memory else timing.variants:
                with ProcessPoolExecutor(1, mp_context=spawn) as pool:
                    rows[name]["peak_growth_mib"] = pool.submit(timing.peak_growth, name, batch).result()
            run = {"method": method, "batch": batch, "load_before": round(load, 1), "variants": rows}
            figures["runs"].append(run)
            print(table({**figures, "runs": [run]}), flush=True)
            if args.out:
                write(figures, args.out)


if __name__ == "__main__":
    main()

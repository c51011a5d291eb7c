"""Times zsad in bfloat16 against zsad in float32 on a processor, in one run.

    python benchmarks/half_precision.py --out benchmarks/results/half_precision

AnomalyCLIP on the shape of ViT-L/14-336 with random weights, from an image tensor at 518 pixels to a map.
`fused` is bfloat16 with PyTorch's fused attention, as on processors that do not multiply bfloat16 natively;
see `zsad.backbones.scaled_dot_product`. The variants use the same weights and threads and take turns; ratios
are those of the same round. Processor seconds are summed over the threads and say more than the clock next to
other work on the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from pathlib import Path

import torch

import zsad
from random_backbone import random_l14
from zsad.backbones import scaled_dot_product

TARGET = 1.8
VARIANTS = ("fp32", "bf16", "bf16 fused")


def in_turns(batch: int, size: int, rounds: int) -> dict[str, dict[str, object]]:
    """Measures every variant over several rounds."""
    by_precision = {
        precision: zsad.load(
            "anomalyclip", random_l14(), "fresh", image_size=size, device="cpu", precision=precision
        )
        for precision in ("fp32", "bf16")
    }
    images = torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(1))
    native = scaled_dot_product._multiplies_bfloat16()
    seconds: dict[str, list[float]] = {name: [] for name in VARIANTS}
    processor: dict[str, list[float]] = {name: [] for name in VARIANTS}
    maps = {}
    for detector in by_precision.values():
        detector.score_tensors(images[:1, :, :70, :70])  # encodes the prompts
    for _ in range(rounds):
        for name in VARIANTS:
            is_native = native and not name.endswith("fused")
            scaled_dot_product._multiplies_bfloat16 = lambda is_native=is_native: is_native
            start, start_processor = time.perf_counter(), time.process_time()
            maps[name] = by_precision[name.split()[0]].score_tensors(images).maps
            seconds[name].append(time.perf_counter() - start)
            processor[name].append(time.process_time() - start_processor)
            print(name, round(seconds[name][-1], 2), round(processor[name][-1], 2), flush=True)
    spread = float(maps["fp32"].max() - maps["fp32"].min())
    return {
        name: {
            "seconds": [round(value, 2) for value in seconds[name]],
            "processor_seconds": [round(value, 2) for value in processor[name]],
            "times_faster": ratios(seconds["fp32"], seconds[name]),
            "times_fewer_processor_seconds": ratios(processor["fp32"], processor[name]),
            "map_difference_of_range": float((maps[name] - maps["fp32"]).abs().max()) / spread,
        }
        for name in VARIANTS
    }


def ratios(reference: list[float], values: list[float]) -> list[float]:
    """The reference's seconds over others, round by round."""
    return [round(one / other, 2) for one, other in zip(reference, values, strict=True)]


def main() -> None:
    """Prints the ratios, and writes all figures as PREFIX.json."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--image-size", type=int, default=518)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, metavar="PREFIX", required=True)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    load = os.getloadavg()[0]
    variants = in_turns(args.batch, args.image_size, args.rounds)
    for name, row in variants.items():
        factor = statistics.median(row["times_faster"])
        fewer = statistics.median(row["times_fewer_processor_seconds"])
        print(f"{name}: {factor:.2f} times faster than fp32, {fewer:.2f} times fewer processor seconds")
    print(f"bf16 against fp32: at least {TARGET} wanted")
    figures = {**vars(args), "out": None, "load_before": round(load, 1), "variants": variants}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.with_suffix(".json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""Times the pixel metrics against scikit-learn and the scripts' AUPRO, and measures the memory of a stream.

    python benchmarks/metrics.py --out benchmarks/results/metrics.json
    python benchmarks/metrics.py --images 0 --stream 10000

The first command compares, on the same maps in the same run, all four pixel metrics of
`zsad.metrics.MetricSuite` with the computation of the papers' evaluation scripts: `roc_auc_score` and
`average_precision_score` of scikit-learn, and an AUPRO that labels every mask again at each of 200
thresholds. (F1-max of the scripts is left out, in their favour.) The results are compared, too. The second
command feeds images to a suite one after another and prints the peak memory of the process, the time per
image and the bounds of the error. Maps are synthetic: smooth noise, raised within one or two elliptic regions
in two of three images.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from sklearn.metrics import average_precision_score, roc_auc_score

from zsad.metrics import MetricSuite

THRESHOLDS = 200
FPR_LIMIT = 0.3


def maps_and_masks(count: int, size: int, seed: int = 0) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    """Yields (H, W) float32 maps and bool masks, all different."""
    generator = np.random.default_rng(seed)
    coarse = max(size // 14, 2)
    rows, columns = np.mgrid[:size, :size]
    for number in range(count):
        mask = np.zeros((size, size), dtype=bool)
        for _ in range(number % 3):
            centre, radii = generator.uniform(0, size, 2), generator.uniform(size / 40, size / 8, 2)
            mask |= ((rows - centre[0]) / radii[0]) ** 2 + ((columns - centre[1]) / radii[1]) ** 2 < 1
        noise = ndimage.zoom(generator.normal(size=(coarse, coarse)), size / coarse, order=1)
        noise = noise[:size, :size] + 0.05 * generator.normal(size=(size, size))
        yield (1 / (1 + np.exp(2.0 - noise - 1.5 * mask))).astype(np.float32), mask


def script_aupro(maps: NDArray[Any], masks: NDArray[Any]) -> float:
    """Computes AUPRO like the papers' scripts: 200 thresholds, with regions labelled at each."""
    low, high = maps.min(), maps.max()
    rates, overlaps = [], []
    for threshold in np.arange(low, high, (high - low) / THRESHOLDS):
        predictions = maps > threshold
        of_regions: list[float] = []
        for predicted, mask in zip(predictions, masks, strict=True):
            regions = ndimage.label(mask, structure=np.ones((3, 3)))[0]
            for number, box in enumerate(ndimage.find_objects(regions), 1):
                inside = regions[box] == number
                of_regions.append((predicted[box] & inside).sum() / inside.sum())
        overlaps.append(np.mean(of_regions))
        rates.append((predictions & ~masks).sum() / (~masks).sum())
    kept = np.array(rates) < FPR_LIMIT
    x, y = np.array(rates)[kept], np.array(overlaps)[kept]
    x = (x - x.min()) / (x.max() - x.min())
    return float(abs(np.sum(np.diff(x) * (y[1:] + y[:-1]) / 2)))


def compare(count: int, size: int) -> dict[str, Any]:
    """Measures both on the same maps: seconds, their ratio, and the largest difference of the results."""
    both = list(maps_and_masks(count, size))
    maps, masks = (np.stack(column) for column in zip(*both, strict=True))
    del both
    started = time.perf_counter()
    suite = MetricSuite("script", FPR_LIMIT)
    for one, mask in zip(maps, masks, strict=True):
        suite.update(one, mask, None, None)
    ours = suite.compute()
    seconds = {"zsad": time.perf_counter() - started}
    theirs = {}
    for name, metric in (
        ("pixel_auroc", lambda: roc_auc_score(masks.ravel(), maps.ravel())),
        ("pixel_ap", lambda: average_precision_score(masks.ravel(), maps.ravel())),
        ("pixel_aupro", lambda: script_aupro(maps, masks)),
    ):
        started = time.perf_counter()
        theirs[name] = float(metric())
        seconds[name] = time.perf_counter() - started
    total = sum(value for name, value in seconds.items() if name != "zsad")
    return {
        "images": count,
        "size": size,
        "exact": suite.is_exact,
        "seconds": seconds,
        "ratio": total / seconds["zsad"],
        "largest_difference": max(abs(ours[name] - value) for name, value in theirs.items()),
    }


def stream(count: int, size: int) -> dict[str, Any]:
    """Feeds images one by one; the time includes the suite, but not the making of the images."""
    suite = MetricSuite()
    seconds = 0.0
    for number, (one, mask) in enumerate(maps_and_masks(count, size)):
        started = time.perf_counter()
        suite.update(one, mask, number / count, int(mask.any()))
        seconds += time.perf_counter() - started
    started = time.perf_counter()
    bounds = suite.bounds()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {
        "images": count,
        "size": size,
        "exact": suite.is_exact,
        "milliseconds_per_image": 1000 * seconds / count,
        "seconds_to_compute": time.perf_counter() - started,
        "peak_mib": peak / 2**20,
        "largest_error_bound": max(
            (high - low) / 2 for name, (low, high) in bounds.items() if name.startswith("pixel")
        ),
    }


def main() -> None:
    """Prints the figures and writes them as JSON if asked to."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=200, help="maps of the comparison; 0 leaves it out")
    parser.add_argument("--stream", type=int, default=0, help="maps of the streaming run; 0 leaves it out")
    parser.add_argument("--size", type=int, default=518)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    results: dict[str, Any] = {"machine": platform.platform(), "numpy": np.__version__}
    # The stream comes first: the peak memory of a process never falls.
    if arguments.stream:
        results["stream"] = stream(arguments.stream, arguments.size)
    if arguments.images:
        results["comparison"] = compare(arguments.images, arguments.size)
    text = json.dumps(results, indent=2)
    print(text)
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

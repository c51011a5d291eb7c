"""Evaluates a method on every category in MVTec layout below some folders, one picture at a time.

    python benchmarks/evaluate_folders.py --data ../shared/data/evaluation --out benchmarks/results/default

Pictures of `test/*` are used, those of `train` are not. Maps and masks are compared at the network's input
size, as the papers do. Metrics are computed per category, where it allows them (image metrics need normal and
anomalous pictures, pixel metrics a mask for each anomalous one), and averaged over those categories without
weights. Seconds are the median over a category's pictures of reading, preparing and scoring one. Only one
category's maps are in memory at a time.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

import zsad
from zsad.data.layouts import Category, find_categories, list_category, refuse_problems
from zsad.data.transforms import load_sample
from zsad.metrics import METRIC_NAMES, evaluate

if TYPE_CHECKING:
    from zsad.types import Sample

COLUMNS = {
    "image_auroc": "image AUROC",
    "image_ap": "image AP",
    "image_f1max": "image F1-max",
    "pixel_auroc": "pixel AUROC",
    "pixel_ap": "pixel AP",
    "pixel_f1max": "pixel F1-max",
    "pixel_aupro": "pixel AUPRO",
}


def evaluate_category(
    detector: zsad.Detector, category: Category, samples: Sequence[Sample], pro: str
) -> dict[str, Any]:
    """Scores the pictures of a category one by one and computes its metrics.

    Returns:
        One row: names, counts, the seven metrics (NaN where undefined) and seconds per picture.
    """
    record, size = detector.record, detector.image_size
    maps, masks, scores, seconds = [], [], [], []
    for sample in samples:
        started = time.perf_counter()
        prepared = load_sample(sample, size=size, mean=record.mean, std=record.std)
        raw = detector.score_tensors(torch.from_numpy(prepared.image)[None], classes=[prepared.class_name])
        scores.append(float(raw.scores[0]))
        seconds.append(time.perf_counter() - started)
        maps.append(raw.maps[0].float().cpu().numpy())
        masks.append(prepared.mask)
    labels = [sample.label for sample in samples]
    has_masks = all(mask is not None for mask in masks)
    metrics = evaluate(maps, masks if has_masks else None, scores, labels, pro=pro)
    return {
        "dataset": category.dataset,
        "category": category.name,
        "normal": labels.count(0),
        "anomalous": labels.count(1),
        "masks": has_masks,
        **metrics,
        "seconds": statistics.median(seconds),
    }


def spread(samples: Sequence[Sample], limit: int | None) -> list[Sample]:
    """At most `limit` samples, evenly spread over the list, so that every defect keeps its share."""
    if limit is None or len(samples) <= limit:
        return list(samples)
    return [samples[int(index)] for index in np.linspace(0, len(samples) - 1, limit).round()]


def means(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Each metric's mean over the categories that allow it, NaN if none does."""
    values = {name: [row[name] for row in rows if not math.isnan(row[name])] for name in METRIC_NAMES}
    return {name: statistics.fmean(found) if found else math.nan for name, found in values.items()}


def markdown(rows: Sequence[dict[str, Any]], mean: dict[str, float]) -> str:
    """The table, a row per category and the means."""
    lines = [
        "| set | category | normal + anomalous | " + " | ".join(COLUMNS.values()) + " | s/picture |",
        "|---|---|---|" + "---|" * (len(COLUMNS) + 1),
    ]
    for row in rows:
        counts = f"{row['normal']} + {row['anomalous']}"
        cells = [row["dataset"], row["category"], counts, *(number(row[name]) for name in COLUMNS)]
        lines.append(f"| {' | '.join(cells)} | {row['seconds']:.3f} |")
    seconds = statistics.median(row["seconds"] for row in rows)
    lines.append(f"| **mean** | | | {' | '.join(number(mean[name]) for name in COLUMNS)} | {seconds:.3f} |")
    return "\n".join(lines) + "\n"


def number(value: float) -> str:
    """Three decimals, or a dash where the metric is undefined."""
    return "-" if math.isnan(value) else f"{value:.3f}"


def without_nan(values: dict[str, Any]) -> dict[str, Any]:
    """The same with None for NaN, which JSON does not know."""
    return {
        key: None if isinstance(value, float) and math.isnan(value) else value
        for key, value in values.items()
    }


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--data", type=Path, nargs="+", required=True, help="folders in MVTec layout, or above"
    )
    parser.add_argument("--method", default=None, help="default: that of zsad.load")
    parser.add_argument("--backbone", default=None, help="default: that of zsad.load")
    parser.add_argument("--checkpoint", default=None, help="default: that of zsad.load")
    parser.add_argument("--image-size", type=int, default=None, help="default: that of zsad.load")
    parser.add_argument("--device", default=None, help="default: that of zsad.load")
    parser.add_argument("--pro", choices=["exact", "script"], default="exact", help="how AUPRO is computed")
    parser.add_argument("--limit", type=int, default=None, help="at most so many pictures of a category")
    parser.add_argument("--out", type=Path, default=None, help="writes OUT.json and OUT.md")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> None:
    """Evaluates, prints and writes."""
    options = parsed(arguments)
    chosen = {} if options.method is None else {"method": options.method}
    detector = zsad.load(
        **chosen,
        backbone=options.backbone,
        checkpoint=options.checkpoint,
        image_size=options.image_size,
        device=options.device,
    )
    rows = []
    for category in (found for folder in options.data for found in find_categories(folder)):
        listing = list_category(category, "test")
        refuse_problems(listing.problems)
        row = evaluate_category(detector, category, spread(listing.samples, options.limit), options.pro)
        shown = " ".join(
            f"{name} {number(row[name])}" for name in ("image_auroc", "pixel_auroc", "pixel_aupro")
        )
        print(f"{row['dataset']}/{row['category']}: {shown}", file=sys.stderr, flush=True)
        rows.append(row)
    mean = means(rows)
    table = markdown(rows, mean)
    print(table)
    if options.out is None:
        return
    options.out.parent.mkdir(parents=True, exist_ok=True)
    result = {
        "method": detector.method.INFO.name,
        "backbone": detector.record.name,
        "checkpoint": options.checkpoint,
        "image_size": detector.image_size,
        "pro": options.pro,
        "limit": options.limit,
        "versions": {
            "zsad": zsad.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "mean": without_nan(mean),
        "categories": [without_nan(row) for row in rows],
    }
    options.out.with_suffix(".json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    options.out.with_suffix(".md").write_text(table, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])

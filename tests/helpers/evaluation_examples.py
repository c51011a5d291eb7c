"""A realistic evaluation and its files, as `zsad evaluate` leaves them; for the tests of what reads them."""

import json
import math
from pathlib import Path

import numpy as np
from PIL import Image

from zsad.evaluation.results import (
    CategoryResult,
    EvaluationResult,
    FailedRun,
    RunResult,
    WorstPicture,
    write_evaluation,
)
from zsad.metrics import METRIC_NAMES

CATEGORIES = {"bottle": (20, 63, True), "metal nut": (22, 93, True), "screw": (41, 119, True)}


def category_result(name, normal, anomalous, masks, seed=0):
    """A row whose undefined metrics are those that one class only, or no masks, leave undefined."""
    generator = np.random.default_rng([seed, *name.encode()])
    metrics = dict(zip(METRIC_NAMES, generator.uniform(0.4, 1.0, len(METRIC_NAMES)).tolist(), strict=True))
    for metric in METRIC_NAMES:
        if (metric.startswith("image") and 0 in (normal, anomalous)) or (
            metric.startswith("pixel") and not masks
        ):
            metrics[metric] = math.nan
    intervals = {
        metric: (value - 0.02, min(value + 0.02, 1.0))
        for metric, value in metrics.items()
        if metric.startswith("image") and not math.isnan(value)
    }
    return CategoryResult(name, normal, anomalous, masks, metrics, intervals, seconds=0.05)


def run_result(method="anomalyclip", dataset="mvtec", seed=0, categories=CATEGORIES, **changes):
    """A run on tiny; `changes` replace fields."""
    rows = tuple(category_result(name, *counts, seed) for name, counts in categories.items())
    mean = {
        metric: float(np.mean(found))
        if (found := [row.metrics[metric] for row in rows if not math.isnan(row.metrics[metric])])
        else math.nan
        for metric in METRIC_NAMES
    }
    identity = f"{method}_tiny_{dataset}_seed{seed}"
    fields = {
        "id": identity,
        "method": method,
        "backbone": "tiny",
        "checkpoint": None,
        "weights_sha256": "5f" * 32,
        "auxiliary_data": "visa: candle, pcb1 (test split, 400 images)",
        "dataset": dataset,
        "seed": seed,
        "image_size": 192,
        "precision": "fp32",
        "settings": {"features_list": [2, 4, 6], "sigma": 4.0},
        "split": "test",
        "pro": "exact",
        "fpr_limit": 0.3,
        "categories": rows,
        "mean": mean,
        "pictures_file": f"runs/{identity}/pictures.jsonl",
        "curves_file": f"runs/{identity}/curves.json",
        "seconds": 61.5,
    }
    return RunResult(**{**fields, **changes})


def evaluation_result(**changes):
    """Two methods on an industrial set and one on a medical set without normal images; one run failed."""
    fields = {
        "runs": (
            run_result("anomalyclip"),
            run_result("winclip", auxiliary_data=""),
            run_result("winclip", "kvasir", categories={"polyp": (0, 1000, True)}, auxiliary_data=""),
        ),
        "provenance": {
            "zsad": "0.1.0",
            "commit": "0123456789abcdef0123456789abcdef01234567",
            "python": "3.11.9",
            "torch": "2.14.1",
            "numpy": "2.4.6",
            "platform": "Linux-x86_64",
            "device": "cpu",
            "command": "zsad evaluate --method anomalyclip --method winclip --data mvtec:data/mvtec",
            "started": "2026-11-22T01:30:00+00:00",
            "ended": "2026-11-22T01:42:30+00:00",
        },
        "failed_runs": (
            FailedRun("adaclip_tiny_mvtec_seed0", "adaclip", "tiny", "mvtec", "adaclip needs --checkpoint"),
        ),
    }
    return EvaluationResult(**{**fields, **changes})


def write_example_folder(directory: Path) -> EvaluationResult:
    """Writes a whole results' folder: images, curves and overlays of the worst images of every run."""
    generator = np.random.default_rng(0)
    example = evaluation_result()
    runs = []
    for run in example.runs:
        folder = directory / "runs" / run.id
        (folder / "maps").mkdir(parents=True)
        records, curves = [], {}
        for row in run.categories:
            for index in range(row.normal + row.anomalous):
                label = int(index >= row.normal)
                defect = "broken" if label else "good"
                path = f"data/{row.category}/test/{defect}/{index:03}.png"
                records.append(
                    {
                        "path": path,
                        "mask_path": path.replace("test", "ground_truth") if label else None,
                        "category": row.category,
                        "label": label,
                        "defect": defect,
                        "score": float(generator.beta(2 + 3 * label, 4)),
                        "seconds": 0.05,
                        "error": None,
                    }
                )
            steps = np.linspace(0, 1, 50)
            falling = {"x": steps.tolist(), "y": (1 - 0.6 * steps**2).tolist()}
            rising = {"x": steps.tolist(), "y": np.sqrt(steps).tolist()}
            curves[row.category] = {"pixel_roc": rising, "pixel_pr": falling, "pixel_pro": rising}
            if row.normal:
                curves[row.category] |= {"image_roc": rising, "image_pr": falling}
        lines = "".join(json.dumps(record) + "\n" for record in records)
        (folder / "pictures.jsonl").write_text(lines, encoding="utf-8")
        content = json.dumps({"schema": 1, "categories": curves})
        (folder / "curves.json").write_text(content, encoding="utf-8")
        worst = []
        for mistake, label in (("false negative", 1), ("false positive", 0)):
            chosen = sorted((r for r in records if r["label"] == label), key=lambda r: r["score"])
            for rank, record in enumerate((chosen if label else chosen[::-1])[:8]):
                file = f"runs/{run.id}/maps/{mistake.replace(' ', '_')}_{rank}.png"
                pixels = generator.integers(0, 256, (48, 64, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(directory / file)
                place = record["path"], record["category"], record["defect"], record["score"]
                worst.append(WorstPicture(mistake, *place, 0.9 - 0.1 * rank, file))
        runs.append(
            run_result(
                run.method,
                run.dataset,
                run.seed,
                {row.category: (row.normal, row.anomalous, row.masks) for row in run.categories},
                auxiliary_data=run.auxiliary_data,
                worst=tuple(worst),
            )
        )
    example = evaluation_result(runs=tuple(runs))
    write_evaluation(example, directory)
    return example

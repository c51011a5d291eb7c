"""False alarms of `zsad fit` on good images that it has not seen: promised and seen, with the defects found.

For each category with enough good images, some are drawn and fitted to, and all other images are judged. Each
image goes through the image encoder once, whatever the number of draws.

    python benchmarks/fit_false_alarms.py ../shared/data/validation --out benchmarks/results/fit_false_alarms
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import zsad
from zsad.detector.calibration.statistics import (
    alarms_allowed,
    binomial_interval,
    promised_rate,
    threshold_above,
)
from zsad.detector.fitting.encoding import encode
from zsad.detector.fitting.fit import MOST_FOLDS, NEAR_COPY_SHARE
from zsad.detector.fitting.good_images import joined
from zsad.detector.fitting.leaving_out import scores_left_out
from zsad.detector.fitting.statistics import folds, left_out_rate, near_copies
from zsad.detector.support import evenly_spread

if TYPE_CHECKING:
    from zsad.detector.detector import Detector
    from zsad.detector.fitting.good_images import GoodImages

CONFIDENCE = 0.95
FEWEST_UNSEEN = 8


@dataclass(frozen=True)
class Row:
    """One draw of good images of one category.

    Attributes:
        category: dataset and category.
        draw: seed of the draw.
        fitted: number of good images that were fitted to.
        promised: share of false alarms on average, at most.
        most: share of false alarms with 95 % confidence, at most (approximately).
        alarms: number of unseen good images that were called anomalous.
        unseen: number of unseen good images.
        found: number of anomalous images that were called anomalous.
        anomalous: number of anomalous images.
    """

    category: str
    draw: int
    fitted: int
    promised: float
    most: float
    alarms: int
    unseen: int
    found: int
    anomalous: int


def judge(detector: Detector, images: GoodImages, known: list[int], rate: float) -> tuple[float, list[float]]:
    """Threshold from the known images, and scores of all others compared with them.

    The others are scored as held-out images, so that their features, which are there, serve again.
    """
    own = images.only(known)
    groups = near_copies(own.unlikeness().numpy(), NEAR_COPY_SHARE)
    highest: dict[int, float] = {}
    for number, score, _ in scores_left_out(detector.method, own, folds(groups, MOST_FOLDS), "object"):
        highest[groups[number]] = max(score, highest.get(groups[number], score))
    allowed = alarms_allowed(len(highest), rate, CONFIDENCE)
    threshold = threshold_above(list(highest.values()), allowed)
    others = [number for number in range(len(images.images)) if number not in known]
    found = scores_left_out(detector.method, images.with_held_out(others), [others], "object")
    return threshold, [score for _, score, _ in found]


def rows_of(detector: Detector, folder: Path, options: argparse.Namespace) -> list[Row]:
    """All draws of a category in MVTec's layout; none if it has too few good images."""
    good = [*folder.glob("train/good/*"), *folder.glob("test/good/*")]
    bad = [path for path in folder.glob("test/*/*") if path.parent.name != "good"]
    good, bad = evenly_spread(sorted(good), options.good), evenly_spread(sorted(bad), options.anomalous)
    count, rate = min(options.images, len(good) - FEWEST_UNSEEN), options.rate
    if count < 3 or not bad:
        return []
    encoded = [encode(detector.method, detector.looking, each, "object", 8).good for each in (good, bad)]
    images, normal = joined(encoded), len(encoded[0].images)
    found = []
    for draw in range(options.draws):
        known = sorted(
            np.random.default_rng([draw, *folder.name.encode()]).permutation(normal)[:count].tolist()
        )
        threshold, scores = judge(detector, images, known, rate)
        over = np.asarray(scores) >= threshold
        unseen = normal - count
        allowed = alarms_allowed(count, rate, CONFIDENCE)
        found.append(
            Row(
                category=f"{folder.parent.name}/{folder.name}",
                draw=draw,
                fitted=count,
                promised=left_out_rate(count, allowed),
                most=promised_rate(count, allowed, CONFIDENCE),
                alarms=int(over[:unseen].sum()),
                unseen=unseen,
                found=int(over[unseen:].sum()),
                anomalous=len(over) - unseen,
            )
        )
    return found


def table(rows: list[Row]) -> str:
    """A Markdown table, one line for each category, over all draws."""
    lines = [
        "| category | fitted to | promised on average | with 95 % confidence | seen | 95 % interval "
        "| defects found |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in dict.fromkeys(row.category for row in rows):
        own = [row for row in rows if row.category == name]
        alarms, unseen = sum(row.alarms for row in own), own[0].unseen
        seen = alarms / (unseen * len(own))
        # Draws share images, so only the number of different images counts for the interval.
        low, high = binomial_interval(round(seen * unseen), unseen)
        caught = np.mean([row.found / row.anomalous for row in own])
        lines.append(
            f"| {name} | {own[0].fitted} | {own[0].promised:.1%} | {own[0].most:.1%} | {seen:.1%} "
            f"({alarms} of {len(own)} x {unseen}) | {low:.1%} to {high:.1%} | {caught:.0%} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Parses the options, and writes a table and all draws."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="folder of datasets, each with categories in MVTec's layout")
    parser.add_argument("--method", default="auto")
    parser.add_argument("--images", type=int, default=20, help="good images to fit to")
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--rate", type=float, default=0.05)
    parser.add_argument("--good", type=int, default=80, help="good images of a category, at most")
    parser.add_argument("--anomalous", type=int, default=60, help="anomalous images of a category, at most")
    parser.add_argument("--only", nargs="*", default=[], help="names of categories; all without")
    parser.add_argument("--out", type=Path, default=Path("fit_false_alarms"))
    options = parser.parse_args()
    detector = zsad.load(options.method)
    rows: list[Row] = []
    for folder in sorted(path for path in options.data.glob("*/*") if path.is_dir()):
        if options.only and folder.name not in options.only:
            continue
        rows += rows_of(detector, folder, options)
        print(f"{folder.parent.name}/{folder.name}: {len(rows)} draws so far", flush=True)
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.with_suffix(".json").write_text(
            json.dumps([asdict(row) for row in rows], indent=1) + "\n"
        )
    options.out.with_suffix(".md").write_text(table(rows) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()

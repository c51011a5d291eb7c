"""Measures what known-normal images are worth: lone, folder, and 1 to 16 references, on any labelled dataset.

    python benchmarks/references.py --data DATASET --out benchmarks/results/references

Writes OUT.json after every category, and OUT.md. Every image goes through the image encoder once, for all
settings and draws; nothing is kept on disk. References are drawn from the normal training images of a
category, or from a third of its normal test images if it has none, which are then left out of the test; the
16 of a draw begin with its 8, 4 and 1, and a category with 9 to 15 gives them all in place of 16. Choose on
data that no result is reported on.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

import zsad
from zsad.backbones.recording import recorded
from zsad.data import open_datasets
from zsad.data.samples import load_sample
from zsad.detector.support import LEAST_PICTURES, evenly_spread
from zsad.errors import DataError, ImageReadError
from zsad.methods.base import Support
from zsad.methods.functional.patches import recorded_patches, reference_layers
from zsad.methods.functional.reference_rule import ReferenceRule, usual_logits
from zsad.methods.functional.references import ReferenceMemory, patches
from zsad.metrics import image_auroc, pixel_auroc
from zsad.types import RawOutput, Sample

COUNTS = (1, 4, 8, 16)
DRAWS = 3
SHARE_LEFT_OUT = 3  # one of so many normal test images is a reference where there are no training images
MAP_SIDE = 80  # pixel AUROC is computed on maps and masks of this size
METRICS = ("image", "pixel")


@dataclass(frozen=True)
class Category:
    """Images of one product.

    Attributes:
        name: name of dataset and category.
        pool: normal images that references are drawn from.
        test: images to score.
    """

    name: str
    pool: list[Sample]
    test: list[Sample]


class Clock:
    """Processor seconds that each part took, and the number of images that it was about."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.images: dict[str, int] = defaultdict(int)

    @contextlib.contextmanager
    def part(self, name: str, images: int) -> Iterator[None]:
        """Counts the time of one part."""
        start = time.process_time()
        yield
        self.seconds[name] += time.process_time() - start
        self.images[name] += images

    def per_image(self) -> dict[str, float]:
        """Processor seconds for an image of each part; with references, for each draw."""
        return {name: round(self.seconds[name] / max(1, self.images[name]), 4) for name in self.seconds}


class Encoded:
    """Features, patches, and the lone answer of images, each from one pass through the image encoder."""

    def __init__(self, detector: zsad.Detector, samples: Sequence[Sample]) -> None:
        self.method = method = detector.method
        self.samples: list[Sample] = []
        self.failed: list[str] = []
        self.images: list[torch.Tensor] = []
        self.masks: list[Any] = []
        self.features: list[Any] = []
        levels, raws, beside = [], [], []
        state, visual = method.prepare(["object"]), method.backbone.visual
        for sample in samples:
            try:
                prepared = load_sample(sample, detector.preparation)
            except (ImageReadError, DataError) as error:
                self.failed.append(str(error))
                continue
            image = torch.from_numpy(prepared.image)[None]
            with recorded(image, reference_layers(visual.config)) as recording:
                self.features.append(method.features(image))
            levels.append(recorded_patches(recording) or patches(visual, image))
            raws.append(method.score(self.features[-1], state))
            beside.append(method.score_beside_references(self.features[-1], state))
            self.samples.append(sample)
            self.images.append(image)
            self.masks.append(prepared.mask)
        if not raws:
            raise DataError(f"no image can be read: {self.failed[0] if self.failed else 'there is none'}")
        self.levels = [torch.cat(level) for level in zip(*levels, strict=True)]
        self.raw, self.beside = joined(raws), joined(beside)

    def measured(self, raw: RawOutput) -> dict[str, float]:
        """Image AUROC, and pixel AUROC over the images whose mask is known."""
        labels = np.array([sample.label for sample in self.samples])
        found = {"image": float(image_auroc(raw.scores.numpy(), labels))}
        known = [row for row, mask in enumerate(self.masks) if mask is not None]
        masks = [self.masks[row] for row in known]
        if any(mask.any() for mask in masks):
            step = max(1, raw.maps.shape[-1] // MAP_SIDE)
            small = raw.maps[known, ::step, ::step].numpy()
            found["pixel"] = float(pixel_auroc(small, np.stack(masks)[:, ::step, ::step]))
        return found


def joined(parts: Sequence[RawOutput]) -> RawOutput:
    """Several answers as one."""
    return RawOutput(*(torch.cat([getattr(one, each.name) for one in parts]) for each in fields(RawOutput)))


def categories(data: Path, most: int, only: Sequence[str]) -> Iterator[Category]:
    """The categories of a dataset, or of a folder of datasets, that have normal and anomalous test images."""
    for dataset in open_datasets(data, "all"):
        for_training: set[Path] = set()
        with contextlib.suppress(DataError):  # no training images
            for_training = {one.path for one in open_datasets(dataset.root, "train")[0].samples}
        for category, samples in dataset.by_category().items():
            name = f"{dataset.name} {category}"
            if only and not any(each in name for each in only):
                continue
            pool = [sample for sample in samples if sample.path in for_training]
            good = [one for one in samples if one.label == 0 and one.path not in for_training]
            bad = [sample for sample in samples if sample.label == 1]
            if not pool:
                pool, good = good[::SHARE_LEFT_OUT], [s for n, s in enumerate(good) if n % SHARE_LEFT_OUT]
            if good and bad:
                test = [one for kind in (good, bad) for one in kind[:: max(1, -(-len(kind) // most))]]
                yield Category(name, pool, test)


def measure(detector: zsad.Detector, category: Category, clock: Clock) -> dict[str, Any]:
    """All settings on one category; a setting without enough references is left out."""
    orders = [np.random.default_rng(seed).permutation(len(category.pool)) for seed in range(DRAWS)]
    drawn = sorted({int(row) for order in orders for row in order[: max(COUNTS)]})
    with clock.part("encode", len(category.test) + len(drawn)):
        test = Encoded(detector, category.test)
        known = Encoded(detector, [category.pool[row] for row in drawn])
    readable = {sample.path: row for row, sample in enumerate(known.samples)}
    found: dict[str, Any] = {"lone": [test.measured(test.raw)]}
    near = None
    if (most := detector.method.MOST_COMPANIONS) and len(test.samples) >= LEAST_PICTURES:
        with clock.part("folder", len(test.samples)):
            folder, near = with_companions(test, most)
        found["folder"] = [test.measured(folder)]
    own_range = detector.method.map_range
    side = int(test.levels[0].shape[1] ** 0.5)
    for count in COUNTS:
        for order in orders:
            paths = (category.pool[row].path for row in order)
            rows = [readable[path] for path in paths if path in readable][:count]
            if len(rows) < count and (count < max(COUNTS) or len(rows) <= COUNTS[-2]):
                continue
            with clock.part(f"{count} references", len(test.samples)):
                rule = ReferenceRule.of(ReferenceMemory.of([level[rows] for level in known.levels]))
                usual = usual_logits(known.beside.maps[rows], side, own_range)
                away = rule.distances(test.levels)
            for setting, companions in {f"{count}": None, f"{count} + folder": near}.items():
                if companions is not None or setting == f"{count}":
                    answer = rule.with_distances(away, test.beside, usual, own_range, companions)
                    found.setdefault(setting, []).append(test.measured(answer))
    counted = {"normal": 0, "anomalous": 0}
    for sample in test.samples:
        counted["anomalous" if sample.label else "normal"] += 1
    return {"images": counted, "failed": [*test.failed, *known.failed], "settings": found}


def with_companions(test: Encoded, most: int) -> tuple[RawOutput, torch.Tensor | None]:
    """Folder mode's answer, and the distances to companions; each image is compared with the same ones."""
    paths = set(evenly_spread([sample.path for sample in test.samples], most))
    pairs = zip(test.images, test.samples, strict=True)
    unlabelled = torch.cat([image for image, sample in pairs if sample.path in paths])
    state = test.method.prepare(["object"], Support(unlabelled=unlabelled))
    raws = [test.method.score(one, state) for one in test.features]
    near = [test.method.companion_distances(one, state) for one in test.features]
    known = [one for one in near if one is not None]
    return joined(raws), torch.cat(known) if len(known) == len(near) else None


def cell(draws: Sequence[dict[str, float]], metric: str) -> str:
    """Mean over draws, with the lowest and the highest if they differ."""
    values = [draw[metric] for draw in draws if metric in draw]
    if not values:
        return "-"
    spread = f" ({min(values):.3f} to {max(values):.3f})" if max(values) > min(values) else ""
    return f"{np.mean(values):.3f}{spread}"


def tables(found: dict[str, Any], command: str) -> str:
    """Markdown: the mean over categories, then each category; brackets: lowest and highest of the draws."""
    settings = list(dict.fromkeys(name for one in found.values() for name in one["settings"]))
    lines = [f"`{command}`", "", "Mean over categories; in brackets the lowest and the highest of the draws."]
    lines += ["", "| references | categories | image AUROC | pixel AUROC |", "|---|---|---|---|"]
    for setting in settings:
        draws = [one["settings"][setting] for one in found.values() if setting in one["settings"]]
        means = []
        for number in range(max(map(len, draws))):
            each = [draw[number] for draw in draws if number < len(draw)]
            means.append(
                {m: np.mean([e[m] for e in each if m in e]) for m in METRICS if any(m in e for e in each)}
            )
        lines.append(f"| {setting} | {len(draws)} | {cell(means, 'image')} | {cell(means, 'pixel')} |")
    for metric in METRICS:
        lines += [
            "",
            f"## {metric} AUROC",
            "",
            f"| category | {' | '.join(settings)} |",
            "|---" * (len(settings) + 1) + "|",
        ]
        for name, one in found.items():
            row = [cell(one["settings"].get(setting, ()), metric) for setting in settings]
            lines.append(f"| {name} | {' | '.join(row)} |")
    return "\n".join(lines) + "\n"


@torch.inference_mode()
def main(arguments: Sequence[str] | None = None) -> None:
    """Writes the figures of each category as JSON, and the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--method", default="auto")
    parser.add_argument("--only", action="append", default=[], help="part of a category's name; repeatable")
    parser.add_argument("--limit", type=int, default=60, help="test images of each kind and category")
    parser.add_argument("--out", type=Path, required=True, help="OUT.json and OUT.md are written")
    args = parser.parse_args(arguments)
    detector = zsad.load(args.method, device="cpu")
    if detector.method.INFO.references == "own":
        parser.error(f"{args.method} has a rule of its own for references: use a method without one")
    clock, found, settings = Clock(), {}, detector.scoring_settings()
    options = f"--method {args.method} --limit {args.limit}" + "".join(f" --only {one}" for one in args.only)
    command = f"python benchmarks/references.py --data {args.data.name} {options}"
    args.out.parent.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    for category in categories(args.data, args.limit, args.only):
        found[category.name] = one = measure(detector, category, clock)
        report = {
            "version": zsad.__version__,
            "weights": settings["weights"],
            "settings": {name: settings[name] for name in ("method", "backbone", "image_size", "config")},
            "command": command,
            "draws": DRAWS,
            "seconds": round(time.perf_counter() - start, 1),
            "processor_seconds_per_image": clock.per_image(),
            "categories": found,
        }
        args.out.with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        args.out.with_suffix(".md").write_text(tables(found, command), encoding="utf-8")
        images = {name: cell(draws, "image") for name, draws in one["settings"].items()}
        print(f"{report['seconds']} s  {category.name}: {images}", file=sys.stderr, flush=True)
    if not found:
        parser.error(f"{args.data} has no category with normal and anomalous images that is asked for")
    print(tables(found, command))
    print(f"processor seconds for an image: {clock.per_image()}")


if __name__ == "__main__":
    main()

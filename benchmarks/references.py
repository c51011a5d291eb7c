"""Measures what known-normal images are worth: lone, folder, and 1 to 16 references, on any labelled dataset.

    python benchmarks/references.py --data DATASET --cache CACHE --out references.json

Every image goes through the image encoder once; its features stay in the cache, so that a change of the rule
is measured within seconds (delete the cache when weights, image size or the method's features change).
References are drawn from the normal training images of a category, or from a third of its normal test images
if it has none, which are then left out of the test. Choose on data that no result is reported on.
"""

from __future__ import annotations

import argparse
import contextlib
import json
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

import zsad
from zsad.data import open_datasets
from zsad.data.samples import load_sample
from zsad.detector.support import evenly_spread
from zsad.errors import DataError
from zsad.methods.base import Support
from zsad.methods.functional.reference_rule import ReferenceRule, usual_logits
from zsad.methods.functional.references import ReferenceMemory, patches
from zsad.metrics import image_auroc, pixel_auroc
from zsad.types import RawOutput, Sample

COUNTS = (1, 4, 8, 16)
DRAWS = 3
SHARE_LEFT_OUT = 3  # one of so many normal test images is a reference where there are no training images
MAP_SIDE = 80  # pixel AUROC is computed on maps and masks of this size


class Images:
    """Features of the images of a category, and what a method says of each image alone."""

    def __init__(self, detector: zsad.Detector, samples: Sequence[Sample]) -> None:
        self.detector, self.method = detector, detector.method
        self.labels = np.array([sample.label for sample in samples])
        self.masks: list[Any] = []
        kept: list[tuple[Any, list[torch.Tensor], RawOutput]] = []
        state = self.method.prepare(["object"])
        for sample in samples:
            prepared = load_sample(sample, detector.preparation)
            image = torch.from_numpy(prepared.image)[None]
            features = self.method.features(image)
            kept.append(
                (features, patches(self.method.backbone.visual, image), self.method.score(features, state))
            )
            self.masks.append(prepared.mask)
        kind = type(kept[0][0])
        self.features = kind(
            *(_joined([getattr(one[0], field.name) for one in kept]) for field in fields(kind))
        )
        self.levels = [torch.cat(level) for level in zip(*(one[1] for one in kept), strict=True)]
        self.raw = RawOutput(
            torch.cat([one[2].scores for one in kept]), torch.cat([one[2].maps for one in kept])
        )

    def measured(self, raw: RawOutput, rows: Sequence[int]) -> dict[str, float]:
        """Image AUROC, and pixel AUROC over the images whose mask is known."""
        known = [place for place, row in enumerate(rows) if self.masks[row] is not None]
        found = {"image": image_auroc(raw.scores.numpy(), self.labels[rows])}
        masks = [self.masks[rows[place]] for place in known]
        if any(mask.any() for mask in masks):
            step = max(1, raw.maps.shape[-1] // MAP_SIDE)
            small = raw.maps[known, ::step, ::step].numpy()
            found["pixel"] = pixel_auroc(small, np.stack(masks)[:, ::step, ::step])
        return found

    def compared(self, references: Sequence[int], rows: Sequence[int], near: Any) -> RawOutput:
        """The general rule's answer to some images, with others as references."""
        known = list(references)
        rule = ReferenceRule.of(ReferenceMemory.of([level[known] for level in self.levels]))
        side, own_range = int(self.levels[0].shape[1] ** 0.5), self.method.map_range
        usual = usual_logits(self.raw.maps[known], side, own_range)
        return rule.joined(self.alone(rows), [level[rows] for level in self.levels], usual, own_range, near)

    def alone(self, rows: Sequence[int]) -> RawOutput:
        """What the method says of some images, each alone."""
        return RawOutput(self.raw.scores[rows], self.raw.maps[rows])

    def one(self, row: int) -> Any:
        """Features of one image."""
        kind = type(self.features)
        return kind(*(_row(getattr(self.features, field.name), row) for field in fields(kind)))


def _joined(values: Sequence[Any]) -> Any:
    if isinstance(values[0], tuple):
        return tuple(torch.cat(each) for each in zip(*values, strict=True))
    return torch.cat(values)


def _row(value: Any, row: int) -> Any:
    return tuple(each[[row]] for each in value) if isinstance(value, tuple) else value[[row]]


def measure(images: Images, pool: Sequence[int], test: Sequence[int], companions: Any) -> dict[str, Any]:
    """All settings on one category; a setting without enough references is left out."""
    found: dict[str, Any] = {"lone": [images.measured(images.alone(test), test)]}
    kinds: dict[str, Any] = {"": None}
    if companions is not None:
        parts = [images.method.score(images.one(row), companions) for row in test]
        folder = RawOutput(torch.cat([p.scores for p in parts]), torch.cat([p.maps for p in parts]))
        found["folder"] = [images.measured(folder, test)]
        near = [images.method.companion_distances(images.one(row), companions) for row in test]
        kinds[" + folder"] = torch.cat([each for each in near if each is not None])
    for count in (count for count in COUNTS if count <= len(pool)):
        draws = [np.random.default_rng([seed, count]).permutation(pool)[:count] for seed in range(DRAWS)]
        for name, distances in kinds.items():
            answers = [images.compared(draw.tolist(), test, distances) for draw in draws]
            found[f"{count}{name}"] = [images.measured(answer, test) for answer in answers]
    return found


def table(found: dict[str, dict[str, Any]]) -> list[str]:
    """A row for each setting: mean over categories, and lowest and highest mean of a draw."""
    lines = ["| references | categories | image AUROC | pixel AUROC |", "|---|---|---|---|"]
    for setting in dict.fromkeys(name for category in found.values() for name in category):
        draws = [category[setting] for category in found.values() if setting in category]
        cells = []
        for metric in ("image", "pixel"):
            known = [each for each in draws if metric in each[0]]
            if not known:
                cells.append("-")
                continue
            means = [np.mean([each[draw % len(each)][metric] for each in known]) for draw in range(DRAWS)]
            spread = f" ({min(means):.3f} to {max(means):.3f})" if max(means) > min(means) else ""
            cells.append(f"{np.mean(means):.3f}{spread}")
        lines.append(f"| {setting} | {len(draws)} | {' | '.join(cells)} |")
    return lines


def cached(path: Path, make: Callable[[], Images]) -> Images:
    """Images from a file of this tool's own making, or made now and written there."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        images = make()
        images.detector = images.method = None  # type: ignore[assignment]
        torch.save(vars(images), path)
    images = Images.__new__(Images)
    vars(images).update(torch.load(path, weights_only=False))
    return images


@torch.inference_mode()
def main() -> None:
    """Prints the table and writes the figures of each category as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--method", default="auto")
    parser.add_argument("--most", type=int, default=60, help="test images of each kind and category")
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    detector = zsad.load(args.method, device="cpu")
    if detector.method.INFO.references == "own":
        parser.error(f"{args.method} has a rule of its own for references: use a method without one")
    found = {}
    for data in open_datasets(args.data, "all"):
        normal_for_training: set[Path] = set()
        with contextlib.suppress(DataError):  # no training images
            normal_for_training = {one.path for one in open_datasets(data.root, "train")[0].samples}
        for category, samples in data.by_category().items():
            pool = [sample for sample in samples if sample.path in normal_for_training]
            good = [s for s in samples if s.label == 0 and s.path not in normal_for_training]
            bad = [sample for sample in samples if sample.label == 1]
            if not pool:
                pool, good = good[::SHARE_LEFT_OUT], [s for n, s in enumerate(good) if n % SHARE_LEFT_OUT]
            if not good or not bad:
                continue
            test = [each for kind in (good, bad) for each in kind[:: max(1, -(-len(kind) // args.most))]]
            name = f"{data.name} {category}"
            images = cached(args.cache / f"{name}.pt", lambda: Images(detector, [*pool, *test]))  # noqa: B023
            images.detector, images.method = detector, detector.method
            rows = list(range(len(pool), len(pool) + len(test)))
            companions = None
            if most := detector.method.MOST_COMPANIONS:
                drawn = evenly_spread([sample.path for sample in test], most)
                loaded = [load_sample(s, detector.preparation).image for s in test if s.path in set(drawn)]
                support = Support(unlabelled=torch.from_numpy(np.stack(loaded)))
                companions = detector.method.prepare(["object"], support)
            found[name] = measure(images, range(len(pool)), rows, companions)
            print(
                name,
                {setting: round(each[0]["image"], 3) for setting, each in found[name].items()},
                flush=True,
            )
    args.out.write_text(json.dumps(found, indent=1), encoding="utf-8")
    print("\n".join(table(found)))


if __name__ == "__main__":
    main()

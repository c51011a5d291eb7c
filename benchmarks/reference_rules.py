"""Compares rules for known-normal images on the same draws of references: how the general rule was chosen.

    python benchmarks/reference_rules.py --data ../shared/data/validation
    python benchmarks/reference_rules.py --synthetic 12

Prints, for each rule and number of references, the mean image AUROC over the categories (and the mean pixel
AUROC over those with masks), and the mean difference to the first rule, the one before the present one, with
its standard error over the categories. Synthetic products are one scene each, photographed again and again
with a little shift, turn, light and noise, with a defect in a third of the images.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import zsad
from references import Encoded, categories, joined
from zsad.backbones.recording import recorded
from zsad.data.synthetic import Materials, SyntheticConfig, add_defect, generate
from zsad.images.preparing import prepare
from zsad.methods.functional.maps import upsample
from zsad.methods.functional.matching import nearest_similarity
from zsad.methods.functional.patches import recorded_patches, reference_layers
from zsad.methods.functional.reference_rule import NEIGHBOURS, half_cosine, own_logits
from zsad.methods.functional.reference_rule import SMALLEST_EXCESS as SMALLEST_DISTANCE
from zsad.methods.functional.usual import SMALLEST_EXCESS
from zsad.metrics import image_auroc, pixel_auroc

COUNTS = (1, 4, 16)
MAP_SIDE = 40
SIZE = 320


@dataclass(frozen=True)
class Rule:
    """One way to join distances and the method's own logits.

    Attributes:
        scale: what is 1 for distances and logits: the mean (logits: the deviation), or, above the mean, the
            deviation or the excess of the largest 1/128.
        own: weight of the method's own logits.
        outer: weight of the first and the last level.
        share: share of the patches that score an image.
        shared: how much of an image's median distance is taken off all its patches.
    """

    scale: Literal["mean", "deviation", "excess"] = "excess"
    own: float = 0.8
    outer: float = 1.0
    share: float = 1 / 128
    shared: float = 0.0


RULES = {
    "before": Rule("mean", own=0.4),
    "deviation, own 0.8": Rule("deviation"),
    "first and last level half": Rule(outer=0.5),
    "own 0": Rule(own=0.0),
    "own 0.4": Rule(own=0.4),
    "own 0.6": Rule(own=0.6),
    "now (own 0.8)": Rule(),
    "own 1.2": Rule(own=1.2),
    "largest 1/400": Rule(share=1 / 400),
    "largest 1/40": Rule(share=1 / 40),
    "half the median taken off": Rule(shared=0.5),
}


@dataclass(frozen=True)
class Product:
    """What the rules compute with.

    Attributes:
        pool: number of known-normal images; they come first in what follows.
        labels: (T,) labels of the test images.
        masks: masks of the test images, None where unknown.
        nearest: L tensors (P + T, P, N), similarity of each patch to the nearest patch of each pool image.
        alone: L tensors (P, N), similarity of the pool's patches to the ninth patch of their own image.
        own: (P + T, N) the method's own logits.
    """

    pool: int
    labels: np.ndarray
    masks: list[np.ndarray | None] = field(repr=False)
    nearest: list[Tensor] = field(repr=False)
    alone: list[Tensor] = field(repr=False)
    own: Tensor = field(repr=False)

    @classmethod
    def of(cls, levels: Sequence[Tensor], own: Tensor, labels: np.ndarray, masks: list, pool: int) -> Product:
        """From patches and logits of all images, the pool's first."""
        nearest, alone = [], []
        for level in levels:
            known = level[:pool].float()
            nearest.append(torch.stack([nearest_similarity(each.float(), known) for each in level]))
            alone.append(torch.stack([(p @ p.T).topk(NEIGHBOURS, dim=1).values[:, -1] for p in known]))
        return cls(pool, labels, masks, nearest, alone, own)

    def distances(self, level: int, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Of the test images to the references, and of the references among each other."""
        test = self.nearest[level][self.pool :, rows].amax(dim=1)
        if len(rows) == 1:
            return half_cosine(test), half_cosine(self.alone[level][rows])
        among = self.nearest[level][rows][:, rows].clone()
        among[torch.arange(len(rows)), torch.arange(len(rows))] = -1.0
        return half_cosine(test), half_cosine(among.amax(dim=1))


def joined_by(rule: Rule, product: Product, rows: Sequence[int]) -> Tensor:
    """(T, N) what a rule says of the test images."""
    last = len(product.nearest) - 1
    weights = [rule.outer if number in (0, last) else 1.0 for number in range(last + 1)]
    test, among = 0.0, 0.0
    for number, weight in enumerate(weights):
        away, between = product.distances(number, rows)
        mean, unit = scale_of(between, rule)
        unit = unit.clamp(min=SMALLEST_DISTANCE)
        test = test + weight / sum(weights) * (away - mean) / unit
        among = among + weight / sum(weights) * (between - mean) / unit
    if rule.scale == "excess":
        test = test / scale_of(among, rule)[1]
    own = product.own[rows]
    mean, unit = (own.mean(), own.std()) if rule.scale == "mean" else scale_of(own, rule)
    test = test - rule.shared * test.median(dim=1, keepdim=True).values
    if unit > SMALLEST_EXCESS:
        test = test + rule.own * (product.own[product.pool :] - mean) / unit
    return test


def scale_of(values: Tensor, rule: Rule) -> tuple[Tensor, Tensor]:
    """What counts as 0, and what as 1 more."""
    mean = values.mean()
    if rule.scale == "mean":
        return torch.zeros(()), mean
    if rule.scale == "deviation":
        return mean, values.std()
    return mean, largest(values.flatten()[None], 1 / 128)[0] - mean


def largest(values: Tensor, share: float) -> Tensor:
    """Mean of the largest share of each row."""
    return values.topk(max(1, round(values.shape[1] * share)), dim=1).values.mean(dim=1)


def measured(rule: Rule, product: Product, count: int, draws: int) -> tuple[float, float]:
    """Mean image AUROC and pixel AUROC over draws of references; NaN without masks."""
    images, pixels = [], []
    known = [row for row, mask in enumerate(product.masks) if mask is not None]
    for seed in range(draws if count < product.pool else 1):
        rows = np.random.default_rng(seed).permutation(product.pool)[:count].tolist()
        said = joined_by(rule, product, rows)
        images.append(float(image_auroc(largest(said, rule.share).numpy(), product.labels)))
        masks = [product.masks[row] for row in known]
        if any(mask.any() for mask in masks):
            side = round(said.shape[1] ** 0.5)
            maps = upsample(said[known].reshape(-1, side, side), MAP_SIDE)
            step = masks[0].shape[0] // MAP_SIDE
            pixels.append(float(pixel_auroc(maps.numpy(), np.stack(masks)[:, ::step, ::step])))
    return float(np.mean(images)), float(np.mean(pixels)) if pixels else float("nan")


def labelled(detector: zsad.Detector, data: Path, limit: int) -> Iterator[tuple[str, Product]]:
    """The categories of a dataset."""
    for category in categories(data, limit, ()):
        known, test = Encoded(detector, category.pool[: max(COUNTS)]), Encoded(detector, category.test)
        levels = [torch.cat(pair) for pair in zip(known.levels, test.levels, strict=True)]
        side = round(levels[0].shape[1] ** 0.5)
        own = own_logits(joined([known.beside, test.beside]).maps, side, detector.method.map_range)
        labels = np.array([sample.label for sample in test.samples])
        yield category.name, Product.of(levels, own, labels, test.masks, len(known.samples))


def synthetic(
    detector: zsad.Detector, count: int, pool: int = 16, test: int = 48
) -> Iterator[tuple[str, Product]]:
    """Products made by code; the last third of the test images has a defect."""
    materials = Materials.procedural()
    plain = SyntheticConfig(size=SIZE, anomalous_fraction=0.0, camera=False)
    method, visual = detector.method, detector.method.backbone.visual
    state = method.prepare(["object"])
    for number in range(count):
        scene = generate(number, materials, plain, seed=77)
        levels, raws, masks = [], [], []
        for place in range(pool + test):
            rng = np.random.default_rng([79, number, place])
            picture, mask = scene.image, np.zeros((SIZE, SIZE), dtype=bool)
            if place >= pool + test * 2 // 3:
                picture, mask, _ = add_defect(picture, rng)
            picture, mask = photographed(picture, mask, rng, np.random.default_rng([78, number]))
            image = torch.from_numpy(prepare(Image.fromarray(picture), detector.preparation))[None]
            with recorded(image, reference_layers(visual.config)) as recording:
                raws.append(method.score_beside_references(method.features(image), state))
            levels.append(recorded_patches(recording))
            masks.append(mask)
        together = [torch.cat(level) for level in zip(*levels, strict=True)]
        side = round(together[0].shape[1] ** 0.5)
        own = own_logits(joined(raws).maps, side, method.map_range)
        labels = np.array([int(mask.any()) for mask in masks[pool:]])
        yield f"synthetic {number} {scene.object_name}", Product.of(together, own, labels, masks[pool:], pool)


def photographed(
    image: np.ndarray, mask: np.ndarray, rng: np.random.Generator, product: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Another photograph of the same scene; how much photographs differ is the product's."""
    shift, turn, light, noise = product.uniform((0, 0, 0, 0.5), (0.03 * SIZE, 4, 0.08, 5))
    angle, (dx, dy) = rng.normal(0, turn), rng.normal(0, shift, 2)

    def moved(values: np.ndarray, how: Image.Resampling) -> np.ndarray:
        edge = SIZE // 8
        wide = np.pad(values, [(edge, edge), (edge, edge), (0, 0)][: values.ndim], mode="reflect")
        turned = np.asarray(Image.fromarray(wide).rotate(angle, how, translate=(dx, dy)))
        return turned[edge:-edge, edge:-edge]

    pixels = moved(image, Image.Resampling.BICUBIC) * np.exp(rng.normal(0, light))
    pixels = np.clip(pixels + rng.normal(0, noise, pixels.shape), 0, 255).astype(np.uint8)
    return pixels, moved(mask.astype(np.uint8), Image.Resampling.NEAREST) > 0


@torch.inference_mode()
def main() -> None:
    """Prints a line for each rule."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path)
    parser.add_argument("--synthetic", type=int, default=0, help="number of products made by code")
    parser.add_argument("--limit", type=int, default=60, help="test images of each kind and category")
    parser.add_argument("--draws", type=int, default=6)
    args = parser.parse_args()
    detector = zsad.load("auto", device="cpu")
    found: dict[tuple[str, int], list[tuple[float, float]]] = {}
    sources = [] if args.data is None else [labelled(detector, args.data, args.limit)]
    for source in [*sources, synthetic(detector, args.synthetic)]:
        for name, product in source:
            print(f"{name}: {product.pool} known-normal, {len(product.labels)} test images", flush=True)
            for count in COUNTS:
                for rule, settings in RULES.items() if count <= product.pool else ():
                    found.setdefault((rule, count), []).append(measured(settings, product, count, args.draws))
    print("| rule | references | image AUROC | difference | pixel AUROC |\n|---|---|---|---|---|")
    first = next(iter(RULES))
    for (rule, count), values in found.items():
        images, pixels = np.array(values).T
        apart = images - np.array(found[first, count])[:, 0]
        error = apart.std(ddof=1) / len(apart) ** 0.5 if len(apart) > 1 else float("nan")
        print(
            f"| {rule} | {count} | {images.mean():.3f} | {apart.mean():+.3f} ± {error:.3f} "
            f"| {np.nanmean(pixels):.3f} |"
        )


if __name__ == "__main__":
    main()

"""Judges image encoders with known-normal references on real validation images; nothing is trained.

    python tools/tiny/judge.py --trunk LITE2.pth --real cache/validation --references 1 4 16 \
        encoder.safetensors

A patch is as anomalous as its nearest patch of the references is far, averaged over the levels of the stem and
the first block, each divided by its mean; an image is as anomalous as the mean of its top 2 % patches. `features.py
--whole --size 448` caches the same images larger. The scores of single images come from `soup.py`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from cached import Cached
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F
from train_image import PictureTower

from zsad.metrics import image_auroc, pixel_auroc

AT_ONCE = 8
TOP_SHARE = 0.02
LEAST_GOOD = 5  # normal images that are left to be judged


@torch.inference_mode()
def described(model: PictureTower, data: Cached, rows: np.ndarray) -> list[Tensor]:
    """Levels (images, N, C) of unit vectors: the stem's fine one, folded, its middle one, and the first block."""
    parts = []
    for chunk in np.array_split(rows, max(1, len(rows) // AT_ONCE)):
        levels, _, _ = data.batch(chunk)
        with torch.autocast("cpu", torch.bfloat16):
            first = next(iter(model.tower.transformer.blocks()))(model.tokens(levels))[:, 1:]
        stem = [each.flatten(2).transpose(1, 2) for each in (F.pixel_unshuffle(levels[0], 2), levels[1])]
        parts.append([F.normalize(each.float(), dim=-1) for each in (*stem, first)])
    return [torch.cat(level) for level in zip(*parts, strict=True)]


def distances(levels: list[Tensor], references: np.ndarray) -> Tensor:
    """(images, N) distance of each patch to the nearest one of the reference images."""
    total = torch.zeros(levels[0].shape[:2])
    for level in levels:
        known = level[references].flatten(0, 1)
        nearest = torch.cat([(part @ known.T).amax(-1) for part in level.split(AT_ONCE)])
        total += (1 - nearest) / (1 - nearest).mean()
    return total


def with_references(
    levels: list[Tensor], data: Cached, rows: np.ndarray, count: int, draws: int
) -> dict[str, float]:
    """Mean AUROC over draws of `count` references, from the images for training where there are enough."""
    labels = data.labels[rows]
    spare = np.array([bool(data.meta[row].get("reference")) for row in rows])
    pool = np.flatnonzero(spare) if spare.sum() >= count else np.flatnonzero(labels == 0)
    found: dict[str, list[float]] = {"image_auroc": [], "pixel_auroc": []}
    for draw in range(draws):
        size = min(count, int((labels == 0).sum()) - LEAST_GOOD)
        references = np.random.default_rng(draw).choice(pool, size, replace=False)
        judged = np.setdiff1d(np.flatnonzero(~spare), references)
        patches = distances(levels, references)[judged]
        top = patches.topk(max(1, round(TOP_SHARE * patches.shape[1])), dim=1).values.mean(1)
        found["image_auroc"].append(image_auroc(top.numpy(), labels[judged]))
        truth = data.masks[rows[judged]] > 127
        if truth.any((1, 2))[labels[judged] == 1].mean() > 0.5:
            grid = round(patches.shape[1] ** 0.5)
            maps = F.interpolate(patches.view(-1, 1, grid, grid), truth.shape[-2:], mode="bilinear")
            found["pixel_auroc"].append(pixel_auroc(maps[:, 0].numpy(), truth))
    return {f"{name} {count}": float(np.mean(values)) for name, values in found.items() if values}


def main() -> None:
    """Prints one row for each encoder and category."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("trunk", "real"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--references", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--draws", type=int, default=2)
    parser.add_argument("encoders", type=Path, nargs="+")
    args = parser.parse_args()
    data = Cached([args.real])
    for path in args.encoders:
        model = PictureTower.trained(args.trunk, load_file(path))
        for category in sorted(set(data.categories)):
            rows = np.array([row for row in range(len(data)) if data.categories[row] == category])
            levels = described(model, data, rows)
            row: dict[str, float] = {}
            for count in args.references:
                row |= with_references(levels, data, rows, count, args.draws)
            rounded = {name: round(value, 3) for name, value in row.items()}
            print(json.dumps({"encoder": path.stem, "category": category, **rounded}), flush=True)


if __name__ == "__main__":
    main()

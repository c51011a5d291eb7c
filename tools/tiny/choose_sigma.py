"""Compares blurs of the anomaly map on the validation set of `tiny`: held-out synthetic and auxiliary images.

    python tools/tiny/choose_sigma.py --materials materials --auxiliary ../shared/data/auxiliary \\
        --categories "tile wall" fundus
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from features import SIZE, synthetic_examples, whole_examples

import zsad
from zsad.data.layouts import read_mvtec
from zsad.images.preparing import Preparation, prepare
from zsad.images.reading import read_image
from zsad.methods.functional.maps import gaussian_filter
from zsad.metrics import image_auroc, pixel_auroc

SIGMAS = (0.0, 2.0, 4.0, 6.0, 8.0, 10.0, 12.0)


def main() -> None:
    """Prints pixel AUROC per sigma and image AUROC for each part of the validation set."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--materials", type=Path, required=True)
    parser.add_argument("--auxiliary", type=Path, required=True)
    parser.add_argument("--categories", nargs="+", required=True)
    parser.add_argument("--count", type=int, default=300)
    args = parser.parse_args()
    detector = zsad.load(sigma=0.0)
    preparation = Preparation(SIZE, detector.record.mean, detector.record.std)
    samples = read_mvtec(args.auxiliary, "all")
    parts = {"synthetic": list(synthetic_examples(args.materials, 0, args.count, seed=3))}
    for category in args.categories:
        parts[category] = list(whole_examples([sample for sample in samples if sample.category == category]))
    for name, examples in parts.items():
        maps, scores = [], []
        for example in examples:
            picture = prepare(read_image(example.image), preparation)
            raw = detector.score_tensors(torch.from_numpy(picture)[None])
            maps.append(raw.maps[0])
            scores.append(float(raw.scores[0]))
        truth = np.stack([example.mask for example in examples])
        labels = truth.any((1, 2)).astype(int)
        blurred = {
            sigma: torch.stack([gaussian_filter(m, sigma) if sigma else m for m in maps]) for sigma in SIGMAS
        }
        found = {sigma: round(pixel_auroc(blurred[sigma].numpy(), truth), 4) for sigma in SIGMAS}
        print(name, found, "image", round(image_auroc(np.array(scores), labels), 4), flush=True)


if __name__ == "__main__":
    main()

"""Trains a method's learnt part on `tiny` with zsad's own training loop, on synthetic and auxiliary images.

python tools/tiny/train_prompts.py --materials materials --auxiliary ../shared/data/auxiliary \
        --method anomalyclip --out src/zsad/backbones/tiny/anomalyclip.safetensors
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import numpy as np
from features import CROP_WEIGHTS, SIZE, open_sample, random_crop

from zsad.data.layouts import read_mvtec
from zsad.data.synthetic import Materials, SyntheticConfig, generate
from zsad.training.loop import train
from zsad.training.options import TrainOptions

AUXILIARY_SHARE = 0.4


class Pictures:
    """A fixed number of images, made when they are asked for: (image, mask, label, class name)."""

    def __init__(self, materials: Path, auxiliary: Path, count: int, held_out: list[str]) -> None:
        self.materials = Materials.from_folder(materials)
        self.samples = [s for s in read_mvtec(auxiliary, "all") if s.category not in held_out]
        self.weights = [CROP_WEIGHTS.get(sample.category, 1.2) for sample in self.samples]
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray, int, str]:
        rng = random.Random(index)
        if rng.random() < AUXILIARY_SHARE:
            sample = rng.choices(self.samples, self.weights)[0]
            normal = sample.label == 0 or rng.random() < 0.45
            image, mask = random_crop(*open_sample(sample), rng, normal=normal)
        else:
            picture = generate(index, self.materials, SyntheticConfig(size=SIZE), seed=2)
            image, mask = picture.image, picture.mask
        return image, mask.astype(np.uint8) * 255, int(mask.any()), "object"


def main() -> None:
    """Trains and writes the file that the package ships."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--materials", type=Path, required=True)
    parser.add_argument("--auxiliary", type=Path, required=True)
    parser.add_argument("--method", default="anomalyclip")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=1600)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--held-out", nargs="*", default=[], help="auxiliary categories never trained on")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=NUMBER")
    args = parser.parse_args()
    settings = {name: float(value) for name, _, value in (item.partition("=") for item in args.set)}
    config = TrainOptions(
        out=args.out,
        method=args.method,
        backbone="tiny",
        epochs=args.epochs,
        settings=settings,
        overwrite=True,
        auxiliary_data="zsad.data.synthetic; VisA (capsules, macaroni1), aluminium, concrete cracks and damage",
    )
    result = train(config, Pictures(args.materials, args.auxiliary, args.count, args.held_out))
    print(result)


if __name__ == "__main__":
    main()

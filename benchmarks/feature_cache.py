"""Times the epochs of a training with and without the feature cache, in one run on one machine.

    python benchmarks/feature_cache.py tiny --out benchmarks/results/feature_cache_tiny.json
    python benchmarks/feature_cache.py vit-l-14-336 --images 4 --batch-size 4

`tiny` is the backbone that ships with zsad; `vit-l-14-336` has the shape of OpenAI's ViT-L/14-336 with random
weights, on images of 518 pixels. Images are PNG files of noise. Only the ratios of a run are meaningful.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from random_backbone import random_l14
from zsad.training.loop import train
from zsad.training.options import TrainOptions


def make_images(root: Path, count: int, size: int) -> Path:
    """Writes a category in MVTec layout, every other image with a bright square."""
    generator = np.random.default_rng(0)
    for index in range(count):
        kind = "spot" if index % 2 else "good"
        pixels = generator.integers(60, 120, (size, size, 3), dtype=np.uint8)
        mask = np.zeros((size, size), dtype=np.uint8)
        mask[size // 4 : size // 2, size // 4 : size // 2] = 255
        for folder in (root / "test" / kind, root / "ground_truth" / "spot"):
            folder.mkdir(parents=True, exist_ok=True)
        if kind == "spot":
            pixels[mask > 0] = 250
            Image.fromarray(mask).save(root / "ground_truth" / kind / f"{index}_mask.png")
        Image.fromarray(pixels).save(root / "test" / kind / f"{index}.png")
    return root


def epoch_seconds(config: TrainOptions) -> tuple[float, float, list[float]]:
    """Seconds of the first and, on average, of a later epoch, and the losses of the steps."""
    result = train(config, show_progress=False)
    with result.log.open(newline="") as file:
        rows = list(csv.DictReader(file))
    ends = [0.0] * (config.epochs + 1)
    for row in rows:
        ends[int(row["epoch"])] = float(row["seconds"])
    later = (ends[-1] - ends[1]) / (config.epochs - 1)
    return ends[1], later, [float(row["loss"]) for row in rows]


def main() -> None:
    """Prints the figures, and writes them as JSON if asked to."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("backbone", choices=["tiny", "vit-l-14-336"])
    parser.add_argument("--method", default="anomalyclip")
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument(
        "--file-size", type=int, default=700, help="side of the images in the files, in pixels"
    )
    parser.add_argument("--image-size", type=int, help="side of the images in the network, in pixels")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--cache-precision", default="fp32")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.epochs < 2:
        parser.error("--epochs must be at least 2, because later epochs are compared")
    torch.set_num_threads(args.threads)
    is_tiny = args.backbone == "tiny"
    backbone = "tiny" if is_tiny else random_l14()
    size = args.image_size or (None if is_tiny else 518)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        images = make_images(root / "noise" / "plate", args.images, args.file_size)
        common = {
            "data": (images,),
            "method": args.method,
            "backbone": backbone,
            "epochs": args.epochs,
            "batch_size": args.batch_size,
            "image_size": size,
            "precision": args.precision,
        }
        plain_first, plain_later, plain = epoch_seconds(
            TrainOptions(out=root / "plain.safetensors", **common)
        )
        first, later, losses = epoch_seconds(
            TrainOptions(
                out=root / "cached.safetensors",
                cache=root / "cache",
                cache_precision=args.cache_precision,
                **common,
            )
        )
        stored = sum(path.stat().st_size for path in (root / "cache").rglob("*.safetensors"))
    figures = {
        "backbone": args.backbone,
        "method": args.method,
        "images": args.images,
        "batch_size": args.batch_size,
        "epochs": args.epochs,
        "threads": args.threads,
        "precision": args.precision,
        "cache_precision": args.cache_precision,
        "seconds_without": {"first": round(plain_first, 3), "later": round(plain_later, 3)},
        "seconds_with": {"first": round(first, 3), "later": round(later, 3)},
        "first_epoch_ratio": round(plain_first / first, 2),
        "later_epoch_ratio": round(plain_later / later, 2),
        "largest_relative_difference_of_losses": float(np.max(np.abs(np.divide(losses, plain) - 1))),
        "bytes_per_image": stored // args.images,
    }
    text = json.dumps(figures, indent=2)
    print(text)
    if args.out:
        args.out.write_text(f"{text}\n", encoding="utf-8")


if __name__ == "__main__":
    main()

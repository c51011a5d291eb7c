"""Caches the frozen stem's pyramid for training images, so that every epoch of the tower is cheap.

    python tools/tiny/features.py --trunk LITE2.pth --out cache/synthetic --materials materials --count 7000
    python tools/tiny/features.py --trunk LITE2.pth --out cache/crops --auxiliary ../shared/data/auxiliary --count 4000
    python tools/tiny/features.py --trunk LITE2.pth --out cache/whole --auxiliary ../shared/data/auxiliary --whole

Each folder holds fine.npy, middle.npy, coarse.npy (float16 pyramid levels), mask.npy (uint8, a quarter of the
image's size, coverage in 0..255) and meta.json (label, category or object name per image).
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageEnhance
from recipe import IMAGE_MEAN, IMAGE_STD, TINY_CONFIG
from trunk import load_trunk

from zsad.backbones.stems import EfficientNetLiteStem
from zsad.data.layouts import read_mvtec
from zsad.data.synthetic import Materials, SyntheticConfig, generate
from zsad.types import Sample

SIZE = TINY_CONFIG.vision.image_size
# Many crops of the two large categories, fewer of the small ones: about equal numbers of distinct defects.
CROP_WEIGHTS = {"capsules": 3.0, "macaroni1": 3.0}


class Example(NamedTuple):
    """One training image: (S, S, 3) uint8, (S, S) bool mask, and what is known about it."""

    image: np.ndarray
    mask: np.ndarray
    meta: dict[str, object]


def synthetic_examples(
    materials: Path, first: int, count: int, seed: int, *, pairs: bool = False, hard_normals: float = 0.0
) -> Iterator[Example]:
    """Images of `zsad.data.synthetic`; in pairs, every scene comes once without and once with a defect."""
    stock = Materials.from_folder(materials)
    configs = [
        SyntheticConfig(size=SIZE, anomalous_fraction=share, hard_normals=hard_normals)
        for share in ((0.0, 1.0) if pairs else (0.5,))
    ]
    for index in range(first, first + count // len(configs)):
        for config in configs:
            picture = generate(index, stock, config, seed)
            meta = {"category": "synthetic", "noun": picture.object_name, "label": picture.label}
            meta |= {"scene": index} if pairs else {}
            yield Example(picture.image, picture.mask, {**meta, "defect": picture.defect})


def open_sample(sample: Sample) -> tuple[Image.Image, Image.Image]:
    """Image (RGB) and mask (L, 0 or 255) at the image's size."""
    image = Image.open(sample.path).convert("RGB")
    if sample.mask_path is None:
        return image, Image.new("L", image.size, 0)
    mask = Image.open(sample.mask_path).convert("L").point(lambda value: 255 * (value > 0))
    return image, mask.resize(image.size, Image.Resampling.NEAREST)


def whole_examples(samples: list[Sample], size: int = SIZE) -> Iterator[Example]:
    """Each image once, as prediction sees it; for validation."""
    for sample in samples:
        image, mask = open_sample(sample)
        small = np.asarray(mask.resize((size, size), Image.Resampling.BOX)) > 30
        meta: dict[str, object] = {
            "category": sample.category,
            "label": sample.label,
            "file": sample.path.name,
            "reference": sample.path.parent.parent.name == "train",
        }
        yield Example(np.asarray(image.resize((size, size), Image.Resampling.BICUBIC)), small, meta)


def crop_examples(samples: list[Sample], count: int, seed: int) -> Iterator[Example]:
    """Random crops with random light; a crop without a defective pixel is a normal image.

    That way sets without normal images teach both classes, and no category is always anomalous.
    """
    rng = random.Random(seed)
    categories = sorted({(sample.path.parts[-5], sample.category) for sample in samples})
    members = {
        key: [sample for sample in samples if (sample.path.parts[-5], sample.category) == key]
        for key in categories
    }
    weights = [CROP_WEIGHTS.get(category, 1.2) for _, category in categories]
    for _ in range(count):
        sample = rng.choice(members[rng.choices(categories, weights)[0]])
        image, mask = random_crop(*open_sample(sample), rng, normal=sample.label == 0 or rng.random() < 0.45)
        label = int(mask.any())
        yield Example(image, mask, {"category": sample.category, "label": label, "file": sample.path.name})


def random_crop(
    image: Image.Image, mask: Image.Image, rng: random.Random, *, normal: bool
) -> tuple[np.ndarray, np.ndarray]:
    """A crop of 35 to 100 % of the sides, with or without a defect as asked (as far as six tries find one)."""
    width, height = image.size
    for _ in range(6):
        scale = rng.uniform(0.35, 1.0) ** 0.7
        crop_width, crop_height = int(width * scale), int(height * min(1.0, scale * rng.uniform(0.8, 1.25)))
        left, top = rng.randint(0, width - crop_width), rng.randint(0, height - crop_height)
        box = (left, top, left + crop_width, top + crop_height)
        part = mask.crop(box)
        if normal == (part.getextrema()[1] == 0):
            break
    picture = image.crop(box).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    part = part.resize((SIZE, SIZE), Image.Resampling.NEAREST)
    for turn in (Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.FLIP_TOP_BOTTOM, Image.Transpose.ROTATE_90):
        if rng.random() < 0.5:
            picture, part = picture.transpose(turn), part.transpose(turn)
    if rng.random() < 0.7:
        picture = relight(picture, rng)
    return np.asarray(picture), np.asarray(part) > 127


def relight(image: Image.Image, rng: random.Random) -> Image.Image:
    """Random brightness, contrast, colour, channel order and sensor noise."""
    image = ImageEnhance.Brightness(image).enhance(rng.uniform(0.7, 1.3))
    image = ImageEnhance.Contrast(image).enhance(rng.uniform(0.7, 1.3))
    if rng.random() < 0.5:
        image = ImageEnhance.Color(image).enhance(rng.choice([0.0, rng.uniform(0.5, 1.5)]))
    pixels = np.asarray(image).astype(np.float32)
    if rng.random() < 0.3:
        pixels = pixels[..., rng.sample(range(3), 3)]
    if rng.random() < 0.3:
        noise = np.random.default_rng(rng.randrange(1 << 30))
        pixels = pixels + noise.normal(0, rng.uniform(1, 8), pixels.shape)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


class Cache:
    """A folder of memory-mapped arrays that grows image by image."""

    def __init__(self, folder: Path, count: int, size: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        shapes = {
            "fine": (48, size // 8, size // 8),
            "middle": (120, size // 16, size // 16),
            "coarse": (352, size // 32, size // 32),
        }
        self.folder = folder
        self.levels = [
            np.lib.format.open_memmap(folder / f"{name}.npy", "w+", np.float16, (count, *shape))
            for name, shape in shapes.items()
        ]
        self.masks = np.lib.format.open_memmap(
            folder / "mask.npy", "w+", np.uint8, (count, size // 4, size // 4)
        )
        self.meta: list[dict[str, object]] = []

    def add(self, examples: list[Example], stem: EfficientNetLiteStem) -> None:
        """Runs the stem's trunk on a batch and stores what it gives."""
        pixels = torch.from_numpy(np.stack([example.image for example in examples])).permute(0, 3, 1, 2) / 255
        mean, std = torch.tensor(IMAGE_MEAN).view(3, 1, 1), torch.tensor(IMAGE_STD).view(3, 1, 1)
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            levels = stem.pyramid((pixels - mean) / std)
        first = len(self.meta)
        rows = slice(first, first + len(examples))
        for stored, level in zip(self.levels, levels, strict=True):
            stored[rows] = level.float().half().numpy()
        for offset, example in enumerate(examples):
            coverage = Image.fromarray(example.mask.astype(np.uint8) * 255)
            self.masks[first + offset] = coverage.resize(self.masks.shape[1:], Image.Resampling.BOX)
        self.meta.extend(example.meta for example in examples)

    def close(self) -> None:
        """Writes what was stored to the disk; a reader takes as many images as meta.json lists."""
        for array in (*self.levels, self.masks):
            array.flush()
        (self.folder / "meta.json").write_text(json.dumps(self.meta))


def main() -> None:
    """Fills one cache folder."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trunk", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--materials", type=Path)
    parser.add_argument("--auxiliary", type=Path)
    parser.add_argument("--whole", action="store_true")
    parser.add_argument(
        "--pairs", action="store_true", help="every synthetic scene without and with a defect"
    )
    parser.add_argument("--hard-normals", type=float, default=0.0, help="see `SyntheticConfig`")
    parser.add_argument("--size", type=int, default=SIZE, help="side of the images of --whole, in pixels")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    if args.materials:
        count, examples = (
            args.count,
            synthetic_examples(
                args.materials,
                args.first,
                args.count,
                args.seed,
                pairs=args.pairs,
                hard_normals=args.hard_normals,
            ),
        )
    else:
        samples = read_mvtec(args.auxiliary, "all")
        count = len(samples) if args.whole else args.count
        examples = (
            whole_examples(samples, args.size) if args.whole else crop_examples(samples, count, args.seed)
        )
    stem = EfficientNetLiteStem(TINY_CONFIG.vision.width)
    stem.trunk = load_trunk(args.trunk)
    cache, batch, start = Cache(args.out, count, args.size), [], time.time()
    for example in examples:
        batch.append(example)
        if len(batch) == 8 or len(cache.meta) + len(batch) == count:
            cache.add(batch, stem)
            batch = []
            if len(cache.meta) % 400 == 0:
                cache.close()  # what is there can be read although more is coming
                print(f"{len(cache.meta)}/{count} {time.time() - start:.0f} s", flush=True)
    cache.close()


if __name__ == "__main__":
    main()

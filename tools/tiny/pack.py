"""Puts the two trained encoders together and writes the files that the package ships.

python tools/tiny/pack.py --text text_tower.safetensors --image image_encoder.safetensors \
        --out src/zsad/backbones/tiny
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch
from recipe import AUXILIARY_DATA, IMAGE_MEAN, IMAGE_STD, TINY_CONFIG
from safetensors.torch import load_file

from zsad.backbones.clip import CLIP
from zsad.backbones.loading import write_packaged
from zsad.types import WeightRecord

RECORD = WeightRecord(
    name="tiny",
    source="package:tiny/tiny.safetensors",
    image_size=TINY_CONFIG.vision.image_size,
    mean=IMAGE_MEAN,
    std=IMAGE_STD,
    activation=TINY_CONFIG.activation,
    licence="Apache-2.0",
    auxiliary_data=AUXILIARY_DATA,
    notes="hybrid ViT on an EfficientNet-Lite2 trunk; card: zsad/backbones/tiny/README.md",
)


def main() -> None:
    """Merges, checks that no parameter is left out, writes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--image", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    clip = CLIP(TINY_CONFIG, RECORD)
    state = {**load_file(args.text), **load_file(args.image), "logit_scale": torch.tensor(math.log(100.0))}
    clip.load_state_dict(state)
    for path in write_packaged(clip, args.out):
        print(path, f"{path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()

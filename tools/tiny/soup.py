"""Averages the weights of several image encoders, as far as the average is better on real validation images.

    python tools/tiny/soup.py --trunk LITE2.pth --states states.npz --real cache/validation \
        --out image_encoder.safetensors start.safetensors run0.safetensors run1.safetensors ...

Runs that were trained on from the same weights lie in one basin, so their mean is as good as an ensemble and costs
one network. Greedy soup (Wortsman et al. 2022, https://arxiv.org/abs/2203.05482): the best encoder first, then each
further one is kept in the mean if the mean does not become worse. The first file is the present encoder; moving
only part of the way from it (Robust fine-tuning, https://arxiv.org/abs/2109.01903) is tried last.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from cached import Cached, StateWords
from safetensors.torch import load_file, save_file
from torch import Tensor
from train_image import PictureTower, mean_quality, validate

Weights = dict[str, Tensor]
PARTS_OF_THE_WAY = (0.5, 0.75)


def mean(members: list[Weights]) -> Weights:
    """The mean of several encoders' weights, tensor by tensor."""
    return {name: torch.stack([each[name] for each in members]).mean(0) for name in members[0]}


class Judge:
    """Quality of an encoder on real validation images, with every number printed."""

    def __init__(self, trunk: Path, states: Path, real: Path) -> None:
        self.trunk, self.data = trunk, Cached([real])
        self.words = StateWords(states, np.random.default_rng(0))

    def __call__(self, name: str, weights: Weights) -> float:
        """Mean of the image AUROC of the top 5 % patches and of the pixel AUROC; see `mean_quality`."""
        model = PictureTower.trained(self.trunk, weights)
        found = {
            category: validate(model, self.data, self.data.rows(category), self.words)
            for category in sorted(set(self.data.categories))
        }
        quality = mean_quality(found)
        rounded = {
            category: {key: round(value, 3) for key, value in row.items()} for category, row in found.items()
        }
        print(json.dumps({"name": name, "quality": round(quality, 4), **rounded}), flush=True)
        return quality


def main() -> None:
    """Judges each encoder, cooks the soup, writes the best."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("trunk", "states", "real", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("encoders", type=Path, nargs="+")
    args = parser.parse_args()
    judge = Judge(args.trunk, args.states, args.real)
    loaded = {path.stem: load_file(path) for path in args.encoders}
    qualities = {name: judge(name, weights) for name, weights in loaded.items()}
    names = sorted(loaded, key=qualities.__getitem__, reverse=True)
    kept, best = names[:1], qualities[names[0]]
    for name in names[1:]:
        quality = judge("+".join([*kept, name]), mean([loaded[each] for each in [*kept, name]]))
        if quality >= best:
            kept, best = [*kept, name], quality
    soup, start = mean([loaded[name] for name in kept]), loaded[args.encoders[0].stem]
    label = "+".join(kept)
    for part in PARTS_OF_THE_WAY:
        between = {key: start[key].lerp(tensor, part) for key, tensor in soup.items()}
        quality = judge(f"{part} of the way to {label}", between)
        if quality > best:
            best, label, soup = quality, f"{part} of the way to {label}", between
    save_file(soup, args.out, {"members": label, "quality": f"{best:.4f}"})
    print("written:", label, round(best, 4))


if __name__ == "__main__":
    main()

"""Trains what every method learns on `tiny`, and writes the files that the package ships, by one command.

    python tools/tiny/make_weights.py --synthetic cache/pair0 cache/pair1 --crops cache/crops --whole cache/whole \\
        --held-out "tile wall" fundus --out src/zsad/backbones/tiny

A method joins with one line in `RECIPES`. The image encoder is the one that the package ships at that moment;
its features come from `features.py`, so that a step costs little more than the method's own part. Each step sees
either synthetic or auxiliary images. The step that is best on held-out images is kept. A method whose file in
`--logs` says that it is done is not trained once more.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from cached import Cached
from recipe import AUXILIARY_DATA, TINY_CONFIG
from safetensors import safe_open
from safetensors.torch import save_file
from starting import start_adaclip, start_april_gan, start_bayes_pfl
from torch import Tensor
from torch.nn import functional as F

import zsad
from zsad.metrics import image_auroc, pixel_ap, pixel_auroc
from zsad.training.recipe import own_factor

SIZE = TINY_CONFIG.vision.image_size
COARSE_STAGES = 5  # the trunk's stages from this one on may have been adapted after the features were cached
AUXILIARY_SHARE = 0.4
AT_ONCE = 16
NAME = "object"
Parts = Mapping[str, tuple[Cached, np.ndarray]]


@dataclass(frozen=True)
class Recipe:
    """How a method is trained on `tiny`.

    Attributes:
        steps: number of steps.
        learning_rate: of Adam; the default is that of the AnomalyCLIP family.
        batch_size: images of a step.
        judged_every: number of steps between two looks at the held-out images.
        settings: fields of the method's `Config` that differ from its defaults.
        start: puts the learnt layers where the image encoder stands; None leaves them at random numbers.
        second: second stage of the training, which starts from the best step of the first; None without one.
    """

    steps: int
    learning_rate: float = 1e-3
    batch_size: int = 8
    judged_every: int = 50
    settings: Mapping[str, object] = field(default_factory=dict)
    start: Callable[[zsad.Detector, Tensor], None] | None = None
    second: Recipe | None = None


RECIPES = {
    "anomalyclip": Recipe(steps=120, judged_every=60),
    "glocalclip": Recipe(steps=120, judged_every=60),
    "april_gan": Recipe(steps=50, learning_rate=3e-5, settings={"features_list": [3]}, start=start_april_gan),
    "adaclip": Recipe(steps=90, learning_rate=1e-4, judged_every=30, start=start_adaclip),
    "crane": Recipe(steps=90, judged_every=45),
    "faprompt": Recipe(steps=60, judged_every=60, settings={"topk_selection": "fixed"}),
    "visual_ad": Recipe(steps=120, learning_rate=1e-4, judged_every=60, settings={"max_patches": 400}),
    "af_clip": Recipe(steps=60, learning_rate=1e-4, judged_every=60),
    "aa_clip": Recipe(
        steps=60,
        judged_every=60,
        second=Recipe(steps=100, learning_rate=5e-4, judged_every=100, settings={"stage": "image"}),
    ),
    "genclip": Recipe(steps=60, judged_every=30, settings={"features_list": [3]}),
    "kanoclip": Recipe(steps=60, judged_every=30, settings={"features_list": [3]}),
    "bayes_pfl": Recipe(
        steps=100,
        learning_rate=1e-3,
        judged_every=100,
        settings={"num_flows": 4, "stage": 1},
        start=start_bayes_pfl,
        second=Recipe(steps=30, learning_rate=1e-3, judged_every=30, settings={"stage": 2}),
    ),
}


class Feed:
    """Stands in for the trunk of a detector's image encoder: the next batch comes from a cache."""

    def __init__(self, detector: zsad.Detector) -> None:
        self.levels: list[Tensor] = []
        stem = detector.method.backbone.visual.stem
        self.coarse_stages = stem.trunk.stages[COARSE_STAGES:]
        stem.pyramid = lambda images: self.levels

    @torch.no_grad()
    def images(self, data: Cached, rows: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        """Placeholders of the images (B, 3, S, S), coverage of the masks (B, M, M) and labels (B,)."""
        (fine, middle, _), coverage, labels = data.batch(rows)
        coarse = middle
        for stage in self.coarse_stages:
            coarse = stage(coarse)
        self.levels = [fine, middle, coarse]
        return torch.zeros(len(rows), 3, SIZE, SIZE), coverage, labels


@torch.inference_mode()
def judge(detector: zsad.Detector, feed: Feed, data: Cached, rows: np.ndarray) -> dict[str, float]:
    """Pixel AUROC and AP where there are masks, and image AUROC where there are normal images."""
    maps, scores, truth, labels = [], [], [], []
    for chunk in np.array_split(rows, max(1, len(rows) // AT_ONCE)):
        images, coverage, of_chunk = feed.images(data, chunk)
        raw = detector.score_tensors(images, NAME)
        maps.append(F.avg_pool2d(raw.maps, SIZE // coverage.shape[-1]))
        scores.append(raw.scores)
        truth.append(coverage > 0.5)
        labels.append(of_chunk)
    found, anomalous = torch.cat(maps).numpy(), torch.cat(truth).numpy()
    row = {}
    if anomalous.any():
        row |= {"pixel_auroc": pixel_auroc(found, anomalous), "pixel_ap": pixel_ap(found, anomalous)}
    known = torch.cat(labels).numpy()
    if 0.1 < known.mean() < 0.9:
        row["image_auroc"] = image_auroc(torch.cat(scores).numpy(), known)
    return row


def quality(judged: Mapping[str, Mapping[str, float]]) -> float:
    """The number that the step is chosen by: the mean of all AUROCs, of pixels and of images."""
    return float(np.mean([v for row in judged.values() for name, v in row.items() if name.endswith("auroc")]))


def parts_to_judge(synthetic: Cached, crops: Cached, whole: Cached, args: argparse.Namespace) -> Parts:
    """Images that nothing was trained on: synthetic ones, held-out categories whole and in crops."""
    last = len(synthetic) - args.held_out_synthetic
    parts = {"synthetic": (synthetic, np.arange(last, min(last + 120, len(synthetic))))}
    for category in args.held_out:
        parts[category] = (whole, whole.rows(category))
        parts[f"{category}, crops"] = (crops, crops.rows(category)[:40])
    return {name: (data, rows) for name, (data, rows) in parts.items() if len(rows)}


def train(
    method_name: str, recipe: Recipe, args: argparse.Namespace, start: Path | str = "fresh"
) -> dict[str, object]:
    """Trains one method, writes its best step, and returns its last log row."""
    torch.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    detector = zsad.load(method_name, "tiny", start, device="cpu", **recipe.settings)
    feed = Feed(detector)
    synthetic, crops, whole = Cached(args.synthetic), Cached([args.crops]), Cached([args.whole])
    usable = np.array([row for row in range(len(crops)) if crops.categories[row] not in args.held_out])
    parts = parts_to_judge(synthetic, crops, whole, args)
    if recipe.start is not None:
        recipe.start(detector, feed.images(synthetic, np.arange(16))[0])
    detector.mark_trained(AUXILIARY_DATA)
    method = detector.method.requires_grad_(False)
    rates = method.training_defaults(vars(method.config)).rates
    learnt = [
        {"params": [parameter.requires_grad_(True)], "lr": recipe.learning_rate * own_factor(rates, name)}
        for name, parameter in method.trainable()
    ]
    optimizer = torch.optim.Adam(learnt, betas=(0.5, 0.999))
    best, started = 0.0, time.monotonic()
    made = np.arange(len(synthetic) - args.held_out_synthetic)
    for step in range(1, recipe.steps + 1):
        real = rng.random() < AUXILIARY_SHARE  # a step sees one kind, so that one batch is one read
        data, rows = (crops, usable) if real else (synthetic, made)
        images, coverage, labels = feed.images(data, rng.choice(rows, recipe.batch_size))
        masks = (F.interpolate(coverage[:, None], size=SIZE) > 0.5).float()[:, 0]
        optimizer.zero_grad()
        method.train()
        method.backbone.eval()
        sum(method.loss(images, masks, labels, [NAME] * len(labels)).values()).backward()
        optimizer.step()
        if step % recipe.judged_every and step != recipe.steps:
            continue
        method.eval()
        judged = {name: judge(detector, feed, *part) for name, part in parts.items()}
        row = {"method": method_name, "step": step, "seconds": round(time.monotonic() - started)}
        row |= {"quality": round(quality(judged), 4), **judged}
        print(json.dumps(row), flush=True)
        if quality(judged) > best:
            best = quality(judged)
            detector.save(args.out / f"{method_name}.safetensors")
    if recipe.second is not None:
        settings = {**recipe.settings, **recipe.second.settings}
        second = replace(recipe.second, settings=settings)
        return train(method_name, second, args, args.out / f"{method_name}.safetensors")
    return row


def in_half(path: Path) -> None:
    """Rounds the tensors of a file to half precision, which halves what the package carries."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name).half() for name in file.keys()}  # noqa: SIM118 - no mapping
    save_file(tensors, path, metadata)


def main() -> None:
    """Trains all methods that were asked for and are not done."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("crops", "whole", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--synthetic", type=Path, nargs="+", required=True)
    parser.add_argument("--held-out", nargs="+", required=True, help="auxiliary categories never trained on")
    parser.add_argument(
        "--held-out-synthetic", type=int, default=600, help="the last so many are not trained on"
    )
    parser.add_argument("--methods", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--logs", type=Path, help="folder with one file for each method that is done")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    for name in args.methods:
        done = None if args.logs is None else args.logs / f"{name}.json"
        if done is None or not done.exists():
            row = train(name, RECIPES[name], args)
            in_half(args.out / f"{name}.safetensors")
            if done is not None:
                done.parent.mkdir(parents=True, exist_ok=True)
                done.write_text(json.dumps(row))


if __name__ == "__main__":
    main()

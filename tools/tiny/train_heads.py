"""Trains what APRIL-GAN and AdaCLIP learn on `tiny`, on cached pyramids, and keeps the step that is best held out.

    python tools/tiny/train_heads.py --method april_gan --synthetic cache/syn0 cache/syn1 --crops cache/crops \\
        --whole cache/whole --held-out "tile wall" fundus --set features_list=3 --steps 150 --out april_gan.safetensors

Both methods bring patches into the joint space by linear layers of their own. Here these start as what the tower's
final norm and projection do to an average patch, so that training goes on from the tower instead of beginning
anew; `--fresh` starts from random numbers, as the papers do.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from cached import Cached
from recipe import TINY_CONFIG
from torch import Tensor, nn
from torch.nn import functional as F

import zsad
from zsad.backbones.vision import VisionTower
from zsad.cli.options import parse_setting
from zsad.metrics import image_auroc, pixel_ap, pixel_auroc

HELD_OUT_SYNTHETIC = 600  # the last ones, as for the tower itself
SIZE = TINY_CONFIG.vision.image_size
AT_ONCE = 16
NAME = "object"


class Feed:
    """Stands in for the trunk of a detector's image encoder: the next batch comes from a cache."""

    def __init__(self, detector: zsad.Detector) -> None:
        self.levels: list[Tensor] = []
        detector.backbone.visual.stem.pyramid = lambda images: self.levels

    def pictures(self, data: Cached, rows: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        """Placeholders of the images (B, 3, S, S), coverage of the masks (B, M, M) and labels (B,)."""
        self.levels, coverage, labels = data.batch(rows)
        return torch.zeros(len(rows), 3, SIZE, SIZE), coverage, labels


def start_from_projection(visual: VisionTower, layers: Mapping[int, nn.Linear], images: Tensor) -> None:
    """Makes linear layers of the tower's final norm and projection, with the spread of an average patch.

    Args:
        visual: the image encoder.
        layers: what reads each 1-based block's patches.
        images: some images to measure the spread on.
    """
    norm, projection = visual.ln_post, visual.proj
    tokens = visual(images, taps=tuple(layers)).tokens
    for block, layer in layers.items():
        spread = (tokens[block][:, 1:].var(dim=-1, unbiased=False) + norm.eps).sqrt().mean()
        weight = projection.T * norm.weight
        layer.weight.data = (weight - weight.mean(dim=1, keepdim=True)) / spread
        layer.bias.data = norm.bias @ projection


def prepare_heads(detector: zsad.Detector, images: Tensor) -> None:
    """Puts the layers of a method where the tower stands."""
    method, visual = detector.method, detector.backbone.visual
    adaclip = method.INFO.name == "adaclip"
    heads = method.patch_token_layer.head if adaclip else method.adapters.fc
    with torch.no_grad():
        start_from_projection(visual, dict(zip(method.layers, heads, strict=True)), images)
        if adaclip:
            nn.init.eye_(method.cls_token_layer.head[0].weight)
            nn.init.zeros_(method.cls_token_layer.head[0].bias)


@torch.inference_mode()
def judge(detector: zsad.Detector, feed: Feed, data: Cached, rows: np.ndarray) -> dict[str, float]:
    """Pixel AUROC and AP, and image AUROC where there are normal images."""
    maps, scores, truth, labels = [], [], [], []
    for chunk in np.array_split(rows, max(1, len(rows) // AT_ONCE)):
        images, coverage, of_chunk = feed.pictures(data, chunk)
        raw = detector.score_tensors(images, NAME)
        maps.append(F.avg_pool2d(raw.maps, SIZE // coverage.shape[-1]))
        scores.append(raw.scores)
        truth.append(coverage > 0.5)
        labels.append(of_chunk)
    found, anomalous = torch.cat(maps).numpy(), torch.cat(truth).numpy()
    row = {"pixel_auroc": pixel_auroc(found, anomalous), "pixel_ap": pixel_ap(found, anomalous)}
    known = torch.cat(labels).numpy()
    if 0.1 < known.mean() < 0.9:
        row["image_auroc"] = image_auroc(torch.cat(scores).numpy(), known)
    return row


def quality(judged: Mapping[str, Mapping[str, float]]) -> float:
    """The number that the step is chosen by: the mean of all AUROCs, of pixels and of images."""
    return float(np.mean([v for row in judged.values() for name, v in row.items() if name.endswith("auroc")]))


def parts_to_judge(
    synthetic: Cached, crops: Cached, whole: Cached, held_out: list[str]
) -> dict[str, tuple[Cached, np.ndarray]]:
    """Images that nothing was trained on: synthetic ones, held-out categories whole and in crops."""
    last = len(synthetic) - HELD_OUT_SYNTHETIC
    parts = {"synthetic": (synthetic, np.arange(last, last + 120))}
    for category in held_out:
        of = [
            np.array([row for row in range(len(d)) if d.categories[row] == category]) for d in (whole, crops)
        ]
        parts[category] = (whole, of[0])
        parts[f"{category}, crops"] = (crops, of[1][:40])
    return parts


def main() -> None:
    """Trains, judges, keeps the best step."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--method", choices=["april_gan", "adaclip"], required=True)
    for name in ("crops", "whole", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--synthetic", type=Path, nargs="+", required=True)
    parser.add_argument("--held-out", nargs="+", required=True, help="auxiliary categories never trained on")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--fresh", action="store_true", help="start the linear layers from random numbers")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--every", type=int, default=25)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--lr", type=float, default=3e-5)
    parser.add_argument("--auxiliary-share", type=float, default=0.4)
    parser.add_argument("--trained-on", default="", help="noted in the file")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    settings = dict(parse_setting(pair) for pair in args.set)
    detector = zsad.load(args.method, "tiny", "fresh", device="cpu", **settings)
    feed = Feed(detector)
    synthetic, crops, whole = Cached(args.synthetic), Cached([args.crops]), Cached([args.whole])
    usable = np.array([row for row in range(len(crops)) if crops.categories[row] not in args.held_out])
    parts = parts_to_judge(synthetic, crops, whole, args.held_out)
    if not args.fresh:
        prepare_heads(detector, feed.pictures(synthetic, np.arange(16))[0])
    detector.mark_trained(args.trained_on)
    method = detector.method.requires_grad_(False)
    learnt = [parameter.requires_grad_(True) for _, parameter in method.trainable()]
    optimizer = torch.optim.Adam(learnt, lr=args.lr, betas=(0.5, 0.999))
    best, started = 0.0, time.monotonic()
    for step in range(1, args.steps + 1):
        real = rng.random() < args.auxiliary_share  # a step sees one kind, so that one batch is one read
        data, rows = (crops, usable) if real else (synthetic, np.arange(len(synthetic) - HELD_OUT_SYNTHETIC))
        images, coverage, labels = feed.pictures(data, rng.choice(rows, args.batch_size))
        masks = (F.interpolate(coverage[:, None], size=SIZE) > 0.5).float()[:, 0]
        optimizer.zero_grad()
        sum(method.loss(images, masks, labels, [NAME] * len(labels)).values()).backward()
        optimizer.step()
        if step % args.every == 0:
            judged = {name: judge(detector, feed, *part) for name, part in parts.items()}
            numbers = "; ".join(
                f"{name} " + " ".join(f"{key} {v:.3f}" for key, v in row.items())
                for name, row in judged.items()
            )
            print(
                f"step {step} {time.monotonic() - started:.0f} s {quality(judged):.4f} {numbers}", flush=True
            )
            if quality(judged) > best:
                best = quality(judged)
                detector.save(args.out)


if __name__ == "__main__":
    main()

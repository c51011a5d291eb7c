"""Trains the image encoder of `tiny` on cached pyramids, against the sentence teacher's embeddings.

    python tools/tiny/train_image.py --trunk LITE2.pth --states states.npz --synthetic cache/synthetic \
        --crops cache/crops --whole cache/whole --out picture_tower.safetensors

What is learnt: the stem's projection, the class token, positions, blocks and the projection into the joint space.
What is minimised, at CLIP's own temperature 0.01:
  focal + dice of the patch tokens against "flawless X" and "damaged X", for the value-value stream (AnomalyCLIP,
  GlocalCLIP, ...) and, at half weight, for the original one (APRIL-GAN, AdaCLIP, ...);
  cross entropy of the class token against the same sentences, with and without the final norm, since the methods
  use both; a ranking of the class token's scores within one synthetic scene (with and without its defect) or one real
  category; and, at a small weight, cross entropy of the class token over the names of all objects.
Validation: held-out synthetic images and whole images of held-out auxiliary categories. The best step is kept.
"""

from __future__ import annotations

import argparse
import csv
import math
import time
from pathlib import Path

import numpy as np
import torch
from cached import Cached, StateWords, mixed
from recipe import TINY_CONFIG, VALUE_VALUE_FROM
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from trunk import load_trunk

from zsad.backbones.vision import VisionTower
from zsad.methods.functional.maps import gaussian_filter
from zsad.metrics import image_auroc, pixel_auroc

TEMPERATURE = 0.01
HELD_OUT_SYNTHETIC = 600


class PictureTower(nn.Module):
    """The vision tower fed with cached pyramids instead of images."""

    def __init__(self, trunk_file: Path, dropout: float, start: Path | None) -> None:
        super().__init__()
        config = TINY_CONFIG
        self.tower = VisionTower(config.vision, config.embed_dim, config.activation)
        self.tower.stem.trunk = load_trunk(trunk_file)
        nn.init.normal_(self.tower.positional_embedding, std=0.01)
        # Standardises the stem's channels while training; folded into the projection at the end.
        self.standardise = nn.BatchNorm2d(self.tower.stem.projection.in_channels, affine=False, momentum=None)
        self.dropout = dropout
        if start is not None:
            trained = load_file(start)
            self.tower.load_state_dict({name.removeprefix("visual."): t for name, t in trained.items()})
            self.standardise.eval()

    def measure(self, levels: list[Tensor]) -> None:
        """Takes mean and spread of the stem's channels from a sample of images and fixes them."""
        self.standardise.train()
        self.standardise(self.tower.stem.combine(*levels))
        self.standardise.eval()

    def forward(self, levels: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Value-value patch tokens, original patch tokens (B, N, D) and class token (B, D), before ln_post."""
        tower = self.tower
        channels = self.standardise(tower.stem.combine(*levels))
        channels = F.dropout2d(channels, self.dropout, self.training)
        patches = tower.stem.projection(channels).flatten(2).transpose(1, 2)
        tokens = torch.cat([tower.class_embedding.expand(len(patches), 1, -1), patches], 1)
        x = value = tower.ln_pre(tokens + tower.positional_embedding)
        for number, block in enumerate(tower.transformer.blocks(), start=1):
            if number >= VALUE_VALUE_FROM:
                x, step = block.forward_dual(x)
                value = value + step
            else:
                x = value = block(x)
        return value[:, 1:], x[:, 1:], x[:, 0]

    def state(self) -> dict[str, Tensor]:
        """The tower's weights with the standardisation folded into the stem's projection."""
        state = {
            f"visual.{name}": tensor.detach().clone() for name, tensor in self.tower.state_dict().items()
        }
        spread = (self.standardise.running_var + self.standardise.eps).sqrt()
        weight = state["visual.stem.projection.weight"] / spread[None, :, None, None]
        state["visual.stem.projection.weight"] = weight
        state["visual.stem.projection.bias"] -= (weight[:, :, 0, 0] * self.standardise.running_mean).sum(1)
        return state


def contrast(features: Tensor, sentences: Tensor) -> Tensor:
    """Logit of "abnormal" minus that of "normal": (B, ..., E) with (B, 2, E) to (B, ...)."""
    direction = (sentences[:, 1] - sentences[:, 0]).view(len(sentences), *(1,) * (features.ndim - 2), -1)
    return (F.normalize(features.float(), dim=-1) * direction).sum(-1) / TEMPERATURE


def patch_loss(contrasts: Tensor, masks: Tensor) -> Tensor:
    """Focal (gamma 2) and, for anomalous images, dice of (B, N) contrasts against (B, M, M) coverage in [0, 1]."""
    grid = math.isqrt(contrasts.shape[1])
    logits = F.interpolate(
        contrasts.view(-1, 1, grid, grid), masks.shape[-2:], mode="bilinear", align_corners=False
    )
    logits, probability = logits[:, 0], logits[:, 0].sigmoid()
    entropy = F.binary_cross_entropy_with_logits(logits, masks, reduction="none")
    miss = torch.where(masks > 0.5, 1 - probability, probability)
    overlap = (2 * (probability * masks).sum((1, 2)) + 1) / (probability.sum((1, 2)) + masks.sum((1, 2)) + 1)
    anomalous = (masks.amax((1, 2)) > 0.5).float()
    dice = ((1 - overlap) * anomalous).sum() / anomalous.sum().clamp(min=1)
    return 4 * (miss.square() * entropy).mean() + 0.5 * dice


def ranking_loss(scores: Tensor, labels: Tensor, groups: Tensor) -> Tensor:
    """Logistic loss of every (anomalous, normal) pair of one group: the defect decides, not the scene.

    Args:
        scores: (B,) contrasts of the class token.
        labels: (B,) in {0, 1}.
        groups: (B,) numbers; images of one synthetic scene or one real category share theirs.
    """
    pairs = (labels[:, None] == 1) & (labels[None] == 0) & (groups[:, None] == groups[None])
    margins = scores[:, None] - scores[None]
    return (F.softplus(-margins) * pairs).sum() / pairs.sum().clamp(min=1)


def losses(
    model: PictureTower,
    levels: list[Tensor],
    masks: Tensor,
    labels: Tensor,
    nouns: Tensor,
    groups: Tensor,
    words: StateWords,
) -> dict[str, Tensor]:
    """The named terms of the module docstring."""
    sentences = words.sample(nouns)
    tower = model.tower
    with torch.autocast("cpu", torch.bfloat16):
        value, original, class_token = model(levels)
        value, original = tower.project(value), tower.project(original)
        bare, normed = class_token @ tower.proj, tower.project(class_token)
    target = labels.float() * 0.95 + 0.025
    named = nouns >= 0
    named_logits = F.normalize(normed[named].float(), dim=-1) @ words.names.T / 0.05
    return {
        "value_value": patch_loss(contrast(value, sentences), masks),
        "original": 0.5 * patch_loss(contrast(original, sentences), masks),
        "class_bare": 0.5 * F.binary_cross_entropy_with_logits(contrast(bare, sentences), target),
        "class_normed": 0.5 * F.binary_cross_entropy_with_logits(contrast(normed, sentences), target),
        "ranking": 0.5 * ranking_loss(contrast(bare, sentences), labels, groups)
        + 0.5 * ranking_loss(contrast(normed, sentences), labels, groups),
        "names": 0.1 * F.cross_entropy(named_logits, nouns[named]),
    }


def flipped(levels: list[Tensor], masks: Tensor, rng: np.random.Generator) -> tuple[list[Tensor], Tensor]:
    """The batch mirrored left-right and top-down, each with probability one half."""
    axes = [axis for axis in (-1, -2) if rng.random() < 0.5]
    return [level.flip(axes) for level in levels], masks.flip(axes)


@torch.inference_mode()
def validate(model: PictureTower, data: Cached, rows: np.ndarray, words: StateWords) -> dict[str, float]:
    """Pixel AUROC over all images of a category and image AUROC of the class token, with the word "object"."""
    model.eval()
    maps, scores = [], []
    for chunk in np.array_split(rows, max(1, len(rows) // 32)):
        levels, masks, _ = data.batch(chunk)
        with torch.autocast("cpu", torch.bfloat16):
            value, _, class_token = model(levels)
            value, bare = model.tower.project(value), class_token @ model.tower.proj
        sentences = words.plain.expand(len(chunk), -1, -1)
        probability = contrast(value, sentences).sigmoid()
        grid = math.isqrt(probability.shape[1])
        enlarged = F.interpolate(probability.view(-1, 1, grid, grid), masks.shape[-2:], mode="bilinear")
        maps.append(gaussian_filter(enlarged[:, 0], 1.5).numpy())
        scores.append(contrast(bare, sentences).numpy())
    model.train()
    model.standardise.eval()
    truth = data.masks[rows] > 127
    labels = data.labels[rows]
    found = np.concatenate(scores)
    anomalous, normal = labels[:, None] == 1, labels[None] == 0
    pairs = anomalous & normal & (data.groups[rows][:, None] == data.groups[rows][None])
    return {
        "pixel_auroc": pixel_auroc(np.concatenate(maps), truth),
        "image_auroc": image_auroc(found, labels),
        # The share of pairs of one scene in which the defective image scores higher.
        "pair_auroc": float((found[:, None] > found[None])[pairs].mean()) if pairs.any() else math.nan,
    }


def main() -> None:
    """Trains, validates, logs, keeps the best."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("trunk", "states", "crops", "whole", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--synthetic", type=Path, nargs="+", required=True)
    parser.add_argument("--start", type=Path, help="a image encoder to go on from, at a lower --lr")
    parser.add_argument("--held-out", nargs="*", default=[], help="auxiliary categories never trained on")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--auxiliary-share", type=float, default=0.4)
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--every", type=int, default=250)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    words = StateWords(args.states, rng)
    synthetic, crops, whole = Cached(args.synthetic), Cached([args.crops]), Cached([args.whole])
    usable = np.array([row for row in range(len(crops)) if crops.categories[row] not in args.held_out])
    validation = {"synthetic": (synthetic, np.arange(len(synthetic) - HELD_OUT_SYNTHETIC, len(synthetic)))}
    for category in args.held_out:
        rows = [row for row in range(len(whole)) if whole.categories[row] == category]
        validation[category] = (whole, np.array(rows))

    model = PictureTower(args.trunk, args.dropout, args.start)
    if args.start is None:
        with torch.no_grad():
            model.measure(
                synthetic.batch(rng.choice(len(synthetic) - HELD_OUT_SYNTHETIC, 256, replace=False))[0]
            )
    learnt = [p for name, p in model.named_parameters() if p.requires_grad and ".trunk." not in name]
    optimiser = torch.optim.AdamW(learnt, lr=args.lr, weight_decay=0.05, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser,
        lambda s: min(1, (s + 1) / 100) * (0.02 + 0.49 * (1 + math.cos(math.pi * min(1, s / args.steps)))),
    )
    model.train()
    model.standardise.eval()
    start, best, means = time.time(), -math.inf, {}
    with args.out.with_suffix(".csv").open("w", newline="") as stream:
        log = csv.writer(stream)
        for step in range(1, args.steps + 1):
            batch = mixed(
                rng, synthetic, HELD_OUT_SYNTHETIC, crops, usable, args.batch_size, args.auxiliary_share
            )
            levels, masks, *known = batch.tensors(words)
            terms = losses(model, *flipped(levels, masks, rng), *known, words)
            optimiser.zero_grad()
            sum(terms.values()).backward()
            nn.utils.clip_grad_norm_(learnt, 1.0)
            optimiser.step()
            schedule.step()
            for name, term in terms.items():
                means[name] = means.get(name, 0.0) + term.item() / args.every
            if step % args.every == 0 or step == args.steps:
                found = {
                    name: validate(model, data, rows, words) for name, (data, rows) in validation.items()
                }
                quality = float(np.nanmean([value for each in found.values() for value in each.values()]))
                row = {"step": step, "seconds": round(time.time() - start), "quality": quality, **means}
                row.update(
                    {f"{name} {key}": value for name, each in found.items() for key, value in each.items()}
                )
                if step == args.every:
                    log.writerow(row)
                log.writerow([round(value, 4) for value in row.values()])
                stream.flush()
                print({key: round(value, 3) for key, value in row.items()}, flush=True)
                means = {}
                if quality > best:
                    best = quality
                    save_file(model.state(), args.out, {"step": str(step), "quality": f"{quality:.4f}"})


if __name__ == "__main__":
    main()

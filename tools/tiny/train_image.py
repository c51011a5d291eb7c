"""Trains the image encoder of `tiny` on cached pyramids, against the sentence teacher's embeddings.

    python tools/tiny/train_image.py --trunk LITE2.pth --states states.npz --synthetic cache/synthetic \
        --crops cache/crops --whole cache/whole --real cache/validation --out image_encoder.safetensors

What is learnt: the stem's projection, the class token, positions, blocks and the projection into the joint space;
with `--adapt 5` the trunk's stages from number 5 on as well, at a tenth of the learning rate.
What is minimised, at CLIP's own temperature 0.01:
  focal + dice of the patch tokens against "flawless X" and "damaged X", for the value-value stream (AnomalyCLIP,
  GlocalCLIP, ...) and, at half weight, for the original one (APRIL-GAN, AdaCLIP, ...);
  cross entropy of the class token against the same sentences, with and without the final norm, since the methods
  use both; a ranking of the class token's scores, and of the mean of the top 5 % patches, within one synthetic
  scene (with and without its defect) or one real category; and, at a small weight, cross entropy of the class token
  over the names of all objects.
Validation: held-out synthetic images, whole images of held-out auxiliary categories, and `--real` sets with normal
and anomalous images that are never trained on. The best step is kept, the last one too, so that a training that
was cut off goes on when the same command is given again.
"""

from __future__ import annotations

import argparse
import json
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
TOP_SHARE = 0.05
COARSE_STAGES = (
    5  # the trunk's stages from this one on need the cached middle level alone, earlier ones the fine one
)


class PictureTower(nn.Module):
    """The vision tower fed with cached pyramids instead of images."""

    def __init__(self, trunk_file: Path, dropout: float, start: Path | None, adapt: int | None) -> None:
        super().__init__()
        config = TINY_CONFIG
        self.tower = VisionTower(config.vision, config.embed_dim, config.activation)
        self.tower.stem.trunk = load_trunk(trunk_file)
        nn.init.normal_(self.tower.positional_embedding, std=0.01)
        # Standardises the stem's channels while training; folded into the projection at the end.
        self.standardise = nn.BatchNorm2d(self.tower.stem.projection.in_channels, affine=False, momentum=None)
        self.dropout = dropout
        self.adapt = adapt
        if adapt is not None:
            self.tower.stem.trunk.stages[adapt:].requires_grad_(True)
        if start is not None:
            trained = load_file(start)
            self.tower.load_state_dict({name.removeprefix("visual."): t for name, t in trained.items()})
            self.standardise.eval()

    @classmethod
    def trained(cls, trunk_file: Path, weights: dict[str, Tensor]) -> PictureTower:
        """An encoder that `state` returned, to be judged."""
        model = cls(trunk_file, dropout=0.0, start=None, adapt=None).eval()
        model.standardise.running_var -= (
            model.standardise.eps
        )  # the weights have the standardisation folded in
        model.tower.load_state_dict({name.removeprefix("visual."): t for name, t in weights.items()})
        return model

    def measure(self, levels: list[Tensor]) -> None:
        """Takes mean and spread of the stem's channels from a sample of images and fixes them."""
        self.standardise.train()
        self.standardise(self.tower.stem.combine(*levels))
        self.standardise.eval()

    def adapted(self, levels: list[Tensor]) -> list[Tensor]:
        """The cached levels, with those that trained stages of the trunk change computed from the others."""
        if self.adapt is None:
            return levels
        fine, middle, _ = levels
        stages = self.tower.stem.trunk.stages
        if self.adapt < COARSE_STAGES:
            middle = run(stages[3:COARSE_STAGES], fine)
        return [fine, middle, run(stages[COARSE_STAGES:], middle)]

    def tokens(self, levels: list[Tensor]) -> Tensor:
        """(B, 1 + N, D) tokens before the first block, for images of any size."""
        tower = self.tower
        channels = self.standardise(tower.stem.combine(*levels))
        channels = F.dropout2d(channels, self.dropout, self.training)
        patches = tower.stem.projection(channels)
        positions = tower.positions(patches.shape[-1])
        class_token = tower.class_embedding.expand(len(patches), 1, -1)
        embedded = torch.cat([class_token, patches.flatten(2).transpose(1, 2)], 1)
        return tower.ln_pre(embedded + positions)

    def forward(self, levels: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Value-value patch tokens, original patch tokens (B, N, D) and class token (B, D), before ln_post."""
        x = value = self.tokens(self.adapted(levels))
        for number, block in enumerate(self.tower.transformer.blocks(), start=1):
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


def run(stages: nn.ModuleList, level: Tensor) -> Tensor:
    """A level after some stages of the trunk."""
    level = level.contiguous(memory_format=torch.channels_last)
    for stage in stages:
        level = stage(level)
    return level


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


def top_mean(contrasts: Tensor) -> Tensor:
    """Mean of the largest 5 % of (B, N) contrasts: (B,)."""
    count = max(1, round(TOP_SHARE * contrasts.shape[1]))
    return contrasts.topk(count, dim=1).values.mean(1)


def ranking_loss(scores: Tensor, labels: Tensor, groups: Tensor) -> Tensor:
    """Logistic loss of every (anomalous, normal) pair of one group: the defect decides, not the scene.

    Args:
        scores: (B,) contrasts of the class token or of patches.
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
    contrasts = contrast(value, sentences)
    return {
        "value_value": patch_loss(contrasts, masks),
        "patch_ranking": 0.5 * ranking_loss(top_mean(contrasts), labels, groups),
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
    """Pixel AUROC over all images, image AUROC of the class token and of the patches, with the word "object"."""
    model.eval()
    maps, scores, tops = [], [], []
    for chunk in np.array_split(rows, max(1, len(rows) // 32)):
        levels, masks, _ = data.batch(chunk)
        with torch.autocast("cpu", torch.bfloat16):
            value, _, class_token = model(levels)
            value, bare = model.tower.project(value), class_token @ model.tower.proj
        sentences = words.plain.expand(len(chunk), -1, -1)
        contrasts = contrast(value, sentences)
        tops.append(top_mean(contrasts).numpy())
        probability = contrasts.sigmoid()
        grid = math.isqrt(probability.shape[1])
        enlarged = F.interpolate(probability.view(-1, 1, grid, grid), masks.shape[-2:], mode="bilinear")
        maps.append(gaussian_filter(enlarged[:, 0], 1.5).numpy())
        scores.append(contrast(bare, sentences).numpy())
    truth = data.masks[rows] > 127
    labels = data.labels[rows]
    found = np.concatenate(scores)
    anomalous, normal = labels[:, None] == 1, labels[None] == 0
    pairs = anomalous & normal & (data.groups[rows][:, None] == data.groups[rows][None])
    top = np.concatenate(tops)
    masked = truth.any((1, 2))[labels == 1].mean() > 0.5
    return {
        "pixel_auroc": pixel_auroc(np.concatenate(maps), truth) if masked else math.nan,
        "image_auroc": image_auroc(found, labels),
        "top_auroc": image_auroc(top, labels),
        "both_auroc": image_auroc(found + top, labels),
        # The share of pairs of one scene in which the defective image scores higher.
        "pair_auroc": float((top[:, None] > top[None])[pairs].mean()) if pairs.any() else math.nan,
    }


def mean_quality(found: dict[str, dict[str, float]]) -> float:
    """What a step is chosen by: mean of `top_auroc` and of `pixel_auroc`, each averaged over the sets that have it."""
    means = [np.nanmean([each[name] for each in found.values()]) for name in ("top_auroc", "pixel_auroc")]
    return float(np.mean(means))


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("trunk", "states", "crops", "whole", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--synthetic", type=Path, nargs="+", required=True)
    parser.add_argument("--start", type=Path, help="an image encoder to go on from, at a lower --lr")
    parser.add_argument("--real", type=Path, help="cache of whole real images to choose the step by")
    parser.add_argument("--adapt", type=int, choices=[3, 5], help="first stage of the trunk that is trained")
    parser.add_argument("--held-out", nargs="*", default=[], help="auxiliary categories never trained on")
    parser.add_argument(
        "--held-out-synthetic", type=int, default=600, help="the last so many are not trained on"
    )
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--auxiliary-share", type=float, default=0.4)
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--every", type=int, default=250)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def validation_sets(args: argparse.Namespace, synthetic: Cached) -> dict[str, tuple[Cached, np.ndarray]]:
    """What the step is chosen by: name to a cache and rows of it."""
    sets = {"synthetic": (synthetic, np.arange(len(synthetic) - args.held_out_synthetic, len(synthetic)))}
    whole = Cached([args.whole])
    for category in args.held_out:
        sets[category] = (whole, whole.rows(category))
    if args.real is not None:
        real = Cached([args.real])
        for category in sorted(set(real.categories)):
            sets[category] = (real, real.rows(category))
    return sets


def optimisation(
    model: PictureTower, lr: float, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """AdamW with a warm-up and a cosine; the trunk learns at a tenth of the rate."""
    warm_up = min(100, steps // 8)
    learnt = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    groups = [
        {"params": [p for name, p in learnt if ".trunk." not in name]},
        {"params": [p for name, p in learnt if ".trunk." in name], "lr": lr / 10},
    ]
    optimiser = torch.optim.AdamW(
        [group for group in groups if group["params"]], lr=lr, weight_decay=0.05, betas=(0.9, 0.98)
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser,
        lambda s: min(1, (s + 1) / warm_up) * (0.02 + 0.49 * (1 + math.cos(math.pi * min(1, s / steps)))),
    )
    return optimiser, schedule


def judged(
    model: PictureTower, sets: dict[str, tuple[Cached, np.ndarray]], words: StateWords
) -> dict[str, float]:
    """Quality and all numbers of the validation sets, as one row."""
    found = {name: validate(model, data, rows, words) for name, (data, rows) in sets.items()}
    row = {f"{name} {key}": value for name, each in found.items() for key, value in each.items()}
    return {"quality": mean_quality(found), **row}


def main() -> None:
    """Trains, validates, logs, keeps the best; goes on where an interrupted run of the same command stopped."""
    args = options()
    torch.manual_seed(args.seed)
    synthetic, crops = Cached(args.synthetic), Cached([args.crops])
    usable = np.array([row for row in range(len(crops)) if crops.categories[row] not in args.held_out])
    sets = validation_sets(args, synthetic)
    model = PictureTower(args.trunk, args.dropout, args.start, args.adapt)
    if args.start is None:
        rows = np.random.default_rng(args.seed).choice(
            len(synthetic) - args.held_out_synthetic, 256, replace=False
        )
        with torch.no_grad():
            model.measure(synthetic.batch(rows)[0])
    optimiser, schedule = optimisation(model, args.lr, args.steps)
    kept, log, done = args.out.with_suffix(".state.pt"), args.out.with_suffix(".jsonl"), 0
    best = -math.inf
    if kept.exists():
        state = torch.load(kept, weights_only=True)
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        schedule.load_state_dict(state["schedule"])
        done, best = state["step"], state["best"]
    else:
        log.write_text("")
    rng = np.random.default_rng([args.seed, done])
    words = StateWords(args.states, rng)
    start, means = time.time(), {}
    for step in range(done + 1, args.steps + 1):
        model.train()
        model.standardise.eval()
        batch = mixed(
            rng, synthetic, args.held_out_synthetic, crops, usable, args.batch_size, args.auxiliary_share
        )
        levels, masks, *known = batch.tensors(words)
        terms = losses(model, *flipped(levels, masks, rng), *known, words)
        optimiser.zero_grad()
        sum(terms.values()).backward()
        nn.utils.clip_grad_norm_([p for group in optimiser.param_groups for p in group["params"]], 1.0)
        optimiser.step()
        schedule.step()
        for name, term in terms.items():
            means[name] = means.get(name, 0.0) + term.item() / args.every
        if step % args.every and step != args.steps:
            continue
        row = {"step": step, "seconds": round(time.time() - start), **means, **judged(model, sets, words)}
        row = {key: round(value, 4) for key, value in row.items()}
        with log.open("a") as stream:
            stream.write(json.dumps(row) + "\n")
        print(row, flush=True)
        means = {}
        if row["quality"] > best:
            best = row["quality"]
            save_file(model.state(), args.out, {"step": str(step), "quality": f"{best:.4f}"})
        state = {"model": model.state_dict(), "optimiser": optimiser.state_dict()}
        torch.save({**state, "schedule": schedule.state_dict(), "step": step, "best": best}, kept)


if __name__ == "__main__":
    main()

"""Shell commands that do what `zsad reproduce` does, for a user who wants to see or change them."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zsad.evaluation.reproduction.plan import evaluation_of, trainings_of

if TYPE_CHECKING:
    from zsad.evaluation.reproduction.plan import ReproduceOptions


def commands(request: ReproduceOptions, folders: Mapping[str, Path]) -> list[str]:
    """Lists the commands that do the same as a request, quoted for a shell.

    Args:
        request: what to reproduce.
        folders: folders by dataset name, from `locate`, or placeholders.
    """
    trainings, testing = trainings_of(request, folders), evaluation_of(request, folders)
    shared = [
        *_option("--image-size", testing.image_size),
        *_option("--device", request.device),
        *_option("--devices", max(request.devices, 1), 1),
    ]
    shared += [*_option("--precision", request.precision), *(["--resume"] if request.resume else [])]
    lines = []
    for training in trainings:
        line = ["zsad", "train", "--method", training.method, "--backbone", str(training.backbone)]
        line += [part for each in training.data for part in ("--data", str(each))]
        for name in ("split", "epochs", "batch_size", "optimizer", "weight_decay", "schedule", "seed"):
            line += _option(f"--{name.replace('_', '-')}", getattr(training, name))
        line += [*_option("--lr", training.learning_rate), *_option("--mosaic", training.mosaic), *shared]
        line += [*_settings(training.settings), *_option("--checkpoint", training.checkpoint)]
        lines.append([*line, *_option("--cache", training.cache), "--out", str(training.out)])
    if not trainings and testing.checkpoint is not None and testing.checkpoint == request.recipe.checkpoint:
        lines.append(["zsad", "weights", "fetch", testing.checkpoint])
    line = ["zsad", "evaluate", "--method", testing.methods[0], "--backbone", str(testing.backbones[0])]
    line += [*_option("--data", testing.data[0]), *_option("--checkpoint", testing.checkpoint)]
    line += [part for seed in testing.seeds for part in ("--seed", str(seed))]
    line += [*_option("--split", testing.split), *_option("--pro", testing.pro)]
    line += [*_option("--fpr-limit", testing.fpr_limit), *_option("--reference", testing.references, 0)]
    line += [*_option("--limit", testing.limit), *_option("--batch-size", testing.batch_size), *shared]
    lines.append([*line, *_settings(testing.settings), "--out", str(testing.out)])
    lines.append(["zsad", "report", str(testing.out)])
    return [shlex.join(line) for line in lines]


def _option(name: str, value: Any, default: Any = None) -> list[str]:
    return [] if value is None or value == default else [name, str(value)]


def _settings(settings: Mapping[str, Any]) -> list[str]:
    """Settings as `--set` options."""
    return [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]

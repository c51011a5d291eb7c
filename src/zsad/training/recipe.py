"""Completes the settings of a training from the method's recipe, the options and the data."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from zsad.errors import ConfigError
from zsad.methods.base import TrainingDefaults

if TYPE_CHECKING:
    from zsad.data.auxiliary import AuxiliarySet
    from zsad.training.options import TrainOptions
    from zsad.types import Schedule

OPTIMIZERS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
TITLES = {"adam": "Adam", "adamw": "AdamW"}
NOT_CHOSEN = ("on", "notes", "mosaic")


def choose(
    published: TrainingDefaults, config: TrainOptions, sets: Sequence[AuxiliarySet], device_type: str
) -> TrainingDefaults:
    """Chooses the recipe of one training.

    If the authors train differently on several datasets that are used together, the settings on which these
    agree are taken, and otherwise those for any dataset. Mosaics are made from the datasets for which the
    authors make them.

    Args:
        published: recipe of the method.
        config: options of the training; those that are not None take precedence.
        sets: datasets of the training.
        device_type: type of the device; the precision of the recipe applies on "cuda" only.

    Returns:
        A recipe in which `on` holds only the chance of mosaics per dataset.

    Raises:
        ConfigError: mosaics of images without known categories, or more devices than images per step.
    """
    names = {each.known_as for each in sets} or {None}
    variants = [published.for_dataset(name) for name in names]
    chosen = published
    for field in (each.name for each in fields(TrainingDefaults) if each.name not in NOT_CHOSEN):
        wish = getattr(config, field)
        agreed = {getattr(variant, field) for variant in variants}
        value = wish if wish is not None else agreed.pop() if len(agreed) == 1 else getattr(published, field)
        chosen = replace(chosen, **{field: value})
    if config.precision is None and device_type != "cuda":
        chosen = replace(chosen, precision="fp32")
    if config.mosaic is not None:
        if config.mosaic and not sets:
            raise ConfigError("mosaics are made of images of one category: give datasets (--data) for them")
        chosen = replace(chosen, mosaic=config.mosaic, on={})
    else:
        chances = {name: published.for_dataset(name).mosaic for name in names if name is not None}
        chosen = replace(chosen, on={name: {"mosaic": each} for name, each in chances.items()})
    if chosen.batch_size < config.devices:
        raise ConfigError(
            f"{config.devices} devices cannot share the steps of {config.method}'s recipe, of "
            f"{chosen.batch_size} image each; use --batch-size {config.devices} or more, or fewer devices"
        )
    return chosen


def described(chosen: TrainingDefaults, published: TrainingDefaults, title: str) -> str:
    """Describes a recipe in one line, and names the settings that differ from those of the authors.

    Args:
        chosen: recipe from `choose`.
        published: recipe of the method.
        title: title of the method.

    Example:
        >>> recipe = TrainingDefaults(15, batch_size=8, learning_rate=1e-3)
        >>> print(described(replace(recipe, epochs=2), recipe, "X"))
        X's recipe but for epochs: 2 epochs, 8 images a step, Adam at 0.001 (betas 0.5 and 0.999), fp32
    """
    names = [each.name for each in fields(TrainingDefaults) if each.name not in NOT_CHOSEN]
    same = [published, *(published.for_dataset(name) for name in chosen.on)]
    changed = [
        name.replace("_", " ")
        for name in names
        if name != "precision" and getattr(chosen, name) not in [getattr(each, name) for each in same]
    ]
    parts = [
        f"{chosen.epochs} epoch{'s' * (chosen.epochs != 1)}",
        f"{chosen.batch_size} image{'s' * (chosen.batch_size != 1)} a step",
        f"{TITLES[chosen.optimizer]} at {chosen.learning_rate:g} "
        f"(betas {' and '.join(f'{beta:g}' for beta in chosen.betas)}"
        + (f", weight decay {chosen.weight_decay:g})" if chosen.weight_decay else ")"),
        *([] if chosen.schedule == "constant" else [f"{chosen.schedule} schedule"]),
        chosen.precision,
        *_mosaics(chosen),
    ]
    return f"{title}'s recipe{f' but for {_listed(changed)}' if changed else ''}: {', '.join(parts)}"


def _mosaics(chosen: TrainingDefaults) -> list[str]:
    """Describes which data get mosaics."""
    if chosen.mosaic:
        return [f"mosaics at a chance of {chosen.mosaic:g}"]
    chances = {name: changes["mosaic"] for name, changes in chosen.on.items()}
    return [f"mosaics at a chance of {each:g} on {name}" for name, each in chances.items() if each]


def _listed(names: Sequence[str]) -> str:
    """Joins names as in a sentence: a, b and c."""
    return " and ".join([*([", ".join(names[:-1])] if names[:-1] else []), names[-1]])


def make_optimizer(chosen: TrainingDefaults, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """Makes the optimiser of a recipe.

    Args:
        chosen: recipe from `choose`.
        parameters: learnt parameters.
    """
    kind: Any = OPTIMIZERS[chosen.optimizer]
    optimizer: torch.optim.Optimizer = kind(
        parameters, lr=chosen.learning_rate, betas=chosen.betas, weight_decay=chosen.weight_decay
    )
    return optimizer


def rate_factor(schedule: Schedule, step: int, steps: int) -> float:
    """The factor of the learning rate in a step.

    Args:
        schedule: "constant" (1), or "cosine" ((1 + cos(pi step / steps)) / 2).
        step: number of the step, from 0.
        steps: number of steps of the whole training.

    Example:
        >>> [round(rate_factor("cosine", step, 4), 3) for step in range(4)]
        [1.0, 0.854, 0.5, 0.146]
    """
    return 1.0 if schedule == "constant" else (1 + math.cos(math.pi * step / steps)) / 2

"""Completes the settings of a training from the method's recipe, the options and the data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from zsad.errors import ConfigError
from zsad.methods.training import TrainingDefaults

if TYPE_CHECKING:
    from zsad.data.auxiliary import AuxiliarySet
    from zsad.training.options import TrainOptions

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
        wish = getattr(config, field, None)  # some fields are no options: they are as the authors train
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
        *([f"warm-up over {chosen.warm_up:.0%} of the steps"] if chosen.warm_up else []),
        *([] if chosen.augmentation == "none" else [f"images {chosen.augmentation.replace('_', ' and ')}"]),
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


def make_optimizer(chosen: TrainingDefaults, parameters: Mapping[str, nn.Parameter]) -> torch.optim.Optimizer:
    """Makes the optimiser of a recipe.

    Args:
        chosen: recipe from `choose`.
        parameters: learnt parameters by name.
    """
    kind: Any = OPTIMIZERS[chosen.optimizer]
    groups = [{"params": list(parameters.values()), "factor": 1.0}]
    if chosen.rates:  # a group each, because the state on disk follows the order of the parameters
        groups = [
            {"params": [parameter], "factor": own_factor(chosen.rates, name)}
            for name, parameter in parameters.items()
        ]
    optimizer: torch.optim.Optimizer = kind(
        groups, lr=chosen.learning_rate, betas=chosen.betas, weight_decay=chosen.weight_decay
    )
    return optimizer


def own_factor(rates: Sequence[tuple[str, float]], name: str) -> float:
    """The multiple of the learning rate for a parameter.

    Args:
        rates: multiples by the beginning of names; the first that fits counts.
        name: name of the parameter.

    Example:
        >>> rates = (("prompts.", 10.0),)
        >>> own_factor(rates, "prompts.context"), own_factor(rates, "head.bias")
        (10.0, 1.0)
    """
    return next((factor for beginning, factor in rates if name.startswith(beginning)), 1.0)


def rate_factor(recipe: TrainingDefaults, step: int, steps: int) -> float:
    """The factor of the learning rate in a step.

    The warm-up grows in a line to 1. After it the schedule "cosine" gives (1 + cos(pi t / T)) / 2 in step t
    of the T that are left, and "steps" multiplies at each milestone.

    Args:
        recipe: recipe from `choose`.
        step: number of the step, from 0.
        steps: number of steps of the whole training.

    Example:
        >>> recipe = TrainingDefaults(1, batch_size=1, learning_rate=1.0, schedule="cosine")
        >>> [round(rate_factor(recipe, step, 4), 3) for step in range(4)]
        [1.0, 0.854, 0.5, 0.146]
        >>> [round(rate_factor(replace(recipe, warm_up=0.5), step, 4), 3) for step in range(4)]
        [0.5, 1.0, 1.0, 0.5]
    """
    warm = int(recipe.warm_up * steps)
    if step < warm:
        return (step + 1) / warm
    if recipe.schedule == "steps":
        return float(recipe.milestone_factor ** sum(step >= milestone for milestone in recipe.milestones))
    if recipe.schedule == "constant":
        return 1.0
    return (1 + math.cos(math.pi * (step - warm) / (steps - warm))) / 2

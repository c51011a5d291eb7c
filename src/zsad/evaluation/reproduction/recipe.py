"""Defines recipes: one row of a published table with everything that is needed to reproduce it.

The module does not import torch, so that recipes can be listed quickly.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, field, replace
from typing import Annotated, Any, Literal, TypeVar

from zsad.backbones.catalog import WELL_KNOWN
from zsad.data.catalog import list_datasets
from zsad.errors import ConfigError, unknown_name
from zsad.evaluation.published import NOTHING
from zsad.files.fields import Above, AtLeast, AtMost, Count, Share, shortened
from zsad.files.settings import build_config
from zsad.methods._registry import list_methods, method_class
from zsad.types import Optimizer, Schedule, TrainingPrecision  # noqa: TC001 - read by build_config

PartT = TypeVar("PartT")


@dataclass(frozen=True)
class TrainingPart:
    """The section `train` of a recipe: how the authors trained their weights.

    Attributes:
        data: names in the catalogue of the auxiliary datasets, which are trained on together.
        epochs: number of passes over the data.
        batch_size: number of images in a step.
        learning_rate: learning rate of the optimiser.
        optimizer: "adam" or "adamw".
        betas: coefficients of the optimiser's running averages.
        weight_decay: weight decay of the optimiser.
        schedule: schedule of the learning rate, "constant", "cosine" or "steps".
        precision: numeric precision of the network on a CUDA GPU; it is fp32 on other devices.
        mosaic: probability that a 2 x 2 mosaic replaces an image, for all datasets; None for the method's own
            value, which may differ between datasets.
        seed: seed of the initial weights and the order of the data.
        split: split of the datasets.
        settings: `Config` fields of the method that hold in this training only, such as its stage.
    """

    data: tuple[str, ...]
    epochs: Count
    batch_size: Count
    learning_rate: Annotated[float, Above(0)]
    optimizer: Optimizer
    betas: tuple[Share, Share]
    weight_decay: Annotated[float, AtLeast(0)]
    schedule: Schedule
    precision: TrainingPrecision
    mosaic: Share | None = None
    seed: Annotated[int, AtLeast(0)] = 111
    split: Literal["test", "all"] = "test"
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class EvaluationPart:
    """The section `test` of a recipe: what is tested, and how it is measured.

    Attributes:
        data: name of the dataset in the catalogue.
        split: split of the dataset.
        pro: definition of PRO: "script", on which most published numbers rest, or "exact".
        fpr_limit: false-positive rate at which the PRO curve is cut, in (0, 1].
        shots: number of references per category, taken from the training split.
        seeds: seeds, with one run for each; the choice of references depends on the seed.
        batch_size: number of images that are scored at once.
    """

    data: str
    split: Literal["test", "train", "all"] = "test"
    pro: Literal["script", "exact"] = "script"
    fpr_limit: Annotated[float, Above(0), AtMost(1)] = 0.3
    shots: Annotated[int, AtLeast(0)] = 0
    seeds: tuple[Annotated[int, AtLeast(0)], ...] = (0,)
    batch_size: Count = 8


@dataclass(frozen=True)
class Recipe:
    """One row of a published table.

    Attributes:
        name: name of its file, without the suffix.
        title: title for readers, one line.
        method: registry name of the method.
        backbone: name of the backbone, one of `zsad backbones`.
        image_size: side of the network's input in pixels.
        test: what is tested.
        settings: `Config` fields of the method, in the paper's terms.
        train: how the weights are learnt; None for a method that learns nothing.
        first_stage: how the weights are learnt that `train` starts from, for a method that learns in two
            stages; a file holds only what differs from `train`. None for one stage.
        checkpoint: the authors' own weights, a name in `zsad weights list`; None if they published none.
        published: source of the row, spelled as in `PublishedNumber.source`; None if no number is known.
        published_as: name of the system in the published tables, where it is a setting of the method (Crane+
            is "crane_plus"); None for the name of the method.
        assumptions: what the source leaves open, each with a mark that says how it was filled in.
    """

    name: str
    title: str
    method: str
    backbone: str
    image_size: Count
    test: EvaluationPart
    settings: Mapping[str, Any] = field(default_factory=dict)
    train: TrainingPart | None = None
    first_stage: TrainingPart | None = None
    checkpoint: str | None = None
    published: str | None = None
    published_as: str | None = None
    assumptions: tuple[str, ...] = ()

    @property
    def system(self) -> str:
        """Name of the system, spelled as in `PublishedNumber.method`."""
        return self.published_as or self.method

    @property
    def trained_on(self) -> str:
        """Auxiliary data, spelled as in `PublishedNumber.trained_on`."""
        return " + ".join(self.train.data) if self.train else NOTHING


def build_recipe(values: Mapping[str, Any], name: str) -> Recipe:
    """Builds a recipe from the plain values of its file.

    Args:
        values: values by the field names of `Recipe`, without `name`.
        name: name of the recipe.

    Raises:
        ConfigError: a key is missing or unknown (the message has the nearest known key), a value has the
            wrong type, or a method, backbone, dataset or checkpoint is unknown.
    """
    owner = f"recipe {name}"
    _known(
        f"key of {owner}", values, [each.name for each in dataclasses.fields(Recipe) if each.name != "name"]
    )
    built: dict[str, Any] = {**values, "name": name}
    settings = built.pop("settings", None) or {}
    if not isinstance(settings, Mapping):
        raise ConfigError(
            f"settings of {owner} must be a mapping of names to values, got {shortened(settings)}"
        )
    if isinstance(built.get("first_stage"), Mapping) and isinstance(built.get("train"), Mapping):
        built["first_stage"] = {**built["train"], **built["first_stage"]}
    for key, part in (("test", EvaluationPart), ("train", TrainingPart), ("first_stage", TrainingPart)):
        if built.get(key) is not None:
            built[key] = _part(part, built[key], f"{key} of {owner}")
    recipe = replace(_part(Recipe, built, owner), settings=lists_as_tuples(settings))
    _check_names(recipe)
    return recipe


def lists_as_tuples(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Turns lists among settings into tuples, the form in which the command line gives them."""
    return {name: tuple(each) if isinstance(each, list) else each for name, each in settings.items()}


def _part(kind: type[PartT], values: Any, owner: str) -> PartT:
    """Builds a section from plain values."""
    if not isinstance(values, Mapping):
        raise ConfigError(f"{owner} must be a mapping of names to values, got {shortened(values)}")
    assert dataclasses.is_dataclass(kind)  # noqa: S101 - a programmer's error, not a user's
    needed = [
        each.name
        for each in dataclasses.fields(kind)
        if each.default is MISSING and each.default_factory is MISSING
    ]
    # For a misspelt key, the message of `build_config`, which has the nearest name, is better.
    unknown = set(values) - {each.name for each in dataclasses.fields(kind)}
    missing = [name for name in needed if name not in values]
    if missing and not unknown:
        raise ConfigError(f"{owner} lacks {', '.join(missing)}")
    return build_config(kind, values, owner)


def _check_names(recipe: Recipe) -> None:
    """Refuses unknown names, and test data that are among the training data."""
    trained_on = recipe.train.data if recipe.train else ()
    _known(f"method of recipe {recipe.name}", [recipe.method], list_methods())
    _known(f"backbone of recipe {recipe.name}", [recipe.backbone], [each.name for each in WELL_KNOWN])
    _known(f"dataset of recipe {recipe.name}", [recipe.test.data, *trained_on], list_datasets())
    if recipe.test.data in trained_on:
        raise ConfigError(f"recipe {recipe.name} tests on {recipe.test.data}, which it trains on")


def check_checkpoint(recipe: Recipe) -> None:
    """Refuses a checkpoint that the authors of the method did not publish.

    It is apart from `build_recipe`, because it loads the method and with it torch, and a list of recipes
    needs neither.

    Raises:
        ConfigError: the name is unknown; the message has the nearest.
    """
    if recipe.checkpoint is not None:
        own = [record.name for record in method_class(recipe.method).WEIGHTS]
        _known(f"checkpoint of recipe {recipe.name}", [recipe.checkpoint], own)


def _known(kind: str, names: Iterable[str], known: Iterable[str]) -> None:
    choices = list(known)
    for name in names:
        if name not in choices:
            raise unknown_name(kind, name, choices)

"""What a recipe says: one row of a published table, with everything that is needed to produce it again.

No torch here, so that recipes can be listed at once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, field, replace
from typing import Any, Literal, TypeVar

from zsad.backbones.catalog import WELL_KNOWN
from zsad.data.catalog import list_datasets
from zsad.errors import ConfigError, unknown_name
from zsad.evaluation.published import NOTHING
from zsad.files.settings import build_config
from zsad.methods._registry import list_methods, method_class
from zsad.types import Optimizer, Schedule, TrainingPrecision  # noqa: TC001 - read by build_config

PartT = TypeVar("PartT")


@dataclass(frozen=True)
class TrainingPart:
    """The section `train` of a recipe: how the authors came to their weights.

    Attributes:
        data: auxiliary datasets by their names in the catalogue, trained on together.
        epochs: passes over the data.
        batch_size: images of a step.
        learning_rate: of the optimiser.
        optimizer: "adam" or "adamw".
        betas: of the optimiser.
        weight_decay: of the optimiser.
        schedule: of the learning rate, "constant" or "cosine".
        precision: of the network on a CUDA GPU; elsewhere it is fp32.
        mosaic: chance of a 2 x 2 mosaic in place of an image, on all data; None: as the method's own recipe,
            which may differ between datasets.
        seed: of initial weights and data order.
        split: of the datasets.
    """

    data: tuple[str, ...]
    epochs: int
    batch_size: int
    learning_rate: float
    optimizer: Optimizer
    betas: tuple[float, ...]
    weight_decay: float
    schedule: Schedule
    precision: TrainingPrecision
    mosaic: float | None = None
    seed: int = 111
    split: Literal["test", "all"] = "test"


@dataclass(frozen=True)
class EvaluationPart:
    """The section `test` of a recipe: what is tested, and how it is counted.

    Attributes:
        data: dataset by its name in the catalogue.
        split: of the dataset.
        pro: "script", as behind most published numbers, or "exact".
        fpr_limit: where the PRO curve is cut, in (0, 1].
        shots: good images of the training split that the method is given per category.
        seeds: a run for each; which images are given depends on it.
        batch_size: images that are scored at once.
    """

    data: str
    split: Literal["test", "train", "all"] = "test"
    pro: Literal["script", "exact"] = "script"
    fpr_limit: float = 0.3
    shots: int = 0
    seeds: tuple[int, ...] = (0,)
    batch_size: int = 8


@dataclass(frozen=True)
class Recipe:
    """One row of a published table.

    Attributes:
        name: of its file, without the suffix.
        title: one line for people.
        method: registry name.
        backbone: as for `zsad.load`; one of `zsad backbones`.
        image_size: pixels a side of the network's input.
        test: what is tested.
        settings: `Config` fields of the method, by the paper's terms.
        train: how the weights are learnt; None for a method that learns nothing.
        checkpoint: the authors' own weights, a name of `zsad weights list`; None where they published none.
        published: the source of the row, spelled as `PublishedNumber.source`; None where no number is known.
        assumptions: what the source leaves open, each with the mark of how it was filled in.
    """

    name: str
    title: str
    method: str
    backbone: str
    image_size: int
    test: EvaluationPart
    settings: Mapping[str, Any] = field(default_factory=dict)
    train: TrainingPart | None = None
    checkpoint: str | None = None
    published: str | None = None
    assumptions: tuple[str, ...] = ()

    @property
    def trained_on(self) -> str:
        """The auxiliary data as `PublishedNumber.trained_on` spells them."""
        return " + ".join(self.train.data) if self.train else NOTHING


def build_recipe(values: Mapping[str, Any], name: str) -> Recipe:
    """A recipe from the plain values of its file.

    Args:
        values: by the names of `Recipe`, without `name`.
        name: of the recipe.

    Raises:
        ConfigError: a key is unknown (the message has the nearest) or missing, a value has the wrong type, or
            a method, backbone or dataset is not known.
    """
    owner = f"recipe {name}"
    _known(
        f"key of {owner}", values, [each.name for each in dataclasses.fields(Recipe) if each.name != "name"]
    )
    built: dict[str, Any] = {**values, "name": name}
    settings = built.pop("settings", None) or {}
    if not isinstance(settings, Mapping):
        raise ConfigError(f"settings of {owner} must be a mapping of names to values, got {settings!r}")
    for key, part in (("test", EvaluationPart), ("train", TrainingPart)):
        if built.get(key) is not None:
            built[key] = _part(part, built[key], f"{key} of {owner}")
    recipe = replace(_part(Recipe, built, owner), settings=lists_as_tuples(settings))
    _check_names(recipe)
    return recipe


def lists_as_tuples(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as a command line gives them."""
    return {name: tuple(each) if isinstance(each, list) else each for name, each in settings.items()}


def _part(kind: type[PartT], values: Any, owner: str) -> PartT:
    """A section from plain values."""
    if not isinstance(values, Mapping):
        raise ConfigError(f"{owner} must be a mapping of names to values, got {values!r}")
    assert dataclasses.is_dataclass(kind)  # noqa: S101 - a programmer's error, not a user's
    needed = [
        each.name
        for each in dataclasses.fields(kind)
        if each.default is MISSING and each.default_factory is MISSING
    ]
    # A name that is nearly right is the better message, and `build_config` has it.
    unknown = set(values) - {each.name for each in dataclasses.fields(kind)}
    missing = [name for name in needed if name not in values]
    if missing and not unknown:
        raise ConfigError(f"{owner} lacks {', '.join(missing)}")
    return build_config(kind, values, owner)


def _check_names(recipe: Recipe) -> None:
    """Refuses names that nothing stands behind, and testing on what was trained on."""
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

"""Turns a recipe and the options into trainings, one evaluation, and the list of deviations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zsad.backbones.devices import PRECISIONS
from zsad.errors import ConfigError, unknown_name

if TYPE_CHECKING:
    from zsad.evaluation.options import EvaluateOptions
    from zsad.evaluation.reproduction.recipe import Recipe, TrainingPart
    from zsad.training.options import TrainOptions

WEIGHTS_FILE, TRAINING_FOLDER = "weights.safetensors", "weights.training"
FIRST_STAGE_FILE = "first_stage.safetensors"
CACHE_FOLDER = "features"


@dataclass(frozen=True, kw_only=True)
class ReproduceOptions:
    """Which row of a published table to produce, and where to differ from its recipe. None: as the recipe.

    Attributes:
        recipe: the recipe of the row.
        out: folder for weights, results and page.
        data: folder of each dataset, by the dataset's name in `zsad data list`.
        weights: learnt weights in place of those of the recipe, as for `zsad.load(checkpoint=...)`.
        retrain: whether to train although the authors published weights.
        backbone: backbone as for `zsad.load`.
        image_size: side of the network's input, in pixels; None with another backbone: the size that the
            backbone was made for.
        epochs: number of epochs of the training.
        limit: maximum number of test images per category; None for all.
        device: device as for `zsad.load`.
        devices: number of processes or GPUs that share the work.
        precision: precision of training and evaluation; None: as in the recipe for training, fp32 for
            evaluation.
        cache: whether to keep the features of the training images on disk until the training is over.
        resume: whether to continue with what is in `out`.
    """

    recipe: Recipe
    out: Path
    data: Mapping[str, Path] = field(default_factory=dict)
    weights: str | None = None
    retrain: bool = False
    backbone: str | None = None
    image_size: int | None = None
    epochs: int | None = None
    limit: int | None = None
    device: str | None = None
    devices: int = 1
    precision: str | None = None
    cache: bool = True
    resume: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "out", Path(self.out).expanduser())
        for name in ("image_size", "epochs", "limit", "devices"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be at least 1, got {value!r}")
        if self.precision is not None and self.precision not in PRECISIONS:
            raise unknown_name("precision", self.precision, PRECISIONS)
        if self.retrain and self.weights is not None:
            raise ConfigError("--train learns new weights and --weights gives them: choose one")
        if self.retrain and self.recipe.train is None:
            raise ConfigError(f"{self.recipe.method} has nothing to train; leave --train out")
        if self.epochs is not None and not self.trains:
            raise ConfigError("--epochs without a training: add --train, or leave it out")

    @property
    def has_other_backbone(self) -> bool:
        """Whether the backbone is not that of the recipe, so that the authors' weights do not fit it."""
        return self.backbone is not None and self.backbone != self.recipe.backbone

    @property
    def trains(self) -> bool:
        """Whether the weights are trained in this run."""
        if self.recipe.train is None or self.weights is not None:
            return False
        return self.retrain or self.has_other_backbone or self.recipe.checkpoint is None

    @property
    def datasets(self) -> tuple[str, ...]:
        """The datasets that the run needs, by their names in the catalogue."""
        auxiliary = self.recipe.train.data if self.recipe.train and self.trains else ()
        return (*auxiliary, self.recipe.test.data)


def deviations(options: ReproduceOptions) -> tuple[str, ...]:
    """Each difference from the recipe as one line; () if there is none."""
    recipe = options.recipe
    found = []
    if options.has_other_backbone:
        found.append(f"backbone {options.backbone} in place of {recipe.backbone}")
        left = [name for name in recipe.settings if name not in method_settings(options)]
        if left:
            found.append(f"{', '.join(left)} as that backbone allows")
    size = image_size(options)
    if size != recipe.image_size:
        shown = "its own image size" if size is None else f"images of {size} pixels"
        found.append(f"{shown} in place of {recipe.image_size}")
    if options.weights is not None and options.weights != recipe.checkpoint:
        found.append(f"weights {options.weights} in place of the recipe's")
    if options.trains and recipe.train and options.epochs not in (None, recipe.train.epochs):
        found.append(f"epochs {options.epochs} in place of {recipe.train.epochs}")
    if options.precision is not None:
        found.append(f"precision {options.precision}")
    if options.limit is not None:
        found.append(f"at most {options.limit} test images of a category")
    return tuple(found)


def image_size(options: ReproduceOptions) -> int | None:
    """Side of the network's input, in pixels; None: the size that another backbone was made for."""
    if options.image_size is not None:
        return options.image_size
    return None if options.has_other_backbone else options.recipe.image_size


def method_settings(options: ReproduceOptions) -> dict[str, Any]:
    """The settings of the recipe; on another backbone without those that a method derives from its backbone.

    A method derives the fields of its `Config` whose default is None, such as numbers of layers.
    """
    from zsad.methods._registry import method_class

    settings = dict(options.recipe.settings)
    if not options.has_other_backbone:
        return settings
    config = method_class(options.recipe.method).Config
    return {name: value for name, value in settings.items() if getattr(config, name, None) is not None}


def trainings_of(options: ReproduceOptions, folders: Mapping[str, Path]) -> tuple[TrainOptions, ...]:
    """The trainings, one for each stage; the second starts from the weights of the first. () for none.

    Args:
        options: recipe and deviations from it.
        folders: folder of each dataset, from `zsad.evaluation.reproduction.datasets.locate`.
    """
    recipe = options.recipe
    if recipe.train is None or not options.trains:
        return ()
    last = _training(options, folders, recipe.train, options.out / WEIGHTS_FILE)
    if recipe.first_stage is None:
        return (last,)
    first = _training(options, folders, recipe.first_stage, options.out / FIRST_STAGE_FILE)
    return (first, replace(last, checkpoint=first.out))


def _training(
    options: ReproduceOptions, folders: Mapping[str, Path], part: TrainingPart, out: Path
) -> TrainOptions:
    """The training of one stage."""
    from zsad.methods._registry import method_class
    from zsad.training.options import TrainOptions

    kind, settings = method_class(options.recipe.method), {**method_settings(options), **part.settings}
    published = kind.training_defaults(settings)
    is_changed = published is not None and published.augmentation != "none"
    can_cache = kind.cached_features(settings) is not None and not is_changed
    return TrainOptions(
        out=out,
        data=tuple(f"{name}:{folders[name]}" for name in part.data),
        split=part.split,
        method=options.recipe.method,
        backbone=options.backbone or options.recipe.backbone,
        epochs=options.epochs or part.epochs,
        batch_size=part.batch_size,
        optimizer=part.optimizer,
        learning_rate=part.learning_rate,
        betas=(part.betas[0], part.betas[-1]),
        weight_decay=part.weight_decay,
        schedule=part.schedule,
        mosaic=part.mosaic,
        seed=part.seed,
        image_size=image_size(options),
        device=options.device,
        devices=options.devices,
        precision=options.precision or (part.precision if _is_cuda(options.device) else "fp32"),  # type: ignore[arg-type] # checked there
        settings=settings,
        resume=options.resume,
        cache=options.out / CACHE_FOLDER if options.cache and can_cache else None,
    )


def evaluation_of(options: ReproduceOptions, folders: Mapping[str, Path]) -> EvaluateOptions:
    """The evaluation.

    Args:
        options: recipe and deviations from it.
        folders: folder of each dataset, from `zsad.evaluation.reproduction.datasets.locate`.
    """
    from zsad.evaluation.options import EvaluateOptions

    recipe, part = options.recipe, options.recipe.test
    checkpoint = options.weights
    if checkpoint is None:
        checkpoint = str(options.out / WEIGHTS_FILE) if options.trains else recipe.checkpoint
    return EvaluateOptions(
        data=(f"{part.data}:{folders[part.data]}",),
        out=options.out,
        methods=(recipe.method,),
        backbones=(options.backbone or recipe.backbone,),
        checkpoint=checkpoint,
        seeds=part.seeds,
        split=part.split,
        pro=part.pro,
        fpr_limit=part.fpr_limit,
        references=part.shots,
        limit=options.limit,
        image_size=image_size(options),
        batch_size=part.batch_size,
        settings=method_settings(options),
        precision=options.precision,
        device=options.device,
        devices=options.devices,
        resume=options.resume,
    )


def _is_cuda(device: str | None) -> bool:
    import torch

    return torch.cuda.is_available() if device is None else device.startswith("cuda")

"""From a recipe and a user's wishes to one training, one evaluation, and what is not as published."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zsad.errors import ConfigError

if TYPE_CHECKING:
    from zsad.evaluation.options import EvaluationOptions
    from zsad.evaluation.reproduction.recipe import Recipe
    from zsad.training.options import TrainConfig

WEIGHTS_FILE, TRAINING_FOLDER = "weights.safetensors", "weights.training"
CACHE_FOLDER = "features"


@dataclass(frozen=True)
class Request:
    """What `zsad reproduce` is asked for. Where None says so, the recipe decides.

    Attributes:
        recipe: the row to produce.
        out: folder for weights, results and page.
        data: folders by dataset names of the catalogue.
        weights: learnt weights in place of the recipe's, as for `zsad.load(checkpoint=...)`.
        train_anew: train, although the authors published weights.
        backbone: as for `zsad.load`; None: the recipe's.
        image_size: pixels a side; None: the recipe's, or with another backbone what that was made for.
        epochs: of the training; None: the recipe's.
        limit: at most so many test images of a category; None for all.
        device: as for `zsad.load`.
        devices: processes or GPUs that share the work.
        precision: of training and evaluation; None: the recipe's in training, fp32 in evaluation.
        cache: whether to keep the features of training images on the disk until the training is over.
        resume: go on with what is in `out`.
    """

    recipe: Recipe
    out: Path
    data: Mapping[str, Path] = field(default_factory=dict)
    weights: str | None = None
    train_anew: bool = False
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
        if self.train_anew and self.weights is not None:
            raise ConfigError("--train learns new weights and --weights gives them: choose one")
        if self.train_anew and self.recipe.train is None:
            raise ConfigError(f"{self.recipe.method} has nothing to train; leave --train out")
        if self.epochs is not None and not self.trains:
            raise ConfigError("--epochs without a training: add --train, or leave it out")

    @property
    def has_other_backbone(self) -> bool:
        """Whether another network than the recipe's is asked for, which the authors' weights do not fit."""
        return self.backbone is not None and self.backbone != self.recipe.backbone

    @property
    def trains(self) -> bool:
        """Whether weights are learnt here."""
        if self.recipe.train is None or self.weights is not None:
            return False
        return self.train_anew or self.has_other_backbone or self.recipe.checkpoint is None

    @property
    def datasets(self) -> tuple[str, ...]:
        """The datasets that are needed, by their names in the catalogue."""
        auxiliary = self.recipe.train.data if self.recipe.train and self.trains else ()
        return (*auxiliary, self.recipe.test.data)


def deviations(request: Request) -> tuple[str, ...]:
    """What is not as in the recipe, one line each; () if everything is."""
    recipe = request.recipe
    found = []
    if request.has_other_backbone:
        found.append(f"backbone {request.backbone} in place of {recipe.backbone}")
        left = [name for name in recipe.settings if name not in method_settings(request)]
        if left:
            found.append(f"{', '.join(left)} as that backbone allows")
    size = image_size(request)
    if size != recipe.image_size:
        shown = "its own image size" if size is None else f"images of {size} pixels"
        found.append(f"{shown} in place of {recipe.image_size}")
    if request.weights is not None and request.weights != recipe.checkpoint:
        found.append(f"weights {request.weights} in place of the recipe's")
    if request.trains and recipe.train and request.epochs not in (None, recipe.train.epochs):
        found.append(f"epochs {request.epochs} in place of {recipe.train.epochs}")
    if request.precision is not None:
        found.append(f"precision {request.precision}")
    if request.limit is not None:
        found.append(f"at most {request.limit} test images of a category")
    return tuple(found)


def image_size(request: Request) -> int | None:
    """Pixels a side; None: what another backbone was made for."""
    if request.image_size is not None:
        return request.image_size
    return None if request.has_other_backbone else request.recipe.image_size


def method_settings(request: Request) -> dict[str, Any]:
    """The recipe's settings; on another backbone without those that a method derives from its backbone.

    Those are the fields of its `Config` whose default is None, as numbers of blocks are.
    """
    from zsad.methods._registry import method_class

    settings = dict(request.recipe.settings)
    if not request.has_other_backbone:
        return settings
    config = method_class(request.recipe.method).Config
    return {name: value for name, value in settings.items() if getattr(config, name, None) is not None}


def training_of(request: Request, folders: Mapping[str, Path]) -> TrainConfig | None:
    """The training; None if none is needed.

    Args:
        request: what is asked for.
        folders: from `zsad.evaluation.reproduction.datasets.locate`.
    """
    part = request.recipe.train
    if part is None or not request.trains:
        return None
    from zsad.methods._registry import method_class
    from zsad.training.options import TrainConfig

    can_cache = method_class(request.recipe.method).FEATURES is not None
    return TrainConfig(
        out=request.out / WEIGHTS_FILE,
        data=tuple(f"{name}:{folders[name]}" for name in part.data),
        split=part.split,
        method=request.recipe.method,
        backbone=request.backbone or request.recipe.backbone,
        epochs=request.epochs or part.epochs,
        batch_size=part.batch_size,
        optimizer=part.optimizer,
        learning_rate=part.learning_rate,
        betas=(part.betas[0], part.betas[-1]),
        weight_decay=part.weight_decay,
        schedule=part.schedule,
        mosaic=part.mosaic,
        seed=part.seed,
        image_size=image_size(request),
        device=request.device,
        devices=request.devices,
        precision=request.precision or (part.precision if _is_cuda(request.device) else "fp32"),  # type: ignore[arg-type] # checked there
        settings=method_settings(request),
        resume=request.resume,
        cache=request.out / CACHE_FOLDER if request.cache and can_cache else None,
    )


def evaluation_of(request: Request, folders: Mapping[str, Path]) -> EvaluationOptions:
    """The evaluation.

    Args:
        request: what is asked for.
        folders: from `zsad.evaluation.reproduction.datasets.locate`.
    """
    from zsad.evaluation.options import EvaluationOptions

    recipe, part = request.recipe, request.recipe.test
    checkpoint = request.weights
    if checkpoint is None:
        checkpoint = str(request.out / WEIGHTS_FILE) if request.trains else recipe.checkpoint
    return EvaluationOptions(
        data=(f"{part.data}:{folders[part.data]}",),
        out=request.out,
        methods=(recipe.method,),
        backbones=(request.backbone or recipe.backbone,),
        checkpoint=checkpoint,
        seeds=part.seeds,
        split=part.split,
        pro=part.pro,
        fpr_limit=part.fpr_limit,
        references=part.shots,
        limit=request.limit,
        image_size=image_size(request),
        batch_size=part.batch_size,
        settings=method_settings(request),
        precision=request.precision,
        device=request.device,
        devices=request.devices,
        resume=request.resume,
    )


def _is_cuda(device: str | None) -> bool:
    import torch

    return torch.cuda.is_available() if device is None else device.startswith("cuda")

"""What to train and how, and what came of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from zsad.errors import ConfigError, unknown_name
from zsad.training.cache import STORED_AS, CachePrecision
from zsad.types import Optimizer, Schedule, TrainingPrecision

if TYPE_CHECKING:
    from zsad.backbones.clip import CLIP
    from zsad.methods.base import TrainingDefaults

CHOICES = {"optimizer": Optimizer, "schedule": Schedule, "precision": TrainingPrecision}


@dataclass(frozen=True)
class TrainConfig:
    """One training. Where None says so, the method's `TRAINING` decides, which is how its authors train it.

    Attributes:
        out: the file to write, as `Detector.save` does.
        data: datasets, trained on together, each as `zsad.data.folder.open_datasets` takes it.
        split: "test", the papers' protocol (both classes, with masks), or "all": also the training images.
        method: registry name.
        backbone: as for `zsad.load`.
        epochs: passes over the data; the last one's weights are the result. None: the recipe's.
        batch_size: images a step, of all devices together. None: the recipe's.
        optimizer: "adam" or "adamw". None: the recipe's.
        learning_rate: of the optimiser. None: the recipe's.
        betas: of the optimiser. None: the recipe's.
        weight_decay: of the optimiser. None: the recipe's.
        schedule: of the learning rate, "constant" or "cosine". None: the recipe's.
        mosaic: chance of a 2 x 2 mosaic in place of an image, on all data. None: the recipe's, which may
            differ between datasets.
        seed: of the initial weights, the data order and everything else that is random.
        image_size: pixels a side; None as for `zsad.load`.
        device: as for `zsad.load`; with several devices "cuda" or "cpu".
        devices: GPUs (or processes on the CPU) that share the images of each step; the result is that of
            one to rounding.
        precision: "fp32"; "bf16" or "fp16" run the network under autocast, weights and optimiser stay fp32.
            None: the recipe's on a CUDA GPU, elsewhere fp32.
        settings: the method's Config fields.
        auxiliary_data: what to record as the training data; empty: the names of datasets and categories.
        workers: threads of a process that read images ahead; the result does not depend on it.
        resume: go on from the last checkpoint, if there is one.
        overwrite: start anew although there is a checkpoint or a result.
        cache: folder for the features of the images, which are computed once and then read, for methods
            with a frozen image encoder; several trainings may share it. None: the tower runs in every epoch,
            with the same result to rounding.
        cache_precision: of the numbers in the cache; "bf16" and "fp16" halve its size and round.
        tensorboard: whether to write event files for TensorBoard, besides the CSV log.
    """

    out: Path
    data: tuple[str | Path, ...] = ()
    split: Literal["test", "all"] = "test"
    method: str = "anomalyclip"
    backbone: str | Path | CLIP | None = None
    epochs: int | None = None
    batch_size: int | None = None
    optimizer: Optimizer | None = None
    learning_rate: float | None = None
    betas: tuple[float, float] | None = None
    weight_decay: float | None = None
    schedule: Schedule | None = None
    mosaic: float | None = None
    seed: int = 111
    image_size: int | None = None
    device: str | None = None
    devices: int = 1
    precision: TrainingPrecision | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    auxiliary_data: str = ""
    workers: int = 2
    resume: bool = False
    overwrite: bool = False
    cache: Path | None = None
    cache_precision: CachePrecision = "fp32"
    tensorboard: bool = False

    def __post_init__(self) -> None:
        self._check_numbers()
        self._check_names()
        if self.cache is None and self.cache_precision != "fp32":
            raise ConfigError(
                f"cache precision {self.cache_precision} without a cache: say where, as in --cache FOLDER"
            )
        if self.resume and self.overwrite:
            raise ConfigError("resume goes on with a training and overwrite discards it: choose one")
        if self.batch_size is not None and self.batch_size < self.devices:
            raise ConfigError(
                f"a batch of {self.batch_size} cannot be shared by {self.devices} devices; use --batch-size "
                f"{self.devices} or more"
            )

    @property
    def folder(self) -> Path:
        """Where checkpoint and log lie: `prompts.training` beside `prompts.safetensors`."""
        return Path(self.out).with_suffix(".training")

    def _check_numbers(self) -> None:
        for name in ("epochs", "batch_size", "workers", "devices"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise ConfigError(f"{name} must be a whole number of at least 1, got {value!r}")
        if self.learning_rate is not None and not 0 < self.learning_rate < math.inf:
            raise ConfigError(f"learning rate must be a number above 0, got {self.learning_rate!r}")
        if self.betas is not None and not all(0 <= beta < 1 for beta in self.betas):
            raise ConfigError(f"betas of the optimiser must lie in [0, 1), got {self.betas!r}")
        if self.weight_decay is not None and not 0 <= self.weight_decay < math.inf:
            raise ConfigError(f"weight decay must be 0 or more, got {self.weight_decay!r}")
        if self.mosaic is not None and not 0 <= self.mosaic <= 1:
            raise ConfigError(f"mosaic is a chance in [0, 1], got {self.mosaic!r}")
        if self.seed < 0:
            raise ConfigError(f"seed must be 0 or more, got {self.seed!r}")

    def _check_names(self) -> None:
        if self.split not in ("test", "all"):
            raise unknown_name("split for training", self.split, ["test", "all"])
        for name, kind in CHOICES.items():
            value = getattr(self, name)
            if value is not None and value not in get_args(kind):
                raise unknown_name(name, value, get_args(kind))
        if self.cache_precision not in STORED_AS:
            raise unknown_name("cache precision", self.cache_precision, STORED_AS)


@dataclass(frozen=True)
class TrainResult:
    """What came of a training.

    Attributes:
        path: the written weights, for `zsad.load(checkpoint=...)`.
        log: the CSV file with the terms of the loss, a line per step.
        losses: mean loss of each epoch.
        resumed_from: finished epochs that were found on the disk, 0 for a new training.
        seconds: what this run took.
        recipe: what was trained with, everything filled in.
        description: the recipe in one line, and where it is not the authors'.
    """

    path: Path
    log: Path
    losses: tuple[float, ...]
    resumed_from: int
    seconds: float
    recipe: TrainingDefaults
    description: str

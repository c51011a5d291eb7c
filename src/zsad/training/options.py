"""Options and result of a training; no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from zsad.detector.support import DEFAULT_METHOD
from zsad.errors import ConfigError, unknown_name
from zsad.files.settings import one_or_more
from zsad.images.limits import common_depth
from zsad.methods._registry import known_name
from zsad.types import Augmentation, Optimizer, Schedule, TrainingPrecision

if TYPE_CHECKING:
    from zsad.backbones.clip import CLIP
    from zsad.methods.training import TrainingDefaults

Split = Literal["test", "all"]
CHOICES = {
    "split": Split,
    "optimizer": Optimizer,
    "schedule": Schedule,
    "precision": TrainingPrecision,
    "augmentation": Augmentation,
    "cache_precision": TrainingPrecision,
}


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """What to train, on what and how. None means: as the authors of the method train it, in its `TRAINING`.

    Attributes:
        out: file to write the learnt weights to (.safetensors).
        data: datasets to train on together, each as `zsad.data.folder.open_datasets` takes it.
        normal_labels: labels and names of class folders that alone mean "normal"; None: known words.
        include_results: whether images that zsad wrote itself count as images of a dataset.
        split: "test", the protocol of the papers (normal and anomalous images, with masks), or "all", which
            adds the normal training images.
        method: name of the method.
        backbone: backbone to train on, as for `zsad.load`.
        epochs: number of passes over the data; the weights after the last one are the result.
        batch_size: number of images per step, over all devices.
        optimizer: "adam" or "adamw".
        learning_rate: learning rate of the optimiser, above 0.
        betas: decay rates of the optimiser's two moments, in [0, 1).
        weight_decay: weight decay of the optimiser, 0 or more.
        schedule: course of the learning rate, "constant" or "cosine".
        mosaic: chance of a 2 x 2 mosaic in place of an image, in [0, 1], on all data. None: as the authors
            train, which may differ between datasets.
        augmentation: random changes of each image and its mask: "none", "shifted", "shifted_coloured" or
            "varied", from `zsad.data.augmentation`.
        held_out: number of categories of the data that are kept back to judge each epoch by; 0 for none.
        patience: number of epochs without a better one after which training ends early; 0 for never.
        checkpoint: weights to start from, as `zsad.load` takes them, such as the first of two stages; None
            for new weights.
        seed: seed of the initial weights, the data order and everything else that is random.
        image_size: side of the network's input, in pixels; None as for `zsad.load`.
        bits: depth of the values in 16-bit files, 1 to 16; None for what the files state.
        device: device as for `zsad.load`; with several devices "cuda" or "cpu".
        devices: number of GPUs, or of processes on the CPU, that share the images of each step. The result
            equals that of one device to rounding.
        precision: "fp32", or "bf16" or "fp16": the network runs under autocast, weights and optimiser stay
            fp32. None: as the authors train on a CUDA GPU, else fp32.
        settings: settings of the method, by the names of its `Config`.
        auxiliary_data: description of the training data to store with the weights; empty: the names of
            datasets and categories.
        workers: number of threads of each process that read images ahead; the result does not depend on it.
        resume: whether to continue from the last finished epoch, if there is one.
        overwrite: whether to start over although there is a finished epoch or a result.
        cache: folder for the features of the images, which are computed once and read in later epochs; for
            methods with a frozen image encoder. Several trainings may share it. None: the image encoder runs
            in every epoch, with the same result to rounding.
        cache_precision: precision of the numbers in the cache; "bf16" and "fp16" halve its size and round.
        tensorboard: whether to write event files for TensorBoard besides the CSV log.
    """

    out: str | Path
    data: tuple[str | Path, ...] = ()
    normal_labels: tuple[str, ...] | None = None
    include_results: bool = False
    split: Split = "test"
    method: str = DEFAULT_METHOD
    backbone: str | Path | CLIP | None = None
    epochs: int | None = None
    batch_size: int | None = None
    optimizer: Optimizer | None = None
    learning_rate: float | None = None
    betas: tuple[float, float] | None = None
    weight_decay: float | None = None
    schedule: Schedule | None = None
    mosaic: float | None = None
    augmentation: Augmentation | None = None
    held_out: int | None = None
    patience: int | None = None
    checkpoint: str | Path | tuple[str | Path, ...] | None = None
    seed: int = 111
    image_size: int | None = None
    bits: int | None = None
    device: str | None = None
    devices: int = 1
    precision: TrainingPrecision | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    auxiliary_data: str = ""
    workers: int = 2
    resume: bool = False
    overwrite: bool = False
    cache: Path | None = None
    cache_precision: TrainingPrecision = "fp32"
    tensorboard: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "bits", common_depth(self.bits))
        self._check_names()
        self._check_numbers()
        if self.cache is None and self.cache_precision != "fp32":
            raise ConfigError(
                f"cache precision {self.cache_precision} without a cache: give a folder, as in --cache DIR"
            )
        if self.resume and self.overwrite:
            raise ConfigError("resume continues a training and overwrite discards it: choose one")
        if self.batch_size is not None and self.batch_size < self.devices:
            raise ConfigError(
                f"a batch of {self.batch_size} cannot be shared by {self.devices} devices; use --batch-size "
                f"{self.devices} or more"
            )

    @property
    def folder(self) -> Path:
        """Folder of finished epoch and log: `prompts.training` beside `prompts.safetensors`."""
        return Path(self.out).with_suffix(".training")

    def _check_numbers(self) -> None:
        for name in ("held_out", "patience"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
                raise ConfigError(f"{name} must be a whole number of at least 0, got {value!r}")
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
        object.__setattr__(self, "method", known_name(self.method))
        object.__setattr__(self, "out", Path(self.out).expanduser())
        object.__setattr__(self, "data", one_or_more(self.data))
        if self.cache is not None:
            object.__setattr__(self, "cache", Path(self.cache).expanduser())
        for name, kind in CHOICES.items():
            value = getattr(self, name)
            if value is not None and value not in get_args(kind):
                raise unknown_name(name.replace("_", " "), value, get_args(kind))


@dataclass(frozen=True)
class TrainResult:
    """What a training has written.

    Attributes:
        path: file of the learnt weights, for `zsad.load(checkpoint=...)`.
        log: CSV file with the terms of the loss, one line per step.
        losses: mean loss of each epoch.
        resumed_from: number of finished epochs that the training continued from; 0 for a new training.
        seconds: wall time of this run.
        recipe: the recipe of this training, with every field filled in.
        description: the recipe in one line, and where it differs from the authors'.
        left_out: one line for each dataset whose folder holds images that were not trained on.
    """

    path: Path
    log: Path
    losses: tuple[float, ...]
    resumed_from: int
    seconds: float
    recipe: TrainingDefaults
    description: str
    left_out: tuple[str, ...] = ()

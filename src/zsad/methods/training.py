"""How the authors of a method train it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from zsad.types import Augmentation, Optimizer, Schedule, TrainingPrecision


@dataclass(frozen=True)
class TrainingDefaults:
    """How the authors of a method train it: what `zsad train` does where the user says nothing.

    Attributes:
        epochs: passes over the data; the weights of the last one are the result.
        batch_size: images per step.
        learning_rate: learning rate of the optimiser at the start.
        optimizer: "adam", or "adamw" (weight decay apart from the gradients).
        betas: decay rates of the optimiser's two moments.
        weight_decay: weight decay of the optimiser.
        schedule: "constant", "cosine": down to 0 along half a wave over all steps, or "steps": multiplied by
            `milestone_factor` at each of the `milestones`.
        warm_up: share of all steps, in [0, 1), over which the learning rate first grows from 0 in a line.
        milestones: numbers of the steps, from 0, at which the schedule "steps" changes the learning rate.
        milestone_factor: factor of the learning rate at a milestone.
        rates: learning rates of some parameters as multiples of `learning_rate`, by the beginning of their
            names; the first that fits counts, and 1 for all others.
        precision: precision of the network on a CUDA GPU (autocast, weights stay fp32); fp32 elsewhere.
        mosaic: probability that a 2 x 2 mosaic of images of its category replaces an image.
        mosaic_of: kinds of images that mosaics are made of: "all", or "anomalous" for images with a defect.
        augmentation: random changes of each image and its mask, from `zsad.data.augmentation`; "none" for
            none.
        held_out: number of categories of the training data that are kept back to judge each epoch by; 0
            for none. The weights of the best epoch are then the result.
        patience: number of epochs without a better one after which training ends early; 0 for never.
        judged_by: metric that compares epochs, on the categories held out.
        on: settings that differ on an auxiliary dataset, by the name of the dataset in the catalogue.
        notes: whatever else the authors do, and what is done differently here.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    optimizer: Optimizer = "adam"
    betas: tuple[float, float] = (0.5, 0.999)
    weight_decay: float = 0.0
    schedule: Schedule = "constant"
    warm_up: float = 0.0
    milestones: tuple[int, ...] = ()
    milestone_factor: float = 0.5
    rates: tuple[tuple[str, float], ...] = ()
    precision: TrainingPrecision = "fp32"
    mosaic: float = 0.0
    mosaic_of: Literal["all", "anomalous"] = "all"
    augmentation: Augmentation = "none"
    held_out: int = 0
    patience: int = 0
    judged_by: Literal["pixel_ap", "image_ap"] = "pixel_ap"
    on: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    notes: str = ""

    def for_dataset(self, name: str | None) -> TrainingDefaults:
        """The defaults with the settings for a dataset filled in; None stands for a dataset of no paper.

        Example:
            >>> defaults = TrainingDefaults(15, batch_size=8, learning_rate=1e-3, on={"mvtec": {"epochs": 3}})
            >>> defaults.for_dataset("mvtec").epochs, defaults.for_dataset(None).epochs
            (3, 15)
        """
        return replace(self, **self.on.get(name or "", {}))

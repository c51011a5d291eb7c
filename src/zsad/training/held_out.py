"""Categories of the training data that are kept back to judge each epoch by.

Early stopping needs images that training does not see. Several papers take the test images of the target,
which makes their numbers depend on target labels; here they are categories of the auxiliary data itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from zsad.data.samples import load_sample
from zsad.errors import ConfigError
from zsad.metrics import image_ap, pixel_ap
from zsad.training.labels import count_masks

if TYPE_CHECKING:
    from torch import Tensor

    from zsad.detector.detector import Detector
    from zsad.training.data import TrainingData
    from zsad.types import Sample

AT_ONCE = 8
Judge = Literal["pixel_ap", "image_ap"]


@dataclass
class HeldOut:
    """The images that epochs are judged by, and the best epoch so far.

    Attributes:
        samples: images of the categories that are kept back.
        categories: names of these categories.
        judged_by: metric, as a mean over the categories.
        patience: number of epochs without a better one after which training ends; 0 for never.
        qualities: metric after each finished epoch.
        best: learnt tensors of the best epoch, by name; empty before the first.
    """

    samples: Sequence[Sample]
    categories: tuple[str, ...]
    judged_by: Judge
    patience: int
    qualities: list[float] = field(default_factory=list)
    best: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def is_over(self) -> bool:
        """Whether the last epochs, as many as `patience`, were no better than the one before them."""
        if not self.patience or len(self.qualities) <= self.patience:
            return False
        return max(self.qualities[-self.patience :]) <= max(self.qualities[: -self.patience])

    def judge(self, detector: Detector) -> float:
        """Measures the present weights and keeps them if they are the best so far.

        Returns:
            The metric, in [0, 1].
        """
        found = quality(detector, self.samples, self.judged_by)
        if not self.qualities or found > max(self.qualities):
            self.best = {name: tensor.cpu() for name, tensor in detector.method.learned_state().items()}
        self.qualities.append(found)
        return found


def set_apart(data: TrainingData, count: int) -> tuple[TrainingData, Sequence[Sample], tuple[str, ...]]:
    """Takes the last categories of the training data, in the order of the alphabet.

    Args:
        data: training data on disk.
        count: number of categories.

    Returns:
        The data without these categories, their samples, and their names.

    Raises:
        ConfigError: the images come from Python, or fewer than twice as many categories hold both normal and
            anomalous images.
    """
    by_category: dict[str, set[int]] = {}
    for sample in data.items if data.sets else ():
        by_category.setdefault(sample.category, set()).add(sample.label)
    usable = sorted(name for name, labels in by_category.items() if labels == {0, 1})
    if len(usable) < 2 * count:
        raise ConfigError(
            f"{count} categories are held out to judge each epoch by, and the training data has "
            f"{len(usable)} with normal and anomalous images, fewer than {2 * count}: give more data, or "
            "--held-out 0 to train all epochs on all of it"
        )
    names = tuple(usable[-count:])
    samples = iter(data.items)
    kept: list[Sample] = []
    sets = []
    for each in data.sets:
        own = [next(samples) for _ in range(each.normal + each.anomalous)]
        stay = [sample for sample in own if sample.category not in names]
        kept += stay
        anomalous = sum(sample.label for sample in stay)
        categories = tuple(name for name in each.categories if name not in names)
        sets.append(replace(each, categories=categories, normal=len(stay) - anomalous, anomalous=anomalous))
    apart = [sample for sample in data.items if sample.category in names]
    masks = count_masks((sample.label, sample.mask_path is not None) for sample in kept)
    left = replace(
        data,
        items=kept,
        sets=tuple(each for each in sets if each.normal + each.anomalous),
        masks=masks,
        description=f"{data.description}, stopped early by {', '.join(names)}",
    )
    return left, apart, names


def quality(detector: Detector, samples: Sequence[Sample], judged_by: Judge) -> float:
    """Mean over the categories of a metric of the present weights.

    Args:
        detector: detector in training.
        samples: images of some categories.
        judged_by: "pixel_ap" (images without a mask do not count) or "image_ap".
    """
    method = detector.method
    was_training = method.training
    method.eval()
    try:
        values = [
            _of_category(detector, [each for each in samples if each.category == name], judged_by)
            for name in sorted({each.category for each in samples})
        ]
    finally:
        method.train(was_training)
        method.backbone.eval()
    return float(np.nanmean(values))


def _of_category(detector: Detector, samples: Sequence[Sample], judged_by: Judge) -> float:
    scores: list[float] = []
    labels: list[int] = []
    maps: list[Any] = []
    masks: list[Any] = []
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        for start in range(0, len(samples), AT_ONCE):
            read = [load_sample(each, detector.preparation) for each in samples[start : start + AT_ONCE]]
            images = torch.from_numpy(np.stack([each.image for each in read]))
            raw = detector.score_tensors(images, [each.class_name for each in read])
            scores += raw.scores.tolist()
            labels += [each.label for each in read]
            for one, heat in zip(read, raw.maps.cpu().numpy(), strict=True):
                if one.mask is not None:
                    maps.append(heat)
                    masks.append(one.mask > 0)
    if judged_by == "image_ap":
        return image_ap(np.array(scores), np.array(labels))
    return pixel_ap(np.stack(maps), np.stack(masks)) if maps else float("nan")

"""Training on anomalous images of which some or all have no mask: what counts then, and what is said."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from zsad.errors import ConfigError, DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from zsad.data.samples import PreparedSample
    from zsad.methods.base import Method
    from zsad.training.cache import CachedSample

    Prepared = PreparedSample | CachedSample


@dataclass(frozen=True)
class MaskCount:
    """How many of the anomalous images have a mask; a normal image needs none.

    Attributes:
        anomalous: number of anomalous images.
        masked: number of those with a mask.
    """

    anomalous: int
    masked: int

    @property
    def missing(self) -> int:
        """Number of anomalous images without a mask."""
        return self.anomalous - self.masked

    @property
    def note(self) -> str:
        """What the training learns from; empty if every anomalous image has a mask.

        Example:
            >>> MaskCount(4, 0).note
            'image labels only: no anomalous image has a mask'
            >>> MaskCount(4, 3).note
            '1 of 4 anomalous images without mask: only their label counts'
        """
        if not self.missing:
            return ""
        if not self.masked:
            return "image labels only: no anomalous image has a mask"
        return f"{self.missing} of {self.anomalous} anomalous images without mask: only their label counts"


def count_masks(items: Iterable[tuple[int, bool]]) -> MaskCount:
    """Counts the masks of images.

    Args:
        items: label (1 anomalous, 0 normal) and whether there is a mask, for each image.
    """
    has_mask = [found for label, found in items if label]
    return MaskCount(len(has_mask), sum(has_mask))


def refuse_unusable(method: type[Method], masks: MaskCount, devices: int) -> None:
    """Refuses images without masks if the method or the devices cannot use them.

    Raises:
        DataError: every term of the method's loss needs masks.
        ConfigError: several devices would share images of which only some have a mask.
    """
    if not masks.missing:
        return
    missing = f"{masks.missing} of {masks.anomalous} anomalous images have no mask"
    if not method.IMAGE_TERMS:
        raise DataError(
            f"{missing}, and {method.INFO.name} learns from masks only: add the masks, or choose a method "
            "that learns from image labels too, such as --method anomalyclip"
        )
    if masks.masked and devices > 1:
        raise ConfigError(
            f"{missing}, and several devices cannot share them: use --devices 1, or add the masks"
        )


def partial_loss(
    samples: Sequence[Prepared],
    loss: Callable[[Sequence[Prepared]], dict[str, Tensor]],
    masks: MaskCount | None,
    image_terms: frozenset[str],
) -> dict[str, Tensor]:
    """The terms of the loss of a step: those of the image over all images, the others over those with masks.

    If no anomalous image of the whole training has a mask, the others are 0 also for normal images, because
    patches that are always normal would be all that they teach.

    Args:
        samples: images of the step; the mask of an anomalous image may be None.
        loss: terms of the loss of some images, where a missing mask counts as empty.
        masks: masks of all images of the training; None if each anomalous image must have one.
        image_terms: terms that come from the label of the image.

    Raises:
        DataError: a mask is missing that must be there.
    """
    masked = [sample for sample in samples if sample.mask is not None]
    if masks is None and len(masked) < len(samples):
        raise DataError("an anomalous image of the dataset has no mask, which training needs")
    is_without = masks is not None and not masks.masked
    if len(masked) == len(samples) and not is_without:
        return loss(samples)
    terms = loss(samples)
    of_masks = {} if is_without or not masked else loss(masked)
    return {
        name: term if name in image_terms else of_masks.get(name, torch.zeros_like(term))
        for name, term in terms.items()
    }

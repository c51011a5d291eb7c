"""Scores each good image with references that it is not among."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch

from zsad.methods.base import Support
from zsad.methods.functional.references import patch_distances, with_references
from zsad.types import RawOutput

if TYPE_CHECKING:
    from torch import Tensor

    from zsad.detector.fitting.good_images import GoodImages
    from zsad.methods.base import Method
    from zsad.methods.functional.references import ReferenceMemory


@torch.inference_mode()
def lone_answers(method: Method, images: Tensor, class_name: str) -> RawOutput:
    """A method's own answer to each image by itself, without references and without companions.

    Args:
        method: the system.
        images: (B, 3, S, S) resized and normalised images.
        class_name: name of what the images show.

    Raises:
        ConfigError: the method cannot score a single image.
    """
    state = method.prepare((class_name,))
    at_once = 1 if method.scores_jointly else len(images)
    parts = [method.score(method.features(part), state) for part in torch.split(images, at_once)]
    return RawOutput(
        torch.cat([part.scores for part in parts]).float(), torch.cat([part.maps for part in parts]).float()
    )


@torch.inference_mode()
def scores_left_out(
    method: Method, good: GoodImages, left_out: Sequence[Sequence[int]], class_name: str
) -> Iterator[tuple[int, float, Tensor]]:
    """Scores good images without the references of their fold.

    Args:
        method: the system.
        good: the images; those that are held out are references of none.
        left_out: numbers of the images of each fold, which are scored without each other.
        class_name: name of what the images show.

    Yields:
        Number, score and (S, S) map of each image, fold by fold.

    Raises:
        ConfigError: no reference is left for a fold.
    """
    for fold in left_out:
        memory = good.memory.without({*fold, *good.held_out})
        for number in fold:
            raw = _compared(method, good, number, memory, class_name)
            yield number, float(raw.scores[0]), raw.maps[0].float()


def _compared(
    method: Method, good: GoodImages, number: int, memory: ReferenceMemory, class_name: str
) -> RawOutput:
    """The answer to one image, compared with a memory by the rule that the method follows."""
    if method.INFO.references == "own":
        state = method.prepare((class_name,), Support(memory=memory))
        return method.score(good.answer(number), state)
    distances = patch_distances([level[None] for level in good.levels(number)], memory)
    return with_references(good.answer(number), distances, method.map_range)

"""Puts the answers for a batch together with images and decision: the `Prediction` of each image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from zsad.detector.predicting import prediction_of
from zsad.methods.base import DEFAULT_CLASS

if TYPE_CHECKING:
    from zsad.detector.decision import Decision
    from zsad.images.streams import ReadImage
    from zsad.images.tile_scoring import ImageAnswer
    from zsad.methods.base import Method
    from zsad.types import PhraseRanker, Prediction


def predictions(
    images: Sequence[ReadImage],
    names: Sequence[str | None],
    answers: Sequence[ImageAnswer],
    method: Method,
    decision: Decision[Any],
    map_range: tuple[float, float],
    ranker: PhraseRanker,
) -> list[Prediction]:
    """The predictions for a batch.

    Args:
        images: the images as they were read, with the files they come from.
        names: class name of each image; None stands for "object".
        answers: what the method says about each image.
        method: the system; predictions hold the class names if its scores depend on them.
        decision: thresholds and score scale.
        map_range: smallest and largest value that a map can take.
        ranker: answers `Prediction.explain`.
    """
    found = []
    for read, name, answer in zip(images, names, answers, strict=True):
        found.append(
            prediction_of(
                read,
                answer,
                decision.for_class(name or DEFAULT_CLASS),
                map_range,
                class_name=name if method.INFO.uses_class_names else None,
                notes=method.notes,
                ranker=ranker,
            )
        )
    return found

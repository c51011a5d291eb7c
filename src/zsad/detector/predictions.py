"""Puts scores and maps of a batch together with images and decision: the `Prediction` of each image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch

from zsad.images.preparing import to_array
from zsad.methods.base import DEFAULT_CLASS
from zsad.methods.functional.maps import upsample
from zsad.types import Prediction, RawOutput

if TYPE_CHECKING:
    from torch import Tensor

    from zsad.detector.decision import Decision
    from zsad.detector.inputs import ReadImage
    from zsad.types import PhraseRanker


def predictions(
    images: Sequence[ReadImage],
    names: Sequence[str | None],
    raw: RawOutput,
    *,
    decision: Decision,
    map_range: tuple[float, float],
    keeps_names: bool,
    ranker: PhraseRanker,
) -> list[Prediction]:
    """The predictions for a batch, with maps at the size of the images.

    Args:
        images: the images as they were read, with the files they come from.
        names: class name of each image; None stands for "object".
        raw: (B,) scores and (B, S, S) maps.
        decision: thresholds and score scale.
        map_range: smallest and largest value that a map can take.
        keeps_names: whether predictions hold the class names, because the scores depend on them.
        ranker: answers `Prediction.explain`.
    """
    found = []
    for (path, image), name, score, raw_map in zip(images, names, raw.scores.tolist(), raw.maps, strict=True):
        resized = upsample(raw_map, (image.height, image.width))
        decided = decision.for_class(name or DEFAULT_CLASS)
        found.append(
            Prediction(
                score=score,
                anomaly_map=resized.cpu().numpy(),
                image=to_array(image),
                path=path,
                threshold=decided.threshold,
                map_threshold=decided.map_threshold,
                map_range=map_range,
                class_name=name if keeps_names else None,
                ranker=ranker,
                score_scale=decided.scale,
            )
        )
    return found


def one_by_one(
    score: Callable[[Tensor, Sequence[str | None]], RawOutput], images: Tensor, names: Sequence[str | None]
) -> RawOutput:
    """Scores the images of a batch as if each came alone.

    Args:
        score: scores (B, 3, S, S) images with their class names.
        images: (B, 3, S, S).
        names: class names, one for each image.
    """
    parts = [score(image[None], [name]) for image, name in zip(images, names, strict=True)]
    return RawOutput(torch.cat([part.scores for part in parts]), torch.cat([part.maps for part in parts]))

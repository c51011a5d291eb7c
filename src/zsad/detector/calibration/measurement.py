"""What a calibration knows of its images: score, height of the map, and fingerprint of each; no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Measured:
    """An image that has been scored.

    Attributes:
        name: file of the image, or its position in the list.
        is_anomalous: label of the image.
        score: image anomaly score.
        map_height: smallest map value above which no more than the tolerated area lies.
        fingerprint: digest of the content, from `image_fingerprint`.
    """

    name: str
    is_anomalous: bool
    score: float
    map_height: float
    fingerprint: str


@dataclass(frozen=True)
class Measurement:
    """All images of a calibration.

    Attributes:
        images: images that count, each content once.
        failed: one line for each image that could not be read or scored.
        copies: number of images left out because another image has the same content.
        references: number of images left out because the detector has them as references.
        pixel_threshold: map value with the highest F1 of all pixels; None without masks.
        settings: everything that the scores depend on, from `Detector.scoring_settings`.
        class_name: class name in the prompts; None if the method uses no class names.
        is_joint: whether the method scores all images together.
    """

    images: tuple[Measured, ...]
    failed: tuple[str, ...]
    copies: int
    references: int
    pixel_threshold: float | None
    settings: dict[str, Any] = field(repr=False)
    class_name: str | None = None
    is_joint: bool = False

    def of(self, is_anomalous: bool) -> tuple[Measured, ...]:
        """The images with this label."""
        return tuple(one for one in self.images if one.is_anomalous == is_anomalous)


def map_height(anomaly_map: NDArray[np.floating], tolerated_area: float) -> float:
    """The smallest map value above which no more than a given share of the pixels lies.

    Args:
        anomaly_map: finite map values, of any shape.
        tolerated_area: share of the pixels in [0, 1); 0 gives the highest value.

    Example:
        >>> map_height(np.arange(10.0).reshape(2, 5), 0.2)
        7.0
    """
    marked = int(tolerated_area * anomaly_map.size)
    place = anomaly_map.size - 1 - marked
    return float(np.partition(anomaly_map.ravel(), place)[place])

"""`Decision`: from which score on an image, and from which map value on a pixel, counts as anomalous."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from zsad.types import ScoreScale

CalibrationT = TypeVar("CalibrationT")
"""A `Calibration`, or its plain values in a bundle."""


@dataclass(frozen=True)
class Decision(Generic[CalibrationT]):
    """Everything that turns scores into verdicts; without arguments, no verdict at all.

    Attributes:
        threshold: image score from which on an image counts as anomalous; None while uncalibrated.
        map_threshold: map value from which on a pixel counts as anomalous; None while uncalibrated.
        scale: turns scores into relative scores and p-values; None without a calibration.
        calibration: calibration that promises what the thresholds keep; None for thresholds set by hand.
        class_name: class name of the images that the decision is for; None for images of any name.
    """

    threshold: float | None = None
    map_threshold: float | None = None
    scale: ScoreScale | None = field(default=None, repr=False)
    calibration: CalibrationT | None = field(default=None, repr=False)
    class_name: str | None = None

    def is_for(self, class_name: str | None) -> bool:
        """Whether the thresholds are for images of a class name, as prompts read it."""
        return self.class_name in (None, class_name)

    def for_class(self, class_name: str | None) -> Decision[CalibrationT]:
        """The decision on an image of a class name: this one, or none where it is for another name.

        Example:
            >>> decision = Decision(threshold=0.5, class_name="screw")
            >>> decision.for_class("screw").threshold, decision.for_class("carpet").threshold
            (0.5, None)
        """
        return self if self.is_for(class_name) else Decision()

    def with_thresholds(
        self, threshold: float | None = None, map_threshold: float | None = None
    ) -> Decision[CalibrationT]:
        """Other thresholds for one run, whose report compares them with those of the calibration.

        Args:
            threshold: image score; None keeps the threshold.
            map_threshold: map value; None keeps the map threshold.
        """
        return replace(
            self,
            threshold=self.threshold if threshold is None else threshold,
            map_threshold=self.map_threshold if map_threshold is None else map_threshold,
        )

    def by_hand(self, threshold: float | None, map_threshold: float | None) -> Decision[CalibrationT]:
        """Thresholds that the user sets: the calibration promises nothing about them and is dropped.

        The score scale goes with it. The class name stays, because scores depend on it.

        Example:
            >>> Decision(0.5, 0.7, class_name="screw").by_hand(0.6, 0.7)
            Decision(threshold=0.6, map_threshold=0.7, class_name='screw')
        """
        return Decision(threshold, map_threshold, class_name=self.class_name)

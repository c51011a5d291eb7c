"""`Decision`: from which score on an image, and from which map value on a pixel, counts as anomalous."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from zsad.errors import ConfigError

if TYPE_CHECKING:
    from zsad.detector.thresholds import Calibration
    from zsad.types import ScoreScale

SelfT = TypeVar("SelfT", bound="Decided")


@dataclass(frozen=True)
class Decision:
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
    calibration: Calibration | None = field(default=None, repr=False)
    class_name: str | None = None

    @classmethod
    def from_calibration(cls, calibration: Calibration | None) -> Decision:
        """The thresholds of a calibration, with its score scale; None gives no decision."""
        if calibration is None:
            return cls()
        return cls(
            calibration.threshold,
            calibration.map_threshold,
            calibration.scale,
            calibration,
            calibration.class_name,
        )

    def is_for(self, class_name: str) -> bool:
        """Whether the thresholds are for images of a class name, as prompts read it."""
        return self.class_name in (None, class_name)

    def for_class(self, class_name: str) -> Decision:
        """The decision on an image of a class name: this one, or none where it is for another name.

        Example:
            >>> decision = Decision(threshold=0.5, class_name="screw")
            >>> decision.for_class("screw").threshold, decision.for_class("carpet").threshold
            (0.5, None)
        """
        return self if self.is_for(class_name) else Decision()

    def valid_for(self, settings: Mapping[str, Any]) -> Decision:
        """This decision, or none where its calibration was made with scores of other settings.

        Args:
            settings: what the scores depend on, from `zsad.detector.identity.scoring_settings`.
        """
        is_stale = self.calibration is not None and not self.calibration.fits(settings)
        return Decision() if is_stale else self

    def with_thresholds(self, threshold: float | None = None, map_threshold: float | None = None) -> Decision:
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

    def by_hand(self, threshold: float | None, map_threshold: float | None) -> Decision:
        """Thresholds that the user sets: the calibration promises nothing about them and is dropped.

        The score scale goes with it. The class name stays, because scores depend on it.

        Example:
            >>> Decision(0.5, 0.7, class_name="screw").by_hand(0.6, 0.7)
            Decision(threshold=0.6, map_threshold=0.7, class_name='screw')
        """
        return Decision(threshold, map_threshold, class_name=self.class_name)


class Decided:
    """Base of whatever predicts by a `Decision`.

    Attributes:
        decision: thresholds and score scale of the predictions, with the calibration that they rest on.
    """

    decision: Decision

    @property
    def threshold(self) -> float | None:
        """Image score from which on an image counts as anomalous; None while uncalibrated.

        Setting it drops the calibration, which promises nothing about a threshold set by hand.
        """
        return self.decision.threshold

    @threshold.setter
    def threshold(self, value: float | None) -> None:
        self.decision = self.decision.by_hand(value, self.decision.map_threshold)

    @property
    def map_threshold(self) -> float | None:
        """Map value from which on a pixel counts as anomalous; None while uncalibrated.

        Setting it drops the calibration, which promises nothing about a threshold set by hand.
        """
        return self.decision.map_threshold

    @map_threshold.setter
    def map_threshold(self, value: float | None) -> None:
        self.decision = self.decision.by_hand(self.decision.threshold, value)

    @property
    def calibration(self) -> Calibration | None:
        """Calibration that gave the thresholds; None while uncalibrated and for thresholds set by hand."""
        return self.decision.calibration

    def with_decision(self: SelfT, decision: Decision) -> SelfT:
        """A copy on the same network that decides otherwise; this object keeps its decision."""
        other = copy.copy(self)
        other.decision = decision
        return other

    def deciding(
        self: SelfT, class_name: str | None, threshold: float | None, map_threshold: float | None
    ) -> SelfT:
        """This object, or a copy with other thresholds for one run; the calibration stays for its report.

        Args:
            class_name: class name of the images; None for any.
            threshold: image score; None keeps the threshold.
            map_threshold: map value; None keeps the map threshold.

        Raises:
            ConfigError: the calibration is for another class name.
        """
        if class_name is not None and not self.decision.is_for(class_name):
            raise ConfigError(
                f"the calibration is for images of {self.decision.class_name!r}, not of {class_name!r}: "
                "calibrate for these too, or predict without it (--calibration none)"
            )
        if threshold is None and map_threshold is None:
            return self
        return self.with_decision(self.decision.with_thresholds(threshold, map_threshold))

    def apply_calibration(self: SelfT, calibration: Calibration | str | Path | None) -> SelfT:
        """Gives predictions the thresholds and the score scale of a calibration.

        If the method uses class names, predictions for other class names keep a threshold of None.

        Args:
            calibration: calibration from `zsad.detector.calibration.calibrating.calibrate`, or its file;
                None removes thresholds and score scale.

        Returns:
            This object.

        Raises:
            ConfigError: the calibration was made with other weights, settings or references, which the
                message names, or its file does not exist.
            DataError: the file is no calibration, or is damaged.
        """
        if isinstance(calibration, str | Path):
            from zsad.detector.thresholds import read_calibration

            calibration = read_calibration(calibration)
        if calibration is not None:
            calibration.check_fits(self.scoring_settings())
        self.decision = Decision.from_calibration(calibration)
        return self

    def scoring_settings(self) -> dict[str, Any]:
        """Everything that the scores depend on, from `zsad.detector.identity.scoring_settings`."""
        raise NotImplementedError

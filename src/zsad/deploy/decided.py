"""The decision of a bundle: thresholds, what they rest on, and the class name that they are for. No torch."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from zsad.errors import ConfigError

if TYPE_CHECKING:
    from zsad.deploy.bundle import Bundle
    from zsad.types import ScoreScale

SelfT = TypeVar("SelfT", bound="DecidedByBundle")


class DecidedByBundle:
    """Base of an exported detector: turns scores into verdicts.

    Attributes:
        bundle: what the folder holds.
        score_scale: scale of relative scores and p-values; None without a calibration.
        calibration: what the thresholds rest on, as `zsad.Calibration.to_dict` gives it; None without one.
    """

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        decides = bundle.decision_class_name in (None, bundle.class_name)
        self._thresholds = (bundle.threshold, bundle.map_threshold) if decides else (None, None)
        self.score_scale: ScoreScale | None = bundle.score_scale if decides else None
        self.calibration: Mapping[str, Any] | None = bundle.calibration if decides else None

    @property
    def threshold(self) -> float | None:
        """Image score from which on an image counts as anomalous; None without a decision.

        Setting it drops the calibration, which promises nothing about a threshold set by hand.
        """
        return self._thresholds[0]

    @threshold.setter
    def threshold(self, value: float | None) -> None:
        self._thresholds = (value, self._thresholds[1])
        self.score_scale = self.calibration = None

    @property
    def map_threshold(self) -> float | None:
        """Map value from which on a pixel counts as anomalous; None without a decision.

        Setting it drops the calibration, which promises nothing about a threshold set by hand.
        """
        return self._thresholds[1]

    @map_threshold.setter
    def map_threshold(self, value: float | None) -> None:
        self._thresholds = (self._thresholds[0], value)
        self.score_scale = self.calibration = None

    def deciding(
        self: SelfT, class_name: str | None, threshold: float | None, map_threshold: float | None
    ) -> SelfT:
        """A copy with other thresholds for one run; the calibration stays for its report.

        Args:
            class_name: class name of the images, as `predict` takes it.
            threshold: image score; None keeps the threshold.
            map_threshold: map value; None keeps the map threshold.

        Raises:
            ConfigError: the bundle is for another class name.
        """
        self.check_names([class_name])
        other = copy.copy(self)
        other._thresholds = (
            self.threshold if threshold is None else threshold,
            self.map_threshold if map_threshold is None else map_threshold,
        )
        return other

    def check_names(self, names: Iterable[str | None]) -> None:
        """Refuses class names that are not part of the graphs.

        Raises:
            ConfigError: the message holds both names.
        """
        known = self.bundle.class_name
        other = next((name for name in names if name not in (None, known)), None)
        if self.bundle.uses_class_names and other is not None:
            raise ConfigError(
                f"this bundle scores images of {known!r}, got the class name {other!r}: export the detector "
                "for it, or leave the name out"
            )

"""Options of a calibration: what the thresholds are to achieve, and how the images are scored; no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from zsad.detector.calibration.statistics import check_confidence, check_costs, check_rate
from zsad.errors import ConfigError, unknown_name

Rule = Literal["rate", "f1", "cost"]
RULES: tuple[Rule, ...] = ("rate", "f1", "cost")


@dataclass(frozen=True, kw_only=True)
class Aim:
    """What the thresholds are to achieve. `CalibrateOptions` asks for it and a `Calibration` keeps it.

    Attributes:
        rule: how the image threshold is chosen: "rate" keeps a false-alarm rate, "f1" has the highest F1,
            "cost" has the lowest expected cost.
        false_alarm_rate: share of new normal images that may be called anomalous, in (0, 0.5).
        confidence: probability with which the false-alarm rate is kept, in [0.5, 1).
        tolerated_area: share of a normal image's pixels that the mask may mark, in [0, 1).
        cost_miss: cost of an anomalous image that is called normal, above 0; for rule "cost".
        cost_false_alarm: cost of a normal image that is called anomalous, above 0, in the same unit; for rule
            "cost".
        prevalence: share of anomalous images in use, in (0, 1), for rule "cost"; None: their share among the
            calibration images.
    """

    rule: Rule = "rate"
    false_alarm_rate: float = 0.05
    confidence: float = 0.95
    tolerated_area: float = 0.0
    cost_miss: float | None = None
    cost_false_alarm: float | None = None
    prevalence: float | None = None

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise unknown_name("rule", str(self.rule), RULES)
        check_rate(self.false_alarm_rate)
        check_confidence(self.confidence)
        area = self.tolerated_area
        if isinstance(area, bool) or not 0 <= area < 1:
            raise ConfigError(f"the tolerated area is a share of the pixels in [0, 1), got {area!r}")
        miss, false_alarm = self.cost_miss, self.cost_false_alarm
        is_given = any(value is not None for value in (miss, false_alarm, self.prevalence))
        if self.rule != "cost" and is_given:
            raise ConfigError(f'costs and prevalence are for rule "cost", not for "{self.rule}"')
        if self.rule == "cost":
            if miss is None or false_alarm is None:
                raise ConfigError('rule "cost" needs both costs: give cost_miss and cost_false_alarm')
            check_costs(miss, false_alarm, self.prevalence)


@dataclass(frozen=True, kw_only=True)
class CalibrateOptions(Aim):
    """What the thresholds are to achieve, and how the images are scored.

    Attributes:
        strict: whether to refuse images that are too few to promise the false-alarm rate.
        class_name: name of what the images show; None for "object". The thresholds hold for this name only.
        batch_size: number of images that go through the network at once. A method that scores all images
            together gets them as one batch.
    """

    strict: bool = False
    class_name: str | None = None
    batch_size: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch_size < 1:
            raise ConfigError(f"the batch size must be at least 1, got {self.batch_size}")


def default_rule(cost_miss: float | None, cost_false_alarm: float | None) -> Rule:
    """The rule where none is named: "cost" if a cost is given, else "rate"."""
    return "rate" if cost_miss is None and cost_false_alarm is None else "cost"

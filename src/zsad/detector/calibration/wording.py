"""Describes a calibration in sentences: its thresholds, the images they come from, and what they promise."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING

from zsad.detector.calibration.statistics import (
    alarms_allowed,
    binomial_interval,
    promised_confidence,
    promised_rate,
)
from zsad.detector.fitting.statistics import left_out_rate

if TYPE_CHECKING:
    from zsad.detector.thresholds import Calibration

INTERVAL_CONFIDENCE = 0.95
UNREADABLE = "left out because it could not be read or scored"


def describe(calibration: Calibration) -> list[str]:
    """What a user needs to know, without the warnings; one or two sentences per line."""
    lines = [f"{summary(calibration)}."]
    lines += _rate_promise(calibration) if calibration.rule == "rate" else _label_counts(calibration)
    lines.append(_map_sentence(calibration))
    has_typical = median(calibration.normal_scores) < calibration.threshold
    typical = " and 0.1 a typical normal image" if has_typical else ""
    lines.append(
        f"On the relative score, 0.5 is the threshold{typical}; the p-value is the share of normal images "
        "with a score at least as high."
    )
    return lines


def warnings_besides_failed(calibration: Calibration) -> list[str]:
    """The warnings for a terminal on which each image that failed has been named already."""
    return [warning for warning in calibration.warnings if not warning.startswith(UNREADABLE)]


def summary(calibration: Calibration) -> str:
    """One line: threshold, rule, number of images, class name, date."""
    normal, anomalous = len(calibration.normal_scores), len(calibration.anomalous_scores)
    aims = {
        "rate": f"for at most {percent(calibration.false_alarm_rate)} false alarms",
        "f1": "with the highest F1",
        "cost": f"with the lowest cost (miss {_number(calibration.cost_miss)}, "
        f"false alarm {_number(calibration.cost_false_alarm)}"
        + (f", {percent(calibration.prevalence)} anomalous)" if calibration.prevalence is not None else ")"),
    }
    source = counted(normal, "normal image")
    if calibration.rule != "rate":
        source = f"{normal} normal and {counted(anomalous, 'anomalous image')}"
    shown = f" of {calibration.class_name!r}" if calibration.class_name else ""
    return f"Threshold {calibration.threshold:.4g} {aims[calibration.rule]}, from {source}{shown}" + (
        f", {calibration.created}" if calibration.created else ""
    )


def percent(share: float) -> str:
    """A share in percent, with enough digits to distinguish it from 0 and 100 %.

    Example:
        >>> percent(0.05), percent(0.6415), percent(0.1391), percent(0.002), percent(0.9995)
        ('5 %', '64 %', '13.9 %', '0.2 %', '99.95 %')
    """
    value = 100 * share
    if 99 < value < 100:
        return f"{value:.4g} %"
    return f"{value:.0f} %" if value >= 20 else f"{value:.3g} %"


def counted(number: int, noun: str, plural: str = "") -> str:
    """Number and noun: 1 image, 2 images."""
    return f"{number} {noun if number == 1 else plural or f'{noun}s'}"


def _rate_promise(calibration: Calibration) -> list[str]:
    count, rate = len(calibration.normal_scores), calibration.false_alarm_rate
    allowed = alarms_allowed(count, rate, calibration.confidence)
    reached = promised_confidence(count, allowed, rate)
    about, average = "", percent((allowed + 1) / (count + 1))
    if calibration.left_out:
        on_average = left_out_rate(count, allowed, calibration.left_out)
        about, average = "about ", f"at most {percent(on_average)}"
    sentence = (
        f"With {about}{percent(reached)} confidence at most {percent(rate)} of new normal images are called "
        f"anomalous; on average over samples of this size {average}."
    )
    if reached < calibration.confidence:
        most = promised_rate(count, allowed, calibration.confidence)
        sentence += (
            f" With {about}{percent(calibration.confidence)} confidence it is at most {percent(most)}."
        )
    lines = [sentence]
    if calibration.left_out:
        lines.append(
            "Each image was scored without itself among the references. The confidence is that of held-out "
            "images, to which this comes close; zsad fit --split holds images out and makes it exact."
        )
    anomalous = len(calibration.anomalous_scores)
    if anomalous:
        lines.append(
            f"Of {counted(anomalous, 'anomalous image')}, which did not decide the threshold, it finds "
            f"{_share(anomalous - calibration.missed, anomalous)}."
        )
    return lines


def _label_counts(calibration: Calibration) -> list[str]:
    normal, anomalous = len(calibration.normal_scores), len(calibration.anomalous_scores)
    found = anomalous - calibration.missed
    f1 = 2 * found / (2 * found + calibration.false_alarms + calibration.missed)
    return [
        f"On these images: F1 {f1:.3f}; false alarms {_share(calibration.false_alarms, normal)}; missed "
        f"{_share(calibration.missed, anomalous)}.",
        "The threshold was chosen on these very images: expect more errors on new ones.",
    ]


def _map_sentence(calibration: Calibration) -> str:
    start = f"Map threshold {calibration.map_threshold:.4g}"
    if calibration.map_rule == "f1":
        return f"{start} with the highest F1 of all pixels."
    area = calibration.tolerated_area
    marked = "any pixel" if area == 0 else f"more than {percent(area)} of the pixels"
    count, rate = len(calibration.normal_scores), calibration.false_alarm_rate
    allowed = alarms_allowed(count, rate, calibration.confidence)
    reached = promised_confidence(count, allowed, rate)
    about = "about " if calibration.left_out else ""
    return (
        f"{start}: with {about}{percent(reached)} confidence at most {percent(rate)} of new normal images "
        f"have {marked} marked."
    )


def _share(count: int, of: int) -> str:
    low, high = binomial_interval(count, of, INTERVAL_CONFIDENCE)
    return (
        f"{count} of {of} ({percent(count / of)}; {percent(INTERVAL_CONFIDENCE)} interval "
        f"{percent(low)} to {percent(high)})"
    )


def _number(value: float | None) -> str:
    return "?" if value is None else f"{value:g}"

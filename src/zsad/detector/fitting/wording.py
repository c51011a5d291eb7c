"""Describes in sentences what came of fitting: spread, images to look at, and what more images would buy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from zsad.detector.calibration.statistics import alarms_allowed, images_needed, promised_rate
from zsad.detector.calibration.wording import counted, percent

if TYPE_CHECKING:
    from zsad.detector.thresholds import Calibration

MORE_IMAGES = 10
NAMES_SHOWN = 5


def spread_sentence(calibration: Calibration) -> str:
    """How the scores of the good images spread, and how far below the threshold they lie."""
    low, first, middle, third, high = np.quantile(calibration.normal_scores, [0, 0.25, 0.5, 0.75, 1])
    return (
        f"Scores of good images: {low:.4g} to {high:.4g}, half of them from {first:.4g} to {third:.4g}, "
        f"median {middle:.4g}."
    )


def more_sentence(calibration: Calibration) -> str:
    """What more good images would buy, and how many it takes.

    Example:
        "With 30 images it is at most 9.5 %, with 59 images 5 % (39 more), each with 95 % confidence."
    """
    count, rate, confidence = (
        len(calibration.normal_scores),
        calibration.false_alarm_rate,
        calibration.confidence,
    )
    needed, sure = images_needed(rate, confidence), f"{percent(confidence)} confidence"
    if count >= needed:
        more = _next_alarm(count, rate, confidence)
        return (
            f"{counted(more - count, 'more good image')} ({more} in all) would keep the promise with one "
            "more of them above the threshold, so that the threshold falls and more defects are found."
        )
    soon = count + MORE_IMAGES
    start = f"{counted(needed - count, 'more good image')} ({needed} in all) would promise at most"
    after = f"{start} {percent(rate)} false alarms with {sure}"
    if soon >= needed:
        return f"{after}."
    return f"{after}; {MORE_IMAGES} more at most {percent(promised_rate(soon, 0, confidence))}."


def extended_sentence(images: int, threshold: float | None, fitted: Calibration) -> str:
    """What became of a fitted detector that more good images were added to.

    Args:
        images: number of its good images before.
        threshold: threshold before; None without one.
        fitted: its calibration now.

    Example:
        "8 good images before, 11 now; the threshold was 0.4312 and is now 0.4478."
    """
    was = "there was no threshold, and it" if threshold is None else f"the threshold was {threshold:.4g} and"
    now = len(fitted.pictures)
    return f"{counted(images, 'good image')} before, {now} now; {was} is now {fitted.threshold:.4g}."


def outlier_warning(names: Sequence[str], count: int) -> str:
    """Names the images that stand out among `count` good ones."""
    verb, them = ("stands", "it") if len(names) == 1 else ("stand", "them")
    return (
        f"{listed(names)} {verb} out from the other good images of {count}: look at {them}, and if bad, "
        f"leave {them} out (--drop-outliers), because the threshold may lie above {them}"
    )


def near_copy_warning(groups: Sequence[Sequence[str]]) -> str:
    """Names near-copies, which count as one image."""
    shown = "; ".join(listed(group) for group in groups[:NAMES_SHOWN])
    more = f" and {len(groups) - NAMES_SHOWN} more groups" if len(groups) > NAMES_SHOWN else ""
    return f"near-copies, left out together and counted as one image each time: {shown}{more}"


def listed(names: Sequence[str]) -> str:
    """The first names of a list.

    Example:
        >>> listed(["a.png"]), listed([f"{number}.png" for number in range(7)])
        ('a.png', '0.png, 1.png, 2.png, 3.png, 4.png and 2 more')
    """
    shown = ", ".join(names[:NAMES_SHOWN])
    return f"{shown} and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else shown


def _next_alarm(count: int, rate: float, confidence: float) -> int:
    """The smallest number of images that allows one more of them above the threshold."""
    allowed = alarms_allowed(count, rate, confidence)
    more = count + 1
    while alarms_allowed(more, rate, confidence) <= allowed:
        more += 1
    return more

"""The page of a prediction run, `index.html`: images sorted by score, with a threshold to try out.

The page is one file that opens from disk and makes no request. It embeds the thumbnails of a small run and
links those of a run of more than `EMBEDDED_THUMBNAILS` images. Its script draws only the images that one
scrolls to, so that a page of a hundred thousand images opens at once. The markup stands in
`zsad/files/templates/prediction.html`; this module and `zsad.prediction.cards` compute what it shows.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zsad._version import __version__
from zsad.detector.calibration.wording import counted, describe
from zsad.errors import DataError
from zsad.files.pages import PAGE_FILE, facts, write_page
from zsad.files.run_settings import read_settings
from zsad.images.colours import colour_table
from zsad.prediction.cards import card_columns
from zsad.prediction.companions import COMPANIONS_KEY
from zsad.prediction.layout import GrowingNames, RunLayout, common_folder
from zsad.prediction.records import RESULTS_FILE, ResultRecord, read_results
from zsad.prediction.wording import score_decimals

if TYPE_CHECKING:
    from zsad.detector.thresholds import Calibration

PAGE_KEY = "page"  # entry of settings.json with what the page needs and the scores do not depend on
WATCH_KEY = "watch"  # entry of settings.json that says that images arrived one by one
EMBEDDED_THUMBNAILS = 200
LISTED_FAILURES = 1000  # on the page; the tables list all
HISTOGRAM_BINS = 48


@dataclass(frozen=True)
class Verdict:
    """The verdicts of a run in one sentence.

    Attributes:
        anomalous: number of anomalous images.
        sentence: how many images are anomalous.
        reason: what the verdicts rest on.
    """

    anomalous: int
    sentence: str
    reason: str


@dataclass(frozen=True)
class CalibrationPanel:
    """What the page says about the calibration that a threshold comes from.

    Attributes:
        summary: one line: threshold, rule, number of images.
        lines: what the threshold promises, one sentence or two each.
        warnings: what limits the promise, one sentence each.
        distance: score difference between relative scores 0.1 and 0.5.
    """

    summary: str
    lines: tuple[str, ...]
    warnings: tuple[str, ...]
    distance: float


def page_settings(map_range: tuple[float, float], calibration: Calibration | None) -> dict[str, Any]:
    """What `rebuild_page` needs, as JSON values for `settings.json` under `PAGE_KEY`."""
    return {"map_range": list(map_range), "calibration": calibration.to_dict() if calibration else None}


def is_prediction_folder(directory: str | Path) -> bool:
    """Whether a folder holds the results of `zsad predict`."""
    return (Path(directory) / RESULTS_FILE).is_file()


def rebuild_page(directory: str | Path) -> Path:
    """Writes the page of an earlier run again from its `results.jsonl` and `settings.json`.

    Args:
        directory: results folder of the run. It may have been moved; overlays and thumbnails are found in it.

    Returns:
        Path of the page.

    Raises:
        DataError: results or settings are damaged, or an older zsad wrote them without what the page needs.
        OSError: the page cannot be written.
    """
    from zsad.detector.thresholds import Calibration

    directory = Path(directory).expanduser()
    records = read_results(directory / RESULTS_FILE)
    settings = read_settings(directory) or {}
    page, root, _ = (settings.pop(key, None) for key in (PAGE_KEY, "root", COMPANIONS_KEY))
    try:
        low, high = page["map_range"]
        found = page["calibration"]
        layout = RunLayout.plan(directory, [record.path for record in records], root)
        if settings.get(WATCH_KEY):  # files were named in the order of their arrival
            layout = RunLayout(directory, root, GrowingNames(root, [record.path for record in records]))
        calibration = None if found is None else Calibration.from_dict(found)
        return write_prediction_page(layout, records, settings, (float(low), float(high)), calibration)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{directory}: settings.json is missing or from an older zsad; run `zsad predict` again"
        ) from error


def write_prediction_page(
    layout: RunLayout,
    records: Sequence[ResultRecord],
    settings: Mapping[str, Any],
    map_range: tuple[float, float],
    calibration: Calibration | None,
    promise: Sequence[str] = (),
) -> Path:
    """Writes `index.html` of a run.

    Args:
        layout: files of the run; links are relative to its directory.
        records: results of all images, in any order.
        settings: contents of `settings.json`, listed in the footer. The page opens with its `threshold`.
        map_range: map values at both ends of the colour scale.
        calibration: what the threshold rests on; None without one.
        promise: what the calibration promises, in sentences; empty: found out again, which needs SciPy.

    Returns:
        Path of the page.

    Raises:
        OSError: the page cannot be written.
    """
    scored = sorted(
        (each for each in records if each.error is None), key=lambda each: (-_score(each), each.path)
    )
    scores = [_score(record) for record in scored]
    threshold = settings["threshold"]
    normal_scores = calibration.normal_scores if calibration else ()
    decided = [calibration.threshold] if calibration and scores else []
    low, high = histogram_range([*scores, *(normal_scores if scores else ()), *decided])
    failed = [record for record in records if record.error is not None]
    source = common_folder([record.path for record in scored or records])
    path = layout.directory / PAGE_FILE
    values = {
        "title": Path(source).name or "Results",
        "about": _about(len(scored), settings),
        "gradient": ", ".join(
            f"rgb({red} {green} {blue})" for red, green, blue in colour_table()[::15].tolist()
        ),
        "low": f"{low:.4g}",
        "high": f"{high:.4g}",
        "bars": histogram_bars(scores, low, high),
        "ticks": [f"{(score - low) / (high - low) * HISTOGRAM_BINS:.3f}" for score in normal_scores],
        "threshold": "" if threshold is None else float(threshold),
        "verdict": None if threshold is None else _verdict(scores, threshold, calibration),
        "calibration": calibration and _calibration_panel(calibration, threshold, promise),
        "failed": [(record.path, _reason(record)) for record in failed[:LISTED_FAILURES]],
        "failures": len(failed),
        "decimals": score_decimals(scores),
        "folder_mode": settings.get("folder_mode", ""),
        "cards": card_columns(
            layout,
            scored,
            source,
            has_overlays="overlay" in settings["formats"],
            embed=len(scored) <= EMBEDDED_THUMBNAILS,
        ),
        "settings": _settings_facts(source, settings),
        "fixed_scale": settings["scale"] == "fixed",
        "map_low": f"{map_range[0]:.4g}",
        "map_high": f"{map_range[1]:.4g}",
    }
    write_page(path, "prediction", values)
    return path


def histogram_range(scores: Sequence[float]) -> tuple[float, float]:
    """The part of the score axis that the page shows: the range of the scores plus a margin.

    Args:
        scores: in any order, perhaps none.

    Returns:
        Lower and upper end with four significant digits, the upper one larger; in [0, 1] if the scores are.
    """
    if not scores:
        return 0.0, 1.0
    low, high = min(scores), max(scores)
    # The last keeps the ends apart when large scores are rounded below.
    margin = max(0.05 * (high - low), 0.005, 0.001 * abs(low), 0.001 * abs(high))
    start = low - margin if low < 0 else max(0.0, low - margin)
    end = high + margin if high > 1 else min(1.0, high + margin)
    return float(f"{start:.4g}"), float(f"{end:.4g}")


def histogram_bars(scores: Sequence[float], low: float, high: float) -> list[tuple[int, float]]:
    """Counts the scores in `HISTOGRAM_BINS` bins of equal width.

    Args:
        scores: in any order; those outside of the range count in the first or last bin.
        low: lower end of the first bin.
        high: upper end of the last bin.

    Returns:
        For each bin its count and the height of its bar: 100 for the fullest bin, 0 for an empty one.
    """
    counts = [0] * HISTOGRAM_BINS
    for score in scores:
        place = int((score - low) / (high - low) * HISTOGRAM_BINS)
        counts[min(max(place, 0), HISTOGRAM_BINS - 1)] += 1
    tallest = max(counts) or 1
    # A single image among thousands stays visible.
    return [(count, max(4.0, 100 * count / tallest) if count else 0.0) for count in counts]


def _calibration_panel(
    calibration: Calibration, threshold: float | None, promise: Sequence[str]
) -> CalibrationPanel:
    summary, *lines = promise or describe(calibration)
    if threshold != calibration.threshold:
        lines = [f"This run used the threshold {threshold} instead, set by hand: nothing is promised."]
    return CalibrationPanel(summary, tuple(lines), tuple(calibration.warnings), calibration.scale.distance)


def _verdict(scores: Sequence[float], threshold: float, calibration: Calibration | None) -> Verdict:
    over = sum(score >= threshold for score in scores)
    verb = "is" if over == 1 else "are"
    sentence = f"{over} of {counted(len(scores), 'image')} {verb} anomalous"
    by_hand = calibration is None or threshold != calibration.threshold
    reason = "threshold set by hand" if by_hand else "threshold from good images, see the calibration below"
    if calibration is not None and not by_hand and calibration.rule != "rate":
        reason = "threshold from labelled images, see the calibration below"
    return Verdict(over, sentence, f"Score {threshold:.4g} or more; {reason}.")


def _about(number: int, settings: Mapping[str, Any]) -> str:
    when = f"{datetime.now():%d %B %Y, %H:%M}".lstrip("0")
    return f"{counted(number, 'image')} scored by {settings['method']} on {settings['backbone']}, {when}"


_ENGINES = {"onnx": "onnxruntime", "openvino": "openvino"}
"""What scored the images of a run over a bundle, by the `runner` in its settings."""


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # onnxruntime-gpu, or a page that is written again elsewhere
        return ""


def _settings_facts(source: str, settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    engine = _ENGINES.get(settings.get("runner", ""), "torch")
    versions = f"zsad {__version__}, {engine} {_version(engine)}, Python {platform.python_version()}"
    named = ((name.replace("_", " "), value) for name, value in settings.items() if name != "folder_mode")
    return facts([("folder", source), *named, ("versions", versions)])


def _reason(record: ResultRecord) -> str:
    """The error without the path that its message begins with, since the page prints the path above it."""
    return (record.error or "").removeprefix(f"{record.path}:").strip()


def _score(record: ResultRecord) -> float:
    return float(record.score or 0.0)

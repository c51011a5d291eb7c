"""The page of a prediction run: from its records and settings, at the end of the run or later on."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zsad._version import __version__
from zsad.errors import DataError
from zsad.files.run_settings import read_settings
from zsad.prediction.layout import RunLayout, common_folder
from zsad.prediction.records import RESULTS_FILE, ResultRecord, read_results
from zsad.prediction.report import ReportEntry, write_report

if TYPE_CHECKING:
    from zsad.detector.thresholds import Calibration

PAGE_KEY = "page"  # of settings.json: what the page needs and the scores do not depend on


def page_settings(map_range: tuple[float, float], calibration: Calibration | None) -> dict[str, Any]:
    """What `rebuild_page` will need, as JSON values for `settings.json` under `PAGE_KEY`."""
    return {"map_range": list(map_range), "calibration": calibration.to_dict() if calibration else None}


def write_prediction_page(
    layout: RunLayout,
    records: Sequence[ResultRecord],
    settings: Mapping[str, Any],
    map_range: tuple[float, float],
    calibration: Calibration | None,
) -> Path:
    """Writes `index.html` of a run.

    Args:
        layout: of the run's folder.
        records: of all its images.
        settings: as in `settings.json`.
        map_range: of the colour scale.
        calibration: what the threshold rests on, None without one.

    Returns:
        The page.

    Raises:
        OSError: it cannot be written.
    """
    scored = [record for record in records if record.error is None]
    entries = []
    for record in scored:
        large = layout.existing_file(record.path, "overlay") if "overlay" in settings["formats"] else None
        entries.append(ReportEntry(record, large, layout.thumbnail(record.path)))
    source = common_folder([record.path for record in scored or records])
    count = "1 image" if len(scored) == 1 else f"{len(scored)} images"
    when = f"{datetime.now():%d %B %Y, %H:%M}".lstrip("0")
    shown = {
        name.replace("_", " "): _shown(value)
        for name, value in settings.items()
        if value not in (None, [], "")
    }
    python = platform.python_version()
    return write_report(
        layout.directory,
        entries,
        title=Path(source).name or "Results",
        about=f"{count} scored by {settings['method']} on {settings['backbone']}, {when}",
        failed=[record for record in records if record.error is not None],
        threshold=settings["threshold"],
        map_range=map_range,
        fixed_scale=settings["scale"] == "fixed",
        calibration=calibration,
        settings={
            "folder": source,
            **shown,
            "versions": f"zsad {__version__}, torch {metadata.version('torch')}, Python {python}",
        },
    )


def is_prediction_folder(directory: str | Path) -> bool:
    """Whether a folder holds the results of `zsad predict`."""
    return (Path(directory) / RESULTS_FILE).is_file()


def rebuild_page(directory: str | Path) -> Path:
    """Writes the page of an earlier run anew from its `results.jsonl` and `settings.json`.

    Args:
        directory: of the run, perhaps moved; its images are found beside the page.

    Returns:
        The page.

    Raises:
        DataError: the results or settings are damaged, or of a zsad that did not keep what the page needs.
        OSError: the page cannot be written.
    """
    from zsad.detector.thresholds import Calibration

    directory = Path(directory)
    records = read_results(directory / RESULTS_FILE)
    settings = read_settings(directory) or {}
    page, root = settings.pop(PAGE_KEY, None), settings.pop("root", None)
    try:
        low, high = page["map_range"]
        found = page["calibration"]
        layout = RunLayout.plan(directory, [record.path for record in records], root)
        calibration = None if found is None else Calibration.from_dict(found)
        return write_prediction_page(layout, records, settings, (float(low), float(high)), calibration)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{directory}: settings.json is missing or of an older zsad; `zsad predict` makes the page anew"
        ) from error


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name}={_shown(item)}" for name, item in value.items()) or "none"
    if isinstance(value, list | tuple):
        return " ".join(_shown(item) for item in value)
    return str(value)

"""The page of a run, `index.html`: images sorted by score, with a threshold to try out.

The page is one file without any reference to the network and works from disk. Small runs carry their
thumbnails inside; large ones (more than `EMBEDDED_THUMBNAILS` images) link them, so that the page itself
stays small. Everything that comes from outside, file names above all, is escaped, and a content security
policy lets only the page's own script run.
"""

from __future__ import annotations

import base64
import hashlib
import html
import os
import re
import urllib.parse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from zsad.detector.calibration.wording import describe, percent
from zsad.files.atomic import atomic_file
from zsad.images.colours import colour_table
from zsad.images.names import as_path, is_uri
from zsad.prediction.layout import common_folder

if TYPE_CHECKING:
    from zsad.detector.thresholds import Calibration
    from zsad.prediction.records import ResultRecord

REPORT_FILE = "index.html"
EMBEDDED_THUMBNAILS = 200
HISTOGRAM_BINS = 48

_SHOWN_BY_BROWSERS = frozenset((".png", ".jpg", ".jpeg", ".gif", ".webp", ".bmp", ".avif", ".apng", ".jfif"))


@dataclass(frozen=True)
class ReportEntry:
    """One image of the page.

    Attributes:
        record: its line of `results.jsonl`, with a score.
        overlay: the full-size image that a click opens; None opens the thumbnail.
        thumbnail: a small JPEG; None shows an empty frame.
    """

    record: ResultRecord
    overlay: Path | None = None
    thumbnail: Path | None = None


def write_report(
    directory: str | Path,
    entries: Sequence[ReportEntry],
    *,
    title: str,
    about: str = "",
    failed: Sequence[ResultRecord] = (),
    threshold: float | None = None,
    map_range: tuple[float, float] = (0.0, 1.0),
    fixed_scale: bool = True,
    calibration: Calibration | None = None,
    settings: Mapping[str, str] | None = None,
) -> Path:
    """Writes `index.html` into a folder of results.

    Args:
        directory: of the run; links to images are relative to it.
        entries: the images that have a score, in any order.
        title: the headline.
        about: one sentence under it.
        failed: the records with an error.
        threshold: where the page's threshold stands when it is opened; None for no decision.
        map_range: of the colour scale, printed under its legend.
        fixed_scale: whether all overlays share that scale.
        calibration: what the threshold rests on; the page tells what it promises, marks its normal images
            below the histogram, and draws each image's relative score.
        settings: name and value of what the footer lists.

    Returns:
        The page's path.

    Raises:
        OSError: the page cannot be written.
    """
    directory = Path(directory)
    ordered = sorted(entries, key=lambda entry: (-_score(entry), entry.record.path))
    scores = [_score(entry) for entry in ordered]
    normal_scores = calibration.normal_scores if calibration else ()
    decided = [calibration.threshold] if calibration and scores else []
    low, high = histogram_range([*scores, *(normal_scores if scores else ()), *decided])
    embed = len(ordered) <= EMBEDDED_THUMBNAILS
    root = common_folder([entry.record.path for entry in ordered])
    script = _template("prediction.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    gradient = ", ".join(f"rgb({red} {green} {blue})" for red, green, blue in colour_table()[::15].tolist())
    values = {
        "title": html.escape(title),
        "about": html.escape(about),
        "script_hash": f"sha256-{digest}",
        "script": script,
        "gradient": gradient,
        "tools_hidden": "" if ordered else "hidden",
        "bins": str(HISTOGRAM_BINS),
        "bars": _bars(scores, low, high),
        "low": f"{low:.4g}",
        "high": f"{high:.4g}",
        "threshold": "" if threshold is None else repr(float(threshold)),
        "failed": _failed(failed),
        "rug": _rug(normal_scores, low, high),
        "rug_note": f" · {len(normal_scores)} ticks: the normal calibration images" if calibration else "",
        "calibration": "" if calibration is None else _promise(calibration, threshold),
        "distance": "" if calibration is None else repr(calibration.scale.distance),
        "grid_class": "grid" if embed else "grid many",
        "cards": "\n".join(_card(directory, entry, root, threshold, embed) for entry in ordered),
        "settings": "".join(
            f"<dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd>"
            for name, value in (settings or {}).items()
        ),
        "scale_note": "" if fixed_scale else " (each image has its own, printed into it)",
        "map_low": f"{map_range[0]:.4g}",
        "map_high": f"{map_range[1]:.4g}",
    }
    page = re.sub(r"\{\{(\w+)\}\}", lambda found: values[found[1]], _template("prediction.html"))
    path = directory / REPORT_FILE
    with atomic_file(path) as file:
        file.write(page.encode("utf-8", errors="backslashreplace"))
    return path


def histogram_range(scores: Sequence[float]) -> tuple[float, float]:
    """The stretch of the score axis that the page shows: the scores' own and a margin.

    Args:
        scores: in any order, perhaps none.

    Returns:
        Lower and upper end with four significant digits, the upper one larger; in [0, 1] if the scores are.
    """
    if not scores:
        return 0.0, 1.0
    low, high = min(scores), max(scores)
    margin = max(0.05 * (high - low), 0.005)
    start = low - margin if low < 0 else max(0.0, low - margin)
    end = high + margin if high > 1 else min(1.0, high + margin)
    return float(f"{start:.4g}"), float(f"{end:.4g}")


def relative_url(directory: Path, target: Path) -> str:
    """The link from a page in one folder to a file elsewhere, percent-encoded.

    Args:
        directory: where the page lies.
        target: the file.

    Returns:
        A relative URL; a `file:` URL where no relative path exists (another Windows drive).
    """
    try:
        relative = PurePath(os.path.relpath(target, directory)).as_posix()
    except ValueError:
        return target.resolve().as_uri()
    quoted = urllib.parse.quote(os.fsencode(relative))
    return f"./{quoted}"  # a first part with a colon would otherwise read as a URL scheme


def _card(directory: Path, entry: ReportEntry, root: str, threshold: float | None, embed: bool) -> str:
    record = entry.record
    path = PurePath(as_path(record.path) if is_uri(record.path) else record.path)
    name = html.escape(path.name)
    over = threshold is not None and _score(entry) >= threshold
    image = ""
    if entry.thumbnail is not None:
        source = _data_url(entry.thumbnail) if embed else relative_url(directory, entry.thumbnail)
        image = (
            f'<img src="{html.escape(source)}" loading="lazy" decoding="async" alt="Heat map over {name}">'
        )
    target = entry.overlay or entry.thumbnail or Path(record.path)
    shown = path.suffix.lower() in _SHOWN_BY_BROWSERS
    original = relative_url(directory, Path(record.path)) if shown and not is_uri(record.path) else ""
    folder = os.path.relpath(path.parent, root) if root else str(path.parent)
    folder = "" if folder == "." else folder
    badge_class, verdict = ("badge over", "anomalous") if over else ("badge", "normal")
    hidden = " hidden" if threshold is None else ""
    return (
        f'<li class="card panel{" over" if over else ""}" data-score="{_score(entry)!r}" '
        f'data-path="{html.escape(record.path)}" data-size="{record.width} by {record.height} pixels" '
        f'data-original="{html.escape(original)}">'
        f'<a href="{html.escape(relative_url(directory, target))}">'
        f'<span class="frame">{image}</span>'
        '<span class="text">'
        f'<span class="name" title="{html.escape(record.path)}">{name}</span>'
        f'<span class="folder">{html.escape(folder)}</span>'
        f'<span class="verdict"><span class="score" title="image score">{_score(entry):.3f}</span>'
        f'<span class="{badge_class}"{hidden}>{verdict}</span>'
        f"</span>{_relative_bar(record)}</span></a></li>"
    )


def _relative_bar(record: ResultRecord) -> str:
    """The relative score as a bar with a mark at the threshold, one half; nothing while uncalibrated."""
    if record.relative_score is None:
        return ""
    value = record.relative_score
    chance = "" if record.p_value is None else f"; {percent(record.p_value)} of normal images score as high"
    seen = "; made the calibration" if record.in_calibration else ""
    return (
        f'<span class="relative" title="relative score {value:.3f}, 0.5 at the threshold{chance}{seen}">'
        f'<span style="width:{100 * value:.1f}%"></span></span>'
    )


def _promise(calibration: Calibration, threshold: float | None) -> str:
    """The panel that says how the threshold came about; open, since it limits what a verdict means."""
    first, *others = describe(calibration)
    if threshold != calibration.threshold:
        others = [f"This run used the threshold {threshold} instead, given by hand: nothing is promised."]
    items = "".join(f"<li>{html.escape(line)}</li>" for line in others)
    items += "".join(f'<li class="warning">{html.escape(line)}</li>' for line in calibration.warnings)
    return (
        f'<details class="calibration panel" open><summary>Calibration: {html.escape(first)}</summary>'
        f"<ul>{items}</ul></details>"
    )


def _rug(scores: Sequence[float], low: float, high: float) -> str:
    """A tick below the histogram for each score."""
    places = (f"{(score - low) / (high - low) * HISTOGRAM_BINS:.3f}" for score in scores)
    return "".join(f'<line class="rug" x1="{x}" x2="{x}" y1="102" y2="110"/>' for x in places)


def _failed(records: Sequence[ResultRecord]) -> str:
    if not records:
        return ""
    count = "1 file" if len(records) == 1 else f"{len(records)} files"
    items = "".join(
        f"<li>{html.escape(record.path)}<span>{html.escape(_reason(record))}</span></li>"
        for record in records
    )
    is_open = " open" if len(records) <= 5 else ""
    summary = f"<summary>{count} could not be scored</summary>"
    return f'<details class="failed panel"{is_open}>{summary}<ul>{items}</ul></details>'


def _reason(record: ResultRecord) -> str:
    """The error without the path that its message begins with, since the page prints the path above it."""
    return (record.error or "").removeprefix(f"{record.path}:").strip()


def _bars(scores: Sequence[float], low: float, high: float) -> str:
    counts = [0] * HISTOGRAM_BINS
    for score in scores:
        place = int((score - low) / (high - low) * HISTOGRAM_BINS)
        counts[min(max(place, 0), HISTOGRAM_BINS - 1)] += 1
    tallest = max(counts, default=0) or 1
    bars = []
    for index, count in enumerate(counts):
        height = max(4.0, 100 * count / tallest) if count else 0.0  # one image among thousands stays visible
        bars.append(
            f'<rect x="{index + 0.06:.2f}" y="{100 - height:.1f}" width="0.88" height="{height:.1f}">'
            f"<title>{count}</title></rect>"
        )
    return "".join(bars)


def _data_url(thumbnail: Path) -> str:
    try:
        return f"data:image/jpeg;base64,{base64.b64encode(thumbnail.read_bytes()).decode()}"
    except FileNotFoundError:
        return ""


def _score(entry: ReportEntry) -> float:
    return float(entry.record.score or 0.0)


def _template(name: str) -> str:
    return resources.files("zsad.files").joinpath("templates").joinpath(name).read_text(encoding="utf-8")

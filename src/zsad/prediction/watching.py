"""Scores the images that arrive in folders, until it is stopped; `zsad predict --watch` calls it.

The results are those of `zsad.prediction.run`: records are appended as images are scored, table and page are
refreshed now and then. A later watch of the same folders continues in the same results, and nothing is scored
twice.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from zsad.errors import ConfigError, printable
from zsad.files.csv_tables import checked_delimiter
from zsad.files.run_lock import only_writer
from zsad.files.run_settings import write_settings
from zsad.images.limits import AUTO, checked_bits, common_depth
from zsad.images.names import is_uri
from zsad.images.tiles import tiling_note
from zsad.prediction.arrivals import Arrivals
from zsad.prediction.companions import COMPANIONS_KEY
from zsad.prediction.layout import GrowingNames, RunLayout
from zsad.prediction.options import PredictOptions
from zsad.prediction.page import PAGE_KEY, WATCH_KEY, page_settings, write_prediction_page
from zsad.prediction.pipeline import PredictionPipeline
from zsad.prediction.predictor import Predictor, calibration_of, check_exported, is_detector, promise_lines
from zsad.prediction.records import ResultRecord, ResultsWriter
from zsad.prediction.resuming import watched_layout
from zsad.prediction.run import PredictResult, in_batches
from zsad.prediction.setup import Loader, completed, known_settings, loaded_for, looking, make_folder

if TYPE_CHECKING:
    from zsad.prediction.pipeline import Scorer

_MOST_TIME_FOR_LISTING = 0.2  # share of the time that may go into listing large folders
_MOST_TIME_FOR_PAGES = 0.05  # share of the time that may go into table and page, which grow with the results


@dataclass(frozen=True, kw_only=True)
class WatchOptions:
    """How folders are watched.

    Attributes:
        interval: seconds between two looks into the folders; a file is scored when it has not changed in
            between. Large folders are looked into less often.
        patience: seconds that a file may stay unreadable without changing before that is its result.
        page_interval: seconds between two refreshments of table and page; longer when they take long to
            write.
    """

    interval: float = 1.0
    patience: float = 30.0
    page_interval: float = 30.0

    def __post_init__(self) -> None:
        for name in ("interval", "patience", "page_interval"):
            if not getattr(self, name) >= 0:
                raise ConfigError(
                    f"{name} must be a number of seconds, 0 or more; got {getattr(self, name)!r}"
                )


def watch_folders(
    folders: str | Path | Iterable[str | Path],
    detector: Predictor | Loader,
    options: PredictOptions = PredictOptions(),
    watch: WatchOptions = WatchOptions(),
    *,
    stop: threading.Event | None = None,
    report: Callable[[ResultRecord], None] = lambda record: None,
) -> PredictResult:
    """Scores images as they arrive in folders, those that lie there already first.

    A file counts when it is complete: when its size and time have stopped changing and it can be read. A file
    that is overwritten later is scored again, and its result replaces the earlier one.

    Args:
        folders: existing folders, or one.
        detector: a detector, an exported one, or a function that loads one, as `predict_folder` takes it.
        options: what to do with each image, and where to write. Earlier results of the same watch are
            continued, whatever `resume` says.
        watch: how often to look, and how long to wait.
        stop: ends the watch when it is set; Ctrl-C does so, too.
        report: called with each record when it is written.

    Returns:
        The results when the watch has ended.

    Raises:
        ConfigError: an input is no folder, the detector scores images together, or an option needs all
            images beforehand.
        DataError: the earlier results are damaged.
        OSError: the results cannot be written.
    """
    places = _checked_folders(folders)
    _check_options(options)
    directory = Path(options.out)
    make_folder(directory)
    with only_writer(directory):
        options = dataclasses.replace(options, bits=common_depth(options.bits))
        loaded = loaded_for(detector, [], options)
        if not is_detector(loaded):
            check_exported(options)
        if loaded.scores_jointly:
            raise ConfigError(
                f"{loaded.method_name} compares the images of a folder, which a watch does not have yet: fit "
                "a detector to good images (zsad fit good/ --out line.safetensors) and give --checkpoint "
                "line.safetensors, or give --method anomalyclip"
            )
        decided = looking(loaded, options).deciding(
            options.class_name, options.threshold, options.map_threshold
        )
        watcher = _Watcher(places, decided, completed(options, decided), watch, report)
        return watcher.run(stop or threading.Event())


class _Watcher:
    """A watch into a folder that is locked for it."""

    def __init__(
        self,
        folders: Sequence[Path],
        detector: Predictor,
        options: PredictOptions,
        watch: WatchOptions,
        report: Callable[[ResultRecord], None],
    ) -> None:
        self.detector, self.options, self.watch, self.report = detector, options, watch, report
        directory = Path(options.out)
        self.calibration = calibration_of(detector)
        root = os.path.commonpath([os.path.abspath(folder) for folder in folders])
        self.settings = {**known_settings(options, detector, self.calibration, ""), WATCH_KEY: True}
        self.layout, self.kept = watched_layout(directory, self.settings, options.formats or (), root)
        for_page = page_settings(detector.map_range, self.calibration)
        write_settings(directory, {**self.settings, "root": root, PAGE_KEY: for_page, COMPANIONS_KEY: []})
        self.arrivals = Arrivals(
            folders,
            recursive=options.recursive,
            include_results=options.include_results,
            left_out=[directory / name for name in RunLayout.FOLDERS],
        )
        for record in self.kept:
            self.arrivals.mark_seen(Path(record.path))
        self.scorer: Scorer = PredictionPipeline(detector, self.layout, options)
        self.unreadable: dict[Path, ResultRecord] = {}
        self.refreshed, self.refreshing, self.is_fresh = time.monotonic(), 0.0, False

    def run(self, stop: threading.Event) -> PredictResult:
        """Watches until it is stopped."""
        started = time.perf_counter()
        delimiter = checked_delimiter(self.options.csv_delimiter)
        with ResultsWriter(Path(self.options.out), self.kept, csv_delimiter=delimiter) as writer:
            with contextlib.suppress(KeyboardInterrupt):  # the way to end a watch
                while not stop.is_set():
                    looked = time.monotonic()
                    complete = self.arrivals.look()
                    listing = time.monotonic() - looked
                    for record in self._scored(complete, stop):
                        self._add(writer, record)
                    stop.wait(max(self.watch.interval, listing / _MOST_TIME_FOR_LISTING - listing))
            for record in (*self.scorer.written(), *self.unreadable.values()):
                self._add(writer, record)
        page = self._write_page(writer.records)
        records = tuple(writer.records)
        tiling = tiling_note(
            [record.tile for record in records], self.detector.tile, self.detector.image_size
        )
        seconds = time.perf_counter() - started
        return PredictResult(Path(self.options.out), page, records, len(self.kept), seconds, tiling=tiling)

    def _scored(self, paths: Sequence[Path], stop: threading.Event) -> Iterator[ResultRecord]:
        """Yields the records of images, and of files that have been unreadable for long enough."""
        for path in paths:
            cast("GrowingNames", self.layout.names).add(str(path))
            self.unreadable.pop(path, None)
        batches = in_batches(paths, self.options.batch_size)
        for record in self.scorer.records(batch for batch in batches if not stop.is_set()):
            if record.error is None:
                yield record
            elif os.path.lexists(record.path):  # one that was taken away again leaves no record
                self.unreadable[Path(record.path)] = record
        for path in list(self.unreadable):
            if not os.path.lexists(path):
                del self.unreadable[path]
            elif self.arrivals.quiet_seconds(path) >= self.watch.patience:
                yield self.unreadable.pop(path)

    def _add(self, writer: ResultsWriter, record: ResultRecord) -> None:
        writer.add(record)
        self.report(record)
        self.is_fresh = False
        self._refresh(writer)

    def _refresh(self, writer: ResultsWriter) -> None:
        """Writes table and page if they are due."""
        pause = max(self.watch.page_interval, self.refreshing / _MOST_TIME_FOR_PAGES)
        if self.is_fresh or time.monotonic() - self.refreshed < pause:
            return
        started = time.monotonic()
        writer.write_table()
        self._write_page(writer.records)
        self.refreshed = time.monotonic()
        self.refreshing, self.is_fresh = self.refreshed - started, True

    def _write_page(self, records: Sequence[ResultRecord]) -> Path:
        return write_prediction_page(
            self.layout,
            records,
            self.settings,
            self.detector.map_range,
            self.calibration,
            promise_lines(self.detector),
        )


def _checked_folders(folders: str | Path | Iterable[str | Path]) -> list[Path]:
    given = [folders] if isinstance(folders, (str, Path)) else list(folders)
    for folder in given:
        if is_uri(str(folder)):
            raise ConfigError(f"{printable(folder)} lies in a bucket; a watch looks into folders")
        if not Path(folder).expanduser().is_dir():
            raise ConfigError(f"{printable(folder)} is no folder: a watch needs folders that exist")
    if not given:
        raise ConfigError("no folder to watch was given")
    return [Path(folder).expanduser() for folder in given]


def _check_options(options: PredictOptions) -> None:
    """Refuses options that need all images beforehand, or other processes."""
    reasons = {
        "--devices and --engine": options.scores_elsewhere and "a watch scores in one process",
        "--explain": options.explain is not None and "rankings are written at the end of a run",
        "--bits auto": checked_bits(options.bits) == AUTO and "give the depth of the camera, such as 12",
        "--pages all": options.pages == "all" and "a watch takes the first page of each file",
    }
    for name, reason in reasons.items():
        if reason:
            raise ConfigError(f"{name} does not go with a watch: {reason}")

"""Scores files and folders of images and leaves tables, overlays and a page; what `zsad predict` calls.

One bad file becomes a record with an error and never stops the others; Ctrl-C leaves complete files, and a
run can be resumed.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from zsad.detector.calibration.wording import summary
from zsad.errors import ConfigError, DataError, unknown_name
from zsad.files.run_settings import check_same_settings, read_settings, write_settings
from zsad.images.finding import find_images
from zsad.images.names import RemoteFile, file_and_part
from zsad.images.saving import FILE_SUFFIXES, FileKind
from zsad.prediction.companions import COMPANIONS_KEY, folder_note, give_companions
from zsad.prediction.layout import RunLayout
from zsad.prediction.options import RunOptions
from zsad.prediction.page import PAGE_KEY, page_settings, write_prediction_page
from zsad.prediction.pipeline import Engine, PredictionPipeline, Scorer
from zsad.prediction.records import (
    EXPLANATIONS_FILE,
    RESULTS_FILE,
    ResultRecord,
    ResultsWriter,
    read_explanations,
    read_results,
    write_explanations,
)

if TYPE_CHECKING:
    from zsad.detector.detector import Detector
    from zsad.images.drawing import Scale

DEFAULT_DIRECTORY = "zsad-results"
DEFAULT_FORMATS: tuple[FileKind, ...] = ("overlay", "map")


@dataclass(frozen=True)
class RunSummary:
    """What a run came to.

    Attributes:
        directory: where everything was written.
        page: its `index.html`.
        records: of all images in the folder's results, resumed ones included, in input order.
        resumed: how many of them an earlier run had scored.
        seconds: wall time of this run without loading the method.
        note: a line on how the images were scored together; empty if each was scored by itself.
    """

    directory: Path
    page: Path
    records: tuple[ResultRecord, ...]
    resumed: int
    seconds: float
    note: str = ""

    @property
    def failed(self) -> tuple[ResultRecord, ...]:
        """The records with an error."""
        return tuple(record for record in self.records if record.error is not None)

    @property
    def scored(self) -> tuple[ResultRecord, ...]:
        """The records with a score, most anomalous first."""
        scored = [record for record in self.records if record.score is not None]
        return tuple(sorted(scored, key=lambda record: -(record.score or 0.0)))


def predict_folder(
    inputs: str | Path | Iterable[str | Path],
    detector: Detector | Callable[[list[Path]], Detector],
    directory: str | Path = DEFAULT_DIRECTORY,
    *,
    class_name: str | None = None,
    threshold: float | None = None,
    map_threshold: float | None = None,
    batch_size: int = 8,
    recursive: bool = True,
    formats: Sequence[FileKind] | None = None,
    scale: Scale = "fixed",
    explain: Sequence[str] | None = None,
    resume: bool = False,
    settings: Mapping[str, Any] | None = None,
    devices: int | Sequence[str] = 1,
    engine: Engine | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> RunSummary:
    """Scores images and writes `results.jsonl`, `results.csv`, images and `index.html` into a folder.

    Args:
        inputs: files, folders and glob patterns, or one of them.
        detector: as `zsad.load` gives it, or a function that makes it, which is called with the images'
            paths when the inputs have turned out to be there. Some of the images become its companions
            (`Detector.set_companions`) if its method takes any and there are at least 8.
        directory: for the results; made if it is not there. Without `resume`, earlier results are replaced.
        class_name: the name of what the images show, for methods that use it.
        threshold: image score from which on an image counts as anomalous; None takes the detector's, if any.
        map_threshold: map value from which on a pixel counts as anomalous; None takes the detector's, if any.
        batch_size: images that go through the network at once. A method that scores a whole batch together
            gets all images as one batch.
        recursive: also look into sub-folders.
        formats: what is written for each image: "overlay", "map" (16-bit PNG), "npy", "mask", "contour";
            None means overlay and map, and the mask when there is a map threshold.
        scale: the overlays' colour scale, as for `zsad.images.drawing.overlay`.
        explain: phrases for `Prediction.explain`; their ranking for each image is written into
            `explanations.jsonl`.
        resume: keep the results that an earlier run with the same settings left in `directory`, and score
            only what is new, has changed or failed then. Its batches may differ from those of one whole run,
            so the scores are the same to rounding.
        settings: anything else that the scores depend on (the checkpoint's name, say); it is remembered,
            compared on `resume` and shown on the page.
        devices: score in so many processes, each with a GPU (`cuda:0`, `cuda:1`...) or a share of the CPU, as
            the detector is on; or the names of the devices. The results are those of one process, on a CPU
            but for the last digits. In a script of your own, call this below
            `if __name__ == "__main__":`, as new Python processes need it.
        engine: what scores the images; None: this process or, with several devices, some more.
            `zsad.prediction.ray.RayPrediction` also takes what `expand_inputs` lists in a bucket.
        progress: called with the number of images done and to do, at the start and after each image.

    Returns:
        The records and where the page is.

    Raises:
        ConfigError: an argument is impossible, none of the inputs exists, or `resume` meets other settings.
        DataError: the inputs hold no image, or the earlier results are damaged.
        OSError: the results cannot be written (no permission, disk full); what was written so far is valid.
        KeyboardInterrupt: after Ctrl-C, when results and page of the images done so far are written.
    """
    directory = Path(directory)
    if batch_size < 1:
        raise ConfigError(f"the batch size must be at least 1, got {batch_size}")
    options = RunOptions(
        None if formats is None else checked_formats(formats),
        scale,
        class_name,
        threshold,
        map_threshold,
        None if explain is None else tuple(explain),
    )
    files = find_pictures(inputs, directory, recursive)
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise ConfigError(f"the results' folder {directory} is a file: choose another --out") from error
    detector = _loaded(detector, files)
    started = time.perf_counter()
    calibration = detector.calibration
    if class_name is not None and not detector.decision.is_for(class_name):
        raise ConfigError(
            f"the calibration is for images of {detector.decision.class_name!r}, not of {class_name!r}: "
            "calibrate for these too, or go on without it (--calibration none)"
        )
    if threshold is not None or map_threshold is not None:
        detector = detector.with_decision(detector.decision.with_thresholds(threshold, map_threshold))
    options = _completed(options, detector)
    companions = give_companions(detector, files, directory if resume else None)
    known = {**detector.scoring_settings(), **_described(options), **(settings or {})}
    if calibration is not None:
        known["calibration"] = summary(calibration)
    note = folder_note(detector)
    if note:
        known["folder_mode"] = note
    is_joint = detector.scores_jointly
    layout, kept = _plan(directory, files, known, options, resume=resume, is_joint=is_joint)
    explanations = read_explanations(directory) if resume and explain is not None else {}
    if explain is not None:  # a run that was killed may have left records without a ranking
        asked = {str(path) for path in files}
        kept = [record for record in kept if record.path in explanations or record.path not in asked]
    done = {record.path for record in kept}
    to_do = [path for path in files if str(path) not in done]
    for_page = page_settings(detector.map_range, calibration)
    write_settings(directory, {**known, "root": layout.root, PAGE_KEY: for_page, COMPANIONS_KEY: companions})

    pipeline = (engine or _engine(devices, detector))(detector, layout, options)
    batches = in_batches(to_do, len(to_do) if is_joint else batch_size)
    with ResultsWriter(directory, kept, [str(path) for path in files]) as writer:
        interrupted = _score_all(pipeline, batches, writer, len(to_do), progress)
    if explain is None:
        (directory / EXPLANATIONS_FILE).unlink(missing_ok=True)  # of an earlier run
    else:
        ranked = {**explanations, **pipeline.explanations}
        write_explanations(directory, ranked, [record.path for record in writer.records])
    page = write_prediction_page(layout, writer.records, known, detector.map_range, calibration)
    if interrupted is not None:
        raise interrupted
    return RunSummary(directory, page, tuple(writer.records), len(kept), time.perf_counter() - started, note)


def find_pictures(
    inputs: str | Path | Iterable[str | Path], directory: str | Path, recursive: bool = True
) -> list[Path]:
    """The images to score: what `zsad.images.reading.find_images` finds, without this run's own images.

    Args:
        inputs: files, folders and glob patterns, or one of them.
        directory: the results' folder, which may lie inside an input.
        recursive: also look into sub-folders.

    Returns:
        Paths without duplicates, in the order of the inputs; some may not exist if others do.

    Raises:
        ConfigError: none of the inputs exists.
        DataError: there is no image.
    """
    wanted = [inputs] if isinstance(inputs, str | os.PathLike) else list(inputs)
    remote = [item for item in wanted if isinstance(item, RemoteFile)]
    if remote and len(remote) == len(wanted):
        return cast("list[Path]", remote)  # for engines that read URIs
    found = find_images([item for item in wanted if not isinstance(item, RemoteFile)], recursive)
    if not any(os.path.lexists(file_and_part(path)[0]) for path in found):
        listed = ", ".join(str(path) for path in found[:3]) + (" and others" if len(found) > 3 else "")
        raise ConfigError(f"no such file or folder, and no match: {listed}")
    own = [os.path.join(os.path.abspath(directory), folder, "") for folder in RunLayout.FOLDERS]
    pictures = [path for path in found if not os.path.abspath(path).startswith(tuple(own))]
    if not pictures:
        raise DataError(f"the only images found are those that zsad wrote itself into {directory}")
    return [*pictures, *cast("list[Path]", remote)]


def in_batches(paths: Sequence[Path], size: int) -> Iterator[Sequence[Path]]:
    """Cuts a list of paths into runs of `size`; the last may be shorter."""
    return (paths[start : start + size] for start in range(0, len(paths), size))


def checked_formats(formats: Sequence[str]) -> tuple[FileKind, ...]:
    """The kinds of files to write, each once.

    Raises:
        ConfigError: a name is unknown; the message holds the known ones.
    """
    for name in formats:
        if name not in FILE_SUFFIXES:
            raise unknown_name("format", name, FILE_SUFFIXES)
    return tuple(dict.fromkeys(formats))  # type: ignore[arg-type] # the loop has checked them


def _loaded(detector: Detector | Callable[[list[Path]], Detector], files: list[Path]) -> Detector:
    if hasattr(detector, "predict"):
        return cast("Detector", detector)
    return detector(files)


def _engine(devices: int | Sequence[str], detector: Detector) -> Engine:
    """This process, or one for each of several devices."""
    if devices == 1:
        return PredictionPipeline
    from zsad.backbones.devices import device_names
    from zsad.prediction.workers import ShardedPrediction

    names = device_names(devices, detector.device.type) if isinstance(devices, int) else tuple(devices)
    return functools.partial(ShardedPrediction, devices=names)


def _score_all(
    pipeline: Scorer,
    batches: Iterator[Sequence[Path]],
    writer: ResultsWriter,
    count: int,
    progress: Callable[[int, int], None] | None,
) -> KeyboardInterrupt | None:
    """Writes a record for each image; after Ctrl-C, which it returns, for those that are complete."""
    report_progress = progress or (lambda done, total: None)
    report_progress(0, count)
    try:
        for done, record in enumerate(pipeline.records(batches), start=1):
            writer.add(record)
            report_progress(done, count)
    except KeyboardInterrupt as stop:
        for record in pipeline.written():
            writer.add(record)
        return stop
    return None


def _completed(options: RunOptions, detector: Detector) -> RunOptions:
    """Options with the detector's thresholds where none were given, and with the default files."""
    threshold = detector.threshold if options.threshold is None else options.threshold
    map_threshold = detector.map_threshold if options.map_threshold is None else options.map_threshold
    formats = options.formats
    if formats is None:
        formats = DEFAULT_FORMATS if map_threshold is None else (*DEFAULT_FORMATS, "mask")
    elif map_threshold is None and {"mask", "contour"} & set(formats):
        raise ConfigError("masks and contours need a threshold for map values: give --map-threshold VALUE")
    return dataclasses.replace(options, formats=formats, threshold=threshold, map_threshold=map_threshold)


def _described(options: RunOptions) -> dict[str, Any]:
    return {**dataclasses.asdict(options), "formats": sorted(options.formats or ())}


def _plan(
    directory: Path,
    files: Sequence[Path],
    settings: Mapping[str, Any],
    options: RunOptions,
    *,
    resume: bool,
    is_joint: bool,
) -> tuple[RunLayout, list[ResultRecord]]:
    """Where files go, and which records of an earlier run stay."""
    names = [
        str(path) for path in files if isinstance(path, RemoteFile) or os.path.lexists(file_and_part(path)[0])
    ]
    if not resume:
        return RunLayout.plan(directory, names), []
    earlier, root = _earlier_results(directory, settings)
    if earlier and is_joint:
        raise ConfigError(
            f"{settings['method']} scores all images together, so none can be added later: leave --resume out"
        )
    layout = RunLayout.plan(directory, [record.path for record in earlier] + names, root)
    wanted = set(names)
    formats = options.formats or ()
    return layout, [r for r in earlier if r.path not in wanted or layout.is_complete(r.path, formats)]


def _earlier_results(directory: Path, settings: Mapping[str, Any]) -> tuple[list[ResultRecord], str | None]:
    """The scored records of an earlier run with the same settings, and the root of its layout."""
    earlier = read_settings(directory)
    records = [record for record in read_results(directory / RESULTS_FILE) if record.error is None]
    if earlier is None:
        if records:
            raise ConfigError(
                f"cannot resume in {directory}: settings.json is missing, so its settings are unknown. "
                "Choose another --out, or leave --resume out to start over"
            )
        return [], None
    root = earlier.pop("root", None)
    for key in (PAGE_KEY, COMPANIONS_KEY):
        earlier.pop(key, None)
    check_same_settings(directory, earlier, settings)
    return records, root if isinstance(root, str) else None

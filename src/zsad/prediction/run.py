"""Scores files and folders of images and writes tables, overlays and a page; `zsad predict` calls it.

An unreadable file becomes a record with an error and never stops the others. Ctrl-C leaves complete files,
and a later run can resume from them.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from zsad.errors import ConfigError, DataError
from zsad.files.csv_tables import checked_delimiter
from zsad.files.run_lock import only_writer
from zsad.files.run_settings import write_settings
from zsad.images.finding import ImageSearch, search_images
from zsad.images.limits import AUTO, checked_bits, common_depth
from zsad.images.names import RemoteFile, file_and_part
from zsad.images.reading import common_bits
from zsad.images.tiles import tiling_note
from zsad.prediction.companions import COMPANIONS_KEY, folder_note, give_companions
from zsad.prediction.engines import choose_engine
from zsad.prediction.layout import RunLayout
from zsad.prediction.options import PredictOptions
from zsad.prediction.page import PAGE_KEY, page_settings, write_prediction_page
from zsad.prediction.predictor import (
    Predictor,
    calibration_of,
    check_exported,
    is_detector,
    promise_lines,
)
from zsad.prediction.records import (
    EXPLANATIONS_FILE,
    ResultRecord,
    ResultsWriter,
    read_explanations,
    write_explanations,
)
from zsad.prediction.resuming import earlier_files, resumed_layout
from zsad.prediction.setup import Loader, completed, known_settings, loaded_for, looking, make_folder

if TYPE_CHECKING:
    from zsad.images.names import Pages
    from zsad.prediction.pipeline import Engine, Scorer


@dataclass(frozen=True)
class PredictResult:
    """What a run has written.

    Attributes:
        directory: folder that holds everything.
        page: path of the run's `index.html`.
        records: records of all images in the folder's results, those of an earlier run included, in the
            order of the inputs.
        resumed: number of records that an earlier run had written.
        seconds: wall time of this run, without loading the method.
        note: one line on how the images were scored together; empty if each was scored by itself.
        tiling: one line on how many images were cut into tiles, and why; empty if none was.
        left_out: one line on how many images in the inputs were not scored, and why; empty if there are none.
    """

    directory: Path
    page: Path
    records: tuple[ResultRecord, ...]
    resumed: int
    seconds: float
    note: str = ""
    tiling: str = ""
    left_out: str = ""

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
    detector: Predictor | Loader,
    options: PredictOptions = PredictOptions(),
    *,
    progress: Callable[[int, int], None] | None = None,
) -> PredictResult:
    """Scores images and writes `results.jsonl`, `results.csv`, images and `index.html` into a folder.

    Args:
        inputs: files, folders, glob patterns and URIs ("s3://bucket/shots"), or one of them.
        detector: a detector from `zsad.load`, an exported one from `zsad.load_exported`, or a function that
            loads one. The function is called, once the
            inputs are known to exist, with the paths of the images, the device to load the detector on, and
            the depth at which it reads 16-bit files (None: what they state).
            Some of the images become companions of the others (`Detector.set_companions`) if the method
            compares images and there are at least 8.
        options: what to do with each image, and where to write.
        progress: called with the number of images done and the total, at the start and after each image.

    Returns:
        The records, and where the page is.

    Raises:
        ConfigError: an option does not fit the detector, none of the inputs exists, or the earlier run to
            resume had other settings.
        DataError: the inputs hold no image, or the earlier results are damaged.
        OSError: the results cannot be written (no permission, disk full); what was written so far is valid.
        KeyboardInterrupt: after Ctrl-C, once results and page of the finished images are written.
    """
    directory = Path(options.out)
    engine = choose_engine(options, _workers_device(options, detector))
    search = images_to_score(
        inputs,
        directory,
        options.recursive,
        include_results=options.include_results,
        pages=options.pages,
    )
    files = cast("list[Path]", search.images)  # a RemoteFile goes where a path goes
    make_folder(directory)
    is_auto = checked_bits(options.bits) == AUTO
    bits = common_bits(files) if is_auto else common_depth(options.bits)
    with only_writer(directory):
        options = dataclasses.replace(options, bits=bits)
        result = _predict(files, loaded_for(detector, files, options), options, engine, progress)
    return dataclasses.replace(result, left_out=str(search.left_out))


def _predict(
    files: list[Path],
    detector: Predictor,
    options: PredictOptions,
    engine: Engine,
    progress: Callable[[int, int], None] | None,
) -> PredictResult:
    """Scores images into a folder that is locked for this run."""
    directory = Path(options.out)
    started = time.perf_counter()
    if not is_detector(detector):
        check_exported(options)
    detector = looking(detector, options).deciding(
        options.class_name, options.threshold, options.map_threshold
    )
    calibration = calibration_of(detector)
    options = completed(options, detector)
    companions, note = [], ""
    if is_detector(detector):
        companions = give_companions(detector, files, directory if options.resume else None)
        note = folder_note(detector)
    known = known_settings(options, detector, calibration, note)
    layout, kept = _plan(directory, files, known, options, is_joint=detector.scores_jointly)
    explanations = read_explanations(directory) if options.resume and options.explain is not None else {}
    if options.explain is not None:  # a run that was killed may have left records without a ranking
        asked = {str(path) for path in files}
        kept = [record for record in kept if record.path in explanations or record.path not in asked]
    for_page = page_settings(detector.map_range, calibration)
    replaced = [] if options.resume else earlier_files(directory)
    write_settings(directory, {**known, "root": layout.root, PAGE_KEY: for_page, COMPANIONS_KEY: companions})

    scorer = engine(detector, layout, options)
    done = {record.path for record in kept}
    to_do = [path for path in files if str(path) not in done]
    batches = in_batches(to_do, len(to_do) if detector.scores_jointly else options.batch_size)
    delimiter = checked_delimiter(options.csv_delimiter)
    with ResultsWriter(directory, kept, [str(path) for path in files], delimiter) as writer:
        for file in replaced:  # with the table that named them
            file.unlink(missing_ok=True)
        interrupted = _score_all(scorer, batches, writer, len(to_do), progress)
    if options.explain is None:
        (directory / EXPLANATIONS_FILE).unlink(missing_ok=True)  # of an earlier run
    else:
        ranked = {**explanations, **scorer.explanations}
        write_explanations(directory, ranked, [record.path for record in writer.records])
    page = write_prediction_page(
        layout, writer.records, known, detector.map_range, calibration, promise_lines(detector)
    )
    if interrupted is not None:
        raise interrupted
    seconds = time.perf_counter() - started
    records = tuple(writer.records)
    tiling = tiling_note([record.tile for record in records], detector.tile, detector.image_size)
    return PredictResult(directory, page, records, len(kept), seconds, note, tiling)


def images_to_score(
    inputs: str | Path | Iterable[str | Path],
    directory: str | Path,
    recursive: bool = True,
    *,
    include_results: bool = False,
    pages: Pages = "first",
) -> ImageSearch:
    """Finds the images of a run, without the images that the run writes itself.

    Args:
        inputs: files, folders and glob patterns, or one of them.
        directory: the results' folder, which may lie inside an input.
        recursive: whether to search sub-folders too.
        include_results: whether to take what other runs wrote, and masks.
        pages: which images of a file with several count, as `search_images` takes it.

    Returns:
        Images as `search_images` finds them; some may not exist if others do.

    Raises:
        ConfigError: none of the inputs exists.
        DataError: the inputs hold no image.
    """
    search = search_images(inputs, recursive, include_results=include_results, pages=pages)
    found = search.images
    if not any(isinstance(path, RemoteFile) or _exists(path) for path in found):
        listed = ", ".join(str(path) for path in found[:3]) + (" and others" if len(found) > 3 else "")
        raise ConfigError(f"no such file or folder, and no match: {listed}")
    own = [os.path.join(os.path.abspath(directory), folder, "") for folder in RunLayout.FOLDERS]
    images = [path for path in found if not os.path.abspath(path).startswith(tuple(own))]
    if not images:
        raise DataError(f"the only images found are those that zsad wrote itself into {directory}")
    return ImageSearch(images, search.left_out)


def in_batches(paths: Sequence[Path], size: int) -> Iterator[Sequence[Path]]:
    """Cuts a list of paths into runs of `size`; the last one may be shorter."""
    return (paths[start : start + size] for start in range(0, len(paths), size))


def _workers_device(options: PredictOptions, detector: Predictor | Loader) -> str | None:
    """Kind of device of the processes: as in the options, or that of a detector that is already loaded."""
    if options.device is None and options.devices != 1 and is_detector(detector):
        return detector.device.type
    return options.device


def _plan(
    directory: Path,
    files: Sequence[Path],
    known: Mapping[str, Any],
    options: PredictOptions,
    *,
    is_joint: bool,
) -> tuple[RunLayout, list[ResultRecord]]:
    """Where files go, and which records of an earlier run are kept."""
    names = [str(path) for path in files if isinstance(path, RemoteFile) or _exists(path)]
    if not options.resume:
        return RunLayout.plan(directory, names), []
    return resumed_layout(directory, names, known, options.formats or (), is_joint=is_joint)


def _score_all(
    scorer: Scorer,
    batches: Iterator[Sequence[Path]],
    writer: ResultsWriter,
    count: int,
    progress: Callable[[int, int], None] | None,
) -> KeyboardInterrupt | None:
    """Writes a record for each image; after Ctrl-C, which it returns, for each image that is complete."""
    report_progress = progress or (lambda done, total: None)
    report_progress(0, count)
    try:
        for done, record in enumerate(scorer.records(batches), start=1):
            writer.add(record)
            report_progress(done, count)
    except KeyboardInterrupt as stop:
        for record in scorer.written():
            writer.add(record)
        return stop
    return None


def _exists(path: Path) -> bool:
    """Whether the file exists; the name may be that of a part of it ("scan.nii.gz#slice=3")."""
    return os.path.lexists(file_and_part(path)[0])

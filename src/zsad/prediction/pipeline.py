"""Turns images into records: reads ahead and writes results in threads while the network scores batches."""

from __future__ import annotations

import dataclasses
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from zsad.errors import one_line
from zsad.files.atomic import atomic_file
from zsad.images.ahead import MOST_BYTES_AT_ONCE, THREADS, parts_by_size, read_ahead
from zsad.images.decoding import file_bytes
from zsad.images.drawing import overlay, thumbnail
from zsad.images.reading import read_image
from zsad.images.region import check_region
from zsad.images.saving import save_jpeg, save_photo
from zsad.images.scoring import score_batch
from zsad.prediction.layout import content_stamp
from zsad.prediction.options import PredictOptions
from zsad.prediction.predictor import Predictor, calibration_of
from zsad.prediction.records import ResultRecord
from zsad.types import PhraseFit, Prediction

if TYPE_CHECKING:
    from PIL import Image

    from zsad.prediction.layout import RunLayout


class Scorer(Protocol):
    """Scores the images of a run and writes their files, in this process or in others."""

    @property
    def explanations(self) -> Mapping[str, Sequence[PhraseFit]]:
        """Rankings of the phrases to explain with, by path, of the images scored so far."""

    def records(self, batches: Iterable[Sequence[Path]]) -> Iterator[ResultRecord]:
        """Scores images.

        Args:
            batches: paths of the images, batch by batch.

        Yields:
            One record per path, in any order.
        """

    def written(self) -> Iterator[ResultRecord]:
        """Yields, after an interruption, records with complete files that `records` did not yield."""


Engine = Callable[["Predictor", "RunLayout", PredictOptions], Scorer]
"""Makes the scorer of a run: `PredictionPipeline`, or its counterpart in several processes."""


@dataclass(frozen=True)
class _Read:
    """An image that was read, or the line that says why it could not be read."""

    path: Path
    image: Image.Image | None
    error: str
    seconds: float
    stamp: bytes


class PredictionPipeline:
    """Scores images in batches, writes their files, and yields each record when its files are complete.

    Attributes:
        explanations: rankings of the phrases to explain with, by path, of the images scored so far.
    """

    def __init__(self, detector: Predictor, layout: RunLayout, options: PredictOptions) -> None:
        self.detector = detector
        self.layout = layout
        self.options = options
        self._calibration = calibration_of(detector)
        self.explanations: dict[str, list[PhraseFit]] = {}
        self._writing: deque[Future[ResultRecord]] = deque()

    def records(self, batches: Iterable[Sequence[Path]]) -> Iterator[ResultRecord]:
        """Scores images; records come in the order of the paths.

        Args:
            batches: paths of the images, batch by batch; each batch is taken before the previous one is
                scored.

        Yields:
            One record per path, with an error if the image could not be read or scored.

        Raises:
            ConfigError: the detector refuses an argument, which would be the same for every image.
            OSError: an image's files cannot be written.
        """
        pool = ThreadPoolExecutor(THREADS, thread_name_prefix="zsad-write")
        most_bytes = None if self.detector.scores_jointly else MOST_BYTES_AT_ONCE
        parts = (part for batch in batches for part in parts_by_size(batch, file_bytes, most_bytes))
        try:
            with closing(read_ahead(partial(_read, self.detector), parts)) as reading:
                for batch in reading:
                    for read, outcome, seconds in self._predict(batch):
                        self._writing.append(pool.submit(self._finish, read, outcome, seconds))
                    while len(self._writing) > len(batch):  # one batch is written while the next is scored
                        yield self._oldest()
            while self._writing:
                yield self._oldest()
        finally:
            pool.shutdown(wait=True)  # what has been scored is written, also after Ctrl-C

    def written(self) -> Iterator[ResultRecord]:
        """Yields, after an interruption, records with complete files that `records` did not yield."""
        for future in self._writing:
            if not future.cancelled() and future.done() and future.exception() is None:
                yield future.result()

    def _oldest(self) -> ResultRecord:
        record = self._writing[0].result()  # removed once it has come, because Ctrl-C may come while waiting
        self._writing.popleft()
        return record

    def _predict(self, batch: Sequence[_Read]) -> Iterator[tuple[_Read, Prediction | str, float]]:
        """Yields the prediction or error line of each image, and its share of the time."""
        outcomes = self._score([read for read in batch if read.image is not None])
        for read in batch:
            outcome, seconds = outcomes.get(read.path, (read.error, 0.0))
            started = time.perf_counter()
            # here and not in the writing threads: it takes the network
            if (
                isinstance(outcome, Prediction)
                and self.options.explain is not None
                and np.isfinite(outcome.anomaly_map).all()
            ):
                self.explanations[str(read.path)] = outcome.explain(self.options.explain)
            seconds += time.perf_counter() - started
            yield read, outcome, seconds

    def _score(self, reads: Sequence[_Read]) -> dict[Path, tuple[Prediction | str, float]]:
        """The prediction or error line of each image, and its share of the time, by path."""

        def predict(some: Sequence[_Read]) -> Sequence[Prediction]:
            return self.detector.predict([read.image for read in some], classes=self.options.class_name)

        started = time.perf_counter()
        outcomes = score_batch(predict, reads, is_joint=self.detector.scores_jointly)
        share = (time.perf_counter() - started) / max(1, len(reads))
        return {read.path: (outcome, share) for read, outcome in zip(reads, outcomes, strict=True)}

    def _finish(self, read: _Read, outcome: Prediction | str, seconds: float) -> ResultRecord:
        """Writes the files of an image and makes its record; runs in a thread."""
        started = time.perf_counter()
        path = str(read.path)
        found: dict[str, Any] = {}
        if isinstance(outcome, str):
            found["error"] = outcome
        elif not (np.isfinite(outcome.score) and np.isfinite(outcome.anomaly_map).all()):
            found["error"] = "the method gave values that are not finite (try --precision fp32)"
        else:
            found = self._written(dataclasses.replace(outcome, path=read.path), read.stamp)
        taken = read.seconds + seconds + time.perf_counter() - started
        return record_of(path, self.detector, self.options, seconds=round(taken, 4), **found)

    def _written(self, prediction: Prediction, stamp: bytes) -> dict[str, Any]:
        """Writes the files of an image; returns what its record says of the prediction."""
        path = str(prediction.path)
        self._write(prediction, path, stamp)
        height, width = prediction.anomaly_map.shape
        calibration = self._calibration
        best = next(iter(self.explanations.get(path, ())), None)
        return {
            "score": float(prediction.score),
            "is_anomalous": None if prediction.is_anomalous is None else bool(prediction.is_anomalous),
            "width": width,
            "height": height,
            "relative_score": prediction.relative_score,
            "p_value": prediction.p_value,
            "in_calibration": None if calibration is None else calibration.saw(prediction.image),
            "tile": prediction.tile,
            "phrase": None if best is None else best.phrase,
            "phrase_share": None if best is None else best.share,
        }

    def _write(self, prediction: Prediction, path: str, stamp: bytes) -> None:
        values = (prediction.image, prediction.anomaly_map, prediction.map_range)
        heat = overlay(*values, scale=self.options.scale, roi=prediction.roi)  # once for both files
        for kind in self.options.formats or ():
            target = self.layout.file(path, kind)
            if kind == "overlay":
                save_photo(heat, target)
            else:
                prediction.write(kind, target)
        with atomic_file(self.layout.thumbnail(path)) as file:
            save_jpeg(thumbnail(heat), file, quality=82, note=stamp)


def record_of(
    path: str, detector: Predictor, options: PredictOptions, *, seconds: float = 0.0, **found: Any
) -> ResultRecord:
    """The record of an image, with the names and the threshold of the run.

    Args:
        path: input file.
        detector: gives the names of method and backbone.
        options: give the threshold.
        seconds: time that the image took.
        **found: other fields of the record, by name; those left out are None.
    """
    unknown = dict.fromkeys(("score", "is_anomalous", "width", "height", "error"))
    return ResultRecord(
        path=path,
        threshold=options.threshold,
        seconds=seconds,
        method=detector.method_name,
        backbone=detector.backbone_name,
        **{**unknown, **found},
    )


def _read(detector: Predictor, path: Path) -> _Read:
    started = time.perf_counter()
    image, reason, stamp = None, "", b""
    try:
        stamp = content_stamp(str(path))  # before the image, so that a change in between is seen on --resume
        read = read_image(path, bits=detector.bits, for_tiles=detector.tile is not None)
        check_region(read, detector.roi, path)
        image = read
    except Exception as error:  # whatever a decoder raises, the other files are still scored
        reason = one_line(error)
    return _Read(path, image, reason, time.perf_counter() - started, stamp)

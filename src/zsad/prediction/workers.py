"""Prediction in several processes, one per GPU or several sharing the CPU; `zsad predict --devices N`.

The calling process plans the run and keeps its tables; worker processes (`zsad.detector.workers`) score
batches and write the files of the images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from zsad.detector.workers import Lost, Workers
from zsad.errors import ConfigError
from zsad.prediction.layout import RunLayout
from zsad.prediction.pipeline import PredictionPipeline, record_of
from zsad.prediction.records import ResultRecord

if TYPE_CHECKING:
    from zsad.detector.detector import Detector
    from zsad.prediction.options import PredictOptions
    from zsad.types import PhraseFit

_Scored = tuple[ResultRecord, "Sequence[PhraseFit] | None"]


@dataclass(frozen=True)
class _Batch:
    """Images that go through the network together.

    Attributes:
        paths: images, as the pipeline takes them.
        names: relative path of the files of each image, by the image's path.
    """

    paths: tuple[Path, ...]
    names: Mapping[str, Path]

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(str(path) for path in self.paths)

    def parts(self) -> list[_Batch]:
        return [_Batch((path,), self.names) for path in self.paths]


@dataclass(frozen=True)
class _Setup:
    """What a worker needs to predict; see `zsad.detector.workers.Setup`."""

    detector: Detector
    directory: Path
    root: str
    options: PredictOptions

    def __call__(self, device: str) -> Callable[[Iterator[_Batch]], Iterator[tuple[str, _Scored]]]:
        names: dict[str, Path] = {}
        layout = RunLayout(self.directory, self.root, names)
        pipeline = PredictionPipeline(self.detector.to(device), layout, self.options)

        def paths_of(batches: Iterator[_Batch]) -> Iterator[Sequence[Path]]:
            for batch in batches:
                names.update(batch.names)
                yield batch.paths

        def scored(batches: Iterator[_Batch]) -> Iterator[tuple[str, _Scored]]:
            for record in pipeline.records(paths_of(batches)):
                names.pop(record.path, None)
                yield record.path, (record, pipeline.explanations.pop(record.path, None))

        return scored


class ShardedPrediction:
    """Scores images in worker processes; the counterpart of `zsad.prediction.pipeline.PredictionPipeline`.

    Attributes:
        explanations: rankings of the phrases to explain with, by path, of the images scored so far.
    """

    def __init__(
        self, detector: Detector, layout: RunLayout, options: PredictOptions, devices: Sequence[str]
    ) -> None:
        """Starts nothing yet.

        Args:
            detector: sent to every worker by pickle.
            layout: names the files of each image.
            options: says what is done with each image.
            devices: device of each worker; "cpu" may be repeated.

        Raises:
            ConfigError: the method scores all images together.
        """
        import torch

        if detector.scores_jointly:
            raise ConfigError(
                f"{detector.method.INFO.name} scores all images together, which cannot be split over "
                f"{len(devices)} processes: leave --devices out"
            )
        self.explanations: dict[str, Sequence[PhraseFit]] = {}
        self._detector = detector
        self._layout = layout
        self._options = options
        threads = max(1, torch.get_num_threads() // len(devices))  # the workers share the CPU
        setup = _Setup(detector, layout.directory, layout.root, options)
        self._workers: Workers[str, _Scored] = Workers(setup, devices, threads)

    def records(self, batches: Iterable[Sequence[Path]]) -> Iterator[ResultRecord]:
        """Scores images; records come as the workers finish them, those of one worker in order.

        Args:
            batches: paths of the images, batch by batch.

        Yields:
            One record per path.

        Raises:
            ConfigError: the detector refuses an argument, or the processes cannot be started.
            OSError: an image's files cannot be written.
        """
        try:
            for path, outcome in self._workers.run(self._batch(batch) for batch in batches):
                yield self._failed(path, outcome) if isinstance(outcome, Lost) else self._received(outcome)
        finally:
            self._workers.close()

    def written(self) -> Iterator[ResultRecord]:
        """Yields, after an interruption, the records that came in while the workers stopped."""
        self._workers.close()
        for _, scored in self._workers.left:
            yield self._received(scored)

    def _batch(self, paths: Sequence[Path]) -> _Batch:
        names = self._layout.names
        return _Batch(tuple(paths), {str(path): names[str(path)] for path in paths if str(path) in names})

    def _received(self, scored: _Scored) -> ResultRecord:
        record, ranking = scored
        if ranking is not None:
            self.explanations[record.path] = ranking
        return record

    def _failed(self, path: str, lost: Lost) -> ResultRecord:
        advice = (
            "give a smaller --image-size or make the image smaller, or leave it out"
            if lost.is_to_blame
            else "give fewer --devices or a smaller --batch-size, then --resume"
        )
        error = f"{path}: {lost.reason}; {advice}"
        return record_of(path, self._detector, self._options, error=error)

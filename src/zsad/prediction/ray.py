"""Prediction on a Ray cluster, for folders or buckets that outgrow one machine; `zsad predict --engine ray`.

Ray Data passes batches of names to actors. Each actor holds the detector, reads its images itself (local or
shared paths, or URIs of a bucket) and returns records and finished files; the calling process writes both.
Workers therefore need no shared folder for results, and a run is resumed from what one process has written.
Only names are given to Ray, because `ray.data.read_binary_files` ends the run at the first unreadable file.
Batches are those of a run in one process.

Ray restarts actors that die and repeats their tasks, here once. Images that are lost nevertheless are scored
once more, one by one, which rounds differently; an image whose worker dies again becomes a record with an
error.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from zsad.errors import ConfigError, DataError, MissingExtraError, one_line
from zsad.files.atomic import atomic_file
from zsad.files.fields import shortened
from zsad.files.json_text import parse_json
from zsad.files.plain import from_plain
from zsad.images.names import RemoteFile, as_path, is_uri
from zsad.images.remote import read_remote
from zsad.prediction.layout import RunLayout
from zsad.prediction.pipeline import PredictionPipeline, record_of
from zsad.prediction.records import ResultRecord
from zsad.types import PhraseFit

if TYPE_CHECKING:
    from zsad.detector.detector import Detector
    from zsad.prediction.options import PredictOptions

_MOST_BATCHES_PER_TASK = 4  # an actor reads ahead within a task
_MOST_STARTS = 2
_DOWNLOADS_AT_ONCE = 8


class RayPrediction:
    """Scores images in the actors of a Ray cluster; see `zsad.prediction.pipeline.Scorer`.

    Attributes:
        explanations: rankings of the phrases to explain with, by path, of the images scored so far.
    """

    def __init__(
        self,
        detector: Detector,
        layout: RunLayout,
        options: PredictOptions,
        *,
        workers: int | None = None,
        device: str | None = None,
    ) -> None:
        """Starts nothing yet.

        Args:
            detector: copied to every actor.
            layout: names the files of each image.
            options: says what is done with each image.
            workers: largest number of actors; None: one per GPU of the cluster or, without GPUs, per CPU.
            device: "cpu" uses no GPU; None or "cuda" gives each actor one GPU if the cluster has any.

        Raises:
            MissingExtraError: Ray is not installed.
            ConfigError: the method scores all images together, or an argument is impossible.
        """
        try:
            import ray.data  # noqa: F401
        except ImportError as error:
            raise MissingExtraError("ray", "ray", "--engine ray") from error
        info = detector.method.INFO
        if detector.scores_jointly:
            raise ConfigError(
                f"{info.name} scores all images together, which cannot be split over a cluster: "
                "leave --engine out"
            )
        if workers is not None and workers < 1:
            raise ConfigError(f"the number of workers must be at least 1, got {workers}")
        self.explanations: dict[str, Sequence[PhraseFit]] = {}
        self._detector = detector
        self._layout = layout
        self._options = options
        self._workers = workers
        self._device = device

    def records(self, batches: Iterable[Sequence[Path | RemoteFile]]) -> Iterator[ResultRecord]:
        """Scores images and writes their files; records come as actors finish them.

        Args:
            batches: paths or URIs of the images, batch by batch.

        Yields:
            One record per image.

        Raises:
            ConfigError: the detector refuses an argument, which would be the same for every image.
            OSError: an image's files cannot be written.
        """
        import ray

        rows = [[str(path) for path in batch] for batch in batches]
        missing = {path for row in rows for path in row}
        is_ours = not ray.is_initialized()
        try:
            if missing and is_ours:
                _connect()
            for again in (False, True):
                if again:
                    rows = [[path] for row in rows for path in row if path in missing]
                for record in self._scored(rows, 1 if again else _MOST_BATCHES_PER_TASK):
                    if record.path in missing:
                        missing.discard(record.path)
                        yield record
        finally:
            if is_ours and ray.is_initialized():
                ray.shutdown()
        for path in sorted(missing):
            yield self._failed(path)

    def written(self) -> Iterator[ResultRecord]:
        """Yields nothing, because the files of an image are written just before its record is yielded."""
        return iter(())

    def _scored(self, rows: Sequence[Sequence[str]], batches_per_task: int) -> Iterator[ResultRecord]:
        """Scores batches in the cluster; writes files and yields records as they arrive."""
        if not rows:
            return
        for row in self._dataset(rows, batches_per_task).iter_rows():
            if row["problem"]:
                raise ConfigError(row["problem"])
            if row["file"]:
                with atomic_file(self._layout.directory / _relative(row["file"])) as file:
                    file.write(row["content"])
                continue
            record = ResultRecord.from_json(row["record"])
            if row["ranking"]:
                self.explanations[record.path] = _ranking(row["ranking"])
            yield record

    def _dataset(self, rows: Sequence[Sequence[str]], batches_per_task: int) -> Any:
        """Makes the lazy dataset of files and records."""
        import ray

        resources = ray.cluster_resources()  # type: ignore[no-untyped-call]
        gpus = 0 if self._device == "cpu" else int(resources.get("GPU", 0))
        workers = self._workers or gpus or max(1, int(resources.get("CPU", 1)))
        per_task = max(1, min(batches_per_task, len(rows) // (2 * workers)))
        items = [{"batch": json.dumps([(path, self._name(path)) for path in row])} for row in rows]
        ledger = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Ledger).remote()
        with _quiet_and_lenient():
            return ray.data.from_items(
                items, override_num_blocks=math.ceil(len(rows) / per_task)
            ).map_batches(
                ImageActor,
                batch_size=per_task,
                concurrency=(1, workers),
                num_cpus=1,
                num_gpus=1 if gpus else 0,
                fn_constructor_args=(ray.put(self._detector), self._options, ledger, bool(gpus)),
            )

    def _name(self, path: str) -> str | None:
        name = self._layout.names.get(path)
        return None if name is None else str(name)

    def _failed(self, path: str) -> ResultRecord:
        reason = (
            f"{path}: its worker died each time it was read or scored, often for lack of memory; give "
            "workers with more memory, a smaller --image-size, or leave the image out"
        )
        return record_of(path, self._detector, self._options, error=reason)


class Ledger:
    """Counts how often a task is started, because Ray Data would repeat a deadly one forever."""

    def __init__(self) -> None:
        self._starts: Counter[str] = Counter()

    def starts(self, task: str) -> int:
        """Counts a start of a task and returns the number of its starts."""
        self._starts[task] += 1
        return self._starts[task]


class ImageActor:
    """Holds the detector in a process of the cluster, and turns names of images into records and files."""

    def __init__(self, detector: Any, options: PredictOptions, ledger: Any, has_gpu: bool) -> None:
        """Receives the detector.

        Args:
            detector: reference to the detector in Ray's object store.
            options: says what is done with each image.
            ledger: handle of the cluster's `Ledger`.
            has_gpu: whether Ray has given this process a GPU.
        """
        import ray

        # on the worker's own disk, and removed with the actor
        self._folder = tempfile.TemporaryDirectory(prefix="zsad-")
        self._ledger = ledger
        self._names: dict[str, Path] = {}
        layout = RunLayout(Path(self._folder.name) / "out", "", self._names)
        self._pipeline = PredictionPipeline(
            ray.get(detector).to("cuda" if has_gpu else "cpu"), layout, options
        )
        self._sources = _Sources(Path(self._folder.name) / "in")

    def __call__(self, table: Mapping[str, Any]) -> Iterator[dict[str, list[Any]]]:
        """Scores some batches.

        Args:
            table: "batch" holds JSON lists of (path or URI, name of its files).

        Yields:
            The files of each image, one per row, and then its record; nothing if this task has already
            killed its process too often.
        """
        import ray

        if ray.get(self._ledger.starts.remote(table["batch"][0])) > _MOST_STARTS:
            return
        batches = [json.loads(text) for text in table["batch"]]
        try:
            for record in self._pipeline.records(self._local_batches(batches)):
                yield from self._rows(record)
        except ConfigError as error:
            yield _row(problem=one_line(error))

    def _local_batches(self, batches: Sequence[Sequence[tuple[str, str | None]]]) -> Iterator[list[Path]]:
        """Yields batches of local files; remote ones are all fetched from the start."""
        with ThreadPoolExecutor(_DOWNLOADS_AT_ONCE) as pool:
            fetched = [[pool.submit(self._sources.fetch, path) for path, _ in batch] for batch in batches]
            for batch, futures in zip(batches, fetched, strict=True):
                paths = [future.result() for future in futures]
                for path, (_, name) in zip(paths, batch, strict=True):
                    if name is not None:
                        self._names[str(path)] = Path(name)
                yield paths

    def _rows(self, record: ResultRecord) -> Iterator[dict[str, list[Any]]]:
        ranking = self._pipeline.explanations.pop(record.path, None)
        layout = self._pipeline.layout
        if record.error is None:
            kinds = self._pipeline.options.formats or ()
            files = [layout.existing_file(record.path, kind) for kind in kinds]
            for file in (*files, layout.thumbnail(record.path)):
                if file is not None:
                    name = PurePosixPath(file.relative_to(layout.directory))
                    yield _row(file=json.dumps(str(name)), content=file.read_bytes())
                    file.unlink()
        self._names.pop(record.path, None)
        yield _row(
            record=self._sources.release(record).to_json(),
            ranking=json.dumps([asdict(fit) for fit in ranking]) if ranking else "",
        )


class _Sources:
    """Local copies of remote images, kept while they are scored."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._given: dict[str, str] = {}  # local path -> URI
        self._problems: dict[str, str] = {}
        self._count = 0

    def fetch(self, path: str) -> Path:
        """The local file of a path or URI; `release` reports what goes wrong."""
        if not is_uri(path):
            return Path(path)
        folder = Path(tempfile.mkdtemp(dir=_made(self._folder)))
        local = folder / PurePosixPath(as_path(path)).name
        self._given[str(local)] = path
        try:
            local.write_bytes(read_remote(path))
        except Exception as error:  # whatever a file system raises, the other images are still scored
            self._problems[str(local)] = f"{path}: cannot be fetched ({one_line(error)})"
        return local

    def release(self, record: ResultRecord) -> ResultRecord:
        """Removes the local copy of an image; returns its record under its original name."""
        given = self._given.pop(record.path, None)
        if given is None:
            return record
        local = Path(record.path)
        local.unlink(missing_ok=True)
        local.parent.rmdir()
        error = record.error and record.error.replace(record.path, given)
        return replace(record, path=given, error=self._problems.pop(record.path, error))


def _row(
    file: str = "", content: bytes = b"", record: str = "", ranking: str = "", problem: str = ""
) -> dict[str, list[Any]]:
    """Makes a batch of one row with all columns, as Ray Data takes it."""
    values = {"file": file, "content": content, "record": record, "ranking": ranking, "problem": problem}
    return {name: [value] for name, value in values.items()}


def _relative(text: str) -> PurePosixPath:
    """The name of a file that a worker sends, inside the results' folder.

    Raises:
        DataError: it is damaged or leads out of the folder.
    """
    name = PurePosixPath(str(parse_json(text, "a file's name from a worker")))
    if name.is_absolute() or ".." in name.parts:
        raise DataError(f"a worker sent a file outside the results' folder: {shortened(str(name))}")
    return name


def _ranking(text: str) -> list[PhraseFit]:
    """The ranking of phrases that a worker sends."""
    where = "a ranking from a worker"
    fits = parse_json(text, where)
    if not isinstance(fits, list):
        raise DataError(f"{where}: expected a list, got {shortened(fits)}")
    return [from_plain(PhraseFit, fit, where) for fit in fits]


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextlib.contextmanager
def _quiet_and_lenient() -> Iterator[None]:
    """Makes datasets print nothing and drop tasks that fail for good, which `records` notices."""
    import ray

    context = ray.data.DataContext.get_current()
    wanted = {"enable_progress_bars": False, "print_on_execution_start": False, "max_errored_blocks": -1}
    before = {name: getattr(context, name) for name in wanted}
    try:
        for name, value in wanted.items():
            setattr(context, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(context, name, value)


def _connect() -> None:
    """Joins the cluster that RAY_ADDRESS names, or starts one on this machine."""
    import ray

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    # Ray Data's own actors make Ray's core print a line that is meant for Ray's developers (its issue 53727)
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    ray.init(
        address=os.environ.get("RAY_ADDRESS") or None,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )

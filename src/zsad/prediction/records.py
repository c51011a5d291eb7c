"""Writes and reads the tables of `zsad predict`.

During a run, records are appended to `results.jsonl` and flushed, so that a crash loses at most the last
line. At the end the file is rewritten as a whole, in input order, with `results.csv` beside it.
`settings.json` remembers what the scores depend on, so that resuming never mixes two settings in one table.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Annotated

from zsad.errors import DataError
from zsad.files.atomic import atomic_file
from zsad.files.csv_tables import csv_text, write_csv_file
from zsad.files.fields import AtLeast, AtMost, Count, Share
from zsad.files.json_text import parse_json, parse_object
from zsad.files.plain import from_plain
from zsad.types import PhraseFit

RESULTS_FILE = "results.jsonl"
TABLE_FILE = "results.csv"


@dataclass(frozen=True)
class ResultRecord:
    """One line of `results.jsonl`.

    Attributes:
        path: input file as given or found.
        score: image anomaly score in [0, 1]; None after an error.
        is_anomalous: whether the score reaches the threshold; None without threshold or after an error.
        threshold: image score from which on an image counts as anomalous; None if there is none.
        width: width of the image in pixels; None after an error.
        height: height of the image in pixels; None after an error.
        seconds: time to read, score (its share of the batch) and write this image.
        method: registry name of the method.
        backbone: name of the backbone.
        error: one line that says why there is no score; None if there is one.
        relative_score: score on the calibration's scale, 0.5 at the threshold; written if calibrated.
        p_value: share of normal images with a score at least as high; written if calibrated.
        in_calibration: whether the calibration was made with this image, so that its decision says nothing
            about new images; written if calibrated.
        tile: side in pixels of the tiles that the image was cut into; written if it was.
        phrase: phrase of `--explain` that fits the anomalous region best; written with `--explain`.
        phrase_share: share of that phrase in [0, 1]; the shares of all phrases add up to 1.
    """

    path: str
    score: Annotated[float, AtLeast(-1e6), AtMost(1e6)] | None
    is_anomalous: bool | None
    threshold: float | None
    width: Count | None
    height: Count | None
    seconds: Annotated[float, AtLeast(0)]
    method: str
    backbone: str
    error: str | None = None
    relative_score: Share | None = None
    p_value: Share | None = None
    in_calibration: bool | None = None
    tile: Count | None = None
    phrase: str | None = None
    phrase_share: Share | None = None

    def to_json(self) -> str:
        """The record as one line of JSON without its line end."""
        values = {
            name: value
            for name, value in asdict(self).items()
            if value is not None or name not in OPTIONAL_COLUMNS
        }
        # File names that are not valid Unicode reach Python as lone surrogates, which UTF-8 cannot hold.
        pure = all(isinstance(value, str) is False or _is_unicode(value) for value in values.values())
        return json.dumps(values, ensure_ascii=not pure, allow_nan=False)

    @classmethod
    def from_json(cls, line: str | bytes) -> ResultRecord:
        """Reads one line that `to_json` wrote.

        Raises:
            DataError: the line is no record; the message shows its beginning.
        """
        try:
            where = f"not a line of {RESULTS_FILE}"
            record = from_plain(cls, parse_json(line, where), where)
        except DataError as error:
            raise DataError(f"{error} in {line[:60]!r}") from error
        if (record.score is None) == (record.error is None):
            raise DataError(f"{where}: either score or error must be null in {line[:60]!r}")
        return record


OPTIONAL_COLUMNS = ("relative_score", "p_value", "in_calibration", "tile", "phrase", "phrase_share")
COLUMNS = tuple(field.name for field in fields(ResultRecord) if field.name not in OPTIONAL_COLUMNS)


class ResultsWriter:
    """Appends records during a run and leaves complete files at its end, also after Ctrl-C.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> with ResultsWriter(folder) as writer:
        ...     writer.add(ResultRecord("a.png", 0.25, None, None, 8, 8, 0.01, "winclip", "tiny"))
        >>> [record.score for record in read_results(folder / RESULTS_FILE)]
        [0.25]
    """

    def __init__(
        self,
        directory: str | Path,
        kept: Sequence[ResultRecord] = (),
        order: Sequence[str] = (),
        csv_delimiter: str = ",",
    ) -> None:
        """Starts the files of a run; older ones of the same folder are replaced.

        Args:
            directory: results' folder; created if missing.
            kept: records of an earlier run that stay.
            order: paths in the order of the finished files; other records come before them.
            csv_delimiter: character between two cells of `results.csv`.

        Raises:
            OSError: the folder cannot be written.
        """
        self.directory = Path(directory)
        self._records = {record.path: record for record in kept}
        self._delimiter = csv_delimiter
        self._order = {path: place for place, path in enumerate(order)}
        write_jsonl(self.directory / RESULTS_FILE, self.records)
        self._file = (self.directory / RESULTS_FILE).open("ab")

    @property
    def records(self) -> list[ResultRecord]:
        """All records so far, kept ones included, in the order of the finished files."""
        return sorted(self._records.values(), key=lambda record: self._order.get(record.path, -1))

    def add(self, record: ResultRecord) -> None:
        """Appends one record and passes it to the operating system at once.

        Raises:
            OSError: the disk is full; what was written before stays readable.
        """
        self._file.write(record.to_json().encode() + b"\n")
        self._file.flush()
        self._records[record.path] = record

    def finish(self) -> None:
        """Writes `results.jsonl` in order and `results.csv`, each whole."""
        self._close()
        write_jsonl(self.directory / RESULTS_FILE, self.records)
        self.write_table()

    def write_table(self) -> None:
        """Writes `results.csv` of the records so far, whole."""
        write_csv(self.directory / TABLE_FILE, self.records, self._delimiter)

    def __enter__(self) -> ResultsWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if isinstance(error, OSError):
            self._close()  # the folder is no longer writable; the appended file is what remains
        else:
            self.finish()

    def _close(self) -> None:
        try:
            self._file.close()
        except OSError:
            # Closing flushes once more, and the disk may still be full; `add` has raised for that already.
            self._file = open(os.devnull, "ab")  # noqa: SIM115 - only a place holder


def write_jsonl(path: str | Path, records: Iterable[ResultRecord]) -> None:
    """Writes records as JSON lines, whole or not at all."""
    with atomic_file(path) as file:
        for record in records:
            file.write(record.to_json().encode() + b"\n")


def write_csv(path: str | Path, records: Iterable[ResultRecord], delimiter: str = ",") -> None:
    """Writes records as CSV with the columns of `results.jsonl`; None becomes an empty field."""
    rows = [asdict(record) for record in records]
    used = [name for name in OPTIONAL_COLUMNS if any(row[name] is not None for row in rows)]
    write_csv_file(path, csv_text([*COLUMNS, *used], rows, delimiter))


def read_results(path: str | Path) -> list[ResultRecord]:
    """Reads `results.jsonl`; ignores a last line that was cut off.

    Args:
        path: path of the file; a missing file counts as empty.

    Returns:
        One record per path, in the order of the file; of several with one path, the last.

    Raises:
        DataError: a line is damaged, other than a last one that was cut off.
        OSError: the file cannot be read.
    """
    path = Path(path)
    if not path.exists():
        return []
    records: dict[str, ResultRecord] = {}
    lines = [
        (number, line) for number, line in enumerate(path.read_bytes().split(b"\n"), start=1) if line.strip()
    ]
    for number, line in lines:
        try:
            record = ResultRecord.from_json(line)
        except DataError as error:
            is_cut = number == lines[-1][0] and not line.rstrip().endswith(b"}")
            if is_cut:  # the run was stopped while this line was written
                continue
            raise DataError(f"{path}, line {number}: {error}") from error
        records[record.path] = record
    return list(records.values())


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


EXPLANATIONS_FILE = "explanations.jsonl"


Explanations = Mapping[str, Sequence[PhraseFit]]


def write_explanations(directory: str | Path, explanations: Explanations, paths: Iterable[str]) -> Path:
    """Writes the rankings of some images; the file appears when it is complete.

    Args:
        directory: results' folder.
        explanations: rankings, best first, by path of the image.
        paths: images to write, in this order; images without a ranking are skipped.

    Returns:
        The path of the file.

    Raises:
        OSError: the file cannot be written.
    """
    target = Path(directory) / EXPLANATIONS_FILE
    with atomic_file(target) as file:
        for path in paths:
            if path in explanations:
                ranking = explanations[path]
                row = {
                    "path": path,
                    "phrase": ranking[0].phrase,
                    "ranking": [asdict(fit) for fit in ranking],
                }
                # ASCII, because file names that are not valid Unicode cannot be written as UTF-8
                file.write(json.dumps(row).encode() + b"\n")
    return target


def read_explanations(directory: str | Path) -> dict[str, list[PhraseFit]]:
    """Reads the rankings that `write_explanations` wrote, by path; none if there is no file.

    Raises:
        DataError: the file is damaged.
        OSError: the file cannot be read.
    """
    source = Path(directory) / EXPLANATIONS_FILE
    if not source.exists():
        return {}
    found = {}
    for number, line in enumerate(source.read_bytes().splitlines(), start=1):
        try:
            row = parse_object(line, f"{source}, line {number}")
            found[str(row["path"])] = [from_plain(PhraseFit, fit, str(source)) for fit in row["ranking"]]
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(
                f"{source}, line {number} is not one of zsad's ({error}): delete the file"
            ) from error
    return found

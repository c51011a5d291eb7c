"""Reads datasets that a list describes: CSV or TSV, JSON or JSON lines.

* Lists of users, with the columns of `rows.py`. JSON is a list of objects (alone, or under a key such as
  "samples"), or nested by split and category like `meta.json`. JSON lines hold one object per line, as those
  of UniAD do (filename, label, maskname, clsname).
* VisA as downloaded: `split_csv/1cls.csv` with object, split, label, image, mask; images in
  CATEGORY/Data/Images/{Normal,Anomaly}, masks in CATEGORY/Data/Masks/Anomaly. Sure (AnomalyCLIP's
  generate_dataset_json/visa.py reads it).
* `meta.json` as the reference repositories generate it: {"train": {CLASS: [{img_path, mask_path, cls_name,
  specie_name, anomaly}]}, "test": {...}}; for DAGM the keys are "Train" and "Test"; some files hold absolute
  paths of the author's machine. Sure (all of AnomalyCLIP's generate_dataset_json).
* Real-IAD as downloaded: realiad_jsons/CATEGORY.json (or one folder deeper) with {"meta": {"normal_class":
  "OK", "prefix": "CATEGORY/"}, "train": [{category, anomaly_class, image_path, mask_path}], "test": [...]},
  images in realiad_1024/CATEGORY (or _512, _256, _raw). Sure of the keys and folders (anomalib's realiad.py
  and others).
* HeadCT as downloaded from Kaggle: labels.csv with "id" and " hemorrhage", images head_ct/000.png (some
  archives nest the folder in another one of the same name). Sure (AdaCLIP's data_preprocess/headct-pre.py).
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zsad.data.layouts.listing import Listing, joined
from zsad.data.layouts.rows import Row, check_columns, column_of, read_rows
from zsad.data.vocabulary import SPLIT_WORDS
from zsad.errors import DataError
from zsad.files.fields import shortened
from zsad.files.json_text import parse_json

if TYPE_CHECKING:
    from zsad.data.layouts.opening import Opening

LIST_SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".ndjson")
VISA_LIST = "split_csv/1cls.csv"
META_FILE = "meta.json"
REAL_IAD_IMAGES = ("realiad_1024", "realiad_512", "realiad_256", "realiad_raw")
LONGEST_CELL = 1000  # characters; a path on the common systems has at most some hundred
REAL_IAD_LISTS = ("realiad_jsons/realiad_jsons", "realiad_jsons")

NumberedRow = tuple[str, Row]


def read_list(path: Path, opening: Opening, base: Path | None = None) -> Listing:
    """Reads the samples of a list file.

    Args:
        path: path of a CSV, TSV, JSON or JSON-lines file with a row for each image.
        opening: how the user wants the list read; rows that name no split belong to "test".
        base: folder that relative paths start from; None: the folder of the list.

    Returns:
        Samples in the order of the list, and problems with file and line or entry.

    Raises:
        DataError: the file cannot be read as such a list.
    """
    folder = path.parent if base is None else base
    rows = rows_of_file(path)
    return read_rows(rows, opening, file=path, base=folder, category=folder.resolve().name)


def rows_of_file(path: Path) -> list[NumberedRow]:
    """Reads the rows of a list file, each with its place for messages.

    Raises:
        DataError: the file is not text, not CSV or JSON, or has no header or no rows.
    """
    text = _text(path)
    suffix = path.suffix.lower()
    if suffix in (".csv", ".tsv"):
        rows = rows_of_csv(text, path)
    elif suffix in (".jsonl", ".ndjson"):
        rows = rows_of_json_lines(text, path)
    else:
        rows = rows_of_json(text, path)
    if not rows:
        raise DataError(f"{path}: the list is empty; expected one row for each image")
    return rows


def _text(path: Path) -> str:
    """The text of a list, without a byte-order mark.

    Raises:
        DataError: the file cannot be read, or is not UTF-8.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 text; save the list as UTF-8") from error


def rows_of_csv(text: str, place: object) -> list[NumberedRow]:
    """Reads the rows of comma-, semicolon- or tab-separated text with a header line.

    Raises:
        DataError: no column of the header names a path, or a row is longer than the header.
    """
    header_line = next((line for line in text.splitlines() if line.strip()), "")
    delimiter = max(",;\t", key=header_line.count)  # a comma if the header has none of the three
    try:
        table = [
            (line, cells) for cells, line in _csv_rows(text, delimiter) if any(cell.strip() for cell in cells)
        ]
    except csv.Error as error:
        raise DataError(f"{place}: is not readable as CSV ({error})") from error
    if not table:
        raise DataError(f"{place}: the list is empty; expected a header such as path,label,mask,category")
    header = [cell.strip() for cell in table[0][1]]
    check_columns(header, place)
    rows: list[NumberedRow] = []
    for line, cells in table[1:]:
        if len(cells) > len(header) and any(cell.strip() for cell in cells[len(header) :]):
            raise DataError(
                f"{place}, line {line}: {len(cells)} cells, the header has {len(header)}; quote text that "
                f"holds {delimiter!r}"
            )
        rows.append((f"{place}, line {line}", dict(zip(header, cells, strict=False))))
    return rows


def rows_of_json_lines(text: str, place: object) -> list[NumberedRow]:
    """Reads the rows of JSON lines.

    Raises:
        DataError: a line is not a JSON object.
    """
    rows: list[NumberedRow] = []
    # Only "\n" ends a line here, because JSON strings may hold the other separators that splitlines() knows.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            row = _parsed(line, f"{place}, line {number}")
            if not isinstance(row, dict):
                raise DataError(f"{place}, line {number}: expected a JSON object with a path")
            _check_cells(row, f"{place}, line {number}")
            rows.append((f"{place}, line {number}", row))
    return rows


def rows_of_json(text: str, place: object) -> list[NumberedRow]:
    """Reads the rows of a JSON document: lists of objects, at the top or nested by split and category.

    Raises:
        DataError: the text is not JSON, or holds no list of objects.
    """
    document = _parsed(text, str(place))
    if isinstance(document, dict) and "meta" in document:
        document = {key: value for key, value in document.items() if key != "meta"}
    return list(_nested(document, {}, str(place)))


def _csv_rows(text: str, delimiter: str) -> Iterator[tuple[list[str], int]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    for cells in reader:
        yield cells, reader.line_num


def _parsed(text: str, place: str) -> Any:
    return parse_json(text, place, nan_is_null=True)  # tables that pandas exports hold NaN for "no mask"


def _check_cells(row: Row, place: str) -> None:
    """Refuses a list, an object or an endless text where a column that zsad reads holds text or a number."""
    for name, value in row.items():
        if isinstance(value, str) and len(value) > LONGEST_CELL and column_of(name):
            raise DataError(
                f"{place}: {shortened(name)} must be a text of at most {LONGEST_CELL} characters, got "
                f"{len(value)}, {shortened(value)}"
            )
        if isinstance(value, list | dict) and column_of(name):
            raise DataError(f"{place}: {name} must be a text or a number, got {shortened(value)}")


def _nested(node: Any, known: Mapping[str, str], place: str, depth: int = 0) -> Iterator[NumberedRow]:
    """Yields the rows below a node; the keys on the way name split and category."""
    if isinstance(node, list):
        for number, entry in enumerate(node, start=1):
            if not isinstance(entry, dict):
                raise DataError(f"{place}, entry {number}: expected an object with a path, got {entry!r:.60}")
            _check_cells(entry, f"{place}, entry {number}")
            named = {column_of(name) for name in entry}
            yield f"{place}, entry {number}", {**{k: v for k, v in known.items() if k not in named}, **entry}
        return
    if not isinstance(node, dict) or depth > 3:
        raise DataError(f"{place}: expected a list of objects with a path, got {node!r:.60}")
    for key, child in node.items():
        if key.casefold() in SPLIT_WORDS and "split" not in known:
            deeper = {**known, "split": key}
        elif key.casefold() in ("samples", "images", "data", "items", "rows"):
            deeper = dict(known)
        else:
            deeper = {**known, "category": key}
        yield from _nested(child, deeper, f"{place}, {key}", depth + 1)


def is_visa(folder: Path, opening: Opening) -> bool:
    """Whether a folder holds VisA's official split."""
    return (folder / VISA_LIST).is_file()


def read_visa(folder: Path, opening: Opening) -> Listing:
    """Reads VisA by its official one-class split."""
    return read_list(folder / VISA_LIST, opening, base=folder)


def is_meta(folder: Path, opening: Opening) -> bool:
    """Whether a folder holds a `meta.json` of the reference repositories."""
    return (folder / META_FILE).is_file()


def read_meta(folder: Path, opening: Opening) -> Listing:
    """Reads a prepared folder by its `meta.json`."""
    return read_list(folder / META_FILE, opening)


def is_real_iad(folder: Path, opening: Opening) -> bool:
    """Whether a folder holds Real-IAD's lists."""
    return (folder / "realiad_jsons").is_dir()


def read_real_iad(folder: Path, opening: Opening) -> Listing:
    """Reads Real-IAD by its own lists (all views), with the largest images up to 1024 pixels that exist.

    Raises:
        DataError: the lists or the images are missing.
    """
    lists = next(
        (found for name in REAL_IAD_LISTS if (found := sorted((folder / name).glob("*.json")))), None
    )
    if not lists:
        raise DataError(f"{folder / 'realiad_jsons'}: no CATEGORY.json; unpack realiad_jsons.zip there")
    images = next((folder / name for name in REAL_IAD_IMAGES if (folder / name).is_dir()), None)
    if images is None:
        raise DataError(f"{folder}: no images; expected one of the folders {', '.join(REAL_IAD_IMAGES)}")
    listings = []
    for path in lists:
        if not (images / path.stem).is_dir():
            listings.append(Listing((), (f"{images / path.stem}: is not there, but {path.name} lists it",)))
            continue
        listings.append(read_list(path, opening, base=images / path.stem))
    return joined(listings)


def is_head_ct(folder: Path, opening: Opening) -> bool:
    """Whether a folder holds HeadCT's labels and images."""
    return (folder / "labels.csv").is_file() and (folder / "head_ct").is_dir()


def read_head_ct(folder: Path, opening: Opening) -> Listing:
    """Reads HeadCT, whose labels belong to numbers of images."""
    images = folder / "head_ct"
    if (images / "head_ct").is_dir():
        images = images / "head_ct"
    if opening.split == "train":
        return Listing()
    path = folder / "labels.csv"
    rows: list[NumberedRow] = []
    for number, line in enumerate(_text(path).splitlines(), start=1):
        cells = [cell.strip() for cell in line.split(",")]
        if number > 1 and any(cells):
            name = f"{int(cells[0]):03d}.png" if cells[0].isdecimal() else cells[0]
            label = cells[1] if len(cells) > 1 else ""
            rows.append((f"{path}, line {number}", {"path": name, "label": label}))
    return read_rows(rows, opening, file=path, base=images, category="head_ct")

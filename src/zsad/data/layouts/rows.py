"""Interprets the rows of lists, whatever file they come from: names of columns, and values of cells.

    path       path, image, img_path, file, filename, ...       the only column that is required
    label      label, anomaly, is_anomalous, target, ...        0 and 1, or words; without it the mask decides
    mask       mask, mask_path, ground_truth, gt, maskname, ... may be empty
    category   category, object, class, cls_name, product, ...
    defect     defect, specie_name, anomaly_class, ...
    split      split, phase, set, subset

Case, spaces, "-" and "_" in the name of a column do not count. Paths are relative to the folder of the list;
absolute paths of another machine are found by their last parts.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any

from zsad.data.layouts.listing import Listing
from zsad.data.vocabulary import SPLIT_WORDS, Meaning, check_labels
from zsad.errors import DataError
from zsad.images.names import file_and_part
from zsad.types import UNLABELLED, Sample

if TYPE_CHECKING:
    from zsad.data.layouts.opening import Opening

Row = Mapping[str, Any]

COLUMNS: Mapping[str, tuple[str, ...]] = {
    "path": ("path", "image", "img", "imagepath", "imgpath", "file", "filename", "filepath", "picture"),
    "mask": ("mask", "maskpath", "groundtruth", "gt", "gtpath", "maskname", "maskfile", "segmentation"),
    "label": (
        *("label", "anomaly", "anomalous", "isanomalous", "isanomaly", "target", "y", "labelindex"),
        *("isdefective", "isdefect", "hasdefect", "defective", "abnormal", "isabnormal"),
    ),
    "category": ("category", "object", "class", "classname", "clsname", "cls", "product", "categoryname"),
    "defect": ("defect", "speciename", "defecttype", "defectclass", "anomalyclass", "anomalytype", "kind"),
    "split": ("split", "phase", "set", "subset", "fold", "partition"),
}
# Words that may name something else too: they count where no column names the label or the defect.
WEAK_LABELS = frozenset(
    (
        "verdict",
        "result",
        "status",
        "decision",
        "judgement",
        "judgment",
        "outcome",
        "grade",
        "quality",
        "passfail",
    )
)
NOTHING = frozenset({"", "-1", "?", "-", "nan", "na", "n/a", "none", "null", "unknown", "unlabelled"})


def read_rows(
    rows: Iterable[tuple[str, Row]], opening: Opening, *, file: Path, base: Path, category: str
) -> Listing:
    """Turns the rows of a list into samples.

    Args:
        rows: place for messages ("lists.csv, line 7") and column name -> cell, for each row; a cell is text,
            a number, a bool or None.
        opening: how the user wants the list read; rows that name no split belong to "test".
        file: file of the list, for messages.
        base: folder that relative paths start from.
        category: category of the rows that name none.

    Returns:
        Samples in the order of the list, and a problem for each row that has no path, whose image or mask
        does not exist, whose label or split is not understood, or that names an image again. An image whose
        mask does not exist is a sample without a mask.

    Raises:
        DataError: the labels leave open what is normal.
    """
    rows = [(place, _columns(raw)) for place, raw in rows]
    _check_meanings([row for _, row in rows], file, opening)
    samples: list[Sample] = []
    problems: list[str] = []
    seen: dict[tuple[Path, str], str] = {}
    for place, row in rows:
        try:
            part = _split_of(row)
            if opening.split not in ("all", part):
                continue
            sample, missing = _sample(row, base, category, opening)
        except DataError as error:
            problems.append(f"{place}: {error}")
            continue
        earlier = seen.setdefault((sample.path, sample.category), place)
        if earlier != place:
            problems.append(f"{place}: {sample.path} is listed already in {earlier}; remove one of the two")
        else:
            samples.append(sample)
            problems += [f"{place}: {missing}"] if missing else []
    return Listing(tuple(samples), tuple(problems))


def _columns(raw: Row) -> dict[str, str]:
    """Returns the cells of a row by the names of `COLUMNS`."""
    row: dict[str, str] = {}
    for name, value in raw.items():
        if column := column_of(name):
            row.setdefault(column, _cell(value))
    if not row.keys() & {"label", "defect"}:
        for name, value in raw.items():
            if _folded(name) in WEAK_LABELS:
                row.setdefault("label", _cell(value))
    return row


def _check_meanings(rows: Iterable[Mapping[str, str]], file: Path, opening: Opening) -> None:
    """Refuses labels that leave open what is normal; of labels that are numbers, rows complain themselves."""
    rows = list(rows)
    for column in ("label", "defect"):
        labels = {cell for row in rows if (cell := row.get(column, "")).casefold() not in NOTHING}
        if labels:
            break
    if "0" not in labels or opening.normal_labels:
        words = {label for label in labels if opening.normal_labels or not _is_number(label)}
        check_labels(words, file, opening.normal_labels)


def column_of(name: object) -> str | None:
    """Returns the one of `COLUMNS` that a header stands for; None for any other header."""
    folded = _folded(name)
    return next((column for column, names in COLUMNS.items() if folded in names), None)


def _folded(name: object) -> str:
    return "".join(character for character in str(name).casefold() if character.isalnum())


def check_columns(names: Iterable[object], place: object) -> None:
    """Refuses a header without a path, or with two columns of the same meaning.

    Raises:
        DataError: the header is refused; the message names its columns.
    """
    given = [str(name) for name in names]
    if not any(column_of(name) == "path" for name in given):
        shown = ", ".join(given) or "none"
        raise DataError(
            f"{place}: no column for the image's path (columns: {shown}); expected a header such as "
            "path,label,mask,category"
        )
    for column in COLUMNS:
        twice = [name for name in given if column_of(name) == column]
        if len(twice) > 1 and column != "label":
            raise DataError(f"{place}: the columns {' and '.join(twice)} both name the {column}; keep one")


def find_file(base: Path, text: str, kind: str) -> Path:
    """Finds the file that a list names.

    Args:
        base: folder that relative paths start from.
        text: path in the list, with / or the backslash of Windows; it may name a slice behind a "#".
        kind: kind of the file, for the message ("image", "mask"); a mask may be a folder.

    Returns:
        Path of an existing file or, for a mask, also of a folder; the slice stays behind the "#".

    Raises:
        DataError: the file does not exist.
    """
    parts = (PureWindowsPath(text) if "\\" in text else PurePosixPath(text)).parts
    candidates = [text, PureWindowsPath(text).as_posix()]
    if len(parts) > 1 and parts[0].endswith(("/", "\\")):  # an absolute path, perhaps of another machine
        candidates += ["/".join(parts[start:]) for start in range(1, len(parts))]
    for candidate in candidates:
        file, part = file_and_part(base / candidate)
        if os.path.isfile(file) or (kind == "mask" and os.path.isdir(file)):  # a folder of masks is united
            return Path(f"{file}#{part}" if part else file)
    raise DataError(f"{kind} {text} is not there; looked in {base}")


def _cell(value: Any) -> str:
    """Returns the text of a cell: "1" for 1.0 and True, "" for None."""
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return "" if value is None else str(value).strip()


def _split_of(row: Mapping[str, str]) -> str:
    word = row.get("split", "").casefold()
    if not word:
        return "test"
    if word not in SPLIT_WORDS:
        raise DataError(f"split {row['split']!r} is not known; expected train, test or validation")
    return SPLIT_WORDS[word]


def _sample(row: Mapping[str, str], base: Path, category: str, opening: Opening) -> tuple[Sample, str]:
    """Returns the sample of a row, and what is wrong with its mask."""
    text = row.get("path", "")
    if not text:
        raise DataError("names no image; fill in its path or remove the row")
    path = find_file(base, text, "image")
    mask_text = "" if row.get("mask", "").casefold() in NOTHING else row["mask"]
    label, defect = _label(row, bool(mask_text), opening)
    mask, missing = None, ""
    if mask_text and label == 1:
        try:
            mask = find_file(base, mask_text, "mask")
        except DataError as error:
            missing = str(error)
    named = row.get("category", "")
    return Sample(path, opening.class_name(named or category), label, mask, defect), missing


def _label(row: Mapping[str, str], has_mask: bool, opening: Opening) -> tuple[int, str]:
    """Returns label and kind of defect; the first column with a value decides: label, defect, mask."""
    said = row.get("label", "").casefold()
    kind = row.get("defect", "")
    kind = "" if kind.casefold() in NOTHING else kind
    found = _meaning(said, opening)
    if said and found == "normal":
        return 0, "good"
    if said and found == "anomalous":
        return 1, kind if kind and _meaning(kind, opening) is None else "anomalous"
    if said not in NOTHING:
        if _is_number(said):
            raise DataError(f"label {row['label']!r} is not known; expected 0 (normal) or 1 (anomalous)")
        return 1, row["label"]  # a kind of defect in the label column
    if kind:
        return (0, "good") if _meaning(kind, opening) == "normal" else (1, kind)
    if has_mask:
        return 1, "anomalous"
    # An empty cell in a column of masks means that the image is normal; without that column, it is unknown.
    return (0, "good") if "mask" in row and "label" not in row else (UNLABELLED, "unlabelled")


def _meaning(label: str, opening: Opening) -> Meaning | None:
    """Returns what a label says, numbers included."""
    by_word = opening.meaning(label)
    return by_word or {"0": "normal", "1": "anomalous"}.get(label)  # type: ignore[return-value]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True

"""CSV files that spreadsheets open as meant: UTF-8 with its mark, and no cell that runs as a formula."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from zsad.errors import ConfigError
from zsad.files.atomic import atomic_file

DELIMITERS = {",": ",", ";": ";", "|": "|", "\t": "\t", "\\t": "\t"}
DELIMITERS |= {"comma": ",", "semicolon": ";", "pipe": "|", "tab": "\t"}
"""Delimiters by what a user may type."""

# Spreadsheets also take the full-width forms. One that expects another delimiter, or meets a quotation mark,
# begins a cell in the middle of a text.
_BEGINS = "[-=+@＝＋－＠]"  # noqa: RUF001
_FORMULA = re.compile(rf'^(?=\s*{_BEGINS}|[\t\r\n])|(?<=[,;|\t\r\n"])(?={_BEGINS})')


def checked_delimiter(delimiter: str) -> str:
    """The delimiter that a text stands for: the character itself, or "tab", "comma", "semicolon" or "pipe".

    Raises:
        ConfigError: it is none of these.
    """
    found = DELIMITERS.get(delimiter.lower())
    if found is None:
        raise ConfigError(
            "the CSV delimiter must be one of , ; | or the words comma, semicolon, pipe, tab, "
            f"got {delimiter!r}"
        )
    return found


def safe_cell(value: object) -> str:
    """The text of a cell: None is empty, and ' stands before whatever a spreadsheet takes for a formula.

    That may be in the middle of a text: after a delimiter or a quotation mark.
    Source: OWASP, "CSV Injection". Numbers stay numbers, below zero too.

    Example:
        >>> safe_cell("=1+1.png"), safe_cell("a;=1+1.png"), safe_cell(-0.5), safe_cell(None), safe_cell(True)
        ("'=1+1.png", "a;'=1+1.png", '-0.5', '', 'true')
    """
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"  # as in the JSON files
    if isinstance(value, str):
        return _FORMULA.sub("'", value)
    return repr(float(value)) if isinstance(value, float) else str(value)


def csv_text(columns: Sequence[str], rows: Iterable[Mapping[str, object]], delimiter: str = ",") -> str:
    """A table as CSV text; lines end with a line feed.

    Args:
        columns: names of the columns, which form the first line.
        rows: values by column; a missing value and None give an empty cell.
        delimiter: character between two cells.
    """
    file = io.StringIO()
    writer = csv.writer(file, delimiter=delimiter, lineterminator="\n")
    writer.writerow(map(safe_cell, columns))
    writer.writerows([safe_cell(row.get(column)) for column in columns] for row in rows)
    return file.getvalue()


def write_csv_file(path: str | Path, text: str) -> Path:
    """Writes CSV text as UTF-8 with a byte-order mark, without which Excel garbles what is not ASCII."""
    with atomic_file(path) as file:
        file.write(text.encode("utf-8-sig", errors="backslashreplace"))
    return Path(path)

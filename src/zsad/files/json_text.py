"""Reads JSON that anybody may have written, and says in one line what does not fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from zsad.errors import DataError
from zsad.files.fields import DEEPEST, MisfitError, check_plain, shortened

LARGEST = 100_000_000  # bytes of a JSON file; an evaluation of 100 categories has less than a thousandth


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
        DataError: the file does not exist, is not JSON, is larger than any, or holds something other than an
            object.
    """
    try:
        size = path.stat().st_size
        if size > LARGEST:
            raise DataError(
                f"{path}: has {size / 1e6:.0f} MB, and no JSON of zsad or of weights has {LARGEST / 1e6:g}"
            )
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    return parse_object(content, str(path))


def parse_object(text: str | bytes, where: str) -> dict[str, Any]:
    """Reads the text of a JSON object, as `parse_json`.

    Raises:
        DataError: as for `parse_json`, or the text holds something other than an object.
    """
    content = parse_json(text, where)
    if not isinstance(content, dict):
        raise DataError(f"{where}: expected a JSON object, got {type(content).__name__}")
    return content


def parse_json(text: str | bytes, where: str, *, nan_is_null: bool = False) -> Any:
    """Reads JSON that anybody may have written.

    Args:
        text: JSON text; bytes are UTF-8.
        where: file that the text comes from, for the message.
        nan_is_null: whether NaN means null, as in tables that other programs export.

    Raises:
        DataError: one line with the file and, where there is one, the field: the text is not UTF-8 or not
            JSON, is nested too deeply, or holds an infinite or undefined number, NUL or broken characters.

    Example:
        >>> parse_json('{"scores": [0, NaN]}', "a.json")
        Traceback (most recent call last):
        zsad.errors.DataError: a.json: scores[1] must be a number, got nan
    """

    def constant(word: str) -> float | None:
        return None if nan_is_null and word == "NaN" else float(word)

    try:
        content = json.loads(
            text.decode("utf-8") if isinstance(text, bytes) else text,
            object_pairs_hook=_object,
            parse_constant=constant,
        )
        check_plain(content, "")
    except MisfitError as error:
        raise DataError(f"{where}: {error}") from error
    except RecursionError as error:
        raise DataError(f"{where}: is nested deeper than {DEEPEST} levels") from error
    except ValueError as error:
        raise DataError(f"{where}: is not JSON ({error})") from error
    return content


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; of a name that stands twice, `json` would silently take the last value."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise MisfitError(shortened(name), "stands twice in one object")
        found[name] = value
    return found

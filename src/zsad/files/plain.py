"""Plain JSON values: dataclasses to and from them, and files of them.

`to_plain` writes what `from_plain` reads: tuples are lists, nested dataclasses are objects, and a number that
is undefined (NaN) is null.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from zsad.errors import DataError, ZsadError
from zsad.files.atomic import atomic_file
from zsad.files.fields import MisfitError, field_hints, fit, shortened

T = TypeVar("T")


def to_plain(value: Any) -> Any:
    """Plain JSON values: dataclasses and mappings as objects, NaN as null, numbers and texts as they are.

    Example:
        >>> to_plain({"scales": (2, 3), "seconds": math.nan, "file": Path("a.png")})
        {'scales': [2, 3], 'seconds': None, 'file': 'a.png'}
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(name): to_plain(item) for name, item in value.items()}
    if isinstance(value, tuple | list):
        return [to_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, str | int | bool | None) else str(value)


def from_plain(kind: type[T], values: Any, where: str) -> T:
    """A frozen dataclass from the plain values that `to_plain` gave, each checked against its field's type.

    Args:
        kind: the dataclass; its fields may be dataclasses themselves.
        values: mapping from field names to plain values; fields with a default may be missing.
        where: file that the values come from, for the message.

    Returns:
        The instance.

    Raises:
        DataError: one line with the file and the field: a field is missing or unknown, or a value has the
            wrong type, is out of bounds or is not finite.

    Example:
        >>> @dataclasses.dataclass(frozen=True)
        ... class Row:
        ...     label: str
        ...     scores: tuple[float, ...] = ()
        >>> from_plain(Row, {"label": "good", "scores": [0, 0.5]}, "a.json")
        Row(label='good', scores=(0.0, 0.5))
        >>> from_plain(Row, {"label": "good", "scores": [0, "half"]}, "a.json")
        Traceback (most recent call last):
        zsad.errors.DataError: a.json: scores[1] must be a number, got 'half'
    """
    try:
        if not isinstance(values, Mapping):
            raise MisfitError("", f"expected a JSON object, got {shortened(values)}")
        found: T = _built(kind, values, "")
    except MisfitError as error:
        raise DataError(f"{where}: {error}") from error
    return found


def _built(kind: type[Any], values: Mapping[str, Any], path: str) -> Any:
    start = f"{path}." if path else ""
    hints = field_hints(kind)
    unknown = sorted(map(str, values.keys() - hints.keys()))
    if unknown:
        raise MisfitError(f"{start}{unknown[0]}", f"is unknown; known fields: {', '.join(hints)}")
    for field in dataclasses.fields(kind):
        is_required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if is_required and field.name not in values:
            raise MisfitError(f"{start}{field.name}", "is missing")
    fitted = {name: fit(value, hints[name], f"{start}{name}", _built) for name, value in values.items()}
    try:
        return kind(**fitted)
    except ZsadError as error:
        raise MisfitError(path, str(error)) from error


def write_json(path: Path, content: Any) -> None:
    """Writes what `to_plain` accepts as a JSON file, whole or not at all."""
    # File names that are not valid Unicode reach Python as lone surrogates, which only escapes can hold.
    text = json.dumps(to_plain(content), indent=1, ensure_ascii=True, allow_nan=False)
    with atomic_file(path) as file:
        file.write(text.encode() + b"\n")


def slug(text: str) -> str:
    """A text in the characters of a file name: letters, digits, dots, minus signs and underscores."""
    return re.sub(r"[^A-Za-z0-9._]+", "-", Path(text).name if "/" in text else text).strip("-.") or "unnamed"

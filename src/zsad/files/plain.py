"""Plain JSON values and files of them."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zsad.errors import DataError
from zsad.files.atomic import atomic_file


def to_json(value: Any) -> Any:
    """Plain JSON values: dataclasses and mappings as objects, NaN as null, numbers and texts as they are."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_json(dataclasses.asdict(value))
    if isinstance(value, Mapping):
        return {str(name): to_json(item) for name, item in value.items()}
    if isinstance(value, tuple | list):
        return [to_json(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, str | int | bool | None) else str(value)


def write_json(path: Path, content: Any) -> None:
    """Writes any of this module's values as JSON, whole or not at all."""
    # File names that are not valid Unicode reach Python as lone surrogates, which only escapes can hold.
    text = json.dumps(to_json(content), indent=1, ensure_ascii=True, allow_nan=False)
    with atomic_file(path) as file:
        file.write(text.encode() + b"\n")


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
        DataError: there is no such file, or it holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    except ValueError as error:
        raise DataError(f"{path}: is not JSON ({error})") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: expected a JSON object, got {type(content).__name__}")
    return content


def slug(text: str) -> str:
    """A text as part of a file name: letters, digits, dots, minus signs and underscores."""
    return re.sub(r"[^A-Za-z0-9._]+", "-", Path(text).name if "/" in text else text).strip("-.") or "unnamed"

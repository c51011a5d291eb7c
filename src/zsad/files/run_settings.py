"""`settings.json` of a run: written, read, and compared before a run is resumed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zsad.errors import ConfigError, DataError
from zsad.files.atomic import atomic_file
from zsad.files.fields import shortened
from zsad.files.json_text import read_json
from zsad.files.plain import to_plain

SETTINGS_FILE = "settings.json"
SETTINGS_LAYOUT = 1


def write_settings(directory: str | Path, settings: Mapping[str, Any]) -> None:
    """Writes `settings.json`: plain JSON values that the scores and files of the run depend on."""
    text = json.dumps({"layout": SETTINGS_LAYOUT, **settings}, indent=2, ensure_ascii=True)
    with atomic_file(Path(directory) / SETTINGS_FILE) as file:
        file.write(text.encode() + b"\n")


def read_settings(directory: str | Path) -> dict[str, Any] | None:
    """Reads `settings.json`; None if the folder has none.

    Raises:
        DataError: the file is damaged.
    """
    path = Path(directory) / SETTINGS_FILE
    if not path.exists():
        return None
    try:
        settings = read_json(path)
    except DataError as error:
        raise DataError(f"{error}: damaged; run without --resume to start over") from error
    settings.pop("layout", None)
    return settings


def check_same_settings(directory: str | Path, earlier: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuses to resume a run with settings that differ from those it was started with.

    Args:
        directory: folder of the run, for the message.
        earlier: settings from `read_settings`.
        now: settings of this run.

    Raises:
        ConfigError: settings differ; the message names each of them ("config.sigma"), with both values.
    """
    differing = differences(earlier, now)
    if differing:
        raise ConfigError(
            f"cannot resume in {directory}: {'; '.join(differing)}. "
            "Give the same settings, choose another --out, or omit --resume to start over"
        )


def differences(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The settings that differ, one line each with both values.

    Example:
        >>> differences({"config": {"sigma": 4, "depth": 9}}, {"config": {"sigma": 8, "depth": 9}})
        ['config.sigma was 4 and is now 8']
    """
    earlier, now = _flat(earlier), _flat(to_plain(now))  # written, tuples and lists are the same
    return [
        f"{name} was {shortened(earlier.get(name))} and is now {shortened(now.get(name))}"
        for name in sorted(earlier.keys() | now.keys())
        if earlier.get(name) != now.get(name)
    ]


def _flat(settings: Mapping[str, Any], start: str = "") -> dict[str, Any]:
    """Settings without nesting, so that only those that differ are shown: {"config.sigma": 4}."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        inner = value if isinstance(value, Mapping) and value else None
        flat |= {f"{start}{name}": value} if inner is None else _flat(inner, f"{start}{name}.")
    return flat

"""Finds the datasets of a recipe on this machine."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from zsad.data.catalog import dataset_record, find_dataset
from zsad.errors import ConfigError, DataError

if TYPE_CHECKING:
    from zsad.evaluation.reproduction.plan import ReproduceOptions

DATA_VARIABLE = "ZSAD_DATA"
_NAMED_PATH = re.compile(r"([^=:]+)[=:](.+)", re.DOTALL)


def parse_data(texts: Sequence[str]) -> dict[str, Path]:
    """Parses options of the form NAME=PATH or NAME:PATH.

    Returns:
        Name in the catalogue -> folder.

    Raises:
        ConfigError: a name is missing, unknown or given twice.
    """
    found: dict[str, Path] = {}
    for text in texts:
        match = _NAMED_PATH.fullmatch(text)
        if match is None:
            raise ConfigError(f"--data expects NAME=FOLDER, as in --data mvtec=/data/mvtec, got {text!r}")
        name = dataset_record(match[1].strip()).name
        if name in found:
            raise ConfigError(f"--data names {name} twice")
        found[name] = Path(match[2]).expanduser()
    return found


def locate(request: ReproduceOptions, root: str | None = None) -> dict[str, Path]:
    """Finds the folders of the datasets that a request needs.

    Args:
        request: what to reproduce; its `data` take precedence over `root`.
        root: a folder of datasets, each named by a name or alias in the catalogue; None for the value of the
            environment variable `ZSAD_DATA`.

    Returns:
        Name in the catalogue -> folder.

    Raises:
        DataError: a dataset is missing; the message says which one, where to get it, and what to type.
    """
    root = os.environ.get(DATA_VARIABLE) if root is None else root
    inside = _datasets_in(Path(root).expanduser()) if root else {}
    missing, found = [], {}
    for name in dict.fromkeys(request.datasets):
        record, path = dataset_record(name), request.data.get(name) or inside.get(name)
        if path is None:
            missing.append(f"{record.title} ({record.page}): --data {name}=FOLDER")
        elif not path.exists():
            missing.append(f"{record.title}, but {path} does not exist: --data {name}=FOLDER")
        else:
            found[name] = path
    if missing:
        place = f"{root} ({DATA_VARIABLE})" if root else f"a folder and set {DATA_VARIABLE} to its path"
        needs = "; ".join(missing)
        raise DataError(f"{request.recipe.name} needs {needs}. Or put folders with these names into {place}")
    return found


def _datasets_in(root: Path) -> dict[str, Path]:
    """Finds the datasets in a folder: name in the catalogue -> dataset folder."""
    if not root.is_dir():
        raise DataError(f"{DATA_VARIABLE} must be a folder of datasets, got {root}, which is not a folder")
    found: dict[str, Path] = {}
    for path in sorted(path for path in root.iterdir() if path.is_dir()):
        record = find_dataset(path.name)
        if record is not None:
            found.setdefault(record.name, path)
    return found

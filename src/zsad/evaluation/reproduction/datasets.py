"""Where the datasets of a recipe lie on this machine."""

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
    """What was typed as NAME=PATH (or NAME:PATH) by the catalogue's names.

    Raises:
        ConfigError: no name, an unknown one, or one that comes twice.
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
    """The folders of the datasets that a request needs.

    Args:
        request: its `data` win.
        root: a folder with datasets in it, each under a name or alias of the catalogue; None: what the
            variable `ZSAD_DATA` says.

    Raises:
        DataError: a dataset is not there; the message says which, where to get it, and what to type.
    """
    root = os.environ.get(DATA_VARIABLE) if root is None else root
    inside = _datasets_in(Path(root).expanduser()) if root else {}
    missing, found = [], {}
    for name in dict.fromkeys(request.datasets):
        record, path = dataset_record(name), request.data.get(name) or inside.get(name)
        if path is None:
            missing.append(f"{record.title} ({record.page}): --data {name}=FOLDER")
        elif not path.exists():
            missing.append(f"{record.title}, which is not at {path}: --data {name}=FOLDER")
        else:
            found[name] = path
    if missing:
        place = f"into {root}, which {DATA_VARIABLE} names" if root else f"where {DATA_VARIABLE} points to"
        needs = "; ".join(missing)
        raise DataError(f"{request.recipe.name} needs {needs}. Or put folders of these names {place}")
    return found


def _datasets_in(root: Path) -> dict[str, Path]:
    """The datasets whose folders lie in a folder, by the catalogue's names."""
    if not root.is_dir():
        raise DataError(f"{DATA_VARIABLE} names {root}, which is no folder")
    found: dict[str, Path] = {}
    for path in sorted(path for path in root.iterdir() if path.is_dir()):
        record = find_dataset(path.name)
        if record is not None:
            found.setdefault(record.name, path)
    return found

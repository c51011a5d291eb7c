"""The folder of one run: what is finished of it, and the files that a reader gets.

categories/000_bottle.json    everything of a finished category, written whole; --resume goes on after it
settings.json                 what the numbers depend on
pictures.jsonl, curves.json   for readers, made of the categories at the end
maps/                         overlays of the worst images
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zsad.errors import DataError
from zsad.evaluation.category import CategoryOutcome
from zsad.evaluation.results import SCHEMA, WorstPicture
from zsad.files.atomic import atomic_file
from zsad.files.plain import slug, to_plain, write_json
from zsad.files.run_settings import SETTINGS_FILE, check_same_settings, read_settings, write_settings

RUNS = "runs"


class RunFolder:
    """Files of a run below the results' folder.

    Attributes:
        path: the run's folder.
        pictures_file: of all images, relative to the results' folder.
        curves_file: likewise.
    """

    def __init__(self, directory: Path, identity: str) -> None:
        self._directory = directory
        self._relative = f"{RUNS}/{identity}"
        self.path = directory / RUNS / identity
        self.pictures_file = f"{self._relative}/pictures.jsonl"
        self.curves_file = f"{self._relative}/curves.json"

    def open(self, settings: Mapping[str, Any], *, resume: bool) -> None:
        """Makes the folder ready; without `resume`, what an earlier run left in it is removed.

        Raises:
            ConfigError: the earlier run was made with other settings.
            DataError: its settings are damaged.
            OSError: the folder cannot be written.
        """
        plain = to_plain(settings)
        earlier = read_settings(self.path) if resume else None
        if earlier is not None:
            check_same_settings(self.path, earlier, plain)
        elif self.path.exists():
            shutil.rmtree(self.path)
        if not (self.path / SETTINGS_FILE).exists():
            write_settings(self.path, plain)

    def map_stem(self, number: int) -> str:
        """Beginning of the names of a category's overlays, relative to the results' folder."""
        return f"{self._relative}/maps/{number:03}"

    def finished(self, number: int, category: str, data: str) -> CategoryOutcome | None:
        """A category that is finished already, None if it is not, or if its data have changed since.

        Raises:
            DataError: its file is damaged.
        """
        path = self._category_file(number, category)
        if not path.exists():
            return None
        outcome = CategoryOutcome.read(path)
        return outcome if outcome.data == data else None

    def has(self, number: int, category: str) -> bool:
        """Whether the file of a category is there."""
        return self._category_file(number, category).exists()

    def keep(self, number: int, category: str, outcome: CategoryOutcome) -> None:
        """Writes a finished category."""
        outcome.write(self._category_file(number, category))

    def finish(self, outcomes: Sequence[CategoryOutcome], worst: Sequence[WorstPicture]) -> None:
        """Writes the files for readers and removes overlays that are not among the worst of the run."""
        with atomic_file(self._directory / self.pictures_file) as file:
            for outcome in outcomes:
                for record in outcome.records:
                    file.write(json.dumps(record, allow_nan=False).encode() + b"\n")
        curves = {outcome.result.category: outcome.curves for outcome in outcomes}
        write_json(self._directory / self.curves_file, {"schema": SCHEMA, "categories": curves})
        wanted = {self._directory / picture.file for picture in worst}
        for path in (self.path / "maps").glob("*.png"):
            if path not in wanted:
                path.unlink()

    def _category_file(self, number: int, category: str) -> Path:
        return self.path / "categories" / f"{number:03}_{slug(category)}.json"


def check_directory(directory: Path) -> None:
    """Makes the results' folder.

    Raises:
        DataError: it is a file.
        OSError: it cannot be made.
    """
    if directory.exists() and not directory.is_dir():
        raise DataError(f"the results' folder {directory} is a file: choose another --out")
    directory.mkdir(parents=True, exist_ok=True)

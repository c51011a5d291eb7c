"""Finds what an earlier run left in the results' folder, so that a resumed run scores only the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zsad.errors import ConfigError, DataError
from zsad.files.run_settings import check_same_settings, read_settings
from zsad.prediction.companions import COMPANIONS_KEY
from zsad.prediction.layout import GrowingNames, RunLayout
from zsad.prediction.page import PAGE_KEY
from zsad.prediction.records import RESULTS_FILE, ResultRecord, read_results

if TYPE_CHECKING:
    from zsad.images.saving import FileKind


def resumed_layout(
    directory: Path,
    names: Sequence[str],
    settings: Mapping[str, Any],
    formats: Sequence[FileKind],
    *,
    is_joint: bool,
) -> tuple[RunLayout, list[ResultRecord]]:
    """Where files go in a resumed run, and which records of the earlier run are kept.

    Args:
        directory: the results' folder.
        names: paths of the images of this run that exist.
        settings: everything that this run's scores and files depend on.
        formats: files that a complete image has.
        is_joint: whether the method scores all images together.

    Returns:
        The layout of both runs together, and the earlier records whose files are complete.

    Raises:
        ConfigError: the earlier run had other settings, or its method scores all images together.
        DataError: the earlier results are damaged.
    """
    found, root = _earlier_results(directory, settings)
    earlier = [record for record in found if record.error is None]
    if earlier and is_joint:
        raise ConfigError(
            f"{settings['method']} scores all images together, so none can be added later: leave --resume out"
        )
    layout = RunLayout.plan(directory, [record.path for record in earlier] + list(names), root)
    wanted = set(names)
    kept = [r for r in earlier if r.path not in wanted or layout.is_complete(r.path, formats)]
    _remove_files(layout, earlier, kept)
    return layout, kept


def watched_layout(
    directory: Path, settings: Mapping[str, Any], formats: Sequence[FileKind], root: str
) -> tuple[RunLayout, list[ResultRecord]]:
    """Where files go while folders are watched, and which records of an earlier watch are kept.

    Args:
        directory: the results' folder.
        settings: everything that scores and files depend on.
        formats: files that a complete image has.
        root: common folder of what is watched.

    Returns:
        A layout whose names are `GrowingNames`, and the earlier records whose files are complete.

    Raises:
        ConfigError: the earlier run had other settings, or watched other folders.
        DataError: the earlier results are damaged.
    """
    earlier, earlier_root = _earlier_results(directory, settings)
    if earlier_root not in (None, root):
        raise ConfigError(f"{directory} holds what was seen in {earlier_root}: give another --out for {root}")
    layout = RunLayout(directory, root, GrowingNames(root, [record.path for record in earlier]))
    scored = [record for record in earlier if record.error is None]
    kept = [record for record in scored if layout.is_complete(record.path, formats)]
    _remove_files(layout, scored, kept)
    return layout, kept


def _remove_files(layout: RunLayout, earlier: Sequence[ResultRecord], kept: Sequence[ResultRecord]) -> None:
    """Removes the files of images that are scored again, which may be unreadable now."""
    for path in {record.path for record in earlier} - {record.path for record in kept}:
        for file in layout.files(path):
            file.unlink(missing_ok=True)


def earlier_files(directory: Path) -> list[Path]:
    """Lists overlays, maps, masks and thumbnails of the images in the tables of an earlier run.

    A run that replaces the tables removes them, or else the folder would hold a mixture of two runs.
    Files that zsad has not written are not listed.
    """
    try:
        settings = read_settings(directory)
        records = read_results(directory / RESULTS_FILE)
    except DataError:  # no tables of zsad
        return []
    if settings is None or not records:
        return []
    root = settings.get("root")
    scored = [record.path for record in records if record.error is None]
    planned = ([record.path for record in records], scored)  # whether failed images existed is unknown
    layouts = [RunLayout.plan(directory, paths, root if isinstance(root, str) else None) for paths in planned]
    return [file for layout in layouts for path in scored for file in layout.files(path)]


def _earlier_results(directory: Path, settings: Mapping[str, Any]) -> tuple[list[ResultRecord], str | None]:
    """The records of an earlier run with the same settings, and the root of its layout."""
    earlier = read_settings(directory)
    records = read_results(directory / RESULTS_FILE)
    if earlier is None:
        if any(record.error is None for record in records):
            raise ConfigError(
                f"cannot resume in {directory}: settings.json is missing, so its settings are unknown. "
                "Choose another --out, or leave --resume out to start over"
            )
        return [], None
    root = earlier.pop("root", None)
    for key in (PAGE_KEY, COMPANIONS_KEY):
        earlier.pop(key, None)
    check_same_settings(directory, earlier, settings)
    return records, root if isinstance(root, str) else None

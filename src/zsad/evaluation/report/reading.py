"""Reads what `zsad evaluate` left in a results folder: results, scores, curves and overlays."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from pathlib import Path

from zsad.errors import DataError
from zsad.evaluation.report.lines import Curves, ImageLine
from zsad.evaluation.results import CURVES, EvaluationResult, RunResult, read_evaluation
from zsad.files.json_text import parse_json, read_json
from zsad.files.pages import jpeg_url
from zsad.files.plain import from_plain


@dataclass(frozen=True)
class EvaluationFolder:
    """An evaluation and the folder with its files.

    Attributes:
        result: contents of `results.json`.
        directory: results folder; paths in the result are relative to it.
    """

    result: EvaluationResult
    directory: Path


def open_evaluation(path: str | Path) -> EvaluationFolder:
    """Reads the results folder of `zsad evaluate`, or its `results.json`.

    Raises:
        DataError: the file does not exist or is damaged.
    """
    path = Path(path).expanduser()
    return EvaluationFolder(read_evaluation(path), path if path.is_dir() else path.parent)


def read_scores(directory: Path, run: RunResult) -> dict[str, tuple[list[float], list[float]]]:
    """Reads the image scores of a run.

    Args:
        directory: results folder.
        run: one of its runs.

    Returns:
        Category -> (scores of normal images, scores of anomalous images), in the run's order of categories;
        empty if the file does not exist. Damaged lines are left out, with a warning.
    """
    found: dict[str, tuple[list[float], list[float]]] = {row.category: ([], []) for row in run.categories}
    path = file_inside(directory, run.pictures_file)
    if path is None:
        return {}
    damaged = []
    for number, text in enumerate(path.read_bytes().split(b"\n"), start=1):
        where = f"{path}, line {number}"
        try:
            line = from_plain(ImageLine, parse_json(text, where), where) if text.strip() else None
        except DataError as error:
            damaged.append(str(error))
            continue
        if line is not None and line.score is not None and line.category in found:
            found[line.category][line.label].append(line.score)
    if damaged:
        more = f", and {len(damaged) - 1} more such lines" if len(damaged) > 1 else ""
        warnings.warn(f"left out of the report: {damaged[0]}{more}", stacklevel=2)
    return {category: pair for category, pair in found.items() if pair[0] or pair[1]}


def read_curves(directory: Path, run: RunResult) -> dict[str, dict[str, dict[str, list[float]]]]:
    """Reads the curves of a run.

    Args:
        directory: results folder.
        run: one of its runs.

    Returns:
        Name of the curve -> category -> {"x": values, "y": values}; empty if the file does not exist or,
        with a warning, if it is damaged.
    """
    path = file_inside(directory, run.curves_file)
    if path is None:
        return {}
    try:
        categories = from_plain(Curves, read_json(path), str(path)).categories
    except DataError as error:
        warnings.warn(f"left out of the report: {error}", stacklevel=2)
        return {}
    return {
        name: {
            category: {"x": list(curves[name].x), "y": list(curves[name].y)}
            for category, curves in categories.items()
            if name in curves
        }
        for name in CURVES
    }


def thumbnail_url(directory: Path, file: str, side: int) -> str | None:
    """Makes an image of a results folder small and embeds it.

    Args:
        directory: results folder.
        file: image file, relative to the folder.
        side: longest side of the thumbnail in pixels.

    Returns:
        A `data:` URL of a JPEG; None if the file does not exist or is not an image.
    """
    from PIL import Image

    path = file_inside(directory, file)
    if path is None:
        return None
    try:
        with Image.open(path) as opened:
            opened.thumbnail((side, side))
            image = opened.convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError):
        return None
    target = io.BytesIO()
    image.save(target, format="JPEG", quality=82)
    return jpeg_url(target.getvalue())


def file_inside(directory: Path, relative: str | None) -> Path | None:
    """Finds a file of a results folder; None if it does not exist or if its path leads out of the folder."""
    if not relative:
        return None
    path = (directory / relative).resolve()
    return path if path.is_relative_to(directory.resolve()) and path.is_file() else None

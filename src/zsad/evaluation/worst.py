"""Finds the images that a run gets most wrong, and draws them with their maps for a contact sheet."""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from zsad.data.masks import read_mask
from zsad.errors import ZsadError
from zsad.evaluation.results import Mistake, WorstPicture
from zsad.files.atomic import atomic_file
from zsad.images.drawing import draw_contour, overlay
from zsad.images.reading import read_image
from zsad.images.results import png_marker

if TYPE_CHECKING:
    from zsad.images.region import Region
    from zsad.types import Sample

KEPT = 8  # images per kind of mistake, in a run
LONGEST_SIDE = 384  # pixels of an overlay


@dataclass(frozen=True)
class Candidate:
    """An image that may be among the worst.

    Attributes:
        score: image anomaly score.
        sample: the image with its label and mask.
        anomaly_map: (S, S) float32.
    """

    score: float
    sample: Sample
    anomaly_map: NDArray[np.float32]


class WorstOfCategory:
    """Keeps the anomalous images with the lowest scores and the normal ones with the highest."""

    def __init__(self, bits: int | None = None) -> None:
        self._bits = bits  # depth at which 16-bit files are drawn
        self._candidates: dict[int, list[Candidate]] = {0: [], 1: []}
        self._scores: dict[int, list[float]] = {0: [], 1: []}

    def add(self, candidate: Candidate) -> None:
        """Adds an image; its map is released if enough others are worse."""
        label = candidate.sample.label
        self._scores[label].append(candidate.score)
        kept = self._candidates[label]
        bisect.insort(kept, candidate, key=lambda each: each.score if label else -each.score)
        del kept[KEPT:]

    def write(
        self, directory: Path, stem: str, map_range: tuple[float, float], roi: Region | None = None
    ) -> list[WorstPicture]:
        """Draws the candidates that are mistakes into a run's folder.

        Args:
            directory: results' folder.
            stem: beginning of the names of the files, relative to the folder ("runs/RUN/maps/000").
            map_range: smallest and largest value of a map, for the colours.
            roi: region of interest that images and maps are cut to; None for whole images.

        Returns:
            The mistakes of the category by kind, worst first. If a class is missing, no score can be called
            wrong; then the lowest (or highest) scores are returned, with `outranked` NaN.
        """
        found = []
        kinds: tuple[tuple[Mistake, int], ...] = (("false negative", 1), ("false positive", 0))
        for mistake, label in kinds:
            for rank, candidate in enumerate(self._candidates[label]):
                outranked = _outranked(candidate, self._scores[1 - label])
                if outranked == 0:
                    continue
                file = f"{stem}_{mistake.replace(' ', '-')}_{rank}.png"
                if not _draw(candidate, directory / file, map_range, roi, self._bits):
                    continue
                sample = candidate.sample
                found.append(
                    WorstPicture(
                        mistake,
                        str(sample.path),
                        sample.category,
                        sample.defect,
                        candidate.score,
                        outranked,
                        file,
                    )
                )
        return found


def worst_of_run(found: Sequence[WorstPicture]) -> tuple[WorstPicture, ...]:
    """Chooses the worst images of all categories, worst first by kind.

    Sorted by rank within the category first, because scores of different categories are not comparable; then
    by score.
    """
    chosen: list[WorstPicture] = []
    for mistake in ("false negative", "false positive"):
        sign = 1 if mistake == "false negative" else -1
        of_kind = [image for image in found if image.mistake == mistake]
        of_kind.sort(key=lambda each: (-_known(each.outranked), sign * each.score))
        chosen += of_kind[:KEPT]
    return tuple(chosen)


def _known(outranked: float) -> float:
    return 0.0 if math.isnan(outranked) else outranked


def _outranked(candidate: Candidate, others: Sequence[float]) -> float:
    """The share of the other class on the wrong side of an image, ties counting half."""
    if not others:
        return math.nan
    scores = np.asarray(others)
    above = np.mean(scores > candidate.score) + np.mean(scores == candidate.score) / 2
    return float(above if candidate.sample.label else 1 - above)


def _draw(
    candidate: Candidate, file: Path, map_range: tuple[float, float], roi: Region | None, bits: int | None
) -> bool:
    """Writes an image with its heat map and the contour of its mask; False if a file cannot be read."""
    sample = candidate.sample
    try:
        image = read_image(sample.path, bits=bits)
        window = None if roi is None else roi.window(image.size)
        image = image if window is None else window.cut(image)
        image.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
        heat = Image.fromarray(candidate.anomaly_map).resize(image.size, Image.Resampling.BILINEAR)
        drawn = overlay(np.asarray(image), np.asarray(heat), map_range)
        if sample.mask_path is not None:
            marked = read_mask(sample.mask_path)
            marked = marked if window is None else window.cut_array(marked)
            mask = Image.fromarray(marked).resize(image.size, Image.Resampling.NEAREST)
            drawn = draw_contour(np.asarray(drawn), np.asarray(mask))
    except (ZsadError, OSError):
        return False
    with atomic_file(file) as target:
        drawn.save(target, "PNG", pnginfo=png_marker())
    return True

"""The small frozen dataclasses that everything else passes around."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from zsad.errors import ConfigError, unknown_name

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image
    from torch import Tensor

    from zsad.images.drawing import Scale
    from zsad.images.saving import FileKind

Activation = Literal["quick_gelu", "gelu"]
PositionInterpolation = Literal["bilinear", "bicubic", "bicubic_antialias"]
Optimizer = Literal["adam", "adamw"]
Schedule = Literal["constant", "cosine"]
TrainingPrecision = Literal["fp32", "bf16", "fp16"]


@dataclass(frozen=True)
class MethodInfo:
    """What a system of the literature is and what it asks for; the module's `INFO`.

    Attributes:
        name: the registry name, also the file's ("anomalyclip").
        title: the name that the paper prints ("AnomalyCLIP").
        year: of first publication.
        paper: link to the paper.
        code: link to the authors' code, None where they published none.
        needs_training: whether it has learnt parameters.
        uses_class_names: whether the score depends on the class name.
        scores_batch_jointly: whether an image's score depends on the other images (transductive).
        references: how known-normal images are used (few-shot): "own", as the paper says, or "general",
            by the rule of `zsad.methods.functional.references`.
    """

    name: str
    title: str
    year: int
    paper: str
    code: str | None
    needs_training: bool
    uses_class_names: bool
    scores_batch_jointly: bool
    references: Literal["own", "general"] = "general"


@dataclass(frozen=True)
class WeightRecord:
    """Where weights come from and how images must be prepared for them.

    Attributes:
        name: what a user types for `backbone=` or sees in `zsad weights list`.
        source: URL, "hf-hub:ORG/REPO", "open_clip:ARCH/TAG" or "package:FILE" (ships in the wheel).
        image_size: pixels of one side of the square image that the weights were made for.
        mean: of the RGB channels, in [0, 1] units, subtracted before the network.
        std: of the RGB channels, in [0, 1] units.
        activation: of the MLPs, as the weights were trained.
        licence: SPDX name or a short sentence.
        bytes: size of the download, None if unknown.
        sha256: of the file, None where the source gives none.
        auxiliary_data: what the weights were trained on.
        backbone: the backbone that a method's learnt weights belong to, None for a backbone itself.
        notes: anything else worth a line.
    """

    name: str
    source: str
    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    activation: Activation
    licence: str
    bytes: int | None = None
    sha256: str | None = None
    auxiliary_data: str = ""
    backbone: str | None = None
    notes: str = ""


UNLABELLED = -1
"""The label of an image of which nobody said whether it is normal."""


@dataclass(frozen=True)
class Sample:
    """One image of a dataset.

    Attributes:
        path: the image's file; a slice or frame of a medical file has its number behind a "#", as
            `zsad.images.medical` reads it.
        category: class name ("metal nut"), as prompts should read it.
        label: 1 anomalous, 0 normal, `UNLABELLED` (-1) if nobody said.
        mask_path: the ground-truth mask's file, or a folder of masks to be united; None for a normal image
            or a set without masks.
        defect: the kind of defect as the dataset calls it ("good" for normal images).
    """

    path: Path
    category: str
    label: int
    mask_path: Path | None = None
    defect: str = "good"


@dataclass(frozen=True)
class RawOutput:
    """Scores and maps of a batch, as the authors' evaluation script feeds them to the metrics.

    Attributes:
        scores: (B,) float32, image anomaly score in [0, 1].
        maps: (B, S, S) float32 anomaly maps at the network's input size, the method's own range.
    """

    scores: Tensor
    maps: Tensor


@dataclass(frozen=True)
class PhraseFit:
    """How well a phrase describes the anomalous region of an image; a row of `Prediction.explain`.

    Attributes:
        phrase: as the user typed it.
        similarity: how much more the region resembles the phrase than a normal object, by cosine, minus the
            same of the rest of the image; in [-4, 4], 0 for a phrase that tells nothing about the region.
        share: in [0, 1]; the shares of all phrases that were asked for add up to 1.
    """

    phrase: str
    similarity: float
    share: float


class PhraseRanker(Protocol):
    """What a detector puts into its predictions so that they can explain themselves."""

    def __call__(
        self, prediction: Prediction, phrases: Sequence[str], region: NDArray[Any] | None
    ) -> list[PhraseFit]:
        """The phrases, best first; arguments and errors as for `Prediction.explain`."""
        ...


@dataclass(frozen=True)
class ScoreScale:
    """What a calibration adds to a prediction, so that scores of different methods read alike.

    Attributes:
        distance: from the typical (median) normal image's score to the threshold, above 0.
        normal_scores: of the normal calibration images, rising; at least one.
    """

    distance: float
    normal_scores: tuple[float, ...] = field(repr=False)

    def relative(self, score: float, threshold: float) -> float:
        """A logistic curve over the score: 0.5 at the threshold, 0.1 one distance below it, 0.9 above it.

        It rises with the score, so that it changes no order of images.

        Example:
            >>> scale = ScoreScale(distance=0.02, normal_scores=(0.48, 0.49))
            >>> [round(scale.relative(score, threshold=0.5), 3) for score in (0.48, 0.5, 0.52)]
            [0.1, 0.5, 0.9]
        """
        steps = (score - threshold) / self.distance
        return 0.5 * (1 + math.tanh(0.5 * math.log(9) * steps))

    def p_value(self, score: float) -> float:
        """How often a new normal image gets a score as high as this, estimated from the normal scores.

        Source: the conformal p-value, (1 + number of normal scores >= score) / (1 + number of normal scores)
        (Bates et al., "Testing for outliers with conformal p-values", Annals of Statistics 51, 2023). For a
        normal image it is at most u with probability at most u; it is never below 1 / (1 + n).

        Example:
            >>> ScoreScale(0.02, (0.1, 0.2, 0.3)).p_value(0.25)
            0.5
        """
        count = len(self.normal_scores)
        return (1 + count - bisect_left(self.normal_scores, score)) / (1 + count)


@dataclass(frozen=True)
class Prediction:
    """The result for one image.

    Attributes:
        score: image anomaly score in [0, 1]; higher is more anomalous.
        anomaly_map: (H, W) float32 at the input image's size, values inside `map_range`.
        image: (H, W, 3) uint8 RGB, the image as it was read.
        path: the file it came from, None for images in memory.
        threshold: the image score from which on an image counts as anomalous; None while uncalibrated.
        map_threshold: the map value from which on a pixel counts as anomalous; None while uncalibrated.
        map_range: smallest and largest value the method's map can take; the fixed colour scale.
        class_name: the class name used in the prompts, None if the method or the caller gave none.
        ranker: what `explain` asks; it refers to the detector's network and is left behind by pickle and
            deep copies, which have None.
        score_scale: of the calibration; None while uncalibrated.
    """

    score: float
    anomaly_map: NDArray[np.float32]
    image: NDArray[np.uint8] = field(repr=False)
    path: Path | None = None
    threshold: float | None = None
    map_threshold: float | None = None
    map_range: tuple[float, float] = (0.0, 1.0)
    class_name: str | None = None
    ranker: PhraseRanker | None = field(default=None, repr=False, compare=False)
    score_scale: ScoreScale | None = field(default=None, repr=False)

    @property
    def is_anomalous(self) -> bool | None:
        """Whether `score` reaches `threshold`; None while there is no threshold."""
        return None if self.threshold is None else self.score >= self.threshold

    @property
    def relative_score(self) -> float | None:
        """`score` on a scale that all methods share: 0.5 at `threshold`, 0.1 for a typical normal image.

        In [0, 1]; None while uncalibrated.
        """
        if self.score_scale is None or self.threshold is None:
            return None
        return self.score_scale.relative(self.score, self.threshold)

    @property
    def p_value(self) -> float | None:
        """How often a new normal image gets a score as high as this, in (0, 1]; None while uncalibrated."""
        return None if self.score_scale is None else self.score_scale.p_value(self.score)

    def mask(self, threshold: float | None = None) -> NDArray[np.bool_] | None:
        """The pixels whose map value reaches a threshold.

        Args:
            threshold: in units of `anomaly_map`; None takes `map_threshold`.

        Returns:
            (H, W) bool array; None if neither threshold is there.

        Raises:
            ConfigError: the threshold is not a finite number.
        """
        chosen = self.map_threshold if threshold is None else threshold
        if chosen is None:
            return None
        if not np.isfinite(chosen):
            raise ConfigError(f"mask threshold must be a finite number, got {chosen!r}")
        return self.anomaly_map >= chosen

    def explain(self, phrases: Sequence[str], region: NDArray[Any] | None = None) -> list[PhraseFit]:
        """Which of some phrases fits best at the anomalous region.

        The image goes through the network once more; nothing but the image is kept for it. The ranking
        compares patches with words, so it is as good as the backbone's alignment of both is.

        Args:
            phrases: one or more, each once: an adjective ("cracked"), a noun with its article ("a scratch"),
                or a state with {} for the object ("{} with scratches").
            region: (H, W) bool or weights in [0, 1], where the defect is; None takes `mask()` if it marks a
                part of the image, else the anomaly map, scaled from its least to its largest value.

        Returns:
            One row for each phrase, best first.

        Raises:
            ConfigError: a phrase or the region is impossible, or the prediction does not come from a detector
                of this process.

        Example:
            prediction.explain(["cracked", "a scratch", "stained"])[0].phrase
        """
        if self.ranker is None:
            raise ConfigError(
                "this prediction has no network to ask, as after unpickling: explain the one that "
                "zsad.load(...).predict(image) returned"
            )
        return self.ranker(self, phrases, region)

    def overlay(self) -> Image.Image:
        """The image with the heat map over it, on the fixed colour scale of `map_range`."""
        from zsad.images.drawing import overlay

        return overlay(self.image, self.anomaly_map, self.map_range)

    def write(self, kind: FileKind, path: str | Path, *, scale: Scale = "fixed") -> Path:
        """Writes one file of the result, whole or not at all.

        Args:
            kind: "overlay" (JPEG), "map" (16-bit PNG that stores its value range), "npy" (float32), "mask"
                (PNG, 0 or 255) or "contour" (JPEG).
            path: the file; missing folders are made.
            scale: the overlay's colour scale, as in `zsad.images.drawing.overlay`.

        Returns:
            The path; its suffix becomes .png when an image is too large for JPEG.

        Raises:
            ConfigError: an unknown kind, or a mask or contour without a map threshold.
            OSError: the file cannot be written.
        """
        from zsad.images.saving import write_file

        return write_file(
            kind, path, self.image, self.anomaly_map, self.map_range, mask=self.mask(), scale=scale
        )

    def save(
        self,
        directory: str | Path,
        *,
        name: str | None = None,
        kinds: Sequence[FileKind] | None = None,
        scale: Scale = "fixed",
    ) -> list[Path]:
        """Writes overlay, 16-bit map and, when there is a threshold, the mask into a folder.

        Args:
            directory: made if it is not there. Files of the same name are replaced.
            name: start of the file names; None takes the stem of `path`, or "image".
            kinds: which files, as in `write`; None means overlay and map, and the mask when there is a map
                threshold.
            scale: the overlay's colour scale, as in `zsad.images.drawing.overlay`.

        Returns:
            The files written: NAME_overlay.jpg, NAME_map.png, NAME_mask.png and so on.

        Raises:
            ConfigError: an unknown kind, or a mask or contour without a map threshold.
            OSError: the folder cannot be written.
        """
        from zsad.images.saving import FILE_SUFFIXES

        if name is None:
            name = self.path.stem if self.path else "image"
        chosen: Sequence[FileKind] = kinds if kinds is not None else ("overlay", "map")
        if kinds is None and self.map_threshold is not None:
            chosen = (*chosen, "mask")
        for kind in chosen:
            if kind not in FILE_SUFFIXES:
                raise unknown_name("file kind", str(kind), FILE_SUFFIXES)
        return [
            self.write(kind, Path(directory) / f"{name}{FILE_SUFFIXES[kind]}", scale=scale) for kind in chosen
        ]

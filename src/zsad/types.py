"""The small frozen dataclasses that everything else passes around."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from zsad.errors import ConfigError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image
    from torch import Tensor

Activation = Literal["quick_gelu", "gelu"]
PositionInterpolation = Literal["bilinear", "bicubic", "bicubic_antialias"]


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
        accepts_references: whether normal reference pictures can be given (few-shot).
        scores_batch_jointly: whether a picture's score depends on the other pictures (transductive).
    """

    name: str
    title: str
    year: int
    paper: str
    code: str | None
    needs_training: bool
    uses_class_names: bool
    accepts_references: bool
    scores_batch_jointly: bool


@dataclass(frozen=True)
class WeightRecord:
    """Where weights come from and how pictures must be prepared for them.

    Attributes:
        name: what a user types for `backbone=` or sees in `zsad weights list`.
        source: URL, "hf-hub:ORG/REPO", "open_clip:ARCH/TAG" or "package:FILE" (ships in the wheel).
        image_size: pixels of one side of the square picture that the weights were made for.
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


@dataclass(frozen=True)
class Sample:
    """One labelled picture of a dataset.

    Attributes:
        path: the picture's file.
        category: class name ("metal nut"), as prompts should read it.
        label: 1 anomalous, 0 normal.
        mask_path: the ground-truth mask's file; None for a normal picture or a set without masks.
        defect: the kind of defect as the dataset calls it ("good" for normal pictures).
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
    """How well a phrase describes the anomalous region of a picture; a row of `Prediction.explain`.

    Attributes:
        phrase: as the user typed it.
        similarity: how much more the region resembles the phrase than a normal object, by cosine, minus the
            same of the rest of the picture; in [-4, 4], 0 for a phrase that tells nothing about the region.
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
class Prediction:
    """The result for one picture.

    Attributes:
        score: image anomaly score in [0, 1]; higher is more anomalous.
        anomaly_map: (H, W) float32 at the input picture's size, values inside `map_range`.
        image: (H, W, 3) uint8 RGB, the picture as it was read.
        path: the file it came from, None for pictures in memory.
        threshold: the image score from which on a picture counts as anomalous; None while uncalibrated.
        map_threshold: the map value from which on a pixel counts as anomalous; None while uncalibrated.
        map_range: smallest and largest value the method's map can take; the fixed colour scale.
        class_name: the class name used in the prompts, None if the method or the caller gave none.
        ranker: what `explain` asks; it refers to the detector's network and is left behind by pickle and
            deep copies, which have None.
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

    @property
    def is_anomalous(self) -> bool | None:
        """Whether `score` reaches `threshold`; None while there is no threshold."""
        return None if self.threshold is None else self.score >= self.threshold

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

        The picture goes through the network once more; nothing but the picture is kept for it. The ranking
        compares patches with words, so it is as good as the backbone's alignment of both is.

        Args:
            phrases: one or more, each once: an adjective ("cracked"), a noun with its article ("a scratch"),
                or a state with {} for the object ("{} with scratches").
            region: (H, W) bool or weights in [0, 1], where the defect is; None takes `mask()` if it marks a
                part of the picture, else the anomaly map, scaled from its least to its largest value.

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
                "zsad.load(...).predict(picture) returned"
            )
        return self.ranker(self, phrases, region)

    def overlay(self) -> Image.Image:
        """The picture with the heat map over it, on the fixed colour scale of `map_range`."""
        from zsad.visualize import overlay

        return overlay(self.image, self.anomaly_map, self.map_range)

    def save(self, directory: str | Path) -> list[Path]:
        """Writes overlay, raw 16-bit map and, when there is a threshold, the mask into a folder.

        Args:
            directory: made if it is not there; files are named after `path` (or "picture").

        Returns:
            The files written.
        """
        from zsad.visualize import save_prediction

        return save_prediction(self, Path(directory))

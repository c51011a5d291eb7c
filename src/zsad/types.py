"""The small frozen dataclasses that the packages hand to each other."""

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
Schedule = Literal["constant", "cosine", "steps"]
Augmentation = Literal["none", "shifted", "shifted_coloured", "varied"]
TrainingPrecision = Literal["fp32", "bf16", "fp16"]
CheckedBy = Literal["authors", "re-implementation", "own loops"]


@dataclass(frozen=True)
class MethodInfo:
    """What a system of the literature is and what it needs; the `INFO` of its module.

    Attributes:
        name: registry name, which is also the name of the file ("anomalyclip").
        title: name in the paper ("AnomalyCLIP").
        year: year of first publication.
        paper: link to the paper.
        code: link to the authors' code; None if they published none.
        needs_training: whether it has learnt parameters.
        uses_class_names: whether the score depends on the class name.
        scores_batch_jointly: whether an image's score depends on the other images (transductive).
        references: how known-normal images are used (few-shot): "own", as the paper says, or "general",
            by the rule of `zsad.methods.functional.reference_rule`.
        is_composite: whether it joins other systems instead of being one of the literature.
        is_reconstruction: whether parts that the paper leaves open, or that could not be read, are zsad's own
            design; the module's description says which.
        checked_by: what its numbers are compared with: recorded ones of the authors' code or of a
            re-implementation, or independent loops over the formulas.
        extra: optional extra of zsad that the method uses in full form ("grounding"); "" for none.
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
    is_composite: bool = False
    is_reconstruction: bool = False
    checked_by: CheckedBy = "own loops"
    extra: str = ""


@dataclass(frozen=True)
class WeightRecord:
    """Where weights come from and how images are prepared for them.

    Attributes:
        name: name that a user types for `backbone=` or sees in `zsad weights list`.
        source: URL, "hf-hub:ORG/REPO", "open_clip:ARCH/TAG" or "package:FILE" (ships in the wheel).
        image_size: pixels a side of the square images that the weights were made for.
        mean: mean of the RGB channels in [0, 1], which is subtracted before the network.
        std: standard deviation of the RGB channels in [0, 1], by which they are divided.
        activation: activation of the MLPs that the weights were trained with.
        licence: SPDX name or a short sentence.
        bytes: size of the download in bytes; None if unknown.
        sha256: SHA-256 of the file in hexadecimal digits; None if the source gives none.
        auxiliary_data: description of the data that the weights were trained on.
        backbone: backbone that the learnt weights of a method belong to; None for a backbone itself.
        notes: anything else worth a line.
        page: page where a person can get the file if `source` does not answer; "" if there is none.
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
    page: str = ""


UNLABELLED = -1
"""Label of an image that may be normal or anomalous."""


@dataclass(frozen=True)
class Sample:
    """One image of a dataset.

    Attributes:
        path: file of the image; a slice or frame of a medical file has its number behind a "#", as
            `zsad.images.medical` reads it.
        category: class name for the prompts ("metal nut").
        label: 1 for anomalous, 0 for normal, `UNLABELLED` (-1) if unknown.
        mask_path: file of the ground-truth mask, or a folder of masks to be united; None for a normal image
            or a dataset without masks.
        defect: kind of defect in the words of the dataset ("good" for normal images).
    """

    path: Path
    category: str
    label: int
    mask_path: Path | None = None
    defect: str = "good"


@dataclass(frozen=True)
class RawOutput:
    """Scores and maps of a batch, exactly as the authors' evaluation script feeds them to the metrics.

    Attributes:
        scores: (B,) float32 image anomaly scores in [0, 1].
        maps: (B, S, S) float32 anomaly maps at the input size of the network, in the range of the method.
    """

    scores: Tensor
    maps: Tensor


@dataclass(frozen=True)
class PhraseFit:
    """How well a phrase describes the anomalous region of an image; a row of `Prediction.explain`.

    Attributes:
        phrase: phrase as the user typed it.
        similarity: how much more the region resembles the phrase than a normal object, by cosine, minus the
            same difference for the rest of the image; in [-4, 4], 0 for a phrase that says nothing about the
            region.
        share: share of this phrase in [0, 1]; the shares of all phrases of a ranking add up to 1.
    """

    phrase: str
    similarity: float
    share: float


class PhraseRanker(Protocol):
    """Answers `Prediction.explain`; a detector puts it into its predictions."""

    def __call__(
        self, prediction: Prediction, phrases: Sequence[str], region: NDArray[Any] | None
    ) -> list[PhraseFit]:
        """The phrases with their fit, best first; arguments and errors are those of `Prediction.explain`."""
        ...


@dataclass(frozen=True)
class ScoreScale:
    """Scale of a calibration, which makes scores of different methods comparable.

    Attributes:
        distance: distance from the score of the typical (median) normal image to the threshold, above 0.
        normal_scores: scores of the normal calibration images in rising order; at least one.
    """

    distance: float
    normal_scores: tuple[float, ...] = field(repr=False)

    def relative(self, score: float, threshold: float) -> float:
        """A logistic curve over the score: 0.5 at the threshold, 0.1 one distance below it, 0.9 above it.

        The curve rises with the score, so that the order of images stays.

        Example:
            >>> scale = ScoreScale(distance=0.02, normal_scores=(0.48, 0.49))
            >>> [round(scale.relative(score, threshold=0.5), 3) for score in (0.48, 0.5, 0.52)]
            [0.1, 0.5, 0.9]
        """
        steps = (score - threshold) / self.distance
        return 0.5 * (1 + math.tanh(0.5 * math.log(9) * steps))

    def p_value(self, score: float) -> float:
        """The probability that a new normal image scores at least this high, from the normal scores.

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
        image: (H, W, 3) uint8 RGB image as it was read.
        path: file of the image; None for an image in memory.
        threshold: image score from which on an image counts as anomalous; None while uncalibrated.
        map_threshold: map value from which on a pixel counts as anomalous; None while uncalibrated.
        map_range: smallest and largest value that a map of the method can take; the fixed colour scale.
        class_name: class name in the prompts; None if the method uses none or the caller gave none.
        ranker: answers `explain` with the network of the detector; None after pickling and deep copies.
        score_scale: score scale of the calibration; None while uncalibrated.
        tile: side in pixels of the tiles that the image was cut into; None for an image scored as a whole.
        roi: (H, W) bool, the region of interest; outside of it the map holds the lowest value of `map_range`,
            and nothing counts. None for the whole image.
        notes: what the method could not do as it was set up, one line for each; empty if nothing.
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
    tile: int | None = None
    roi: NDArray[np.bool_] | None = field(default=None, repr=False)
    notes: tuple[str, ...] = ()

    @property
    def is_anomalous(self) -> bool | None:
        """Whether `score` reaches `threshold`; None while there is no threshold."""
        return None if self.threshold is None else self.score >= self.threshold

    @property
    def relative_score(self) -> float | None:
        """`score` on a scale in [0, 1] that all methods share; None while uncalibrated.

        The relative score is 0.5 at `threshold` and 0.1 for a typical normal image.
        """
        if self.score_scale is None or self.threshold is None:
            return None
        return self.score_scale.relative(self.score, self.threshold)

    @property
    def p_value(self) -> float | None:
        """The probability in (0, 1] that a new normal image scores as high; None while uncalibrated."""
        return None if self.score_scale is None else self.score_scale.p_value(self.score)

    def mask(self, threshold: float | None = None) -> NDArray[np.bool_] | None:
        """The pixels whose map value reaches a threshold.

        Args:
            threshold: threshold in units of `anomaly_map`; None for `map_threshold`.

        Returns:
            (H, W) bool array; None if there is no threshold.

        Raises:
            ConfigError: the threshold is not a finite number.
        """
        chosen = self.map_threshold if threshold is None else threshold
        if chosen is None:
            return None
        if not np.isfinite(chosen):
            raise ConfigError(f"mask threshold must be a finite number, got {chosen!r}")
        marked: NDArray[np.bool_] = self.anomaly_map >= chosen
        return marked if self.roi is None else marked & self.roi

    def explain(self, phrases: Sequence[str], region: NDArray[Any] | None = None) -> list[PhraseFit]:
        """Ranks phrases by how well they describe the anomalous region.

        The image goes through the network once more. The ranking compares patches with words, so it is only
        as good as the alignment of both in the backbone.

        Args:
            phrases: one or more different phrases: an adjective ("cracked"), a noun with its article
                ("a scratch"), or a state with {} for the object ("{} with scratches").
            region: (H, W) bool array or weights in [0, 1] that mark the defect; None for `mask()` if it marks
                a part of the image, or else the anomaly map scaled from its smallest to its largest value.

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
                "this prediction has no network, because it was pickled or copied: explain the prediction "
                "that zsad.load(...).predict(image) returned"
            )
        return self.ranker(self, phrases, region)

    def overlay(self) -> Image.Image:
        """The image under its heat map, on the fixed colour scale of `map_range`; dark outside of `roi`."""
        from zsad.images.drawing import overlay

        return overlay(self.image, self.anomaly_map, self.map_range, roi=self.roi)

    def _repr_png_(self) -> bytes:
        """The image and its heat map, for notebooks."""
        from PIL import Image

        from zsad.images.notebook import side_by_side_png

        return side_by_side_png(Image.fromarray(self.image), self.overlay())

    def _repr_html_(self) -> str:
        """The image, its heat map, and a line with score and decision, for notebooks."""
        from zsad.errors import printable
        from zsad.images.notebook import figure_html

        decision = {None: "", True: ", anomalous", False: ", normal"}[self.is_anomalous]
        name = f"{printable(self.path)}: " if self.path else ""
        return figure_html(self._repr_png_(), f"{name}score {self.score:.4f}{decision}")

    def write(self, kind: FileKind, path: str | Path, *, scale: Scale = "fixed") -> Path:
        """Writes one file of the result, whole or not at all.

        Args:
            kind: "overlay" (JPEG), "map" (16-bit PNG that stores its value range), "npy" (float32), "mask"
                (PNG, 0 or 255) or "contour" (JPEG).
            path: file to write; missing folders are created.
            scale: colour scale of the overlay, as `zsad.images.drawing.overlay` takes it.

        Returns:
            Path of the file; its suffix becomes .png if an image is too large for JPEG.

        Raises:
            ConfigError: the kind is unknown, or a mask or contour is wanted without a map threshold.
            OSError: the file cannot be written.
        """
        from zsad.images.saving import write_file

        values = (self.image, self.anomaly_map, self.map_range)
        return write_file(kind, path, *values, mask=self.mask(), scale=scale, roi=self.roi)

    def save(
        self,
        directory: str | Path,
        *,
        name: str | None = None,
        kinds: Sequence[FileKind] | None = None,
        scale: Scale = "fixed",
        overwrite: bool = False,
    ) -> list[Path]:
        """Writes overlay, 16-bit map and, if there is a map threshold, the mask into a folder.

        Images that one process saves into one folder never replace each other's files: a name that another
        image has is made longer by the suffix or the folders of the image, or by a number ("crack_000",
        "image_2"). An image that is saved again, and files that an earlier process left, are replaced.

        Args:
            directory: folder to write to, created if it is missing; "~" is the home folder.
            name: start of the file names; None for the stem of `path`, or "image".
            kinds: kinds of files, as `write` takes them; None for overlay and map, and the mask if there is a
                map threshold.
            scale: colour scale of the overlay, as `zsad.images.drawing.overlay` takes it.
            overwrite: whether the files of another image with the same name are replaced.

        Returns:
            The files written: NAME_overlay.jpg, NAME_map.png, NAME_mask.png and so on.

        Raises:
            ConfigError: a kind is unknown, or a mask or contour is wanted without a map threshold.
            OSError: the folder cannot be written.
        """
        from zsad.images.saving import FILE_SUFFIXES
        from zsad.images.unique import unique_stem

        chosen: Sequence[FileKind] = kinds if kinds is not None else ("overlay", "map")
        if kinds is None and self.map_threshold is not None:
            chosen = (*chosen, "mask")
        for kind in chosen:
            if kind not in FILE_SUFFIXES:
                raise unknown_name("file kind", str(kind), FILE_SUFFIXES)
        folder = Path(directory).expanduser()
        stem = unique_stem(folder, self, self.path, name, overwrite=overwrite)
        return [self.write(kind, folder / f"{stem}{FILE_SUFFIXES[kind]}", scale=scale) for kind in chosen]

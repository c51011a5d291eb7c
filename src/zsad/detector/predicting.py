"""`Predicts`: what a detector and an exported detector have in common. No torch."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from zsad.detector.decision import CalibrationT, Decision
from zsad.errors import ConfigError
from zsad.images.class_names import Classes, class_names, with_class_names
from zsad.images.finding import find_and_tell
from zsad.images.preparing import to_array
from zsad.images.reading import depth_of
from zsad.images.streams import OnError, ReadImage, check_stream, holds_several, read_batches, scored_stream
from zsad.types import Prediction

if TYPE_CHECKING:
    from zsad.images.limits import Bits
    from zsad.images.looking import Looking
    from zsad.images.names import Pages
    from zsad.images.preparing import Preparation
    from zsad.images.region import Region
    from zsad.images.tile_scoring import ImageAnswer
    from zsad.images.tiles import Tile
    from zsad.types import PhraseRanker

MOST_AT_ONCE = 16

SelfT = TypeVar("SelfT", bound="Predicts[Any]")


class Predicts(Generic[CalibrationT]):
    """Reads images, has them scored, and decides; the base of `zsad.Detector` and of an exported detector.

    Attributes:
        looking: how images are read, cut and prepared.
        decision: thresholds and score scale of the predictions, with the calibration that they rest on.
    """

    looking: Looking
    decision: Decision[CalibrationT]

    @property
    def image_size(self) -> int:
        """Side of the square network input, in pixels."""
        return int(self.looking.preparation.size)

    @property
    def preparation(self) -> Preparation:
        """How images become the network's input: its size, and mean and standard deviation of the weights."""
        return self.looking.preparation

    @property
    def bits(self) -> int | None:
        """Depth of the values in 16-bit files, of all images; None for what each file states."""
        return self.looking.bits

    @property
    def tile(self) -> Tile:
        """How large images are cut into tiles, references too; None for whole images."""
        return self.looking.tile

    @property
    def roi(self) -> Region | None:
        """Region of interest, to which all images are cut, references too; None for whole images."""
        return self.looking.roi

    @property
    def threshold(self) -> float | None:
        """Image score from which on an image counts as anomalous; None without a decision.

        Setting it drops the calibration, which promises nothing about a threshold set by hand.
        """
        return self.decision.threshold

    @threshold.setter
    def threshold(self, value: float | None) -> None:
        self.decision = self.decision.by_hand(value, self.decision.map_threshold)

    @property
    def map_threshold(self) -> float | None:
        """Map value from which on a pixel counts as anomalous; None without a decision.

        Setting it drops the calibration, which promises nothing about a threshold set by hand.
        """
        return self.decision.map_threshold

    @map_threshold.setter
    def map_threshold(self, value: float | None) -> None:
        self.decision = self.decision.by_hand(self.decision.threshold, value)

    @property
    def calibration(self) -> CalibrationT | None:
        """Calibration that gave the thresholds; None without one, and for thresholds set by hand."""
        return self.decision.calibration

    @property
    def scores_jointly(self) -> bool:
        """Whether images have to be scored all at once, because each score depends on the other images."""
        return False

    def with_decision(self: SelfT, decision: Decision[Any]) -> SelfT:
        """A copy on the same network that decides otherwise; this object keeps its decision."""
        other = copy.copy(self)
        other.decision = decision
        return other

    def deciding(
        self: SelfT, class_name: str | None, threshold: float | None, map_threshold: float | None
    ) -> SelfT:
        """This object, or a copy with other thresholds for one run; the calibration stays for its report.

        Args:
            class_name: class name of the images; None for any.
            threshold: image score; None keeps the threshold.
            map_threshold: map value; None keeps the map threshold.

        Raises:
            ConfigError: scores or thresholds are for another class name.
        """
        self._check_class(class_name)
        if threshold is None and map_threshold is None:
            return self
        return self.with_decision(self.decision.with_thresholds(threshold, map_threshold))

    def at_depth(self: SelfT, bits: Bits) -> SelfT:
        """This object, or a copy on the same network that reads 16-bit files at another depth.

        A copy of a detector keeps no calibration that was made at another depth.

        Args:
            bits: depth of the values, 1 to 16; None keeps the depth.

        Raises:
            ConfigError: the depth is impossible, or references, companions or the thresholds of a bundle come
                from images that were read at another one.
        """
        return self._looking_as(self.looking.at_depth(bits))

    def with_tile(self: SelfT, tile: Tile) -> SelfT:
        """This object, or a copy on the same network that cuts large images otherwise.

        A large image is scored by overlapping tiles and as a whole (`zsad.images.tile_scoring`). References
        and companions are cut in the same way.

        Args:
            tile: side of the tiles in pixels; "auto" cuts large and long images only, into tiles of a size
                that it chooses (`zsad.images.tiles.tile_side`); "none" cuts none; None keeps the setting.

        Raises:
            ConfigError: the setting is impossible, or the thresholds, or anything that a bundle compares
                with, were made with another one.
        """
        return self._looking_as(self.looking.with_tile(tile))

    def predict_iter(
        self,
        source: str | Path | Iterable[Any],
        batch_size: int = 8,
        classes: Classes = None,
        *,
        include_results: bool = False,
        pages: Pages = "first",
        on_error: OnError = "raise",
        bits: Bits = None,
        tile: Tile = None,
    ) -> Iterator[Any]:
        """Scores a stream of images, and reads the next batch while the network works.

        Args:
            source: a folder, a glob pattern, or an iterable of images as `predict` takes them.
            batch_size: number of images that go through the network at once.
            classes: class names, as `predict` takes them.
            include_results: whether to take the images of a folder that zsad wrote itself, and masks.
            pages: "first": the first page of each file of a folder that holds several, and the middle slice
                of a volume; "all": every page, frame and slice is an image of its own.
            on_error: what becomes of an image that cannot be read: "raise" ends the stream, "skip" leaves the
                image out, "yield" puts the `ImageReadError` in its place.
            bits: depth of 16-bit files, as `at_depth` takes it; "auto" finds one for a folder or list.
            tile: how large images are cut into tiles, as `with_tile` takes it.

        Yields:
            Predictions in the order of the images; with "yield", errors among them.

        Raises:
            ImageReadError: with "raise", an image cannot be read; all earlier batches have been yielded.
            DataError: the folder or pattern holds no image.
            ConfigError: as for `predict`, or the batch size is impossible.
        """
        check_stream(source, batch_size, on_error, pages)
        self._check_ready()
        are_named = isinstance(source, (str, Path))
        images: Iterable[Any] = (
            find_and_tell(source, include_results=include_results, pages=pages)
            if isinstance(source, (str, Path))
            else source
        )
        reader = self.at_depth(depth_of(bits, images)).with_tile(tile)
        batches = read_batches(
            with_class_names(images, reader._classes(classes)),
            batch_size,
            reader.looking.read,
            are_named=are_named,
            is_joint=reader.scores_jointly,
        )
        return scored_stream(batches, reader._predict_batch, on_error)

    def _predicted(
        self, inputs: Any, classes: Classes, batch_size: int | None, bits: Bits, tile: Tile
    ) -> Prediction | list[Prediction]:
        """What `predict` returns: a prediction for one image, a list for several."""
        if bits is not None or tile is not None:
            depth = depth_of(bits, inputs if holds_several(inputs) else [inputs])
            return self.at_depth(depth).with_tile(tile)._predicted(inputs, classes, batch_size, None, None)
        if holds_several(inputs):
            if batch_size is None:
                whole = max(1, len(inputs))
                batch_size = whole if self.scores_jointly else min(whole, MOST_AT_ONCE)
            return list(self.predict_iter(inputs, batch_size, classes))
        self._check_ready()
        return self._predict_batch([self.looking.read(inputs)], class_names(self._classes(classes), 1))[0]

    def _looking_as(self: SelfT, looking: Looking) -> SelfT:
        """This object, or a copy on the same network that looks at images otherwise.

        Raises:
            ConfigError: something was made by looking at images as this object does.
        """
        if looking == self.looking:
            return self
        other = copy.copy(self)
        other.looking = looking
        other._adapt(self.looking)
        return other

    def _classes(self, given: Classes) -> Classes:
        """The class names that are given, or else the class name that the decision is for."""
        return self.decision.class_name if given is None else given

    def _predict_batch(self, images: Sequence[ReadImage], names: Sequence[str | None]) -> list[Prediction]:
        """Predictions for images that have been read; part of every subclass."""
        raise NotImplementedError

    def _check_ready(self) -> None:
        """Refuses to predict where predictions would mean nothing."""

    def _check_class(self, class_name: str | None) -> None:
        """Refuses a class name that the decision is not for; None stands for any."""
        if class_name is not None and not self.decision.is_for(class_name):
            raise ConfigError(
                f"the calibration is for images of {self.decision.class_name!r}, not of {class_name!r}: "
                "calibrate for these too, or predict without it (--calibration none)"
            )

    def _adapt(self, before: Looking) -> None:
        """Adapts a copy that looks at images otherwise than before, or refuses it."""


def prediction_of(
    image: ReadImage,
    answer: ImageAnswer,
    decision: Decision[Any],
    map_range: tuple[float, float],
    *,
    class_name: str | None,
    notes: tuple[str, ...],
    ranker: PhraseRanker | None = None,
) -> Prediction:
    """The prediction for an image.

    Args:
        image: the image as it was read, with the file that it comes from.
        answer: what the method says about it.
        decision: thresholds and score scale for its class name.
        map_range: smallest and largest value that a map can take.
        class_name: class name that the score depends on; None without one.
        notes: what the method could not do as it was set up.
        ranker: answers `Prediction.explain`; None for what has no text encoder.
    """
    path, pixels = image
    return Prediction(
        score=answer.score,
        anomaly_map=answer.anomaly_map,
        image=to_array(pixels),
        path=path,
        threshold=decision.threshold,
        map_threshold=decision.map_threshold,
        map_range=map_range,
        class_name=class_name,
        ranker=ranker,
        score_scale=decision.scale,
        tile=answer.tile,
        notes=notes,
    )

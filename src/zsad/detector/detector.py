"""`Detector`, which `zsad.load` returns: prepares once, predicts many times.

A detector is a method on a backbone with everything fixed that a prediction depends on: weights, image size,
device, references and thresholds. It encodes the prompts of a class name once and keeps them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import torch
from torch import Tensor

from zsad.backbones.devices import check_device
from zsad.detector.decision import Decision
from zsad.detector.explanation import RegionRanker
from zsad.detector.fitted import Fitted
from zsad.detector.identity import learned_versions, scoring_settings
from zsad.detector.inputs import ImageInput, check_size, check_tensors, check_trained
from zsad.detector.predictions import one_by_one, predictions
from zsad.detector.states import States
from zsad.detector.tiling import Sources, check_tileable, resized
from zsad.errors import ConfigError
from zsad.images.class_names import Classes, class_names, with_class_names
from zsad.images.finding import find_and_tell
from zsad.images.looking import look
from zsad.images.preparing import Preparation
from zsad.images.reading import depth_of
from zsad.images.streams import OnError, ReadImage, check_stream, holds_several, read_batches, scored_stream
from zsad.images.tile_scoring import TILES_AT_ONCE, Cutting, ImageAnswer, score_images
from zsad.images.tiles import setting_of
from zsad.methods.base import Method, Support
from zsad.methods.functional.reference_rule import EDITION

if TYPE_CHECKING:
    from PIL import Image

    from zsad.detector.fitting.good_images import GoodImages
    from zsad.detector.looking import RegionInput
    from zsad.images.limits import Bits
    from zsad.images.names import Pages
    from zsad.images.tiles import Tile
    from zsad.types import Prediction, RawOutput, WeightRecord

MOST_AT_ONCE = 16


class Detector(Fitted):
    """A method on a backbone that scores images.

    Attributes:
        method: system that scores; training uses its `loss` and `trainable`.
        backbone: CLIP network of the method.
        record: weight record of the backbone.
        image_size: pixels a side that images are resized to.
        is_trained: whether the learnt parameters mean anything; True for a method that learns nothing.
        decision: thresholds and score scale of the predictions, with the calibration that they rest on.
        reference_fingerprints: fingerprints of the reference images, from `image_fingerprint`.
        good_images: what `fit` kept of the good images; None for a detector that is not fitted.
        auxiliary_data: description of the training data, for the checkpoint; see `mark_trained`.
        auxiliary_pictures: digests of the training image files, for the checkpoint; see `mark_trained`.
        fingerprint: digest of the backbone's weights, before they are rounded to another precision.
        bits: depth of the values in 16-bit files, of all images; None for what each file states.
        tile: how large images are cut into tiles, references too; None for whole images.
    """

    def __init__(
        self,
        method: Method,
        image_size: int,
        *,
        fingerprint: str,
        is_trained: bool = True,
        auxiliary_data: str = "",
        auxiliary_pictures: str = "",
        bits: int | None = None,
        tile: Tile = None,
    ) -> None:
        if method.backbone.record is None:
            raise ConfigError("the method's backbone needs a record, which says how images are prepared")
        check_size(image_size, method.backbone)
        self.method = method
        self.backbone = method.backbone
        self.record: WeightRecord = method.backbone.record
        self.image_size = image_size
        self.is_trained = is_trained or not any(True for _ in method.trainable())
        self.decision = Decision()
        self.reference_fingerprints: tuple[str, ...] = ()
        self.good_images: GoodImages | None = None
        self.auxiliary_data = auxiliary_data
        self.auxiliary_pictures = auxiliary_pictures
        self.fingerprint = fingerprint
        self.bits = bits
        self.tile = setting_of(tile)
        self._ranker = RegionRanker(self.backbone, image_size)
        self._states, self._tiled_states, self._sources = States(method, Support()), {}, Sources()

    @property
    def method_name(self) -> str:
        """Registry name of the method."""
        return self.method.INFO.name

    @property
    def backbone_name(self) -> str:
        """Name of the CLIP network."""
        return self.record.name

    @property
    def preparation(self) -> Preparation:
        """How images become the network's input: its size, and mean and standard deviation of the weights."""
        return Preparation(self.image_size, self.record.mean, self.record.std, self.bits)

    def to(self, device: str | torch.device) -> Detector:
        """Moves network, learnt parameters and references to another device.

        Args:
            device: name of the device, such as "cuda:1".

        Returns:
            This detector.

        Raises:
            ConfigError: this machine has no such device.
        """
        place = check_device(device)
        self.method.to(place)
        self._states, self._tiled_states = States(self.method, self._states.support.to(place)), {}
        self.good_images = None if self.good_images is None else self.good_images.to(place)
        return self

    def __getstate__(self) -> dict[str, Any]:
        """All attributes except those that each process makes for itself."""
        return {name: value for name, value in vars(self).items() if name != "_ranker"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._ranker = RegionRanker(self.backbone, self.image_size)

    @overload
    def predict(
        self,
        inputs: ImageInput,
        classes: Classes = None,
        batch_size: int | None = None,
        *,
        roi: RegionInput = None,
        bits: Bits = None,
        tile: Tile = None,
    ) -> Prediction: ...

    @overload
    def predict(
        self,
        inputs: list[Any] | tuple[Any, ...],
        classes: Classes = None,
        batch_size: int | None = None,
        *,
        roi: RegionInput = None,
        bits: Bits = None,
        tile: Tile = None,
    ) -> list[Prediction]: ...

    def predict(
        self,
        inputs: ImageInput | list[Any] | tuple[Any, ...],
        classes: Classes = None,
        batch_size: int | None = None,
        *,
        roi: RegionInput = None,
        bits: Bits = None,
        tile: Tile = None,
    ) -> Prediction | list[Prediction]:
        """Scores one image or several.

        Args:
            inputs: an image (path, open file, PIL image, uint8 HWC array, float CHW tensor in [0, 1]), or a
                list, a tuple or a four-dimensional array of them.
            classes: class names: one for all images, or one per image; None for the class name of the
                calibration if it has one, or "object".
            batch_size: number of images that go through the network at once; None for all, at most 16.
            roi: region of interest in place of the detector's, as `with_roi` takes it.
            bits: depth of 16-bit files, as `at_depth` takes it; "auto" finds one for all these images.
            tile: how large images are cut into tiles, as `with_tile` takes it.

        Returns:
            A `Prediction` for one image, a list of predictions for several.

        Raises:
            ImageReadError: an image cannot be read.
            ConfigError: names and images differ in number, the method has not been trained, or the tile
                setting is impossible or not that of the calibration.
        """
        if roi is not None:
            return self.with_roi(roi).predict(inputs, classes, batch_size, bits=bits, tile=tile)
        if bits is not None or tile is not None:
            depth = depth_of(bits, inputs if holds_several(inputs) else [inputs])
            return self.at_depth(depth).with_tile(tile).predict(inputs, classes, batch_size)
        if holds_several(inputs):
            whole = max(1, len(inputs))
            if batch_size is None:
                batch_size = whole if self.scores_jointly else min(whole, MOST_AT_ONCE)
            return list(self.predict_iter(inputs, batch_size, classes))
        check_trained(self.method, self.is_trained)
        return self._predict_batch([self._read(inputs)], class_names(self._classes(classes), 1))[0]

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
            ConfigError: names and images differ in number, the batch size is impossible, or the method has
                not been trained.
        """
        check_stream(source, batch_size, on_error, pages)
        check_trained(self.method, self.is_trained)
        are_named = isinstance(source, (str, Path))
        images: Iterable[Any] = (
            find_and_tell(source, include_results=include_results, pages=pages)
            if isinstance(source, (str, Path))
            else source
        )
        reader = self.at_depth(depth_of(bits, images)).with_tile(tile)
        named = with_class_names(images, reader._classes(classes))
        batches = read_batches(
            named,
            batch_size,
            bits=reader.bits,
            for_tiles=reader.tile is not None,
            are_named=are_named,
            is_joint=self.scores_jointly,
            roi=self.roi,
        )
        return scored_stream(batches, reader._predict_batch, on_error)

    def score_tensors(self, images: Tensor, classes: Classes = None) -> RawOutput:
        """Scores images that are already resized and normalised.

        Args:
            images: (B, 3, S, S) floating-point tensor; S is a multiple of the patch size.
            classes: class names, as `predict` takes them.

        Returns:
            (B,) scores and (B, S, S) maps, float32, on the detector's device, exactly as the authors'
            evaluation scripts feed them to the metrics. An untrained method is scored too.

        Raises:
            ConfigError: the shape or type of the tensor is wrong, or names and images differ in number.
        """
        check_tensors(images)
        return self._score(images, class_names(self._classes(classes), len(images)), self._states)

    def scoring_settings(self) -> dict[str, Any]:
        """Everything that the scores depend on, from `zsad.detector.identity.scoring_settings`."""
        return scoring_settings(
            self.method,
            self.image_size,
            self.fingerprint,
            self.reference_fingerprints,
            bits=self.bits,
            tile=self.tile,
            roi=None if self.roi is None else self.roi.identity,
            are_turned=self._states.support.turned,
            reference_rule=EDITION if self._states.follows_general_rule else None,
            is_lone=self.good_images is not None,
        )

    def mark_trained(self, auxiliary_data: str, auxiliary_pictures: str = "") -> None:
        """Records that the method has been trained, and on which data.

        Args:
            auxiliary_data: description of the training data.
            auxiliary_pictures: digests of the training image files, from
                `zsad.data.fingerprints.pack_digests`; "" if they are not known.
        """
        self.is_trained = True
        self.auxiliary_data, self.auxiliary_pictures = auxiliary_data, auxiliary_pictures

    def _classes(self, given: Classes) -> Classes:
        """The class names that are given, or else the class name that the decision is for."""
        return self.decision.class_name if given is None else given

    def answer(self, image: Image.Image, class_name: str) -> ImageAnswer:
        """What the method says of an image that is read and cut to the region of interest."""
        return self._answers([image], [class_name])[0]

    def _answers(self, images: Sequence[Image.Image], names: Sequence[str | None]) -> list[ImageAnswer]:
        """What the method says of images, some of which are cut into tiles."""

        def score(some: Iterable[Image.Image], names: Sequence[str | None], is_tile: bool) -> RawOutput:
            return self._score(self._prepared(some), names, self._states_of(is_tile, names))

        check_tileable(self.method, self.tile, is_joint=self.scores_jointly)
        at_once = 1 if self.scores_jointly else TILES_AT_ONCE
        return score_images(images, names, score, resized, Cutting(self.tile, self.image_size), at_once)

    def _predict_batch(self, images: Sequence[ReadImage], names: Sequence[str | None]) -> list[Prediction]:
        """Predictions for images that have been read."""
        return look(
            images,
            self.roi,
            lambda parts: predictions(
                parts,
                names,
                self._answers([image for _, image in parts], names),
                decision=self.decision,
                map_range=self.map_range,
                keeps_names=self.method.INFO.uses_class_names,
                ranker=self._ranker,
                notes=self.method.notes,
            ),
        )

    @torch.inference_mode()
    def _score(self, images: Tensor, names: Sequence[str | None], states: States) -> RawOutput:
        """Scores and maps of a batch, float32."""
        if self.good_images is not None and len(images) > 1 and self._method_scores_jointly:
            return one_by_one(lambda one, name: self._score(one, name, states), images, names)
        return states.scored(images.to(self.device), names, learned_versions(self.method))

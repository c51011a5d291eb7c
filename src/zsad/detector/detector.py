"""`Detector`, which `zsad.load` returns: prepares once, predicts many times.

Its parts say how images are read and cut (`Looking`), what they are compared with (`Comparison`), and which
of them count as anomalous (`Decision`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import torch
from torch import Tensor

from zsad.backbones.devices import check_device
from zsad.detector import saving
from zsad.detector.comparison import Comparison
from zsad.detector.decision import Decision
from zsad.detector.explanation import RegionRanker
from zsad.detector.fitting.options import fit_options
from zsad.detector.inputs import ImageInput, check_size, check_tensors, check_trained
from zsad.detector.looking import as_region
from zsad.detector.predicting import Predicts
from zsad.detector.predictions import predictions
from zsad.detector.states import States
from zsad.detector.support import again_readable, check_augmented, check_companions, images_given
from zsad.detector.thresholds import Calibration, read_calibration, still_valid
from zsad.errors import ConfigError
from zsad.images.class_names import Classes, class_names
from zsad.images.looking import Looking, look
from zsad.images.preparing import Preparation
from zsad.images.reading import depth_of
from zsad.images.tiles import setting_of
from zsad.methods.base import Method, Support

if TYPE_CHECKING:
    from zsad.detector.fitting.fit import Fitting
    from zsad.detector.fitting.good_images import GoodImages
    from zsad.detector.looking import RegionInput
    from zsad.detector.support import Images
    from zsad.images.limits import Bits
    from zsad.images.region import Region
    from zsad.images.streams import ReadImage
    from zsad.images.tiles import Tile
    from zsad.types import Prediction, RawOutput, WeightRecord


class Detector(Predicts[Calibration]):
    """A method on a backbone that scores images.

    Attributes:
        method: system that scores; training uses its `loss` and `trainable`.
        backbone: CLIP network of the method.
        record: weight record of the backbone.
        looking: how images are read, cut and prepared.
        compared: what images are compared with: references, companions, good images.
        decision: thresholds and score scale of the predictions, with the calibration that they rest on.
        is_trained: whether the learnt parameters mean anything; True for a method that learns nothing.
        auxiliary_data: description of the training data, for the checkpoint; see `mark_trained`.
        auxiliary_pictures: digests of the training image files, for the checkpoint; see `mark_trained`.
        fingerprint: digest of the backbone's weights, before they are rounded to another precision.
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
        roi: Region | None = None,
    ) -> None:
        if method.backbone.record is None:
            raise ConfigError("the method's backbone needs a record, which says how images are prepared")
        check_size(image_size, method.backbone)
        self.method = method
        self.backbone = method.backbone
        self.record: WeightRecord = method.backbone.record
        preparation = Preparation(image_size, self.record.mean, self.record.std, bits)
        self.looking = Looking(preparation, setting_of(tile), roi)
        self.compared = Comparison(States(method, Support()))
        self.decision = Decision()
        self.is_trained = is_trained or not any(True for _ in method.trainable())
        self.auxiliary_data, self.auxiliary_pictures = auxiliary_data, auxiliary_pictures
        self.fingerprint = fingerprint
        self._ranker = RegionRanker(self.backbone, image_size)

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._ranker = RegionRanker(self.backbone, self.image_size)  # each process makes its own

    @property
    def method_name(self) -> str:
        """Registry name of the method."""
        return self.method.INFO.name

    @property
    def backbone_name(self) -> str:
        """Name of the CLIP network."""
        return self.record.name

    @property
    def device(self) -> torch.device:
        """Device that the network is on."""
        return self.method.backbone.text_projection.device

    @property
    def map_range(self) -> tuple[float, float]:
        """Smallest and largest value that a map can take, with the present references and companions."""
        return self.compared.map_range([self.decision.class_name])

    @property
    def scores_jointly(self) -> bool:
        """Whether images have to be scored all at once; a fitted detector scores each by itself."""
        return self.compared.scores_jointly([self.decision.class_name])

    @property
    def about_companions(self) -> str:
        """A line on what the companions do to the scores; empty without companions."""
        state = self.compared.shown([self.decision.class_name])
        return "" if state is None else state.about

    @property
    def reference_fingerprints(self) -> tuple[str, ...]:
        """Fingerprints of the reference images, from `image_fingerprint`."""
        return self.compared.fingerprints

    @property
    def good_images(self) -> GoodImages | None:
        """What `fit` kept of the good images; None for a detector that is not fitted."""
        return self.compared.good

    def to(self, device: str | torch.device) -> Detector:
        """Moves network, learnt parameters and references to a device ("cuda:1"); returns the detector.

        Raises:
            ConfigError: this machine has no such device.
        """
        place = check_device(device)
        self.method.to(place)
        self.compared = self.compared.to(place)
        return self

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
        """The prediction for one image, or a list of predictions for several.

        Args:
            inputs: an image (path, open file, PIL image, uint8 HWC array, float CHW tensor in [0, 1]), or a
                list, a tuple or a four-dimensional array of them.
            classes: class names: one for all images, or one per image; None for the class name of the
                calibration if it has one, or "object".
            batch_size: number of images that go through the network at once; None for all, at most 16.
            roi: region of interest in place of the detector's, as `with_roi` takes it.
            bits: depth of 16-bit files, as `at_depth` takes it; "auto" finds one for all these images.
            tile: how large images are cut into tiles, as `with_tile` takes it.

        Raises:
            ImageReadError: an image cannot be read.
            ConfigError: an argument is impossible or not that of the calibration, or the method is untrained.
        """
        detector = self if roi is None else self.with_roi(roi)
        return detector._predicted(inputs, classes, batch_size, bits, tile)

    def score_tensors(self, images: Tensor, classes: Classes = None) -> RawOutput:
        """Scores images that are already resized and normalised, also with an untrained method.

        Args:
            images: (B, 3, S, S) floating-point tensor; S is a multiple of the patch size.
            classes: class names, as `predict` takes them.

        Returns:
            (B,) scores and (B, S, S) maps, float32, on the detector's device, exactly as the authors'
            evaluation scripts feed them to the metrics.

        Raises:
            ConfigError: the shape or type of the tensor is wrong, or names and images differ in number.
        """
        check_tensors(images)
        names, compared = class_names(self._classes(classes), len(images)), self.compared
        return compared.scored(images.to(self.device), names, compared.states)

    def with_roi(self, roi: RegionInput) -> Detector:
        """A copy on the same network that looks at a region of interest only.

        Args:
            roi: see `RegionInput`; None for whole images.

        Raises:
            ConfigError: it names no region, or references, companions or the calibration are for another one.
        """
        return self._looking_as(replace(self.looking, roi=as_region(roi)))

    def set_references(self, references: Images | None, *, augment: bool = False, bits: Bits = None) -> None:
        """Gives the detector known-normal images to compare with, in place of those it has.

        A method with a few-shot rule of its own follows it; every other method follows the general rule of
        `zsad.methods.functional.reference_rule`. Companions stay as they are, unless the depth changes. A
        calibration that was made with other references no longer holds and is removed.

        Args:
            references: one image as `predict` takes it, a folder, a pattern, or a list of these, all of one
                class; None or an empty list returns to zero-shot scoring.
            augment: whether they also count turned and flipped, for parts that lie in any direction.
            bits: depth of 16-bit files from now on, "auto" for one that all references fit in; None keeps it.

        Raises:
            ImageReadError: an image cannot be read.
            DataError: a folder or pattern holds no image.
            ConfigError: `augment` without references.
        """
        given = again_readable(images_given(references))
        check_augmented(given, augment)
        looking, compared = self.looking, self.compared
        if bits is not None and (depth := depth_of(bits, given)) != self.bits:
            looking, compared = looking.with_depth(depth), compared.without_companions()
        self.compared = compared.with_references(given, looking, augment)
        self.looking = looking
        if self.calibration is not None:
            self.decision = Decision()

    def set_companions(self, images: Images | None) -> list[int]:
        """Gives the detector unlabelled images of the folder, to compare each image with; references stay.

        Args:
            images: as `set_references` takes them; those that cannot be read are left out. None or an empty
                list makes the images of a batch each other's companions again.

        Returns:
            Positions of the images that could be read, in the list that folders and patterns expand to.

        Raises:
            ConfigError: the method takes no companions, or the detector is fitted.
            DataError: a folder or pattern holds no image.
        """
        given = again_readable(images_given(images))
        check_companions(given, self.method, is_fitted=self.good_images is not None)
        self.compared, positions = self.compared.with_companions(given, self.looking)
        return positions

    def fit(
        self,
        good: Images | None,
        rate: float | None = None,
        *,
        add: bool = False,
        progress: Callable[[int, int], None] | None = None,
        **options: Any,
    ) -> Fitting:
        """Takes good images as references, and thresholds from their scores.

        The score that a threshold rests on is computed without its own image among the references. From now
        on each image is scored by itself, without companions, because the thresholds hold for that. `save`
        keeps everything: features of the images, thresholds, and what was learnt.

        Args:
            good: known-normal images of one kind, as `set_references` takes them: a folder, a pattern or a
                list of at least three, better twenty; None with `add` to make the thresholds again.
            rate: share of new good images that may be called anomalous, in (0, 0.5); None for 0.05.
            add: whether the images come on top of those of an earlier fit, and options stay as they were. A
                detector that cuts images into tiles reads the earlier ones again, from their files or from
                among the images given.
            progress: called with the number of images done and the total; what it raises ends the fit.
            **options: other fields of `FitOptions`: `confidence`, `split`, `drop_outliers`, `class_name`,
                `tolerated_area`, `strict`, `batch_size`, `augment_references`.

        Returns:
            What was found: the promise, the scores, images that stand out, near-copies.

        Raises:
            ConfigError: an option is impossible, the method has not been trained or cannot score a single
                image, or `add` and the detector has not been fitted.
            DataError: fewer than three different images can be read, all have the same score, or an earlier
                image has to be read again and is not there.
        """
        from zsad.detector.fitting.fit import fit  # most detectors are never fitted

        self._check_ready()
        if add and self.good_images is None:
            raise ConfigError("add=True needs a detector that has been fitted: call fit without it first")
        earlier = self.good_images if add else None
        chosen = fit_options(self.calibration if add else None, rate, options)
        found = fit(self.method, self.looking, self.fingerprint, good, chosen, earlier, progress)
        self.keep_good_images(found.good)
        self.decision = found.calibration.decision
        return found

    def keep_good_images(self, good: GoodImages) -> None:
        """Compares with good images of a fit on the same method and size, in place of any other support."""
        self.compared = Comparison.of_good(self.method, good)

    def apply_calibration(self, calibration: Calibration | str | Path | None) -> Detector:
        """Gives predictions the thresholds and the score scale of a calibration; returns the detector.

        If the method uses class names, predictions for other class names keep a threshold of None.

        Args:
            calibration: calibration, or its file; None removes thresholds and score scale.

        Raises:
            ConfigError: it was made with other weights, settings or references, or its file does not exist.
            DataError: the file is no calibration, or is damaged.
        """
        if isinstance(calibration, str | Path):
            calibration = read_calibration(calibration)
        if calibration is not None:
            calibration.check_fits(self.scoring_settings())
        self.decision = Decision() if calibration is None else calibration.decision
        return self

    def scoring_settings(self) -> dict[str, Any]:
        """Everything that the scores depend on, from `zsad.detector.identity.scoring_settings`."""
        return self.compared.settings(self.looking, self.fingerprint)

    def mark_trained(self, auxiliary_data: str, auxiliary_pictures: str = "") -> None:
        """Records that the method has been trained, on which data, and the digests of its image files."""
        self.is_trained = True
        self.auxiliary_data, self.auxiliary_pictures = auxiliary_data, auxiliary_pictures

    def save(self, path: str | Path) -> Path:
        """Writes everything that `zsad.load(checkpoint=path)` needs, except backbone weights.

        Images given to `set_references` are not written, but features of the good images of `fit` are. A
        calibration that was made before the weights changed is left out, with its thresholds.

        Args:
            path: file to write, ".safetensors" by custom; an older file is replaced in one step.

        Raises:
            WeightsError: the file cannot be written.
        """
        return saving.save(
            path,
            self.method,
            self.looking,
            still_valid(self.decision, self.scoring_settings()),
            self.good_images,
            fingerprint=self.fingerprint,
            auxiliary_data=self.auxiliary_data,
            auxiliary_pictures=self.auxiliary_pictures,
        )

    def _predict_batch(self, images: Sequence[ReadImage], names: Sequence[str | None]) -> list[Prediction]:
        def predict(parts: Sequence[ReadImage]) -> list[Prediction]:
            answers = self.compared.answers([image for _, image in parts], names, self.looking)
            return predictions(
                parts, names, answers, self.method, self.decision, self.map_range, self._ranker
            )

        return look(images, self.roi, predict)

    def _check_ready(self) -> None:
        check_trained(self.method, self.is_trained)

    def _adapt(self, before: Looking) -> None:
        self.compared.check_looking(self.looking, before)
        if self.calibration is None:
            return
        if self.bits != before.bits:
            self.decision = still_valid(self.decision, self.scoring_settings())
        else:
            self.calibration.check_fits(self.scoring_settings())

"""`Fitted`: what a detector learns from good images, and the file that keeps it."""

from __future__ import annotations

import copy
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zsad.detector import checkpoints
from zsad.detector.calibration.options import Aim
from zsad.detector.checkpoints import CheckpointInfo
from zsad.detector.comparing import Comparing
from zsad.detector.decision import Decision
from zsad.detector.fitting.options import FitOptions
from zsad.detector.inputs import check_trained
from zsad.detector.states import States
from zsad.detector.support import images_given
from zsad.detector.tiling import Sources
from zsad.errors import ConfigError
from zsad.files.plain import to_plain
from zsad.files.settings import build_config
from zsad.images.looking import cut
from zsad.images.tile_scoring import Cutting
from zsad.methods.base import Support

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from PIL import Image

    from zsad.detector.fitting.fit import Fitting
    from zsad.detector.fitting.good_images import GoodImages
    from zsad.detector.support import Images
    from zsad.detector.thresholds import Calibration
    from zsad.images.limits import Bits
    from zsad.images.tile_scoring import ImageAnswer
    from zsad.types import WeightRecord

FITTED = "fitted"


class Fitted(Comparing):
    """Base of a detector that can be fitted to good images and saved; `Detector` documents the attributes."""

    record: WeightRecord
    image_size: int
    is_trained: bool
    good_images: GoodImages | None
    auxiliary_data: str
    auxiliary_pictures: str
    fingerprint: str

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
            add: whether the images come on top of those that the detector has been fitted to; what is not
                given then stays as it was. A detector that cuts images into tiles reads the earlier ones
                again, from the files that they were, or from among the images given.
            progress: called with the number of images done and the total, and again whenever one has been
                scored without itself; what it raises ends the fit.
            **options: other fields of `FitOptions`: `confidence`, `split`, `drop_outliers`, `class_name`,
                `tolerated_area`, `strict`, `batch_size`, `augment_references`.

        Returns:
            What was found: the promise, the scores, images that stand out, near-copies.

        Raises:
            ConfigError: an option is unknown or impossible, the method has not been trained or cannot score a
                single image, or `add` and the detector has not been fitted.
            DataError: fewer than three different images can be read, all have the same score, or an earlier
                image has to be read again and is not there.
        """
        from zsad.detector.fitting.fit import fit  # most detectors are never fitted

        check_trained(self.method, self.is_trained)
        if add and self.good_images is None:
            raise ConfigError("add=True needs a detector that has been fitted: call fit without it first")
        given = {**(_options_of(self.calibration) if add else {}), **options}
        if rate is not None:
            given["false_alarm_rate"] = rate
        found = fit(
            self.method,
            self.preparation,
            self._look,
            self._with_good_images,
            good,
            build_config(FitOptions, given, "fit"),
            self.good_images if add else None,
            progress,
            Cutting(self.tile, self.image_size),
        )
        self.keep_good_images(found.good)
        self.apply_calibration(found.calibration)
        return found

    def set_references(self, references: Images | None, *, augment: bool = False, bits: Bits = None) -> None:
        """See `Comparing.set_references`; the references replace the good images of a fitted detector."""
        super().set_references(references, augment=augment, bits=bits)
        self.good_images = None

    def set_companions(self, images: Images | None) -> list[int]:
        """See `Comparing.set_companions`; refused by a fitted detector.

        Raises:
            ConfigError: the detector is fitted.
        """
        if self.good_images is not None and images_given(images):
            raise ConfigError(
                "a fitted detector scores each image by itself, because its threshold holds for that: for "
                "companions, load a detector with references= instead"
            )
        return super().set_companions(images)

    @property
    def scores_jointly(self) -> bool:
        """Whether images have to be scored all at once; a fitted detector scores each by itself."""
        return self.good_images is None and self._method_scores_jointly

    @property
    def _method_scores_jointly(self) -> bool:
        """Whether the method with its support compares the images of a batch."""
        return super().scores_jointly

    def _states_of(self, is_tile: bool, names: Sequence[str | None]) -> States:
        """See `Comparing._states_of`; tiles are compared with the tiles of the good images."""
        good, tiled = self.good_images, self._tiled_states
        tiles = good.reference_tiles if is_tile and good is not None else None
        if good is None or tiles is None:
            return super()._states_of(is_tile, names)
        if FITTED not in tiled:
            support = Support(memory=tiles.memory, answers=tiles.maps, turned=good.are_turned)
            tiled[FITTED] = States(self.method, support)
        return tiled[FITTED]

    def _look(self, item: Any) -> tuple[Image.Image, Image.Image]:
        """Reads an image; the whole, and the part in the region of interest."""
        image = self._read(item)[1]
        return image, cut(image, self.roi)

    def answer(self, image: Image.Image, class_name: str) -> ImageAnswer:
        """What the method says of an image that is read and cut to the region of interest."""
        raise NotImplementedError

    def _with_good_images(self, good: GoodImages) -> Fitted:
        """A copy on the same network with these good images, and without thresholds."""
        other = copy.copy(self)
        other.decision = Decision()
        other.keep_good_images(good)
        return other

    def keep_good_images(self, good: GoodImages) -> None:
        """Compares new images with the references among these images, in place of any other support.

        Args:
            good: images from `fit` on the same method, backbone and image size, on the detector's device.
        """
        support = Support(memory=good.references, answers=good.reference_maps, turned=good.are_turned)
        self._states = States(self.method, support)
        self._tiled_states, self._sources = {}, Sources()
        self.reference_fingerprints = good.reference_fingerprints
        self.good_images = good

    def save(self, path: str | Path) -> Path:
        """Writes everything that `zsad.load(checkpoint=path)` needs, except backbone weights.

        That is what was learnt, and for a fitted detector features of its good images. Images given to
        `set_references` are not written. A calibration that was made before the weights changed is left out,
        with its thresholds.

        Args:
            path: file to write, ".safetensors" by custom; an older file is replaced in one step.

        Returns:
            Path of the file.

        Raises:
            WeightsError: the file cannot be written.
        """
        decision, good = self.decision.valid_for(self.scoring_settings()), self.good_images
        info = CheckpointInfo(
            method=self.method.INFO.name,
            backbone=self.record.name,
            fingerprint=self.fingerprint,
            image_size=self.image_size,
            config=to_plain(self.method.config),
            auxiliary_data=self.auxiliary_data,
            auxiliary_pictures=self.auxiliary_pictures,
            threshold=decision.threshold,
            map_threshold=decision.map_threshold,
            calibration=None if decision.calibration is None else decision.calibration.to_dict(),
            class_name=decision.class_name,
            bits=self.bits,
            tile=self.tile,
            roi=None if self.roi is None else self.roi.to_text(),
            good_images=() if good is None else good.images,
            augment_references=good is not None and good.are_turned,
        )
        path = Path(path).expanduser()
        checkpoints.write(path, self.method.learned_state(), info, None if good is None else good.tensors())
        return path


def _options_of(calibration: Calibration | None) -> dict[str, Any]:
    """The options that a fitted detector was given; none after its thresholds were set by hand."""
    if calibration is None:
        return {}
    kept = {field.name: getattr(calibration, field.name) for field in fields(Aim)}
    return {**kept, "class_name": calibration.class_name, "split": calibration.left_out == 0}

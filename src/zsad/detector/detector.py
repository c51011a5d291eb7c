"""The `Detector` that `zsad.load` gives: prepare once, predict many.

A detector is a method on a backbone, with everything fixed that a prediction depends on: weights, image
size, device, references, thresholds. Text is encoded once per class name and kept.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, overload

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from zsad.backbones.devices import check_device
from zsad.backbones.loading import backbone_fingerprint
from zsad.backbones.vision import check_image_size
from zsad.detector import checkpoints
from zsad.detector.checkpoints import CheckpointInfo
from zsad.detector.class_names import Classes, class_names, with_class_names
from zsad.detector.explanation import RegionRanker
from zsad.detector.identity import image_fingerprint, scoring_settings
from zsad.detector.states import States
from zsad.detector.support import images_given, methods_with_companions, readable
from zsad.detector.thresholds import Calibration, read_calibration
from zsad.errors import ConfigError
from zsad.images.ahead import read_ahead
from zsad.images.preparing import prepare, to_array
from zsad.images.reading import find_images, read_image
from zsad.methods.base import DEFAULT_CLASS, Method, Support
from zsad.methods.functional.maps import upsample
from zsad.types import Prediction, RawOutput, WeightRecord

if TYPE_CHECKING:
    from zsad.detector.support import Images
    from zsad.methods.base import State

MOST_AT_ONCE = 16
SEVERAL_PICTURES = 4  # dimensions of an array that holds several

Picture = str | Path | IO[bytes] | Image.Image | NDArray[Any] | Tensor


class Detector:
    """A method on a backbone that scores images.

    Attributes:
        method: the system; `method.loss`, `method.trainable()` and so on are there for training.
        backbone: its CLIP network.
        record: of the backbone's weights.
        image_size: pixels a side that images are resized to.
        is_trained: whether what the method learns has been learnt; a training run sets it.
        threshold: image score from which on an image counts as anomalous; None while uncalibrated.
        map_threshold: map value from which on a pixel counts as anomalous; None while uncalibrated.
        calibration: what `apply_calibration` was given last; None: thresholds, if any, were set by hand.
        reference_fingerprints: of the reference images, as `image_fingerprint` gives them.
        auxiliary_data: what the method was trained on; written into its checkpoint.
        auxiliary_pictures: digests of the files of those images, likewise; see `zsad.data.fingerprints`.
        fingerprint: of the backbone's weights in their own precision.
    """

    def __init__(
        self,
        method: Method,
        image_size: int,
        *,
        is_trained: bool = True,
        threshold: float | None = None,
        map_threshold: float | None = None,
        auxiliary_data: str = "",
        fingerprint: str | None = None,
    ) -> None:
        if method.backbone.record is None:
            raise ConfigError("the method's backbone needs a record, which says how images are prepared")
        patch_size = method.backbone.config.vision.patch_size
        if isinstance(image_size, bool) or not isinstance(image_size, int) or image_size < patch_size:
            raise ConfigError(
                f"image_size must be a multiple of the patch size {patch_size} in pixels, got {image_size!r}"
            )
        check_image_size(image_size, image_size, patch_size)
        self.method = method
        self.backbone = method.backbone
        self.record: WeightRecord = method.backbone.record
        self.image_size = image_size
        self.is_trained = is_trained or not any(True for _ in method.trainable())
        self.threshold = threshold
        self.map_threshold = map_threshold
        self.calibration: Calibration | None = None
        self.reference_fingerprints: tuple[str, ...] = ()
        self.auxiliary_data = auxiliary_data
        self.auxiliary_pictures = ""
        self.fingerprint = fingerprint or backbone_fingerprint(self.backbone)
        self._ranker = RegionRanker(self.backbone, image_size)
        self._states = States(method, Support())

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return self.backbone.text_projection.device

    def to(self, device: str | torch.device) -> Detector:
        """Moves the network, what was learnt and the references to another device.

        Args:
            device: its name ("cuda:1").

        Returns:
            This detector.

        Raises:
            ConfigError: there is no such device on this machine.
        """
        place = check_device(device)
        self.method.to(place)
        self._states = States(self.method, self._states.support.to(place))
        return self

    def __getstate__(self) -> dict[str, Any]:
        """Everything but what each process makes for itself."""
        return {name: value for name, value in vars(self).items() if name != "_ranker"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._ranker = RegionRanker(self.backbone, self.image_size)

    @property
    def map_range(self) -> tuple[float, float]:
        """Smallest and largest value that a map can take, with the present references and companions."""
        state = self._state_with_support()
        return self.method.map_range if state is None or state.map_range is None else state.map_range

    @overload
    def predict(
        self, inputs: Picture, classes: Classes = None, batch_size: int | None = None
    ) -> Prediction: ...

    @overload
    def predict(
        self, inputs: list[Any] | tuple[Any, ...], classes: Classes = None, batch_size: int | None = None
    ) -> list[Prediction]: ...

    def predict(
        self,
        inputs: Picture | list[Any] | tuple[Any, ...],
        classes: Classes = None,
        batch_size: int | None = None,
    ) -> Prediction | list[Prediction]:
        """Scores one image or several.

        Args:
            inputs: an image (path, open file, PIL image, uint8 HWC array, float CHW tensor in [0, 1]), or a
                list, a tuple or a four-dimensional array of them.
            classes: what the images show: one name for all, or one per image; None for the calibration's
                name if there is one, else "object".
            batch_size: images that go through the network at once; None: all, but at most 16.

        Returns:
            A `Prediction` for one image, a list of them for several.

        Raises:
            ImageReadError: an image cannot be read.
            ConfigError: names and images do not match in number, or the method has not been trained.
        """
        if isinstance(inputs, (list, tuple)) or (
            isinstance(inputs, (np.ndarray, Tensor)) and inputs.ndim == SEVERAL_PICTURES
        ):
            whole = max(1, len(inputs))
            if batch_size is None:
                batch_size = whole if self.scores_jointly else min(whole, MOST_AT_ONCE)
            return list(self.predict_iter(inputs, batch_size, classes))
        self._check_trained()
        return self._predict_batch([self._read(inputs)], class_names(self._classes(classes), 1))[0]

    def predict_iter(
        self, source: str | Path | Iterable[Any], batch_size: int = 8, classes: Classes = None
    ) -> Iterator[Prediction]:
        """Scores a stream of images; reads ahead by one batch while the network works.

        Args:
            source: a folder, a glob pattern, or anything that yields images as `predict` takes them.
            batch_size: images that go through the network at once.
            classes: as for `predict`.

        Yields:
            Predictions in the order of the images.

        Raises:
            ImageReadError: an image cannot be read; those before its batch have been yielded.
            DataError: the folder or pattern holds no image.
            ConfigError: as for `predict`.
        """
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise ConfigError(f"batch_size must be a whole number of images above 0, got {batch_size!r}")
        if isinstance(source, Image.Image) or getattr(source, "ndim", SEVERAL_PICTURES) < SEVERAL_PICTURES:
            raise ConfigError("predict_iter takes many images; for one image use predict(image)")
        self._check_trained()
        pictures: Iterable[Any] = find_images(source) if isinstance(source, (str, Path)) else source
        return self._predict_stream(with_class_names(pictures, self._classes(classes)), batch_size)

    def score_tensors(self, images: Tensor, classes: Classes = None) -> RawOutput:
        """Scores images that are already resized and normalised.

        Args:
            images: (B, 3, S, S) floating; S a multiple of the patch size.
            classes: as for `predict`.

        Returns:
            (B,) scores and (B, S, S) maps, float32, on the detector's device: exactly what the authors'
            evaluation scripts feed to the metrics. An untrained method is scored as it is.

        Raises:
            ConfigError: another shape or type came, or names and images do not match in number.
        """
        if not isinstance(images, Tensor) or images.ndim != 4 or images.shape[1] != 3:
            shape = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
            raise ConfigError(f"score_tensors takes a tensor of shape (B, 3, S, S), got {shape}")
        if not images.is_floating_point():
            raise ConfigError(f"score_tensors takes normalised floating images, got {images.dtype}")
        return self._score(images, class_names(self._classes(classes), len(images)))

    def set_references(self, references: Images | None) -> None:
        """Gives the detector known-normal images to compare with, in place of those it has.

        A method with a few-shot rule of its own follows it; every other method follows the general rule of
        `zsad.methods.functional.references`. Companions stay as they are. A calibration that was made with
        other references no longer holds and is removed. References are not written into checkpoints.

        Args:
            references: one image as `predict` takes it, a folder, a pattern, or a list of these, all of one
                class; None or an empty list returns to zero-shot scoring.

        Raises:
            ImageReadError: an image cannot be read.
            DataError: a folder or pattern holds no image.
        """
        images = [self._read(item)[1] for item in images_given(references)]
        self._compare_with(normal=self._stack(images) if images else None)
        self.reference_fingerprints = tuple(image_fingerprint(to_array(image)) for image in images)
        if self.calibration is not None:
            self.apply_calibration(None)

    def set_companions(self, images: Images | None) -> list[int]:
        """Gives the detector unlabelled images of the folder that it is going to score.

        The method then compares each image with them and scores it by itself. References stay as they are.

        Args:
            images: one image as `predict` takes it, a folder, a pattern, or a list of these; None or an
                empty list makes the images of a batch each other's companions again. An image that cannot be
                read is left out.

        Returns:
            Positions of the images that could be read, in the list that folders and patterns expand to.

        Raises:
            ConfigError: the method takes no companions.
            DataError: a folder or pattern holds no image.
        """
        given = images_given(images)
        if given and not self.method.MOST_COMPANIONS:
            able = ", ".join(methods_with_companions())
            raise ConfigError(f"{self.method.INFO.name} takes no companions; methods that do: {able}")
        prepared = readable(given, lambda item: self._stack([self._read(item)[1]]))
        self._compare_with(unlabelled=torch.cat(list(prepared.values())) if prepared else None)
        return list(prepared)

    @property
    def scores_jointly(self) -> bool:
        """Whether images have to be scored all at once, because each score depends on the other images."""
        state = self._state_with_support()
        if state is None or state.scores_jointly is None:
            return self.method.scores_jointly
        return state.scores_jointly

    @property
    def about_companions(self) -> str:
        """A line on what the companions do to the scores; empty without companions."""
        state = self._state_with_support()
        return "" if state is None else state.about

    def _state_with_support(self) -> State | None:
        """A state that shows what references and companions change; None where the method has none."""
        return self._states.with_support(class_names(self._classes(None), 1), self._stamp())

    def _compare_with(self, **support: Tensor | None) -> None:
        """Replaces the references (`normal`) or the companions (`unlabelled`)."""
        self._states = States(self.method, replace(self._states.support, **support))

    def apply_calibration(self, calibration: Calibration | str | Path | None) -> Detector:
        """Decides from now on by a calibration: predictions have its thresholds and score scale.

        Images of another class name than the calibration's keep a threshold of None, if the method uses
        class names.

        Args:
            calibration: as `zsad.detector.calibration.calibrating.calibrate` gives it, or its file; None
                takes thresholds and score scale off.

        Returns:
            The detector itself.

        Raises:
            ConfigError: it was made for other weights, settings or references; the message names them.
            DataError: the file is no calibration or damaged.
            OSError: the file cannot be read.
        """
        if isinstance(calibration, str | Path):
            calibration = read_calibration(calibration)
        if calibration is not None:
            calibration.check_fits(self.scoring_settings())
        self.calibration = calibration
        self.threshold = None if calibration is None else calibration.threshold
        self.map_threshold = None if calibration is None else calibration.map_threshold
        return self

    def scoring_settings(self) -> dict[str, Any]:
        """Everything that the scores depend on, as `zsad.detector.identity.scoring_settings` describes it."""
        return scoring_settings(self.method, self.image_size, self.fingerprint, self.reference_fingerprints)

    def save(self, path: str | Path) -> Path:
        """Writes what was learnt and all that `zsad.load(checkpoint=path)` needs, but no backbone weights.

        A calibration that was made before the weights changed is left out, with its thresholds.

        Args:
            path: of the file, ".safetensors" by custom; it is replaced in one step.

        Returns:
            The path.

        Raises:
            WeightsError: the file cannot be written.
        """
        calibration = self.calibration
        is_stale = calibration is not None and not calibration.fits(self.scoring_settings())
        info = CheckpointInfo(
            method=self.method.INFO.name,
            backbone=self.record.name,
            fingerprint=self.fingerprint,
            image_size=self.image_size,
            config=asdict(self.method.config),
            auxiliary_data=self.auxiliary_data,
            auxiliary_pictures=self.auxiliary_pictures,
            threshold=None if is_stale else self.threshold,
            map_threshold=None if is_stale else self.map_threshold,
            calibration=None if calibration is None or is_stale else calibration.to_dict(),
        )
        checkpoints.write(path, self.method.learned_state(), info)
        return Path(path)

    def _classes(self, given: Classes) -> Classes:
        """The class names to use: those given, else the calibration's."""
        return given if given is not None or self.calibration is None else self.calibration.class_name

    def _check_trained(self) -> None:
        if not self.is_trained:
            name = self.method.INFO.name
            raise ConfigError(
                f"{name} on {self.record.name} has random parameters, so its predictions would mean nothing: "
                "give checkpoint=FILE, or train it with "
                f"`zsad train --method {name} --backbone {self.record.name}`"
            )

    def _predict_stream(
        self, pictures: Iterator[tuple[Any, str | None]], batch_size: int
    ) -> Iterator[Prediction]:
        """Predictions of a stream of images; the next batch is read while one is scored."""
        batches = iter(lambda: list(itertools.islice(pictures, batch_size)), [])

        def read(pair: tuple[Any, str | None]) -> tuple[tuple[Path | None, Image.Image], str | None]:
            return self._read(pair[0]), pair[1]

        with contextlib.closing(read_ahead(read, batches)) as reading:
            for batch in reading:
                images, names = zip(*batch, strict=True)
                yield from self._predict_batch(images, names)

    @staticmethod
    def _read(source: Any) -> tuple[Path | None, Image.Image]:
        """An image and the file that it came from."""
        path = Path(source) if isinstance(source, (str, Path)) else None
        return path, read_image(source)

    def _stack(self, pictures: Sequence[Image.Image]) -> Tensor:
        """Images as the network takes them: (B, 3, S, S) float32 on the detector's device."""
        record = self.record
        arrays = [prepare(image, self.image_size, record.mean, record.std) for image in pictures]
        return torch.from_numpy(np.stack(arrays)).to(self.device)

    def _predict_batch(
        self, pictures: Sequence[tuple[Path | None, Image.Image]], names: Sequence[str | None]
    ) -> list[Prediction]:
        """Predictions for images that have been read."""
        raw = self._score(self._stack([image for _, image in pictures]), names)
        calibration = self.calibration
        scale = None if calibration is None else calibration.scale
        map_range = self.map_range
        predictions = []
        for (path, image), name, score, raw_map in zip(
            pictures, names, raw.scores.tolist(), raw.maps, strict=True
        ):
            resized = upsample(raw_map, (image.height, image.width))
            has_threshold = calibration is None or calibration.is_for(name or DEFAULT_CLASS)
            predictions.append(
                Prediction(
                    score=score,
                    anomaly_map=resized.cpu().numpy(),
                    image=to_array(image),
                    path=path,
                    threshold=self.threshold if has_threshold else None,
                    map_threshold=self.map_threshold if has_threshold else None,
                    map_range=map_range,
                    class_name=name if self.method.INFO.uses_class_names else None,
                    ranker=self._ranker,
                    score_scale=scale if has_threshold else None,
                )
            )
        return predictions

    @torch.inference_mode()
    def _score(self, images: Tensor, names: Sequence[str | None]) -> RawOutput:
        """Scores and maps of a batch, float32."""
        images = images.to(self.device)
        states = self._states  # one support for the whole batch, even if another thread replaces it
        state = states.prepared(names, self._stamp())
        raw = self.method.score(self.method.features(images), state)
        return states.compared(RawOutput(raw.scores.float(), raw.maps.float()), images, self.map_range)

    def _stamp(self) -> tuple[float, ...]:
        """Changes when what was learnt does, so that a training step outdates what was prepared before it."""
        sums = [parameter.detach().float().sum() for _, parameter in self.method.trainable()]
        return tuple(torch.stack(sums).tolist()) if sums else ()

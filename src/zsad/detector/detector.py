"""`Detector`, which `zsad.load` returns: prepares once, predicts many times.

A detector is a method on a backbone with everything fixed that a prediction depends on: weights, image size,
device, references and thresholds. It encodes the prompts of a class name once and keeps them.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, overload

import torch
from PIL import Image
from torch import Tensor

from zsad.backbones.devices import check_device
from zsad.detector import checkpoints
from zsad.detector.checkpoints import CheckpointInfo
from zsad.detector.class_names import Classes, class_names, with_class_names
from zsad.detector.decision import Decided, Decision
from zsad.detector.explanation import RegionRanker
from zsad.detector.identity import image_fingerprint, learned_versions, scoring_settings
from zsad.detector.inputs import (
    ImageInput,
    ReadImage,
    check_size,
    check_stream,
    check_tensors,
    holds_several,
    read,
    stack,
)
from zsad.detector.predictions import predictions
from zsad.detector.thresholds import Calibration, read_calibration
from zsad.errors import ConfigError, ZsadError
from zsad.files.plain import to_plain
from zsad.images.preparing import to_array
from zsad.images.reading import find_images
from zsad.methods import _registry as registry
from zsad.methods.base import DEFAULT_CLASS, Method
from zsad.types import Prediction, RawOutput, WeightRecord

MOST_AT_ONCE = 16
MOST_STATES_KEPT = 64
READING_THREADS = 4


class Detector(Decided):
    """A method on a backbone that scores images.

    Attributes:
        method: system that scores; training uses its `loss` and `trainable`.
        backbone: CLIP network of the method.
        record: weight record of the backbone.
        image_size: pixels a side that images are resized to.
        is_trained: whether the learnt parameters mean anything; True for a method that learns nothing.
        decision: thresholds and score scale of the predictions, with the calibration that they rest on.
        reference_fingerprints: fingerprints of the reference images, from `image_fingerprint`.
        auxiliary_data: description of the training data, which `save` writes into the checkpoint.
        auxiliary_pictures: digests of the training image files, from `zsad.data.fingerprints.pack_digests`,
            which `save` writes into the checkpoint; "" if they are not known.
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
        self.auxiliary_data = auxiliary_data
        self.auxiliary_pictures = auxiliary_pictures
        self.fingerprint = fingerprint
        self._ranker = RegionRanker(self.backbone, image_size)
        self._references: Tensor | None = None
        self._states: OrderedDict[tuple[Any, ...], Any] = OrderedDict()
        self._lock = threading.Lock()  # a server predicts from several threads

    @property
    def device(self) -> torch.device:
        """Device that the network is on."""
        return self.backbone.text_projection.device

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
        with self._lock:
            self.method.to(place)
            self._references = None if self._references is None else self._references.to(place)
            self._states.clear()
        return self

    def __getstate__(self) -> dict[str, Any]:
        """All attributes except those that each process makes for itself."""
        own = ("_lock", "_states", "_ranker")
        return {name: value for name, value in vars(self).items() if name not in own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _lock=threading.Lock(), _states=OrderedDict())
        self._ranker = RegionRanker(self.backbone, self.image_size)

    @property
    def map_range(self) -> tuple[float, float]:
        """Smallest and largest value that a map can take, with the references as they are now."""
        return self.method.map_range if self._references is None else self.method.few_shot_map_range

    @overload
    def predict(
        self, inputs: ImageInput, classes: Classes = None, batch_size: int | None = None
    ) -> Prediction: ...

    @overload
    def predict(
        self, inputs: list[Any] | tuple[Any, ...], classes: Classes = None, batch_size: int | None = None
    ) -> list[Prediction]: ...

    def predict(
        self,
        inputs: ImageInput | list[Any] | tuple[Any, ...],
        classes: Classes = None,
        batch_size: int | None = None,
    ) -> Prediction | list[Prediction]:
        """Scores one image or several.

        Args:
            inputs: an image (path, open file, PIL image, uint8 HWC array, float CHW tensor in [0, 1]), or a
                list, a tuple or a four-dimensional array of them.
            classes: class names: one for all images, or one per image; None for the class name of the
                calibration if it has one, or "object".
            batch_size: number of images that go through the network at once; None for all, at most 16.

        Returns:
            A `Prediction` for one image, a list of predictions for several.

        Raises:
            ImageReadError: an image cannot be read.
            ConfigError: names and images differ in number, or the method has not been trained.
        """
        if holds_several(inputs):
            whole = max(1, len(inputs))
            if batch_size is None:
                batch_size = whole if self.scores_jointly else min(whole, MOST_AT_ONCE)
            return list(self.predict_iter(inputs, batch_size, classes))
        self._check_trained()
        return self._predict_batch([read(inputs)], class_names(self._classes(classes), 1))[0]

    def predict_iter(
        self, source: str | Path | Iterable[Any], batch_size: int = 8, classes: Classes = None
    ) -> Iterator[Prediction]:
        """Scores a stream of images, and reads the next batch while the network works.

        Args:
            source: a folder, a glob pattern, or an iterable of images as `predict` takes them.
            batch_size: number of images that go through the network at once.
            classes: class names, as `predict` takes them.

        Yields:
            Predictions in the order of the images.

        Raises:
            ImageReadError: an image cannot be read; all earlier batches have been yielded by then.
            DataError: the folder or pattern holds no image.
            ConfigError: names and images differ in number, the batch size is impossible, or the method has
                not been trained.
        """
        check_stream(source, batch_size)
        self._check_trained()
        images: Iterable[Any] = find_images(source) if isinstance(source, (str, Path)) else source
        return self._predict_stream(with_class_names(images, self._classes(classes)), batch_size)

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
        return self._score(images, class_names(self._classes(classes), len(images)))

    def set_references(self, references: Sequence[Any] | None) -> None:
        """Gives normal images to a few-shot method.

        Args:
            references: images as `predict` takes them, all of one class; None or an empty list goes back to
                zero-shot scoring. They are not written into checkpoints. A calibration made with other
                references is taken off.

        Raises:
            ConfigError: the method cannot use references.
            ImageReadError: one cannot be read.
        """
        if references and not self.method.INFO.accepts_references:
            able = [
                name
                for name in registry.list_methods()
                if registry.method_class(name).INFO.accepts_references
            ]
            raise ConfigError(
                f"{self.method.INFO.name} takes no reference images; methods that do: {', '.join(able)}"
            )
        images = [read(item)[1] for item in references or ()]
        pictures = self._stack(images) if images else None
        with self._lock:
            self._references = pictures
            self._states.clear()
        self.reference_fingerprints = tuple(image_fingerprint(to_array(image)) for image in images)
        if self.calibration is not None:
            self.apply_calibration(None)

    def set_companions(self, pictures: Sequence[Any] | None) -> list[int]:
        """Gives a method that scores images together some of them, so that it can score one by one.

        Args:
            pictures: as `predict` takes them, unlabelled, of the folder that is going to be scored; None or
                an empty list: the images of a batch are each other's companions again. An image that
                cannot be read is passed over.

        Returns:
            The places in the list of those that could be read.

        Raises:
            ConfigError: the method takes no companions.
        """
        if pictures and not self.method.MOST_COMPANIONS:
            raise ConfigError(f"{self.method.INFO.name} takes no companions; auto does")
        prepared: dict[int, Tensor] = {}
        for place, item in enumerate(pictures or ()):  # one at a time, since files may be very large
            with contextlib.suppress(ZsadError, OSError, MemoryError):
                prepared[place] = self._stack([read(item)[1]])
        with self._lock:
            self._references = torch.cat(list(prepared.values())) if prepared else None
            self._states.clear()
        return list(prepared)

    @property
    def scores_jointly(self) -> bool:
        """Whether images have to be scored all at once, since each one's score depends on the others."""
        if self._references is None:
            return self.method.INFO.scores_batch_jointly
        return self.method.few_shot_scores_jointly

    @property
    def about_companions(self) -> str:
        """A line on what the companions do to the scores; empty without companions."""
        if self._references is None or not self.method.MOST_COMPANIONS:
            return ""
        with torch.inference_mode():
            return self.method.about_companions(self._state([None]))

    def apply_calibration(self, calibration: Calibration | str | Path | None) -> Detector:
        """Gives predictions the thresholds and the score scale of a calibration.

        If the method uses class names, predictions for other class names keep a threshold of None.

        Args:
            calibration: calibration from `zsad.detector.calibration.calibrating.calibrate`, or its file;
                None removes thresholds and score scale.

        Returns:
            This detector.

        Raises:
            ConfigError: the calibration was made with other weights, settings or references, which the
                message names, or its file does not exist.
            DataError: the file is no calibration, or is damaged.
        """
        if isinstance(calibration, str | Path):
            calibration = read_calibration(calibration)
        if calibration is not None:
            calibration.check_fits(self.scoring_settings())
        self.decision = Decision.from_calibration(calibration)
        return self

    def scoring_settings(self) -> dict[str, Any]:
        """Everything that the scores depend on, from `zsad.detector.identity.scoring_settings`."""
        return scoring_settings(self.method, self.image_size, self.fingerprint, self.reference_fingerprints)

    def save(self, path: str | Path) -> Path:
        """Writes what was learnt and all that `zsad.load(checkpoint=path)` needs, except backbone weights.

        A calibration that was made before the weights changed is left out, with its thresholds.

        Args:
            path: file to write, ".safetensors" by custom; an older file is replaced in one step.

        Returns:
            Path of the file.

        Raises:
            WeightsError: the file cannot be written.
        """
        decision = self.decision.valid_for(self.scoring_settings())
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
        )
        checkpoints.write(path, self.method.learned_state(), info)
        return Path(path)

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

    def _check_trained(self) -> None:
        if not self.is_trained:
            name = self.method.INFO.name
            raise ConfigError(
                f"{name} on {self.record.name} has random parameters, so its predictions would mean nothing: "
                "give checkpoint=FILE, or train it with "
                f"`zsad train --method {name} --backbone {self.record.name}`"
            )

    def _predict_stream(
        self, images: Iterator[tuple[Any, str | None]], batch_size: int
    ) -> Iterator[Prediction]:
        """Batches of images through the network; the next batch is read meanwhile, and no more."""
        pool = ThreadPoolExecutor(READING_THREADS, thread_name_prefix="zsad-read")
        try:
            waiting: list[tuple[Future[tuple[Path | None, Image.Image]], str | None]] = []
            while True:
                batch = list(itertools.islice(images, batch_size))
                coming = [(pool.submit(read, item), name) for item, name in batch]
                if waiting:
                    yield from self._predict_batch(
                        [future.result() for future, _ in waiting], [name for _, name in waiting]
                    )
                if not batch:
                    return
                waiting = coming
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _stack(self, images: Sequence[Image.Image]) -> Tensor:
        """Images as the network takes them: (B, 3, S, S) float32 on the detector's device."""
        return stack(images, self.image_size, self.record).to(self.device)

    def _predict_batch(self, images: Sequence[ReadImage], names: Sequence[str | None]) -> list[Prediction]:
        """Predictions for images that have been read."""
        return predictions(
            images,
            names,
            self._score(self._stack([image for _, image in images]), names),
            decision=self.decision,
            map_range=self.map_range,
            keeps_names=self.method.INFO.uses_class_names,
            ranker=self._ranker,
        )

    @torch.inference_mode()
    def _score(self, images: Tensor, names: Sequence[str | None]) -> RawOutput:
        """Scores and maps of a batch, float32."""
        features = self.method.features(images.to(self.device))
        raw = self.method.score(features, self._state(names))
        return RawOutput(raw.scores.float(), raw.maps.float())

    def _state(self, names: Sequence[str | None]) -> Any:
        """The method's state for the class names of a batch, from memory if it was asked for before."""
        classes = tuple(name or DEFAULT_CLASS for name in names)
        if not self.method.INFO.uses_class_names:
            classes = (DEFAULT_CLASS,)
        elif len(set(classes)) == 1:
            classes = classes[:1]
        key = (classes, learned_versions(self.method))
        with self._lock:
            if key not in self._states:
                self._states[key] = self.method.prepare(classes, self._references)
            self._states.move_to_end(key)
            state = self._states[key]
            while len(self._states) > MOST_STATES_KEPT:
                self._states.popitem(last=False)
        return state

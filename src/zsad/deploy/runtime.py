"""Runs an exported bundle with NumPy, Pillow and ONNX Runtime or OpenVINO; no torch.

`load_exported` opens the folder that `zsad export` wrote. What it returns predicts as the `zsad.Detector`
that was exported does: the same images, tiles, region of interest and thresholds give the same `Prediction`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, overload

import numpy as np

from zsad.deploy.bundle import Bundle, read_bundle, region_of
from zsad.deploy.decided import DecidedByBundle
from zsad.deploy.sessions import Engine, NetworkAnswers, OpenGraphs
from zsad.errors import ConfigError, printable
from zsad.files.settings import one_or_more
from zsad.images.class_names import Classes, class_names, with_class_names
from zsad.images.finding import find_and_tell
from zsad.images.limits import Bits, common_depth
from zsad.images.looking import look
from zsad.images.preparing import Preparation, prepare_batch, to_array
from zsad.images.reading import depth_of
from zsad.images.streams import (
    ImageSource,
    OnError,
    ReadImage,
    check_stream,
    holds_several,
    read,
    read_batches,
    scored_stream,
)
from zsad.images.tile_scoring import TILES_AT_ONCE, Cutting, score_images
from zsad.images.tiles import Tile, enlarged, setting_of
from zsad.types import Prediction

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image

    from zsad.images.names import Pages
    from zsad.images.region import Region

MOST_AT_ONCE = 16

SelfT = TypeVar("SelfT", bound="ExportedDetector")


def load_exported(
    folder: str | Path, *, threads: int | None = None, providers: str | Sequence[str] | None = None
) -> ExportedDetector:
    """Opens an exported bundle.

    Args:
        folder: folder that `zsad export --out` wrote.
        threads: threads that one call uses; None for one for each core.
        providers: what runs the graphs, best first: "cpu", "cuda", "tensorrt" and others for ONNX Runtime,
            "cpu", "gpu", "npu" and "auto" for OpenVINO. None: the GPU if `onnxruntime-gpu` finds one, or else
            the CPU.

    Returns:
        What predicts as the detector that was exported does.

    Raises:
        ConfigError: the folder is no bundle, or a provider is unknown or not there.
        DataError: the bundle is damaged or comes from a newer zsad.
        MissingExtraError: ONNX Runtime or OpenVINO is not installed.

    Example:
        zsad.load_exported("line3-onnx").predict("part.png").is_anomalous
    """
    place = Path(folder).expanduser()
    return ExportedDetector(read_bundle(place), place, Engine(threads, one_or_more(providers)))


class ExportedDetector(DecidedByBundle):
    """A detector that left Python: scores images by the graphs of a bundle. Threads may share it.

    Attributes:
        bundle: what the folder holds.
        folder: folder of the bundle.
        image_size: side of the square network input, in pixels.
        bits: depth of the values in 16-bit files, of all images; None for what each file states.
        tile: how large images are cut into tiles; None for whole images.
        roi: region of interest; None for whole images.
        score_scale: scale of relative scores and p-values; None without a calibration.
        calibration: what the thresholds rest on, as `zsad.Calibration.to_dict` gives it; None without one.
        scores_jointly: False, because an exported detector scores each image by itself.
    """

    scores_jointly = False

    def __init__(self, bundle: Bundle, folder: Path, engine: Engine) -> None:
        super().__init__(bundle)
        self.folder = folder
        self.image_size = int(bundle.image_size)
        self.bits = bundle.bits
        self.tile: Tile = setting_of(bundle.tile)
        self.roi: Region | None = region_of(bundle, folder)
        self._graphs = OpenGraphs(bundle, folder, engine)

    def __getstate__(self) -> dict[str, Any]:
        """All attributes, but the graphs only by their files, which a process opens for itself."""
        return {**vars(self), "_graphs": self._graphs.engine}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._graphs = OpenGraphs(self.bundle, self.folder, state["_graphs"])

    @property
    def method_name(self) -> str:
        """Registry name of the method."""
        return self.bundle.method

    @property
    def backbone_name(self) -> str:
        """Name of the CLIP network."""
        return self.bundle.backbone

    @property
    def map_range(self) -> tuple[float, float]:
        """Smallest and largest value that a map can take."""
        return self.bundle.map_range

    @property
    def preparation(self) -> Preparation:
        """How images become the graphs' input."""
        return self.bundle.preparation

    def scoring_settings(self) -> dict[str, Any]:
        """Everything that the scores depend on: that of the detector, the runner and its precision."""
        bundle = self.bundle
        own = {"bits": self.bits, "tile": self.tile, "runner": bundle.runner, "exported_as": bundle.precision}
        return {**bundle.settings, **own}

    @overload
    def predict(
        self,
        inputs: ImageSource,
        classes: Classes = None,
        batch_size: int | None = None,
        *,
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
        bits: Bits = None,
        tile: Tile = None,
    ) -> list[Prediction]: ...

    def predict(
        self,
        inputs: ImageSource | list[Any] | tuple[Any, ...],
        classes: Classes = None,
        batch_size: int | None = None,
        *,
        bits: Bits = None,
        tile: Tile = None,
    ) -> Prediction | list[Prediction]:
        """Scores one image or several, as `zsad.Detector.predict` does.

        Args:
            inputs: an image (path, open file, PIL image, uint8 HWC array, float CHW array in [0, 1]), or a
                list, a tuple or a four-dimensional array of them.
            classes: class names, which have to be the one that the bundle was exported for; None for it.
            batch_size: number of images that go through the graph at once; None for all, at most 16.
            bits: depth of 16-bit files, as `at_depth` takes it; "auto" finds one for all these images.
            tile: how large images are cut into tiles, as `with_tile` takes it.

        Returns:
            A `Prediction` for one image, a list of predictions for several.

        Raises:
            ImageReadError: an image cannot be read.
            ConfigError: the bundle is for another class name, or was made with another depth or tile setting.
        """
        if bits is not None or tile is not None:
            depth = depth_of(bits, inputs if holds_several(inputs) else [inputs])
            return self.at_depth(depth).with_tile(tile).predict(inputs, classes, batch_size)
        if holds_several(inputs):
            whole = min(max(1, len(inputs)), MOST_AT_ONCE)
            return list(self.predict_iter(inputs, whole if batch_size is None else batch_size, classes))
        names = class_names(classes, 1)
        image = read(inputs, self.roi, self.bits, for_tiles=self.tile is not None)
        return self._predict_batch([image], names)[0]

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
        """Scores a stream of images, and reads the next batch while the graph works.

        Args:
            source: a folder, a glob pattern, or an iterable of images as `predict` takes them.
            batch_size: number of images that go through the graph at once.
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
        are_named = isinstance(source, (str, Path))
        images: Iterable[Any] = (
            find_and_tell(source, include_results=include_results, pages=pages)
            if isinstance(source, (str, Path))
            else source
        )
        reader = self.at_depth(depth_of(bits, images)).with_tile(tile)
        batches = read_batches(
            with_class_names(images, classes),
            batch_size,
            bits=reader.bits,
            for_tiles=reader.tile is not None,
            are_named=are_named,
            roi=self.roi,
        )
        return scored_stream(batches, reader._predict_batch, on_error)

    def at_depth(self: SelfT, bits: Bits) -> SelfT:
        """This object, or a copy on the same graphs that reads 16-bit files at another depth.

        Args:
            bits: depth of the values, 1 to 16; None keeps the depth.

        Raises:
            ConfigError: the depth is impossible, or references, companions or thresholds come from images
                that were read at another one.
        """
        if bits is None or (depth := common_depth(bits)) == self.bits:
            return self
        self._check_free(f"bits={depth}", f"a depth of {self.bits or 'what the files state'}")
        other = copy.copy(self)
        other.bits = depth
        return other

    def with_tile(self: SelfT, tile: Tile) -> SelfT:
        """This object, or a copy on the same graphs that cuts large images otherwise.

        Args:
            tile: side of the tiles in pixels; "auto" cuts large and long images only; "none" cuts none; None
                keeps the setting.

        Raises:
            ConfigError: the setting is impossible, or references, companions or thresholds come from images
                that were cut otherwise.
        """
        if tile is None or (setting := setting_of(tile)) == self.tile:
            return self
        self._check_free(f"tile={tile}", f"tile={self.tile or 'none'}")
        other = copy.copy(self)
        other.tile = setting
        return other

    def _predict_batch(self, images: Sequence[ReadImage], names: Sequence[str | None]) -> list[Prediction]:
        """Predictions for images that have been read."""
        self.check_names(names)
        return look(images, self.roi, self._predictions)

    def _predictions(self, images: Sequence[ReadImage]) -> list[Prediction]:
        """Predictions for images that have been cut to the region of interest."""
        at_once = min(TILES_AT_ONCE, self.bundle.most_at_once)
        cutting = Cutting(self.tile, self.image_size)
        whole = [image for _, image in images]
        answers = score_images(whole, [None] * len(whole), self._score, _resized, cutting, at_once)
        return [
            Prediction(
                score=answer.score,
                anomaly_map=answer.anomaly_map,
                image=to_array(image),
                path=path,
                threshold=self.threshold,
                map_threshold=self.map_threshold,
                map_range=self.map_range,
                class_name=self.bundle.class_name,
                score_scale=self.score_scale,
                tile=answer.tile,
                notes=self.bundle.notes,
            )
            for (path, image), answer in zip(images, answers, strict=True)
        ]

    def _score(self, images: Iterable[Image.Image], _: Sequence[str | None], is_tile: bool) -> NetworkAnswers:
        """Scores and maps of images or tiles."""
        session, most = self._graphs.session(is_tile), self.bundle.most_at_once
        batch = prepare_batch(images, self.preparation)
        parts = [session(batch[start : start + most]) for start in range(0, len(batch), most)]
        return NetworkAnswers(
            np.concatenate([part.scores for part in parts]), np.concatenate([part.maps for part in parts])
        )

    def _check_free(self, wanted: str, made_with: str) -> None:
        """Refuses another setting for images where something in the bundle was made with the present one.

        Raises:
            ConfigError: the message says what.
        """
        bundle = self.bundle
        if bundle.references or bundle.companions:
            what = "the references" if bundle.references else "the companions"
        elif self.calibration is not None:
            what = "the thresholds"
        else:
            return
        raise ConfigError(
            f"{what} in {printable(self.folder)} were made with {made_with}, got {wanted}: leave it out, or "
            "export a detector that was loaded with it"
        )


def _resized(maps: NDArray[np.float32], size: tuple[int, int] | None) -> NDArray[np.float32]:
    return maps if size is None else enlarged(maps, size)

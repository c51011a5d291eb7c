"""Runs an exported bundle with NumPy, Pillow and ONNX Runtime or OpenVINO; no torch.

`load_exported` opens the folder that `zsad export` wrote. What it returns predicts as the `zsad.Detector`
that was exported does: the same images, tiles, region of interest and thresholds give the same `Prediction`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from zsad.deploy.bundle import Bundle, read_bundle, region_of
from zsad.deploy.sessions import Engine, NetworkAnswers, OpenGraphs
from zsad.detector.decision import Decision
from zsad.detector.predicting import Predicts, prediction_of
from zsad.errors import ConfigError, printable
from zsad.files.settings import one_or_more
from zsad.images.looking import Looking, look
from zsad.images.preparing import prepare_batch
from zsad.images.tile_scoring import TILES_AT_ONCE, score_images
from zsad.images.tiles import Tile, enlarged, setting_of

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image

    from zsad.images.class_names import Classes
    from zsad.images.limits import Bits
    from zsad.images.streams import ImageSource, ReadImage
    from zsad.types import Prediction, ScoreScale


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


class ExportedDetector(Predicts[Mapping[str, Any]]):
    """A detector that left Python: scores images by the graphs of a bundle. Threads may share it.

    Attributes:
        bundle: what the folder holds.
        folder: folder of the bundle.
        looking: how images are read, cut and prepared.
        decision: thresholds and score scale; its calibration is what `zsad.Calibration.to_dict` gives.
    """

    def __init__(self, bundle: Bundle, folder: Path, engine: Engine) -> None:
        self.bundle = bundle
        self.folder = folder
        self.looking = Looking(bundle.preparation, setting_of(bundle.tile), region_of(bundle, folder))
        self.decision = Decision(
            bundle.threshold,
            bundle.map_threshold,
            bundle.score_scale,
            bundle.calibration,
            bundle.decision_class_name,
        ).for_class(bundle.class_name)
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
    def score_scale(self) -> ScoreScale | None:
        """Scale of relative scores and p-values; None without a calibration."""
        return self.decision.scale

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
        return self._predicted(inputs, classes, batch_size, bits, tile)

    def check_names(self, names: Iterable[str | None]) -> None:
        """Refuses class names that are not part of the graphs.

        Raises:
            ConfigError: the message holds both names.
        """
        known = self.bundle.class_name
        other = next((name for name in names if name not in (None, known)), None)
        if self.bundle.uses_class_names and other is not None:
            raise ConfigError(
                f"this bundle scores images of {known!r}, got the class name {other!r}: export the detector "
                "for it, or leave the name out"
            )

    def _predict_batch(self, images: Sequence[ReadImage], names: Sequence[str | None]) -> list[Prediction]:
        self.check_names(names)
        return look(images, self.roi, self._predictions)

    def _predictions(self, images: Sequence[ReadImage]) -> list[Prediction]:
        """Predictions for images that have been cut to the region of interest."""
        at_once = min(TILES_AT_ONCE, self.bundle.most_at_once)
        whole = [image for _, image in images]
        answers = score_images(
            whole, [None] * len(whole), self._score, _resized, self.looking.cutting, at_once
        )
        return [
            prediction_of(
                image,
                answer,
                self.decision,
                self.map_range,
                class_name=self.bundle.class_name,
                notes=self.bundle.notes,
            )
            for image, answer in zip(images, answers, strict=True)
        ]

    def _score(self, images: Iterable[Image.Image], _: Sequence[str | None], is_tile: bool) -> NetworkAnswers:
        """Scores and maps of images or tiles."""
        session, most = self._graphs.session(is_tile), self.bundle.most_at_once
        batch = prepare_batch(images, self.preparation)
        parts = [session(batch[start : start + most]) for start in range(0, len(batch), most)]
        return NetworkAnswers(
            np.concatenate([part.scores for part in parts]), np.concatenate([part.maps for part in parts])
        )

    def _check_class(self, class_name: str | None) -> None:
        self.check_names([class_name])

    def _adapt(self, before: Looking) -> None:
        bundle = self.bundle
        if bundle.references or bundle.companions:
            what = "the references" if bundle.references else "the companions"
        elif self.calibration is not None:
            what = "the thresholds"
        else:
            return
        if self.bits != before.bits:
            wanted, known = f"bits={self.bits}", f"a depth of {before.bits or 'what the files state'}"
        else:
            wanted, known = f"tile={self.tile or 'none'}", f"tile={before.tile or 'none'}"
        raise ConfigError(
            f"{what} in {printable(self.folder)} were made with {known}, got {wanted}: leave it out, or "
            "export a detector that was loaded with it"
        )


def _resized(maps: NDArray[np.float32], size: tuple[int, int] | None) -> NDArray[np.float32]:
    return maps if size is None else enlarged(maps, size)

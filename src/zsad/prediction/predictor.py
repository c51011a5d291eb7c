"""What a run needs of whatever scores its images: a `zsad.Detector`, or one that was exported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeGuard, TypeVar

from zsad.detector.scorer import Scorer
from zsad.errors import ConfigError

if TYPE_CHECKING:
    from zsad.detector.detector import Detector
    from zsad.detector.thresholds import Calibration
    from zsad.images.limits import Bits
    from zsad.images.tiles import Tile
    from zsad.prediction.options import PredictOptions

SelfT = TypeVar("SelfT")


class Predictor(Scorer, Protocol):
    """What a run needs beyond scores; `zsad.Detector` and `zsad.deploy.ExportedDetector` have it."""

    @property
    def image_size(self) -> int:
        """Side of the square network input, in pixels."""

    @property
    def method_name(self) -> str:
        """Registry name of the method."""

    @property
    def backbone_name(self) -> str:
        """Name of the CLIP network."""

    @property
    def map_range(self) -> tuple[float, float]:
        """Smallest and largest value that a map can take."""

    @property
    def threshold(self) -> float | None:
        """Image score from which on an image counts as anomalous."""

    @property
    def map_threshold(self) -> float | None:
        """Map value from which on a pixel counts as anomalous."""

    @property
    def calibration(self) -> Any:
        """A `Calibration`, its values as a mapping, or None."""

    def at_depth(self: SelfT, bits: Bits) -> SelfT:
        """The same, but reading 16-bit files at another depth."""

    def with_tile(self: SelfT, tile: Tile) -> SelfT:
        """The same, but cutting large images otherwise."""

    def deciding(
        self: SelfT, class_name: str | None, threshold: float | None, map_threshold: float | None
    ) -> SelfT:
        """The same, but with other thresholds where they are given."""


def is_predictor(given: object) -> TypeGuard[Predictor]:
    """Whether it scores images, and does not load what does."""
    return hasattr(given, "predict")


def is_detector(given: object) -> TypeGuard[Detector]:
    """Whether it is a detector with its method and network, and not one that was exported."""
    return is_predictor(given) and hasattr(given, "method")


def check_exported(options: PredictOptions) -> None:
    """Refuses options that need the network, for a detector that was exported.

    Raises:
        ConfigError: the message names the option.
    """
    given = {
        "roi": options.roi is not None,
        "explain": options.explain is not None,
        "engine": options.engine != "local",
        "devices": options.devices != 1,
        "device": options.device is not None,
    }
    name = next((name for name, is_given in given.items() if is_given), None)
    if name is not None:
        raise ConfigError(
            f"{name} is for detectors with their network in PyTorch: leave it out, or predict with the "
            "detector that was exported"
        )


def calibration_of(predictor: Predictor) -> Calibration | None:
    """What the thresholds rest on; a bundle holds it as plain values.

    Raises:
        DataError: the values in a bundle are damaged.
    """
    found: Any = predictor.calibration
    if isinstance(found, Mapping):
        from zsad.detector.thresholds import Calibration

        return Calibration.from_dict(found)
    calibration: Calibration | None = found
    return calibration


def promise_lines(predictor: Predictor) -> Sequence[str]:
    """What the thresholds of a bundle promise, in the sentences that were exported; empty for a detector."""
    bundle = getattr(predictor, "bundle", None)
    return bundle.promise.lines if bundle is not None and bundle.promise is not None else ()

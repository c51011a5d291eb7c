"""`Calibration`: a threshold, how it was chosen, what it promises, and the detector that it belongs to.

A calibration is written into a small JSON file of its own or into the description of a checkpoint. It refuses
a detector that scores differently from the detector that it was made with.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from zsad._version import __version__
from zsad.detector.calibration.options import Aim
from zsad.detector.decision import Decision
from zsad.detector.identity import image_fingerprint
from zsad.errors import ConfigError, DataError
from zsad.files.json_text import read_json
from zsad.files.plain import from_plain, to_plain, write_json
from zsad.types import ScoreScale

MapRule = Literal["rate", "f1"]

NO_CALIBRATION = "none"
FORMAT = 2
_FORMAT_KEY = "zsad_calibration"


@dataclass(frozen=True, kw_only=True)
class Calibration(Aim):
    """A threshold for one detector and one kind of image, with the aim that it was chosen for.

    Attributes:
        threshold: image score from which on an image counts as anomalous.
        map_rule: how `map_threshold` was chosen: by false-alarm "rate", or by "f1" of the pixels.
        map_threshold: map value from which on a pixel counts as anomalous.
        normal_scores: scores of the normal calibration images in rising order, each image once.
        anomalous_scores: scores of the anomalous calibration images in rising order; may be empty.
        class_name: class name of the images; None if the method uses no class names.
        settings: everything that the detector's scores depend on, from `scoring_settings`.
        pictures: fingerprints of all calibration images, from `image_fingerprint`.
        left_out: number of images that were left out of the references together to score each of them; 0 for
            images that are no references.
        warnings: sentences on the limits of the calibration.
        created: date, YYYY-MM-DD.
        version: version of zsad that made the calibration.
    """

    threshold: float
    map_rule: MapRule
    map_threshold: float
    normal_scores: tuple[float, ...] = field(repr=False)
    anomalous_scores: tuple[float, ...] = field(default=(), repr=False)
    class_name: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict, repr=False)
    pictures: tuple[str, ...] = field(default=(), repr=False)
    left_out: int = 0
    warnings: tuple[str, ...] = field(default=(), repr=False)
    created: str = ""
    version: str = __version__

    def __post_init__(self) -> None:
        super().__post_init__()
        numbers = (self.threshold, self.map_threshold, *self.normal_scores, *self.anomalous_scores)
        if not all(isinstance(number, int | float) and math.isfinite(number) for number in numbers):
            raise DataError("a calibration's scores and thresholds must be finite numbers")
        if not self.normal_scores:
            raise DataError("a calibration holds the scores of at least one normal image")
        for name, scores in (("normal", self.normal_scores), ("anomalous", self.anomalous_scores)):
            if any(lower > upper for lower, upper in itertools.pairwise(scores)):
                raise DataError(f"{name}_scores of a calibration must be in rising order")
        if not isinstance(self.settings.get("config", {}), Mapping):
            raise DataError("settings.config of a calibration must be a mapping of names to values")

    @property
    def scale(self) -> ScoreScale:
        """Scale for relative scores and p-values.

        Its distance is the distance from the median normal score to the threshold. Where labels put the
        threshold below the median, it is the range of all calibration scores.
        """
        distance = self.threshold - float(np.median(self.normal_scores))
        if distance <= 0:
            scores = self.normal_scores + self.anomalous_scores
            distance = max(scores) - min(scores) or 1.0
        return ScoreScale(distance, self.normal_scores)

    @property
    def decision(self) -> Decision[Calibration]:
        """The thresholds and the score scale, for images of the class name."""
        return Decision(self.threshold, self.map_threshold, self.scale, self, self.class_name)

    @property
    def false_alarms(self) -> int:
        """Normal calibration images at or above the threshold."""
        return sum(score >= self.threshold for score in self.normal_scores)

    @property
    def missed(self) -> int:
        """Anomalous calibration images below the threshold."""
        return sum(score < self.threshold for score in self.anomalous_scores)

    def saw(self, pixels: NDArray[np.uint8]) -> bool:
        """Whether an image is a calibration image; its verdict then says nothing about new images.

        Args:
            pixels: (H, W, 3) uint8 RGB, such as `Prediction.image`.
        """
        return image_fingerprint(pixels) in self._seen()

    def overlap(self, fingerprints: set[str]) -> set[str]:
        """The fingerprints that belong to calibration images."""
        return fingerprints & self._seen()

    def fits(self, settings: Mapping[str, Any]) -> bool:
        """Whether a detector with these settings scores like the detector of the calibration."""
        there = _flat(settings)
        return all(own == there.get(name) for name, own in _flat(self.settings).items())

    def check_fits(self, settings: Mapping[str, Any]) -> None:
        """Refuses a detector that scores differently from the detector that the calibration was made with.

        Args:
            settings: settings of the detector, from `scoring_settings`.

        Raises:
            ConfigError: a setting differs; the message names the first one, with both values.
        """
        there = _flat(settings)
        for name, own in _flat(self.settings).items():
            if own != there.get(name):
                raise ConfigError(
                    f"the calibration was made with {_WORDING.get(name, name)} {_short(own)}, and this "
                    f"detector has {_short(there.get(name))}: use the same{_option(name)}, run zsad fit or "
                    f'calibrate again, or continue without a calibration (calibration="{NO_CALIBRATION}")'
                )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values by attribute name."""
        return {_FORMAT_KEY: FORMAT, **to_plain(self)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str = "the calibration") -> Calibration:
        """The calibration from the values that `to_dict` gave.

        Args:
            values: plain JSON values by name.
            where: source of the values, for messages.

        Raises:
            DataError: the values are no calibration, are damaged, or come from a newer zsad.
        """
        known = dict(values)
        written_as = known.pop(_FORMAT_KEY, None)
        if not isinstance(written_as, int) or isinstance(written_as, bool) or written_as < 1:
            raise DataError(f"{where} is not a calibration of zsad: make it with zsad calibrate")
        if written_as > FORMAT:
            raise DataError(
                f"{where} was written by zsad {known.get('version', '?')}, which is newer than this "
                f"{__version__}: pip install --upgrade zsad"
            )
        try:
            return from_plain(cls, known, where)
        except DataError as error:
            raise DataError(f"{error}; make the calibration again with zsad calibrate") from error

    def _seen(self) -> frozenset[str]:
        return frozenset(self.pictures)


def still_valid(decision: Decision[Calibration], settings: Mapping[str, Any]) -> Decision[Calibration]:
    """A decision, or none where its calibration was made with scores of other settings.

    Args:
        decision: thresholds with their calibration, if they have one.
        settings: what the scores depend on, from `zsad.detector.identity.scoring_settings`.
    """
    is_stale = decision.calibration is not None and not decision.calibration.fits(settings)
    return Decision() if is_stale else decision


def read_calibration(path: str | Path) -> Calibration:
    """Reads a calibration file, or the calibration in a checkpoint of zsad.

    Args:
        path: calibration file (".json") or checkpoint (".safetensors").

    Raises:
        ConfigError: the file does not exist.
        DataError: the file is no calibration, is damaged or comes from a newer zsad, or the checkpoint holds
            no calibration.
        OSError: the file cannot be read.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise ConfigError(f"{path}: no such file; make a calibration with zsad calibrate")
    if path.suffix == ".safetensors":
        from zsad.detector.checkpoints import read

        info = read(path).info
        if info is None or info.calibration is None:
            raise DataError(f"{path} holds no calibration: make one with zsad calibrate")
        return Calibration.from_dict(info.calibration, str(path))
    try:
        values = read_json(path)
    except DataError as error:
        raise DataError(f"{error}: not a calibration of zsad, make it with zsad calibrate") from error
    return Calibration.from_dict(values, str(path))


def write_calibration(calibration: Calibration, path: str | Path) -> Path:
    """Writes a calibration as JSON, whole or not at all.

    Raises:
        OSError: the file cannot be written.
    """
    path = Path(path).expanduser()
    write_json(path, calibration.to_dict())
    return path


_WORDING = {
    "bits": "bits of 16-bit files",
    "image_size": "image size",
    "reference_rule": "edition of the rule for references",
    "references": "the reference images",
    "tile": "tile",
    "roi": "the region of interest",
    "weights": "the weights (backbone, checkpoint) of digest",
}


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with those of the method beside the others; without a tile setting, images were whole."""
    return {
        "tile": None,
        "roi": None,  # left out for whole images
        "reference_rule": 1,  # left out before the second edition, and without references
        **{name: value for name, value in settings.items() if name != "config"},
        **settings.get("config", {}),
    }


def _option(name: str) -> str:
    """How a user says a setting on the command line; "" for one that has no option of its own."""
    options = {"bits": "--bits", "image_size": "--image-size", "tile": "--tile", "roi": "--roi"}
    return f" ({options[name]})" if name in options else ""


def _short(value: Any) -> str:
    if isinstance(value, list) and len(value) > 3:
        return f"{len(value)} values beginning with {value[0]!r}"
    return "none" if value in (None, []) else repr(value)

"""`Calibration`: a threshold, how it came about, what it promises, and what it belongs to.

It is written as a small JSON file of its own or into the description of a checkpoint, and refuses a detector
that would score differently from the one that it was made with.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from zsad._version import __version__
from zsad.detector.calibration.options import Aim
from zsad.detector.identity import image_fingerprint
from zsad.errors import ConfigError, DataError, unknown_name
from zsad.files.atomic import atomic_file
from zsad.types import ScoreScale

MapRule = Literal["rate", "f1"]

NO_CALIBRATION = "none"
FORMAT = 1
_FORMAT_KEY = "zsad_calibration"


@dataclass(frozen=True, kw_only=True)
class Calibration(Aim):
    """A threshold for one detector and one kind of image, with the aim that it was chosen for.

    Attributes:
        threshold: image score from which on an image counts as anomalous.
        map_rule: how `map_threshold` was chosen: by false-alarm "rate", or by "f1" of the pixels.
        map_threshold: map value from which on a pixel counts as anomalous.
        normal_scores: of the normal calibration images, rising; each image once.
        anomalous_scores: of the anomalous ones, rising; empty if none were given.
        class_name: what the images show, as prompts read it; None: the method uses no class names.
        settings: what the detector's scores depend on, as `scoring_settings` gives it.
        pictures: fingerprints of all calibration images, as `image_fingerprint` gives them.
        warnings: sentences about what to be careful with.
        created: date, YYYY-MM-DD.
        version: of zsad.
    """

    threshold: float
    map_rule: MapRule
    map_threshold: float
    normal_scores: tuple[float, ...] = field(repr=False)
    anomalous_scores: tuple[float, ...] = field(default=(), repr=False)
    class_name: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict, repr=False)
    pictures: tuple[str, ...] = field(default=(), repr=False)
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
        if not isinstance(self.settings, Mapping):
            raise DataError(f"damaged calibration: settings must be names and values, got {self.settings!r}")
        if self.map_rule not in get_args(MapRule):
            raise unknown_name("map rule", str(self.map_rule), get_args(MapRule))

    @property
    def scale(self) -> ScoreScale:
        """What turns scores into relative scores and p-values.

        Its distance is that from the median normal score to the threshold; where labels put the threshold
        below the median, it is the range of all calibration scores.
        """
        distance = self.threshold - float(np.median(self.normal_scores))
        if distance <= 0:
            scores = self.normal_scores + self.anomalous_scores
            distance = max(scores) - min(scores) or 1.0
        return ScoreScale(distance, self.normal_scores)

    @property
    def false_alarms(self) -> int:
        """Normal calibration images at or above the threshold."""
        return sum(score >= self.threshold for score in self.normal_scores)

    @property
    def missed(self) -> int:
        """Anomalous calibration images below the threshold."""
        return sum(score < self.threshold for score in self.anomalous_scores)

    def is_for(self, class_name: str) -> bool:
        """Whether the threshold is for images of a class name, as prompts read it."""
        return self.class_name in (None, class_name)

    def saw(self, pixels: NDArray[np.uint8]) -> bool:
        """Whether an image is one of the calibration images, about which its decision says nothing.

        Args:
            pixels: (H, W, 3) uint8 RGB, as `Prediction.image`.
        """
        return image_fingerprint(pixels) in self._seen()

    def overlap(self, fingerprints: set[str]) -> set[str]:
        """Those of some fingerprints that belong to calibration images."""
        return fingerprints & self._seen()

    def fits(self, settings: Mapping[str, Any]) -> bool:
        """Whether a detector with these settings scores as the one that this was made with."""
        there = _flat(settings)
        return all(own == there.get(name) for name, own in _flat(self.settings).items())

    def check_fits(self, settings: Mapping[str, Any]) -> None:
        """Refuses a detector whose scores are not those that this was made with.

        Args:
            settings: of the detector, as `scoring_settings` gives it.

        Raises:
            ConfigError: naming the first setting that differs, with both values.
        """
        there = _flat(settings)
        for name, own in _flat(self.settings).items():
            if own != there.get(name):
                raise ConfigError(
                    f"the calibration was made with {_WORDING.get(name, name)} {_short(own)}, and this "
                    f"detector has {_short(there.get(name))}: use the same, run zsad calibrate again, "
                    f'or go on without it (calibration="{NO_CALIBRATION}")'
                )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values under the attributes' names."""
        return {_FORMAT_KEY: FORMAT, **json.loads(json.dumps(asdict(self)))}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str = "the calibration") -> Calibration:
        """Reads what `to_dict` gave.

        Args:
            values: by name.
            where: named in messages.

        Raises:
            DataError: it is no calibration, damaged, or written by a newer zsad.
        """
        known = dict(values)
        try:
            written_as = int(known.pop(_FORMAT_KEY))
            if written_as > FORMAT:
                raise DataError(
                    f"{where} was written by zsad {known.get('version', '?')}, which is newer than this "
                    f"{__version__}: pip install --upgrade zsad"
                )
            lists = [one.name for one in fields(cls) if str(one.type).startswith("tuple")]
            return cls(**{**known, **{name: tuple(known[name]) for name in lists}})
        except DataError:
            raise
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{where} is not a calibration of zsad or is damaged ({error}): make it with zsad calibrate"
            ) from error

    def _seen(self) -> frozenset[str]:
        return frozenset(self.pictures)


def read_calibration(path: str | Path) -> Calibration:
    """Reads a calibration file, or the calibration in a checkpoint of zsad.

    Args:
        path: ".json", or a checkpoint (".safetensors").

    Raises:
        ConfigError: there is no such file.
        DataError: not a calibration, damaged, written by a newer zsad, or a checkpoint without one.
        OSError: the file cannot be read.
    """
    path = Path(path)
    if not path.exists():
        raise ConfigError(f"{path}: no such file; make a calibration with zsad calibrate")
    if path.suffix == ".safetensors":
        from zsad.detector.checkpoints import read

        info = read(path).info
        if info is None or info.calibration is None:
            raise DataError(f"{path} holds no calibration: make one with zsad calibrate")
        return Calibration.from_dict(info.calibration, str(path))
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(
            f"{path} is not a calibration of zsad ({error}): make it with zsad calibrate"
        ) from error
    if not isinstance(values, dict):
        raise DataError(f"{path} is not a calibration of zsad: make it with zsad calibrate")
    return Calibration.from_dict(values, str(path))


def write_calibration(calibration: Calibration, path: str | Path) -> Path:
    """Writes a calibration as JSON, whole or not at all.

    Raises:
        OSError: the file cannot be written.
    """
    with atomic_file(path) as file:
        file.write(json.dumps(calibration.to_dict(), indent=1, ensure_ascii=True).encode() + b"\n")
    return Path(path)


_WORDING = {
    "image_size": "image size",
    "references": "the reference images",
    "weights": "the weights (backbone, checkpoint) of digest",
}


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with the method's own beside the others."""
    return {
        **{name: value for name, value in settings.items() if name != "config"},
        **settings.get("config", {}),
    }


def _short(value: Any) -> str:
    if isinstance(value, list) and len(value) > 3:
        return f"{len(value)} values beginning with {value[0]!r}"
    return "none" if value in (None, []) else repr(value)

"""What a run settles before it scores: folder, detector, and the settings that results depend on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from zsad.detector.calibration.wording import summary
from zsad.errors import ConfigError
from zsad.prediction.predictor import Predictor, is_detector, is_predictor

if TYPE_CHECKING:
    from zsad.detector.thresholds import Calibration
    from zsad.images.saving import FileKind
    from zsad.prediction.options import PredictOptions

DEFAULT_FORMATS: tuple[FileKind, ...] = ("overlay", "map")
# The options that decide what is written about an image: stored, and compared when a run is resumed.
_STORED_OPTIONS = ("formats", "scale", "class_name", "threshold", "map_threshold", "explain")

Loader = Callable[[list[Path], str | None, int | None], "Predictor"]
"""Loads a detector for images, onto a device, that reads 16-bit files at a depth; None: the default."""


def make_folder(directory: Path) -> None:
    """Makes the results' folder if it is missing.

    Raises:
        ConfigError: it is a file.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise ConfigError(f"the results' folder {directory} is a file: choose another --out") from error


def loaded_for(detector: Predictor | Loader, files: list[Path], options: PredictOptions) -> Predictor:
    """The detector for some files; one that other processes copy to their devices is loaded on the CPU."""
    bits = cast("int | None", options.bits)  # the depth of all images, found by now
    if is_predictor(detector):
        detector = detector if bits is None else detector.at_depth(bits)
        return detector if options.tile is None else detector.with_tile(options.tile)
    load = cast("Loader", detector)
    loaded = load(files, "cpu" if options.scores_elsewhere else options.device, bits)
    return loaded if options.tile is None else loaded.with_tile(options.tile)


def looking(detector: Predictor, options: PredictOptions) -> Predictor:
    """The detector with the region of interest of the options, if there is one."""
    if options.roi is None or not is_detector(detector):
        return detector
    if detector.method.MOST_COMPANIONS:
        detector.set_companions(None)  # those of an earlier run; this run draws its own
    return detector.with_roi(options.roi)


def completed(options: PredictOptions, detector: Predictor) -> PredictOptions:
    """Options with the detector's thresholds where none were given, and with the default files.

    Raises:
        ConfigError: masks or contours are wanted without a threshold for them.
    """
    threshold = detector.threshold if options.threshold is None else options.threshold
    map_threshold = detector.map_threshold if options.map_threshold is None else options.map_threshold
    formats = options.formats
    if formats is None:
        formats = DEFAULT_FORMATS if map_threshold is None else (*DEFAULT_FORMATS, "mask")
    elif map_threshold is None and {"mask", "contour"} & set(formats):
        raise ConfigError("masks and contours need a threshold for map values: give --map-threshold VALUE")
    once = tuple(dict.fromkeys(formats))
    return dataclasses.replace(options, formats=once, threshold=threshold, map_threshold=map_threshold)


def known_settings(
    options: PredictOptions, detector: Predictor, calibration: Calibration | None, note: str
) -> dict[str, Any]:
    """Everything that scores and files depend on, as `settings.json` stores it."""
    stored = {name: getattr(options, name) for name in _STORED_OPTIONS}
    known = {**detector.scoring_settings(), **stored, "formats": sorted(options.formats or ())}
    known.update(options.loaded_with)
    if calibration is not None:
        known["calibration"] = summary(calibration)
    if note:
        known["folder_mode"] = note
    return known

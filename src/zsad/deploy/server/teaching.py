"""Gives a copy of a model good images; the model itself goes on answering until the copy takes its place."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zsad.deploy.server.refusals import Refusal
from zsad.files.plain import slug

if TYPE_CHECKING:
    from zsad.deploy.server.models import Model, Predictor
    from zsad.deploy.server.uploads import Upload
    from zsad.detector.fitting.fit import Fitting

FIT_FIELDS = {
    "rate": "share of new good images that may be called anomalous, below 0.5; default 0.05",
    "confidence": "probability that the rate is kept; default 0.95",
    "class_name": "class name of the images",
    "drop_outliers": "true: leave out images that stand out",
    "add": "true: the images come on top of those of an earlier fit",
}
_NUMBERS = ("rate", "confidence")
_WORDS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


class GoodFile(bytes):
    """The bytes of an uploaded image with the name that results show.

    Attributes:
        filename: name that the client gave; never opened.
    """

    filename: str

    def __new__(cls, upload: Upload) -> GoodFile:
        """Takes an upload."""
        made = super().__new__(cls, upload.content)
        made.filename = upload.name
        return made


def fit_options(fields: Mapping[str, str]) -> dict[str, Any]:
    """The options of `Detector.fit` from the fields of a form.

    Raises:
        Refusal: 422, a value is no number or no truth value.

    Example:
        >>> fit_options({"rate": "0.1", "drop_outliers": "true"})
        {'rate': 0.1, 'drop_outliers': True}
    """
    found: dict[str, Any] = {}
    for name, text in fields.items():
        if name in _NUMBERS:
            found[name] = _number(name, text)
        elif name in ("drop_outliers", "add"):
            found[name] = truth(name, text)
        elif name == "class_name":
            found[name] = text
    return found


def truth(name: str, text: str) -> bool:
    """The value of a field that is true or false.

    Raises:
        Refusal: 422, it is neither.
    """
    if text.lower() not in _WORDS:
        raise Refusal(422, f"{name} must be true or false, got {text!r}")
    return _WORDS[text.lower()]


def check_teachable(model: Model, what: str) -> None:
    """Refuses a model that is finished, such as an exported bundle.

    Raises:
        Refusal: 409.
    """
    if not hasattr(model.predictor, what):
        raise Refusal(
            409,
            f"{model.name} is an exported bundle, and fitting needs the detector: start the server with zsad "
            "serve --checkpoint line3.safetensors --allow-fit, or fit and export again",
        )


def fitted(
    model: Model, good: Sequence[Upload], options: Mapping[str, Any], progress: Callable[[int, int], None]
) -> tuple[Predictor, Fitting]:
    """A copy of a model that is fitted to good images, and what came of it.

    Args:
        model: model, which stays as it is.
        good: good images.
        options: options of `Detector.fit`.
        progress: called after each step; what it raises ends the fit.

    Raises:
        Refusal: 422, images are to be added to a model that cuts images into tiles. It would read the earlier
            ones again, from files with names that clients gave, and such names are never opened.
        ZsadError: the images or options do not serve.
    """
    detector: Any = copy.copy(model.predictor)
    if options.get("add") and detector.tile is not None:
        raise Refusal(
            422,
            f"{model.name} cuts images into tiles and needs its earlier good images again, which the server "
            "does not have: send the old and the new images together, without add",
        )
    return detector, detector.fit([GoodFile(upload) for upload in good], progress=progress, **options)


def with_references(model: Model, references: Sequence[Upload], augment: bool) -> Predictor:
    """A copy of a model that compares with other references.

    Raises:
        ZsadError: the images do not serve.
    """
    detector: Any = copy.copy(model.predictor)
    detector.set_references([GoodFile(upload) for upload in references], augment=augment)
    return detector  # type: ignore[no-any-return]


def describe_fit(found: Fitting) -> dict[str, Any]:
    """What came of fitting, by the names of `FitAnswer`."""
    from zsad.detector.calibration.wording import describe
    from zsad.detector.fitting.wording import more_sentence, spread_sentence

    calibration, good = found.calibration, found.good.images
    return {
        "threshold": calibration.threshold,
        "map_threshold": calibration.map_threshold,
        "false_alarm_rate": calibration.false_alarm_rate,
        "confidence": calibration.confidence,
        "promise": [*describe(calibration), spread_sentence(calibration), more_sentence(calibration)],
        "warnings": list(calibration.warnings),
        "images": [
            {
                "name": image.name,
                "score": None if math.isnan(score) else score,
                "is_outlier": number in found.outliers,
            }
            for number, (image, score) in enumerate(zip(good, found.scores, strict=True))
        ],
        "copies": found.copies,
        "outliers": [good[number].name for number in found.outliers],
        "dropped": [image.name for image in found.dropped],
        "near_copies": [[good[number].name for number in group] for group in found.near_copies],
    }


def saved(predictor: Predictor, folder: Path, name: str) -> str:
    """Writes a fitted detector into a folder, under the name of its model.

    Returns:
        Name of the file.

    Raises:
        WeightsError: the file cannot be written.
    """
    detector: Any = predictor
    file = f"{slug(name)}.safetensors"
    folder.mkdir(parents=True, exist_ok=True)
    detector.save(folder / file)
    return file


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise Refusal(422, f"{name} must be a number, got {text!r}") from None

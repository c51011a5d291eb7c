"""Rows of `POST /v1/predict`: a prediction, or the reason why there is none, as plain JSON values."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from zsad.deploy.server.refusals import Refusal
from zsad.images.saving import save_map, save_png

if TYPE_CHECKING:
    from zsad.types import Prediction

Row = dict[str, Any]

MAP_FORMAT, OVERLAY_FORMAT = "png16", "png"


@dataclass(frozen=True)
class Inline:
    """Files that come inside the answer; false if none.

    Attributes:
        map: whether each row has the anomaly map as 16-bit PNG.
        overlay: whether each row has the image under its heat map as PNG.
    """

    map: bool = False
    overlay: bool = False

    def __bool__(self) -> bool:
        return self.map or self.overlay


NO_FILES = Inline()


def inline_of(map_format: str | None, overlay_format: str | None) -> Inline:
    """The files that a request asks for.

    Raises:
        Refusal: 422, a format is unknown.
    """
    for name, given, known in (("map", map_format, MAP_FORMAT), ("overlay", overlay_format, OVERLAY_FORMAT)):
        if given not in (None, known):
            raise Refusal(422, f"?{name}={given!r} is unknown: write ?{name}={known}")
    return Inline(map_format is not None, overlay_format is not None)


def row_of(name: str, prediction: Prediction, seconds: float, inline: Inline) -> Row:
    """The row of an image that was scored.

    Args:
        name: name that the client gave.
        prediction: what the model says.
        seconds: time that decoding and scoring took.
        inline: files that come inside the row, in base64.
    """
    height, width = prediction.anomaly_map.shape
    row: Row = {
        "name": name,
        "score": prediction.score,
        "is_anomalous": prediction.is_anomalous,
        "threshold": prediction.threshold,
        "width": width,
        "height": height,
        "seconds": round(seconds, 6),
        "error": None,
    }
    if inline.map:
        file = io.BytesIO()
        save_map(prediction.anomaly_map, prediction.map_range, file)
        row["map"] = _base64(file)
    if inline.overlay:
        file = io.BytesIO()
        save_png(prediction.overlay(), file)
        row["overlay"] = _base64(file)
    return row


def failed_row(name: str, error: str) -> Row:
    """The row of an image that could not be scored.

    Args:
        name: name that the client gave.
        error: one line that says why.
    """
    return {
        "name": name,
        "score": None,
        "is_anomalous": None,
        "threshold": None,
        "width": None,
        "height": None,
        "seconds": None,
        "error": error,
    }


def _base64(file: io.BytesIO) -> str:
    return base64.b64encode(file.getbuffer()).decode("ascii")

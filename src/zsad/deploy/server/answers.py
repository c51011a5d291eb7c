"""The forms of all answers, for `/openapi.json`."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from zsad.deploy.server.rows import failed_row
from zsad.deploy.server.uploads import FILE_FIELD

NO_IMAGE = "is a text file; expected PNG, JPEG, BMP, TIFF, WebP or GIF"
"""Error of the examples."""


class Problem(BaseModel):
    """Why a request was not carried out."""

    error: str = Field(description="one line: what came, what was expected, what to do")

    model_config = ConfigDict(json_schema_extra={"example": {"error": NO_IMAGE}})


class RowAnswer(BaseModel):
    """Result of one image."""

    name: str = Field(description="name of the uploaded file")
    score: float | None = Field(description="image anomaly score in [0, 1]; null if the image failed")
    is_anomalous: bool | None = Field(description="whether the score reaches the threshold; null without one")
    threshold: float | None = Field(description="score from which on an image counts as anomalous")
    width: int | None = Field(description="width in pixels")
    height: int | None = Field(description="height in pixels")
    seconds: float | None = Field(description="time that decoding and scoring took, without waiting")
    error: str | None = Field(description="one line that says why there is no score; null for a score")
    map: str | None = Field(None, description="with ?map=png16: the anomaly map as 16-bit PNG, in base64")
    overlay: str | None = Field(None, description="with ?overlay=png: image under heat map, PNG in base64")


class PredictAnswer(BaseModel):
    """Results of all images of a request, in their order."""

    results: list[RowAnswer]

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "results": [
                    {
                        "name": "part_07.png",
                        "score": 0.7312,
                        "is_anomalous": True,
                        "threshold": 0.5814,
                        "width": 1024,
                        "height": 768,
                        "seconds": 0.064,
                        "error": None,
                    },
                    failed_row("notes.txt", NO_IMAGE),
                ]
            }
        }
    )


class FailedAnswer(PredictAnswer):
    """Results of a request none of whose images could be scored."""

    error: str = Field(description="error of the first image")


class ModelAnswer(BaseModel):
    """A model and what its verdicts promise."""

    name: str = Field(description="name for ?model=")
    is_default: bool = Field(description="whether it answers where a request names no model")
    method: str | None = Field(description="name of the method")
    backbone: str | None = Field(description="name of the CLIP network")
    class_name: str | None = Field(description="class name of the images; null for any")
    image_size: int | None = Field(description="side of the network's input in pixels")
    map_range: tuple[float, float] = Field(description="smallest and largest value of a map")
    threshold: float | None = Field(description="score from which on an image counts as anomalous")
    map_threshold: float | None = Field(description="map value from which on a pixel counts as anomalous")
    false_alarm_rate: float | None = Field(description="share of new normal images called anomalous, at most")
    confidence: float | None = Field(description="probability with which that rate is kept")
    promise: list[str] = Field(description="what the thresholds promise, in sentences")
    warnings: list[str] = Field(description="limits of the promise, in sentences")
    normal_scores: list[float] = Field(description="scores of the normal images behind the thresholds")
    left_out: int = Field(
        description="images left out of the references together for each of these scores; 0: no references"
    )
    references: int = Field(description="number of known-normal images that images are compared with")
    tile: str | int | None = Field(description="how large images are cut into tiles; null for whole images")
    runner: str = Field(description="what scores: python, onnx or openvino")
    precision: str | None = Field(description="number format of the network")
    can_fit: bool = Field(description="whether the model can learn from good images")
    cannot_fit: str | None = Field(description="why POST /v1/fit is refused; null if it is not")


class ModelsAnswer(BaseModel):
    """All models, the default first."""

    models: list[ModelAnswer]
    version: str = Field(description="version of zsad")


class GoodImageAnswer(BaseModel):
    """A good image that a model has been fitted to."""

    name: str = Field(description="name of the uploaded file")
    score: float | None = Field(description="its score without itself among the references; null if unused")
    is_outlier: bool = Field(description="whether it stands out from the others")


class FailedUpload(BaseModel):
    """An image that could not be used."""

    name: str = Field(description="name of the uploaded file")
    error: str = Field(description="one line that says why")


class FitAnswer(BaseModel):
    """What came of fitting a model to good images."""

    model: str = Field(description="name of the model")
    threshold: float
    map_threshold: float
    false_alarm_rate: float = Field(description="share of new normal images called anomalous, at most")
    confidence: float = Field(description="probability with which that rate is aimed at")
    promise: list[str] = Field(description="what the thresholds promise, in sentences")
    warnings: list[str] = Field(description="limits of the promise, in sentences")
    images: list[GoodImageAnswer] = Field(description="good images in use")
    copies: int = Field(description="number of images left out because another has the same content")
    outliers: list[str] = Field(description="images that stand out, the highest score first")
    dropped: list[str] = Field(description="images that were left out because they stand out")
    near_copies: list[list[str]] = Field(description="groups of images that count as one")
    failed: list[FailedUpload] = Field(description="images that could not be used")
    file: str | None = Field(description="with --keep: file in that folder that holds the fitted detector")


class ReferencesAnswer(BaseModel):
    """What became of the references of a model."""

    model: str = Field(description="name of the model")
    references: int = Field(description="number of references in use")
    threshold: float | None = Field(description="null: a threshold for other references does not hold")
    failed: list[FailedUpload] = Field(description="images that could not be used")


class StateAnswer(BaseModel):
    """Whether the server lives or can score."""

    status: str


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Descriptions of refusals, for the `responses` of a route."""
    return {status: {"model": Problem, "description": STATUSES[status]} for status in statuses}


def upload_body(fields: dict[str, str], is_one_enough: bool) -> dict[str, Any]:
    """Description of a request that brings images, for the `openapi_extra` of a route.

    Args:
        fields: other fields of the form, with their description.
        is_one_enough: whether one image may come as the whole body.
    """
    binary = {"type": "string", "format": "binary"}
    form = {
        "type": "object",
        "required": [FILE_FIELD],
        "properties": {
            FILE_FIELD: {"type": "array", "items": binary, "description": "one image or several"},
            **{name: {"type": "string", "description": text} for name, text in fields.items()},
        },
    }
    content: dict[str, Any] = {"multipart/form-data": {"schema": form}}
    if is_one_enough:
        content["image/*"] = {"schema": binary}
    return {"requestBody": {"required": True, "content": content}}


STATUSES = {
    401: "no token or a wrong one",
    403: "not allowed on this server",
    404: "no model of that name",
    408: "the request took too long to arrive",
    409: "the model cannot do this",
    413: "too many bytes, pixels or images",
    415: "not an image",
    422: "a damaged image, or a request that cannot be understood",
    429: "too much at once; Retry-After says when to ask again",
    503: "not ready, stopping, or too slow; Retry-After says when to ask again",
}

"""`POST /v1/predict` and `GET /v1/models`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import JSONResponse

from zsad._version import __version__
from zsad.deploy.server.answers import FailedAnswer, ModelsAnswer, PredictAnswer, problems, upload_body
from zsad.deploy.server.describing import cannot_fit, describe
from zsad.deploy.server.keeping import keep
from zsad.deploy.server.pipeline import Task
from zsad.deploy.server.refusals import Refusal
from zsad.deploy.server.rows import MAP_FORMAT, OVERLAY_FORMAT, inline_of
from zsad.deploy.server.uploads import Body, receive

if TYPE_CHECKING:
    from zsad.deploy.server.pipeline import Outcome
    from zsad.deploy.server.service import Service

MODEL_FIELD, CLASS_FIELD = "model", "class_name"
LONGEST_CLASS_NAME = 200  # characters

MapFormat = Annotated[
    str | None,
    Query(alias="map", description="png16: the anomaly map of each image", examples=[MAP_FORMAT]),
]
OverlayFormat = Annotated[
    str | None,
    Query(alias="overlay", description="png: each image under its heat map", examples=[OVERLAY_FORMAT]),
]
ClassName = Annotated[
    str | None,
    Query(alias="class_name", description="what the images show; default: that of the model"),
]
ModelName = Annotated[str | None, Query(alias="model", description="name of a model; default: the first")]


def scoring_routes(service: Service) -> APIRouter:
    """The routes that score and say with what."""
    routes = APIRouter()

    @routes.post(
        "/v1/predict",
        summary="Score images",
        responses={
            200: {"model": PredictAnswer},
            **problems(401, 404, 408, 429, 503),
            **{status: {"model": FailedAnswer} for status in (413, 415, 422, 500)},
        },
        openapi_extra=upload_body(
            {MODEL_FIELD: "name of a model", CLASS_FIELD: "what the images show"}, is_one_enough=True
        ),
    )
    async def predict(
        request: Request,
        map_format: MapFormat = None,
        overlay_format: OverlayFormat = None,
        model_name: ModelName = None,
        class_name: ClassName = None,
    ) -> JSONResponse:
        """Scores the images of a form (fields named "file"), or one image that is the whole body.

        An image that cannot be scored has its reason in its row. If no image of the request can be scored,
        the status says so too: 413 too large, 415 not an image, 422 damaged.
        """
        service.check_ready()
        inline = inline_of(map_format, overlay_format)
        service.models.find(model_name)
        with service.places.request() as place:
            body = await receive(request, place, service.options, [MODEL_FIELD, CLASS_FIELD])
            request.state.images = len(body.images)
            model = service.models.find(chosen(MODEL_FIELD, model_name, body))
            task = Task(model, checked_class(chosen(CLASS_FIELD, class_name, body)), inline)
            outcomes = await service.outcomes(request, body.images, task)
            if service.options.keep is not None:
                folder = Path(service.options.keep).expanduser()
                rows = [outcome.row for outcome in outcomes]
                await service.pipeline.in_thread(lambda: keep(folder, body.images, rows, model.name))
        return _answer(outcomes)

    @routes.get(
        "/v1/models",
        summary="List the models",
        response_model=ModelsAnswer,
        responses=problems(401, 503),
    )
    async def list_models() -> dict[str, object]:
        """All models with what their verdicts promise; the default comes first."""
        service.models.find(None)
        models = service.models.all()
        found = await service.pipeline.in_thread(lambda: [describe(model) for model in models])
        rows = [
            {
                **row,
                "is_default": model.name == service.models.default,
                "cannot_fit": cannot_fit(model.predictor, allow_fit=service.options.allow_fit),
            }
            for model, row in zip(models, found, strict=True)
        ]
        return {"models": rows, "version": __version__}

    return routes


def chosen(field: str, from_query: str | None, body: Body) -> str | None:
    """What a request names in its query or in its form; None for neither.

    Raises:
        Refusal: 422, it names two.
    """
    from_form = body.fields.get(field)
    if None not in (from_query, from_form) and from_query != from_form:
        raise Refusal(422, f"the request names one {field} in its query and another in its form: name one")
    return from_query or from_form


def checked_class(name: str | None) -> str | None:
    """A class name that prompts can hold.

    Raises:
        Refusal: 422, it is too long or has characters that cannot be printed.
    """
    if name is not None and (len(name) > LONGEST_CLASS_NAME or not name.isprintable()):
        raise Refusal(
            422, f"class_name must be at most {LONGEST_CLASS_NAME} printable characters, such as metal nut"
        )
    return name


def _answer(outcomes: list[Outcome]) -> JSONResponse:
    """The rows; where all images failed, with the status and the error of the first one."""
    answer: dict[str, object] = {"results": [outcome.row for outcome in outcomes]}
    if all(outcome.error is not None for outcome in outcomes):
        answer["error"] = outcomes[0].row["error"]
        return JSONResponse(answer, outcomes[0].status)
    return JSONResponse(answer)

"""`POST /v1/fit` and `POST /v1/references`: clients replace what a model compares with."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from fastapi import APIRouter, Request

from zsad.deploy.server.answers import FitAnswer, ReferencesAnswer, problems, upload_body
from zsad.deploy.server.logs import log
from zsad.deploy.server.refusals import CLIENT_GONE, Refusal, later, status_of
from zsad.deploy.server.scoring_routes import MODEL_FIELD, ModelName, chosen
from zsad.deploy.server.service import Service, hung_up
from zsad.deploy.server.teaching import (
    FIT_FIELDS,
    check_teachable,
    describe_fit,
    fit_options,
    fitted,
    saved,
    truth,
    with_references,
)
from zsad.deploy.server.uploads import Body, Upload, receive
from zsad.errors import ZsadError, one_line

if TYPE_CHECKING:
    from zsad.deploy.server.models import Model, Predictor
    from zsad.detector.fitting.fit import Fitting

ResultT = TypeVar("ResultT")

MOST_GOOD_IMAGES = 1000
_REFERENCE_FIELDS = {"augment": "true: references also count turned and flipped"}
_MODEL_WORDS = {MODEL_FIELD: "name of a model"}


@dataclass(frozen=True)
class _Lesson:
    """What a request wants to teach.

    Attributes:
        model: model that is taught.
        images: images that can be read.
        failed: names and errors of the others.
        fields: fields of the form.
        is_over: set when nobody waits for the answer any more.
    """

    model: Model
    images: list[Upload]
    failed: list[dict[str, str]]
    fields: dict[str, str]
    is_over: threading.Event = field(default_factory=threading.Event)

    def check_wanted(self, *_: object) -> None:
        """Ends the lesson, from within `progress`, when nobody waits for it.

        Raises:
            Refusal: 499.
        """
        if self.is_over.is_set():
            raise Refusal(CLIENT_GONE, "the client hung up, and the model stays as it was")


def teaching_routes(service: Service) -> APIRouter:
    """The routes that teach; without `--allow-fit` they refuse."""
    routes = APIRouter()
    one_at_a_time = asyncio.Lock()
    shared = {401, 403, 404, 408, 409, 413, 415, 422, 429, 503}

    async def taught(
        request: Request,
        model_name: str | None,
        known: Collection[str],
        what: str,
        teach: Callable[[_Lesson], tuple[Predictor, ResultT]],
    ) -> tuple[_Lesson, Predictor, ResultT]:
        """Receives images, teaches a copy of the model in a thread, and puts the copy in its place."""
        service.check_ready()
        if not service.options.allow_fit:
            raise Refusal(403, "this server's models are fixed: start it with --allow-fit to change them")
        check_teachable(service.models.find(model_name), what)
        with service.places.request() as place:
            body = await receive(
                request, place, service.options, [MODEL_FIELD, *known], most_images=MOST_GOOD_IMAGES
            )
            request.state.images = len(body.images)
            if one_at_a_time.locked():
                raise later(429, "another fit is running; send the request again", 10)
            async with one_at_a_time:
                lesson = await _lesson(service, body, chosen(MODEL_FIELD, model_name, body))
                check_teachable(lesson.model, what)
                try:
                    predictor, result = await _while_wanted(request, lesson, teach)
                except ZsadError as error:
                    raise Refusal(422, one_line(error)) from error
                service.models.replace(lesson.model, predictor)
        log("model replaced", model=lesson.model.name, images=len(lesson.images))
        return lesson, predictor, result

    @routes.post(
        "/v1/fit",
        summary="Fit a model to good images",
        response_model=FitAnswer,
        responses=problems(*shared),
        openapi_extra=upload_body({**_MODEL_WORDS, **FIT_FIELDS}, is_one_enough=False),
    )
    async def fit(request: Request, model_name: ModelName = None) -> dict[str, Any]:
        """Makes good images the references of a model and sets its thresholds, with their promise.

        At least three, better twenty, known-normal images. Later requests meet the fitted model; what is
        being scored meanwhile is scored as before. Needs --allow-fit; takes as long as it takes. A client
        that hangs up ends it, and the model stays as it was.
        """

        def teach(lesson: _Lesson) -> tuple[Predictor, tuple[Fitting, str | None]]:
            options = fit_options(lesson.fields)
            predictor, found = fitted(lesson.model, lesson.images, options, lesson.check_wanted)
            lesson.check_wanted()
            keep = service.options.keep
            file = None if keep is None else saved(predictor, Path(keep).expanduser(), lesson.model.name)
            return predictor, (found, file)

        lesson, _, (found, file) = await taught(request, model_name, FIT_FIELDS, "fit", teach)
        return {"model": lesson.model.name, **describe_fit(found), "failed": lesson.failed, "file": file}

    @routes.post(
        "/v1/references",
        summary="Replace the references of a model",
        response_model=ReferencesAnswer,
        responses=problems(*shared),
        openapi_extra=upload_body({**_MODEL_WORDS, **_REFERENCE_FIELDS}, is_one_enough=True),
    )
    async def references(request: Request, model_name: ModelName = None) -> dict[str, Any]:
        """Makes known-normal images the references of a model; its thresholds no longer hold and go.

        Needs --allow-fit. /v1/fit sets new thresholds as well.
        """

        def teach(lesson: _Lesson) -> tuple[Predictor, None]:
            is_turned = truth("augment", lesson.fields.get("augment", "false"))
            return with_references(lesson.model, lesson.images, is_turned), None

        lesson, predictor, _ = await taught(request, model_name, _REFERENCE_FIELDS, "set_references", teach)
        return {
            "model": lesson.model.name,
            "references": len(lesson.images),
            "threshold": getattr(predictor, "threshold", None),
            "failed": lesson.failed,
        }

    return routes


async def _while_wanted(
    request: Request, lesson: _Lesson, teach: Callable[[_Lesson], tuple[Predictor, ResultT]]
) -> tuple[Predictor, ResultT]:
    """Teaches in a thread, which is told when the client hangs up or the server ends.

    Raises:
        Refusal: 499, the lesson ended because of that.
    """
    work = asyncio.ensure_future(asyncio.to_thread(teach, lesson))
    gone = asyncio.ensure_future(hung_up(request))
    try:
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        lesson.is_over.set()
        gone.cancel()
    return await work  # a thread cannot be ended from outside


async def _lesson(service: Service, body: Body, name: str | None) -> _Lesson:
    """The images of a request that can be read, and why the others cannot.

    Raises:
        Refusal: none can be read; the status is that of the first one.
    """
    model = service.models.find(name)
    errors = await asyncio.gather(*(service.pipeline.error_of(upload, model) for upload in body.images))
    pairs = list(zip(body.images, errors, strict=True))
    images = [upload for upload, error in pairs if error is None]
    failed = [{"name": upload.name, "error": one_line(error)} for upload, error in pairs if error is not None]
    if not images and errors[0] is not None:
        raise Refusal(status_of(errors[0]), failed[0]["error"])
    return _Lesson(model, images, failed, body.fields)

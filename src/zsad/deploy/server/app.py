"""`create_app`: the routes of a server, over models and options."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

from fastapi import Depends, FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse

from zsad._version import __version__
from zsad.deploy.server.draining import Drain
from zsad.deploy.server.guard import Guard, HeadAsGet, Watch, refusal_answer
from zsad.deploy.server.page_routes import page_routes
from zsad.deploy.server.queries import check_query
from zsad.deploy.server.refusals import Refusal
from zsad.deploy.server.scoring_routes import scoring_routes
from zsad.deploy.server.teaching_routes import teaching_routes
from zsad.deploy.server.watching_routes import watching_routes
from zsad.errors import one_line

if TYPE_CHECKING:
    from zsad.deploy.server.service import Service

ABOUT = (
    "Anomaly detection for images. `POST /v1/predict` takes images and answers with a score, a verdict and, "
    "on request, heat maps. Errors are one line in the field `error`."
)


def create_app(service: Service, on_failure: Callable[[Exception], None] | None = None) -> FastAPI:
    """The application of a server, for any ASGI server.

    Args:
        service: models, limits and counters.
        on_failure: called with the error if the models cannot be loaded; None raises it at startup.

    Returns:
        The application. It answers at once, and is ready when the models are loaded.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        scoring = asyncio.create_task(service.pipeline.run())
        loading = asyncio.create_task(_load(service, on_failure))
        if on_failure is None:
            await loading
        try:
            yield
        finally:
            for task in (loading, scoring):
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
            service.pipeline.close()

    app = FastAPI(
        title="zsad",
        version=__version__,
        description=ABOUT,
        lifespan=lifespan,
        docs_url=None,  # FastAPI's pages load scripts from other hosts
        redoc_url=None,
    )
    app.include_router(page_routes())
    app.include_router(scoring_routes(service), dependencies=[Depends(check_query)])
    app.include_router(teaching_routes(service), dependencies=[Depends(check_query)])
    app.include_router(watching_routes(service))
    _answer_errors(app)
    app.add_middleware(HeadAsGet)
    app.add_middleware(Guard, options=service.options)
    if service.options.cors:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(service.options.cors),
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type"],
            expose_headers=["Retry-After"],
        )
    app.add_middleware(Drain)
    app.add_middleware(Watch, service=service)  # the outermost, which sees the answers of all others
    return app


async def _load(service: Service, on_failure: Callable[[Exception], None] | None) -> None:
    try:
        await asyncio.to_thread(service.models.load)
    except Exception as error:
        if on_failure is None:
            raise
        on_failure(error)


def _answer_errors(app: FastAPI) -> None:
    """Gives every error the same form: a status and one line."""

    @app.exception_handler(Refusal)
    async def refused(_: Request, refusal: Refusal) -> JSONResponse:
        return refusal_answer(refusal)

    @app.exception_handler(HTTPException)
    async def not_found(request: Request, error: HTTPException) -> JSONResponse:
        lines = {
            404: f"there is no {request.url.path}: GET /openapi.json lists the paths",
            405: f"{request.url.path} does not take {request.method}: GET /openapi.json lists what it takes",
        }
        line = lines.get(error.status_code, str(error.detail))
        return JSONResponse({"error": line}, error.status_code, error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        return JSONResponse({"error": f"{where}: {first['msg']}"}, 422)

    @app.exception_handler(Exception)
    async def unexpected(_: Request, error: Exception) -> JSONResponse:
        line = f"unexpected {type(error).__name__}: {one_line(error):.200}; the server's log tells more"
        return JSONResponse({"error": line}, 500)

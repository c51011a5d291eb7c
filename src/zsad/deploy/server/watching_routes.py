"""`GET /health`, `/ready` and `/metrics`: for load balancers, containers and Prometheus."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import APIRouter
from starlette.responses import JSONResponse, Response

from zsad.deploy.server.answers import StateAnswer, problems
from zsad.deploy.server.metrics import CONTENT_TYPE

if TYPE_CHECKING:
    from zsad.deploy.server.service import Service


def watching_routes(service: Service) -> APIRouter:
    """The routes that say how the server is."""
    routes = APIRouter()

    @routes.get("/health", summary="Does the process live?", response_model=StateAnswer)
    async def health() -> dict[str, str]:
        """Answers as soon as the process lives."""
        return {"status": "alive"}

    @routes.get(
        "/ready",
        summary="Can it score?",
        response_model=StateAnswer,
        responses=problems(503),
    )
    async def ready() -> JSONResponse:
        """Answers 200 when images are scored, and 503 while models are loaded and while the server stops."""
        service.check_ready()
        return JSONResponse({"status": "ready"})

    @routes.get("/metrics", summary="Counters for Prometheus", response_class=Response)
    async def metrics() -> Response:
        """Requests by status, images by result, queue length, batch sizes and times."""
        return Response(service.metrics.text(), media_type=CONTENT_TYPE)

    return routes

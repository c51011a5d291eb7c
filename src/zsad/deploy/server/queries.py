"""Refuses what a route does not take in its query, so that no wish is ignored in silence."""

from __future__ import annotations

from fastapi.routing import APIRoute
from starlette.requests import Request

from zsad.deploy.server.refusals import Refusal
from zsad.errors import printable, unknown_name


def check_query(request: Request) -> None:
    """Refuses unknown names in the query of a request, such as `?maps=png16` or `?rate=0.01` for /v1/fit.

    Raises:
        Refusal: 422, a name is unknown.
    """
    route = request.scope["route"]
    known = [field.alias for field in route.dependant.query_params] if isinstance(route, APIRoute) else []
    for name in request.query_params:
        if name not in known:
            line = unknown_name("name in the query", printable(name), known)
            raise Refusal(422, f"{line} (GET /openapi.json lists the fields that a form may have besides)")

"""`GET /`: the page, with its scripts and styles. It holds no images and no scores, and needs no token."""

from __future__ import annotations

from pathlib import PurePosixPath

from fastapi import APIRouter
from starlette.exceptions import HTTPException
from starlette.responses import Response

from zsad.deploy.web.page import PAGE_FOLDER, SERVER_POLICY, page_files
from zsad.files.pages import PAGE_FILE

_KINDS = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
_HEADERS = {
    "Content-Security-Policy": f"{SERVER_POLICY}; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # a newer zsad has other scripts
}


def page_routes() -> APIRouter:
    """The routes of the page."""
    routes = APIRouter(include_in_schema=False)
    files = page_files()

    @routes.get("/")
    async def index() -> Response:
        """The page."""
        return _answer(files, PAGE_FILE)

    @routes.get(f"/{PAGE_FOLDER}/{{name}}")
    async def part(name: str) -> Response:
        """A script, or the styles."""
        return _answer(files, f"{PAGE_FOLDER}/{name}")

    return routes


def _answer(files: dict[str, bytes], path: str) -> Response:
    """A file of the page, looked up by name; no path of a client is opened."""
    if path not in files:
        raise HTTPException(404)
    return Response(files[path], media_type=_KINDS[PurePosixPath(path).suffix], headers=_HEADERS)

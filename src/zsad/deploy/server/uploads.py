"""Receives the body of a request: images as multipart fields named "file", or one image as the whole body.

Everything stays in memory. The name of an uploaded file is a label that is echoed, never a path.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from zsad.deploy.server.refusals import CLIENT_GONE, Refusal
from zsad.errors import printable, unknown_name

if TYPE_CHECKING:
    from zsad.deploy.server.options import ServeOptions
    from zsad.deploy.server.places import Place

FILE_FIELD = "file"
LONGEST_NAME = 255  # characters of a file name that are echoed
_LONGEST_FIELD = 4096  # bytes of a field that is not a file
_MOST_FIELDS = 32


@dataclass(frozen=True)
class Upload:
    """An image as it was uploaded.

    Attributes:
        name: name that the client gave, made printable.
        content: bytes of the file.
    """

    name: str
    content: bytes = field(repr=False)


@dataclass(frozen=True)
class Body:
    """What a request brings.

    Attributes:
        images: uploaded images, at least one.
        fields: other fields of the form by name.
    """

    images: tuple[Upload, ...]
    fields: dict[str, str]


async def receive(
    request: Request,
    place: Place,
    options: ServeOptions,
    known_fields: Collection[str],
    most_images: int | None = None,
) -> Body:
    """Receives the body of a request.

    Args:
        request: request whose body has not been read.
        place: place of the request, which counts images and bytes.
        options: limits.
        known_fields: names of the fields besides "file" that the form may have.
        most_images: images that the form may hold if they do not go through the queue; None for images to be
            scored, for which there has to be room in it.

    Raises:
        Refusal: 408, the body takes too long; 413, it is too large or holds too many images; 422, it is no
            form that can be read or holds no image; 429, there is no room; 499, the client hung up.
    """
    try:
        _check_length(request, options)
        if most_images is None:
            place.check_room()
        most = most_images or options.max_images
        body = await asyncio.wait_for(_received(request, place, most, known_fields), options.timeout)
        if most_images is None:
            place.take_images(len(body.images))
        return body
    except (asyncio.TimeoutError, TimeoutError):
        raise Refusal(
            408, f"the request did not arrive within {options.timeout:g} seconds: send smaller images"
        ) from None


def _check_length(request: Request, options: ServeOptions) -> None:
    """Refuses a body that is too large before it comes."""
    declared = request.headers.get("content-length", "")
    if declared.isascii() and declared.isdigit() and int(declared) > options.max_body:
        raise Refusal(
            413,
            f"the request has {declared} bytes, more than the limit of {options.max_body}: send fewer or "
            "smaller images at a time",
        )


async def _chunks(request: Request, place: Place) -> AsyncGenerator[bytes, None]:
    """The parts of the body, each counted before it is kept."""
    has_more = True
    while has_more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise Refusal(CLIENT_GONE, "the client hung up")
        chunk: bytes = message.get("body", b"")
        place.take_bytes(len(chunk))
        has_more = message.get("more_body", False)
        yield chunk


async def _received(request: Request, place: Place, most_images: int, known_fields: Collection[str]) -> Body:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        return await _form(request, place, most_images, known_fields)
    content = b"".join([chunk async for chunk in _chunks(request, place)])
    if not content:
        raise Refusal(
            422, "the body is empty: send an image as the body, or images as multipart fields named 'file'"
        )
    return Body((Upload("image", content),), {})


class _FormInMemory(MultiPartParser):
    """Parses a form without temporary files, and knows whether it came to its end."""

    spool_max_size = 0  # no size from which on a file would go to disk
    is_complete = False
    parts = 0
    most_parts = _MOST_FIELDS

    def on_part_begin(self) -> None:
        super().on_part_begin()
        self.parts += 1
        if self.parts > self.most_parts:
            raise Refusal(
                413,
                f"the form has more than {self.most_parts} fields, and a request takes at most "
                f"{self.most_parts - _MOST_FIELDS} images: send several",
            )

    def on_end(self) -> None:
        super().on_end()
        self.is_complete = True


async def _form(request: Request, place: Place, most_images: int, known_fields: Collection[str]) -> Body:
    parser = _FormInMemory(
        request.headers,
        _chunks(request, place),
        max_files=float("inf"),
        max_fields=float("inf"),
        max_part_size=_LONGEST_FIELD,
    )
    parser.most_parts = most_images + _MOST_FIELDS
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise Refusal(422, f"the form cannot be read: {printable(error.message)}") from None
    images: list[Upload] = []
    fields: dict[str, str] = {}
    try:
        if not parser.is_complete:
            raise Refusal(422, "the form is cut short: its closing boundary is missing; send it again")
        for name, value in form.multi_items():
            if isinstance(value, str):
                _check_field(name, fields, known_fields)
                fields[name] = value
            elif name != FILE_FIELD:
                raise Refusal(
                    422, f"the form sends a file as {printable(name)!r}: name the field '{FILE_FIELD}'"
                )
            else:
                images.append(await _upload(value))
    finally:
        await form.close()
    if not images:
        raise Refusal(422, f"the form holds no image: send each as a file in a field named '{FILE_FIELD}'")
    if len(images) > most_images:
        raise Refusal(
            413,
            f"a request takes at most {most_images} images, got {len(images)}: send several",
        )
    return Body(tuple(images), fields)


def _check_field(name: str, fields: dict[str, str], known: Collection[str]) -> None:
    if name == FILE_FIELD:
        raise Refusal(422, "the field 'file' has no file name: send a file (curl -F file=@a.png)")
    if name not in known:
        raise Refusal(422, str(unknown_name("field", printable(name), [FILE_FIELD, *known])))
    if name in fields:
        raise Refusal(422, f"the form gives {name!r} twice: give it once")


async def _upload(file: UploadFile) -> Upload:
    return Upload(printable(file.filename or "image")[:LONGEST_NAME], await file.read())

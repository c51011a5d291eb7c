"""Writes HTML pages: one file that opens from disk, makes no request, and escapes everything it shows.

A page `NAME` is `templates/NAME.html`, which extends `base.html`, and `templates/NAME.js`, if it has one.
The base holds the head, the common styles, and a content security policy that admits only the page's
own script.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import os
import re
import urllib.parse
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from zsad.files.atomic import atomic_file

if TYPE_CHECKING:
    from jinja2 import Environment

PAGE_FILE = "index.html"

_ADDRESS = re.compile(r"(https://[^\s;,<>\"']+)")


def write_page(path: Path, name: str, values: Mapping[str, Any]) -> None:
    """Writes a page, whole or not at all.

    Args:
        path: the HTML file.
        name: page name, "prediction" for example.
        values: template variables. Every text among them is escaped.

    Raises:
        jinja2.UndefinedError: the template uses a variable or an attribute that `values` lacks.
        OSError: the file cannot be written.
    """
    text = render_page(name, values)
    with atomic_file(path) as file:
        # File names that are not valid Unicode reach Python as lone surrogates, which UTF-8 cannot hold.
        file.write(text.encode("utf-8", errors="backslashreplace"))


def render_page(name: str, values: Mapping[str, Any]) -> str:
    """Renders a page.

    Args:
        name: page name, "prediction" for example.
        values: template variables. Every text among them is escaped.

    Returns:
        The page as HTML.

    Raises:
        jinja2.UndefinedError: the template uses a variable or an attribute that `values` lacks.
    """
    templates = resources.files("zsad.files").joinpath("templates")
    file = templates.joinpath(f"{name}.js")
    script = file.read_text(encoding="utf-8") if file.is_file() else ""
    return render_file(f"{name}.html", {**values, "script": script, "script_hash": script_hash(script)})


def render_file(name: str, values: Mapping[str, Any]) -> str:
    """Renders one file of `templates`: a page whose scripts and styles are files, or its styles.

    Args:
        name: path of the template below `templates`.
        values: template variables. Every text among them is escaped.

    Raises:
        jinja2.UndefinedError: the template uses a variable or an attribute that `values` lacks.
    """
    return _environment().get_template(name).render(values)


def script_hash(script: str) -> str:
    """The source expression by which a content security policy admits an inline script.

    Example:
        >>> script_hash("")
        'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='
    """
    return f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}"


def jpeg_url(content: bytes) -> str:
    """A JPEG file as a `data:` URL, which embeds it in a page."""
    return f"data:image/jpeg;base64,{base64.b64encode(content).decode()}"


def relative_url(directory: Path, target: Path) -> str:
    """The link from a page to a file, percent-encoded.

    Args:
        directory: folder of the page.
        target: the file.

    Returns:
        A relative URL; a `file:` URL where no relative path exists (another Windows drive).

    Example:
        >>> relative_url(Path("out"), Path("out/c:d.png"))
        './c%3Ad.png'
    """
    try:
        relative = PurePath(os.path.relpath(target, directory)).as_posix()
    except ValueError:
        return target.resolve().as_uri()
    quoted = urllib.parse.quote(os.fsencode(relative))
    return f"./{quoted}"  # without "./", a first part with a colon would read as a URL scheme


def facts(values: Iterable[tuple[str, Any]]) -> list[tuple[str, str]]:
    """Names and values for a reader, without the empty values.

    Args:
        values: pairs of a name and a JSON value.

    Example:
        >>> facts([("data", ["a", "b"]), ("config", {"sigma": 4.0}), ("limit", None)])
        [('data', 'a b'), ('config', 'sigma=4.0')]
    """
    return [(name, shown(value)) for name, value in values if value not in (None, "", (), [], {})]


def shown(value: Any) -> str:
    """A JSON value as one line for a reader."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name}={shown(item)}" for name, item in value.items()) or "none"
    if isinstance(value, list | tuple):
        return " ".join(map(shown, value))
    return str(value)


def split_addresses(text: str) -> list[str]:
    """Splits a text at its web addresses: text, address, text, address, ..., text.

    Example:
        >>> split_addresses("Kvasir, https://example.org/kvasir; polyps")
        ['Kvasir, ', 'https://example.org/kvasir', '; polyps']
    """
    return _ADDRESS.split(text)


@functools.cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("zsad.files"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["split_addresses"] = split_addresses
    return environment

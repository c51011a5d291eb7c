"""The page that scores images at once: `zsad serve` hands it out, and `zsad export --format web` writes it.

On a server, the page sends images to the server's own interface. In a folder of `--format web`, it scores
them inside the browser. Markup, styles and scripts stand in `zsad/files/templates/scoring`; nothing is
loaded from anywhere else, and the content security policy forbids it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import resources
from typing import Any

from zsad.files.pages import PAGE_FILE, render_file
from zsad.images.colours import colour_table

PAGE_FOLDER = "page"
"""Folder of scripts and styles, beside the page."""

TITLE = "Check images"
STYLES = "page.css"

# Workers, styles and scripts are files of the page's own origin. Thumbnails are object URLs ("blob:").
_POLICY = (
    "default-src 'none'; script-src 'self'{run_graphs}; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; worker-src 'self'; base-uri 'none'; form-action 'none'"
)
SERVER_POLICY = _POLICY.format(run_graphs="")
BROWSER_POLICY = _POLICY.format(run_graphs=" 'wasm-unsafe-eval'")  # compiles WebAssembly, and no script


@dataclass(frozen=True)
class BrowserModel:
    """What the page needs to score images inside the browser.

    Attributes:
        model: what the page says of the model, by the names of `GET /v1/models`, and `graph`, the address of
            the graph relative to the page.
        runtime: folder of onnxruntime-web relative to the page, with a slash at the end.
    """

    model: dict[str, Any]
    runtime: str


def page_files(browser: BrowserModel | None = None) -> dict[str, bytes]:
    """All files of the page.

    Args:
        browser: what scores inside the browser; None for the page of a server.

    Returns:
        Contents by path: `PAGE_FILE`, and scripts and styles in `PAGE_FOLDER`.
    """
    described = {
        "colours": colour_table().tolist(),
        "browser": None if browser is None else {"model": browser.model, "runtime": browser.runtime},
    }
    index = render_file(
        "scoring.html",
        {
            "title": TITLE,
            "about": "",
            "policy": SERVER_POLICY if browser is None else BROWSER_POLICY,
            "in_browser": browser is not None,
            "page": json.dumps(described),
        },
    )
    files = {PAGE_FILE: index.encode()}
    folder = resources.files("zsad.files").joinpath("templates").joinpath("scoring")
    for file in sorted(folder.iterdir(), key=lambda each: each.name):
        is_styles = file.name == STYLES
        content = render_file(f"scoring/{STYLES}", {}).encode() if is_styles else file.read_bytes()
        files[f"{PAGE_FOLDER}/{file.name}"] = content
    return files

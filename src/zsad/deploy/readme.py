"""Writes the README of a bundle: what it is, how far it is from Python, and how programs run it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from zsad.deploy.bundle import README_FILE
from zsad.files.atomic import atomic_file
from zsad.files.pages import render_file

if TYPE_CHECKING:
    from zsad.deploy.bundle import Bundle


def write_readme(bundle: Bundle, folder: Path) -> Path:
    """Writes `README.md`, whole or not at all.

    Raises:
        OSError: the file cannot be written.
    """
    path = folder / README_FILE
    with atomic_file(path) as file:
        lines = bundle.promise.lines if bundle.promise else ()
        values = {"bundle": bundle, "parity": parity_sentence(bundle), "lines": lines}
        file.write(render_file("bundle_readme.md", values).encode())
    return path


def parity_sentence(bundle: Bundle) -> str:
    """How far the graphs are from Python, without the full stop; "" for a bundle that was not compared."""
    report = bundle.parity
    if report is None:
        return ""
    return (
        f"Compared with Python on {report.source}, one at a time and {report.batch_sizes[-1]} at once: "
        f"scores differ by at most {report.score:.2g}, maps by at most {report.map:.2g} of their range"
    )

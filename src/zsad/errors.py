"""The exceptions that zsad raises for a user to read.

Each message says what came, what was expected and what to do about it. The command line prints the message
as one line and exits; nobody should need the stack trace.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ZsadError(Exception):
    """Base of every error that a user can cause and mend."""


class ConfigError(ZsadError, ValueError):
    """An unknown name or an impossible value in an argument, a configuration or a recipe."""


class ImageReadError(ZsadError, ValueError):
    """An image that cannot be read; the message holds its path and the reason."""


class WeightsError(ZsadError):
    """Weights that are missing, damaged, of another layout, or not to be downloaded while offline."""


class DataError(ZsadError, ValueError):
    """A dataset folder, list or mask that does not have the expected layout."""


class MissingExtraError(ZsadError, ImportError):
    """An optional package is needed; the message holds the line that installs it."""

    def __init__(self, package: str, extra: str | None, purpose: str) -> None:
        wanted = package if extra is None else f"'zsad[{extra}]'"
        super().__init__(f"{purpose} needs the package {package!r}: pip install {wanted}")


def unknown_name(kind: str, name: str, known: Iterable[str]) -> ConfigError:
    """The error for a name that is not in a list, with the nearest one that is.

    Args:
        kind: what is named, in the singular ("method", "backbone", "Config field of anomalyclip").
        name: what came.
        known: the names that would have been accepted.

    Returns:
        A `ConfigError` ready to be raised.

    Example:
        >>> str(unknown_name("method", "winclp", ["winclip", "musc"]))
        "unknown method 'winclp': did you mean 'winclip'? Known: musc, winclip"
    """
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    hint = f" did you mean {near[0]!r}?" if near else ""
    return ConfigError(f"unknown {kind} {name!r}:{hint} Known: {', '.join(names) or 'none'}")


def printable(path: object) -> str:
    """A name on one line that any terminal can print; control characters and lone bytes are escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in str(path))


def one_line(error: BaseException) -> str:
    """An exception's message as one line without control characters, its type's name if it has none."""
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    text = " ".join("".join(character if character.isprintable() else " " for character in text).split())
    return text or type(error).__name__

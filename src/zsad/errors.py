"""The exceptions that zsad raises for a user to read.

Each message says what was given, what was expected and what to do about it. The command line prints the
message as one line and exits; nobody needs the stack trace.
"""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterable


class ZsadError(Exception):
    """Base class of the errors that a user can cause and correct."""


class ConfigError(ZsadError, ValueError):
    """An argument, a setting or a recipe has an unknown name or an impossible value."""


class ImageReadError(ZsadError, ValueError):
    """An image cannot be read; the message names its path and the reason."""


class NotAnImageError(ImageReadError):
    """What was given as an image is something else, such as a text or an archive."""


class ImageTooLargeError(ImageReadError):
    """An image has more pixels, or takes more memory to decode, than the limits allow."""


class ImageWarning(UserWarning):
    """An image was read, but can be read in another way that may be meant.

    Attributes:
        note: what there is to know, without the name of the image.
    """

    def __init__(self, name: str, note: str) -> None:
        super().__init__(f"{name}: {note}")
        self.note = note


class WeightsError(ZsadError):
    """Weights are missing or damaged, have another layout, or cannot be downloaded."""


class DataError(ZsadError, ValueError):
    """A dataset folder, a mask or another file of data does not have the expected content."""


class MissingExtraError(ZsadError, ImportError):
    """An optional package is needed; the message gives the command that installs it."""

    def __init__(self, package: str, extra: str | None, purpose: str) -> None:
        wanted = package if extra is None else f"'{distribution_name()}[{extra}]'"
        super().__init__(f"{purpose} needs the package {package!r}: pip install {wanted}")


class MissingTorchError(ZsadError, ImportError):
    """PyTorch is needed in an environment that can only run exported bundles."""

    def __init__(self) -> None:
        install = "install zsad in place of zsad-runtime (pip uninstall zsad-runtime, pip install zsad)"
        if distribution_name() != RUNTIME_DISTRIBUTION:
            install = "pip install --upgrade --force-reinstall zsad"
        super().__init__(
            "this needs PyTorch, which is not installed here; without it zsad runs exported bundles only "
            f"(--bundle DIR, zsad.load_exported): {install}"
        )


RUNTIME_DISTRIBUTION = "zsad-runtime"
_ONLY_WITH_TORCH = ("torch", "safetensors", "tokenizers", "huggingface_hub", "ftfy", "scipy")


def distribution_name() -> str:
    """What the user installed: "zsad", or "zsad-runtime", the same package without torch."""
    from importlib import metadata  # takes longer than the rest of this module

    for name in ("zsad", RUNTIME_DISTRIBUTION):
        with contextlib.suppress(metadata.PackageNotFoundError):
            metadata.version(name)
            return name
    return "zsad"


def without_torch(error: ModuleNotFoundError) -> Exception:
    """The error to show for a missing module: `MissingTorchError` where the runtime leaves the module out."""
    return MissingTorchError() if (error.name or "").split(".")[0] in _ONLY_WITH_TORCH else error


def unknown_name(kind: str, name: str, known: Iterable[str]) -> ConfigError:
    """The error for an unknown name, with the nearest known name.

    Args:
        kind: kind of the name in the singular ("method", "backbone", "Config field of anomalyclip").
        name: name that was given.
        known: names that are accepted.

    Returns:
        The error, to be raised by the caller.

    Example:
        >>> str(unknown_name("method", "winclp", ["winclip", "musc"]))
        "unknown method 'winclp', did you mean 'winclip'? Known: musc, winclip"
    """
    names = sorted(known)
    by_lower = {known_name.lower(): known_name for known_name in names}
    near = difflib.get_close_matches(name.lower(), by_lower, n=1)
    hint = f", did you mean {by_lower[near[0]]!r}? Known" if near else "; known"
    return ConfigError(f"unknown {kind} {name!r}{hint}: {', '.join(names) or 'none'}")


def printable(path: object) -> str:
    """A name as one line for any terminal; control characters and undecodable bytes are escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in str(path))


LONGEST_MESSAGE = 2000  # characters; messages of libraries can hold whole headers of files


def one_line(error: BaseException) -> str:
    """The message of an exception as one line without control characters; its type if it has no message.

    A message of more than `LONGEST_MESSAGE` characters is cut.
    """
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    text = " ".join("".join(character if character.isprintable() else " " for character in text).split())
    if len(text) > LONGEST_MESSAGE:
        text = f"{text[:LONGEST_MESSAGE]}..."
    return text or type(error).__name__

"""Keeps the packages that decode images from writing on the terminal; safe in threads.

A damaged file becomes one error of zsad, which says what is wrong. What pydicom, nibabel or tifffile warn of
or log about the same file can be pages of its binary content. libtiff writes past Python.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar

# What decoders blame on their caller is blamed on a module here. Notes of zsad for the user are blamed on the
# caller of `read_image`, which is `looking`: those must come through while other threads read.
DECODERS = r"(PIL|pydicom|nibabel|tifffile|imagecodecs|zsad\.images(?!\.looking$))(\.|$)"
_is_reading: ContextVar[bool] = ContextVar("is_reading", default=False)


def _is_wanted(record: logging.LogRecord) -> bool:
    return not _is_reading.get()


for _name in ("pydicom", "nibabel.global", "tifffile"):
    logging.getLogger(_name).addFilter(_is_wanted)


_QUIET_LOCK = threading.Lock()
_quiet_readers: list[warnings.catch_warnings[None]] = []


@functools.cache
def silence_libtiff() -> None:
    """Stops the libtiff inside Pillow from writing on the terminal about damaged files, in this process.

    The library has one handler for all files, to which Pillow offers no access. Its errors still reach
    Python. Where the library cannot be found, it goes on writing.
    """
    with suppress(OSError, AttributeError, TypeError):
        from PIL import _imaging

        library = ctypes.CDLL(_imaging.__file__)  # finds the functions of the libraries that it is linked to
        for name in ("TIFFSetErrorHandler", "TIFFSetWarningHandler"):
            setter = getattr(library, name)
            setter.restype, setter.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
            setter(None)


@contextmanager
def quiet_decoders() -> Iterator[None]:
    """Silences the decoders' packages, their warnings and what they log, while this thread is reading."""
    logging_off = _is_reading.set(True)
    try:
        with _no_warnings():
            yield
    finally:
        _is_reading.reset(logging_off)


@contextmanager
def _no_warnings() -> Iterator[None]:
    """Silences warnings while at least one thread is reading.

    `warnings.catch_warnings` saves and restores a list that belongs to the whole process, so overlapping
    threads would restore it in the wrong order. Here the first thread to enter saves the list, and the last
    one to leave restores it. Where Python keeps the list per thread (3.14, `-X context_aware_warnings`), each
    thread does both.
    """
    if getattr(sys.flags, "context_aware_warnings", False):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=DECODERS)
            yield
        return
    with _QUIET_LOCK:
        saved = warnings.catch_warnings()
        if not _quiet_readers:
            saved.__enter__()
            warnings.filterwarnings("ignore", module=DECODERS)
        _quiet_readers.append(_quiet_readers[0] if _quiet_readers else saved)
    try:
        yield
    finally:
        with _QUIET_LOCK:
            saved = _quiet_readers.pop()
            if not _quiet_readers:
                saved.__exit__(None, None, None)

"""Reads image files and arrays as RGB, and draws and saves heat maps; needs no torch."""

from zsad._lazy import public_names

__getattr__, __dir__, __all__ = public_names(__name__)

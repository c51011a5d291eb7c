"""Reads images of any format and draws heat maps; no torch."""

from zsad._lazy import public_names

__getattr__, __dir__, __all__ = public_names(__name__)

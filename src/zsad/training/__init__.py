"""Trains the weights that a method learns; `zsad train` calls it."""

from zsad._lazy import public_names

__getattr__, __dir__, __all__ = public_names(__name__)

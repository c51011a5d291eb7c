"""Detectors outside of Python: exported bundles, and what runs and serves them."""

from zsad._lazy import public_names

__getattr__, __dir__, __all__ = public_names(__name__)

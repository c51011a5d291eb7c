"""Datasets, their layouts on disk, samples ready for a batch, and synthetic anomalies."""

from zsad._lazy import public_names

__getattr__, __dir__, __all__ = public_names(__name__)

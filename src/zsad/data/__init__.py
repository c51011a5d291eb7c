"""Datasets: the known ones and your own, their layouts, and synthetic anomalies."""

from zsad._lazy import public_names

__getattr__, __dir__, __all__ = public_names(__name__)

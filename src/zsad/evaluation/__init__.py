"""Evaluates methods as the papers do; `zsad evaluate`, `report` and `reproduce` call it."""

from zsad._lazy import public_names

__getattr__, __dir__, __all__ = public_names(__name__)

"""Scores many images and writes tables, overlays and a page; `zsad predict` calls it."""

from zsad._lazy import public_names

__getattr__, __dir__, __all__ = public_names(__name__)

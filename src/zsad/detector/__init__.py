"""From names and files to scores and decisions."""

from zsad._lazy import public_names

__getattr__, __dir__, __all__ = public_names(__name__)

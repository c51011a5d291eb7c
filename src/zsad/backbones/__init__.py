"""CLIP networks, their tokenizer, and the loaders of published weights."""

from zsad._lazy import public_names

__getattr__, __dir__, __all__ = public_names(__name__)

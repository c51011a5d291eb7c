"""One file per system of the literature, found by `zsad.methods._registry` and never listed by hand."""

from zsad._lazy import public_names

__getattr__, __dir__, __all__ = public_names(__name__)

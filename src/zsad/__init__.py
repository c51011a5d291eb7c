"""Zero-shot anomaly detection for images: every CLIP-based system of the literature behind one API.

The names below are imported when they are first used, so that `import zsad` stays as cheap as NumPy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from zsad._version import __version__

if TYPE_CHECKING:
    from zsad.backbones.catalog import list_backbones as list_backbones
    from zsad.detector.detector import Detector as Detector
    from zsad.detector.loading import load as load
    from zsad.methods._registry import list_methods as list_methods
    from zsad.types import MethodInfo as MethodInfo
    from zsad.types import Prediction as Prediction
    from zsad.types import RawOutput as RawOutput
    from zsad.types import Sample as Sample
    from zsad.types import WeightRecord as WeightRecord

_HOME = {
    "Detector": "zsad.detector.detector",
    "load": "zsad.detector.loading",
    "list_methods": "zsad.methods._registry",
    "list_backbones": "zsad.backbones.catalog",
    "MethodInfo": "zsad.types",
    "Prediction": "zsad.types",
    "RawOutput": "zsad.types",
    "Sample": "zsad.types",
    "WeightRecord": "zsad.types",
}
_SUBMODULES = ("metrics", "errors")

__all__ = ["__version__", *sorted(_HOME)]  # noqa: PLE0604 - every name is a key of _HOME


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    if name in _SUBMODULES:
        return importlib.import_module(f"zsad.{name}")
    raise AttributeError(f"module 'zsad' has no attribute {name!r}; it has: {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__, *_SUBMODULES])

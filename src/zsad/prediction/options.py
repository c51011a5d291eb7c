"""Options of `zsad predict`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from zsad.errors import ConfigError, unknown_name
from zsad.images.drawing import SCALES, Scale

if TYPE_CHECKING:
    from zsad.images.saving import FileKind


@dataclass(frozen=True)
class RunOptions:
    """What a run does with each image; the fields are arguments of `zsad.prediction.run.predict_folder`."""

    formats: tuple[FileKind, ...] | None = None
    scale: Scale = "fixed"
    class_name: str | None = None
    threshold: float | None = None
    map_threshold: float | None = None
    explain: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.scale not in SCALES:
            raise unknown_name("scale", str(self.scale), SCALES)
        for name in ("threshold", "map_threshold"):
            value = getattr(self, name)
            if value is not None and not np.isfinite(value):
                raise ConfigError(f"the {name.replace('_', ' ')} must be a finite number, got {value!r}")
        if self.explain is not None:
            from zsad.detector.explanation import checked_phrases  # needs torch, which most arguments do not

            checked_phrases(self.explain)

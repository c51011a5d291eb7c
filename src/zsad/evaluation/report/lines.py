"""What the files of a run hold, field by field; `reading` checks them on reading."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from zsad.errors import DataError
from zsad.evaluation.results import SCHEMA
from zsad.files.fields import Share  # noqa: TC001 - read by from_plain


@dataclass(frozen=True)
class ImageLine:
    """A line of `pictures.jsonl`, as `zsad.evaluation.category` writes it."""

    category: str
    label: Literal[0, 1]
    score: float | None
    path: str = ""
    mask_path: str | None = None
    defect: str = ""
    seconds: float = 0.0
    error: str | None = None


@dataclass(frozen=True)
class Curve:
    """The points of a curve, as many x as y."""

    x: tuple[Share, ...]
    y: tuple[Share, ...]

    def __post_init__(self) -> None:
        if len(self.x) != len(self.y):
            raise DataError(f"has {len(self.x)} x and {len(self.y)} y")


@dataclass(frozen=True)
class Curves:
    """`curves.json`: category -> name of the curve -> points."""

    categories: Mapping[str, Mapping[str, Curve]]
    schema: int = SCHEMA

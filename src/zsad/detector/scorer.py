"""`Scorer`: what calibrations and runs ask of whatever scores their images. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from zsad.images.region import Region
    from zsad.images.tiles import Tile
    from zsad.types import Prediction


class Scorer(Protocol):
    """What scores images, for those who ask no more of it: a `zsad.Detector`, or one that was exported."""

    @property
    def bits(self) -> int | None:
        """Depth of the values in 16-bit files; None for what each file states."""

    @property
    def tile(self) -> Tile:
        """How large images are cut into tiles; None for whole images."""

    @property
    def roi(self) -> Region | None:
        """Region of interest; None for whole images."""

    @property
    def scores_jointly(self) -> bool:
        """Whether images have to be scored all at once."""

    def predict(
        self, inputs: list[Any], classes: str | None = None, batch_size: int | None = None
    ) -> Sequence[Prediction]:
        """Scores several images."""

    def scoring_settings(self) -> dict[str, Any]:
        """Everything that the scores depend on."""

"""Options of `Detector.fit`; no torch."""

from __future__ import annotations

from dataclasses import dataclass

from zsad.detector.calibration.options import CalibrateOptions
from zsad.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class FitOptions(CalibrateOptions):
    """What the verdicts are to achieve, and what becomes of the good images.

    Attributes:
        split: whether every second image is held out for the threshold and is no reference, which gives the
            exact promise of held-out images; otherwise every image is both.
        drop_outliers: whether to leave out images that stand out from the others; otherwise they are named
            and kept.
    """

    split: bool = False
    drop_outliers: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rule != "rate":
            raise ConfigError(
                f'fit has good images only and chooses by "rate", not by "{self.rule}": use calibrate with '
                "references for labelled images"
            )

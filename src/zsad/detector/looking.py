"""Where a detector looks: the region of interest that a user names, and predictions for it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from zsad.detector.decision import Decided
from zsad.errors import ConfigError, ImageReadError, printable
from zsad.images.region import Region

if TYPE_CHECKING:
    from zsad.detector.states import States

SelfT = TypeVar("SelfT", bound="Looking")

RegionInput = Region | str | Path | Sequence[float | str] | NDArray[np.generic] | None
"""A region: "x,y,width,height", four numbers, a mask file, or an (h, w) array, above 0 where to look."""


def as_region(given: RegionInput) -> Region | None:
    """The region that a user names; None for whole images.

    Args:
        given: see `RegionInput`. Whole numbers are pixels; texts like "10%" and decimal numbers up to 1 are
            shares of the image.

    Raises:
        ConfigError: it names no region, or the file is missing or no mask.
    """
    if given is None or isinstance(given, Region):
        return given
    if isinstance(given, np.ndarray) and given.ndim != 1:
        return Region.of_mask(given)
    if not isinstance(given, str | Path):
        return Region.of_box(",".join(map(str, given)))
    file = Path(given).expanduser()
    if not file.exists():
        if "," not in str(given):
            raise ConfigError(
                f"no such mask: {printable(file)}; a region is a mask or x,y,width,height, as in "
                "10%,10%,80%,80%"
            )
        return Region.of_box(str(given))
    from zsad.data.masks import read_mask  # most detectors look at whole images

    try:
        return Region.of_mask(read_mask(file))
    except (ImageReadError, ConfigError) as error:
        raise ConfigError(f"the region {printable(file)} cannot be used: {error}") from error


class Looking(Decided):
    """Base of a detector that can look at a part of its images only.

    Attributes:
        roi: region of interest, to which test images, references and companions are cut; None for all.
    """

    roi: Region | None = None
    _states: States

    def with_roi(self: SelfT, roi: RegionInput) -> SelfT:
        """A copy on the same network that looks at a region of interest only; this object stays as it is.

        Args:
            roi: see `RegionInput`; None for whole images.

        Raises:
            ConfigError: it names no region; references or companions were cut to another one; or the
                calibration is for another one.
        """
        region = as_region(roi)
        if region == self.roi:
            return self
        if self._states.support:
            raise ConfigError(
                "the references or companions were prepared for another region: give the region when the "
                "detector is loaded (zsad.load(..., roi=...)), or set them after with_roi"
            )
        other = copy.copy(self)
        other.roi = region
        if other.calibration is not None:
            other.calibration.check_fits(other.scoring_settings())
        return other

"""The region of interest that a user names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zsad.errors import ConfigError, ImageReadError, printable
from zsad.images.region import Region

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

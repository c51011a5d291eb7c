"""Decodes masks that COCO stores as lengths of runs, column by column, beginning with zeros."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zsad.images.limits import check_size, chosen_reading


def decode_run_lengths(counts: str | Sequence[int], size: Sequence[Any]) -> NDArray[np.bool_]:
    """Decodes a mask.

    Args:
        counts: lengths of the runs, as numbers or in the compressed text of pycocotools.
        size: height and width, in pixels.

    Returns:
        (H, W) bool.

    Raises:
        ValueError: the runs do not fill the mask exactly.
        ImageReadError: the mask has more pixels than images may have.

    Example:
        >>> decode_run_lengths([1, 2, 1], (2, 2)).astype(int).tolist()
        [[0, 1], [1, 0]]
        >>> decode_run_lengths("121", (2, 2)).astype(int).tolist()
        [[0, 1], [1, 0]]
    """
    height, width = (int(value) for value in size)
    check_size(width, height, chosen_reading())
    lengths = _lengths_of_text(counts) if isinstance(counts, str) else [int(count) for count in counts]
    if min(lengths, default=0) < 0 or sum(lengths) != height * width:
        raise ValueError(f"the runs cover {sum(lengths)} of {height * width} pixels")
    values = np.arange(len(lengths)) % 2 == 1
    return np.asarray(np.repeat(values, lengths).reshape(width, height).T)


def _lengths_of_text(text: str) -> list[int]:
    """Decodes the text: groups of 5 bits, the 6th says that more follow; from the third run on, differences.

    Source: `rleFrString` in pycocotools' maskApi.c.
    """
    lengths: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value |= -1 << shift
        lengths.append(value + lengths[-2] if len(lengths) > 2 else value)
        value = shift = 0
    return lengths

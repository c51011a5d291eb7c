"""Chooses some samples of many, for `--limit`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from zsad.types import UNLABELLED

if TYPE_CHECKING:
    from zsad.types import Sample


def spread(samples: Sequence[Sample], limit: int | None) -> tuple[Sample, ...]:
    """Chooses at most `limit` samples, evenly spread over the list, so that every defect keeps its share.

    Each label keeps its share too, and at least one sample if the limit is 2 or more: metrics need both.
    """
    if limit is None or len(samples) <= limit:
        return tuple(samples)
    groups = {
        label: [at for at, sample in enumerate(samples) if sample.label == label]
        for label in (1, 0, UNLABELLED)
    }
    places = sorted(groups.values(), key=len)
    counts = [
        max(int(bool(found) and found is not groups[UNLABELLED]), round(limit * len(found) / len(samples)))
        for found in places
    ]
    counts[-1] = max(0, limit - sum(counts[:-1]))  # the largest group takes what rounding leaves
    chosen = [
        found[int(index)]
        for found, count in zip(places, counts, strict=True)
        for index in np.linspace(0, len(found) - 1, count).round()
    ]
    return tuple(samples[place] for place in sorted(chosen))

"""How scores and explanations are shown, on the page and on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zsad.prediction.records import ResultRecord

FEWEST_DECIMALS, MOST_DECIMALS = 3, 6  # float32 has no more


def score_decimals(scores: Sequence[float]) -> int:
    """The number of decimals, from 3 to 6, that tells different scores apart.

    Example:
        >>> score_decimals([0.1, 0.2]), score_decimals([0.99991, 0.99994])
        (3, 5)
    """
    different = set(scores)
    for decimals in range(FEWEST_DECIMALS, MOST_DECIMALS):
        if len({f"{score:.{decimals}f}" for score in different}) == len(different):
            return decimals
    return MOST_DECIMALS


def ranks(scores: Sequence[float]) -> list[int]:
    """The place of each score, 1 for the highest; equal scores share a place.

    Args:
        scores: scores from the highest to the lowest.

    Example:
        >>> ranks([0.9, 0.5, 0.5, 0.1])
        [1, 2, 2, 4]
    """
    places: list[int] = []
    for place, score in enumerate(scores, start=1):
        is_tied = place > 1 and score == scores[place - 2]
        places.append(places[-1] if is_tied else place)
    return places


def explanation(record: ResultRecord) -> str:
    """The phrase that fits the anomalous region best and its share; "" for an image without one."""
    if record.phrase is None or record.phrase_share is None:
        return ""
    return f"{record.phrase} ({record.phrase_share:.0%})"

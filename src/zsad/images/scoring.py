"""Scores a batch of images; one that fails is tried image by image, so that no image stops the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from zsad.errors import ConfigError, ZsadError, one_line

# What may go wrong with one image while the others are fine. A lack of GPU memory is a RuntimeError.
IMAGE_ERRORS = (ZsadError, OSError, MemoryError, RuntimeError)

Item = TypeVar("Item")
Result = TypeVar("Result")


def score_batch(
    score: Callable[[Sequence[Item]], Sequence[Result]], items: Sequence[Item], *, is_joint: bool = False
) -> list[Result | str]:
    """Scores a batch and gives each image its result or its error.

    Args:
        score: scores several images at once; returns one result per image, in order.
        items: images of the batch, as `score` takes them.
        is_joint: whether the scores depend on all images of the batch, which then fail together.

    Returns:
        One entry per image, in order: its result, or one line that says why there is none.

    Raises:
        ConfigError: `score` refuses an argument, which would be the same for every image.

    Example:
        >>> score_batch(lambda numbers: [10 / number for number in numbers], [1, 4])
        [10.0, 2.5]
    """
    if not items:
        return []
    try:
        return list(score(items))
    except ConfigError:
        raise
    except IMAGE_ERRORS as error:
        reason = one_line(error)
    # Outside of the handler: the traceback would keep the tensors of the failed batch in memory.
    if is_joint or len(items) == 1:
        return [reason] * len(items)
    return [outcome for item in items for outcome in score_batch(score, [item])]

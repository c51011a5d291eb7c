"""Checks of what reaches a method from outside: weights and masks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from zsad.errors import ConfigError, WeightsError
from zsad.files.tensors import mismatches


def check_names(what: str, expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    """Refuses weights whose names or shapes differ from the expected ones.

    Args:
        what: name of the method, for the message.
        expected: tensors of the network, by name.
        found: tensors of the file, by name.

    Raises:
        WeightsError: naming missing, unexpected and wrongly shaped entries (at most five of each).
    """
    wrong = mismatches(expected, found)
    if wrong:
        raise WeightsError(f"these are not weights of {what} for this backbone: {wrong}")


def check_tensors(whose: str, found: Mapping[str, Any]) -> None:
    """Refuses a file that holds anything but tensors where learnt weights belong.

    Raises:
        WeightsError: naming the first entry that is no tensor.
    """
    for name, value in found.items():
        if not isinstance(value, Tensor):
            raise WeightsError(
                f"not a file of {whose}: {name!r} is a {type(value).__name__}, expected a tensor"
            )


def check_masks(masks: Tensor, batch: int, size: int) -> Tensor:
    """Ground-truth masks in one shape.

    Args:
        masks: (B, S, S) or (B, 1, S, S) in {0, 1}.
        batch: B.
        size: S.

    Returns:
        (B, S, S) float32.

    Raises:
        ConfigError: another shape came.
    """
    squeezed = masks[:, 0] if masks.ndim == 4 and masks.shape[1] == 1 else masks
    if squeezed.shape != (batch, size, size):
        raise ConfigError(
            f"masks must be ({batch}, {size}, {size}) like the images, got {tuple(masks.shape)}"
        )
    return squeezed.float()

"""The two files that AA-CLIP's code writes: {"text_adapter": {...}} and {"image_adapter": {...}}.

Entries beside them, such as the state of the optimiser, are ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from zsad.errors import WeightsError
from zsad.methods.functional.checks import check_tensors

ENTRIES = ("text_adapter", "image_adapter")


def official_tensors(state_dict: Mapping[str, Any], *, needs_image: bool = False) -> dict[str, Tensor]:
    """The learnt tensors of the files that were given.

    Args:
        state_dict: content of one file or of both.
        needs_image: whether the text adapter alone is refused.

    Returns:
        Tensors by the name of their entry and their name in it.

    Raises:
        WeightsError: it is no such file, or one of the two is missing; the message names it.
    """
    found = _entries(state_dict)
    learned = {f"{entry}.{name}": each for entry in found for name, each in state_dict[entry].items()}
    check_tensors("AA-CLIP's authors", learned)
    if "text_adapter" not in found:
        raise WeightsError(
            "text_adapter.pth is missing: AA-CLIP's weights are two files, give both as checkpoint, or "
            "their folder"
        )
    if "image_adapter" not in found and needs_image:
        raise WeightsError(
            "image_adapter.pth is missing: AA-CLIP's weights are two files, give both as checkpoint, or "
            'their folder (to begin the second stage with text_adapter.pth alone, give stage="image")'
        )
    return learned


def official_settings(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """`text_adapt_until`, `image_adapt_until` and `relu`, as far as the given files tell them.

    Raises:
        WeightsError: it is no such file.

    Example:
        >>> official_settings({"text_adapter": {"0.fc.0.weight": None, "1.fc.0.weight": None}})
        {'text_adapt_until': 1}
    """
    found = _entries(state_dict)
    settings: dict[str, Any] = {}
    if "text_adapter" in found:
        settings["text_adapt_until"] = len(state_dict["text_adapter"]) - 1
    if "image_adapter" in found:
        names = list(map(str, state_dict["image_adapter"]))
        settings["image_adapt_until"] = sum(name.startswith("layer_adapters.") for name in names)
        settings["relu"] = "det_proj.fc.0.weight" in names
    return settings


def _entries(state_dict: Mapping[str, Any]) -> list[str]:
    """Which of the two files the content comes from."""
    found = [entry for entry in ENTRIES if isinstance(state_dict.get(entry), Mapping) and state_dict[entry]]
    if not found:
        raise WeightsError(
            "not a file of AA-CLIP's authors: expected an entry 'text_adapter' or 'image_adapter', found "
            f"{', '.join(map(str, list(state_dict)[:5])) or 'nothing'}"
        )
    return found

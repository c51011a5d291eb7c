"""The file of learnt weights that the authors of Bayes-PFL write: {"MyModel": {...}}."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from zsad.errors import WeightsError
from zsad.methods.functional.checks import check_tensors

OFFICIAL_ENTRY = "MyModel"
# The same tensors stored again, by the beginning of their names.
COPIES = {
    "PFL_context.encoder.": "context_encoder.",
    "PFL_context.decoder.": "context_decoder.",
    **{
        f"PFL_{state}.{part}.": f"state_{part}."
        for state in ("normal", "abnormal")
        for part in ("encoder", "decoder")
    },
}
# A reconstruction that no loss uses, and a bias that the softmax after it cancels.
UNUSED = ("context_decoder.", "state_decoder.", "PFL_context.p_mu.", "PFL_normal.p_mu.", "PFL_abnormal.p_mu.")
CANCELLED = "fuse.compress.bias"
SHAPES = {
    "prompt_num": ("prompt_context", 0),
    "prompt_context_len": ("prompt_context", 1),
    "prompt_state_len": ("prompt_state_normal", 1),
    "num_flows": ("PFL_normal.amor_b", 1),
}


def official_parameters(state_dict: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of an authors' file that the method uses, each of them once.

    Raises:
        WeightsError: it is no such file, or tensors that must be the same differ.
    """
    entries = state_dict.get(OFFICIAL_ENTRY)
    if not isinstance(entries, Mapping) or not entries:
        raise WeightsError(
            f"not a file of Bayes-PFL's authors: expected an entry {OFFICIAL_ENTRY!r} with 'prompt_context' "
            f"and so on, found {', '.join(map(str, list(state_dict)[:5])) or 'nothing'}"
        )
    tensors = {str(name): tensor for name, tensor in entries.items()}
    check_tensors("Bayes-PFL's authors", tensors)
    for copy, first in COPIES.items():
        for name in [name for name in tensors if name.startswith(copy)]:
            original = first + name.removeprefix(copy)
            if original not in tensors or not torch.equal(tensors[name], tensors[original]):
                raise WeightsError(
                    f"not a file of Bayes-PFL's authors: {name!r} and {original!r} must hold the same numbers"
                )
            del tensors[name]
    return {
        name: tensor for name, tensor in tensors.items() if not name.startswith(UNUSED) and name != CANCELLED
    }


def official_settings(learned: Mapping[str, Tensor]) -> dict[str, int]:
    """The settings that the shapes of an authors' file determine.

    Raises:
        WeightsError: a tensor that tells a setting is missing, or has other axes.

    Example:
        >>> bank = {"prompt_context": torch.zeros(3, 5, 8), "prompt_state_normal": torch.zeros(3, 4, 8)}
        >>> official_settings({**bank, "PFL_normal.amor_b": torch.zeros(1, 10, 1, 1)})
        {'prompt_num': 3, 'prompt_context_len': 5, 'prompt_state_len': 4, 'num_flows': 10}
    """
    missing = missing_names(learned, {name for name, _ in SHAPES.values()})
    if missing:
        raise WeightsError(f"not a whole file of Bayes-PFL's authors: missing: {', '.join(missing)}")
    return {setting: learned[name].shape[axis] for setting, (name, axis) in SHAPES.items()}


def check_layers(learned: Mapping[str, Tensor], layers: Sequence[int]) -> None:
    """Refuses a file that was trained with another number of layers, since it does not tell which ones.

    Args:
        learned: tensors from `official_parameters`.
        layers: layers of the settings.

    Raises:
        WeightsError: the numbers differ.
    """
    count = sum(name.startswith("RCA.linear_proj.") for name in learned)
    if count != len(layers):
        raise WeightsError(
            f"the file holds weights for {count} layers, but features_list names {len(layers)}: {layers}; "
            "give the layers that it was trained with as features_list"
        )


def missing_names(learned: Mapping[str, Tensor], wanted: Collection[str]) -> list[str]:
    """Names that are absent, or whose tensors have fewer than three axes, in alphabetical order."""
    return sorted(name for name in wanted if name not in learned or learned[name].ndim < 3)

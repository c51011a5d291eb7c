"""The file of learnt prompts that AnomalyCLIP's code and its descendants write: {"prompt_learner": {...}}."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from zsad.errors import WeightsError
from zsad.files.tensors import mismatches

# Entries of the authors' files that nothing needs: tokens, which follow from the settings, and unused layers.
UNUSED_IN_FILE = ("compound_prompt_projections.", "token_prefix_", "token_suffix_", "tokenized_prompts_")
DEEP_PROMPT_ENTRY = re.compile(r"(?:compound_prompts_text|compound_prompt_projections)\.(\d{1,3})(?:\.|$)")


def official_prompts(
    state_dict: Mapping[str, Any],
    whose: str,
    contexts: Sequence[str],
    others: Mapping[str, int] | None = None,
) -> dict[str, Tensor]:
    """The learnt tensors of a file {"prompt_learner": {...}}, which AnomalyCLIP's code and its heirs write.

    Args:
        state_dict: content of the file.
        whose: owner of the file, for the messages ("AnomalyCLIP's authors").
        contexts: names of the context vectors that it must hold.
        others: names of other tensors that it must hold, with their numbers of axes; None for none.

    Returns:
        Learnt tensors by name, without token buffers and unused layers.

    Raises:
        WeightsError: it is no such file, or an incomplete one; the message names missing and unexpected
            entries.
    """
    learner = state_dict.get("prompt_learner")
    if not isinstance(learner, Mapping):
        raise WeightsError(
            f"not a file of {whose}: expected an entry 'prompt_learner' with {', '.join(contexts)}, "
            f"found {', '.join(map(str, list(state_dict)[:5])) or 'nothing'}"
        )
    entries = {str(name): tensor for name, tensor in learner.items()}
    learned = {name: tensor for name, tensor in entries.items() if not name.startswith(UNUSED_IN_FILE)}
    for name, tensor in learned.items():
        if not isinstance(tensor, Tensor):
            raise WeightsError(
                f"not a file of {whose}: {name!r} is a {type(tensor).__name__}, expected a tensor"
            )
    absent = torch.empty(0)
    axes = {
        **dict.fromkeys(contexts, 4),
        **dict.fromkeys(_deep_prompt_names(entries), 2),
        **(others or {}),
    }
    wanted = {name: learned.get(name, absent) for name in axes}
    wrong = mismatches(wanted, learned)
    if wrong:
        raise WeightsError(f"not a whole file of {whose}: in 'prompt_learner', {wrong}")
    for name, tensor in learned.items():
        if tensor.ndim != axes[name]:
            raise WeightsError(
                f"not a file of {whose}: {name!r} has {tensor.ndim} axes, expected {axes[name]}"
            )
    return learned


def _deep_prompt_names(entries: Iterable[str]) -> list[str]:
    """The deep prompts that a file must hold; the unused layer beside each shows that one is missing."""
    numbers = [int(found[1]) for found in map(DEEP_PROMPT_ENTRY.match, entries) if found]
    return [f"compound_prompts_text.{number}" for number in range(max(numbers, default=-1) + 1)]


def deep_prompt_settings(learned: Mapping[str, Tensor]) -> dict[str, int]:
    """`depth` and `t_n_ctx` from the shapes of the deep prompts; without deep prompts `t_n_ctx` stays open.

    Example:
        >>> deep_prompt_settings({"compound_prompts_text.0": torch.zeros(4, 64)})
        {'depth': 2, 't_n_ctx': 4}
    """
    deep = [tensor for name, tensor in learned.items() if name.startswith("compound_prompts_text.")]
    return {"depth": len(deep) + 1, **({"t_n_ctx": deep[0].shape[0]} if deep else {})}

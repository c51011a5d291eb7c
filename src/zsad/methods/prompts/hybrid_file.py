"""AdaCLIP's released file: the names in it, and the settings that its shapes tell.

The file is flat: `clip_model.<module>.<parameter>`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from zsad.errors import WeightsError
from zsad.methods.functional.checks import check_tensors

if TYPE_CHECKING:
    from torch import Tensor

ENCODERS = ("visual", "text")
IN_FILE = "clip_model."
UNUSED_IN_FILE = "text_prompter.static_prompts.0"
PROMPTERS = tuple(f"{encoder}_prompter" for encoder in ENCODERS)
GENERATORS = tuple(f"dynamic_{encoder}_prompt_generator" for encoder in ENCODERS)
PROJECTIONS = ("patch_token_layer", "cls_token_layer")


def official_parameters(state_dict: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of an authors' file by their names inside the method.

    Raises:
        WeightsError: it is no such file.
    """
    if not any(str(name).startswith(f"{IN_FILE}patch_token_layer.") for name in state_dict):
        raise WeightsError(
            f"not a file of AdaCLIP's authors: expected names like {IN_FILE}patch_token_layer.head.0.weight, "
            f"found {', '.join(map(str, list(state_dict)[:5])) or 'nothing'}"
        )
    found = {str(name).removeprefix(IN_FILE): value for name, value in state_dict.items()}
    check_tensors("AdaCLIP's authors", found)
    return found


def used_parameters(found: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a file without those of prompts that the settings leave out.

    Args:
        found: tensors of the file, by their names inside the method.
        own: parameters of the method, by name.
    """
    used = {*PROJECTIONS, *(name.split(".")[0] for name in own)}
    left_out = {*PROMPTERS, *GENERATORS} - used
    return {name: value for name, value in found.items() if name.split(".")[0] not in left_out}


def prompt_settings(found: Mapping[str, Tensor]) -> dict[str, Any]:
    """The settings that names and shapes of the prompts determine.

    A file with both kinds of prompts, or with prompts of both encoders, can be run without one of them, so it
    leaves type and branch open.

    Args:
        found: tensors of the file, by their names inside the method.
    """
    static = [numbers_of(found, f"{prompter}.static_prompts") for prompter in PROMPTERS]
    dynamic = [numbers_of(found, f"{generator}.head") for generator in GENERATORS]
    visual, text = static if any(static) else dynamic
    settings: dict[str, Any] = {}
    if any(static) != any(dynamic):
        settings["prompting_type"] = "S" if any(static) else "D"
    if bool(visual) != bool(text):
        settings["prompting_branch"] = "V" if visual else "L"
    if any(static):
        prompts = next(value for name, value in found.items() if ".static_prompts." in name)
        settings["prompting_depth"] = max(visual | text) + 1
        settings["prompting_length"] = prompts.shape[0] if prompts.ndim else 0
    elif any(dynamic):
        settings["prompting_length"] = max(visual | text) + 1
    return settings


def numbers_of(found: Mapping[str, Tensor], list_name: str) -> set[int]:
    """The numbers N of the entries "list_name.N" or "list_name.N.weight"."""
    pattern = re.compile(rf"{re.escape(list_name)}\.(\d+)(\.weight)?")
    return {int(match[1]) for match in map(pattern.fullmatch, found) if match}

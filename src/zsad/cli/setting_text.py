"""Settings typed as KEY=VALUE on a command line, as Python values; no torch."""

from __future__ import annotations

import ast
from typing import Any

from zsad.errors import ConfigError

_WORDS = {"true": True, "yes": True, "false": False, "no": False, "none": None, "null": None}


def parse_setting(pair: str) -> tuple[str, Any]:
    """Splits KEY=VALUE and reads the value as a number, list, true, false or none; anything else is text.

    Args:
        pair: what was typed; several values separated by commas are a list, with or without brackets.

    Returns:
        The name, with - as _, and the value.

    Raises:
        ConfigError: there is no "=" or no name before it.

    Example:
        >>> parse_setting("features_list=6,12,18,24")
        ('features_list', (6, 12, 18, 24))
        >>> parse_setting("sigma=4"), parse_setting("use-hsf=false"), parse_setting("prompt_set=paper")
        (('sigma', 4), ('use_hsf', False), ('prompt_set', 'paper'))
    """
    name, equals, text = pair.partition("=")
    name = name.strip().replace("-", "_")
    if not equals or not name.isidentifier():
        raise ConfigError(f"--set expects KEY=VALUE (as in --set sigma=4), got {pair!r}")
    return name, _value(text.strip())


def _value(text: str) -> Any:
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text

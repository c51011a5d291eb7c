"""Settings that a user typed, checked against a frozen dataclass; no torch."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, Union

from zsad.errors import ConfigError, unknown_name

ConfigT = TypeVar("ConfigT")


def build_config(config_class: type[ConfigT], settings: Mapping[str, Any], owner: str) -> ConfigT:
    """An instance of a `Config` dataclass from settings by name, as they come from Python, YAML or JSON.

    Lists become tuples, whole numbers become floats and mappings become dataclasses where the field says so;
    nothing else is converted.

    Args:
        config_class: a frozen dataclass.
        settings: values by field name; fields left out keep their defaults.
        owner: whose settings these are ("anomalyclip"), for the messages.

    Returns:
        The instance.

    Raises:
        ConfigError: a name is unknown (the message holds the nearest), or a value has the wrong type.

    Example:
        >>> @dataclasses.dataclass(frozen=True)
        ... class Config:
        ...     sigma: float = 4.0
        >>> build_config(Config, {"sigma": 8}, "demo")
        Config(sigma=8.0)
        >>> build_config(Config, {"sigme": 8}, "demo")
        Traceback (most recent call last):
        zsad.errors.ConfigError: unknown setting of demo 'sigme': did you mean 'sigma'? Known: sigma
    """
    assert dataclasses.is_dataclass(config_class)  # noqa: S101 - a programmer's error, not a user's
    known = [field.name for field in dataclasses.fields(config_class)]
    for name in settings:
        if name not in known:
            raise unknown_name(f"setting of {owner}", name, known)
    hints = typing.get_type_hints(config_class)
    values = {}
    for name, value in settings.items():
        matches, converted = _fit(value, hints[name])
        if not matches:
            raise ConfigError(f"{name} of {owner} must be {describe(hints[name])}, got {value!r}")
        values[name] = converted
    return config_class(**values)


def describe(hint: Any) -> str:
    """A type in words that a user can act on.

    Example:
        >>> describe(tuple[int, ...]), describe(Literal["a", "b"]), describe(float | None)
        ('a list of whole numbers', "'a' or 'b'", 'a number or None')
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return " or ".join(map(repr, arguments))
    if origin in (Union, types.UnionType):
        return " or ".join(describe(argument) for argument in arguments)
    if origin is tuple:
        return f"a list of {_PLURAL.get(arguments[0], str(arguments[0]))}"
    if dataclasses.is_dataclass(hint):
        return f"a mapping with some of {', '.join(field.name for field in dataclasses.fields(hint))}"
    return _SINGULAR.get(hint, str(hint))


_SINGULAR = {
    int: "a whole number",
    float: "a number",
    str: "a text",
    bool: "True or False",
    type(None): "None",
}
_PLURAL = {int: "whole numbers", float: "numbers", str: "texts"}


def _fit(value: Any, hint: Any) -> tuple[bool, Any]:
    """Whether a value fits a type, and the value in that type."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return value in arguments, value
    if origin in (Union, types.UnionType):
        fitting = [fitted for matches, fitted in (_fit(value, argument) for argument in arguments) if matches]
        return bool(fitting), fitting[0] if fitting else value
    if origin is tuple:
        is_list = isinstance(value, (list, tuple)) and len(value) > 0
        items = [_fit(item, arguments[0]) for item in value] if is_list else []
        return is_list and all(matches for matches, _ in items), tuple(item for _, item in items)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        return True, build_config(hint, value, hint.__name__)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return True, float(value)
    return isinstance(value, hint) and (hint is bool or not isinstance(value, bool)), value

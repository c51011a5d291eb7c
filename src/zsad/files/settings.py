"""Settings that a user typed, checked against a frozen dataclass; no torch."""

from __future__ import annotations

import dataclasses
import os
import typing
from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeVar

from zsad.errors import ConfigError, unknown_name
from zsad.files.fields import MisfitError, describe, field_hints, fit, shortened

ConfigT = TypeVar("ConfigT")


def build_config(config_class: type[ConfigT], settings: Mapping[str, Any], owner: str) -> ConfigT:
    """An instance of a `Config` dataclass from settings by name, as they come from Python, YAML or JSON.

    Lists become tuples, whole numbers become floats, paths become texts, and mappings become dataclasses
    where the field says so. None becomes "none" where that is one of the words of a field, because the
    command line reads both alike. Nothing else is converted.

    Args:
        config_class: a frozen dataclass.
        settings: values by field name; fields left out keep their defaults.
        owner: name of what the settings belong to ("anomalyclip"), for the messages.

    Returns:
        The instance.

    Raises:
        ConfigError: a name is unknown (the message holds the nearest) or missing, or a value has the wrong
            type, is out of bounds or is not finite.

    Example:
        >>> from dataclasses import dataclass
        >>> @dataclass(frozen=True)
        ... class Config:
        ...     sigma: float = 4.0
        >>> build_config(Config, {"sigma": 8}, "demo")
        Config(sigma=8.0)
        >>> build_config(Config, {"sigme": 8}, "demo")
        Traceback (most recent call last):
        zsad.errors.ConfigError: unknown setting of demo 'sigme', did you mean 'sigma'? Known: sigma
    """
    hints = field_hints(config_class)
    for name in settings:
        if name not in hints:
            raise unknown_name(f"setting of {owner}", name, hints)
    for field in dataclasses.fields(config_class):  # type: ignore[arg-type]
        has_default = not field.default is field.default_factory is dataclasses.MISSING
        if not has_default and field.name not in settings:
            raise ConfigError(f"{owner} needs {field.name}: {describe(hints[field.name])}")
    return config_class(
        **{name: _checked(value, hints[name], name, owner) for name, value in settings.items()}
    )


def one_or_more(value: Any) -> Any:
    """A tuple of what a user gave, one value or several; None stays None.

    Example:
        >>> one_or_more("winclip"), one_or_more(["winclip", "musc"]), one_or_more(3)
        (('winclip',), ('winclip', 'musc'), (3,))
    """
    if value is None:
        return None
    is_one = isinstance(value, str | bytes | os.PathLike) or not isinstance(value, Iterable)
    return (value,) if is_one else tuple(value)


def _checked(value: Any, hint: Any, name: str, owner: str) -> Any:
    """The value of one setting; an empty list is refused, because no setting has a meaning without values."""
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if value is None and typing.get_origin(hint) is Literal and "none" in typing.get_args(hint):
        value = "none"
    try:
        found = fit(value, hint, name, _nested)
    except MisfitError:
        found = ()
    if found == ():
        raise ConfigError(f"{name} of {owner} must be {describe(hint)}, got {shortened(value)}")
    return found


def _nested(config_class: type[Any], settings: Mapping[str, Any], path: str) -> Any:
    return build_config(config_class, settings, config_class.__name__)

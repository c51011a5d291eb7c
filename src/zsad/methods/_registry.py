"""Finds methods in the `methods` folder and among the installed plug-ins; does not import torch.

A module of `zsad.methods` is a method of the same name. Another package adds one with an entry point of the
group "zsad.methods" whose value is such a module or the `Method` subclass itself. Methods are imported when
first used.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import pkgutil
import re
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from zsad.errors import ConfigError, unknown_name

if TYPE_CHECKING:
    from zsad.methods.base import Method

PLUGIN_GROUP = "zsad.methods"
METHODS_FOLDER = Path(__file__).parent
NO_METHODS = ("base", "training")


def list_methods() -> list[str]:
    """The names that `zsad.load(method=...)` accepts, sorted.

    Example:
        >>> "winclip" in list_methods()
        True
    """
    return sorted({*_shipped(), *_plugins()})


def known_name(name: str) -> str:
    """The registry name that a user means, by name or by title; only letters and digits count.

    Raises:
        ConfigError: no method has such a name; the message holds the nearest one.

    Example:
        >>> known_name("AnomalyCLIP"), known_name("April-GAN"), known_name("Clip AC")
        ('anomalyclip', 'april_gan', 'clip_ac')
    """
    names = list_methods()
    if name in names:
        return name
    by_letters = {_letters(each): each for each in names}
    if _letters(name) in by_letters:
        return by_letters[_letters(name)]
    if not difflib.get_close_matches(name.lower(), names, n=1):  # titles take torch, so they come last
        titles = {_letters(method_class(each).INFO.title): each for each in names}
        near = difflib.get_close_matches(_letters(name), titles, n=1, cutoff=0.8)
        if _letters(name) in titles:
            return titles[_letters(name)]
        if near:
            raise ConfigError(
                f"unknown method {name!r}: did you mean {titles[near[0]]!r}? Try `zsad methods`"
            )
    raise unknown_name("method", name, names)


def method_class(name: str) -> type[Method]:
    """Imports a method and returns its class.

    Args:
        name: one of `list_methods()`. A method of this package takes precedence over a plug-in of the same
            name.

    Returns:
        The `Method` subclass.

    Raises:
        ConfigError: the name is unknown, or a plug-in does not hold exactly one method.

    Example:
        >>> method_class("winclip").INFO.title
        'WinCLIP'
    """
    if name in _shipped():
        return _only_method(importlib.import_module(f"zsad.methods.{name}"))
    if name in _plugins():
        found = _plugins()[name].load()
        return _only_method(found) if inspect.ismodule(found) else found
    raise unknown_name("method", name, list_methods())


def _letters(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.casefold())


@lru_cache(maxsize=1)
def _shipped() -> frozenset[str]:
    """Module names in the `methods` folder; a module with a leading underscore is no method."""
    names = (module.name for module in pkgutil.iter_modules([str(METHODS_FOLDER)]) if not module.ispkg)
    return frozenset(name for name in names if name not in NO_METHODS and not name.startswith("_"))


@lru_cache(maxsize=1)
def _plugins() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=PLUGIN_GROUP)}


def _only_method(module: ModuleType) -> type[Method]:
    """The one method that a module defines, not those that it imports; a class with `INFO` is a method."""
    found: list[type[Any]] = [
        member
        for _, member in inspect.getmembers(module, inspect.isclass)
        if hasattr(member, "INFO") and member.__module__ == module.__name__
    ]
    if len(found) != 1:
        raise ConfigError(f"{module.__name__} must define exactly one Method subclass, found {len(found)}")
    return found[0]

"""Options that come together: a dataclass whose fields are options of every command that takes it.

A command names the dataclass as the type of a parameter, and `with_groups` puts the fields in its place. A
command that words an option in another way takes a subclass with a field of the same name.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any, get_type_hints

if TYPE_CHECKING:
    from inspect import Parameter


def with_groups(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose dataclasses of options are replaced by their fields, as typer takes it.

    Args:
        command: command, some of whose keyword parameters have dataclasses as their types.
    """
    signature = inspect.signature(command, eval_str=True)
    groups = {name: each.annotation for name, each in signature.parameters.items() if _is_group(each)}

    @functools.wraps(command)
    def ungrouped(**values: Any) -> None:
        built = {
            name: kind(**{field.name: values.pop(field.name) for field in fields(kind)})
            for name, kind in groups.items()
        }
        command(**values, **built)

    parameters = [one for each in signature.parameters.values() for one in _in_place_of(each)]
    ungrouped.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    ungrouped.__annotations__ = {each.name: each.annotation for each in parameters}
    return ungrouped


def _is_group(parameter: Parameter) -> bool:
    return isinstance(parameter.annotation, type) and is_dataclass(parameter.annotation)


def _in_place_of(parameter: Parameter) -> list[Parameter]:
    """The parameter itself, or one for each field of its dataclass."""
    kind = parameter.annotation
    if not _is_group(parameter):
        return [parameter]
    hints = get_type_hints(kind, include_extras=True)
    return [
        parameter.replace(name=field.name, annotation=hints[field.name], default=field.default)
        for field in fields(kind)
    ]

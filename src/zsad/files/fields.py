"""Checks values against the type hints of dataclass fields; `settings` and `plain` build on it. No torch.

A hint may be `float`, `int`, `str`, `bool`, `None`, `Any`, `Literal`, a union, a tuple, a sequence,
a mapping, a dataclass, or one of these with bounds: `Annotated[float, Above(0)]`.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
import reprlib
import types
import typing
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union

from zsad.errors import ConfigError

LONGEST_SHOWN = 60
DEEPEST = 64  # levels of lists and objects; no file of zsad or of a publisher of weights has ten
LARGEST_NUMBER = 10**308  # beyond it no float holds a whole number
# Half of a surrogate pair is no character. Python writes bytes of file names that are not valid Unicode as
# U+DC80 to U+DCFF, which therefore stay; no file name holds NUL.
NO_TEXT = re.compile("[\x00\ud800-\udc7f\udd00-\udfff]")
NOT_A_NUMBER = "an undefined number is NaN here and null in JSON"

Undefinable = Annotated[float, NOT_A_NUMBER]
"""A number that may be undefined: NaN in Python, null in JSON. A plain `float` has to be finite."""


@dataclass(frozen=True)
class Above:
    """Bound of a number: greater than the limit."""

    limit: float

    def holds(self, value: float) -> bool:
        """Whether a number keeps the bound."""
        return value > self.limit

    def __str__(self) -> str:
        return f"above {self.limit:g}"


@dataclass(frozen=True)
class AtLeast:
    """Bound of a number: the limit or more."""

    limit: float

    def holds(self, value: float) -> bool:
        """Whether a number keeps the bound."""
        return value >= self.limit

    def __str__(self) -> str:
        return f"at least {self.limit:g}"


@dataclass(frozen=True)
class AtMost:
    """Bound of a number: the limit or less."""

    limit: float

    def holds(self, value: float) -> bool:
        """Whether a number keeps the bound."""
        return value <= self.limit

    def __str__(self) -> str:
        return f"at most {self.limit:g}"


Count = Annotated[int, AtLeast(1)]
"""A whole number of things, at least one."""
Share = Annotated[float, AtLeast(0), AtMost(1)]
"""A number from 0 to 1, both included."""


class MisfitError(Exception):
    """A value that does not fit its field; whoever reads the values words the error.

    Attributes:
        path: the field, with the fields and list places that lead to it ("runs[0].seed").
    """

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path} {problem}".lstrip())
        self.path = path


Build = Callable[[type[Any], Mapping[str, Any], str], Any]
"""Makes a nested dataclass from its class, its values by field name, and the path of its field."""


def fit(value: Any, hint: Any, path: str, build: Build) -> Any:  # noqa: PLR0911 - one for each kind of hint
    """A value in the type that a hint asks for.

    Lists become tuples, whole numbers become floats and mappings become dataclasses; nothing else is
    converted.

    Args:
        value: plain value from Python, YAML or JSON.
        hint: type hint of the field.
        path: field that the value belongs to, for the message.
        build: makes nested dataclasses.

    Raises:
        MisfitError: the value has another type, breaks a bound, or is not finite where a number is wanted.

    Example:
        >>> fit([1, 2], tuple[float, ...], "sizes", dict)
        (1.0, 2.0)
        >>> fit(0, Annotated[float, Above(0)], "sigma", dict)
        Traceback (most recent call last):
        zsad.files.fields.MisfitError: sigma must be a number above 0, got 0
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        check_plain(value, path)
        return value
    if hint is str and isinstance(value, str):
        check_plain(value, path)
    if origin is Literal and any(value == each and type(value) is type(each) for each in arguments):
        return value
    if origin is Annotated:
        return _fit_bounded(value, hint, path, build)
    if origin in (Union, types.UnionType):
        return _fit_union(value, hint, path, build)
    if origin in (tuple, Sequence) and isinstance(value, list | tuple):
        return _fit_tuple(value, hint, path, build)
    if origin in (Mapping, dict) and isinstance(value, Mapping):
        return {name: fit(item, arguments[1], f"{path}.{name}", build) for name, item in value.items()}
    if dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        return build(typing.cast("type[Any]", hint), value, path)
    if hint is float and _is_finite(value):
        return float(value)
    if hint is not float and isinstance(hint, type) and _is_instance(value, hint):
        return value
    raise misfit(path, hint, value)


def check_plain(value: Any, path: str) -> None:
    """Refuses what a plain value cannot mean, at any depth: infinite or undefined numbers, broken text.

    Args:
        value: plain value from Python, YAML or JSON; other objects pass.
        path: field that the value belongs to, for the message; "" for a whole file.

    Raises:
        MisfitError: a number is NaN, infinite or beyond 1e308, a text holds NUL or half of a surrogate pair,
            or lists and objects are nested deeper than `DEEPEST`.

    Example:
        >>> check_plain({"sizes": [1, math.inf]}, "")
        Traceback (most recent call last):
        zsad.files.fields.MisfitError: sizes[1] must be a number, got inf
    """
    _check_plain(value, path, 0, set())


def _check_plain(value: Any, path: str, depth: int, seen: set[int]) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise MisfitError(path, f"must be a number, got {value!r}")
    if isinstance(value, int) and abs(value) >= LARGEST_NUMBER:
        raise MisfitError(path, f"must be a number below 1e308, got {shortened(value)}")
    if isinstance(value, str) and NO_TEXT.search(value):
        raise MisfitError(path, f"must be a text without NUL and broken characters, got {shortened(value)}")
    # YAML can name one list many times; looking at it once keeps the time in proportion to the file.
    if isinstance(value, Mapping | list | tuple) and id(value) not in seen:
        seen.add(id(value))
        if depth == DEEPEST:
            raise MisfitError(shortened(path), f"is nested deeper than {DEEPEST} levels")
        for name, item in value.items() if isinstance(value, Mapping) else enumerate(value):
            place = f"[{name}]" if not isinstance(value, Mapping) else f".{name}" if path else f"{name}"
            _check_plain(name, f"a name in {path or 'the file'}", depth, seen)
            _check_plain(item, path + place, depth + 1, seen)


def misfit(path: str, hint: Any, value: Any) -> MisfitError:
    """The error that says what a field must be and what it is."""
    return MisfitError(path, f"must be {describe(hint)}, got {shortened(value)}")


def shortened(value: Any) -> str:
    """A value as Python writes it, cut to what fits on a line, in a time that does not depend on its size."""
    text = _BEGINNING.repr(value)
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}..."


class _Beginning(reprlib.Repr):
    """The beginning of a value as Python writes it."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxdict = 3, 8
        self.maxlist = self.maxtuple = self.maxset = self.maxfrozenset = 8
        self.maxstring = self.maxlong = self.maxother = (
            3 * LONGEST_SHOWN
        )  # cut in the middle, behind what is shown

    def repr_int(self, x: int, level: int) -> str:
        """A whole number; Python does not write those of thousands of digits."""
        return super().repr_int(x, level) if abs(x) < _HUGE else f"{x:#x}"


_HUGE = 10**1000
_BEGINNING = _Beginning()


def check_bounds(config: Any) -> None:
    """Refuses a dataclass with a value outside the bounds of its field; for `__post_init__`.

    Raises:
        ConfigError: naming the first such field, its bound and its value.

    Example:
        >>> @dataclass(frozen=True)
        ... class Config:
        ...     sigma: Annotated[float, AtLeast(0)] = 4.0
        >>> check_bounds(Config(sigma=-1.0))
        Traceback (most recent call last):
        zsad.errors.ConfigError: sigma must be at least 0, got -1.0
    """
    for name, hint in field_hints(type(config)).items():
        value = getattr(config, name)
        broken = [] if value is None else [bound for bound in _bounds(hint) if not bound.holds(value)]
        if broken:
            raise ConfigError(f"{name} must be {' and '.join(map(str, broken))}, got {value!r}")


def field_hints(kind: type[Any]) -> dict[str, Any]:
    """The type hints of a dataclass by field name, with their bounds."""
    return _kept_hints(typing.cast("Hashable", kind))


@functools.cache
def _kept_hints(kind: Any) -> dict[str, Any]:
    hints = typing.get_type_hints(kind, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def describe(hint: Any) -> str:  # noqa: PLR0911 - one for each kind of hint
    """A type in words that a user can act on.

    Example:
        >>> describe(tuple[int, ...]), describe(Literal["a", "b"]), describe(float | None)
        ('a list of whole numbers', "'a' or 'b'", 'a number or None')
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return " or ".join(map(repr, arguments))
    if origin is Annotated:
        words = " and ".join(map(str, _bounds(hint)))
        return f"{describe(arguments[0])} {words}".rstrip()
    if origin in (Union, types.UnionType):
        return " or ".join(describe(argument) for argument in arguments)
    if origin in (tuple, Sequence):
        count = f"{len(arguments)} " if origin is tuple and arguments[-1] is not Ellipsis else ""
        return f"a list of {count}{_PLURAL.get(arguments[0], describe(arguments[0]))}"
    if origin in (Mapping, dict):
        return "a mapping of names to values"
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


def _fit_bounded(value: Any, hint: Any, path: str, build: Build) -> Any:
    inner, *notes = typing.get_args(hint)
    if NOT_A_NUMBER in notes and (value is None or (isinstance(value, float) and math.isnan(value))):
        return math.nan
    try:
        found = fit(value, inner, path, build)
    except MisfitError as error:
        raise (error if error.path != path else misfit(path, hint, value)) from error
    if not all(bound.holds(found) for bound in _bounds(hint)):
        raise misfit(path, hint, value)
    return found


def _fit_union(value: Any, hint: Any, path: str, build: Build) -> Any:
    inner_error = None
    for alternative in typing.get_args(hint):
        try:
            return fit(value, alternative, path, build)
        except MisfitError as error:
            inner_error = error if error.path != path else inner_error
    raise inner_error or misfit(path, hint, value)


def _fit_tuple(value: Any, hint: Any, path: str, build: Build) -> tuple[Any, ...]:
    arguments = typing.get_args(hint)
    is_fixed = typing.get_origin(hint) is tuple and arguments[-1] is not Ellipsis
    kinds = arguments if is_fixed else arguments[:1] * len(value)
    if len(kinds) != len(value):
        raise misfit(path, hint, value)
    pairs = enumerate(zip(value, kinds, strict=True))
    return tuple(fit(item, kind, f"{path}[{place}]", build) for place, (item, kind) in pairs)


def _bounds(hint: Any) -> list[Above | AtLeast | AtMost]:
    """The bounds in a hint, also in one of its alternatives."""
    if typing.get_origin(hint) in (Union, types.UnionType):
        return [bound for alternative in typing.get_args(hint) for bound in _bounds(alternative)]
    notes = typing.get_args(hint)[1:] if typing.get_origin(hint) is Annotated else ()
    return [note for note in notes if isinstance(note, Above | AtLeast | AtMost)]


def _is_instance(value: Any, kind: type[Any]) -> bool:
    """`isinstance`, except that True and False are no numbers."""
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def _is_finite(value: Any) -> bool:
    try:
        return (_is_instance(value, int) or isinstance(value, float)) and math.isfinite(value)
    except OverflowError:  # a whole number that no float can hold
        return False

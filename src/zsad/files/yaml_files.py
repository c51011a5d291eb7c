"""Reads YAML files that a user wrote: recipes and state words."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from zsad.errors import ConfigError
from zsad.files.fields import DEEPEST, MisfitError, check_plain, shortened

if TYPE_CHECKING:
    import yaml

LARGEST = 1_000_000  # bytes; the largest recipe has some thousands
PLAIN = (str, int, float, bool, type(None))


def read_yaml(path: str | Path, example: str) -> dict[str, Any]:
    """Reads a YAML file of names with values, which may be lists and mappings of plain values.

    Aliases (`*name`) are refused, because nine short lines of them stand for a billion values.

    Args:
        path: path of the file.
        example: line that such a file may hold, for the message.

    Raises:
        ConfigError: one line with the file and, where there is one, the field: the file cannot be read, is
            not YAML, names a field twice, uses aliases, or holds something other than plain values.
    """
    path = Path(path)
    try:
        if path.stat().st_size > LARGEST:
            raise ConfigError(
                f"{path}: is larger than {LARGEST / 1e6:g} MB; expected a short file such as '{example}'"
            )
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: must be a text file in UTF-8") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror or error})") from error
    try:
        content = _parsed(text)
        if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
            raise MisfitError("", f"expected names with values, as in '{example}', got {shortened(content)}")
        _check(content, "")
    except MisfitError as error:
        raise ConfigError(f"{path}: {error}") from error
    return content


def _parsed(text: str) -> Any:
    """The values of a YAML text.

    Raises:
        MisfitError: the text is not YAML, or nested too deeply, or uses aliases.
    """
    import yaml

    base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

    class Loader(base):  # type: ignore[misc]
        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> Any:
            _refuse_repeated(node)
            return super().construct_mapping(node, deep=deep)

    try:
        depth = 0
        for event in yaml.parse(text, Loader=base):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > DEEPEST:
                raise MisfitError("", f"is nested deeper than {DEEPEST} levels")
            if isinstance(event, yaml.AliasEvent):
                raise MisfitError("", f"uses the alias *{shortened(event.anchor)[1:-1]}: write the value out")
        return yaml.load(text, Loader)  # noqa: S506 - a safe loader
    except (
        yaml.YAMLError,
        ValueError,
        TypeError,
        RecursionError,
    ) as error:  # ValueError: the 30th of February
        raise MisfitError("", f"is not YAML ({' '.join(str(error).split())[:200]})") from error


def _refuse_repeated(node: yaml.MappingNode) -> None:
    """Refuses a mapping that names a field twice, of which YAML silently takes the last."""
    seen: set[str] = set()
    for name, _ in node.value:
        if isinstance(name.value, str) and name.value in seen:
            raise MisfitError(
                shortened(name.value), f"stands twice, in line {name.start_mark.line + 1} again"
            )
        seen.add(str(name.value))


def _check(value: Any, path: str) -> None:
    """Refuses dates, sets and bytes, which no field of zsad takes, and whatever `check_plain` refuses."""
    if isinstance(value, dict):
        for name, item in value.items():
            _check(item, f"{path}.{name}" if path else str(name))
    elif isinstance(value, list):
        for place, item in enumerate(value):
            _check(item, f"{path}[{place}]")
    elif not isinstance(value, PLAIN):
        raise MisfitError(
            path, f"must be a text, a number or a list, got {shortened(value)}: put it into quotes"
        )
    if not path:
        check_plain(value, path)

"""Prompts written for each product, as full sentences: shipped ones, a user's, or those of a language model.

A file of prompts is a JSON object. It holds, for each class name, two lists of sentences:

    {"metal nut": {"normal": ["a clean metal nut"], "abnormal": ["a scratched metal nut"]}}

"{}" in a sentence stands for the class name. Case, underscores and spaces around a class name do not count.
The entry "default" serves all names without an entry. Needs no torch.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from zsad.errors import ConfigError, one_line
from zsad.files.fields import shortened
from zsad.files.json_text import parse_object
from zsad.files.plain import write_json
from zsad.files.settings import build_config
from zsad.files.yaml_files import read_yaml

DEFAULT = "default"
SENTENCES = 5
SHIPPED_FILE = Path(__file__).with_suffix(".yaml")
REQUEST = (
    "Write {count} short English sentences, one per line and without numbers, about how {product} looks in a "
    "close-up photo of visual inspection if it is {condition}. Name the product in each sentence. Describe "
    "only what a camera sees: shape, surface, colour, parts."
)
"""The request to a language model; a class has one for each of the `CONDITIONS`."""
CONDITIONS = {"normal": "flawless", "abnormal": "defective, with a different kind of defect in each sentence"}

_NUMBER_OR_BULLET = re.compile(r"^\s*(?:[-*\u2022]|\d+[.):])\s*")


@dataclass(frozen=True)
class ClassPrompts:
    """The prompts of one class name.

    Attributes:
        normal: sentences about a normal object, with {} where the class name goes, if it goes anywhere.
        abnormal: sentences about an anomalous object.
    """

    normal: tuple[str, ...]
    abnormal: tuple[str, ...]

    def __post_init__(self) -> None:
        for kind in CONDITIONS:
            sentences = getattr(self, kind)
            if not sentences or not all(isinstance(each, str) and each.strip() for each in sentences):
                raise ConfigError(f"{kind} prompts must be a list of sentences, got {sentences!r}")


class WrittenPrompts:
    """Finds the prompts of a class name: the user's, or else the shipped ones, or else general ones.

    Attributes:
        own: the user's prompts by class name; None for the shipped ones alone.
        normalise: whether the vector of each prompt is brought to length 1 before averaging, and their mean
            after.
    """

    normalise = True

    def __init__(self, own: Mapping[str, ClassPrompts] | None = None) -> None:
        self.own = own
        self._own = {_key(name): prompts for name, prompts in (own or {}).items()}

    def for_class(self, class_name: str) -> tuple[list[str], list[str]]:
        """Normal and abnormal prompts for a class name.

        A warning says so if the user's prompts have none for it.

        Raises:
            ConfigError: the class name is empty.

        Example:
            >>> own = {"nut": ClassPrompts(("a clean {}",), ("a bent {}", "a {} with rust"))}
            >>> WrittenPrompts(own).for_class("Nut")
            (['a clean Nut'], ['a bent Nut', 'a Nut with rust'])
        """
        if not class_name.strip():
            raise ConfigError('a class name must not be empty; leave it out, or write "object"')
        found = self._own.get(_key(class_name)) or self._own.get(DEFAULT)
        if found is None:
            shipped = shipped_prompts()
            found = shipped.get(_key(class_name)) or shipped[DEFAULT]
            if self._own:
                warnings.warn(
                    f"the given prompts have no entry {class_name!r}, so zsad's own serve it; they have: "
                    f"{', '.join(self.own or ())}",
                    stacklevel=2,
                )
        name = class_name.replace("_", " ").strip()
        return tuple([each.replace("{}", name) for each in part] for part in (found.normal, found.abnormal))  # type: ignore[return-value]


@cache
def shipped_prompts() -> Mapping[str, ClassPrompts]:
    """The prompts that ship with zsad: for the classes of MVTec AD and VisA, and the entry "default"."""
    return _entries(
        read_yaml(SHIPPED_FILE, "screw: {normal: [a clean screw], abnormal: [a bent screw]}"), "zsad"
    )


def read_prompts(path: str | Path) -> dict[str, ClassPrompts]:
    """Prompts by class name from a JSON file.

    Args:
        path: path of the file, whose form the module describes.

    Raises:
        DataError: the file is not a JSON object.
        ConfigError: the file cannot be read, or an entry has another form; the message names both.
    """
    try:
        text = Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"prompts: {path} cannot be read ({error.strerror or error})") from error
    return _entries(parse_object(text, str(path)), str(path))


def write_prompts(llm: Callable[[str], str], classes: Sequence[str], path: str | Path) -> Path:
    """Has a language model write the prompts of some classes, once, into a JSON file.

    The file is what the setting `prompts` of the method `grounding` takes. It is written after each class,
    and entries that it already has are kept, so that an interrupted call continues. Read the sentences
    before you use them.

    Args:
        llm: answers a request in words with one sentence on each line; called twice for each class.
        classes: class names.
        path: path of the file.

    Returns:
        The path.

    Raises:
        DataError: there is a file already that is not a JSON object.
        ConfigError: the language model failed or wrote nothing; or there is a file with another content.
    """
    path = Path(path)
    if isinstance(classes, str):
        classes = [classes]
    entries = read_prompts(path) if path.exists() else {}
    known = {_key(name) for name in entries}
    for name in classes:
        if not name.strip():
            raise ConfigError('a class name must not be empty, got ""')
        if _key(name) in known:
            continue
        entries[name] = ClassPrompts(*(_asked(llm, name, condition) for condition in CONDITIONS.values()))
        known.add(_key(name))
        write_json(path, entries)
    return path


def _asked(llm: Callable[[str], str], class_name: str, condition: str) -> tuple[str, ...]:
    """The sentences of a language model on a class in one condition."""
    try:
        answer = llm(
            REQUEST.format(count=SENTENCES, product=class_name.replace("_", " "), condition=condition)
        )
    except Exception as error:  # the user's function may raise anything
        raise ConfigError(f"the language model failed on {class_name!r}: {one_line(error)}") from error
    lines = (_NUMBER_OR_BULLET.sub("", line).strip().strip("\"'") for line in str(answer).splitlines())
    sentences = tuple(line for line in lines if line)
    if not sentences:
        raise ConfigError(
            f"the language model wrote nothing on {class_name!r}; expected a sentence on each line"
        )
    return sentences


def _entries(content: Mapping[str, object], where: str) -> dict[str, ClassPrompts]:
    """The entries of a file, checked."""
    found = {}
    for name, entry in content.items():
        if not isinstance(entry, Mapping):
            raise ConfigError(
                f'{where}: {name!r} must be {{"normal": [...], "abnormal": [...]}}, got {shortened(entry)}'
            )
        found[name] = build_config(ClassPrompts, entry, f"{where}, {name!r}")
    return found


def _key(class_name: str) -> str:
    return class_name.replace("_", " ").strip().casefold()

"""The knowledge base of KAnoCLIP: sentences about normal and anomalous objects.

`knowledge.yaml` beside this file is the list that ships. A user gives another one as a file of the same form,
as a mapping, or as a function that asks a language model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zsad.errors import ConfigError
from zsad.files.fields import shortened
from zsad.files.yaml_files import line_of, read_yaml
from zsad.methods.prompts.templates import PromptSet

KINDS = ("normal", "abnormal")
PACKAGED = Path(__file__).with_suffix(".yaml")
EXAMPLE = "normal: ['a photo of an intact {}.']"

Place = tuple[str | int, ...]


@dataclass(frozen=True)
class Knowledge:
    """Sentences about normal and anomalous objects.

    Attributes:
        normal: sentences with one {} for the object.
        abnormal: sentences with one {} for the object.

    Raises:
        ConfigError: a list is empty, or a sentence has no {} or several; the message names it.

    Example:
        >>> Knowledge(("a photo of an intact {}.",), ("a photo of a torn {}.",)).prompts.for_class("bag")
        (['a photo of an intact bag.'], ['a photo of a torn bag.'])
    """

    normal: tuple[str, ...] = ()
    abnormal: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        fault = find_fault(vars(self))
        if fault is not None:
            raise ConfigError(f"knowledge: {fault[1]}")
        for kind in KINDS:
            object.__setattr__(self, kind, tuple(getattr(self, kind)))

    @property
    def prompts(self) -> PromptSet:
        """The sentences as a prompt set."""
        return PromptSet(self.normal, self.abnormal, ("{}",))


KnowledgeSource = Knowledge | str | Path | Callable[[str], Mapping[str, Sequence[str]]]
"""Sentences, the path of a YAML file of them, or a function from a class name to both lists by name."""


def find_knowledge(source: KnowledgeSource | Mapping[str, Any] | None, class_name: str) -> Knowledge:
    """The sentences that a user chose.

    Args:
        source: sentences, a mapping of both lists, the path of a YAML file, or a function that is asked once;
            None for the list that ships.
        class_name: name that a function is asked about.

    Raises:
        ConfigError: the file cannot be read, or a list or a sentence is missing or wrong; the message names
            the file and the line.
    """
    if isinstance(source, Knowledge):
        return source
    if source is None or isinstance(source, str | Path):
        return read_knowledge(PACKAGED if source is None else source)
    answer = source(class_name) if callable(source) else source
    fault = find_fault(answer)
    if fault is not None:
        asked = f" (the answer of a function about {class_name!r})" if callable(source) else ""
        raise ConfigError(f"knowledge{asked}: {fault[1]}")
    return Knowledge(tuple(answer["normal"]), tuple(answer["abnormal"]))


def read_knowledge(path: str | Path) -> Knowledge:
    """Sentences from a YAML file with the lists `normal` and `abnormal`.

    Raises:
        ConfigError: the file cannot be read, or a list or a sentence is missing or wrong; the message names
            the file and the line.
    """
    path = Path(path).expanduser()
    content = read_yaml(path, EXAMPLE)
    fault = find_fault(content)
    if fault is not None:
        place, problem = fault
        raise ConfigError(f"{path}, line {line_of(path, place)}: {problem}")
    return Knowledge(**{kind: tuple(content[kind]) for kind in KINDS})


def find_fault(content: Any) -> tuple[Place, str] | None:
    """The first thing that is wrong with sentences.

    Args:
        content: what should map "normal" and "abnormal" to lists of sentences.

    Returns:
        Names and list places that lead to it, and one line that says what is wrong; None if nothing is.

    Example:
        >>> find_fault({"normal": ["a clean {}"], "abnormal": ["a torn {}", "a hole"]})
        (('abnormal', 1), "abnormal[1] must be a sentence with one {} for the object, got 'a hole'")
    """
    if not isinstance(content, Mapping):
        return (), f"expected the lists normal and abnormal, got {shortened(content)}"
    for name in content:
        if name not in KINDS:
            return (name,), f"{shortened(name)} is unknown; known lists: normal, abnormal"
    for kind in KINDS:
        sentences = content.get(kind)
        if isinstance(sentences, str) or not isinstance(sentences, Sequence) or not sentences:
            place = (kind,) if kind in content else ()
            return place, f"{kind} must be a list of sentences, got {shortened(sentences)}"
        for number, sentence in enumerate(sentences):
            if not isinstance(sentence, str) or sentence.count("{}") != 1:
                problem = f"must be a sentence with one {{}} for the object, got {shortened(sentence)}"
                return (kind, number), f"{kind}[{number}] {problem}"
    return None

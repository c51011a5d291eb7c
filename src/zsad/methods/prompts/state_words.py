"""A user's own state words and templates in place of a paper's, from Python, YAML or a command line."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path

from zsad.errors import ConfigError
from zsad.files.settings import build_config
from zsad.files.yaml_files import read_yaml
from zsad.methods.prompts.templates import PromptSet, state_of

YAML_SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True)
class StateWords:
    """Words that replace the state words and templates of a paper; None keeps the paper's.

    Attributes:
        normal: states of a good object, as `zsad.methods.prompts.templates.state_of` reads them ("flawless",
            "without scratches"); "{}" is the class name alone.
        abnormal: states of a defective object ("cracked", "with a scratch", "{} covered in rust").
        templates: prompts with one {} for the state ("a photo of a {}.").

    Example:
        >>> StateWords(abnormal=("cracked", "a scratch")).abnormal
        ('cracked', 'a scratch')
    """

    normal: tuple[str, ...] | None = None
    abnormal: tuple[str, ...] | None = None
    templates: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            words = getattr(self, field.name)
            if words is None:
                continue
            if isinstance(words, str) or not words:
                raise ConfigError(f"{field.name} state words must be a list of words, got {words!r}")
            object.__setattr__(self, field.name, tuple(words))
        if self.normal == self.abnormal == self.templates is None:
            raise ConfigError(
                "state_words must hold normal, abnormal or templates; give None to keep the paper's"
            )
        for word in (*(self.normal or ()), *(self.abnormal or ())):
            _state(word)
        for template in self.templates or ():
            if not isinstance(template, str) or template.count("{}") != 1:
                raise ConfigError(
                    f'a template must hold {{}} once, as in "a photo of a {{}}.", got {template!r}'
                )

    def replace_in(self, prompts: PromptSet) -> PromptSet:
        """A prompt set with these words and templates in place of its own.

        Example:
            >>> from zsad.methods.prompts.templates import prompt_set
            >>> own = StateWords(abnormal=("cracked",)).replace_in(prompt_set("two_words"))
            >>> own.for_class("nut")
            (['a photo of a normal nut'], ['a photo of cracked nut'])
        """
        return replace(
            prompts,
            normal_states=prompts.normal_states if self.normal is None else tuple(map(_state, self.normal)),
            abnormal_states=(
                prompts.abnormal_states if self.abnormal is None else tuple(map(_state, self.abnormal))
            ),
            templates=prompts.templates if self.templates is None else self.templates,
        )


def own_prompts(prompts: PromptSet, state_words: StateWords | None) -> PromptSet:
    """The prompt set of a paper, with the user's words in place of its own unless they are None."""
    return prompts if state_words is None else state_words.replace_in(prompts)


def read_state_words(path: str | Path) -> StateWords:
    """State words from a YAML file with some of the lists `normal`, `abnormal` and `templates`.

    Args:
        path: path of the file.

    Raises:
        ConfigError: the file cannot be read, is not YAML, or holds something else; the message names it.
    """
    content = read_yaml(path, "abnormal: [cracked]")
    try:
        return build_config(StateWords, content, "state_words")
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def parse_state_words(text: str) -> StateWords:
    """State words as a user types them: the path of a YAML file, or abnormal states separated by commas.

    Raises:
        ConfigError: the text holds no word, or the file holds no state words.

    Example:
        >>> parse_state_words("cracked, a dent").abnormal
        ('cracked', 'a dent')
    """
    if text.strip().lower().endswith(YAML_SUFFIXES):
        return read_state_words(text.strip())
    words = tuple(word.strip() for word in text.split(",") if word.strip())
    if not words:
        raise ConfigError('give state words such as "cracked,corroded", or a YAML file with lists of them')
    return StateWords(abnormal=words)


def _state(word: str) -> str:
    """A state with {}; unlike a phrase it may be the class name alone."""
    return word if word == "{}" else state_of(word)

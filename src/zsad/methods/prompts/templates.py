"""Hand-written prompts: state words, templates, and the ensembles that the papers build from them.

A prompt set puts every state word into every template, for a normal and an abnormal object. Each of the two
becomes one text vector.

Sources: WinCLIP (2303.14814), supplementary table 6; APRIL-GAN (2305.17382), released prompt list; for the
sets "two_words" and "imagenet" the baselines CLIP and CLIP-AC of AnomalyCLIP (2310.18961), appendix.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from zsad.backbones.tokenizer import tokenize
from zsad.errors import ConfigError, unknown_name
from zsad.methods.prompts.imagenet import IMAGENET_TEMPLATES

if TYPE_CHECKING:
    from zsad.backbones.clip import CLIP

MOST_NAMES_KEPT = 1024

NORMAL_STATES = (
    "{}",
    "flawless {}",
    "perfect {}",
    "unblemished {}",
    "{} without flaw",
    "{} without defect",
    "{} without damage",
)
ABNORMAL_STATES = ("damaged {}", "{} with flaw", "{} with defect", "{} with damage")
APRIL_GAN_ABNORMAL_STATES = ("damaged {}", "broken {}", *ABNORMAL_STATES[1:])

WINCLIP_TEMPLATES = (
    "a cropped photo of a {}.",
    "a cropped photo of the {}.",
    "a close-up photo of a {}.",
    "a close-up photo of the {}.",
    "a bright photo of a {}.",
    "a bright photo of the {}.",
    "a dark photo of a {}.",
    "a dark photo of the {}.",
    "a jpeg corrupted photo of a {}.",
    "a jpeg corrupted photo of the {}.",
    "a blurry photo of a {}.",
    "a blurry photo of the {}.",
    "a photo of a {}.",
    "a photo of the {}.",
    "a photo of a small {}.",
    "a photo of the small {}.",
    "a photo of a large {}.",
    "a photo of the large {}.",
    "a photo of a {} for visual inspection.",
    "a photo of the {} for visual inspection.",
    "a photo of a {} for anomaly detection.",
    "a photo of the {} for anomaly detection.",
)

# The re-implementations lack "a cropped photo of a" and have "a jpeg corrupted photo of the" twice, once in
# place of "of a". Kept as they run it, order included, because published comparisons come from them.
ANOMALIB_TEMPLATES = (
    "a cropped photo of the {}.",
    "a close-up photo of a {}.",
    "a close-up photo of the {}.",
    "a bright photo of a {}.",
    "a bright photo of the {}.",
    "a dark photo of the {}.",
    "a dark photo of a {}.",
    "a jpeg corrupted photo of the {}.",
    "a jpeg corrupted photo of the {}.",
    "a blurry photo of the {}.",
    "a blurry photo of a {}.",
    "a photo of a {}.",
    "a photo of the {}.",
    "a photo of a small {}.",
    "a photo of the small {}.",
    "a photo of a large {}.",
    "a photo of the large {}.",
    "a photo of the {} for visual inspection.",
    "a photo of a {} for visual inspection.",
    "a photo of the {} for anomaly detection.",
    "a photo of a {} for anomaly detection.",
)

APRIL_GAN_TEMPLATES = (
    "a bad photo of a {}.",
    "a low resolution photo of the {}.",
    "a bad photo of the {}.",
    "a cropped photo of the {}.",
    "a bright photo of a {}.",
    "a dark photo of the {}.",
    "a photo of my {}.",
    "a photo of the cool {}.",
    "a close-up photo of a {}.",
    "a black and white photo of the {}.",
    "a bright photo of the {}.",
    "a cropped photo of a {}.",
    "a jpeg corrupted photo of a {}.",
    "a blurry photo of the {}.",
    "a photo of the {}.",
    "a good photo of the {}.",
    "a photo of one {}.",
    "a close-up photo of the {}.",
    "a photo of a {}.",
    "a low resolution photo of a {}.",
    "a photo of a large {}.",
    "a blurry photo of a {}.",
    "a jpeg corrupted photo of the {}.",
    "a good photo of a {}.",
    "a photo of the small {}.",
    "a photo of the large {}.",
    "a black and white photo of a {}.",
    "a dark photo of a {}.",
    "a photo of a cool {}.",
    "a photo of a small {}.",
    "there is a {} in the scene.",
    "there is the {} in the scene.",
    "this is a {} in the scene.",
    "this is the {} in the scene.",
    "this is one {} in the scene.",
)


@dataclass(frozen=True)
class PromptSet:
    """Hand-written prompts for a normal and an abnormal object.

    Attributes:
        normal_states: state words with one {} for the class name.
        abnormal_states: state words with one {} for the class name.
        templates: prompts with one {} for the state.
        normalise: whether the vector of each prompt is brought to length 1 before averaging, and their mean
            after.
    """

    normal_states: tuple[str, ...]
    abnormal_states: tuple[str, ...]
    templates: tuple[str, ...]
    normalise: bool = True

    def for_class(self, class_name: str) -> tuple[list[str], list[str]]:
        """Normal and abnormal prompts for a class name: for each state word, every template.

        Example:
            >>> tiny = PromptSet(("{}",), ("damaged {}",), ("a photo of a {}.", "a photo of the {}."))
            >>> tiny.for_class("screw")[1]
            ['a photo of a damaged screw.', 'a photo of the damaged screw.']
        """
        return (
            compose(self.normal_states, self.templates, class_name),
            compose(self.abnormal_states, self.templates, class_name),
        )


PROMPT_SETS = {
    "two_words": PromptSet(("a normal {}",), ("an anomalous {}",), ("a photo of {}",)),
    "imagenet": PromptSet(("normal {}",), ("anomalous {}",), IMAGENET_TEMPLATES),
    "paper": PromptSet(NORMAL_STATES, ABNORMAL_STATES, WINCLIP_TEMPLATES),
    "anomalib": PromptSet(NORMAL_STATES, ABNORMAL_STATES, ANOMALIB_TEMPLATES, normalise=False),
    "april_gan": PromptSet(NORMAL_STATES, APRIL_GAN_ABNORMAL_STATES, APRIL_GAN_TEMPLATES),
}


def prompt_set(name: str) -> PromptSet:
    """The prompt set of a name.

    Raises:
        ConfigError: the name is unknown.

    Example:
        >>> len(prompt_set("paper").for_class("screw")[0])
        154
    """
    if name not in PROMPT_SETS:
        raise unknown_name("prompt_set", name, PROMPT_SETS)
    return PROMPT_SETS[name]


def compose(states: Sequence[str], templates: Sequence[str], class_name: str) -> list[str]:
    """Every state word in every template.

    Raises:
        ConfigError: the class name is empty.

    Example:
        >>> compose(["{} with flaw"], ["a photo of the {}."], "metal nut")
        ['a photo of the metal nut with flaw.']
    """
    if not class_name.strip():
        raise ConfigError('a class name must not be empty; leave it out, or write "object"')
    # str.replace, because a class name may itself hold braces.
    return [
        template.replace("{}", state.replace("{}", class_name)) for state in states for template in templates
    ]


def state_of(phrase: str) -> str:
    """A state with {} for the class name, from the way people name a defect.

    Args:
        phrase: an adjective, a noun with its article, words that begin with "with" or "without", or a state
            that has its {} already.

    Raises:
        ConfigError: the phrase is no text, is empty, or has more than one {}.

    Example:
        >>> state_of("cracked"), state_of("a scratch"), state_of("with dents"), state_of("torn {}")
        ('cracked {}', '{} with a scratch', '{} with dents', 'torn {}')
    """
    if not isinstance(phrase, str) or not phrase.strip(" {}"):
        raise ConfigError(f'a phrase must be words such as "cracked" or "a scratch", got {phrase!r}')
    words = phrase.strip()
    if words.count("{}") > 1:
        raise ConfigError(f"a phrase holds {{}} once, where the class name goes, got {phrase!r}")
    if "{}" in words:
        return words
    first = words.split()[0].lower()
    if first in ("with", "without"):
        return f"{{}} {words}"
    return f"{{}} with {words}" if first in ("a", "an", "the", "some") else f"{words} {{}}"


def average_vector(backbone: CLIP, prompts: Sequence[str], *, normalise: bool = True) -> Tensor:
    """(E,) float32 mean text vector of several prompts, on the backbone's device.

    Args:
        backbone: network whose text encoder is used.
        prompts: one or more prompts.
        normalise: whether each vector is brought to length 1 before averaging, and their mean after.
    """
    device = backbone.text_projection.device
    vectors = backbone.encode_text(tokenize(prompts, cut=True).to(device)).float()
    if not normalise:
        return vectors.mean(dim=0)
    return F.normalize(F.normalize(vectors, dim=-1).mean(dim=0), dim=0)


class Prompts(Protocol):
    """Finds the prompts of a class name; `PromptSet` is one kind.

    Attributes:
        normalise: as in `PromptSet`.
    """

    @property
    def normalise(self) -> bool: ...  # noqa: D102 - see the class

    def for_class(self, class_name: str) -> tuple[list[str], list[str]]:
        """Normal and abnormal prompts for a class name."""
        ...


class TextEnsemble:
    """Text vectors of prompts, encoded once per class name.

    Attributes:
        prompts: finds the prompts of a name.
    """

    def __init__(self, backbone: CLIP, prompts: Prompts) -> None:
        self.prompts = prompts
        self._backbone = backbone
        self._kept: OrderedDict[str, Tensor] = OrderedDict()

    def encode(self, class_names: Sequence[str]) -> Tensor:
        """One normal and one abnormal vector for each name.

        Args:
            class_names: C names, which may repeat.

        Returns:
            (C, 2, E) float32, on the backbone's device.

        Raises:
            ConfigError: a name is empty.
        """
        device = self._backbone.text_projection.device
        return torch.stack([self._vectors(name).to(device) for name in class_names])

    def _vectors(self, class_name: str) -> Tensor:
        """(2, E) of one name; kept for later calls."""
        if class_name not in self._kept:
            # Later calls may record gradients, where tensors made in inference mode cannot be used.
            with torch.inference_mode(False), torch.no_grad():
                self._kept[class_name] = torch.stack(
                    [
                        average_vector(self._backbone, prompts, normalise=self.prompts.normalise)
                        for prompts in self.prompts.for_class(class_name)
                    ]
                )
        self._kept.move_to_end(class_name)
        vectors = self._kept[class_name]
        while len(self._kept) > MOST_NAMES_KEPT:
            self._kept.popitem(last=False)
        return vectors

"""Domain-aware contrastive prompts: AnoVL's states and templates, which also name the kind of image.

Each normal state has an abnormal counterpart ("perfect", "imperfect"), and the word "photo" of WinCLIP's
templates is replaced by words of the trade, which differ between textures and objects.

Source: AnoVL (2308.15939), section 3.2, and the prompt list of the authors' code, in which no prompt ends
with a full stop.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from zsad.backbones.tokenizer import tokenize
from zsad.methods.prompts.templates import NORMAL_STATES, WINCLIP_TEMPLATES, PromptSet

if TYPE_CHECKING:
    from zsad.backbones.clip import CLIP

MOST_NAMES_KEPT = 64
PROMPTS_AT_ONCE = 256

CONTRASTIVE_NORMAL_STATES = ("normal {}", *NORMAL_STATES[1:])
CONTRASTIVE_ABNORMAL_STATES = (
    "damaged {}",
    "abnormal {}",
    "imperfect {}",
    "blemished {}",
    "{} with flaw",
    "{} with defect",
    "{} with damage",
)
OBJECT_DOMAINS = ("industrial photo", "industrial image", "manufacturing image")
TEXTURE_DOMAINS = ("industrial photo", "textural photo", "surface image")
TEXTURES = ("carpet", "leather", "grid", "tile", "wood")
CLASS_NAMES = {"macaroni1": "macaroni", "macaroni2": "macaroni"}


def domain_templates(domains: Sequence[str]) -> tuple[str, ...]:
    """WinCLIP's 22 templates with each of several words in place of "photo", without full stop.

    Example:
        >>> [template for template in domain_templates(["industrial photo"]) if "visual" in template][0]
        'an industrial photo of a {} for visual inspection'
    """
    return tuple(
        _in_domain(template.removesuffix("."), domain) for domain in domains for template in WINCLIP_TEMPLATES
    )


def _in_domain(template: str, domain: str) -> str:
    """A template with another word for "photo", and the article that suits it."""
    if template.startswith("a photo") and domain[0] in "aeiou":
        return template.replace("a photo", f"an {domain}", 1)
    return template.replace("photo", domain, 1)


OBJECT_PROMPTS = PromptSet(
    CONTRASTIVE_NORMAL_STATES,
    CONTRASTIVE_ABNORMAL_STATES,
    domain_templates(OBJECT_DOMAINS),
    normalise=False,
)
TEXTURE_PROMPTS = PromptSet(
    CONTRASTIVE_NORMAL_STATES,
    CONTRASTIVE_ABNORMAL_STATES,
    domain_templates(TEXTURE_DOMAINS),
    normalise=False,
)


@dataclass(frozen=True)
class ClassTexts:
    """The text vectors of one class name.

    Attributes:
        means: (2, E) float32 unit vectors, normal then abnormal: mean of the vectors of the prompts, which
            are not normalised, brought to length 1 after averaging.
        single: (K, E) float32 unit vectors of the single prompts, the normal ones first.
    """

    means: Tensor
    single: Tensor


class DomainAwareTexts:
    """Text vectors of AnoVL's prompts, encoded once per class name.

    Attributes:
        textures: class names, in lower case, that are surfaces instead of objects.
    """

    def __init__(self, backbone: CLIP, textures: Collection[str] = TEXTURES) -> None:
        self.textures = frozenset(name.lower() for name in textures)
        self._backbone = backbone
        self._kept: OrderedDict[str, ClassTexts] = OrderedDict()

    def prompts(self, class_name: str) -> PromptSet:
        """The prompt set that suits a class name."""
        return TEXTURE_PROMPTS if class_name.strip().lower() in self.textures else OBJECT_PROMPTS

    def encode(self, class_names: Sequence[str]) -> tuple[ClassTexts, ...]:
        """Text vectors of each name; equal names share their tensors.

        Raises:
            ConfigError: a name is empty.
        """
        return tuple(self._texts(name) for name in class_names)

    def _texts(self, class_name: str) -> ClassTexts:
        """Text vectors of one name; kept for later calls."""
        if class_name not in self._kept:
            written = CLASS_NAMES.get(class_name.strip().lower(), class_name)
            # Later calls may record gradients, where tensors made in inference mode cannot be used.
            with torch.inference_mode(False), torch.no_grad():
                vectors = [self._encode(prompts) for prompts in self.prompts(class_name).for_class(written)]
                means = torch.stack([F.normalize(states.mean(dim=0), dim=0) for states in vectors])
                self._kept[class_name] = ClassTexts(means, F.normalize(torch.cat(vectors), dim=-1))
        self._kept.move_to_end(class_name)
        texts = self._kept[class_name]
        while len(self._kept) > MOST_NAMES_KEPT:
            self._kept.popitem(last=False)
        device = self._backbone.text_projection.device
        return ClassTexts(texts.means.to(device), texts.single.to(device))

    def _encode(self, prompts: Sequence[str]) -> Tensor:
        """(P, E) float32 text vectors, not normalised, a few hundred prompts at a time."""
        tokens = tokenize(prompts, cut=True).to(self._backbone.text_projection.device)
        parts = torch.split(tokens, PROMPTS_AT_ONCE)
        return torch.cat([self._backbone.encode_text(part).float() for part in parts])

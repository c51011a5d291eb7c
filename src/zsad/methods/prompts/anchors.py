"""AA-CLIP's anchors: one text vector for normal and one for abnormal, from an adapted text encoder.

Source: AA-CLIP (2503.06661), section 3.2, and the prompt list of the authors' code.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zsad.backbones.tokenizer import tokenize
from zsad.methods.functional.residual_adapters import adapted
from zsad.methods.prompts.templates import PromptSet

if TYPE_CHECKING:
    from zsad.backbones.clip import CLIP

PROMPTS = PromptSet(
    ("{}", "a {}", "the {}"),
    ("a damaged {}", "a broken {}", "a {} with flaw", "a {} with defect", "a {} with damage"),
    ("{}.", "a photo of {}."),
)
NORMAL_PROMPTS = len(PROMPTS.normal_states) * len(PROMPTS.templates)


def anchors(backbone: CLIP, text_adapter: nn.ModuleList, weight: float, names: Sequence[str]) -> Tensor:
    """Mean text vectors of the normal and of the abnormal prompts; gradients reach the adapter.

    Args:
        backbone: network whose text encoder is used.
        text_adapter: adapters after the first layers of the text encoder, and last the head that replaces its
            projection.
        weight: share of the adapters in the tokens.
        names: C names or descriptions of objects, which may repeat.

    Returns:
        (C, 2, E) float32 unit vectors, normal then abnormal.

    Raises:
        ConfigError: a name is empty.
    """
    different = list(dict.fromkeys(names))
    device = backbone.text_projection.device
    prompts = [prompt for name in different for each in PROMPTS.for_class(name) for prompt in each]
    token_ids = tokenize(prompts, backbone.config.text.context_length, cut=True).to(device)
    *adapters, head = text_adapter
    ends = backbone.encode_embeddings(
        backbone.embed_tokens(token_ids),
        token_ids.argmax(dim=-1),
        after=[functools.partial(adapted, adapter=each, weight=weight) for each in adapters],
        head=head,
    )
    vectors = F.normalize(ends.float(), dim=-1).reshape(len(different), -1, ends.shape[-1])
    states = vectors[:, :NORMAL_PROMPTS].mean(dim=1), vectors[:, NORMAL_PROMPTS:].mean(dim=1)
    rows = torch.tensor([different.index(name) for name in names], device=device)
    return F.normalize(torch.stack(states, dim=1), dim=-1)[rows]

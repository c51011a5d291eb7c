"""A pair of learnt prompts that also contain the image: its class token is one of their tokens.

Source: Crane (2504.11055), section on context-guided prompts.

Shapes: B images, L tokens, D text width, n context vectors, E joint width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from zsad.backbones.clip import CLIP
    from zsad.methods.prompts.learners import PromptPairLearner

ContextTokenPlace = Literal["pad_suffix", "pad_prefix", "replace_suffix", "replace_prefix", "none"]


def encode_with_images(
    learner: PromptPairLearner, backbone: CLIP, image_features: Tensor, place: ContextTokenPlace
) -> Tensor:
    """Both prompts, with the class token of each image inside.

    pad_suffix:     [start] V_1 ... V_n image object . [end]
    pad_prefix:     [start] image V_1 ... V_n object . [end]
    replace_suffix: [start] V_1 ... V_(n-1) image object . [end]
    replace_prefix: [start] image V_2 ... V_n object . [end]

    Deep prompts overwrite the first positions, so that a token in front acts in the first layer only.

    Args:
        learner: the prompts.
        backbone: the network that the learner was made for.
        image_features: (B, E) class tokens in the joint space.
        place: place of the token; "none" for prompts without it.

    Returns:
        (B, 2, E) float32, normal then abnormal, not normalised; (1, 2, E) without the token.

    Raises:
        ConfigError: the prompts with the token are longer than the text encoder reads.
    """
    if place == "none":
        return learner.encode(backbone)[None]
    spliced = learner.spliced(backbone)
    images, length = image_features.shape[0], learner.contexts()[0].shape[0]
    tokens = as_text_tokens(image_features, backbone.text_projection).to(spliced.dtype)
    position = 1 if place.endswith("prefix") else 1 + length - place.startswith("replace")
    behind = position + place.startswith("replace")
    prompts = torch.cat(
        [
            spliced[:, :position].expand(images, -1, -1, -1),
            tokens[:, None, None].expand(-1, len(spliced), -1, -1),
            spliced[:, behind:].expand(images, -1, -1, -1),
        ],
        dim=2,
    )
    ends = learner.tokens.argmax(dim=-1) + place.startswith("pad")
    encoded = learner.encode_spliced(backbone, prompts.flatten(0, 1), ends.repeat(images))
    return encoded.reshape(images, len(spliced), -1)


def as_text_tokens(image_features: Tensor, text_projection: Tensor) -> Tensor:
    """Class tokens of length 1, in the width of the text encoder.

    In OpenAI's networks that is the width of the joint space. In others, the transposed projection of the
    text encoder leads back to its width.

    Args:
        image_features: (B, E) class tokens in the joint space.
        text_projection: (D, E).

    Returns:
        (B, D).
    """
    width, joint = text_projection.shape
    unit = F.normalize(image_features, dim=-1)
    if width == joint:
        return unit
    return F.normalize(unit.to(text_projection.dtype) @ text_projection.T, dim=-1)

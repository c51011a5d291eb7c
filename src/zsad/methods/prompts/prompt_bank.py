"""A bank of prompt pairs: learnt words before the class name, moved by samples of distributions.

Source: Bayes-PFL (2503.10080), section 3.1.

Shapes: C rows of class names (1 or B), B images, M prompts of an image, R draws, K pairs of the bank, P
context vectors, Q state vectors, L tokens, D text width, E joint width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from zsad.backbones.tokenizer import padded, token_rows
from zsad.errors import ConfigError

if TYPE_CHECKING:
    from zsad.backbones.clip import CLIP

PLACEHOLDER = "X"
LEAST_TOKENS = 3  # start mark, one word of the class name, end mark
NAMES = {
    **{f"pcb{number}": "printed circuit board" for number in (1, 2, 3, 4)},
    **{f"macaroni{number}": "macaroni" for number in (1, 2)},
    "chewinggum": "chewing gum",
}


def class_prompts(class_names: Sequence[str], learnt: int, context_length: int) -> Tensor:
    """Token ids of "X {class}", where learnt vectors replace the X.

    Args:
        class_names: C names; those of MVTec AD and VisA are spelled out as the authors do.
        learnt: number of learnt vectors, which the prompt must have room for.
        context_length: largest number of tokens of the text encoder.

    Returns:
        (C, L) int64, cut after the longest prompt.

    Raises:
        ConfigError: a name is empty, or the learnt vectors leave no room for one.

    Example:
        >>> class_prompts(["metal_nut"], 10, 77)
        tensor([[49406,   343,  4044,  6491, 49407]])
    """
    if not 1 <= learnt <= context_length - LEAST_TOKENS:
        raise ConfigError(
            f"prompt_context_len and prompt_state_len are {learnt} vectors together: use 1 to "
            f"{context_length - LEAST_TOKENS}"
        )
    prompts = [f"{PLACEHOLDER} {spelled_out(name)}" for name in class_names]
    return padded(token_rows(prompts, context_length - learnt + 1))


def spelled_out(class_name: str) -> str:
    """A class name as the authors write it in a prompt.

    Raises:
        ConfigError: the name is empty.

    Example:
        >>> spelled_out("pcb1"), spelled_out("pipe_fryum"), spelled_out("Screw")
        ('printed circuit board', 'pipe fryum', 'screw')
    """
    name = class_name.strip().lower()
    if not name:
        raise ConfigError('a class name must not be empty; leave it out, or write "object"')
    return NAMES.get(name, name.replace("_", " "))


def shifted_vectors(context: Tensor, states: Tensor, context_shift: Tensor, state_shift: Tensor) -> Tensor:
    """The learnt words of each prompt of each image.

    [ C_k + z_r | N_k + n_r ] for all draws r and pairs k, then [ C_k + z_r | A_k + a_r ]

    Args:
        context: (K, P, D) context vectors C.
        states: (2, K, Q, D) normal states N and abnormal states A.
        context_shift: (B, R, D) z.
        state_shift: (2, R, D) n and a.

    Returns:
        (B, 2 R K, P + Q, D).
    """
    contexts = context + context_shift[:, :, None, None]  # (B, R, K, P, D)
    shifted = states[:, None] + state_shift[:, :, None, None]  # (2, R, K, Q, D)
    images = context_shift.shape[0]
    joined = [
        torch.cat([contexts, state.expand(images, *state.shape)], dim=3) for state in shifted.unbind(dim=0)
    ]
    return torch.stack(joined, dim=1).flatten(1, 3)


def encode_prompts(backbone: CLIP, token_ids: Tensor, vectors: Tensor) -> Tensor:
    """The prompts of each image in the joint space.

    Args:
        backbone: network whose text encoder reads the prompts.
        token_ids: (C, L) from `class_prompts`.
        vectors: (B, M, P + Q, D) what replaces the placeholder.

    Returns:
        (B, M, E) float32 of length 1.
    """
    images, prompts, learnt, _ = vectors.shape
    embedded = backbone.embed_tokens(token_ids)[:, None].expand(-1, prompts, -1, -1)
    embedded = embedded.expand(images, -1, -1, -1)
    words = torch.cat([embedded[:, :, :1], vectors.to(embedded.dtype), embedded[:, :, 2:]], dim=2)
    ends = (token_ids.argmax(dim=-1) + learnt - 1)[:, None].expand(images, prompts)
    features = backbone.encode_embeddings(words.flatten(0, 1), ends.flatten())
    return F.normalize(features.float().reshape(images, prompts, -1), dim=-1)

"""Hybrid prompts: learnt tokens inside an encoder, the same for every image, computed from it, or both.

Shapes: B images, C rows of class names, P prompts of a class, L tokens, n prompt tokens, D encoder width, E
joint width.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zsad.backbones.attention import DeepPrompts
from zsad.backbones.tokenizer import padded, token_rows
from zsad.errors import ConfigError
from zsad.methods.prompts.learners import fresh_parameter
from zsad.methods.prompts.templates import (
    PromptSet,
)

if TYPE_CHECKING:
    from zsad.backbones.clip import CLIP, ClipConfig

if TYPE_CHECKING:
    from zsad.backbones.clip import CLIP
    from zsad.methods.prompts.templates import PromptSet

MOST_NAMES_KEPT = 1024

PAPER_DEPTH = 4


class LinearHeads(nn.Module):
    """Several linear layers of one shape.

    Attributes:
        head: the layers.
    """

    def __init__(self, inputs: int, outputs: int, count: int) -> None:
        super().__init__()
        self.head = nn.ModuleList(nn.Linear(inputs, outputs) for _ in range(count))

    def forward(self, x: Tensor) -> Tensor:
        """Every layer on the same input: (B, inputs) -> (B, count, outputs)."""
        return torch.stack([head(x) for head in self.head], dim=1)

    def each(self, inputs: Sequence[Tensor]) -> Tensor:
        """Each layer on an input of its own.

        Args:
            inputs: one tensor (B, N, inputs) for each layer.

        Returns:
            (B, count, N, outputs).
        """
        return torch.stack([head(x) for head, x in zip(self.head, inputs, strict=True)], dim=1)


class HybridPrompter(nn.Module):
    """The prompt tokens of one encoder: H_j = S_j + D, S_j learnt for layer j and D computed from the image.

    Parameter names are those of AdaCLIP's released file, which counts layers from 0.

    Source: AdaCLIP (2407.15795), section 3.3.

    Attributes:
        layers: 1-based numbers of the prompted layers.
        static_prompts: "j" -> (n, D), the S_j of layer j + 1; empty for dynamic prompt tokens alone.
    """

    def __init__(
        self, layers: Sequence[int], length: int, width: int, *, static: bool, round_to_half: bool
    ) -> None:
        """Fresh static prompt tokens, normal with standard deviation 0.02.

        Args:
            layers: 1-based numbers of the prompted layers.
            length: n, number of prompt tokens in a layer.
            width: D, width of the encoder.
            static: whether there are static prompt tokens.
            round_to_half: whether prompt tokens pass through half precision, as in the authors' code.
        """
        super().__init__()
        self.layers = tuple(layers)
        self.round_to_half = round_to_half
        self.static_prompts = nn.ParameterDict(
            {str(layer - 1): fresh_parameter((length, width)) for layer in self.layers if static}
        )

    def forward(self, dynamic: Tensor | None, rows: int) -> DeepPrompts:
        """The prompt tokens of all layers.

        Args:
            dynamic: (B, n, D), the D of each image; None for static prompt tokens alone.
            rows: R, number of rows that enter the encoder, a multiple of B; the rows of an image are
                adjacent.

        Returns:
            (R, n, D) for each layer. Copies are made before rounding, so that gradients too are rounded once
            per row, as in the authors' code.
        """
        of_images = [] if dynamic is None else [dynamic.repeat_interleave(rows // dynamic.shape[0], dim=0)]
        tokens = {}
        for layer in self.layers:
            static = [self.static_prompts[str(layer - 1)].expand(rows, -1, -1)] if self.static_prompts else []
            prompts = torch.stack(of_images + static).sum(dim=0)
            tokens[layer] = prompts.half().to(prompts.dtype) if self.round_to_half else prompts
        return DeepPrompts(tokens)


def prompt_tokens(prompts: PromptSet, class_names: Sequence[str], context_length: int) -> Tensor:
    """Token ids of all prompts of several classes, cut after the longest of them.

    Args:
        prompts: the prompt set.
        class_names: C names.
        context_length: largest number of tokens that the text encoder reads.

    Returns:
        (C, P, L) int64 on the CPU, the normal prompts of each class before the abnormal ones.

    Raises:
        ConfigError: a name is empty.
    """
    rows = [_prompt_rows(prompts, name, context_length) for name in class_names]
    token_ids = padded([prompt for of_class in rows for prompt in of_class])
    return token_ids.reshape(len(rows), -1, token_ids.shape[1])


@lru_cache(maxsize=MOST_NAMES_KEPT)
def _prompt_rows(prompts: PromptSet, class_name: str, context_length: int) -> list[list[int]]:
    """Token ids of the P prompts of one class."""
    normal, abnormal = prompts.for_class(class_name)
    return token_rows(normal + abnormal, context_length)


def encode_prompted(
    backbone: CLIP,
    token_ids: Tensor,
    normal: int,
    prompter: HybridPrompter | None,
    dynamic: Tensor | None = None,
) -> Tensor:
    """Normal and abnormal text vectors under prompt tokens, averaged as in `TextEnsemble`.

    Args:
        backbone: the network.
        token_ids: (C, P, L).
        normal: number of normal prompts among the P; they come first.
        prompter: prompt tokens of the text encoder; None for none.
        dynamic: (B, n, D) prompt tokens of each image, C = 1 or B; None for static prompt tokens alone.

    Returns:
        (B, 2, E) float32 of length 1, normal then abnormal; (C, 2, E) without dynamic prompt tokens.
    """
    rows, count = token_ids.shape[0] if dynamic is None else dynamic.shape[0], token_ids.shape[1]
    embeddings = backbone.embed_tokens(token_ids).expand(rows, -1, -1, -1).flatten(0, 1)
    ends = token_ids.argmax(dim=-1).expand(rows, -1).flatten()
    prompts = None if prompter is None else prompter(dynamic, rows * count)
    vectors = backbone.encode_embeddings(embeddings, ends, prompts).float()
    unit = F.normalize(vectors, dim=-1).reshape(rows, count, -1)
    means = [part.mean(dim=1) for part in (unit[:, :normal], unit[:, normal:])]
    return F.normalize(torch.stack(means, dim=1), dim=-1)


def resolve_depth(prompting_depth: int | None, branches: str, towers: ClipConfig) -> int:
    """Last prompted layer of the prompted encoders.

    Args:
        prompting_depth: value of the setting; None for 4, or for the number of layers if that is smaller.
        branches: "V", "L" or "VL".
        towers: shape of the image encoder and the text encoder.

    Raises:
        ConfigError: an encoder has fewer layers.
    """
    layers = {"V": towers.vision.layers, "L": towers.text.layers}
    deepest = min(layers[branch] for branch in branches)
    depth = min(PAPER_DEPTH, deepest) if prompting_depth is None else prompting_depth
    if not 1 <= depth <= deepest:
        raise ConfigError(f"prompting_depth {depth}: these encoders can be prompted in 1 to {deepest} layers")
    return depth


def dynamic_prompts(generator: LinearHeads | None, frozen_features: Tensor) -> Tensor | None:
    """Prompt tokens computed from the images.

    Args:
        generator: heads that compute n tokens of width D; None for prompts without dynamic tokens.
        frozen_features: (B, E) features of the images from CLIP's own encoder.

    Returns:
        (B, n, D); None without a generator.
    """
    return None if generator is None else generator(frozen_features)

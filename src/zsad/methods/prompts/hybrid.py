"""Hybrid prompts: learnt tokens inside a tower, the same for every image, made for each image, or both.

Shapes: B images, C rows of class names, P sentences of a class, L tokens, n prompt tokens, D tower width, E
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
from zsad.backbones.tokenizer import tokenize
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
        """Every layer on an input of its own.

        Args:
            inputs: one (B, N, inputs) for each layer.

        Returns:
            (B, count, N, outputs).
        """
        return torch.stack([head(x) for head, x in zip(self.head, inputs, strict=True)], dim=1)


class HybridPrompter(nn.Module):
    """The prompts of one tower: H_j = S_j + D, with S_j learnt for block j and D made from the image.

    Parameter names are those of AdaCLIP's released file, which counts blocks from 0.

    Source: AdaCLIP (2407.15795), section 3.3.

    Attributes:
        blocks: 1-based numbers of the prompted blocks.
        static_prompts: "j" -> (n, D), the S_j of block j + 1; empty for dynamic prompts alone.
    """

    def __init__(
        self, blocks: Sequence[int], length: int, width: int, *, static: bool, round_to_half: bool
    ) -> None:
        """Fresh static prompts, normal with standard deviation 0.02.

        Args:
            blocks: 1-based numbers of the prompted blocks.
            length: n.
            width: D.
            static: whether there are static prompts.
            round_to_half: whether prompts pass through half precision, as in the authors' code.
        """
        super().__init__()
        self.blocks = tuple(blocks)
        self.round_to_half = round_to_half
        self.static_prompts = nn.ParameterDict(
            {str(block - 1): fresh_parameter((length, width)) for block in self.blocks if static}
        )

    def forward(self, dynamic: Tensor | None, rows: int) -> DeepPrompts:
        """The prompts of all blocks.

        Args:
            dynamic: (B, n, D), the D of each image; None for static prompts alone.
            rows: R, of the batch that enters the tower, a multiple of B; those of an image lie together.

        Returns:
            (R, n, D) for each block. Copies are made before rounding, so that gradients too are rounded once
            per row, as in the authors' code.
        """
        of_pictures = [] if dynamic is None else [dynamic.repeat_interleave(rows // len(dynamic), dim=0)]
        tokens = {}
        for block in self.blocks:
            static = [self.static_prompts[str(block - 1)].expand(rows, -1, -1)] if self.static_prompts else []
            prompts = torch.stack(of_pictures + static).sum(dim=0)
            tokens[block] = prompts.half().to(prompts.dtype) if self.round_to_half else prompts
        return DeepPrompts(tokens)


def prompt_tokens(prompts: PromptSet, class_names: Sequence[str], context_length: int) -> Tensor:
    """Token ids of all sentences of some classes, cut after the longest of them.

    Args:
        prompts: the sentences.
        class_names: C names.
        context_length: longest sentence that the text encoder reads.

    Returns:
        (C, P, L) int64 on the CPU, the normal sentences of each class before the abnormal ones.

    Raises:
        ConfigError: a name is empty.
    """
    token_ids = torch.stack([_prompt_tokens(prompts, name, context_length) for name in class_names])
    return token_ids[..., : int(token_ids.argmax(dim=-1).max()) + 1]


@lru_cache(maxsize=MOST_NAMES_KEPT)
def _prompt_tokens(prompts: PromptSet, class_name: str, context_length: int) -> Tensor:
    """(P, context_length) token ids of one class."""
    normal, abnormal = prompts.sentences(class_name)
    with torch.inference_mode(False):  # kept for later calls, which may need gradients
        return tokenize(normal + abnormal, context_length)


def encode_prompted(
    backbone: CLIP,
    token_ids: Tensor,
    normal: int,
    prompter: HybridPrompter | None,
    dynamic: Tensor | None = None,
) -> Tensor:
    """Normal and abnormal text vectors of prompted sentences, ensembled as in `TextEnsemble`.

    Args:
        backbone: the network.
        token_ids: (C, P, L).
        normal: how many of the P sentences are normal; they come first.
        prompter: of the text encoder; None for plain sentences.
        dynamic: (B, n, D) prompts of each image, C = 1 or B; None for static prompts alone.

    Returns:
        (B, 2, E) float32 of length 1, normal then abnormal; (C, 2, E) without dynamic prompts.
    """
    rows, sentences = len(token_ids) if dynamic is None else len(dynamic), token_ids.shape[1]
    embeddings = backbone.embed_tokens(token_ids).expand(rows, -1, -1, -1).flatten(0, 1)
    ends = token_ids.argmax(dim=-1).expand(rows, -1).flatten()
    prompts = None if prompter is None else prompter(dynamic, rows * sentences)
    vectors = backbone.encode_embeddings(embeddings, ends, prompts).float()
    unit = F.normalize(vectors, dim=-1).reshape(rows, sentences, -1)
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

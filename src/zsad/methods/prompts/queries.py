"""GenCLIP's general query prompts: learnt tokens that a normal and an abnormal prompt share.

The features of an image may shift them (vision prompts): one shift for each layer of the image encoder.

Source: GenCLIP (2504.14919), general query prompts and multi-layer vision prompts.

Shapes: B images, T layers of the image encoder, R prompts, n query tokens, L tokens of a prompt, W width of
the image encoder, D width of the text encoder, E joint width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from zsad.backbones.tokenizer import padded, token_rows
from zsad.methods.prompts.learners import (
    INITIAL_STD,
    fresh_deep_prompts,
    fresh_parameter,
    from_layer_2,
    placeholder_tokens,
    splice_context,
)

if TYPE_CHECKING:
    from zsad.backbones.clip import CLIP

ENDINGS = ("{}.", "damaged {}.")
PLACEHOLDER = "X"


def query_token_ids(names: Sequence[str], n_query: int, context_length: int) -> Tensor:
    """Token ids of the normal and the abnormal prompt about each of several things.

    Args:
        names: M names.
        n_query: n, number of query tokens, which stand as placeholders after the start mark.
        context_length: largest number of tokens that the text encoder reads.

    Returns:
        (M, 2, L) int64 on the CPU, normal then abnormal, L the length of the longest prompt.
    """
    start = " ".join([PLACEHOLDER] * n_query)
    prompts = [f"{start} {ending.replace('{}', name)}" for name in names for ending in ENDINGS]
    rows = padded(token_rows(prompts, context_length))
    return rows.reshape(len(names), len(ENDINGS), -1)


def fresh_linear(inputs: int, outputs: int) -> nn.Linear:
    """A linear layer with weights from N(0, 0.02^2) and a bias of 0."""
    linear = nn.Linear(inputs, outputs)
    nn.init.normal_(linear.weight, std=INITIAL_STD)
    nn.init.zeros_(linear.bias)
    return linear


class QueryPrompts(nn.Module):
    """Query tokens, their shifts by an image, and deep prompts of the text encoder.

    Attributes:
        query: (n, D) the query tokens.
        projection: number of a layer of the image encoder -> linear layer W -> D.
        compound_prompts_text: tensors (m, D), the deep prompts of layers 2, 3, ... of the text encoder.
        round_prompts_to_half: whether deep prompts pass through half precision.
    """

    def __init__(
        self,
        backbone: CLIP,
        layers: Sequence[int],
        *,
        n_query: int,
        depth: int,
        t_n_ctx: int,
        round_prompts_to_half: bool,
    ) -> None:
        """Fresh parameters, normal with standard deviation 0.02; biases are 0.

        Args:
            backbone: network whose text encoder reads the prompts.
            layers: T 1-based layers of the image encoder.
            n_query: n, number of query tokens.
            depth: last layer of the text encoder with a deep prompt; 1 for none.
            t_n_ctx: number of deep prompt vectors in a layer.
            round_prompts_to_half: whether deep prompts pass through half precision.

        Raises:
            ConfigError: a value is impossible for this text encoder.
        """
        super().__init__()
        text = backbone.config.text
        placeholder_tokens(n_query, ENDINGS[1].replace("{}", "object"), text.context_length)
        self.round_prompts_to_half = round_prompts_to_half
        self.query = fresh_parameter((n_query, text.width))
        self.projection = nn.ModuleDict(
            {str(layer): fresh_linear(backbone.config.vision.width, text.width) for layer in layers}
        )
        self.compound_prompts_text = fresh_deep_prompts(text, depth, t_n_ctx)

    def shifts(self, layer_means: Tensor) -> Tensor:
        """V_l = W_l m_l + b_l of each layer: (B, T, W) means of the tokens of an image -> (B, T, D)."""
        linears = self.projection.values()
        means = layer_means.unbind(dim=1)
        return torch.stack([linear(mean) for linear, mean in zip(linears, means, strict=True)], dim=1)

    def encode(self, backbone: CLIP, token_ids: Tensor, shifts: Tensor | None = None) -> Tensor:
        """The prompts in the joint space.

        Args:
            backbone: the network that the prompts were made for.
            token_ids: (R, L) from `query_token_ids`, on the backbone's device.
            shifts: (R, D) added to each query token of a prompt; None for the query tokens alone.

        Returns:
            (R, E) float32, not normalised.
        """
        rows = token_ids.shape[0]
        context = self.query.expand(rows, -1, -1)
        if shifts is not None:
            context = context + shifts[:, None]
        embeddings = backbone.embed_tokens(token_ids)
        spliced = splice_context(embeddings, context.to(embeddings.dtype))
        deep_prompts = from_layer_2(self.compound_prompts_text, rows, self.round_prompts_to_half)
        return backbone.encode_embeddings(spliced, token_ids.argmax(dim=-1), deep_prompts).float()

"""The CLIP network: an image encoder (`zsad.backbones.vision`) and a text encoder with one joint space.

Small on purpose, and our own, because every method works inside it: it taps the token stream after chosen
blocks, runs a value-value stream beside it, and inserts learnt tokens before chosen blocks of either encoder.
Parameter names are those of OpenAI's release, so its files load without renaming.

Source: Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision".

Shapes: B images or prompts, S pixels of one side, N = G*G patches, L text tokens, D encoder width, E joint
width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zsad.backbones.attention import DeepPrompts, check_position_interpolation
from zsad.backbones.sharing import sharing_weights
from zsad.backbones.transformer import Mlp, Transformer, check_activation
from zsad.backbones.vision import LAST_ROWS, VisionConfig, VisionOutput, VisionTower, check_image_size
from zsad.errors import ConfigError
from zsad.files.fields import Count  # noqa: TC001 - read by from_plain
from zsad.types import Activation  # noqa: TC001 - read by from_plain

if TYPE_CHECKING:
    from zsad.types import PositionInterpolation, WeightRecord

__all__ = [
    "CLIP",
    "LAST_ROWS",
    "ClipConfig",
    "FactorisedEmbedding",
    "TextConfig",
    "VisionConfig",
    "VisionOutput",
    "VisionTower",
    "check_image_size",
    "overwrite",
]


@dataclass(frozen=True)
class TextConfig:
    """Shape of the text encoder.

    Attributes:
        width: D, width of the encoder.
        layers: number of blocks.
        heads: attention heads of a block.
        context_length: largest number of tokens in a prompt, start and end mark included.
        vocab_size: rows of the token table.
        embedding_rank: inner width of a factorised token table; None for a full table.
    """

    width: Count
    layers: Count
    heads: Count
    context_length: Count = 77
    vocab_size: Count = 49408
    embedding_rank: Count | None = None


@dataclass(frozen=True)
class ClipConfig:
    """Shape of a CLIP.

    Attributes:
        vision: the image encoder.
        text: the text encoder.
        embed_dim: E, width of the joint space.
        activation: activation of the MLPs of both encoders, as the weights were trained.
    """

    vision: VisionConfig
    text: TextConfig
    embed_dim: Count
    activation: Activation


class FactorisedEmbedding(nn.Module):
    """A token table of low rank, which keeps a small model's file small.

    Attributes:
        weight: (V, r).
        projection: (r, D).
    """

    def __init__(self, vocab_size: int, rank: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vocab_size, rank))
        self.projection = nn.Parameter(torch.empty(rank, width))

    def reset_parameters(self) -> None:
        """Random weights whose product has the spread of a full table's."""
        nn.init.normal_(self.weight, std=0.02)
        nn.init.normal_(self.projection, std=self.projection.shape[0] ** -0.5)

    def forward(self, token_ids: Tensor) -> Tensor:
        """(B, L) ids -> (B, L, D)."""
        return F.embedding(token_ids, self.weight) @ self.projection


class CLIP(nn.Module):
    """Image encoder, text encoder and the joint space of both.

    Attributes:
        config: the network's shape.
        record: record of the weights, which says how images are prepared; None for random weights.
        exact_fingerprint: digest of the weights before they were rounded to a lower precision, as
            `zsad.backbones.loading.backbone_fingerprint` gives it; None if they were not rounded.
        visual: the image encoder.
        logit_scale: scalar, natural logarithm of the inverse temperature.
    """

    def __init__(
        self,
        config: ClipConfig,
        record: WeightRecord | None = None,
        position_interpolation: PositionInterpolation = "bicubic_antialias",
    ) -> None:
        super().__init__()
        check_position_interpolation(position_interpolation)
        self.config = config
        self.record = record
        self.exact_fingerprint: str | None = None
        text = config.text
        self.visual = VisionTower(config.vision, config.embed_dim, config.activation, position_interpolation)
        self.token_embedding: nn.Embedding | FactorisedEmbedding = (
            nn.Embedding(text.vocab_size, text.width)
            if text.embedding_rank is None
            else FactorisedEmbedding(text.vocab_size, text.embedding_rank, text.width)
        )
        self.positional_embedding = nn.Parameter(torch.empty(text.context_length, text.width))
        self.transformer = Transformer(text.width, text.layers, text.heads, config.activation)
        self.ln_final = nn.LayerNorm(text.width)
        self.text_projection = nn.Parameter(torch.empty(text.width, config.embed_dim))
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Random weights of the text encoder for training from scratch."""
        if isinstance(self.token_embedding, FactorisedEmbedding):
            self.token_embedding.reset_parameters()
        else:
            nn.init.normal_(self.token_embedding.weight, std=0.02)
        nn.init.normal_(self.positional_embedding, std=0.01)
        nn.init.normal_(self.text_projection, std=self.config.text.width**-0.5)
        self.transformer.reset_parameters()

    @property
    def position_interpolation(self) -> PositionInterpolation:
        """How the image encoder resizes its position table; `view` gives a network with another way."""
        return self.visual.position_interpolation

    def view(
        self,
        activation: Activation | None = None,
        position_interpolation: PositionInterpolation | None = None,
    ) -> CLIP:
        """The same weights, run differently: several methods can use one network, each through its own view.

        Args:
            activation: activation of the MLPs of both encoders; None keeps this network's.
            position_interpolation: how the position table is resized; None keeps this network's way.

        Returns:
            A network of new modules that share the memory of the weights; see
            `zsad.backbones.sharing.sharing_weights`.

        Raises:
            ConfigError: an unknown name.
        """
        twin = sharing_weights(self)
        if activation is not None:
            for module in twin.modules():
                if isinstance(module, Mlp):
                    module.activation = check_activation(activation)
        if position_interpolation is not None:
            check_position_interpolation(position_interpolation)
            twin.visual.position_interpolation = position_interpolation
        return twin

    def encode_image(self, images: Tensor) -> Tensor:
        """Images in the joint space.

        Args:
            images: (B, 3, S, S) normalised images, S a multiple of the patch size.

        Returns:
            (B, E), not normalised.
        """
        return self.visual.project(self.visual(images).class_token)

    def encode_text(self, token_ids: Tensor) -> Tensor:
        """Prompts in the joint space.

        Args:
            token_ids: (B, L) from `zsad.backbones.tokenizer`; the largest id is the end mark.

        Returns:
            (B, E), not normalised.
        """
        return self.encode_embeddings(self.embed_tokens(token_ids), token_ids.argmax(dim=-1))

    def embed_tokens(self, token_ids: Tensor) -> Tensor:
        """Token embeddings without positions, (B, L) -> (B, L, D); prompt learners replace some rows."""
        embedded: Tensor = self.token_embedding(token_ids)
        return embedded

    def encode_embeddings(
        self,
        embeddings: Tensor,
        end_positions: Tensor,
        deep_prompts: DeepPrompts | None = None,
        after: Sequence[Callable[[Tensor], Tensor]] = (),
        head: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Prompts in the joint space, from their token embeddings.

        Attention is causal, so what follows the end mark of a prompt has no influence, and callers save time
        if they cut the prompts after the longest one. They are not cut here, because a GPU would have to wait
        for the positions.

        Args:
            embeddings: (B, L, D) without positions.
            end_positions: (B,) index of the end mark of each prompt.
            deep_prompts: tokens that overwrite positions before chosen blocks.
            after: changes of the tokens (B, L, D) after the first blocks (AA-CLIP's adapters).
            head: replaces the projection into the joint space.

        Returns:
            (B, E), not normalised.

        Raises:
            ConfigError: the prompts or the deep prompts do not fit into the text encoder.
        """
        context = self.config.text.context_length
        if embeddings.shape[1] > context:
            raise ConfigError(
                f"prompts of {embeddings.shape[1]} tokens; the text encoder reads at most {context}"
            )
        chosen = deep_prompts or DeepPrompts({})
        chosen.check(self.config.text.layers)
        x = embeddings + self.positional_embedding[: embeddings.shape[1]]
        images, length = x.shape[:2]
        places = torch.arange(length, device=x.device)
        x = overwrite(x, chosen.before(1, images, x), chosen.start)
        *blocks, last = self.transformer.blocks()
        for number, block in enumerate(blocks, start=1):
            prompts = chosen.before(number + 1, images, x)
            if prompts is None:
                x = block(x, causal=True)
            else:
                # What the next block overwrites is only seen by the others, and not computed itself.
                prompts = prompts[:, : max(length - chosen.start, 0)]
                kept = torch.cat([places[: chosen.start], places[chosen.start + prompts.shape[1] :]])
                x = block.forward_some(x[:, kept], x, kept[:, None] >= places)
            if number <= len(after):
                x = after[number - 1](x)
            if prompts is not None:
                x = torch.cat([x[:, : chosen.start], prompts, x[:, chosen.start :]], dim=1)
        end_positions = end_positions.to(x.device)
        end = x[torch.arange(images, device=x.device), end_positions][:, None]
        end = last.forward_some(end, x, end_positions[:, None, None, None] >= places)
        if len(after) > len(blocks):
            end = after[len(blocks)](end)
        end = self.ln_final(end[:, 0])
        features: Tensor = end @ self.text_projection if head is None else head(end)
        return features


def overwrite(x: Tensor, prompts: Tensor | None, start: int) -> Tensor:
    """Replaces the rows from `start` on, as many as there are prompts.

    Args:
        x: (B, L, D).
        prompts: (B, n, D), or None to change nothing.
        start: first row replaced.

    Returns:
        (B, L, D); prompts that reach past L are cut, since causal attention hides them from every row kept.
    """
    if prompts is None:
        return x
    kept = prompts[:, : max(x.shape[1] - start, 0)]
    return torch.cat([x[:, :start], kept, x[:, start + prompts.shape[1] :]], dim=1)

"""CLIP's two encoders in plain operations, for the implementations beside this file.

Shapes: B images or prompts, L tokens, D width, H heads, d = D / H, E joint width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from zsad.backbones.clip import CLIP

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]
"""From query, key and value, all (B, H, L, d), to what is gathered, (B, H, L, d)."""


def softmax_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """Returns softmax(Q K^T / sqrt(d) + mask) V with the whole matrix in memory."""
    scores = (query @ key.transpose(-2, -1)) * query.shape[-1] ** -0.5
    if mask is not None:
        scores = scores + mask
    return scores.softmax(dim=-1) @ value


def value_value_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Returns softmax(V V^T / sqrt(d)) V."""
    return softmax_attention(value, value, value)


@dataclass(frozen=True)
class Encoder:
    """A stack of pre-norm blocks.

    Attributes:
        weights: weights of the encoder, under OpenAI's names.
        heads: H.
        activation: "quick_gelu" or "gelu".
    """

    weights: Mapping[str, Tensor]
    heads: int
    activation: str

    @property
    def layers(self) -> int:
        """Number of blocks."""
        return sum(name.endswith("ln_1.weight") for name in self.weights)

    def norm(self, x: Tensor, name: str) -> Tensor:
        """Applies the layer norm of a name."""
        return F.layer_norm(x, x.shape[-1:], self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

    def heads_of(self, x: Tensor, number: int) -> tuple[Tensor, Tensor, Tensor]:
        """Passes tokens (B, L, D) through the first norm of a block to query, key and value (B, H, L, d)."""
        block = f"transformer.resblocks.{number - 1}"
        joint = F.linear(
            self.norm(x, f"{block}.ln_1"),
            self.weights[f"{block}.attn.in_proj_weight"],
            self.weights[f"{block}.attn.in_proj_bias"],
        )
        query, key, value = joint.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        return query, key, value

    def merged(self, attended: Tensor, number: int) -> Tensor:
        """Passes (B, H, L, d) through the output projection of a block."""
        block = f"transformer.resblocks.{number - 1}"
        return F.linear(
            attended.transpose(1, 2).flatten(2),
            self.weights[f"{block}.attn.out_proj.weight"],
            self.weights[f"{block}.attn.out_proj.bias"],
        )

    def with_mlp(self, x: Tensor, number: int) -> Tensor:
        """Adds the MLP of a block to (B, L, D)."""
        block = f"transformer.resblocks.{number - 1}"
        hidden = F.linear(
            self.norm(x, f"{block}.ln_2"),
            self.weights[f"{block}.mlp.c_fc.weight"],
            self.weights[f"{block}.mlp.c_fc.bias"],
        )
        hidden = hidden * torch.sigmoid(1.702 * hidden) if self.activation == "quick_gelu" else F.gelu(hidden)
        return x + F.linear(
            hidden, self.weights[f"{block}.mlp.c_proj.weight"], self.weights[f"{block}.mlp.c_proj.bias"]
        )

    def block(self, x: Tensor, number: int, mask: Tensor | None = None) -> Tensor:
        """Passes (B, L, D) through a block, counted from 1."""
        attended = softmax_attention(*self.heads_of(x, number), mask)
        return self.with_mlp(x + self.merged(attended, number), number)


@dataclass(frozen=True)
class ImageEncoder(Encoder):
    """The image encoder.

    Attributes:
        embedding: from images (B, 3, S, S) to patches (B, D, G, G).
        positions: from the side G of the patch grid to positions (1 + G * G, D); the authors' codes resize
            their tables once.
    """

    embedding: Callable[[Tensor], Tensor]
    positions: Callable[[int], Tensor]

    def embed(self, images: Tensor) -> Tensor:
        """Turns images into tokens (B, 1 + N, D), class token first."""
        patches = self.embedding(images.to(self.weights["class_embedding"].dtype))
        class_token = self.weights["class_embedding"].expand(len(images), 1, -1)
        tokens = torch.cat([class_token, patches.flatten(2).transpose(1, 2)], dim=1)
        return self.norm(tokens + self.positions(patches.shape[-1]), "ln_pre")

    def projected(self, tokens: Tensor) -> Tensor:
        """Passes (..., D) into the joint space, (..., E)."""
        return (tokens @ self.weights["proj"]).float()

    def joint(self, tokens: Tensor) -> Tensor:
        """Passes (..., D) through the last norm and into the joint space, (..., E)."""
        return self.projected(self.norm(tokens, "ln_post"))

    def tokens(self, images: Tensor) -> dict[int, Tensor]:
        """Returns the tokens (B, 1 + N, D) after each block."""
        x, kept = self.embed(images), {}
        for number in range(1, self.layers + 1):
            x = kept[number] = self.block(x, number)
        return kept

    def two_streams(
        self, images: Tensor, first: int, attention: Attention = value_value_attention
    ) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
        """Returns the original stream and a second one, (B, 1 + N, D) after each block.

        Args:
            images: (B, 3, S, S).
            first: first block of the second stream, which is the original one before it.
            attention: what each block adds to the second stream, of the original one's heads.
        """
        x = second = self.embed(images)
        original, beside = {}, {}
        for number in range(1, self.layers + 1):
            if number >= first:
                heads = self.heads_of(x, number)
                second = second + self.merged(attention(*heads), number)
                x = x + self.merged(softmax_attention(*heads), number)
                x = self.with_mlp(x, number)
            else:
                x = second = self.block(x, number)
            original[number], beside[number] = x, second
        return original, beside


@dataclass(frozen=True)
class TextEncoder(Encoder):
    """The text encoder."""

    def encode(self, embeddings: Tensor, ends: Tensor, deep_prompts: Sequence[Tensor] = ()) -> Tensor:
        """Turns prompts into features.

        Args:
            embeddings: (B, L, D) embeddings of the tokens, without positions.
            ends: (B,) position of the end mark.
            deep_prompts: (m, D) vectors that replace positions 1 to m before block 2, 3, ...

        Returns:
            (B, E), not normalised.
        """
        x = embeddings + self.weights["positional_embedding"][: embeddings.shape[1]]
        mask = torch.full((x.shape[1], x.shape[1]), -torch.inf, dtype=x.dtype).triu(diagonal=1)
        for number in range(1, self.layers + 1):
            if 2 <= number <= 1 + len(deep_prompts):
                vectors = deep_prompts[number - 2].half().to(x.dtype).expand(len(x), -1, -1)
                x = torch.cat([x[:, :1], vectors, x[:, 1 + vectors.shape[1] :]], dim=1)
            x = self.block(x, number, mask)
        ends_of = self.norm(x, "ln_final")[torch.arange(len(x)), ends]
        return (ends_of @ self.weights["text_projection"]).float()


def image_encoder(backbone: CLIP) -> ImageEncoder:
    """Makes the plain image encoder of a network; a hybrid stem stays the network's own."""
    visual = backbone.visual
    config = visual.config

    def embedding(images: Tensor) -> Tensor:
        if config.stem == "patch":
            return F.conv2d(images, visual.conv1.weight, stride=config.patch_size)
        return visual.stem.embed(visual.stem.pyramid(images))

    activation = visual.transformer.blocks()[0].mlp.activation
    return ImageEncoder(visual.state_dict(), config.heads, activation, embedding, visual.positions)


def text_encoder(backbone: CLIP) -> TextEncoder:
    """Makes the plain text encoder of a network."""
    weights = {name: each for name, each in backbone.state_dict().items() if not name.startswith("visual.")}
    activation = backbone.transformer.blocks()[0].mlp.activation
    return TextEncoder(weights, backbone.config.text.heads, activation)

"""Self-attention with a value-value stream beside it, deep prompts, and the resizing of position tables.

Shapes: B images or prompts, L tokens, D width, H heads, d = D / H, N patches, G*G = N the patch grid.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zsad.backbones.scaled_dot_product import attend
from zsad.errors import ConfigError, unknown_name
from zsad.types import PositionInterpolation

POSITION_INTERPOLATIONS: tuple[PositionInterpolation, ...] = get_args(PositionInterpolation)


@dataclass(frozen=True)
class DeepPrompts:
    """Learnt tokens that enter an encoder before chosen blocks.

    The image encoder appends them after the patches at the first prompted block and replaces them at the
    later ones; the text encoder overwrites the positions `start`, `start + 1`, ... of the prompt.

    Attributes:
        tokens: 1-based block number -> (n, D), or (B, n, D) where each item has its own.
        start: first overwritten position of the text encoder; the image encoder does not use it.
    """

    tokens: Mapping[int, Tensor]
    start: int = 1

    def before(self, block: int, batch: int, like: Tensor) -> Tensor | None:
        """A block's prompts as (B, n, D) in the type and on the device of `like`; None if it has none."""
        prompts = self.tokens.get(block)
        if prompts is None:
            return None
        return prompts.to(dtype=like.dtype, device=like.device).expand(batch, -1, -1)

    def check(self, layers: int) -> None:
        """Refuses block numbers outside 1..layers.

        Raises:
            ConfigError: naming the blocks that the encoder does not have.
        """
        outside = sorted(block for block in self.tokens if not 1 <= block <= layers)
        if outside:
            raise ConfigError(f"deep prompts for blocks {outside}, but the encoder has blocks 1 to {layers}")


class Attention(nn.Module):
    """Multi-head self-attention with CLIP's parameter names.

    Source: Vaswani et al. 2017, section 3.2; the value-value stream is the DPAM of AnomalyCLIP (ICLR 2024),
    after CLIP Surgery (Li et al. 2023).

    Attributes:
        heads: H.
        in_proj_weight: (3D, D), the rows of query, key and value below each other.
        in_proj_bias: (3D,).
        out_proj: D -> D.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ConfigError(f"attention width {width} is not a multiple of its {heads} heads")
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)

    def project_heads(self, x: Tensor, rows: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value of normalised tokens.

        Args:
            x: (B, L, D).
            rows: R, how many of the first tokens ask; None: all L.

        Returns:
            (B, H, R, d), (B, H, L, d) and (B, H, L, d), views of one projection, or of two where R < L.
        """
        if rows is None:
            query, key, value = self._project(x, 0, 3)
            return query, key, value
        (query,), (key, value) = self._project(x[:, :rows], 0, 1), self._project(x, 1, 3)
        return query, key, value

    def _project(self, x: Tensor, first: int, end: int) -> tuple[Tensor, ...]:
        """Some of query (0), key (1) and value (2), each (B, H, L, d)."""
        batch, length, width = x.shape
        part = slice(first * width, end * width)
        joint = F.linear(x, self.in_proj_weight[part], self.in_proj_bias[part])
        split = joint.view(batch, length, end - first, self.heads, -1)
        return split.permute(2, 0, 3, 1, 4).unbind(0)

    def merge_heads(self, attended: Tensor) -> Tensor:
        """(B, H, L, d) of all heads through the output projection: (B, L, D)."""
        merged: Tensor = self.out_proj(attended.transpose(1, 2).flatten(2))
        return merged

    def forward(self, x: Tensor, causal: bool = False, rows: int | None = None) -> Tensor:
        """Ordinary attention.

        Args:
            x: (B, L, D) normalised tokens.
            causal: whether a token sees only itself and those before it.
            rows: R, how many of the first tokens are wanted; None: all L.

        Returns:
            (B, R, D), what the block adds to its stream.
        """
        query, key, value = self.project_heads(x, rows)
        return self.merge_heads(attend(query, key, value, causal))

    def forward_some(self, asking: Tensor, x: Tensor, visible: Tensor) -> Tensor:
        """Attention of some tokens only.

        Args:
            asking: (B, R, D) normalised tokens whose results are wanted.
            x: (B, L, D) all normalised tokens.
            visible: boolean, (R, L) or (B, 1, R, L): which tokens each asking one sees.

        Returns:
            (B, R, D), what the block adds to the asking tokens.
        """
        (query,), (key, value) = self._project(asking, 0, 1), self._project(x, 1, 3)
        return self.merge_heads(F.scaled_dot_product_attention(query, key, value, attn_mask=visible))

    def forward_values(self, x: Tensor) -> Tensor:
        """Value-value attention alone: (B, L, D) normalised tokens -> (B, L, D).

        softmax(V V^T / sqrt(d)) V through the output projection.
        """
        (value,) = self._project(x, 2, 3)
        return self.merge_heads(attend(value, value, value))

    def forward_dual(self, x: Tensor, rows: int | None = None) -> tuple[Tensor, Tensor]:
        """Ordinary and value-value attention from one projection.

        Args:
            x: (B, L, D) normalised tokens of the original stream.
            rows: R, how many of the first tokens of the original stream are wanted; None: all L.

        Returns:
            (B, R, D), what the block adds to the original stream, and (B, L, D),
            softmax(V V^T / sqrt(d)) V through the same output projection.
        """
        query, key, value = self.project_heads(x, rows)
        original = self.merge_heads(attend(query, key, value))
        value_value = self.merge_heads(attend(value, value, value))
        return original, value_value


def check_position_interpolation(mode: str) -> None:
    """Refuses a name that is not one of `POSITION_INTERPOLATIONS`.

    Raises:
        ConfigError: naming the known ones.
    """
    if mode not in POSITION_INTERPOLATIONS:
        raise unknown_name("position_interpolation", mode, POSITION_INTERPOLATIONS)


def resize_positions(table: Tensor, grid: int, mode: PositionInterpolation) -> Tensor:
    """The position table for another patch grid; the class token's row is kept.

    "bilinear" is what AnomalyCLIP's family runs, "bicubic" (a = -0.75) what AdaCLIP runs; "bicubic_antialias"
    is open_clip's, whose cubic coefficient is -0.5 even when the grid grows. None of them aligns corners.

    Args:
        table: (1 + G*G, D), class token first, patches row by row.
        grid: patches along one side of the new grid.
        mode: the interpolation.

    Returns:
        (1 + grid*grid, D) in the type of `table`; `table` itself if the grid is the same.

    Raises:
        ConfigError: the mode is unknown, or the table is not that of a square grid.
    """
    check_position_interpolation(mode)
    patches = int(table.shape[0]) - 1
    side = math.isqrt(patches)
    if side * side != patches:
        raise ConfigError(f"a position table of 1 + {patches} rows does not belong to a square patch grid")
    if side == grid:
        return table
    # In float32, because some devices have no half-precision kernel for it, and it costs nothing.
    plane = table[1:].float().T.reshape(1, -1, side, side)
    resized = F.interpolate(
        plane,
        size=(grid, grid),
        mode="bilinear" if mode == "bilinear" else "bicubic",
        align_corners=False,
        antialias=mode == "bicubic_antialias",
    )
    return torch.cat([table[:1], resized.flatten(2)[0].T.to(table.dtype)])

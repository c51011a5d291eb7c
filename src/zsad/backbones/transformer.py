"""The transformer that both encoders of CLIP share: pre-norm blocks and their MLP.

Shapes: B images or prompts, L tokens, D width.
"""

from __future__ import annotations

from typing import cast, get_args

from torch import Tensor, nn
from torch.nn import functional as F

from zsad.backbones.attention import Attention
from zsad.errors import ConfigError, unknown_name
from zsad.types import Activation

MLP_RATIO = 4
HEAD_WIDTH = 64  # of attention, where a file does not say otherwise
QUICK_GELU = 1.702


class Mlp(nn.Module):
    """Two linear layers with CLIP's activation between them; D -> 4D -> D."""

    def __init__(self, width: int, activation: Activation) -> None:
        super().__init__()
        self.activation = check_activation(activation)
        self.c_fc = nn.Linear(width, MLP_RATIO * width)
        self.c_proj = nn.Linear(MLP_RATIO * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, D) -> (B, L, D)."""
        if self.activation == "quick_gelu":
            return self._quick_gelu(x)
        out: Tensor = self.c_proj(F.gelu(self.c_fc(x)))
        return out

    def _quick_gelu(self, x: Tensor) -> Tensor:
        """W' (h sigmoid(1.702 h)) + b' with h = W x + b, written as W' silu(1.702 h) / 1.702 + b'.

        The wide hidden tensor is changed in place where no gradient needs it, and the division is left to the
        narrow result. The factors stay outside the products: inside, as alpha and beta of `addmm`, a product
        of few rows rounds differently by their number when several threads share it.
        """
        hidden = self.c_fc(x)
        if hidden.requires_grad:
            hidden = F.silu(hidden * QUICK_GELU)
        else:
            hidden = F.silu(hidden.mul_(QUICK_GELU), inplace=True)
        return F.linear(hidden, self.c_proj.weight) / QUICK_GELU + self.c_proj.bias


def check_activation(name: Activation) -> Activation:
    """Refuses a name that is not one of `Activation`.

    Raises:
        ConfigError: naming the known ones.
    """
    if name not in get_args(Activation):
        raise unknown_name("activation", name, get_args(Activation))
    return name


class Block(nn.Module):
    """One pre-norm transformer block: x + attention(ln_1(x)), then x + mlp(ln_2(x))."""

    def __init__(self, width: int, heads: int, activation: Activation) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.attn = Attention(width, heads)
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = Mlp(width, activation)

    def forward(self, x: Tensor, causal: bool = False, rows: int | None = None) -> Tensor:
        """(B, L, D) -> (B, R, D), the first R = `rows` tokens, all if None."""
        return self.add_mlp(x[:, :rows] + self.attn(self.ln_1(x), causal, rows))

    def forward_some(self, asking: Tensor, x: Tensor, visible: Tensor) -> Tensor:
        """(B, R, D), the block for some of its (B, L, D) tokens; see `Attention.forward_some`."""
        return self.add_mlp(asking + self.attn.forward_some(self.ln_1(asking), self.ln_1(x), visible))

    def forward_dual(self, x: Tensor, rows: int | None = None) -> tuple[Tensor, Tensor]:
        """The output (B, R, D) of the block, as from `forward`, and its share of the value-value stream.

        The share is (B, L, D), whatever R is.
        """
        original, value_value = self.attn.forward_dual(self.ln_1(x), rows)
        return self.add_mlp(x[:, :rows] + original), value_value

    def add_mlp(self, x: Tensor) -> Tensor:
        """The block's second half, (B, L, D) -> (B, L, D)."""
        added: Tensor = x + self.mlp(self.ln_2(x))
        return added


class Transformer(nn.Module):
    """A stack of blocks.

    Attributes:
        resblocks: the blocks; block number 1 of all documentation is `resblocks[0]`.
    """

    def __init__(self, width: int, layers: int, heads: int, activation: Activation) -> None:
        super().__init__()
        if layers < 1:
            raise ConfigError(f"an encoder needs at least one block, got layers={layers}")
        self.resblocks = nn.ModuleList(Block(width, heads, activation) for _ in range(layers))

    def blocks(self) -> list[Block]:
        """The blocks in order, with the type that `ModuleList` forgets."""
        return cast("list[Block]", list(self.resblocks))

    def reset_parameters(self) -> None:
        """Initialises the blocks as OpenAI's code does: deep stacks get smaller output projections."""
        for block in self.blocks():
            width = block.ln_1.normalized_shape[0]
            narrow = width**-0.5
            output = narrow * (2 * len(self.resblocks)) ** -0.5
            nn.init.normal_(block.attn.in_proj_weight, std=narrow)
            nn.init.zeros_(block.attn.out_proj.bias)
            nn.init.normal_(block.attn.out_proj.weight, std=output)
            nn.init.normal_(block.mlp.c_fc.weight, std=(2 * width) ** -0.5)
            nn.init.normal_(block.mlp.c_proj.weight, std=output)

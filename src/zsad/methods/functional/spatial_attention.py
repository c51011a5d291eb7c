"""VisualAD's two modules on the patches of a layer: one informs its learnt tokens, one changes the patches.

Source: VisualAD (2603.07952), section 3, as in the authors' code.

Shapes: B images, N patches, D encoder width, K anchors.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zsad.errors import ConfigError

DROPOUT = 0.1
TOKEN_SHARE = 0.01  # of what the patches tell, at the start


class SpatialCrossAttention(nn.Module):
    """Adds to a token what a few learnt queries find among the patches; the token says which of them count.

    t <- t + rho W_o( sum_k sigmoid(W_g t)_k (softmax(Q K^T / sqrt(D)) V)_k )
    Q = LN(W_q q),  K = LN(W_k (z + p)),  V = W_v z

    Attributes:
        anchor_queries: (K, D) queries q.
        pos_encoding: (1, P, D) positions p of up to P patches; the names are those of the authors' files.
    """

    def __init__(self, width: int, anchors: int, positions: int) -> None:
        super().__init__()
        self.anchor_queries = nn.Parameter(torch.randn(anchors, width) * 0.02)
        self.pos_encoding = nn.Parameter(torch.randn(1, positions, width) * 0.02)
        self.q_proj = nn.Linear(width, width, bias=False)
        self.k_proj = nn.Linear(width, width, bias=False)
        self.v_proj = nn.Linear(width, width, bias=False)
        self.q_norm = nn.LayerNorm(width)
        self.k_norm = nn.LayerNorm(width)
        self.gate = nn.Sequential(nn.Linear(width, anchors), nn.Sigmoid())
        self.out_proj = nn.Linear(width, width)
        self.dropout = nn.Dropout(DROPOUT)
        self.res_scale = nn.Parameter(torch.full((1,), TOKEN_SHARE))
        for layer in (self.q_proj, self.k_proj, self.v_proj, self.out_proj):
            nn.init.xavier_uniform_(layer.weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, tokens: Tensor, patches: Tensor) -> Tensor:
        """What the tokens become.

        Args:
            tokens: (B, M, D) tokens, each of which is treated by itself.
            patches: (B, N, D) patches of a layer.

        Returns:
            (B, M, D).

        Raises:
            ConfigError: there are more patches than positions.
        """
        count, positions = patches.shape[1], self.pos_encoding.shape[1]
        if count > positions:
            raise ConfigError(
                f"images of {count} patches, but max_patches is {positions}: use smaller images, or train "
                f"with max_patches={count}"
            )
        query = self.q_norm(self.q_proj(self.anchor_queries))
        key = self.k_norm(self.k_proj(patches + self.pos_encoding[:, :count]))
        attention = torch.softmax(query @ key.transpose(1, 2) * query.shape[-1] ** -0.5, dim=-1)
        found = self.dropout(attention) @ self.v_proj(patches)  # (B, K, D)
        gathered = self.dropout(self.out_proj(self.gate(tokens) @ found))
        changed: Tensor = tokens + self.res_scale * gathered
        return changed


class SelfAlignment(nn.Module):
    """Two linear layers that bring patches of a layer to where tokens of the last layer can be compared.

    Attributes:
        mlp: the layers; the name is that of the authors' files.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(width, width),
            nn.GELU(),
            nn.Dropout(DROPOUT),
            nn.Linear(width, width),
            nn.Dropout(DROPOUT),
        )
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)

    def forward(self, patches: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        aligned: Tensor = self.mlp(patches)
        return aligned


def contrast(patches: Tensor, tokens: Tensor) -> Tensor:
    """How much nearer patches are to one token than to another.

    m(p) = cos(z(p), a) - cos(z(p), n)

    Args:
        patches: (B, N, D), of any length.
        tokens: (B, 2, D), of any length: a, then n.

    Returns:
        (B, N) in [-2, 2].

    Example:
        >>> contrast(torch.tensor([[[2.0, 0.0]]]), torch.tensor([[[1.0, 0.0], [0.0, 1.0]]]))
        tensor([[1.]])
    """
    cosines = F.normalize(patches, dim=-1) @ F.normalize(tokens, dim=-1).transpose(1, 2)
    return cosines[..., 0] - cosines[..., 1]


def clipped_gradient(tensor: Tensor, largest: float) -> Tensor:
    """The same values; a gradient that passes is shortened to a largest norm.

    Example:
        >>> token = torch.zeros(2, requires_grad=True)
        >>> (clipped_gradient(token, 1.0) * torch.tensor([30.0, 40.0])).sum().backward()
        >>> token.grad
        tensor([0.6000, 0.8000])
    """
    through = tensor.clone()
    if through.requires_grad:
        through.register_hook(  # type: ignore[no-untyped-call]
            lambda gradient: gradient * (largest / (gradient.norm() + 1e-6)).clamp(max=1)
        )
    return through

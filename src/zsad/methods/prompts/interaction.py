"""KAnoCLIP's learnt modules between text and image features: cross-attention both ways, and an adapter.

Both begin as good as switched off: their last layers start at a spread of 1e-7, far below what changes an
answer, so that training starts from plain features. They do not start at zero, because then no gradient would
reach the layers before them.

Source: KAnoCLIP (2501.03786), Bi-CMCI and Conv-Adapter; the paper's inner structure is not known, and this
one is zsad's.

Shapes: M pairs of an image and a layer, B images, N = G*G patches, E joint width.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from zsad.errors import ConfigError
from zsad.methods.functional.maps import to_grid

START_STD = 1e-7
BOTTLENECK = 4
ADAPTED_SHARE = 0.1


class CrossModalInteraction(nn.Module):
    """Text and patches look at each other, and each takes up what it finds.

    T' = T + Attention(T, Z, Z),  Z' = Z + Attention'(Z, T, T),  both of length 1.

    Attributes:
        text_attention: multi-head attention in which prompts ask and patches answer.
        patch_attention: multi-head attention in which patches ask and prompts answer.
    """

    def __init__(self, width: int, heads: int) -> None:
        """Fresh layers from torch's global random numbers.

        Args:
            width: E, joint width.
            heads: number of heads of each attention.

        Raises:
            ConfigError: the heads do not divide the width.
        """
        super().__init__()
        if width % heads:
            raise ConfigError(
                f"heads {heads}: use a number that divides the width {width} of the joint space"
            )
        self.text_attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.patch_attention = nn.MultiheadAttention(width, heads, batch_first=True)
        for attention in (self.text_attention, self.patch_attention):
            nn.init.normal_(attention.out_proj.weight, std=START_STD)

    def forward(self, text: Tensor, patches: Tensor) -> tuple[Tensor, Tensor]:
        """Prompts and patches after one exchange.

        Args:
            text: (M, 2, E) of length 1.
            patches: (M, N, E) of length 1.

        Returns:
            (M, 2, E) and (M, N, E) of length 1.
        """
        found_by_text, _ = self.text_attention(text, patches, patches, need_weights=False)
        found_by_patches, _ = self.patch_attention(patches, text, text, need_weights=False)
        return F.normalize(text + found_by_text, dim=-1), F.normalize(patches + found_by_patches, dim=-1)


class ConvAdapter(nn.Module):
    """Adds to the feature of an image what a small convolution finds in its patches.

    f' = f + 0.1 mean over patches of W2 gelu( depthwise 3x3 of gelu( W1 Z ) )

    Attributes:
        reduce: 1x1 convolution to a quarter of the width.
        depthwise: 3x3 convolution, each channel by itself.
        restore: linear layer back to the width, after the mean, which it commutes with.
    """

    def __init__(self, width: int) -> None:
        """Fresh layers from torch's global random numbers.

        Args:
            width: E, joint width.
        """
        super().__init__()
        inner = max(1, width // BOTTLENECK)
        self.reduce = nn.Conv2d(width, inner, 1)
        self.depthwise = nn.Conv2d(inner, inner, 3, padding=1, groups=inner)
        self.restore = nn.Linear(inner, width)
        nn.init.normal_(self.restore.weight, std=START_STD)
        nn.init.zeros_(self.restore.bias)

    def forward(self, image: Tensor, patches: Tensor) -> Tensor:
        """The adapted feature of each image.

        Args:
            image: (B, E) of length 1.
            patches: (B, N, E) of length 1, in row-major order.

        Returns:
            (B, E), not normalised.
        """
        inner = F.gelu(self.depthwise(F.gelu(self.reduce(to_grid(patches)))))
        adapted: Tensor = image + ADAPTED_SHARE * self.restore(inner.flatten(2).mean(dim=2))
        return adapted

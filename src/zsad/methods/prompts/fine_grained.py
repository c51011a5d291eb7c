"""One learnt normal prompt and several learnt abnormal ones, which may depend on the image.

Source: FAPrompt (2410.10289), compound abnormality prompts and data-dependent abnormality prior.

Shapes: B images, P abnormal prompts, L tokens, D text width, n and m context vectors, E joint width,
k selected patches.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from zsad.errors import ConfigError
from zsad.methods.prompts.learners import ENDINGS, PromptLearner, fresh_parameter, placeholder_tokens

if TYPE_CHECKING:
    from zsad.backbones.clip import CLIP

BOTTLENECK = 16


class FineGrainedPromptLearner(PromptLearner):
    """A normal prompt, P abnormal ones that start with its context, and a network that adapts them.

    normal:   [start] V_1 ... V_n object . [end]
    abnormal: [start] V_1 ... V_n A_k1 ... A_km damaged object . [end], k = 1 to P

    `patch_meta_net` turns patches of an image into one vector, which is added to all A of all prompts.
    Parameter names are those of the file that FAPrompt's code writes.

    Source: FAPrompt (2410.10289), sections 3.2 and 3.3.

    Attributes:
        ctx_pos: (1, 1, n, D) the V.
        ctx_neg: (1, P, m, D) the A.
        patch_meta_net: k E -> D.
    """

    ctx_pos: nn.Parameter
    ctx_neg: nn.Parameter

    def __init__(
        self, backbone: CLIP, *, n_ctx_pos: int, n_ctx_neg: int, num_p: int, k: int, **settings: Any
    ) -> None:
        """Fresh parameters.

        Args:
            backbone: network whose text encoder reads the prompts.
            n_ctx_pos: n, number of context vectors that all prompts share.
            n_ctx_neg: m, number of context vectors that an abnormal prompt adds.
            num_p: P, number of abnormal prompts.
            k: number of patches that adapt the abnormal prompts.
            settings: remaining arguments of `PromptLearner`.

        Raises:
            ConfigError: a value is impossible for this text encoder.
        """
        numbers = {"n_ctx_pos": n_ctx_pos, "n_ctx_neg": n_ctx_neg, "num_p": num_p, "k": k}
        for name, number in numbers.items():
            if number < 1:
                raise ConfigError(f"{name} {number}: use 1 or more")
        text = backbone.config.text
        tokens = [
            placeholder_tokens(length, ending, text.context_length)
            for length, ending in zip((n_ctx_pos, n_ctx_pos + n_ctx_neg), ENDINGS, strict=True)
        ]
        super().__init__(backbone, tokens, {"ctx_pos": n_ctx_pos}, **settings)
        self.ctx_neg = fresh_parameter((1, num_p, n_ctx_neg, text.width), settings.get("generator"))
        joint = k * backbone.config.embed_dim
        hidden = max(1, joint // BOTTLENECK)
        layers = [
            ("linear1", nn.Linear(joint, hidden)),
            ("relu", nn.ReLU()),
            ("linear2", nn.Linear(hidden, text.width)),
        ]
        self.patch_meta_net = nn.Sequential(OrderedDict(layers))

    def contexts(self) -> Sequence[Tensor]:
        """V of the normal prompt; V and A of the first abnormal one."""
        shared = self.ctx_pos[0, 0]
        return shared, torch.cat([shared, self.ctx_neg[0, 0]])

    def prior(self, patches: Tensor) -> Tensor:
        """The vectors that adapt the abnormal prompts to the images.

        Args:
            patches: (B, k, E) patches of length 1.

        Returns:
            (B, D).
        """
        bias: Tensor = self.patch_meta_net(patches.flatten(1))
        return bias

    def encode_normal(self, backbone: CLIP, copies: int = 1) -> Tensor:
        """The normal prompt in the joint space.

        Args:
            backbone: the network that the learner was made for.
            copies: C, number of times that it is encoded; each has gradients of its own.

        Returns:
            (C, E) float32, not normalised.
        """
        prompts = self.spliced(backbone)[:1].expand(copies, -1, -1)
        return self.encode_spliced(backbone, prompts, self.tokens[:1].argmax(dim=-1).expand(copies))

    def encode_abnormal(self, backbone: CLIP, bias: Tensor | None = None) -> Tensor:
        """The abnormal prompts in the joint space.

        Args:
            backbone: the network that the learner was made for.
            bias: (B, D) from `prior`; None for the prompts without an image.

        Returns:
            (B, P, E) float32, not normalised; B = 1 without an image.
        """
        shared, added = self.ctx_pos.shape[-2], self.ctx_neg.shape[-2]
        plain = self.spliced(backbone)[1]
        own = self.ctx_neg if bias is None else self.ctx_neg + bias[:, None, None]
        images, prompts = own.shape[:2]
        rows = [
            plain[: 1 + shared].expand(images, prompts, -1, -1),
            own.to(plain.dtype),
            plain[1 + shared + added :].expand(images, prompts, -1, -1),
        ]
        ends = self.tokens[1:].argmax(dim=-1).repeat(images * prompts)
        encoded = self.encode_spliced(backbone, torch.cat(rows, dim=2).flatten(0, 1), ends)
        return encoded.reshape(images, prompts, -1)

"""Everything that Bayes-PFL learns, by the names of its authors' files.

Source: Bayes-PFL (2503.10080), section 3; the authors' code for the initial values.

Shapes: B images, T used layers, N patches, R draws, K pairs of the bank, D width of the image encoder, E
joint width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zsad.errors import ConfigError
from zsad.methods.prompts.prompt_attention import PatchFusion, ResidualCrossAttention
from zsad.methods.prompts.prompt_bank import encode_prompts, shifted_vectors
from zsad.methods.prompts.prompt_flow import AmortisedFlows, FlowSample, FreeFlows, GaussianEncoder

if TYPE_CHECKING:
    from zsad.backbones.clip import CLIP, ClipConfig
    from zsad.methods.prompts.draws import Draws

INITIAL_STD = 0.02
FIRST_TEMPERATURE = 0.07


class PromptFlowNetwork(nn.Module):
    """A bank of prompt pairs, the distributions that move them, and what compares them with images.

    Attributes:
        temperature_pixel: logarithm of the inverse temperature of the maps.
        temperature_image: logarithm of the inverse temperature of the image.
    """

    def __init__(
        self, towers: ClipConfig, layers: int, *, pairs: int, context: int, state: int, flows: int
    ) -> None:
        """Fresh parameters from torch's global random numbers.

        Args:
            towers: shape of the image encoder and the text encoder.
            layers: T.
            pairs: K.
            context: number of context vectors in a prompt.
            state: number of state vectors in a prompt.
            flows: number of planar flows of each distribution.
        """
        super().__init__()
        width, text_width, joint = towers.vision.width, towers.text.width, towers.embed_dim
        inner = width // 2
        self.prompt_context = _vectors(0.0, pairs, context, text_width)
        self.prompt_state_normal = _vectors(0.5, pairs, state, text_width)
        self.prompt_state_abnormal = _vectors(-0.5, pairs, state, text_width)
        self.temperature_pixel = nn.Parameter(torch.tensor(math.log(1 / FIRST_TEMPERATURE)))
        self.temperature_image = nn.Parameter(torch.tensor(math.log(1 / FIRST_TEMPERATURE)))
        self.context_encoder = GaussianEncoder(joint, inner, text_width)
        self.state_encoder = GaussianEncoder(text_width, inner, text_width)
        self.PFL_context = AmortisedFlows(joint, text_width, flows)
        self.PFL_normal = FreeFlows(text_width, flows)
        self.PFL_abnormal = FreeFlows(text_width, flows)
        self.fuse = PatchFusion(layers * width, inner, joint)
        self.RCA = ResidualCrossAttention(layers, width, joint)
        self.class_mapping = nn.Linear(joint, joint)
        self.image_mapping = nn.Linear(joint, joint)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=INITIAL_STD)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def sample(self, image_features: Tensor, draws: Draws) -> tuple[FlowSample, FlowSample, FlowSample]:
        """Samples of the context's shift for each image, and of the shifts of the normal and abnormal state.

        Args:
            image_features: (B, E), not normalised.
            draws: noise of 1 or B images.

        Raises:
            ConfigError: the noise is that of another number of images.
        """
        if draws.context.shape[0] not in (1, image_features.shape[0]):
            raise ConfigError(
                f"set_draws was given context noise of {draws.context.shape[0]} images, but "
                f"{image_features.shape[0]} came"
            )
        context, states = draws.context.to(image_features), draws.states.to(image_features)
        return (
            self.PFL_context(image_features, self.context_encoder, context),
            self.PFL_normal(self.state_encoder, states[:1]),
            self.PFL_abnormal(self.state_encoder, states[1:]),
        )

    def text(
        self, backbone: CLIP, token_ids: Tensor, samples: tuple[FlowSample, FlowSample, FlowSample]
    ) -> Tensor:
        """The prompts of each image in the joint space.

        Args:
            backbone: network whose text encoder reads the prompts.
            token_ids: (1 or B, L) from `zsad.methods.prompts.prompt_bank.class_prompts`.
            samples: samples from `sample`.

        Returns:
            (B, 2, R K, E) of length 1, normal then abnormal, draw after draw.
        """
        context, normal, abnormal = (sample.vectors for sample in samples)
        states = torch.stack([self.prompt_state_normal, self.prompt_state_abnormal])
        vectors = shifted_vectors(self.prompt_context, states, context, torch.cat([normal, abnormal]))
        text = encode_prompts(backbone, token_ids, vectors)
        return text.reshape(text.shape[0], 2, -1, text.shape[-1])

    def image_logits(self, text: Tensor, image_features: Tensor) -> Tensor:
        """Logits of the image.

        Args:
            text: (B, 2, M, E) prompts of length 1.
            image_features: (B, E), of any length.

        Returns:
            (B, 2, M), normal then abnormal of each pair.
        """
        mapped = F.normalize(self.class_mapping(text), dim=-1)
        vectors = F.normalize(image_features, dim=-1)[:, None, :, None]
        return self.temperature_image.exp() * (mapped @ vectors)[..., 0]

    def fused(self, image_features: Tensor, patch_tokens: Tensor) -> Tensor:
        """Image features (B, E) with the pooled patches (B, T, N, D) added, as stage 2 compares them."""
        mapped: Tensor = self.image_mapping(image_features + self.fuse(patch_tokens))
        return mapped

    def patch_logits(self, text: Tensor, patch_tokens: Tensor) -> Iterator[Tensor]:
        """Logits of the patches, layer after layer: the abnormal minus the normal one of each pair.

        The sigmoid of this difference is the softmax over the pair.

        Args:
            text: (B, 2, M, E) prompts of length 1.
            patch_tokens: (B, T, N, D).

        Yields:
            (B, N, M).
        """
        for prompts, patches in self.RCA(text.flatten(1, 2), patch_tokens):
            normal, abnormal = prompts.reshape(text.shape).unbind(dim=1)
            yield self.temperature_pixel.exp() * (patches @ (abnormal - normal).transpose(1, 2))


def _vectors(mean: float, *shape: int) -> nn.Parameter:
    """New vectors from a normal distribution with standard deviation 0.02."""
    return nn.Parameter(nn.init.trunc_normal_(torch.empty(shape), mean=mean, std=INITIAL_STD))

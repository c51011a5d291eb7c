"""The part that AnomalyCLIP and its descendants share: settings, two learnt prompts, features and loss.

A method *has* an `ObjectAgnosticPrompts`; it does not inherit from one. Methods with other prompts take the
settings and the pure functions alone.

Source: AnomalyCLIP (2310.18961).

Shapes: B images, T layers, N = G*G patches, E joint width, S pixels of one side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch.nn.functional as F
from torch import Tensor, nn

from zsad.methods.base import MethodConfig, Sigma, Temperature
from zsad.methods.functional.checks import check_masks
from zsad.methods.functional.losses import pixel_losses
from zsad.methods.functional.maps import to_grid, upsample
from zsad.methods.functional.patches import (
    first_value_value_layer,
    layers_to_use,
    resolve_dpam_layer,
    value_value_features,
)
from zsad.methods.functional.similarity import cosine_similarity, similarity_softmax
from zsad.methods.prompts.learners import PromptPairLearner
from zsad.methods.prompts.learners_file import deep_prompt_settings, official_prompts

if TYPE_CHECKING:
    from typing_extensions import Self

    from zsad.backbones.clip import CLIP, ClipConfig
    from zsad.methods.functional.patches import JointFeatures

PAPER_DEPTH = 9


@dataclass(frozen=True, kw_only=True)
class ObjectAgnosticConfig(MethodConfig):
    """Settings of AnomalyCLIP and its descendants, by the names of the authors' code.

    Attributes:
        features_list: 1-based layers of the image encoder whose patches are compared with the prompts; None
            for the last one.
        n_ctx: number of context vectors in each prompt.
        depth: last layer of the text encoder with a deep prompt (layer 1 has none); None for 9, or for the
            number of layers if that is smaller.
        t_n_ctx: number of deep prompt vectors in a layer.
        sigma: standard deviation of the Gaussian filter over the map, in pixels; 0 switches it off.
        dpam_layer: the authors' constant: the value-value stream covers the last dpam_layer - 1 layers; None
            for 20 of 24 layers, and for the same share of another number.
        temperature: temperature of the softmax over the normal and the abnormal prompt.
        round_prompts_to_half: whether deep prompts pass through half precision, as in the authors' code.
    """

    features_list: tuple[int, ...] | None = None
    n_ctx: int = 12
    depth: int | None = None
    t_n_ctx: int = 4
    sigma: Sigma = 4.0
    dpam_layer: int | None = None
    temperature: Temperature = 0.07
    round_prompts_to_half: bool = True

    def resolved(self, towers: ClipConfig) -> Self:
        """The same settings with everything that depends on the backbone filled in.

        Args:
            towers: shape of the image encoder and the text encoder.

        Raises:
            ConfigError: a value is impossible for these encoders; the message holds the allowed range.
        """
        last = (towers.vision.layers,)
        return replace(
            self,
            features_list=layers_to_use(last if self.features_list is None else self.features_list, *last),
            depth=resolve_depth(self.depth, towers.text.layers),
            dpam_layer=resolve_dpam_layer(self.dpam_layer, towers.vision.layers),
        )


class ObjectAgnosticPrompts(nn.Module):
    """A learnt normal and a learnt abnormal prompt, the features that they are compared with, and their loss.

    Attributes:
        temperature: temperature of the softmax over both prompts.
        layers: T 1-based layers whose patches are used.
        value_value_from: first layer of the value-value stream, 1-based.
        learner: the prompts.
    """

    def __init__(self, backbone: CLIP, config: ObjectAgnosticConfig) -> None:
        """Fresh prompts from torch's global random numbers.

        Args:
            backbone: network whose encoders are used.
            config: settings of the method, `resolved` or not.

        Raises:
            ConfigError: a setting is impossible for this backbone.
        """
        super().__init__()
        vision, text = backbone.config.vision, backbone.config.text
        chosen = config.resolved(backbone.config)
        self.temperature = chosen.temperature
        self.layers = layers_to_use(chosen.features_list, vision.layers)
        self.value_value_from = first_value_value_layer(chosen.dpam_layer, vision.layers)
        self.learner = PromptPairLearner(
            backbone,
            n_ctx=chosen.n_ctx,
            depth=resolve_depth(chosen.depth, text.layers),
            t_n_ctx=chosen.t_n_ctx,
            round_prompts_to_half=chosen.round_prompts_to_half,
        )

    def encode(self, backbone: CLIP) -> Tensor:
        """(1, 2, E) float32 features of the prompts, normal then abnormal, not normalised."""
        return self.learner.encode(backbone)[None]

    def features(self, backbone: CLIP, images: Tensor) -> JointFeatures:
        """Class token, and patches of the value-value stream, in the joint space."""
        return value_value_features(backbone.visual, images, self.layers, self.value_value_from)

    def losses(
        self, backbone: CLIP, features: JointFeatures, masks: Tensor, labels: Tensor, lam: float
    ) -> dict[str, Tensor]:
        """`prompt_losses` of both prompts, with the weight `lam` for the patches of each layer."""
        text = self.encode(backbone)
        return prompt_losses(
            features,
            masks,
            labels,
            image_text=text,
            patch_text=text,
            temperature=self.temperature,
            weights=[lam] * len(self.layers),
            patch_size=backbone.config.vision.patch_size,
        )


def resolve_depth(depth: int | None, layers: int) -> int:
    """Last layer of the text encoder with a deep prompt; None for 9, or for all layers if they are fewer."""
    return min(PAPER_DEPTH, layers) if depth is None else depth


def official_tensors(state_dict: Mapping[str, Any]) -> dict[str, Tensor]:
    """The learnt tensors in a file of AnomalyCLIP's authors, without its token buffers and unused layers.

    Raises:
        WeightsError: it is no such file.
    """
    return official_prompts(state_dict, "AnomalyCLIP's authors", ("ctx_pos", "ctx_neg"))


def official_settings(state_dict: Mapping[str, Any]) -> dict[str, int]:
    """`n_ctx`, `depth` and `t_n_ctx` from the shapes in a file of AnomalyCLIP's authors.

    Without deep prompts `t_n_ctx` stays open.

    Raises:
        WeightsError: it is no such file.
    """
    learned = official_tensors(state_dict)
    return {"n_ctx": learned["ctx_pos"].shape[-2], **deep_prompt_settings(learned)}


def prompt_losses(
    features: JointFeatures,
    masks: Tensor,
    labels: Tensor,
    *,
    image_text: Tensor,
    patch_text: Tensor,
    temperature: float,
    weights: Sequence[float],
    patch_size: int,
) -> dict[str, Tensor]:
    """Cross entropy of the image, and weighted focal and Dice losses of its patches.

    L = CE( cos(f, image_text) / temperature, y )
        + sum_t w_t [ Focal(P_t, G) + Dice(P_abnormal,t , G) + Dice(P_normal,t , 1 - G) ]

    with P_t = softmax( cos(patches of layer t, patch_text) / temperature ), upsampled.

    Source: AnomalyCLIP (2310.18961), equation 2, as in the authors' train.py.

    Args:
        features: features of the batch.
        masks: (B, S, S) or (B, 1, S, S) in {0, 1}, 1 where anomalous.
        labels: (B,) in {0, 1}, 1 for an anomalous image.
        image_text: (1, 2, E) prompts that score the image, normal then abnormal.
        patch_text: (1, 2, E) prompts that score its patches, normal then abnormal.
        temperature: temperature of the softmax.
        weights: T factors of the pixel losses.
        patch_size: pixels of one side of a patch.

    Returns:
        "image", "focal", "dice_abnormal" and "dice_normal", weights included.
    """
    logits = cosine_similarity(features.image_features, image_text) / temperature
    size = features.image_size(patch_size)
    masks = check_masks(masks, len(logits), size)
    patches = similarity_softmax(features.patch_features, patch_text, temperature)
    maps = upsample(to_grid(patches), size)  # (B, T, 2, S, S)
    return {"image": F.cross_entropy(logits, labels.long()), **pixel_losses(maps, masks, weights)}

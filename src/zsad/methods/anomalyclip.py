"""AnomalyCLIP: object-agnostic prompt learning for zero-shot anomaly detection.

Zhou et al., ICLR 2024, https://arxiv.org/abs/2310.18961; code https://github.com/zqhang/AnomalyCLIP.

Idea: instead of describing each class, learn one normal and one abnormal sentence about "an object", on any
labelled auxiliary set, and use them everywhere. Learnt are the context vectors of the two sentences and deep
prompts inside the text encoder; CLIP stays frozen. Patch features come from a value-value attention stream,
in which a patch gathers what resembles it rather than what describes the whole image. The image's score is
the abnormal probability of the class token, the map that of the patches.

What the released code does and the paper does not say (kept, because published weights depend on it):

* the class token is projected without the final layer norm, the patches with it;
* only the last block's patches are used (the paper's figure shows four layers; its numbers come from one);
* deep prompts are rounded to half precision inside a float32 network (`round_prompts_to_half=False` leaves
  that out);
* position tables are resized bilinearly.

Deviations from the released code:

* it squeezes masks, so that a last batch of one image gets its Dice loss per row; here it is always per
  image;
* its checkpoint holds linear layers that nothing uses; they are accepted and ignored;
* on a backbone that has not 24 + 12 blocks, the paper's constants are carried over as follows: the last block
  gives the patches, the value-value stream covers the same share of the blocks (19/24, rounded), and deep
  prompts go into the first 9 text blocks or as many as there are. With 24 and 12 blocks this is exactly the
  paper's setting.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zsad.errors import ConfigError
from zsad.methods.base import Method, Support, TextState, TrainingRecipe, check_masks, check_names
from zsad.methods.functional.losses import pixel_losses
from zsad.methods.functional.maps import abnormal_map, to_grid, upsample
from zsad.methods.functional.patches import (
    JointFeatures,
    layers_to_use,
    resolve_dpam_layer,
    value_value_features,
)
from zsad.methods.functional.similarity import cosine_similarity, similarity_softmax
from zsad.methods.prompts.learners import PromptPairLearner, deep_prompt_settings, official_prompts
from zsad.types import Activation, MethodInfo, PositionInterpolation, RawOutput

if TYPE_CHECKING:
    from zsad.backbones.clip import CLIP

PAPER_DEPTH = 9

INFO = MethodInfo(
    name="anomalyclip",
    title="AnomalyCLIP",
    year=2024,
    paper="https://arxiv.org/abs/2310.18961",
    code="https://github.com/zqhang/AnomalyCLIP",
    needs_training=True,
    uses_class_names=False,
    scores_batch_jointly=False,
)


@dataclass(frozen=True)
class Config:
    """Settings, by the names of the authors' code.

    Attributes:
        features_list: 1-based image blocks whose patches are used; None: the last one.
        n_ctx: context vectors of each sentence.
        depth: last text block with a deep prompt (block 1 has none); None: 9, or as many as there are blocks.
        t_n_ctx: deep prompt vectors of a block.
        sigma: of the Gaussian filter over the map, in pixels; 0 switches it off.
        dpam_layer: the authors' constant: the value-value stream covers the last dpam_layer - 1 blocks;
            None: 20 of 24 blocks, the same share of others.
        lam: weight of the pixel losses against the image loss.
        temperature: of the softmax over the two sentences.
        round_prompts_to_half: whether deep prompts pass through half precision, as in the authors' code.
        activation: None: quick_gelu on OpenAI's weights, else what the weights were trained with.
        position_interpolation: how the position table is resized to other image sizes.
    """

    features_list: tuple[int, ...] | None = None
    n_ctx: int = 12
    depth: int | None = None
    t_n_ctx: int = 4
    sigma: float = 4.0
    dpam_layer: int | None = None
    lam: float = 4.0
    temperature: float = 0.07
    round_prompts_to_half: bool = True
    activation: Activation | None = None
    position_interpolation: PositionInterpolation = "bilinear"

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ConfigError(f"temperature must be above 0, got {self.temperature}")
        if not self.sigma >= 0:
            raise ConfigError(f"sigma must be 0 or more pixels, got {self.sigma}")
        if not self.lam >= 0:
            raise ConfigError(f"lam must be 0 or more, got {self.lam}")

    def resolved(self, vision_layers: int, text_layers: int) -> Config:
        """The same settings with everything that depends on the backbone filled in.

        Args:
            vision_layers: blocks of the image encoder.
            text_layers: blocks of the text encoder.

        Raises:
            ConfigError: a value is impossible for these towers; the message holds the allowed range.

        Example:
            >>> Config().resolved(24, 12).dpam_layer, Config().resolved(4, 6).features_list
            (20, (4,))
        """
        last = (vision_layers,)
        return replace(
            self,
            features_list=layers_to_use(last if self.features_list is None else self.features_list, *last),
            depth=min(PAPER_DEPTH, text_layers) if self.depth is None else self.depth,
            dpam_layer=resolve_dpam_layer(self.dpam_layer, vision_layers),
        )


class AnomalyCLIP(Method):
    """See the module's description."""

    SHAPE_FIELDS = frozenset({"n_ctx", "depth", "t_n_ctx"})
    AUTHORS_ACTIVATION = "quick_gelu"
    FEATURES = JointFeatures
    FEATURE_FIELDS = frozenset({"features_list", "dpam_layer"})
    RECIPE = TrainingRecipe(epochs=15, batch_size=8, learning_rate=1e-3)

    def __init__(self, backbone: CLIP, config: Config) -> None:
        """Fresh prompts from torch's global random numbers.

        Raises:
            ConfigError: a setting is impossible for this backbone.
        """
        towers = backbone.config
        super().__init__(backbone, config.resolved(towers.vision.layers, towers.text.layers))
        self.layers: tuple[int, ...] = self.config.features_list
        self.value_value_from: int = towers.vision.layers - self.config.dpam_layer + 2
        self.prompt_learner = PromptPairLearner(
            backbone,
            n_ctx=self.config.n_ctx,
            depth=self.config.depth,
            t_n_ctx=self.config.t_n_ctx,
            round_prompts_to_half=self.config.round_prompts_to_half,
        )

    def prepare(self, classes: Sequence[str], support: Support | None = None) -> TextState:
        """The two learnt sentences; they are the same for every class."""
        return TextState(self.prompt_learner.encode(self.backbone)[None])

    @torch.no_grad()
    def features(self, images: Tensor) -> JointFeatures:
        """One pass through the image encoder; no gradients, nothing in it is learnt."""
        return value_value_features(self.backbone.visual, images, self.layers, self.value_value_from)

    def score(self, features: JointFeatures, state: TextState) -> RawOutput:
        """Abnormal probability of the class token; that of the patches summed, upsampled and smoothed."""
        temperature = self.config.temperature
        image = similarity_softmax(features.image_features, state.text_features, temperature)
        patches = similarity_softmax(features.patch_features, state.text_features, temperature)
        once = [1.0] * len(self.layers)
        size = features.image_size(self.backbone.config.vision.patch_size)
        return RawOutput(image[:, 1], abnormal_map(patches, once, size, self.config.sigma))

    @property
    def map_range(self) -> tuple[float, float]:
        """A probability for each block used."""
        return (0.0, float(len(self.layers)))

    def loss_from_features(
        self, features: JointFeatures, masks: Tensor, labels: Tensor, classes: Sequence[str] | None = None
    ) -> dict[str, Tensor]:
        """Cross entropy of the image, and lam times focal and both Dice losses, summed over the blocks.

        L = CE( cos / temperature, y )
            + lam sum_l [ Focal(P, G) + Dice(P_abnormal, G) + Dice(P_normal, 1 - G) ]

        Source: AnomalyCLIP (2310.18961), equation 2, as in the authors' train.py.

        Args:
            features: of the batch.
            masks: (B, S, S) or (B, 1, S, S) in {0, 1}.
            labels: (B,) in {0, 1}.
            classes: not used.

        Returns:
            "image", "focal", "dice_abnormal" and "dice_normal", weights included.
        """
        text = self.prompt_learner.encode(self.backbone)[None]
        logits = cosine_similarity(features.image_features, text) / self.config.temperature
        size = features.image_size(self.backbone.config.vision.patch_size)
        masks = check_masks(masks, len(logits), size)
        patches = similarity_softmax(features.patch_features, text, self.config.temperature)
        maps = upsample(to_grid(patches), size)  # (B, T, 2, S, S)
        weights = [self.config.lam] * len(self.layers)
        return {"image": F.cross_entropy(logits, labels.long()), **pixel_losses(maps, masks, weights)}

    def trainable(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The context vectors of both sentences and the deep prompts, by the names of the authors' file."""
        yield from self.prompt_learner.named_parameters()

    def load_official(self, state_dict: Mapping[str, Any]) -> None:
        """Takes `{"prompt_learner": {...}}`, the file that the authors' training writes."""
        learned = official_parameters(state_dict)
        check_names(INFO.name, expected=dict(self.trainable()), found=learned)
        self.load_learned(learned)

    @classmethod
    def official_config(cls, state_dict: Mapping[str, Any]) -> dict[str, Any]:
        """`n_ctx`, `depth` and `t_n_ctx`, read off the shapes; without deep prompts `t_n_ctx` stays open."""
        learned = official_parameters(state_dict)
        return {"n_ctx": learned["ctx_pos"].shape[-2], **deep_prompt_settings(learned)}


def official_parameters(state_dict: Mapping[str, Any]) -> dict[str, Tensor]:
    """The learnt tensors of an authors' file, without its token buffers and unused layers.

    Raises:
        WeightsError: it is not such a file.
    """
    return official_prompts(state_dict, "AnomalyCLIP's authors", ("ctx_pos", "ctx_neg"))

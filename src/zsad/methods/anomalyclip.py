"""AnomalyCLIP: object-agnostic prompt learning for zero-shot anomaly detection.

Zhou et al., ICLR 2024, https://arxiv.org/abs/2310.18961; code https://github.com/zqhang/AnomalyCLIP.

Idea: instead of describing each class, learn one normal and one abnormal prompt about "an object", on any
labelled auxiliary set, and use them everywhere. The context vectors of the two prompts and deep prompts
inside the text encoder are learnt; CLIP stays frozen. Patch features come from a value-value attention
stream, in which a patch gathers what resembles it rather than what describes the whole image. The score of
the image is the abnormal probability of the class token; the map is that of the patches.

What the released code does and the paper does not say (kept, because published weights depend on it):

* the class token is projected without the final layer norm, the patches with it;
* only the patches of the last layer are used (the figure of the paper shows four layers; its numbers come
  from one);
* deep prompts are rounded to half precision inside a float32 network (`round_prompts_to_half=False` leaves
  that out);
* position tables are resized bilinearly.

Deviations from the released code:

* it squeezes masks, so that a last batch of one image gets its Dice loss per row; here the loss is always per
  image;
* its checkpoint holds linear layers that nothing uses; they are accepted and ignored;
* on a backbone without 24 + 12 layers, the paper's constants are carried over as follows: the last layer
  gives the patches, the value-value stream covers the same share of the layers (19/24, rounded), and deep
  prompts enter the first 9 layers of the text encoder, or all of them if they are fewer. With 24 and 12
  layers this is exactly the paper's setting.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from zsad.backbones.catalog import MVTEC, VISA, authors_weights
from zsad.methods.base import Method, Support, TextState, Weight
from zsad.methods.functional.image_score import ImageScore, image_score_for, image_scores
from zsad.methods.functional.maps import abnormal_map
from zsad.methods.functional.patches import JointFeatures
from zsad.methods.functional.similarity import similarity_softmax
from zsad.methods.prompts.object_agnostic import (
    ObjectAgnosticConfig,
    ObjectAgnosticPrompts,
    official_settings,
    official_tensors,
)
from zsad.methods.training import TrainingDefaults
from zsad.types import MethodInfo, RawOutput

if TYPE_CHECKING:
    from zsad.backbones.clip import CLIP

INFO = MethodInfo(
    name="anomalyclip",
    title="AnomalyCLIP",
    year=2024,
    paper="https://arxiv.org/abs/2310.18961",
    code="https://github.com/zqhang/AnomalyCLIP",
    needs_training=True,
    uses_class_names=False,
    scores_batch_jointly=False,
    checked_by="authors",
)

# The commit that the projects pin whose checksums are given here.
FILES = "https://raw.githubusercontent.com/zqhang/AnomalyCLIP/3911738c0867544f545a076ad78f3f11d9ecbfdf/checkpoints"
PAGE = "https://github.com/zqhang/AnomalyCLIP"

WEIGHTS = (
    authors_weights(
        "anomalyclip-trained-on-visa",
        f"{FILES}/9_12_4_multiscale/epoch_15.pth",
        PAGE,
        VISA,
        activation="quick_gelu",
        sha256="94ce202da3e6486a864b904fdfed5057de75846c5834e446fd1d2fe7f97acb44",
        size=22_631_975,
        notes="the paper's numbers on MVTec AD",
    ),
    authors_weights(
        "anomalyclip-trained-on-mvtec",
        f"{FILES}/9_12_4_multiscale_visa/epoch_15.pth",
        PAGE,
        MVTEC,
        activation="quick_gelu",
        sha256="415c5dcb52668b8c33fb9c1a351c686d632b919df5b384d63fa9ce7a2338ced4",
        size=22_631_975,
        notes="the paper's numbers on all other sets; its folder is named after VisA, which it is tested on",
    ),
)


@dataclass(frozen=True, kw_only=True)
class Config(ObjectAgnosticConfig):
    """Settings, by the names of the authors' code.

    Attributes:
        lam: weight of the pixel losses against the image loss.
        image_score: what scores an image, "class_token" as in the paper, or "both" for the mean logit of the
            class token and of the most anomalous 5 % of the patches; None for "both" on `tiny` and
            "class_token" on all other weights.
    """

    lam: Weight = 4.0
    image_score: ImageScore | None = None


class AnomalyCLIP(Method[Config, JointFeatures, TextState]):
    """See the module's description."""

    SHAPE_FIELDS = frozenset({"n_ctx", "depth", "t_n_ctx"})
    AUTHORS_ACTIVATION = "quick_gelu"
    FEATURES = JointFeatures
    FEATURE_FIELDS = frozenset({"features_list", "dpam_layer"})
    IMAGE_TERMS = frozenset({"image"})
    TRAINING = TrainingDefaults(epochs=15, batch_size=8, learning_rate=1e-3)

    def __init__(self, backbone: CLIP, config: Config) -> None:
        """Fresh prompts from torch's global random numbers.

        Raises:
            ConfigError: a setting is impossible for this backbone.
        """
        image_score = image_score_for(config.image_score, backbone.record)
        super().__init__(backbone, replace(config, image_score=image_score).resolved(backbone.config))
        self.image_score = image_score
        self.prompts = ObjectAgnosticPrompts(self.backbone, self.config)

    def prepare(self, classes: Sequence[str], support: Support | None = None) -> TextState:
        """The two learnt prompts; they are the same for every class."""
        return TextState(self.prompts.encode(self.backbone))

    @torch.no_grad()
    def features(self, images: Tensor) -> JointFeatures:
        """One pass through the image encoder; no gradients, because nothing in it is learnt."""
        return self.prompts.features(self.backbone, images)

    def score(self, features: JointFeatures, state: TextState) -> RawOutput:
        """Abnormal probability of the image; that of the patches summed, upsampled and smoothed."""
        temperature = self.config.temperature
        image = similarity_softmax(features.image_features, state.text_features, temperature)
        patches = similarity_softmax(features.patch_features, state.text_features, temperature)
        once = [1.0] * len(self.prompts.layers)
        size = features.image_size(self.backbone.config.vision.patch_size)
        scores = image_scores(image, patches, self.image_score)
        return RawOutput(scores, abnormal_map(patches, once, size, self.config.sigma))

    @property
    def map_range(self) -> tuple[float, float]:
        """One probability for each layer."""
        return (0.0, float(len(self.prompts.layers)))

    def loss_from_features(
        self, features: JointFeatures, masks: Tensor, labels: Tensor, classes: Sequence[str] | None = None
    ) -> dict[str, Tensor]:
        """Cross entropy of the image, and `lam` times the focal and Dice losses, summed over the layers.

        Source: AnomalyCLIP (2310.18961), equation 2; the formula stands at
        `zsad.methods.prompts.object_agnostic.prompt_losses`.

        Args:
            features: features of the batch.
            masks: (B, S, S) or (B, 1, S, S) in {0, 1}.
            labels: (B,) in {0, 1}.
            classes: not used.

        Returns:
            "image", "focal", "dice_abnormal" and "dice_normal", weights included.
        """
        return self.prompts.losses(self.backbone, features, masks, labels, self.config.lam)

    def trainable(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The context vectors of both prompts and the deep prompts, by the names of the authors' file."""
        yield from self.prompts.learner.named_parameters()

    def load_official(self, state_dict: Mapping[str, Any]) -> None:
        """Takes `{"prompt_learner": {...}}`, the file that the authors' training writes."""
        self.load_learned(official_tensors(state_dict))

    @classmethod
    def official_config(cls, state_dict: Mapping[str, Any]) -> dict[str, Any]:
        """`n_ctx`, `depth` and `t_n_ctx` from the shapes; without deep prompts `t_n_ctx` stays open."""
        return official_settings(state_dict)

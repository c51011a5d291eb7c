"""Folder mode: AnomalyCLIP's answer, joined with a comparison of the images of the folder.

Prompts: Zhou et al., ICLR 2024, https://arxiv.org/abs/2310.18961. Comparing unlabelled images: Li et al.
(MuSc), ICLR 2024, https://arxiv.org/abs/2401.16753; joining both: after Dual-Image Enhanced CLIP,
https://arxiv.org/abs/2405.04782. The combination is zsad's own; no paper describes it.

Idea: most users bring many unlabelled images of one product. A patch that no other image shows is suspicious,
whatever the prompts say; where all images have the same fault, or do not resemble each other, the prompts
know better. So an image gets AnomalyCLIP's answer, moved up or down by how badly its patches match those of
its companions. A single image, or one of fewer than 8, is scored by AnomalyCLIP and, on `tiny`, by how rare
its patches are within it (`own_image_weight`); the weights are AnomalyCLIP's.

Companions are the other images of the batch, or those that `Detector.set_companions` received, none of which
has to be normal (`zsad predict` draws up to 64 from the folder, and then scores one image after the other).
Without companions all patches of a batch stay in memory, 22 MB per image on ViT-L/14-336 at 518 pixels in
float32: set companions before `Detector.predict` meets a list of thousands.

How it works; the choices were made on synthetic products (`zsad.data.synthetic`), VisA's capsules and
macaroni,
and five sets of cracks and exudates:

* several levels describe a patch: the layers `visual_layers`, and with a hybrid stem also the levels of the
  stem that are not coarser than the patch grid. On each level, the distance to the nearest patch of each of
  the 32 most alike companions counts, as the mean of the best half of them. Levels are divided by their mean
  over the companions and averaged;
* image: the largest patch distance. Distances of images and patches are standardised over the companions
  and added to the logits from the prompts, in units of the spread of these logits over the companions, with
  `visual_weight` 1.5;
* scale: the sum goes through the logistic function, after a shift and a stretch that make the companions'
  median 0.05 for images and 0.02 for patches, the value that 5 % of the images exceed 0.95, and the value
  that 2.5 % of the patches exceed 0.5. Without that, all patches of a product for which the prompts say
  little end near 1. The order within the folder stays the same;
* alike or not: the distance of a patch to its companions is divided by its distance to the most similar
  patches of its own image. Where the companions' median of this ratio is above 1.1, other images say less
  about a patch than its own image does, and only the prompts count; below 1.0 both count in full. Measured on
  the backbone "tiny": folders of unlike images 1.11 to 1.27, of alike images 0.5 to 1.06 (3 of 43: 1.09 to
  1.21);
* a companion whose patches are all within a distance of 0.02 is the image itself or a copy, and left out.

A first version compared with the best 30 % of the 16 most alike companions. On the evaluation images it did
badly where a fault recurs in many images (magnetic tiles): the most alike images have the same fault.
Synthetic products with recurring faults showed the same, and the present numbers were chosen on them and on
the other products.

The scores of one folder are comparable with each other, not with those of another folder.

With known-normal images, the general rule (`zsad.methods.functional.reference_rule`) scores each image: a
patch that matches a reference is trusted, and distances to the companions given by `Detector.set_companions`
are added with the weight 1 / sqrt(R) for R references, because a companion may share the fault. The answer
from the prompts is the lone one, without the rarity of patches within the image, which such distances say
better. What it gives and what else was tried stands in `reference_patches` and in the module of the rule.

The image's logit from the prompts is, on `tiny`, the mean of the class token's logit and of the mean logit of
the most anomalous 5 % of the patches (`image_score`), chosen on eight products of the validation data: mean
image AUROC of lone images 0.785, against 0.774 for the class token and 0.738 for the patches. With the rarity
of patches within the image it is 0.805, and the mean pixel AUROC of three products 0.951, against 0.940
(`zsad.methods.functional.own_image`; the weight was chosen on the same products). In folders of 64 images the
rarity changes little: 0.780 against 0.775 for circuit boards, 0.833 against 0.836 for castings, 0.962 against
0.957 for welds, 0.756 against 0.749 for heads.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

import torch
from torch import Tensor, nn

from zsad.files.fields import Above, AtLeast, AtMost
from zsad.methods.base import Method, State, Support, Weight
from zsad.methods.functional.folder import LEAST_COMPANIONS, Companions, Logits, Weighting
from zsad.methods.functional.image_score import ImageScore, by_weights, image_logits, image_score_for
from zsad.methods.functional.maps import abnormal_map, in_parts
from zsad.methods.functional.own_image import TINY_WEIGHT, with_own_image
from zsad.methods.functional.patches import (
    JointFeatures,
    comparable_patches,
    joint_features,
    layers_compared,
    reference_layers,
    reference_patches,
)
from zsad.methods.functional.similarity import cosine_similarity
from zsad.methods.prompts.object_agnostic import (
    ObjectAgnosticConfig,
    ObjectAgnosticPrompts,
    official_settings,
    official_tensors,
)
from zsad.methods.training import TrainingDefaults
from zsad.types import MethodInfo, RawOutput

if TYPE_CHECKING:
    from typing_extensions import Self

    from zsad.backbones.clip import CLIP, ClipConfig
    from zsad.methods.functional.comparison import Comparison

IMAGES_AT_ONCE = 8

INFO = MethodInfo(
    name="auto",
    title="Folder mode",
    year=2024,
    paper="https://arxiv.org/abs/2310.18961",
    code=None,
    needs_training=True,
    uses_class_names=False,
    scores_batch_jointly=True,
    is_composite=True,
)


@dataclass(frozen=True, kw_only=True)
class Config(ObjectAgnosticConfig):
    """AnomalyCLIP's settings, and those of the comparison.

    Attributes:
        companions: number of most alike companions that each image is compared with.
        best_share: share of these that counts for a patch, from the best match on, at least one.
        visual_weight: weight of the comparison against the prompts, in standard deviations; 0 leaves it out.
        visual_layers: 1-based layers of the image encoder whose patches are compared between images; None for
            the first layer of an image encoder with a hybrid stem, whose levels are compared as well, and for
            the ends of the quarters of any other.
        lam: weight of the pixel losses against the image loss.
        image_score: what scores an image without companions and references, "class_token" as in AnomalyCLIP,
            or "both" for the mean logit of the class token and of the most anomalous 5 % of the patches; None
            for "both" on `tiny` and "class_token" on all other weights.
        own_image_weight: logits for each unit of how little a patch resembles the rest of its own image; None
            for 25 on `tiny` and 0 on all other weights.
    """

    companions: Annotated[int, AtLeast(LEAST_COMPANIONS)] = 32
    best_share: Annotated[float, Above(0), AtMost(1)] = 0.5
    visual_weight: Weight = 1.5
    visual_layers: tuple[int, ...] | None = None
    lam: Weight = 4.0
    image_score: ImageScore | None = None
    own_image_weight: Weight | None = None

    def resolved(self, towers: ClipConfig) -> Self:
        """The same settings with everything that depends on the backbone filled in.

        Args:
            towers: shape of the image encoder and the text encoder.

        Raises:
            ConfigError: a value is impossible for these encoders; the message holds the allowed range.
        """
        compared = layers_compared(self.visual_layers, towers.vision)
        return super(Config, replace(self, visual_layers=compared)).resolved(towers)


@dataclass(frozen=True)
class Features(JointFeatures):
    """Patches that are compared with the prompts, and patches that are compared between images.

    Attributes:
        own: (B, N, D) unit vectors by which an image is compared with itself; D is 0 where it is not.
        levels: L tensors (B, N, D_l) of unit vectors.
    """

    own: Tensor
    levels: tuple[Tensor, ...]


@dataclass(frozen=True)
class AutoState(State):
    """Features of the learnt prompts, and the companions if there are any.

    Attributes:
        text_features: (1, 2, E) float32, normal then abnormal, not normalised.
        companions: None if the images of a batch are each other's companions, or, with `scores_jointly`
            False, if each image is scored by the prompts alone.
    """

    text_features: Tensor
    companions: Companions | None = None

    @property
    def about(self) -> str:
        """What the companions do to the scores; worded when it is asked for, because it reads values."""
        return "" if self.companions is None else self.companions.described()


class Auto(Method[Config, Features, AutoState]):
    """See the module's description."""

    SHAPE_FIELDS = frozenset({"n_ctx", "depth", "t_n_ctx"})
    AUTHORS_ACTIVATION = "quick_gelu"
    WEIGHTS_OF = "anomalyclip"
    MOST_COMPANIONS = 64
    IMAGE_TERMS = frozenset({"image"})
    TRAINING = TrainingDefaults(epochs=15, batch_size=8, learning_rate=1e-3)

    def __init__(self, backbone: CLIP, config: Config) -> None:
        """Fresh prompts from torch's global random numbers.

        Raises:
            ConfigError: a setting is impossible for this backbone.
        """
        image_score = image_score_for(config.image_score, backbone.record)
        own_image_weight = by_weights(
            config.own_image_weight, backbone.record, on_tiny=TINY_WEIGHT, elsewhere=0.0
        )
        chosen = replace(config, image_score=image_score, own_image_weight=own_image_weight)
        super().__init__(backbone, chosen.resolved(backbone.config))
        self.image_score, self.own_image_weight = image_score, own_image_weight
        self.prompts = ObjectAgnosticPrompts(self.backbone, self.config)
        self.visual_layers = layers_compared(self.config.visual_layers, backbone.config.vision)

    def prepare(self, classes: Sequence[str], support: Support | None = None) -> AutoState:
        """The two learnt prompts, the same for every class, and the patches of the companions.

        Args:
            classes: not used.
            support: `unlabelled` holds the companions; without it the images of a batch are each other's.
        """
        text = self.prompts.encode(self.backbone)
        if support is None or support.unlabelled is None:
            return AutoState(text)
        features = self.features(support.unlabelled)
        companions, _ = self._companions(features, self._logits(features, text))
        return AutoState(text, companions, scores_jointly=False)

    @torch.no_grad()
    def features(self, images: Tensor) -> Features:
        """A few images at a time through the image encoder, because whole folders come in one batch."""
        image_features, patch_features, own, *levels = in_parts(self._read, images, IMAGES_AT_ONCE)
        return Features(image_features, patch_features, own, tuple(levels))

    def score(self, features: Features, state: AutoState) -> RawOutput:
        """Probabilities from the prompts and the comparisons; the map is upsampled and smoothed."""
        return self._scored(features, state, self._logits(features, state.text_features))

    def score_beside_references(self, features: Features, state: AutoState) -> RawOutput:
        """`score` without the comparison of an image with itself.

        Compared by the roots alone (`reference_patches`), 1, 4 and 16 references gave 0.845, 0.863 and 0.860
        with it on validation data, and 0.846, 0.872 and 0.876 without.
        """
        return self._scored(features, state, self._prompted(features, state.text_features))

    def _scored(self, features: Features, state: AutoState, logits: Logits) -> RawOutput:
        """Joins logits with the companions, if there are any."""
        companions, comparison = state.companions, None
        is_joint = companions is None and state.scores_jointly is not False
        if is_joint and logits.images.shape[0] > LEAST_COMPANIONS:
            companions, comparison = self._companions(features, logits)
        if companions is not None and len(companions.patches) > 0:
            comparison = comparison or companions.compared(features.levels)
            logits = companions.rescaled(companions.joined(logits, comparison))
        chances = torch.stack([-logits.patches, logits.patches], dim=-1).sigmoid()  # (B, T, N, 2)
        once = [1.0] * len(self.prompts.layers)
        size = features.image_size(self.backbone.config.vision.patch_size)
        return RawOutput(logits.images.sigmoid(), abnormal_map(chances, once, size, self.config.sigma))

    def companion_distances(self, features: Features, state: AutoState) -> Tensor | None:
        """Mean distance of each patch over the levels, above what is usual, times the trust."""
        companions = state.companions
        if companions is None or len(companions.patches) == 0:
            return None
        comparison = companions.compared(features.levels)
        above = companions.patch_distances_of(comparison) - 1
        return companions.likeness(comparison)[:, None] * above

    @property
    def map_range(self) -> tuple[float, float]:
        """One probability for each layer."""
        return (0.0, float(len(self.prompts.layers)))

    def loss_from_features(
        self, features: JointFeatures, masks: Tensor, labels: Tensor, classes: Sequence[str] | None = None
    ) -> dict[str, Tensor]:
        """AnomalyCLIP's loss; the comparison has nothing to learn.

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
        """The context vectors of both prompts and the deep prompts, as in AnomalyCLIP."""
        yield from self.prompts.learner.named_parameters()

    def load_official(self, state_dict: Mapping[str, Any]) -> None:
        """Takes the file that AnomalyCLIP's authors publish."""
        self.load_learned(official_tensors(state_dict))

    @classmethod
    def official_config(cls, state_dict: Mapping[str, Any]) -> dict[str, Any]:
        """`n_ctx`, `depth` and `t_n_ctx` from the shapes; without deep prompts `t_n_ctx` stays open."""
        return official_settings(state_dict)

    def _read(self, images: Tensor) -> tuple[Tensor, ...]:
        """The fields of `Features` of a few images, the levels last."""
        visual, prompts = self.backbone.visual, self.prompts
        layers = reference_layers(visual.config) if self.own_image_weight else ()
        output = visual(
            images,
            taps=(*self.visual_layers, *layers),
            value_taps=prompts.layers,
            value_value_from=prompts.value_value_from,
        )
        joint = joint_features(visual, output, prompts.layers)
        levels = comparable_patches(output, self.visual_layers)
        own = joint.patch_features.new_zeros(len(images), joint.patch_features.shape[2], 0)
        if self.own_image_weight:
            own = reference_patches(output, layers)[-1]
        return joint.image_features, joint.patch_features, own, *levels

    def _logits(self, features: Features, text: Tensor) -> Logits:
        """What one image says: by the prompts, and by how rare its patches are within it."""
        return with_own_image(self._prompted(features, text), features.own, self.own_image_weight)

    def _prompted(self, features: Features, text: Tensor) -> Logits:
        """How far abnormal is ahead of normal, by the prompts."""
        ahead = []
        for vectors in (features.image_features, features.patch_features):
            cosines = cosine_similarity(vectors, text)
            ahead.append((cosines[..., 1] - cosines[..., 0]) / self.config.temperature)
        image, patches = ahead
        return Logits(image_logits(image, patches, self.image_score), patches)

    def _companions(self, features: Features, logits: Logits) -> tuple[Companions, Comparison]:
        """Images as companions of others, and how they compare with each other."""
        config = self.config
        weighting = Weighting(config.companions, config.best_share, config.visual_weight)
        return Companions.of(features.levels, logits, weighting)

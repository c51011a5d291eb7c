"""Folder mode: AnomalyCLIP's language score, joined with what the other images of a folder show.

Language: Zhou et al., ICLR 2024, https://arxiv.org/abs/2310.18961. Comparing unlabelled images: Li et al.
(MuSc), ICLR 2024, https://arxiv.org/abs/2401.16753; joining both: after Dual-Image Enhanced CLIP,
https://arxiv.org/abs/2405.04782. The combination is zsad's own, no paper describes it.

Idea: most users bring many unlabelled images of one product. What none of the others shows is suspicious,
whatever the texts say; where all images have the same fault, or do not resemble each other, the texts know
better. So an image gets AnomalyCLIP's answer, moved up or down by how badly its patches match those of its
companions. A single image, or fewer than 8, is scored by AnomalyCLIP alone; the weights are AnomalyCLIP's.

Companions are the other images of the batch, or those that `Detector.set_companions` got, none of which
need be normal (`zsad predict` draws up to 64 from the folder, and then scores one image after the other).
Without companions all patches of a batch stay in memory, 22 MB an image on ViT-L/14-336 at 518 pixels in
float32: give companions before `Detector.predict` meets a list of thousands.

How it is done; what was chosen, was chosen on synthetic products (`zsad.data.synthetic`), VisA's capsules and
macaroni, and five sets of cracks and exudates:

* a patch is described on several levels: by the blocks `visual_layers`, on a hybrid tower also by the levels
  of its stem that are not coarser than the patch grid. On each level counts its distance to the nearest patch
  of each of the 32 most alike companions, the mean of the best half of them. Levels are divided by their mean
  over the companions and averaged;
* image: the largest patch distance. Distances of images and patches are standardised over the companions
  and added to the language logits, in units of these logits' own spread over the companions, with
  `visual_weight` 1.5;
* scale: the sum goes through the logistic function, shifted and stretched before so that the companions'
  median becomes 0.05 for images and 0.02 for patches, and what 5 % of the images exceed 0.95, what 2.5 %
  of the patches exceed 0.5. Without that, patches of a product whose texts say little all end near 1. It does
  not change the order within the folder;
* alike or not: a patch's distance to its companions is divided by its distance to the most similar patches
  of its own image. Where the companions' median of this ratio is above 1.1, other images say less about
  a patch than its own image does, and only the language counts; below 1.0 both count in full. Measured on
  the backbone "tiny": folders of unlike images 1.11 to 1.27, of alike ones 0.5 to 1.06 (3 of 43: 1.09 to
  1.21);
* a companion whose patches are all within a distance of 0.02 is the image itself or a copy, and left out.

A first version compared with the best 30 % of the 16 most alike companions. On the evaluation images it did
badly where a fault recurs in many images (magnetic tiles): the most alike images have the same fault.
Synthetic products with recurring faults showed the same, and on them and the others the present numbers were
chosen.

The scores of one folder are comparable with each other, not with those of another folder.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zsad.errors import ConfigError
from zsad.methods.base import Method, State, Support, TrainingRecipe, check_masks, check_names
from zsad.methods.functional.comparison import Comparison, Gallery, compare
from zsad.methods.functional.joining import Levels, Spread
from zsad.methods.functional.losses import pixel_losses
from zsad.methods.functional.maps import abnormal_map, to_grid, upsample
from zsad.methods.functional.patches import (
    JointFeatures,
    comparable_patches,
    joint_features,
    layers_compared,
    layers_to_use,
    resolve_dpam_layer,
)
from zsad.methods.functional.similarity import cosine_similarity, similarity_softmax
from zsad.methods.prompts.learners import PromptPairLearner, deep_prompt_settings, official_prompts
from zsad.types import Activation, MethodInfo, PositionInterpolation, RawOutput

if TYPE_CHECKING:
    from zsad.backbones.clip import CLIP

PAPER_DEPTH = 9
PICTURES_AT_ONCE = 8
LEAST_COMPANIONS = 7
ALIKE, UNLIKE = 1.0, 1.1
# Quantile that is taken for rare, and the logits of the median and of that quantile.
IMAGE_LEVELS = (0.95, -3.0, 3.0)
PATCH_LEVELS = (0.975, -4.0, 0.0)

INFO = MethodInfo(
    name="auto",
    title="Folder mode",
    year=2024,
    paper="https://arxiv.org/abs/2310.18961",
    code=None,
    needs_training=True,
    uses_class_names=False,
    scores_batch_jointly=True,
)


@dataclass(frozen=True)
class Config:
    """AnomalyCLIP's settings, and those of the comparison.

    Attributes:
        companions: most alike images that each image is compared with.
        best_share: of these that counts for a patch, from the best match on, at least one.
        visual_weight: of the comparison against the language, in standard deviations; 0 leaves it out.
        visual_layers: 1-based image blocks whose patches are compared; None: the first of a tower with a
            hybrid stem, whose levels are compared besides, and the ends of the quarters of others.
        features_list: 1-based image blocks whose patches meet the texts; None: the last one.
        n_ctx: context vectors of each sentence.
        depth: last text block with a deep prompt; None: 9, or as many as there are blocks.
        t_n_ctx: deep prompt vectors of a block.
        sigma: of the Gaussian filter over the map, in pixels; 0 switches it off.
        dpam_layer: the value-value stream covers the last dpam_layer - 1 blocks; None: 20 of 24 blocks.
        lam: weight of the pixel losses against the image loss.
        temperature: of the softmax over the two sentences.
        round_prompts_to_half: whether deep prompts pass through half precision, as in AnomalyCLIP's code.
        activation: None: quick_gelu on OpenAI's weights, else what the weights were trained with.
        position_interpolation: how the position table is resized to other image sizes.
    """

    companions: int = 32
    best_share: float = 0.5
    visual_weight: float = 1.5
    visual_layers: tuple[int, ...] | None = None
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
        if self.companions < LEAST_COMPANIONS:
            raise ConfigError(f"companions must be {LEAST_COMPANIONS} or more, got {self.companions}")
        if not 0 < self.best_share <= 1:
            raise ConfigError(f"best_share must be above 0 and at most 1, got {self.best_share}")
        for name in ("visual_weight", "sigma", "lam"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name} must be 0 or more, got {getattr(self, name)}")
        if not self.temperature > 0:
            raise ConfigError(f"temperature must be above 0, got {self.temperature}")


@dataclass(frozen=True)
class Features(JointFeatures):
    """What meets the texts, and what is compared between images.

    Attributes:
        levels: L tensors (B, N, D_l) of unit vectors.
    """

    levels: tuple[Tensor, ...]


@dataclass(frozen=True)
class Companions:
    """What the companions of an image are, and how values spread over them.

    Attributes:
        gallery: their patches.
        unlikeness: (M,) of each, see `Comparison`.
        level_means: (L, 1) mean distance on each level.
        image_distances: spread of the largest patch distance of an image.
        patch_distances: spread of the patch distances.
        image_logits: spread of the images' language logits.
        patch_logits: spread of the patches' language logits, (1, T, 1).
        alike: in [0, 1], how far the comparison of the folder as a whole is trusted.
        image_levels: of the images' joined logits.
        patch_levels: of the patches' joined logits, (1, T, 1).
    """

    gallery: Gallery
    unlikeness: Tensor
    level_means: Tensor
    image_distances: Spread
    patch_distances: Spread
    image_logits: Spread
    patch_logits: Spread
    alike: Tensor
    image_levels: Levels | None = None
    patch_levels: Levels | None = None


@dataclass(frozen=True)
class AutoState(State):
    """What the learnt prompts say, and the companions if they were given.

    Attributes:
        text_features: (1, 2, E) float32, normal then abnormal, not normalised.
        companions: None: the images of a batch are each other's.
    """

    text_features: Tensor
    companions: Companions | None = None


class Auto(Method):
    """See the module's description."""

    SHAPE_FIELDS = frozenset({"n_ctx", "depth", "t_n_ctx"})
    AUTHORS_ACTIVATION = "quick_gelu"
    WEIGHTS_OF = "anomalyclip"
    MOST_COMPANIONS = 64
    RECIPE = TrainingRecipe(epochs=15, batch_size=8, learning_rate=1e-3)

    def __init__(self, backbone: CLIP, config: Config) -> None:
        """Fresh prompts from torch's global random numbers.

        Raises:
            ConfigError: a setting is impossible for this backbone.
        """
        vision, text_layers = backbone.config.vision, backbone.config.text.layers
        last = (vision.layers,)
        config = replace(
            config,
            visual_layers=layers_compared(config.visual_layers, vision),
            features_list=layers_to_use(config.features_list or last, vision.layers),
            depth=min(PAPER_DEPTH, text_layers) if config.depth is None else config.depth,
            dpam_layer=resolve_dpam_layer(config.dpam_layer, vision.layers),
        )
        super().__init__(backbone, config)
        self.layers: tuple[int, ...] = self.config.features_list
        self.value_value_from: int = vision.layers - self.config.dpam_layer + 2
        self.prompt_learner = PromptPairLearner(
            backbone,
            n_ctx=self.config.n_ctx,
            depth=self.config.depth,
            t_n_ctx=self.config.t_n_ctx,
            round_prompts_to_half=self.config.round_prompts_to_half,
        )

    def prepare(self, classes: Sequence[str], support: Support | None = None) -> AutoState:
        """The two learnt sentences, the same for every class, and the companions' patches.

        Args:
            classes: not used.
            support: `unlabelled` holds the companions; without it the images of a batch are each other's.
        """
        text = self.prompt_learner.encode(self.backbone)[None]
        if support is None or support.unlabelled is None:
            return AutoState(text)
        companions = self._companions(self.features(support.unlabelled), text)[0]
        return AutoState(text, companions, scores_jointly=False, about=described(companions))

    @torch.no_grad()
    def features(self, images: Tensor) -> Features:
        """A few images at a time through the image encoder, since whole folders come in one batch."""
        parts = [self._read(part) for part in torch.split(images, PICTURES_AT_ONCE)]
        return Features(
            torch.cat([part.image_features for part in parts]),
            torch.cat([part.patch_features for part in parts]),
            tuple(torch.cat(level) for level in zip(*(part.levels for part in parts), strict=True)),
        )

    def score(self, features: Features, state: AutoState) -> RawOutput:
        """Language logits, moved by the comparison, as probabilities; the map upsampled and smoothed."""
        image_logits, patch_logits = self._logits(features, state.text_features)
        companions = state.companions
        comparison = None
        if companions is None and len(image_logits) > LEAST_COMPANIONS:
            companions, comparison = self._companions(features, state.text_features)
        if companions is not None and len(companions.gallery) > 0:
            comparison = comparison or self._compare(features.levels, companions.gallery)
            image_logits, patch_logits = self._join(image_logits, patch_logits, comparison, companions)
            if companions.image_levels is not None and companions.patch_levels is not None:
                image_logits = companions.image_levels.rescaled(image_logits, companions.alike)
                patch_logits = companions.patch_levels.rescaled(patch_logits, companions.alike)
        chances = torch.stack([-patch_logits, patch_logits], dim=-1).sigmoid()  # (B, T, N, 2)
        once = [1.0] * len(self.layers)
        size = features.image_size(self.backbone.config.vision.patch_size)
        return RawOutput(image_logits.sigmoid(), abnormal_map(chances, once, size, self.config.sigma))

    @property
    def map_range(self) -> tuple[float, float]:
        """A probability for each block used."""
        return (0.0, float(len(self.layers)))

    def loss_from_features(
        self, features: JointFeatures, masks: Tensor, labels: Tensor, classes: Sequence[str] | None = None
    ) -> dict[str, Tensor]:
        """AnomalyCLIP's loss; the comparison has nothing to learn.

        Source: AnomalyCLIP (2310.18961), equation 2.

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
        maps = upsample(
            to_grid(similarity_softmax(features.patch_features, text, self.config.temperature)), size
        )
        weights = [self.config.lam] * len(self.layers)
        return {"image": F.cross_entropy(logits, labels.long()), **pixel_losses(maps, masks, weights)}

    def trainable(self) -> Iterator[tuple[str, nn.Parameter]]:
        """AnomalyCLIP's context vectors and deep prompts."""
        yield from self.prompt_learner.named_parameters()

    def load_official(self, state_dict: Mapping[str, Any]) -> None:
        """Takes the file that AnomalyCLIP's authors publish."""
        learned = official_prompts(state_dict, "AnomalyCLIP's authors", ("ctx_pos", "ctx_neg"))
        check_names(INFO.name, expected=dict(self.trainable()), found=learned)
        self.load_learned(learned)

    @classmethod
    def official_config(cls, state_dict: Mapping[str, Any]) -> dict[str, Any]:
        """`n_ctx`, `depth` and `t_n_ctx`, read off the shapes."""
        learned = official_prompts(state_dict, "AnomalyCLIP's authors", ("ctx_pos", "ctx_neg"))
        return {"n_ctx": learned["ctx_pos"].shape[-2], **deep_prompt_settings(learned)}

    def _read(self, images: Tensor) -> Features:
        """`Features` of a few images."""
        visual = self.backbone.visual
        output = visual(
            images,
            taps=self.config.visual_layers,
            value_taps=self.layers,
            value_value_from=self.value_value_from,
        )
        joint = joint_features(visual, output, self.layers)
        levels = comparable_patches(output, self.config.visual_layers)
        return Features(joint.image_features, joint.patch_features, levels)

    def _logits(self, features: Features, text: Tensor) -> tuple[Tensor, Tensor]:
        """How far abnormal is ahead of normal: (B,) of the images, (B, T, N) of the patches."""
        found = []
        for vectors in (features.image_features, features.patch_features):
            cosines = cosine_similarity(vectors, text)
            found.append((cosines[..., 1] - cosines[..., 0]) / self.config.temperature)
        return found[0], found[1]

    def _compare(self, levels: Sequence[Tensor], gallery: Gallery) -> Comparison:
        return compare(levels, gallery, self.config.companions, self.config.best_share)

    def _join(
        self, image_logits: Tensor, patch_logits: Tensor, comparison: Comparison, companions: Companions
    ) -> tuple[Tensor, Tensor]:
        """Language logits of images (B,) and patches (B, T, N), moved by the comparison."""
        weight = self.config.visual_weight * likeness(comparison, companions)  # (B,)
        distances = (comparison.distances / companions.level_means).mean(dim=1)  # (B, N)
        by_image = companions.image_distances.standardised(distances.amax(dim=1))
        by_patch = companions.patch_distances.standardised(distances)
        moved = (weight[:, None] * by_patch)[:, None] * companions.patch_logits.deviation
        return image_logits + weight * by_image * companions.image_logits.deviation, patch_logits + moved

    def _companions(self, features: Features, text: Tensor) -> tuple[Companions, Comparison]:
        """Images as companions of others, and how they compare with each other."""
        gallery = Gallery.of(features.levels)
        comparison = self._compare(features.levels, gallery)
        level_means = comparison.distances.mean(dim=(0, 2)).clamp(min=1e-6)[:, None]
        distances = (comparison.distances / level_means).mean(dim=1)
        image_logits, patch_logits = self._logits(features, text)
        companions = Companions(
            gallery,
            comparison.unlikeness,
            level_means,
            image_distances=Spread.of(distances.amax(dim=1), (0,)),
            patch_distances=Spread.of(distances, (0, 1)),
            image_logits=Spread.of(image_logits, (0,)),
            patch_logits=Spread.of(patch_logits, (0, 2)),
            alike=comparison.unlikeness.new_zeros(()),
        )
        images, patches = self._join(image_logits, patch_logits, comparison, companions)
        used = self.config.visual_weight > 0
        companions = replace(
            companions,
            alike=likeness(comparison, companions).median() * used,
            image_levels=Levels.of(images, (0,), *IMAGE_LEVELS),
            patch_levels=Levels.of(patches, (0, 2), *PATCH_LEVELS),
        )
        return companions, comparison


def described(companions: Companions) -> str:
    """A line for the user: the number of companions, and whether they are alike."""
    ratio, trust = float(companions.unlikeness.median()), float(companions.alike)
    found = f"each image was compared with others of the folder ({len(companions.gallery)} drawn)"
    if trust == 0:
        return f"{found}, which are not alike ({ratio:.2f}): the scores are those of the texts alone"
    return f"{found}, which are alike ({ratio:.2f}): this counts {trust:.0%}, beside the texts"


def likeness(comparison: Comparison, companions: Companions) -> Tensor:
    """How far each image's comparison can be trusted.

    It is the companions' own likeness, not the image's: an image that is anomalous all over must not be
    excused for being unlike all others.

    Args:
        comparison: of B images.
        companions: compared with.

    Returns:
        (B,) in [0, 1]; 0 with fewer than 7 companions that are no copies.
    """
    ratios = companions.unlikeness[comparison.companions].masked_fill(~comparison.counted, torch.nan)
    enough = comparison.counted.sum(dim=1) >= LEAST_COMPANIONS
    return torch.where(enough, trusted(ratios.nanmedian(dim=1).values).nan_to_num(0.0), 0.0)


def trusted(unlikeness: Tensor) -> Tensor:
    """How much a comparison counts, from 1 (alike) down to 0 (unlike), of any shape."""
    return ((UNLIKE - unlikeness) / (UNLIKE - ALIKE)).clamp(0, 1)

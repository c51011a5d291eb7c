"""APRIL-GAN: linear adapters from the layers of CLIP to its joint space, and a few-shot memory beside them.

Chen et al., 2023 ("A Zero-/Few-Shot Anomaly Classification and Segmentation Method for CVPR 2023 VAND
Workshop Challenge Tracks 1&2"), https://arxiv.org/abs/2305.17382; code
https://github.com/ByChelsea/VAND-APRIL-GAN.

Idea: the patches of four layers of the image encoder each pass through an adapter, a linear layer of their
own, into the joint space, where they are compared with an ensemble of hand-written prompts about the class (7
normal and 5 abnormal states in 35 templates). Only the adapters are learnt, with masks of any labelled
auxiliary set. The map is the sum of the abnormal probabilities over the layers. The score of the image is
plain CLIP's: the class token against the same prompts, so training does not change it. With a few references,
distances of the raw patches to the nearest reference patch are added to the map.

The authors train on MVTec AD for 3 epochs (with 2 x 2 mosaics of one category's images at a chance of 0.2)
or on VisA for 15, with Adam, learning rate 1e-3, betas 0.5 and 0.999, 8 images per step. The adapters overfit
soon.

What the released code does and the paper does not say (kept, because published weights depend on it):

* at any other image size than the weights' own (so at 518 with ViT-L/14-336) the code rebuilds OpenAI's
  network with the exact GELU instead of the QuickGELU that it was trained with; at the native size it keeps
  QuickGELU. `zsad.load` decides by its `image_size`, and the decision is saved with what is learnt. A setting
  `activation=...` always wins;
* position tables are resized bicubically with antialiasing;
* similarities are upsampled to the size of the images (corners aligned) before the softmax; nothing is
  smoothed;
* only the abnormal channel has a Dice loss, and the score of the image has no loss at all.

Deviations from the released code:

* with references, its image score is the mean of the text score and of the map's maximum, min-max
  normalised over all test images of the category, so that no single image can be scored. Here the
  maximum is divided by a fixed number instead, the largest value of a map with references (one for
  each layer's probability and one for its distance): an image's score depends on nothing but itself.
  `few_shot_score="batch"` is the authors' rule, over the images that are scored together;
* losses are computed in single precision even where the network runs in a lower one;
* with another number of layers than 24, those at the end of each quarter are used (6, 12, 18, 24 in the
  paper).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from zsad.backbones.catalog import MVTEC, VISA, authors_weights
from zsad.errors import ConfigError, WeightsError
from zsad.methods.base import DEFAULT_CLASS, Method, MethodConfig, State, Support, Temperature
from zsad.methods.functional.checks import check_masks, check_tensors
from zsad.methods.functional.losses import dice_loss, focal_loss
from zsad.methods.functional.maps import min_max, to_grid, upsample
from zsad.methods.functional.matching import nearest_distance
from zsad.methods.functional.patches import layers_to_use
from zsad.methods.functional.raw_patches import IMAGES_AT_ONCE, RawFeatures, raw_features, slices
from zsad.methods.functional.references import ReferenceMemory
from zsad.methods.functional.similarity import cosine_similarity, similarity_softmax
from zsad.methods.prompts.state_words import StateWords, own_prompts
from zsad.methods.prompts.templates import TextEnsemble, prompt_set
from zsad.methods.training import TrainingDefaults
from zsad.types import MethodInfo, PositionInterpolation, RawOutput

if TYPE_CHECKING:
    from zsad.backbones.clip import CLIP

OFFICIAL_ENTRY = "trainable_linearlayer"
REFERENCES_AT_ONCE = 4

INFO = MethodInfo(
    name="april_gan",
    title="APRIL-GAN",
    year=2023,
    paper="https://arxiv.org/abs/2305.17382",
    code="https://github.com/ByChelsea/VAND-APRIL-GAN",
    needs_training=True,
    uses_class_names=True,
    scores_batch_jointly=False,
    references="own",
    checked_by="authors",
)

FILES = "https://raw.githubusercontent.com/ByChelsea/VAND-APRIL-GAN/master/exps/pretrained"
PAGE = "https://github.com/ByChelsea/VAND-APRIL-GAN"

WEIGHTS = (
    authors_weights(
        "april_gan-trained-on-mvtec",
        f"{FILES}/mvtec_pretrained.pth",
        PAGE,
        MVTEC,
        notes="no checksum is known; the paper's numbers on VisA",
    ),
    authors_weights(
        "april_gan-trained-on-visa",
        f"{FILES}/visa_pretrained.pth",
        PAGE,
        VISA,
        notes="no checksum is known; the paper's numbers on MVTec AD",
    ),
)


@dataclass(frozen=True, kw_only=True)
class Config(MethodConfig):
    """Settings, by the names of the authors' code.

    Attributes:
        features_list: 1-based layers of the image encoder whose patches are used; None for 6, 12, 18, 24 of
            24 layers, and for the ends of the quarters of another number.
        temperature: temperature of the softmax over normal and abnormal (the authors multiply by 100).
        few_shot_score: score of the image with references: "fixed" for each image by itself, "batch" as the
            authors do, which needs all images of a category in one call (`zsad evaluate` does that); see the
            module's description.
        state_words: the user's own words in place of the paper's state words and templates; None for the
            paper's, with which the adapters were trained.
        activation: activation of the MLPs; None for gelu on OpenAI's weights, but quick_gelu at their native
            image size, and for what the weights were trained with on all others.
    """

    features_list: tuple[int, ...] | None = None
    temperature: Temperature = 0.01
    few_shot_score: Literal["fixed", "batch"] = "fixed"
    state_words: StateWords | None = None
    position_interpolation: PositionInterpolation = "bicubic_antialias"


@dataclass(frozen=True)
class AprilGANState(State):
    """Text and reference features.

    Attributes:
        text_features: (C, 2, E) float32 unit vectors, normal then abnormal.
        memory: patches of the references after each used layer; None for zero-shot scoring.
    """

    text_features: Tensor
    memory: ReferenceMemory | None


class LinearAdapters(nn.Module):
    """One linear layer for each used layer of the image encoder, from its width into the joint space.

    Attributes:
        fc: the adapters; the name is that of the authors' files.
    """

    def __init__(self, layers: int, width: int, embed_dim: int) -> None:
        super().__init__()
        self.fc = nn.ModuleList(nn.Linear(width, embed_dim) for _ in range(layers))

    def forward(self, patch_tokens: Tensor) -> Tensor:
        """(B, T, N, D) -> (B, T, N, E), not normalised."""
        adapted = [layer(tokens) for layer, tokens in zip(self.fc, patch_tokens.unbind(dim=1), strict=True)]
        return torch.stack(adapted, dim=1)


class AprilGAN(Method[Config, RawFeatures, AprilGANState]):
    """See the module's description."""

    SHAPE_FIELDS = frozenset({"features_list"})
    AUTHORS_ACTIVATION = "gelu"
    NATIVE_SIZE_KEEPS_ACTIVATION = True
    FEATURES = RawFeatures
    FEATURE_FIELDS = frozenset({"features_list"})
    TRAINING = TrainingDefaults(
        epochs=15,
        batch_size=8,
        learning_rate=1e-3,
        precision="fp16",
        on={"mvtec": {"epochs": 3, "mosaic": 0.2}},
    )

    def __init__(self, backbone: CLIP, config: Config) -> None:
        """Fresh adapters from torch's global random numbers.

        Raises:
            ConfigError: a setting is impossible for this backbone.
        """
        chosen = layers_to_use(config.features_list, backbone.config.vision.layers)
        super().__init__(backbone, replace(config, features_list=chosen))
        self.layers = chosen
        self.adapters = LinearAdapters(len(chosen), backbone.config.vision.width, backbone.config.embed_dim)
        self.text = TextEnsemble(self.backbone, own_prompts(prompt_set("april_gan"), self.config.state_words))

    @torch.no_grad()
    def prepare(self, classes: Sequence[str], support: Support | None = None) -> AprilGANState:
        """Text features of the classes and, with references, the memory of their patches."""
        text_features, memory = self.text.encode(classes), self.memory_of(support)
        if memory is None:
            return AprilGANState(text_features, None)
        joint, peak = self.config.few_shot_score == "batch", self._few_shot_peak
        return AprilGANState(text_features, memory, map_range=(0.0, peak), scores_jointly=joint)

    @torch.no_grad()
    def remember(self, images: Tensor) -> ReferenceMemory:
        """Patches after each of the T used layers, before the final layer norm."""
        features = raw_features(self.backbone.visual, images, self.layers, REFERENCES_AT_ONCE)
        return ReferenceMemory.of(features.patch_tokens.unbind(dim=1))

    @torch.no_grad()
    def features(self, images: Tensor) -> RawFeatures:
        """One pass through the image encoder; no gradients, because nothing in it is learnt."""
        whole = self.config.few_shot_score == "batch"  # whole categories come in one batch
        return raw_features(self.backbone.visual, images, self.layers, IMAGES_AT_ONCE if whole else None)

    def score(self, features: RawFeatures, state: AprilGANState) -> RawOutput:
        """Plain CLIP's score and the adapters' maps; with references, distances to them are added.

        Raises:
            ConfigError: `few_shot_score="batch"` with a single image.
        """
        text, temperature = state.text_features, self.config.temperature
        scores = similarity_softmax(features.image_features, text, temperature)[:, 1]
        if state.memory is None:
            return RawOutput(scores, self._maps(features, state))
        if state.scores_jointly:
            maps = torch.cat(
                [
                    self._maps(
                        features.rows(rows),
                        AprilGANState(text if len(text) == 1 else text[rows], state.memory),
                    )
                    for rows in slices(len(scores), IMAGES_AT_ONCE)
                ]
            )
        else:
            maps = self._maps(features, state)
        return RawOutput(self._few_shot_scores(scores, maps), maps)

    @property
    def map_range(self) -> tuple[float, float]:
        """One probability for each layer."""
        return (0.0, float(len(self.layers)))

    @property
    def _few_shot_peak(self) -> float:
        """Largest value of a map with references: a probability and a distance for each layer.

        The distance of patches that have nothing in common is 1; patches of one network do not get farther
        from their nearest neighbour.
        """
        return 2.0 * len(self.layers)

    def loss_from_features(
        self, features: RawFeatures, masks: Tensor, labels: Tensor, classes: Sequence[str] | None = None
    ) -> dict[str, Tensor]:
        """Focal and abnormal Dice loss of the map of each layer, summed over the layers.

        L = sum_l [ Focal(P_l, G) + Dice(P_l,abnormal, G) ]

        Source: APRIL-GAN (2305.17382), section 3.2, as in the authors' train.py.

        Args:
            features: features of the batch.
            masks: (B, S, S) or (B, 1, S, S) in {0, 1}.
            labels: not used, because the score of the image is not learnt.
            classes: one name for all, or one per image; None means "object".

        Returns:
            "focal" and "dice_abnormal".
        """
        masks = check_masks(masks, len(features.patch_tokens), self._image_size(features))
        with torch.autocast(masks.device.type, enabled=False):
            text = self.text.encode([DEFAULT_CLASS] if classes is None else classes)
            layers = self._probability_maps(features, text).unbind(dim=1)
            focal = [focal_loss(layer, masks) for layer in layers]
            dice = [dice_loss(layer[:, 1], masks) for layer in layers]
        return {"focal": torch.stack(focal).sum(), "dice_abnormal": torch.stack(dice).sum()}

    def trainable(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Weight and bias of each adapter, by the names of the authors' file."""
        yield from self.adapters.named_parameters()

    def load_official(self, state_dict: Mapping[str, Any]) -> None:
        """Takes `{"trainable_linearlayer": {...}}`, the file that the authors' training writes."""
        learned = official_parameters(state_dict)
        count = sum(name.endswith(".weight") for name in learned)
        if count != len(self.layers):
            raise WeightsError(
                f"the file holds adapters of {count} layers, but features_list names {len(self.layers)}: "
                f"{self.layers}; give the layers that it was trained with as features_list"
            )
        self.load_learned(learned)

    @classmethod
    def official_config(cls, state_dict: Mapping[str, Any]) -> dict[str, Any]:
        """Nothing: the file shows the number of layers, but not which ones they are."""
        official_parameters(state_dict)
        return {}

    def _maps(self, features: RawFeatures, state: AprilGANState) -> Tensor:
        """(B, S, S) maps, summed over the layers."""
        maps = self._probability_maps(features, state.text_features)[:, :, 1].sum(dim=1)
        return maps if state.memory is None else maps + self._distance_maps(features, state.memory)

    def _probability_maps(self, features: RawFeatures, text: Tensor) -> Tensor:
        """Normal and abnormal probability (B, T, 2, S, S) of each pixel by each layer."""
        logits = cosine_similarity(self.adapters(features.patch_tokens), text) / self.config.temperature
        maps = upsample(to_grid(logits), self._image_size(features), align_corners=True)
        return torch.softmax(maps, dim=2)

    def _distance_maps(self, features: RawFeatures, memory: ReferenceMemory) -> Tensor:
        """Cosine distance (B, S, S) of each pixel to the nearest reference patch, summed over the layers.

        D = sum_l upsample( min_r 1 - cos(F_l, r_l) )

        Source: APRIL-GAN (2305.17382), section 3.3.
        """
        distances = [
            2 * nearest_distance(tokens, known)
            for tokens, known in zip(features.patch_tokens.unbind(dim=1), memory.levels, strict=True)
        ]
        # Upsampling is linear, so the layers can be added up before it.
        grids = to_grid(torch.stack(distances).sum(dim=0)[..., None])[:, 0]
        return upsample(grids, self._image_size(features), align_corners=True)

    def _few_shot_scores(self, text_scores: Tensor, maps: Tensor) -> Tensor:
        """Scores (B,) in [0, 1] of images that have a combined map, by the rule of the settings."""
        if self.config.few_shot_score == "fixed":
            peaks = maps.amax(dim=(1, 2)) / self._few_shot_peak
            return (text_scores + peaks.clamp(0, 1)) / 2
        if len(maps) < 2:
            raise ConfigError(
                'few_shot_score="batch" compares the images of a category with each other and needs at '
                'least 2 at once, got 1: score them together, or use few_shot_score="fixed"'
            )
        return batch_scores(text_scores, maps)

    def _image_size(self, features: RawFeatures) -> int:
        """Pixels a side of the images that the features were made from."""
        return features.image_size(self.backbone.config.vision.patch_size)


def batch_scores(text_scores: Tensor, maps: Tensor) -> Tensor:
    """The authors' few-shot image scores, which depend on all images of a category.

    s = ( s_text + (m - min m) / (max m - min m) ) / 2,  m the largest value of each map

    Source: APRIL-GAN (2305.17382), section 3.3, as in the authors' few_shot test script.

    Args:
        text_scores: (B,) zero-shot scores in [0, 1] of all images of a category.
        maps: (B, S, S) their combined maps.

    Returns:
        (B,) in [0, 1].

    Example:
        >>> maps = torch.tensor([1.0, 3.0, 2.0])[:, None, None].expand(3, 2, 2)
        >>> batch_scores(torch.tensor([0.5, 0.5, 1.0]), maps)
        tensor([0.2500, 0.7500, 0.7500])
    """
    return (text_scores + min_max(maps.amax(dim=(1, 2)))) / 2


def official_parameters(state_dict: Mapping[str, Any]) -> dict[str, Tensor]:
    """The adapters of an authors' file.

    Raises:
        WeightsError: it is no such file.
    """
    adapters = state_dict.get(OFFICIAL_ENTRY)
    if not isinstance(adapters, Mapping) or not adapters:
        raise WeightsError(
            f"not a file of APRIL-GAN's authors: expected an entry {OFFICIAL_ENTRY!r} with 'fc.0.weight' and "
            f"so on, found {', '.join(map(str, list(state_dict)[:5])) or 'nothing'}"
        )
    learned = dict(adapters)
    check_tensors("APRIL-GAN's authors", learned)
    return learned

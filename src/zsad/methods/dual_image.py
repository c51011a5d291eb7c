"""Dual-Image Enhanced CLIP: two unlabelled images, each the visual reference of the other.

Zhang, Deng, Bao and Li, 2024, https://arxiv.org/abs/2405.04782; the authors published no code, and this file
was written without the full text of the paper.

Idea: an image is compared with prompts, as in AnoVL, and with another unlabelled image of the same product: a
patch that the other image shows nowhere is suspicious. Both answers are joined into one score and one map.
Optionally, an adapter of the patches that are compared with the prompts is trained at test time, on anomalies
drawn into the two images.

Confirmed (abstract, figures and summaries of the paper):

* images are processed in pairs, each the reference of the other, neither known to be normal;
* a joint vision-language score of text and image similarities serves for image and pixels;
* patches for localisation come from value-value attention;
* test-time adaptation refines localisation with synthesised anomalies; by a third party's note, it is a
  linear adapter trained on anomalies in the manner of DRAEM.

Our design, where nothing is known:

* the prompts are AnoVL's, the authors' earlier method (`prompt_set="paper"`: WinCLIP's), at temperature 0.07;
* visual score of a patch: (1 - cosine) / 2 to its nearest patch in the other image, averaged over layers at
  the ends of the quarters of the image encoder; of an image: the largest value of its patches;
* image: (1 - beta) text + beta visual. Map: (1 - alpha) text + alpha min(1, visual_scale visual), then a
  Gaussian filter. The factor 2.8 gives both maps the same standard deviation on 36 images of four auxiliary
  sets with the backbone "tiny" (2.2 to 4.1, by set); it was not measured on others;
* the other image, the companion: by default the most alike one (`pairing="nearest"`), because a folder may
  hold several products without saying so. "sequential" shuffles and takes pairs, "random" draws companions
  `draws` times and averages. Companions always have the same class name. All results depend on the companion;
* `partners` > 1 (None: all others) leads towards MuSc: the visual score of a patch is then the mean over the
  30 % of the companions that match it best (`best_share`), at least one;
* adaptation (off by default): z' = (z + W z + b) / 2 with W = 1 and b = 0 before the first step, trained for
  each image by itself, on `tta_variants` spoiled copies of the image and as many of its first companion. What
  lies outside the drawn anomaly counts as normal only where the joint map before adaptation is below its 80th
  percentile, because a real anomaly must not be taught to be normal. The score of the image stays as it was.
  The anomalies are those of `zsad.data.synthetic`, DRAEM's foreign textures among them.

An image without a companion (alone, or the only one of its class name) is scored by the prompts alone, and a
warning says so; such a score is on another scale than a joint one. Two copies of one image are perfect
references of each other: remove duplicates. Where most images have the same fault, the visual score is
blind to it.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from zsad.errors import ConfigError
from zsad.files.fields import Above, AtLeast, AtMost
from zsad.methods.base import Method, MethodConfig, Sigma, State, Support, Temperature
from zsad.methods.functional.adaptation import Adaptation, Spoiled, adapt_patches, spoiled_copies
from zsad.methods.functional.maps import gaussian_filter, grid_side, in_parts, upsample
from zsad.methods.functional.pairing import Pairing, choose_partners, neighbourhood_means, visual_scores
from zsad.methods.functional.patches import layers_to_use
from zsad.methods.functional.similarity import similarity_softmax
from zsad.methods.prompts.domain import DomainAwareTexts
from zsad.methods.prompts.templates import TextEnsemble, prompt_set
from zsad.types import MethodInfo, PositionInterpolation, RawOutput

if TYPE_CHECKING:
    from zsad.backbones.clip import CLIP

IMAGES_AT_ONCE = 8
# Share of the image encoder that the value-value stream covers in the papers: layers 6 to 24 of 24.
VALUE_VALUE_SHARE = 19 / 24
CHANGED_SHARE = 0.5

INFO = MethodInfo(
    name="dual_image",
    title="Dual-Image Enhanced CLIP",
    year=2024,
    paper="https://arxiv.org/abs/2405.04782",
    code=None,
    needs_training=False,
    uses_class_names=True,
    scores_batch_jointly=True,
    is_reconstruction=True,
)


Fraction = Annotated[float, AtLeast(0), AtMost(1)]


@dataclass(frozen=True, kw_only=True)
class Config(MethodConfig):
    """Settings; the names are ours where the paper's are not known.

    Attributes:
        pairing: how companions are chosen: "nearest" (most alike), "sequential" (shuffled, then in pairs) or
            "random" (drawn `draws` times, results averaged).
        partners: number of companions of each image; None for all others of its class name.
        draws: number of times that companions are drawn with "random".
        best_share: share of the companions that counts for a patch, from the best match on, at least one.
        seed: seed of the pairing and of the adaptation.
        alpha: weight of the visual map in the joint map, 0 to 1.
        beta: weight of the visual score in the score of the image, 0 to 1.
        visual_scale: factor on the visual map before joining, which brings both maps to the same spread; the
            product is cut at 1.
        prompt_set: "anovl", or a set of `zsad.methods.prompts.templates`, for example "paper" for WinCLIP's.
        temperature: temperature of the softmax over normal and abnormal.
        features_list: 1-based layers of the image encoder whose patches are compared between images; None for
            the ends of the quarters.
        visual_features: stream whose patches are compared: "original" or "value_value".
        neighbourhood: side in patches of the neighbourhood that is averaged before comparing, odd; 1 for
            none.
        value_value_from: first layer with value-value attention; None for 6 of 24 layers, and for the same
            share of another number; 1 as in AnoVL.
        sigma: standard deviation of the Gaussian filter over the map, in pixels; 0 switches it off.
        tta_steps: steps of test-time adaptation for each image; 0 switches it off.
        tta_lr: learning rate of AdamW.
        tta_variants: number of spoiled copies of each image for adaptation.
    """

    pairing: Pairing = "nearest"
    partners: Annotated[int, AtLeast(1)] | None = 1
    draws: Annotated[int, AtLeast(1)] = 1
    best_share: Fraction = 0.3
    seed: int = 0
    alpha: Fraction = 0.5
    beta: Fraction = 0.5
    visual_scale: Annotated[float, Above(0)] = 2.8
    prompt_set: str = "anovl"
    temperature: Temperature = 0.07
    features_list: tuple[int, ...] | None = None
    visual_features: Literal["original", "value_value"] = "original"
    neighbourhood: Annotated[int, AtLeast(1)] = 1
    value_value_from: int | None = None
    sigma: Sigma = 4.0
    tta_steps: Annotated[int, AtLeast(0)] = 0
    tta_lr: Annotated[float, Above(0)] = 1e-3
    tta_variants: Annotated[int, AtLeast(1)] = 4
    position_interpolation: PositionInterpolation = "bicubic_antialias"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.neighbourhood % 2 == 0:
            raise ConfigError(f"neighbourhood must be an odd number of patches, got {self.neighbourhood}")


@dataclass(frozen=True)
class DualImageState(State):
    """Features of the prompts, and the class names, which decide what may be compared.

    Attributes:
        text_features: (C, 2, E) float32, normal then abnormal.
        class_names: C names in lower case.
    """

    text_features: Tensor
    class_names: tuple[str, ...]


@dataclass(frozen=True)
class Features:
    """Vectors that are compared with prompts and between images, all of length 1.

    Attributes:
        image_features: (B, E) float32 image embeddings.
        patch_features: (B, N, E) float32 value-value patches of the last layer in the joint space.
        visual_tokens: (B, T, N, D) float32 patches after each of the T used layers.
        spoiled: copies for test-time adaptation; None if that is switched off.
    """

    image_features: Tensor
    patch_features: Tensor
    visual_tokens: Tensor
    spoiled: Spoiled | None


class DualImage(Method[Config, Features, DualImageState]):
    """See the module's description."""

    def __init__(self, backbone: CLIP, config: Config) -> None:
        """Nothing is learnt that outlives an image.

        Raises:
            ConfigError: a setting is impossible for this backbone.
        """
        layers = backbone.config.vision.layers
        start = config.value_value_from
        if start is None:
            start = layers - round(VALUE_VALUE_SHARE * layers) + 1
        if not 1 <= start <= layers:
            raise ConfigError(f"value_value_from {start}: this image encoder has layers 1 to {layers}")
        chosen = layers_to_use(config.features_list, layers)
        super().__init__(backbone, replace(config, features_list=chosen, value_value_from=start))
        self.layers = chosen
        self._texts: DomainAwareTexts | TextEnsemble = (
            DomainAwareTexts(self.backbone)
            if config.prompt_set == "anovl"
            else TextEnsemble(self.backbone, prompt_set(config.prompt_set))
        )

    @property
    def why_not_exportable(self) -> str:
        """The test-time adaptation; "" without it."""
        if not self.config.tta_steps:
            return ""
        return (
            "it trains an adapter on each image; tta_steps=0 (--set tta_steps=0) leaves that out and exports"
        )

    def prepare(self, classes: Sequence[str], support: Support | None = None) -> DualImageState:
        """Features of the prompts of the classes."""
        if isinstance(self._texts, TextEnsemble):
            text_features = self._texts.encode(classes)
        else:
            text_features = torch.stack([texts.means for texts in self._texts.encode(classes)])
        return DualImageState(text_features, tuple(name.strip().lower() for name in classes))

    @torch.no_grad()
    def features(self, images: Tensor) -> Features:
        """A few images at a time through the image encoder, because whole folders come in one batch."""
        image_features, patch_features, visual_tokens = in_parts(self._read, images, IMAGES_AT_ONCE)
        spoiled = self._spoil(images) if self.config.tta_steps > 0 else None
        return Features(image_features, patch_features, visual_tokens, spoiled)

    def score(self, features: Features, state: DualImageState) -> RawOutput:
        """Joint scores and maps; those of the prompts alone for an image without companion."""
        if state.scores_jointly is False:
            return self._alone(features, state)
        config = self.config
        count, patches = features.patch_features.shape[:2]
        names = state.class_names if len(state.class_names) > 1 else state.class_names * count
        draws = choose_partners(
            names,
            features.image_features,
            config.pairing,
            count=config.partners,
            draws=config.draws,
            seed=config.seed,
        )
        alone = [not len(partners) for partners in draws[0]]
        if any(alone):
            warnings.warn(
                f"dual_image: {sum(alone)} of {count} images have no other image of their class name "
                "beside them and are scored by the prompts alone; give several images of a product at once",
                stacklevel=2,
            )
        text_scores = similarity_softmax(features.image_features, state.text_features, config.temperature)[
            :, 1
        ]
        text_maps = self._text_maps(features.patch_features, state.text_features)
        visual_maps = torch.stack(
            [visual_scores(features.visual_tokens, partners, config.best_share) for partners in draws]
        ).mean(dim=0)
        # Both weights are 0 for images without companion.
        joined = 1 - torch.tensor(alone, dtype=text_maps.dtype, device=text_maps.device)
        alpha, beta = config.alpha * joined[:, None], config.beta * joined
        scaled = (config.visual_scale * visual_maps).clamp(max=1)
        scores = (1 - beta) * text_scores + beta * visual_maps.amax(dim=1)
        maps = (1 - alpha) * text_maps + alpha * scaled
        if features.spoiled is not None:
            settings = Adaptation(config.tta_steps, config.tta_lr, config.temperature)
            rows = state.text_features.expand(count, -1, -1)
            numbers = torch.arange(count, device=maps.device)
            adapted = torch.stack(
                [
                    adapt_patches(
                        features.patch_features[index],
                        rows[index],
                        features.spoiled.training_set(
                            torch.cat([numbers[index : index + 1], draws[0][index][:1]]), maps
                        ),
                        settings,
                    )
                    for index in range(count)
                ]
            )
            maps = (1 - alpha) * self._text_maps(adapted, state.text_features) + alpha * scaled
        side = grid_side(patches)
        size = side * self.backbone.config.vision.patch_size
        enlarged = upsample(maps.reshape(count, side, side), size)
        return RawOutput(scores, gaussian_filter(enlarged, config.sigma))

    def _alone(self, features: Features, state: DualImageState) -> RawOutput:
        """Scores and maps of the prompts, for images that are not compared with each other."""
        config, side = self.config, grid_side(features.patch_features.shape[1])
        scores = similarity_softmax(features.image_features, state.text_features, config.temperature)[:, 1]
        maps = self._text_maps(features.patch_features, state.text_features).reshape(-1, side, side)
        enlarged = upsample(maps, side * self.backbone.config.vision.patch_size)
        return RawOutput(scores, gaussian_filter(enlarged, config.sigma))

    def _text_maps(self, patch_features: Tensor, text_features: Tensor) -> Tensor:
        """(B, N) abnormal probabilities."""
        return similarity_softmax(patch_features, text_features, self.config.temperature)[..., 1]

    def _read(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`Features` of a few images, without spoiled copies."""
        visual = self.backbone.visual
        last = self.backbone.config.vision.layers
        is_original = self.config.visual_features == "original"
        output = visual(
            images,
            taps=self.layers if is_original else (),
            value_value_from=self.config.value_value_from,
            value_taps=(last,) if is_original else (*self.layers, last),
        )
        stream = output.tokens if is_original else output.value_tokens
        tokens = torch.stack([stream[layer][:, 1:].float() for layer in self.layers], dim=1)
        if self.config.neighbourhood > 1:
            tokens = neighbourhood_means(tokens, self.config.neighbourhood)
        return (
            F.normalize(visual.project(output.class_token).float(), dim=-1),
            F.normalize(visual.project(output.value_tokens[last][:, 1:]).float(), dim=-1),
            F.normalize(tokens, dim=-1),
        )

    def _spoil(self, images: Tensor) -> Spoiled:
        """Spoiled copies of all images; those of an image depend on nothing but itself and the seed."""
        record = self.backbone.record
        if record is None:
            raise ConfigError(
                "test-time adaptation needs the record of the backbone, which says how pixels are normalised"
            )
        patch_size = self.backbone.config.vision.patch_size
        features, labels = [], []
        for image in images:
            copies, masks = spoiled_copies(image, record, self.config.tta_variants, self.config.seed)
            parts = [self._read(part)[1] for part in torch.split(copies, IMAGES_AT_ONCE)]
            features.append(torch.cat(parts))
            shares = F.avg_pool2d(masks[:, None], patch_size).flatten(1)
            labels.append((shares > CHANGED_SHARE).float())
        return Spoiled(torch.stack(features), torch.stack(labels))

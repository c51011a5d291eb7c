"""Dual-Image Enhanced CLIP: two unlabelled images, each the other's visual reference.

Zhang, Deng, Bao and Li, 2024, https://arxiv.org/abs/2405.04782; the authors published no code, and this file
was written without the full text of the paper.

Idea: an image is compared with texts, as in AnoVL, and with another unlabelled image of the same product:
what the other shows nowhere is suspicious. Both answers are joined into one score and one map. Optionally an
adapter of the text-compared patches is trained at test time, on anomalies drawn into the two images.

Confirmed (abstract, figures and summaries of the paper):

* images are processed in pairs, each the reference of the other, neither known to be normal;
* a joint vision-language score of text and image similarities serves for image and pixels;
* patches for localisation come from value-value attention;
* test-time adaptation refines localisation with synthesised anomalies; by a third party's note, it is a
  linear adapter trained on anomalies in the manner of DRAEM.

Our design, where nothing is known:

* the prompts are AnoVL's, the authors' earlier method (`prompt_set="paper"`: WinCLIP's), at temperature 0.07;
* visual score of a patch: (1 - cosine) / 2 to its nearest patch in the other image, averaged over blocks at
  the ends of the tower's quarters; of an image: the largest of its patches;
* image: (1 - beta) text + beta visual. Map: (1 - alpha) text + alpha min(1, visual_scale visual), then a
  Gaussian. The factor 2.8 gives both maps the same standard deviation on 36 images of four auxiliary sets
  with the backbone "tiny" (2.2 to 4.1, by set); it was not measured on others;
* which image is the other one: by default the most alike (`pairing="nearest"`), since a folder may hold
  several products without saying so. "sequential" shuffles and takes pairs, "random" draws partners anew
  `draws` times and averages. Partners always have the same class name. All results depend on the partner;
* `partners` > 1 (None: all others) are the way towards MuSc: a patch's visual score is then the mean over the
  30 % of the partners that match it best (`best_share`), at least one;
* adaptation (off by default): z' = (z + W z + b) / 2 with W = 1 and b = 0 before the first step, for each
  image anew, trained on `tta_variants` spoiled copies of the image and as many of its first partner. What
  lies outside the drawn anomaly counts as normal only where the joint map before adaptation is below its 80th
  percentile, because a real anomaly must not be taught to be normal. The image's score stays as it was. The
  anomalies are those of `zsad.data.synthetic`, DRAEM's foreign textures among them.

An image without a partner (alone, or the only one of its class name) is scored by the texts alone, and a
warning says so; such a score is on another scale than a joint one. Two copies of one image are perfect
references of each other: remove duplicates. Where most images have the same fault, the visual score is
blind to it.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from zsad.errors import ConfigError
from zsad.methods.base import Method, State, Support
from zsad.methods.functional.losses import dice_loss, focal_loss
from zsad.methods.functional.maps import gaussian_filter, grid_side, in_parts, upsample
from zsad.methods.functional.pairing import Pairing, choose_partners, neighbourhood_means, visual_scores
from zsad.methods.functional.patches import layers_to_use
from zsad.methods.functional.similarity import similarity_softmax
from zsad.methods.prompts.domain import DomainAwareTexts
from zsad.methods.prompts.templates import TextEnsemble, prompt_set
from zsad.types import Activation, MethodInfo, PositionInterpolation, RawOutput

if TYPE_CHECKING:
    from zsad.backbones.clip import CLIP
    from zsad.types import WeightRecord

PICTURES_AT_ONCE = 8
# The share of the tower that the value-value stream covers in the papers: blocks 6 to 24 of 24.
VALUE_VALUE_SHARE = 19 / 24
TRUSTED_QUANTILE = 0.8
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
)


@dataclass(frozen=True)
class Config:
    """Settings; the names are ours where the paper's are not known.

    Attributes:
        pairing: how partners are chosen: "nearest" (most alike), "sequential" (shuffled, then in pairs) or
            "random" (drawn `draws` times, results averaged).
        partners: reference images for each image; None: all others of its class name.
        draws: how often partners are drawn with "random".
        best_share: share of the partners that counts for a patch, from the best match on, at least one.
        seed: of the pairing and of the adaptation.
        alpha: weight of the visual map in the joint map, 0 to 1.
        beta: weight of the visual score in the image's score, 0 to 1.
        visual_scale: factor on the visual map before joining, to bring both maps to the same spread; the
            product is cut at 1.
        prompt_set: "anovl", or a set of `zsad.methods.prompts.templates`, as "paper" for WinCLIP's.
        temperature: of the softmax over normal and abnormal.
        features_list: 1-based image blocks whose patches are compared between images; None: the ends of
            the quarters of the tower.
        visual_features: which patches are compared: "original" stream or "value_value" stream.
        neighbourhood: side in patches of the neighbourhood that is averaged before comparing, odd; 1: none.
        value_value_from: first block with value-value attention; None: 6 of 24 blocks, the same share of
            others; 1 as in AnoVL.
        sigma: of the Gaussian filter on the map, in pixels; 0 switches it off.
        tta_steps: steps of test-time adaptation for each image; 0 switches it off.
        tta_lr: learning rate of AdamW.
        tta_variants: spoiled copies made of each image for adaptation.
        activation: None: what the weights were trained with.
        position_interpolation: how the position table is resized to other image sizes.
    """

    pairing: Pairing = "nearest"
    partners: int | None = 1
    draws: int = 1
    best_share: float = 0.3
    seed: int = 0
    alpha: float = 0.5
    beta: float = 0.5
    visual_scale: float = 2.8
    prompt_set: str = "anovl"
    temperature: float = 0.07
    features_list: tuple[int, ...] | None = None
    visual_features: Literal["original", "value_value"] = "original"
    neighbourhood: int = 1
    value_value_from: int | None = None
    sigma: float = 4.0
    tta_steps: int = 0
    tta_lr: float = 1e-3
    tta_variants: int = 4
    activation: Activation | None = None
    position_interpolation: PositionInterpolation = "bicubic_antialias"

    def __post_init__(self) -> None:
        if self.pairing not in ("nearest", "sequential", "random"):
            raise ConfigError(f'pairing is "nearest", "sequential" or "random", got {self.pairing!r}')
        if self.visual_features not in ("original", "value_value"):
            raise ConfigError(f'visual_features is "original" or "value_value", got {self.visual_features!r}')
        for name in ("draws", "tta_variants") + (("partners",) if self.partners is not None else ()):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be 1 or more, got {getattr(self, name)}")
        for name in ("alpha", "beta", "best_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} must lie between 0 and 1, got {getattr(self, name)}")
        for name in ("temperature", "visual_scale", "tta_lr"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be above 0, got {getattr(self, name)}")
        if not (self.sigma >= 0 and self.tta_steps >= 0):
            raise ConfigError(f"sigma and tta_steps must be 0 or more, got {self.sigma} and {self.tta_steps}")
        if self.neighbourhood < 1 or self.neighbourhood % 2 == 0:
            raise ConfigError(f"neighbourhood is an odd number of patches, got {self.neighbourhood}")


@dataclass(frozen=True)
class DualImageState(State):
    """Text features and what decides who may be whose partner.

    Attributes:
        text_features: (C, 2, E) float32, normal then abnormal.
        class_names: C names, in lower case.
    """

    text_features: Tensor
    class_names: tuple[str, ...]


@dataclass(frozen=True)
class Spoiled:
    """Copies of the images with anomalies drawn into them.

    Attributes:
        patch_features: (B, M, N, E) float32 unit vectors, M copies of each image.
        labels: (B, M, N) float32, 1 for patches that are mostly anomaly, else 0.
    """

    patch_features: Tensor
    labels: Tensor

    def training_set(self, pictures: list[int], maps: Tensor) -> TrainingSet:
        """The copies of some images, and which of their patches may be learnt from.

        Args:
            pictures: their numbers.
            maps: (B, N) joint maps of all images.
        """
        limits = torch.quantile(maps[pictures], TRUSTED_QUANTILE, dim=1, keepdim=True)
        labels = self.labels[pictures]
        believed = (maps[pictures] < limits)[:, None] | (labels > 0)
        return TrainingSet(
            self.patch_features[pictures].flatten(0, 1), labels.flatten(0, 1), believed.flatten(0, 1)
        )


@dataclass(frozen=True)
class TrainingSet:
    """What the adapter of one image is trained on.

    Attributes:
        patch_features: (M, N, E) float32 unit vectors of M spoiled copies.
        labels: (M, N) float32 in {0, 1}.
        trusted: (M, N) bool: the patches that count, no others enter the loss.
    """

    patch_features: Tensor
    labels: Tensor
    trusted: Tensor


@dataclass(frozen=True)
class Features:
    """What is compared with texts and between images, all unit vectors.

    Attributes:
        image_features: (B, E) float32 image embeddings.
        patch_features: (B, N, E) float32 value-value patches of the last block in the space of the texts.
        visual_tokens: (B, T, N, D) float32 patches after each of the T used blocks.
        spoiled: for test-time adaptation; None where it is off.
    """

    image_features: Tensor
    patch_features: Tensor
    visual_tokens: Tensor
    spoiled: Spoiled | None


class DualImage(Method):
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
        blocks = layers_to_use(config.features_list, layers)
        super().__init__(backbone, replace(config, features_list=blocks, value_value_from=start))
        self.layers: tuple[int, ...] = blocks
        self._texts: DomainAwareTexts | TextEnsemble = (
            DomainAwareTexts(self.backbone)
            if config.prompt_set == "anovl"
            else TextEnsemble(self.backbone, prompt_set(config.prompt_set))
        )

    def prepare(self, classes: Sequence[str], support: Support | None = None) -> DualImageState:
        """Text vectors of the classes."""
        if isinstance(self._texts, TextEnsemble):
            text_features = self._texts.encode(classes)
        else:
            text_features = torch.stack([texts.means for texts in self._texts.encode(classes)])
        return DualImageState(text_features, tuple(name.strip().lower() for name in classes))

    @torch.no_grad()
    def features(self, images: Tensor) -> Features:
        """A few images at a time through the image encoder, since whole folders come in one batch."""
        image_features, patch_features, visual_tokens = in_parts(self._read, images, PICTURES_AT_ONCE)
        spoiled = self._spoil(images) if self.config.tta_steps > 0 else None
        return Features(image_features, patch_features, visual_tokens, spoiled)

    def score(self, features: Features, state: DualImageState) -> RawOutput:
        """Joint scores and maps; those of the texts alone where an image has no partner."""
        config = self.config
        pictures, patches = features.patch_features.shape[:2]
        names = state.class_names if len(state.class_names) > 1 else state.class_names * pictures
        draws = choose_partners(
            names,
            features.image_features,
            config.pairing,
            count=config.partners,
            draws=config.draws,
            seed=config.seed,
        )
        alone = [not partners for partners in draws[0]]
        if any(alone):
            warnings.warn(
                f"dual_image: {sum(alone)} of {pictures} images have no other image of their class name "
                "beside them and are scored by the texts alone; give several images of a product at once",
                stacklevel=2,
            )
        text_scores = similarity_softmax(features.image_features, state.text_features, config.temperature)[
            :, 1
        ]
        text_maps = self._text_maps(features.patch_features, state.text_features)
        visual_maps = torch.stack(
            [visual_scores(features.visual_tokens, partners, config.best_share) for partners in draws]
        ).mean(dim=0)
        # Both weights are 0 where there is nothing to join.
        joined = 1 - torch.tensor(alone, dtype=text_maps.dtype, device=text_maps.device)
        alpha, beta = config.alpha * joined[:, None], config.beta * joined
        scaled = (config.visual_scale * visual_maps).clamp(max=1)
        scores = (1 - beta) * text_scores + beta * visual_maps.amax(dim=1)
        maps = (1 - alpha) * text_maps + alpha * scaled
        if features.spoiled is not None:
            rows = state.text_features.expand(pictures, -1, -1)
            adapted = torch.stack(
                [
                    adapt_patches(
                        features.patch_features[index],
                        rows[index],
                        features.spoiled.training_set([index, *draws[0][index][:1]], maps),
                        config,
                    )
                    for index in range(pictures)
                ]
            )
            maps = (1 - alpha) * self._text_maps(adapted, state.text_features) + alpha * scaled
        side = grid_side(patches)
        size = side * self.backbone.config.vision.patch_size
        enlarged = upsample(maps.reshape(pictures, side, side), size)
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
        """Spoiled copies of all images; each image's depend on nothing but itself and the seed."""
        record = self.backbone.record
        if record is None:
            raise ConfigError(
                "test-time adaptation needs the backbone's record, which says how pixels are coded"
            )
        patch_size = self.backbone.config.vision.patch_size
        features, labels = [], []
        for image in images:
            copies, masks = spoiled_copies(image, record, self.config.tta_variants, self.config.seed)
            parts = [self._read(part)[1] for part in torch.split(copies, PICTURES_AT_ONCE)]
            features.append(torch.cat(parts))
            shares = F.avg_pool2d(masks[:, None], patch_size).flatten(1)
            labels.append((shares > CHANGED_SHARE).float())
        return Spoiled(torch.stack(features), torch.stack(labels))


def spoiled_copies(image: Tensor, record: WeightRecord, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Copies of an image, each with one synthetic anomaly.

    Args:
        image: (3, S, S) normalised image.
        record: says how pixels are coded.
        count: M copies.
        seed: of the anomalies.

    Returns:
        (M, 3, S, S) normalised copies and (M, S, S) float32 masks, 1 where something was changed.
    """
    from zsad.data.synthetic import add_defect

    mean, std = (image.new_tensor(values).reshape(3, 1, 1) for values in (record.mean, record.std))
    coloured = ((image * std + mean).clamp(0, 1) * 255).round()
    pixels = coloured.permute(1, 2, 0).to("cpu", torch.uint8).numpy()
    rng = np.random.default_rng(seed)
    spoiled = [add_defect(np.ascontiguousarray(pixels), rng) for _ in range(count)]
    copies = torch.from_numpy(np.stack([copy for copy, _, _ in spoiled])).permute(0, 3, 1, 2)
    masks = torch.from_numpy(np.stack([mask for _, mask, _ in spoiled]))
    normalised = (copies.to(image) / 255 - mean) / std
    return normalised, masks.to(image.device).float()


def adapt_patches(patches: Tensor, text: Tensor, training: TrainingSet, config: Config) -> Tensor:
    """Patches of one image after an adapter that is trained on spoiled copies.

    z' = (z + W z + b) / 2, and the loss on P = softmax(cos(z', text) / temperature) of the trusted patches is
    Focal(P, m) + Dice(P_abnormal, m) + Dice(P_normal, 1 - m)

    Args:
        patches: (N, E) unit vectors.
        text: (2, E) of the image's class.
        training: the spoiled copies.
        config: steps, learning rate and temperature.

    Returns:
        (N, E), not normalised, without gradient.
    """
    # Predictions run in inference mode, whose tensors cannot be trained on: leave it, and copy.
    with torch.inference_mode(False), torch.enable_grad():
        own, text, spoiled, labels = (
            tensor.detach().clone() for tensor in (patches, text, training.patch_features, training.labels)
        )
        counted = training.trusted.detach().clone()
        weight = torch.eye(own.shape[1], dtype=own.dtype, device=own.device).requires_grad_()
        bias = own.new_zeros(own.shape[1]).requires_grad_()

        def adapted(tokens: Tensor) -> Tensor:
            return 0.5 * (tokens + F.linear(tokens, weight, bias))

        optimiser = torch.optim.AdamW([weight, bias], lr=config.tta_lr)
        for _ in range(config.tta_steps):
            chances = similarity_softmax(adapted(spoiled), text[None], config.temperature)
            # The Dice sums then hold trusted patches alone, image by image; focal is a plain mean.
            kept, weights = chances[counted].T[None, :, None], counted.to(own)[:, None]
            normal, abnormal = (chances[..., number][:, None] * weights for number in (0, 1))
            mask = labels[:, None]
            loss = (
                focal_loss(kept, labels[counted][None, None])
                + dice_loss(abnormal, mask * weights)
                + dice_loss(normal, (1 - mask) * weights)
            )
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        return adapted(own).detach()

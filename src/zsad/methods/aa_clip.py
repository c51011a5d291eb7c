"""AA-CLIP: anomaly-aware CLIP, adapted in two stages by residual adapters.

Ma et al., CVPR 2025, https://arxiv.org/abs/2503.06661; code https://github.com/Mwxinnn/AA-CLIP.

Idea: CLIP's text encoder hardly tells "a damaged screw" from "a screw". In the first stage, adapters in its
first layers and a new projection learn anchors for normal and abnormal that lie far apart, on frozen patches
of an image encoder with value-value attention. In the second stage the anchors are fixed, and adapters in the
first layers of the image encoder and linear heads at four layers learn to bring patches to the right anchor.
The mean of one more head over the patches of the last layer gives the score of the image. Prompts describe
the object ("black and orange capsule") instead of naming its category.

Train it in two runs: `zsad train --method aa_clip --set stage=text`, then with `--set stage=image` and the
file of the first run as `--checkpoint`. A file of the first stage alone has random heads and predicts nothing
of use.

What the released code does and the paper does not say (kept):

* on OpenAI's weights both encoders run with the exact GELU, although they were trained with QuickGELU, and
  the position table is resized bicubically with antialiasing;
* the descriptions are written by hand for the categories of the test sets (`real_names=False` takes the name
  as it is);
* the first stage counts only the last of the four maps (`text_loss_levels="all"` counts all), and has no loss
  of the image; its second term is the square of the mean product of the anchors over the batch;
* maps are sums of raw similarities times 100, without a softmax: 2 +- 200 at most; the colour scale of zsad
  is 2 +- 100;
* the map is smoothed on the grid of patches, before it is upsampled;
* the score of an image is a mean with the maximum of its map, both min-max normalised over all test images of
  the category (`image_score="joint"`), for medical images the maximum alone.

Deviations from the released code:

* in its first stage, a patch attends to the patches in the same place of the other images of the batch,
  because two axes are confused. Here it attends to the patches of its image;
  `surgery_attention="as_published"` is what their code does, and cannot be cached;
* the score of an image is by default (1 + <f, t_abnormal>) / 2, its part that needs no other image; the
  description of BTAD's category 01 is shortened;
* `zsad train` moves and colours images as `zsad.data.augmentation` says, with masks as for all methods;
* on a backbone without 24 + 12 layers, the ends of the four quarters of the image encoder give the patches,
  the first quarter of each encoder has adapters (6 of 24 and 3 of 12 layers), and value-value attention
  covers the same share of the layers (19/24, rounded).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zsad.errors import ConfigError, WeightsError
from zsad.files.fields import AtLeast, Share
from zsad.methods.base import (
    DEFAULT_CLASS,
    Method,
    MethodConfig,
    Support,
    Temperature,
    TextState,
    Weight,
)
from zsad.methods.functional.category_scores import category_scores
from zsad.methods.functional.checks import check_masks
from zsad.methods.functional.losses import pixel_losses
from zsad.methods.functional.maps import grid_side, small_gaussian_filter, to_grid, upsample
from zsad.methods.functional.patches import first_value_value_layer, layers_to_use, resolve_dpam_layer
from zsad.methods.functional.residual_adapters import (
    BiasFreeLayer,
    ImageAdapter,
    adapted_layers,
    adapted_patches,
)
from zsad.methods.functional.surgery import SurgeryAttention, surgery_features
from zsad.methods.prompts.aa_clip_file import official_settings, official_tensors
from zsad.methods.prompts.anchors import anchors
from zsad.methods.prompts.descriptions import description
from zsad.methods.training import TrainingDefaults
from zsad.types import MethodInfo, PositionInterpolation, RawOutput

if TYPE_CHECKING:
    from typing_extensions import Self

    from zsad.backbones.clip import CLIP, ClipConfig

IMAGES_AT_ONCE = 8  # of a batch that holds a whole category
KERNELS = {"Industrial": (7, 1.0), "Medical": (9, 1.5)}  # side and standard deviation, in patches

INFO = MethodInfo(
    name="aa_clip",
    title="AA-CLIP",
    year=2025,
    paper="https://arxiv.org/abs/2503.06661",
    code="https://github.com/Mwxinnn/AA-CLIP",
    needs_training=True,
    uses_class_names=True,
    scores_batch_jointly=False,
    checked_by="authors",
)

Count = Annotated[int, AtLeast(0)]


@dataclass(frozen=True, kw_only=True)
class Config(MethodConfig):
    """Settings, by the names of the authors' code.

    Attributes:
        features_list: 1-based layers of the image encoder whose patches are used; None for 6, 12, 18, 24 of
            24 layers, and for the ends of the quarters of another number.
        text_adapt_until: number of the first layers of the text encoder that have an adapter; None for 3 of
            12, and for a quarter of another number.
        image_adapt_until: number of the first layers of the image encoder that have an adapter; None for 6 of
            24, and for a quarter of another number.
        text_adapt_weight: share of the adapters in the tokens of the text encoder.
        image_adapt_weight: share of the adapters in the tokens of the image encoder.
        relu: whether the heads of the image encoder end with a LeakyReLU.
        domain: "Industrial" or "Medical", which smooths more and takes the joint score from the map alone.
        real_names: whether names of categories that the authors describe are replaced by their descriptions.
        image_score: "det" for the score of each image by itself, "joint" as the authors do, which needs all
            images of a category in one call (`zsad evaluate` does that).
        stage: what is trained: "text" for the adapters of the text encoder and the projection, "image" for
            the adapters of the image encoder and the heads.
        text_norm_weight: weight of the loss that keeps the two anchors apart, in the first stage.
        surgery_until_layer: value-value attention covers the last `surgery_until_layer - 1` layers in the
            first stage; None for 20 of 24 layers, and for the same share of another number.
        surgery_attention: "fixed" for attention over the patches of an image, "as_published" for attention
            over the images of the batch, as in the authors' code.
        text_loss_levels: maps that count in the first stage: "last", as in the authors' code, or "all".
        temperature: temperature of the softmax in the losses (the authors multiply by 100, in maps too).
    """

    features_list: tuple[int, ...] | None = None
    text_adapt_until: Count | None = None
    image_adapt_until: Count | None = None
    text_adapt_weight: Share = 0.1
    image_adapt_weight: Share = 0.1
    relu: bool = False
    domain: Literal["Industrial", "Medical"] = "Industrial"
    real_names: bool = True
    image_score: Literal["det", "joint"] = "det"
    stage: Literal["text", "image"] = "text"
    text_norm_weight: Weight = 0.1
    surgery_until_layer: int | None = None
    surgery_attention: SurgeryAttention = "fixed"
    text_loss_levels: Literal["last", "all"] = "last"
    temperature: Temperature = 0.01
    position_interpolation: PositionInterpolation = "bicubic_antialias"

    def resolved(self, towers: ClipConfig) -> Self:
        """The same settings with everything that depends on the backbone filled in.

        Args:
            towers: shape of the image encoder and the text encoder.

        Raises:
            ConfigError: a value is impossible for these encoders; the message holds the allowed range.
        """
        vision, text = towers.vision.layers, towers.text.layers
        return replace(
            self,
            features_list=layers_to_use(self.features_list, vision),
            text_adapt_until=adapted_layers(self.text_adapt_until, text, "text_adapt_until"),
            image_adapt_until=adapted_layers(self.image_adapt_until, vision, "image_adapt_until"),
            surgery_until_layer=resolve_dpam_layer(self.surgery_until_layer, vision, "surgery_until_layer"),
        )


@dataclass(frozen=True)
class Features:
    """The images themselves, because what is learnt enters the image encoder.

    Attributes:
        images: (B, 3, S, S) resized and normalised images.
    """

    images: Tensor


@dataclass(frozen=True)
class FrozenPatches:
    """What the first stage trains on.

    Attributes:
        patches: (B, T, N, E) float32 patches of the frozen image encoder, from `surgery_features`.
    """

    patches: Tensor


class AACLIP(Method[Config, Features, TextState]):
    """See the module's description."""

    OFFICIAL_FILES = ("text_adapter.pth", "image_adapter.pth")
    SHAPE_FIELDS = frozenset({"features_list", "text_adapt_until", "image_adapt_until", "relu"})
    AUTHORS_ACTIVATION = "gelu"
    FEATURE_FIELDS = frozenset({"features_list", "surgery_until_layer"})
    LOSS_IS_MEAN = False
    IMAGE_TERMS = frozenset({"image"})
    TRAINING = TrainingDefaults(epochs=5, batch_size=16, learning_rate=1e-5, augmentation="shifted")
    IMAGE_TRAINING = TrainingDefaults(
        epochs=20,
        batch_size=2,
        learning_rate=5e-4,
        schedule="steps",
        milestones=(16000, 32000),
        milestone_factor=0.5,
        augmentation="shifted_coloured",
        notes="The authors' log shows the weights after epoch 15.",
    )

    def __init__(self, backbone: CLIP, config: Config) -> None:
        """Fresh adapters and heads from torch's global random numbers.

        Raises:
            ConfigError: a setting is impossible for this backbone.
        """
        towers = backbone.config
        super().__init__(backbone, config.resolved(towers))
        self.layers = layers_to_use(self.config.features_list, towers.vision.layers)
        text, vision, joint = towers.text.width, towers.vision.width, towers.embed_dim
        self.image_adapter = ImageAdapter(
            vision, joint, self.config.image_adapt_until or 0, len(self.layers), relu=self.config.relu
        )
        adapters = [BiasFreeLayer(text, text, relu=True) for _ in range(self.config.text_adapt_until or 0)]
        self.text_adapter = nn.ModuleList([*adapters, BiasFreeLayer(text, joint, relu=True)])

    @torch.no_grad()
    def prepare(self, classes: Sequence[str], support: Support | None = None) -> TextState:
        """The two anchors of each class."""
        return TextState(self._anchors(classes))

    def features(self, images: Tensor) -> Features:
        """The images: adapters enter the image encoder from its first block on."""
        return Features(images)

    def score(self, features: Features, state: TextState) -> RawOutput:
        """Similarities to the anchors, of the image and of its patches.

        Raises:
            ConfigError: `image_score="joint"` with a single image.
        """
        text = state.text_features
        if not self.scores_jointly:
            return RawOutput(*self._judge(features.images, text))
        count = len(features.images)
        if count < 2:
            raise ConfigError(
                'image_score="joint" compares the images of a category with each other and needs at least 2 '
                'at once, got 1: score them together, or use image_score="det"'
            )
        parts = [slice(start, start + IMAGES_AT_ONCE) for start in range(0, count, IMAGES_AT_ONCE)]
        judged = [
            self._judge(features.images[rows], text if len(text) == 1 else text[rows]) for rows in parts
        ]
        scores, maps = (torch.cat(each) for each in zip(*judged, strict=True))
        return RawOutput(category_scores(scores, maps, self.config.domain), maps)

    @property
    def scores_jointly(self) -> bool:
        """Whether scores are normalised over the images that are scored together."""
        return self.config.image_score == "joint"

    @property
    def map_range(self) -> tuple[float, float]:
        """Colour scale, left only where cosines to the two anchors differ by more than 0.5 on average."""
        middle, half = 0.5 * len(self.layers), 0.25 * len(self.layers) / self.config.temperature
        return (middle - half, middle + half)

    @classmethod
    def cached_features(cls, settings: Mapping[str, Any]) -> type[Any] | None:
        """`FrozenPatches` in the first stage, with attention over the patches of an image."""
        is_text = settings.get("stage", "text") == "text"
        is_fixed = settings.get("surgery_attention", "fixed") == "fixed"
        return FrozenPatches if is_text and is_fixed else None

    @torch.no_grad()
    def features_for_loss(self, images: Tensor) -> Features | FrozenPatches:
        """Frozen patches in the first stage, the images in the second."""
        if self.config.stage == "image":
            return Features(images)
        last = self.backbone.config.vision.layers
        first = first_value_value_layer(self.config.surgery_until_layer, last)
        visual, attention = self.backbone.visual, self.config.surgery_attention
        return FrozenPatches(surgery_features(visual, images, self.layers, first, attention))

    def loss_from_features(
        self,
        features: Features | FrozenPatches,
        masks: Tensor,
        labels: Tensor,
        classes: Sequence[str] | None = None,
    ) -> dict[str, Tensor]:
        """Focal and Dice losses of the maps, and a term of the stage.

        L_text  = Focal(P, G) + Dice(P_a, G) + Dice(P_n, 1 - G) + w (mean <t_n, t_a>)^2, P of the last layer
        L_image = sum_l [ Focal(P_l, G) + Dice(P_l,a, G) + Dice(P_l,n, 1 - G) ] + CE([<f, t_n>, <f, t_a>], y)

        Source: AA-CLIP (2503.06661), equations 5 to 8, as in the authors' code.

        Args:
            features: features of the batch, from `features_for_loss` or `features`.
            masks: (B, S, S) or (B, 1, S, S) in {0, 1}.
            labels: (B,) in {0, 1}; not used in the first stage.
            classes: one name for all, or one per image; None means "object".

        Returns:
            "focal", "dice_abnormal", "dice_normal", and "orthogonal" or "image", weights included.
        """
        names = [DEFAULT_CLASS] if classes is None else classes
        if self.config.stage == "image":
            with torch.no_grad():
                text = self._anchors(names)
            patches, image = self._adapted(features.images)  # type: ignore[union-attr]
            with torch.autocast(masks.device.type, enabled=False):
                logits = (image[:, None] @ text.transpose(1, 2))[:, 0]
                return {**self._pixel_losses(patches, text, masks), "image": F.cross_entropy(logits, labels)}
        frozen = self.features_for_loss(features.images) if isinstance(features, Features) else features
        levels = slice(None) if self.config.text_loss_levels == "all" else slice(-1, None)
        text = self._anchors(names)
        with torch.autocast(masks.device.type, enabled=False):
            orthogonal = (text[:, 0] * text[:, 1]).sum(dim=-1).mean() ** 2
            patches = frozen.patches[:, levels]  # type: ignore[union-attr]
            terms = self._pixel_losses(patches, text, masks)
        return {**terms, "orthogonal": self.config.text_norm_weight * orthogonal}

    def trainable(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The parameters of the stage, by the names of the authors' files."""
        prefix = f"{self.config.stage}_adapter."
        yield from (each for each in self.learned() if each[0].startswith(prefix))

    @classmethod
    def training_defaults(cls, settings: Mapping[str, Any]) -> TrainingDefaults | None:
        """The authors train the two stages differently."""
        return cls.IMAGE_TRAINING if settings.get("stage") == "image" else cls.TRAINING

    def load_official(self, state_dict: Mapping[str, Any]) -> None:
        """Takes both files together; `text_adapter.pth` alone begins the second stage."""
        found = official_tensors(state_dict, needs_image=self.config.stage == "text")
        levels = len({name for name in found if name.startswith("image_adapter.seg_proj.")})
        if levels not in (0, len(self.layers)):
            raise WeightsError(
                f"the file holds heads of {levels} layers, but features_list names {len(self.layers)}: "
                f"{self.layers}; give the layers that it was trained with as features_list"
            )
        prefixes = ("text_adapter.", "image_adapter.") if levels else ("text_adapter.",)
        wanted = {name: each for name, each in self.learned() if name.startswith(prefixes)}
        self._take(wanted, found)

    @classmethod
    def official_config(cls, state_dict: Mapping[str, Any]) -> dict[str, Any]:
        """`text_adapt_until`, `image_adapt_until` and `relu` from names; the layers are not in the files."""
        return official_settings(state_dict)

    def learned(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Everything that either stage learns."""
        yield from (each for each in self.named_parameters() if not each[0].startswith("backbone."))

    def _anchors(self, classes: Sequence[str]) -> Tensor:
        """(C, 2, E) float32 unit vectors, normal then abnormal."""
        names = [description(name) if self.config.real_names else name for name in classes]
        return anchors(self.backbone, self.text_adapter, self.config.text_adapt_weight, names)

    def _adapted(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, N, E) unit vectors of the patches and (B, E) feature of the image."""
        adapters, weight = self.image_adapter.layer_adapters, self.config.image_adapt_weight
        patches = adapted_patches(self.backbone.visual, images, self.layers, list(adapters), weight)
        return self.image_adapter.heads(patches)

    def _judge(self, images: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (B,) of each image by itself, and maps (B, S, S)."""
        patches, image = self._adapted(images)
        scores = ((image * text[:, 1]).sum(dim=-1) + 1) / 2
        # Smoothing and upsampling are linear, so the levels can be added up before them.
        contrast = (patches.sum(dim=1) * (text[:, 1:] - text[:, :1])).sum(dim=-1) / self.config.temperature
        grids = to_grid((contrast / 2 + len(self.layers) / 2)[..., None])[:, 0]
        smoothed = small_gaussian_filter(grids, *KERNELS[self.config.domain])
        return scores, upsample(smoothed, int(images.shape[-1]), align_corners=True)

    def _pixel_losses(self, patches: Tensor, text: Tensor, masks: Tensor) -> dict[str, Tensor]:
        """Focal and Dice losses of the maps of some levels, summed over them."""
        size = grid_side(patches.shape[-2]) * self.backbone.config.vision.patch_size
        logits = patches @ text.transpose(1, 2)[:, None] / self.config.temperature
        maps = torch.softmax(upsample(to_grid(logits), size, align_corners=True), dim=2)
        return pixel_losses(maps, check_masks(masks, len(patches), size), [1.0] * patches.shape[1])

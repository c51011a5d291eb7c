"""Crane and Crane+: context-guided prompts and refined attention for zero-shot anomaly detection.

Salehi et al., 2025, https://arxiv.org/abs/2504.11055; code https://github.com/AlirezaSalehy/Crane.

Idea: AnomalyCLIP with three changes. The patches come from a stream that attends by the correlation of
queries, keys and values among themselves (E-Attn). While the prompts are learnt, the class token of the image
is one of their tokens, so that they fit the image. The score of the image is that of its class token joined
with its patches, each weighted by its abnormal probability. Crane+ (`dino_model="dinov2"`) adds a second set
of patches: in the last layer, CLIP's values are gathered by the similarity of DINOv2's patches (D-Attn).

DINOv2 is loaded when the first image is scored, and needs `pip install 'zsad[transformers]'`. Another network
takes its place with `detector.method.vfm = network`: a function from images (B, 3, S, S), normalised with
ImageNet's mean and standard deviation, to (B, C, G, G) features of as many patches as CLIP has.

What the released code does and the paper does not say (kept, because published weights depend on it):

* The stream of E-Attn is updated in place and handed out without a copy, so that the layers 6, 12, 18 and 24
  are four times layer 24, and the pixel losses count fourfold. `layer_aliasing="as_published"`, the default,
  does just that; `"fixed"` reads the four layers.
* The three attentions of E-Attn are added up, not averaged.
* The prompts contain the image while they are learnt, but not when images are scored
  (`img_cls_at_test=True` scores with it).
* D-Attn reads its values between the attention and the MLP of the layer, because the layer updates its input
  in place.
* D-Attn centres the similarities on their mean over the whole batch, so that a score depends on the other
  images (`dattn_mean="batch"`). The default, `"picture"`, takes the mean of each image.
* The training compares images at a temperature of 0.01 and patches at 0.07; the scores use 0.07 for both.
* Maps are the mean of the probabilities (`soft_mean=True`). The authors' test script takes the probability of
  the mean similarity for Crane+ on industrial sets; their script that reproduces the tables does not.
* The weights of the fifth epoch are used, and those of the first for Crane+ on medical sets.
* Deep prompts are rounded to half precision inside a float32 network, and position tables are resized
  bilinearly.

Deviations from the released code:

* it squeezes masks, so that a last batch of one image gets its Dice loss per row; here the loss is always per
  image;
* D-Attn gives no number where an image has one texture throughout; here such a patch attends to the patches
  that resemble it most;
* on a backbone whose text encoder has another width than the joint space, the class token reaches that width
  through the transposed projection of the text encoder;
* on a backbone without 24 + 12 layers, the constants are carried over as in AnomalyCLIP, with the ends of the
  four quarters of the image encoder in place of the layers 6, 12, 18 and 24.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zsad.backbones.catalog import MVTEC, VISA, authors_weights
from zsad.errors import ConfigError
from zsad.methods.base import Method, Support, TextState, Weight
from zsad.methods.functional.checks import check_masks
from zsad.methods.functional.correlation import AttentionType, correlated_tokens, patch_attention
from zsad.methods.functional.dinov2 import DinoV2, imagenet_normalised
from zsad.methods.functional.losses import dice_loss, focal_loss
from zsad.methods.functional.maps import gaussian_filter, to_grid, upsample
from zsad.methods.functional.patches import (
    JointFeatures,
    LayerAliasing,
    first_value_value_layer,
    layers_read,
    layers_to_use,
)
from zsad.methods.functional.similarity import cosine_similarity
from zsad.methods.prompts.context_token import ContextTokenPlace, encode_with_images
from zsad.methods.prompts.learners import PromptPairLearner
from zsad.methods.prompts.learners_file import deep_prompt_settings, official_prompts
from zsad.methods.prompts.object_agnostic import ObjectAgnosticConfig, resolve_depth
from zsad.methods.training import TrainingDefaults
from zsad.types import MethodInfo, RawOutput

if TYPE_CHECKING:
    from typing_extensions import Self

    from zsad.backbones.clip import CLIP, ClipConfig

INFO = MethodInfo(
    name="crane",
    title="Crane",
    year=2025,
    paper="https://arxiv.org/abs/2504.11055",
    code="https://github.com/AlirezaSalehy/Crane",
    needs_training=True,
    uses_class_names=False,
    scores_batch_jointly=False,
    checked_by="authors",
)

FILES = "https://raw.githubusercontent.com/AlirezaSalehy/Crane/main/checkpoints"
PAGE = "https://github.com/AlirezaSalehy/Crane"

WEIGHTS = tuple(
    authors_weights(
        f"crane-trained-on-{dataset}{suffix}",
        f"{FILES}/trained_on_{dataset}_{file}",
        PAGE,
        auxiliary_data,
        activation="quick_gelu",
        notes=f"no checksum is known; {notes}",
    )
    for dataset, suffix, file, auxiliary_data, notes in (
        ("visa", "", "crane/epoch_5.pth", VISA, "the paper's numbers on MVTec AD"),
        ("mvtec", "", "crane/epoch_5.pth", MVTEC, "the paper's numbers on all other sets"),
        ("visa", "-plus", "cranep/epoch_5.pth", VISA, "Crane+ on MVTec AD: set dino_model=dinov2"),
        ("mvtec", "-plus", "cranep/epoch_5.pth", MVTEC, "Crane+ on industrial sets: set dino_model=dinov2"),
        (
            "mvtec",
            "-plus-1-epoch",
            "cranep/epoch_1.pth",
            MVTEC,
            "Crane+ on medical sets: set dino_model=dinov2",
        ),
    )
)

CONTEXTS = ("ctx_pos", "ctx_neg")
TRAINING_TEMPERATURE = 0.01
PIXEL_WEIGHT, IMAGE_WEIGHT = 2.0, 0.2


@dataclass(frozen=True, kw_only=True)
class Config(ObjectAgnosticConfig):
    """Settings, by the names of the authors' code.

    Attributes:
        features_list: 1-based layers of the image encoder whose patches are compared with the prompts; None
            for the ends of the four quarters (6, 12, 18, 24 of 24), and for the last one with D-Attn.
        attn_type: correlations that E-Attn adds up, of queries (q), keys (k) and values (v).
        soft_mean: whether the map is the mean of the layers' probabilities; else the probability of their
            mean similarity.
        use_scorebase_pooling: whether the patches take part in the score of the image.
        img_cls_type: place of the image's class token in the prompts: behind the context vectors or before
            them ("pad_suffix", "pad_prefix"), instead of the last or first of them ("replace_suffix",
            "replace_prefix"), or nowhere ("none").
        img_cls_at_test: whether the prompts contain the class token also when images are scored.
        dino_model: network of D-Attn: "dinov2" for Crane+, "none" for Crane.
        both_eattn_dattn: whether the patches of E-Attn are used beside those of D-Attn.
        beta: factor of the mean similarity in D-Attn.
        gamma: factor of the differences to it.
        dattn_mean: similarities over which D-Attn takes the mean: "picture" for those of each image, "batch"
            for those of all images that are scored together, as published.
        layer_aliasing: "as_published": every layer of E-Attn is read as the last one, as in the released
            code; "fixed": each layer is read as itself.
    """

    attn_type: AttentionType = "qq+kk+vv"
    soft_mean: bool = True
    use_scorebase_pooling: bool = True
    img_cls_type: ContextTokenPlace = "pad_suffix"
    img_cls_at_test: bool = False
    dino_model: Literal["none", "dinov2"] = "none"
    both_eattn_dattn: bool = True
    beta: Weight = 1.2
    gamma: Weight = 3.0
    dattn_mean: Literal["picture", "batch"] = "picture"
    layer_aliasing: LayerAliasing = "as_published"

    def resolved(self, towers: ClipConfig) -> Self:
        """The same settings with everything that depends on the backbone filled in.

        Args:
            towers: shape of the image encoder and the text encoder.

        Raises:
            ConfigError: a value is impossible for these encoders; the message holds the allowed range.
        """
        last = towers.vision.layers
        is_last_alone = self.features_list is None and self.dino_model != "none"
        chosen = layers_to_use((last,) if is_last_alone else self.features_list, last)
        whole = super(Config, replace(self, features_list=chosen)).resolved(towers)
        start = whole.start(last)
        if self.dino_model != "none" and min(chosen) < start:
            raise ConfigError(f"features_list {chosen}: with dino_model, use layers {start} to {last}")
        return whole

    def start(self, layers: int) -> int:
        """First layer of E-Attn, 1-based, of an image encoder with a number of layers."""
        return first_value_value_layer(self.dpam_layer, layers)


class Crane(Method[Config, JointFeatures, TextState]):
    """See the module's description.

    Attributes:
        vfm: network of D-Attn, from images (B, 3, S, S) with ImageNet's normalisation to (B, C, G, G); by
            default DINOv2, which is loaded when it is first used.
        times: number of times that each of the T sets of patches counts: those of D-Attn, then those of
            E-Attn.
    """

    SHAPE_FIELDS = frozenset({"n_ctx", "depth", "t_n_ctx"})
    AUTHORS_ACTIVATION = "quick_gelu"
    IMAGE_TERMS = frozenset({"image"})
    FEATURES = JointFeatures
    FEATURE_FIELDS = frozenset(
        {
            "features_list",
            "dpam_layer",
            "attn_type",
            "dino_model",
            "both_eattn_dattn",
            "beta",
            "gamma",
            "dattn_mean",
            "layer_aliasing",
        }
    )
    TRAINING = TrainingDefaults(
        epochs=5,
        batch_size=8,
        learning_rate=1e-3,
        betas=(0.6, 0.999),
        notes="For Crane+ on medical sets the authors take the weights of the first epoch (--epochs 1).",
    )

    @property
    def why_not_exportable(self) -> str:
        """The second network of Crane+; "" without it."""
        reason = "Crane+ reads a second network, DINOv2; dino_model=none (--set dino_model=none) exports"
        return "" if self.config.dino_model == "none" else reason

    def __init__(self, backbone: CLIP, config: Config) -> None:
        """Fresh prompts from torch's global random numbers.

        Raises:
            ConfigError: a setting is impossible for this backbone.
        """
        super().__init__(backbone, config.resolved(backbone.config))
        chosen, towers = self.config, backbone.config
        last = towers.vision.layers
        self.start = chosen.start(last)
        used = layers_to_use(chosen.features_list, last)
        read = layers_read(used, chosen.layer_aliasing, self.start, last)
        has_dattn = chosen.dino_model != "none"
        self.dattn_layers = used if has_dattn else ()
        self.eattn_layers = tuple(read) if chosen.both_eattn_dattn or not has_dattn else ()
        counts = [read[layer] for layer in self.eattn_layers]
        self.times = (1.0,) * len(self.dattn_layers) + tuple(float(count) for count in counts)
        self.vfm: Callable[[Tensor], Tensor] = DinoV2(towers.vision.patch_size)
        self.prompt_learner = PromptPairLearner(
            backbone,
            n_ctx=chosen.n_ctx,
            depth=resolve_depth(chosen.depth, towers.text.layers),
            t_n_ctx=chosen.t_n_ctx,
            round_prompts_to_half=chosen.round_prompts_to_half,
        )

    def prepare(self, classes: Sequence[str], support: Support | None = None) -> TextState:
        """The two learnt prompts without an image; they are the same for every class."""
        return TextState(self.prompt_learner.encode(self.backbone)[None])

    @torch.no_grad()
    def features(self, images: Tensor) -> JointFeatures:
        """One pass through the image encoder; no gradients, because nothing in it is learnt."""
        visual = self.backbone.visual
        attention = self._patch_attention(images) if self.dattn_layers else None
        found = correlated_tokens(
            visual,
            images,
            self.eattn_layers,
            self.start,
            self.config.attn_type,
            attention=attention,
            attention_layers=self.dattn_layers,
        )
        patches = [found.gathered[layer] for layer in self.dattn_layers]
        patches += [found.patches[layer] for layer in self.eattn_layers]
        joint = visual.project(torch.stack(patches, dim=1)).float()
        return JointFeatures(visual.project(found.class_token).float(), joint)

    def score(self, features: JointFeatures, state: TextState) -> RawOutput:
        """Abnormal probability of the pooled class token, and of the patches, upsampled and smoothed."""
        text = state.text_features
        if self.config.img_cls_at_test:
            text = self._text_with_images(features)
        temperature = self.config.temperature
        logits = cosine_similarity(features.patch_features, text) / temperature
        pooled = self._pooled(features, logits)
        scores = torch.softmax(cosine_similarity(pooled, text) / temperature, dim=-1)[:, 1]
        if self.config.soft_mean:
            # Upsampling is linear, so that the mean can be taken before it.
            maps = to_grid(self._mean(torch.softmax(logits, dim=-1)))
        else:
            maps = to_grid(self._mean(logits))
        maps = upsample(maps, features.image_size(self.backbone.config.vision.patch_size))
        if not self.config.soft_mean:
            maps = torch.softmax(maps, dim=1)
        return RawOutput(scores, gaussian_filter(maps[:, 1], self.config.sigma))

    @property
    def scores_jointly(self) -> bool:
        """Whether the mean of D-Attn is that of all images of a batch."""
        return bool(self.dattn_layers) and self.config.dattn_mean == "batch"

    @classmethod
    def cached_features(cls, settings: Mapping[str, Any]) -> type[JointFeatures] | None:
        """None where the mean of D-Attn is that of all images of a step."""
        is_joint = settings.get("dattn_mean") == "batch" and settings.get("dino_model") == "dinov2"
        return None if is_joint else cls.FEATURES

    def loss_from_features(
        self, features: JointFeatures, masks: Tensor, labels: Tensor, classes: Sequence[str] | None = None
    ) -> dict[str, Tensor]:
        """Cross entropy of the pooled class token; focal and Dice losses, summed over the sets of patches.

        L = 2 sum_t [ Focal(P_t, G) + Dice((1 - P_normal,t + P_abnormal,t) / 2, G) ]
            + 0.2 CE( cos(f', g) / 0.01, y )

        with P_t = softmax( cos(patches of set t, g) / temperature ), upsampled without interpolation, and the
        prompts g with the class token of the image.

        Source: Crane (2504.11055), as in the authors' train.py.

        Args:
            features: features of the batch.
            masks: (B, S, S) or (B, 1, S, S) in {0, 1}.
            labels: (B,) in {0, 1}.
            classes: not used.

        Returns:
            "image", "focal" and "dice", weights included.
        """
        size = features.image_size(self.backbone.config.vision.patch_size)
        masks = check_masks(masks, len(labels), size)
        text = self._text_with_images(features)
        logits = cosine_similarity(features.patch_features, text) / self.config.temperature
        pooled = self._pooled(features, logits)
        image = F.cross_entropy(cosine_similarity(pooled, text) / TRAINING_TEMPERATURE, labels.long())
        focal, dice = [], []
        for times, grid in zip(self.times, to_grid(torch.softmax(logits, dim=-1)).unbind(dim=1), strict=True):
            maps = F.interpolate(grid, size=(size, size), mode="nearest")
            focal.append(times * focal_loss(maps, masks))
            dice.append(times * dice_loss((1 - maps[:, 0] + maps[:, 1]) / 2, masks))
        return {
            "image": IMAGE_WEIGHT * image,
            "focal": PIXEL_WEIGHT * torch.stack(focal).sum(),
            "dice": PIXEL_WEIGHT * torch.stack(dice).sum(),
        }

    def trainable(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The context vectors of both prompts and the deep prompts, by the names of the authors' file."""
        yield from self.prompt_learner.named_parameters()

    def load_official(self, state_dict: Mapping[str, Any]) -> None:
        """Takes `{"prompt_learner": {...}}`, the file that the authors' training writes."""
        self.load_learned(official_prompts(state_dict, "Crane's authors", CONTEXTS))

    @classmethod
    def official_config(cls, state_dict: Mapping[str, Any]) -> dict[str, Any]:
        """`n_ctx`, `depth` and `t_n_ctx` from the shapes; files of Crane and Crane+ look the same."""
        learned = official_prompts(state_dict, "Crane's authors", CONTEXTS)
        return {"n_ctx": learned["ctx_pos"].shape[-2], **deep_prompt_settings(learned)}

    def _text_with_images(self, features: JointFeatures) -> Tensor:
        """(B, 2, E) prompts that contain the class token of each image, or (1, 2, E) if they contain none."""
        place = self.config.img_cls_type
        return encode_with_images(self.prompt_learner, self.backbone, features.image_features, place)

    def _mean(self, layers: Tensor) -> Tensor:
        """(B, T, ...) to (B, ...), each set of patches as often as it counts."""
        parts = [times * part for times, part in zip(self.times, layers.unbind(dim=1), strict=True)]
        return torch.stack(parts).sum(dim=0) / sum(self.times)

    def _pooled(self, features: JointFeatures, logits: Tensor) -> Tensor:
        """(B, E) class tokens, joined with the patches by their abnormal probability if the settings say so.

        c = normalise( sum_p w_p mean_t z_t,p ) with w = softmax( mean_t logits )_abnormal, and
        f' = normalise( (c + f) / 2 ).
        """
        image = F.normalize(features.image_features, dim=-1)
        if not self.config.use_scorebase_pooling:
            return image
        weights = torch.softmax(self._mean(logits), dim=-1)[..., 1:]
        patches = self._mean(F.normalize(features.patch_features, dim=-1))
        pooled = F.normalize((weights * patches).sum(dim=1), dim=-1)
        return F.normalize(0.5 * pooled + 0.5 * image, dim=-1)

    def _patch_attention(self, images: Tensor) -> Tensor:
        """(B, N, N) attention by the similarity of the other network's patches."""
        record = self.backbone.record
        if record is None:
            raise ConfigError(
                "dino_model needs to know how images were normalised, and this backbone has no record of it: "
                "load the backbone by name or file, or use dino_model='none'"
            )
        found = self.vfm(imagenet_normalised(images, record.mean, record.std))
        grid = images.shape[-1] // self.backbone.config.vision.patch_size
        if found.ndim != 4 or found.shape[0] != images.shape[0] or tuple(found.shape[-2:]) != (grid, grid):
            raise ConfigError(
                f"method.vfm gave {tuple(found.shape)}, expected ({images.shape[0]}, C, {grid}, "
                f"{grid}): as many patches as CLIP has"
            )
        return patch_attention(found, self.config.beta, self.config.gamma, self.config.dattn_mean)

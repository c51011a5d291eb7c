"""GlocalCLIP: object-agnostic global and local prompt learning for zero-shot anomaly detection.

Ham et al., 2024, https://arxiv.org/abs/2411.06071; code https://github.com/YUL-git/GlocalCLIP.

Idea: AnomalyCLIP with two pairs of learnt prompts instead of one. The global pair scores the image, the local
pair scores its patches. The abnormal prompt of a pair starts with the context of the normal prompt and adds
its own. A contrastive term keeps the two pairs together: it pulls each global prompt to the local prompt of
the same meaning and, with a margin above 0, pushes it from the other one. The image encoder works as in
AnomalyCLIP.

What the released code does and the paper does not say (kept, because published numbers depend on it):

* The value-value stream is updated in place and handed out without a copy, so that the layers 6, 12, 18 and
  24 are four times layer 24. The published maps are four times the last one, and the pixel losses count
  fourfold against the others. `layer_aliasing="as_published"`, the default, does just that (the map is
  computed once and multiplied); `"fixed"` reads the four layers.
* The margin is 0 in every released command, so the contrastive term only pulls.
* The class token is projected without the final layer norm, the patches with it.
* Deep prompts are rounded to half precision inside a float32 network (`round_prompts_to_half=False` leaves
  that out).
* Position tables are resized bilinearly.
* Prompt lengths and depth were chosen per experiment: VisA -> MVTec 13, 13, 9, 4 (`n_ctx`, `ab_ctx`, `depth`,
  `t_n_ctx`; the defaults here), MVTec -> other industrial sets 12, 13, 10, 2, ColonDB -> ClinicDB
  12, 12, 12, 4, ClinicDB -> other medical sets 12, 12, 9, 4. The shapes in an authors' file decide them.

Deviations from the released code:

* it squeezes masks, so that a last batch of one image gets its Dice loss per row; here the loss is always per
  image;
* its checkpoint holds linear layers that nothing uses; they are accepted and ignored;
* on a backbone without 24 + 12 layers, the paper's constants are carried over as follows: the ends of the
  four quarters of the image encoder give the patches, the value-value stream covers the same share of the
  layers (19/24, rounded), and deep prompts enter the first 9 layers of the text encoder, or all of them if
  they are fewer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zsad.methods.base import Method, Sigma, State, Support, Weight
from zsad.methods.functional.image_score import ImageScore, image_score_for, image_scores
from zsad.methods.functional.losses import triplet_loss
from zsad.methods.functional.maps import abnormal_map
from zsad.methods.functional.patches import (
    JointFeatures,
    LayerAliasing,
    first_value_value_layer,
    layers_read,
    layers_to_use,
    value_value_features,
)
from zsad.methods.functional.similarity import similarity_softmax
from zsad.methods.prompts.learners import GlocalPromptLearner
from zsad.methods.prompts.learners_file import deep_prompt_settings, official_prompts
from zsad.methods.prompts.object_agnostic import ObjectAgnosticConfig, prompt_losses, resolve_depth
from zsad.methods.training import TrainingDefaults
from zsad.types import MethodInfo, RawOutput

if TYPE_CHECKING:
    from typing_extensions import Self

    from zsad.backbones.clip import CLIP, ClipConfig

CONTEXTS = ("ctx_global_pos", "ctx_global_neg", "ctx_local_pos", "ctx_local_neg")

INFO = MethodInfo(
    name="glocalclip",
    title="GlocalCLIP",
    year=2024,
    paper="https://arxiv.org/abs/2411.06071",
    code="https://github.com/YUL-git/GlocalCLIP",
    needs_training=True,
    uses_class_names=False,
    scores_batch_jointly=False,
    checked_by="authors",
)


@dataclass(frozen=True, kw_only=True)
class Config(ObjectAgnosticConfig):
    """Settings, by the names of the authors' code.

    Attributes:
        features_list: 1-based layers of the image encoder whose patches are compared with the prompts; None
            for the ends of the four quarters (6, 12, 18, 24 of 24).
        n_ctx: number of context vectors in a normal prompt, shared with the abnormal one.
        ab_ctx: number of context vectors that an abnormal prompt adds.
        image_score: what scores an image, "class_token" as in the paper, or "both" for the mean logit of the
            class token and of the most anomalous 5 % of the patches; None for "both" on `tiny` and
            "class_token" on all other weights.
        margin: margin of the contrastive loss; with 0 it only pulls.
        alpha: weight of the contrastive loss.
        layer_aliasing: "as_published": every layer of the value-value stream is read as the last one, as in
            the released code; "fixed": each layer is read as itself.
    """

    n_ctx: int = 13
    ab_ctx: int = 13
    sigma: Sigma = 8.0
    image_score: ImageScore | None = None
    margin: Weight = 0.0
    alpha: Weight = 1.0
    layer_aliasing: LayerAliasing = "as_published"

    def resolved(self, towers: ClipConfig) -> Self:
        """The same settings with everything that depends on the backbone filled in.

        Args:
            towers: shape of the image encoder and the text encoder.

        Raises:
            ConfigError: a value is impossible for these encoders; the message holds the allowed range.
        """
        chosen = layers_to_use(self.features_list, towers.vision.layers)
        return super(Config, replace(self, features_list=chosen)).resolved(towers)


@dataclass(frozen=True)
class GlocalCLIPState(State):
    """Features of the learnt prompts; normal, then abnormal, not normalised.

    Attributes:
        global_text: (1, 2, E) float32, for the score of the image.
        local_text: (1, 2, E) float32, for the patches.
    """

    global_text: Tensor
    local_text: Tensor


class GlocalCLIP(Method[Config, JointFeatures, GlocalCLIPState]):
    """See the module's description.

    Attributes:
        layers: the T layers whose patches `features` returns, each once.
        times: number of times that each layer counts.
    """

    SHAPE_FIELDS = frozenset({"n_ctx", "ab_ctx", "depth", "t_n_ctx"})
    AUTHORS_ACTIVATION = "quick_gelu"
    FEATURES = JointFeatures
    FEATURE_FIELDS = frozenset({"features_list", "dpam_layer", "layer_aliasing"})
    IMAGE_TERMS = frozenset({"image", "glocal"})
    TRAINING = TrainingDefaults(
        epochs=15,
        batch_size=8,
        learning_rate=1e-3,
        notes="The authors' prompt lengths and depth differ with the auxiliary set: on MVTec AD they train "
        "with --set n_ctx=12 --set depth=10 --set t_n_ctx=2, on VisA with the defaults.",
    )

    def __init__(self, backbone: CLIP, config: Config) -> None:
        """Fresh prompts from torch's global random numbers.

        Raises:
            ConfigError: a setting is impossible for this backbone.
        """
        image_score = image_score_for(config.image_score, backbone.record)
        super().__init__(backbone, replace(config, image_score=image_score).resolved(backbone.config))
        self.image_score = image_score
        chosen, towers = self.config, backbone.config
        last = towers.vision.layers
        self.value_value_from = first_value_value_layer(chosen.dpam_layer, last)
        used = layers_to_use(chosen.features_list, last)
        read = layers_read(used, chosen.layer_aliasing, self.value_value_from, last)
        self.layers, self.times = tuple(read), tuple(float(count) for count in read.values())
        self.prompt_learner = GlocalPromptLearner(
            backbone,
            n_ctx=chosen.n_ctx,
            ab_ctx=chosen.ab_ctx,
            depth=resolve_depth(chosen.depth, towers.text.layers),
            t_n_ctx=chosen.t_n_ctx,
            round_prompts_to_half=chosen.round_prompts_to_half,
        )

    def prepare(self, classes: Sequence[str], support: Support | None = None) -> GlocalCLIPState:
        """The four learnt prompts; they are the same for every class."""
        prompts = self.prompt_learner.encode(self.backbone)[None]
        return GlocalCLIPState(global_text=prompts[:, :2], local_text=prompts[:, 2:])

    @torch.no_grad()
    def features(self, images: Tensor) -> JointFeatures:
        """One pass through the image encoder; no gradients, because nothing in it is learnt."""
        return value_value_features(self.backbone.visual, images, self.layers, self.value_value_from)

    def score(self, features: JointFeatures, state: GlocalCLIPState) -> RawOutput:
        """Abnormal probability of the class token by the global pair, of the patches by the local pair."""
        temperature, sigma = self.config.temperature, self.config.sigma
        image = similarity_softmax(features.image_features, state.global_text, temperature)
        patches = similarity_softmax(features.patch_features, state.local_text, temperature)
        size = features.image_size(self.backbone.config.vision.patch_size)
        scores = image_scores(image, patches, self.image_score)
        return RawOutput(scores, abnormal_map(patches, self.times, size, sigma))

    @property
    def map_range(self) -> tuple[float, float]:
        """One probability for each layer of the settings."""
        return (0.0, sum(self.times))

    def loss_from_features(
        self, features: JointFeatures, masks: Tensor, labels: Tensor, classes: Sequence[str] | None = None
    ) -> dict[str, Tensor]:
        """AnomalyCLIP's losses without its weight, and alpha times the contrastive loss of the two pairs.

        L = CE( cos(f, g) / temperature, y )
            + sum_l [ Focal(P, G) + Dice(P_abnormal, G) + Dice(P_normal, 1-G) ]
            + alpha [ T(g_normal; l_normal, l_abnormal) + T(g_abnormal; l_abnormal, l_normal) ]

        where g and l are the global and local prompts, P comes from l, and T is
        `zsad.methods.functional.losses.triplet_loss` on vectors of length 1.

        Source: GlocalCLIP (2411.06071), as in the authors' train.py.

        Args:
            features: features of the batch.
            masks: (B, S, S) or (B, 1, S, S) in {0, 1}.
            labels: (B,) in {0, 1}.
            classes: not used.

        Returns:
            "image", "focal", "dice_abnormal", "dice_normal" and "glocal", weights included.
        """
        state = self.prepare(())
        terms = prompt_losses(
            features,
            masks,
            labels,
            image_text=state.global_text,
            patch_text=state.local_text,
            temperature=self.config.temperature,
            weights=self.times,
            patch_size=self.backbone.config.vision.patch_size,
        )
        pairs = (state.global_text[0], state.local_text[0])
        global_text, local_text = (F.normalize(pair, dim=-1) for pair in pairs)
        contrast = [
            triplet_loss(global_text[same], local_text[same], local_text[other], self.config.margin)
            for same, other in ((0, 1), (1, 0))
        ]
        return {**terms, "glocal": self.config.alpha * torch.stack(contrast).sum()}

    def trainable(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Context vectors of the four prompts and the deep prompts, by the names of the authors' file."""
        yield from self.prompt_learner.named_parameters()

    def load_official(self, state_dict: Mapping[str, Any]) -> None:
        """Takes `{"prompt_learner": {...}}`, the file that the authors' training writes."""
        self.load_learned(official_parameters(state_dict))

    @classmethod
    def official_config(cls, state_dict: Mapping[str, Any]) -> dict[str, Any]:
        """`n_ctx`, `ab_ctx`, `depth` and `t_n_ctx` from the shapes; without deep prompts no `t_n_ctx`."""
        learned = official_parameters(state_dict)
        normal, abnormal = (learned[name].shape[-2] for name in CONTEXTS[:2])
        return {"n_ctx": normal, "ab_ctx": abnormal, **deep_prompt_settings(learned)}


def official_parameters(state_dict: Mapping[str, Any]) -> dict[str, Tensor]:
    """The learnt tensors of an authors' file, without its token buffers and unused layers.

    Raises:
        WeightsError: it is no such file.
    """
    return official_prompts(state_dict, "GlocalCLIP's authors", CONTEXTS)

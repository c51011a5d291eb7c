"""FAPrompt: fine-grained abnormality prompts for zero-shot anomaly detection.

Zhu et al., ICCV 2025, https://arxiv.org/abs/2410.10289; code https://github.com/mala-lab/FAPrompt.

Idea: AnomalyCLIP with ten abnormal prompts instead of one, which a loss keeps apart and whose mean stands for
"abnormal". The prompts then adapt to the image: a first pass finds its most anomalous patches, a small
network turns them into a vector that is added to the learnt tokens of the abnormal prompts, and a second pass
scores with these. On normal images the vector is pulled to 0. Score and map join both passes.

What the released code does and the paper does not say (kept, because published numbers depend on it):

* The patches that adapt the prompts are not the most anomalous ones but the first ten of the image, row by
  row from the top left, because the code counts instead of using the indices that it computed.
  `topk_selection="as_published"`, the default, does just that; `"fixed"` takes the most anomalous ones.
* Only the patches of the last layer are used, although the scripts name four layers.
* The class token is projected without the final layer norm, the patches with it.
* The focal loss of the image score takes this probability for a logit.
* The loss of the vector is a sum over the normal images of the batch, not a mean.
* The map is smoothed with a standard deviation of 10 pixels.
* The script trains for 15 epochs; the published test command loads the weights of the seventh.
* Deep prompts are rounded to half precision inside a float32 network, and position tables are resized
  bilinearly.

The authors published no weights: the link in their repository is empty.

Deviations from the released code:

* it squeezes masks, so that a last batch of one image gets its Dice loss per row; here the loss is always per
  image;
* the normal prompt does not depend on the image and is encoded once;
* its checkpoint holds linear layers that nothing uses; they are accepted and ignored;
* on a backbone without 24 + 12 layers, the constants are carried over as in AnomalyCLIP; on any backbone, the
  small network has a sixteenth of its input's width inside, as in the code.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zsad.errors import ConfigError
from zsad.methods.base import Method, MethodConfig, Sigma, State, Support, Temperature, Weight
from zsad.methods.functional.checks import check_masks
from zsad.methods.functional.losses import binary_focal_loss, pixel_losses
from zsad.methods.functional.maps import abnormal_map, to_grid, upsample
from zsad.methods.functional.patches import (
    JointFeatures,
    first_value_value_layer,
    resolve_dpam_layer,
    value_value_features,
)
from zsad.methods.functional.similarity import cosine_similarity, similarity_softmax
from zsad.methods.prompts.fine_grained import FineGrainedPromptLearner
from zsad.methods.prompts.learners_file import deep_prompt_settings, official_prompts
from zsad.methods.prompts.object_agnostic import resolve_depth
from zsad.methods.training import TrainingDefaults
from zsad.types import MethodInfo, RawOutput

if TYPE_CHECKING:
    from typing_extensions import Self

    from zsad.backbones.clip import CLIP, ClipConfig

INFO = MethodInfo(
    name="faprompt",
    title="FAPrompt",
    year=2025,
    paper="https://arxiv.org/abs/2410.10289",
    code="https://github.com/mala-lab/FAPrompt",
    needs_training=True,
    uses_class_names=False,
    scores_batch_jointly=False,
    checked_by="authors",
)

CONTEXTS = ("ctx_pos", "ctx_neg")
META_NET = {
    "patch_meta_net.linear1.weight": 2,
    "patch_meta_net.linear1.bias": 1,
    "patch_meta_net.linear2.weight": 2,
    "patch_meta_net.linear2.bias": 1,
}
SECOND_PASS_WEIGHT = 0.5


@dataclass(frozen=True, kw_only=True)
class Config(MethodConfig):
    """Settings, by the names of the authors' code.

    Attributes:
        n_ctx_pos: number of context vectors that all prompts share.
        n_ctx_neg: number of context vectors that an abnormal prompt adds.
        num_p: number of abnormal prompts.
        k: number of patches that adapt the abnormal prompts to an image.
        depth: last layer of the text encoder with a deep prompt (layer 1 has none); None for 9, or for the
            number of layers if that is smaller.
        t_n_ctx: number of deep prompt vectors in a layer.
        dpam_layer: the authors' constant: the value-value stream covers the last dpam_layer - 1 layers; None
            for 20 of 24 layers, and for the same share of another number.
        sigma: standard deviation of the Gaussian filter over the map, in pixels; 0 switches it off.
        temperature: temperature of the softmax over the normal and the abnormal prompts.
        topk_selection: patches that adapt the prompts: "as_published" for the first k of the image, "fixed"
            for the k most anomalous ones.
        lambda_orth: weight of the loss that keeps the abnormal prompts apart.
        round_prompts_to_half: whether deep prompts pass through half precision, as in the authors' code.
    """

    n_ctx_pos: int = 5
    n_ctx_neg: int = 2
    num_p: int = 10
    k: int = 10
    depth: int | None = None
    t_n_ctx: int = 4
    dpam_layer: int | None = None
    sigma: Sigma = 10.0
    temperature: Temperature = 0.07
    topk_selection: Literal["fixed", "as_published"] = "as_published"
    lambda_orth: Weight = 0.1
    round_prompts_to_half: bool = True

    def resolved(self, towers: ClipConfig) -> Self:
        """The same settings with everything that depends on the backbone filled in.

        Args:
            towers: shape of the image encoder and the text encoder.

        Raises:
            ConfigError: a value is impossible for these encoders; the message holds the allowed range.
        """
        return replace(
            self,
            depth=resolve_depth(self.depth, towers.text.layers),
            dpam_layer=resolve_dpam_layer(self.dpam_layer, towers.vision.layers),
        )


@dataclass(frozen=True)
class FAPromptState(State):
    """Features of the prompts without an image, not normalised.

    Attributes:
        normal: (1, E) float32 normal prompt.
        abnormal: (P, E) float32 abnormal prompts.
    """

    normal: Tensor
    abnormal: Tensor


@dataclass(frozen=True)
class TwoPasses:
    """What both passes say about a batch.

    Attributes:
        first: (B, N, 2) probabilities of the patches by the prompts without the image.
        second: (B, N, 2) probabilities of the patches by the adapted prompts.
        image_logits: (B, 2) similarities of the class token and the adapted prompts, over the temperature.
        scores: (B,) image scores in [0, 1].
        bias: (B, D) vectors that adapt the prompts.
    """

    first: Tensor
    second: Tensor
    image_logits: Tensor
    scores: Tensor
    bias: Tensor


class FAPrompt(Method[Config, JointFeatures, FAPromptState]):
    """See the module's description."""

    SHAPE_FIELDS = frozenset({"n_ctx_pos", "n_ctx_neg", "num_p", "k", "depth", "t_n_ctx"})
    WEIGHTS_NOTE = (
        f"the link to the weights of FAPrompt's authors on {INFO.code} is empty: train with `zsad train "
        "--method faprompt`, or give a file of their training code as --checkpoint"
    )
    AUTHORS_ACTIVATION = "quick_gelu"
    IMAGE_TERMS = frozenset({"image", "image_focal", "orthogonal", "prior"})
    FEATURES = JointFeatures
    FEATURE_FIELDS = frozenset({"dpam_layer"})
    LOSS_IS_MEAN = False
    TRAINING = TrainingDefaults(
        epochs=7,
        batch_size=8,
        learning_rate=1e-3,
        notes="The authors' script trains for 15 epochs, and their test command loads the weights of the "
        "seventh.",
    )

    def __init__(self, backbone: CLIP, config: Config) -> None:
        """Fresh prompts from torch's global random numbers.

        Raises:
            ConfigError: a setting is impossible for this backbone.
        """
        super().__init__(backbone, config.resolved(backbone.config))
        chosen, towers = self.config, backbone.config
        self.last = towers.vision.layers
        self.value_value_from = first_value_value_layer(chosen.dpam_layer, self.last)
        self.prompt_learner = FineGrainedPromptLearner(
            backbone,
            n_ctx_pos=chosen.n_ctx_pos,
            n_ctx_neg=chosen.n_ctx_neg,
            num_p=chosen.num_p,
            k=chosen.k,
            depth=resolve_depth(chosen.depth, towers.text.layers),
            t_n_ctx=chosen.t_n_ctx,
            round_prompts_to_half=chosen.round_prompts_to_half,
        )

    def prepare(self, classes: Sequence[str], support: Support | None = None) -> FAPromptState:
        """The learnt prompts without an image; they are the same for every class."""
        learner = self.prompt_learner
        abnormal = learner.encode_abnormal(self.backbone)[0]
        return FAPromptState(normal=learner.encode_normal(self.backbone), abnormal=abnormal)

    @torch.no_grad()
    def features(self, images: Tensor) -> JointFeatures:
        """One pass through the image encoder; no gradients, because nothing in it is learnt."""
        return value_value_features(self.backbone.visual, images, (self.last,), self.value_value_from)

    def score(self, features: JointFeatures, state: FAPromptState) -> RawOutput:
        """Mean of the class token's probability and the largest of the patches; mean map of both passes.

        s = ( softmax( cos(f, g2) / temperature )_abnormal + (2 max P1_abnormal + max P2_abnormal) / 3 ) / 2
        """
        found = self._two_passes(features, state, state.normal)
        size = features.image_size(self.backbone.config.vision.patch_size)
        passes = torch.stack([found.first, found.second], dim=1)
        return RawOutput(found.scores, abnormal_map(passes, [0.5, 0.5], size, self.config.sigma))

    def loss_from_features(
        self, features: JointFeatures, masks: Tensor, labels: Tensor, classes: Sequence[str] | None = None
    ) -> dict[str, Tensor]:
        """Losses of both passes, of the image, and of the abnormal prompts.

        L = [ Focal + Dice_abnormal + Dice_normal ](P1) + 0.5 [ the same ](P2)
            + CE( cos(f, g2) / temperature, y ) + BinaryFocal( s, y )
            + lambda_orth sum_(k<m) |cos(g_k, g_m)| + sum over normal images of mean( bias^2 )

        Source: FAPrompt (2410.10289), as in the authors' train.py.

        Args:
            features: features of the batch.
            masks: (B, S, S) or (B, 1, S, S) in {0, 1}.
            labels: (B,) in {0, 1}.
            classes: not used.

        Returns:
            "image", "image_focal", "focal", "dice_abnormal", "dice_normal", "orthogonal" and "prior", weights
            included.
        """
        size = features.image_size(self.backbone.config.vision.patch_size)
        masks = check_masks(masks, len(labels), size)
        state = self.prepare(())
        # Half precision rounds the gradients of each prompt by itself, so that each image has its own here.
        normal = self.prompt_learner.encode_normal(self.backbone, copies=len(labels))
        found = self._two_passes(features, state, normal)
        maps = upsample(to_grid(torch.stack([found.first, found.second], dim=1)), size)
        unlike = cosine_similarity(state.abnormal, state.abnormal[None].expand(self.config.num_p, -1, -1))
        is_normal = (labels == 0).to(found.bias.dtype)
        return {
            "image": F.cross_entropy(found.image_logits, labels.long()),
            "image_focal": binary_focal_loss(found.scores, labels),
            **pixel_losses(maps, masks, (1.0, SECOND_PASS_WEIGHT)),
            "orthogonal": self.config.lambda_orth * unlike.abs().triu(diagonal=1).sum(),
            "prior": (is_normal * found.bias.square().mean(dim=-1)).sum(),
        }

    def trainable(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Context vectors, deep prompts and the small network, by the names of the authors' file."""
        yield from self.prompt_learner.named_parameters()

    def load_official(self, state_dict: Mapping[str, Any]) -> None:
        """Takes `{"prompt_learner": {...}}`, the file that the authors' training writes."""
        self.load_learned(official_parameters(state_dict))

    @classmethod
    def official_config(cls, state_dict: Mapping[str, Any]) -> dict[str, Any]:
        """Numbers and lengths of the prompts, and `k`, from the shapes.

        `k` rests on the joint space having the width of the text encoder, as in the authors' code.
        """
        learned = official_parameters(state_dict)
        _, num_p, n_ctx_neg, width = learned["ctx_neg"].shape
        return {
            "n_ctx_pos": learned["ctx_pos"].shape[-2],
            "n_ctx_neg": n_ctx_neg,
            "num_p": num_p,
            "k": learned["patch_meta_net.linear1.weight"].shape[1] // width,
            **deep_prompt_settings(learned),
        }

    def _two_passes(self, features: JointFeatures, state: FAPromptState, normal: Tensor) -> TwoPasses:
        """Probabilities by the prompts without the image, then by the prompts adapted to it.

        Args:
            features: features of the batch.
            state: prompts without the image.
            normal: (1, E) or (B, E) normal prompt of the second pass.
        """
        temperature = self.config.temperature
        patches = features.patch_features[:, 0]
        text = torch.stack([state.normal, state.abnormal.mean(dim=0, keepdim=True)], dim=1)
        first = similarity_softmax(patches, text, temperature)
        bias = self.prompt_learner.prior(self._selected(patches, first))
        abnormal = self.prompt_learner.encode_abnormal(self.backbone, bias).mean(dim=1)
        adapted = torch.stack([normal.expand_as(abnormal), abnormal], dim=1)
        second = similarity_softmax(patches, adapted, temperature)
        logits = cosine_similarity(features.image_features, adapted) / temperature
        largest = (2 * first[..., 1].amax(dim=1) + second[..., 1].amax(dim=1)) / 3
        scores = 0.5 * (torch.softmax(logits, dim=-1)[:, 1] + largest)
        return TwoPasses(first, second, logits, scores, bias)

    def _selected(self, patches: Tensor, probabilities: Tensor) -> Tensor:
        """(B, k, E) patches of length 1 that adapt the prompts."""
        count = self.config.k
        if patches.shape[1] < count:
            raise ConfigError(
                f"k {count}: the images have {patches.shape[1]} patches; use larger images or a smaller k"
            )
        if self.config.topk_selection == "as_published":
            return F.normalize(patches[:, :count], dim=-1)
        chosen = probabilities[..., 1].topk(count, dim=1).indices
        return F.normalize(patches.take_along_dim(chosen[..., None], dim=1), dim=-1)


def official_parameters(state_dict: Mapping[str, Any]) -> dict[str, Tensor]:
    """The learnt tensors of an authors' file, without its token buffers and unused layers.

    Raises:
        WeightsError: it is no such file.
    """
    return official_prompts(state_dict, "FAPrompt's authors", CONTEXTS, META_NET)

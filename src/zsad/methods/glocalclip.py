"""GlocalCLIP: object-agnostic global and local prompt learning for zero-shot anomaly detection.

Ham et al., 2024, https://arxiv.org/abs/2411.06071; code https://github.com/YUL-git/GlocalCLIP.

Idea: AnomalyCLIP with two pairs of learnt sentences instead of one. The global pair scores the image, the
local pair its patches. The abnormal sentence of a pair starts with the normal one's context and adds its own.
A contrastive term keeps the two pairs together: each global sentence is drawn to the local one of the same
meaning, and, with a margin above 0, pushed from the other. Everything in the image encoder is AnomalyCLIP's.

What the released code does and the paper does not say (kept, because published numbers depend on it):

* The value-value stream is updated in place and handed out without a copy, so that the blocks 6, 12, 18 and
  24 are four times block 24. The published maps are four times the last one, and the pixel losses count
  fourfold against the others. `layer_aliasing="as_published"`, the default, does just that (the map is
  computed once and multiplied); `"fixed"` reads the four blocks.
* The margin is 0 in every released command, so the contrastive term only pulls.
* The class token is projected without the final layer norm, the patches with it.
* Deep prompts are rounded to half precision inside a float32 network (`round_prompts_to_half=False` leaves
  that out).
* Position tables are resized bilinearly.
* Prompt lengths and depth were chosen per experiment: VisA -> MVTec 13, 13, 9, 4 (`n_ctx`, `ab_ctx`, `depth`,
  `t_n_ctx`; the defaults here), MVTec -> other industrial sets 12, 13, 10, 2, ColonDB -> ClinicDB
  12, 12, 12, 4, ClinicDB -> other medical sets 12, 12, 9, 4. An authors' file decides them by its shapes.

Deviations from the released code:

* it squeezes masks, so that a last batch of one image gets its Dice loss per row; here it is always per
  image;
* its checkpoint holds linear layers that nothing uses; they are accepted and ignored;
* on a backbone that has not 24 + 12 blocks, the paper's constants are carried over as follows: the ends of
  the four quarters of the blocks give the patches, the value-value stream covers the same share of the blocks
  (19/24, rounded), and deep prompts go into the first 9 text blocks or as many as there are.
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
from zsad.methods.functional.losses import pixel_losses, triplet_loss
from zsad.methods.functional.maps import abnormal_map, to_grid, upsample
from zsad.methods.functional.patches import (
    JointFeatures,
    LayerAliasing,
    blocks_read,
    layers_to_use,
    resolve_dpam_layer,
    value_value_features,
)
from zsad.methods.functional.similarity import cosine_similarity, similarity_softmax
from zsad.methods.prompts.learners import GlocalPromptLearner, deep_prompt_settings, official_prompts
from zsad.types import Activation, MethodInfo, PositionInterpolation, RawOutput

if TYPE_CHECKING:
    from zsad.backbones.clip import CLIP

PAPER_DEPTH = 9
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
)


@dataclass(frozen=True)
class Config:
    """Settings, by the names of the authors' code.

    Attributes:
        features_list: 1-based image blocks whose patches are used; None: the ends of the four quarters
            (6, 12, 18, 24 of 24).
        n_ctx: context vectors of a normal sentence, shared with the abnormal one.
        ab_ctx: context vectors that an abnormal sentence adds.
        depth: last text block with a deep prompt (block 1 has none); None: 9, or as many as there are blocks.
        t_n_ctx: deep prompt vectors of a block.
        sigma: of the Gaussian filter over the map, in pixels; 0 switches it off.
        dpam_layer: the authors' constant: the value-value stream covers the last dpam_layer - 1 blocks;
            None: 20 of 24 blocks, the same share of others.
        margin: of the contrastive loss; with 0 it only pulls.
        alpha: weight of the contrastive loss.
        layer_aliasing: "as_published": every block of the value-value stream is read as the last one, as in
            the released code; "fixed": each as itself.
        temperature: of the softmax over the two sentences of a pair.
        round_prompts_to_half: whether deep prompts pass through half precision, as in the authors' code.
        activation: None: quick_gelu on OpenAI's weights, else what the weights were trained with.
        position_interpolation: how the position table is resized to other image sizes.
    """

    features_list: tuple[int, ...] | None = None
    n_ctx: int = 13
    ab_ctx: int = 13
    depth: int | None = None
    t_n_ctx: int = 4
    sigma: float = 8.0
    dpam_layer: int | None = None
    margin: float = 0.0
    alpha: float = 1.0
    layer_aliasing: LayerAliasing = "as_published"
    temperature: float = 0.07
    round_prompts_to_half: bool = True
    activation: Activation | None = None
    position_interpolation: PositionInterpolation = "bilinear"

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ConfigError(f"temperature must be above 0, got {self.temperature}")
        for name in ("sigma", "margin", "alpha"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name} must be 0 or more, got {getattr(self, name)}")

    def resolved(self, vision_layers: int, text_layers: int) -> Config:
        """The same settings with everything that depends on the backbone filled in.

        Args:
            vision_layers: blocks of the image encoder.
            text_layers: blocks of the text encoder.

        Raises:
            ConfigError: a value is impossible for these towers; the message holds the allowed range.

        Example:
            >>> Config().resolved(24, 12).features_list, Config().resolved(12, 6).depth
            ((6, 12, 18, 24), 6)
        """
        return replace(
            self,
            features_list=layers_to_use(self.features_list, vision_layers),
            depth=min(PAPER_DEPTH, text_layers) if self.depth is None else self.depth,
            dpam_layer=resolve_dpam_layer(self.dpam_layer, vision_layers),
        )


@dataclass(frozen=True)
class GlocalCLIPState(State):
    """What the learnt prompts say; normal, then abnormal, not normalised.

    Attributes:
        global_text: (1, 2, E) float32, for the image's score.
        local_text: (1, 2, E) float32, for the patches.
    """

    global_text: Tensor
    local_text: Tensor


class GlocalCLIP(Method):
    """See the module's description.

    Attributes:
        layers: the T blocks whose patches `features` returns, each once.
        times: how often each of them counts.
    """

    SHAPE_FIELDS = frozenset({"n_ctx", "ab_ctx", "depth", "t_n_ctx"})
    AUTHORS_ACTIVATION = "quick_gelu"
    FEATURES = JointFeatures
    FEATURE_FIELDS = frozenset({"features_list", "dpam_layer", "layer_aliasing"})
    RECIPE = TrainingRecipe(
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
        towers = backbone.config
        super().__init__(backbone, config.resolved(towers.vision.layers, towers.text.layers))
        chosen, last = self.config, towers.vision.layers
        self.value_value_from: int = last - chosen.dpam_layer + 2
        read = blocks_read(chosen.features_list, chosen.layer_aliasing, self.value_value_from, last)
        self.layers, self.times = tuple(read), tuple(float(count) for count in read.values())
        self.prompt_learner = GlocalPromptLearner(
            backbone,
            n_ctx=chosen.n_ctx,
            ab_ctx=chosen.ab_ctx,
            depth=chosen.depth,
            t_n_ctx=chosen.t_n_ctx,
            round_prompts_to_half=chosen.round_prompts_to_half,
        )

    def prepare(self, classes: Sequence[str], support: Support | None = None) -> GlocalCLIPState:
        """The four learnt sentences; they are the same for every class."""
        sentences = self.prompt_learner.encode(self.backbone)[None]
        return GlocalCLIPState(global_text=sentences[:, :2], local_text=sentences[:, 2:])

    @torch.no_grad()
    def features(self, images: Tensor) -> JointFeatures:
        """One pass through the image encoder; no gradients, nothing in it is learnt."""
        return value_value_features(self.backbone.visual, images, self.layers, self.value_value_from)

    def score(self, features: JointFeatures, state: GlocalCLIPState) -> RawOutput:
        """Abnormal probability of the class token by the global pair, of the patches by the local pair."""
        temperature, sigma = self.config.temperature, self.config.sigma
        image = similarity_softmax(features.image_features, state.global_text, temperature)
        patches = similarity_softmax(features.patch_features, state.local_text, temperature)
        size = features.image_size(self.backbone.config.vision.patch_size)
        return RawOutput(image[:, 1], abnormal_map(patches, self.times, size, sigma))

    @property
    def map_range(self) -> tuple[float, float]:
        """A probability for each block asked for."""
        return (0.0, sum(self.times))

    def loss_from_features(
        self, features: JointFeatures, masks: Tensor, labels: Tensor, classes: Sequence[str] | None = None
    ) -> dict[str, Tensor]:
        """AnomalyCLIP's losses without its weight, and alpha times the contrastive loss of the two pairs.

        L = CE( cos(f, g) / temperature, y )
            + sum_l [ Focal(P, G) + Dice(P_abnormal, G) + Dice(P_normal, 1-G) ]
            + alpha [ T(g_normal; l_normal, l_abnormal) + T(g_abnormal; l_abnormal, l_normal) ]

        with g and l the global and local sentences, P from l, and T of
        `zsad.methods.functional.losses.triplet_loss` on vectors of length 1.

        Source: GlocalCLIP (2411.06071), as in the authors' train.py.

        Args:
            features: of the batch.
            masks: (B, S, S) or (B, 1, S, S) in {0, 1}.
            labels: (B,) in {0, 1}.
            classes: not used.

        Returns:
            "image", "focal", "dice_abnormal", "dice_normal" and "glocal", weights included.
        """
        state = self.prepare(())
        temperature, margin = self.config.temperature, self.config.margin
        logits = cosine_similarity(features.image_features, state.global_text) / temperature
        size = features.image_size(self.backbone.config.vision.patch_size)
        masks = check_masks(masks, len(logits), size)
        patches = similarity_softmax(features.patch_features, state.local_text, temperature)
        maps = upsample(to_grid(patches), size)  # (B, T, 2, S, S)
        pairs = (state.global_text[0], state.local_text[0])
        global_text, local_text = (F.normalize(pair, dim=-1) for pair in pairs)
        contrast = [
            triplet_loss(global_text[same], local_text[same], local_text[other], margin)
            for same, other in ((0, 1), (1, 0))
        ]
        return {
            "image": F.cross_entropy(logits, labels.long()),
            **pixel_losses(maps, masks, self.times),
            "glocal": self.config.alpha * torch.stack(contrast).sum(),
        }

    def trainable(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Context vectors of the four sentences and the deep prompts, by the names of the authors' file."""
        yield from self.prompt_learner.named_parameters()

    def load_official(self, state_dict: Mapping[str, Any]) -> None:
        """Takes `{"prompt_learner": {...}}`, the file that the authors' training writes."""
        learned = official_parameters(state_dict)
        check_names(INFO.name, expected=dict(self.trainable()), found=learned)
        self.load_learned(learned)

    @classmethod
    def official_config(cls, state_dict: Mapping[str, Any]) -> dict[str, Any]:
        """`n_ctx`, `ab_ctx`, `depth` and `t_n_ctx` from the shapes; without deep prompts no `t_n_ctx`."""
        learned = official_parameters(state_dict)
        normal, abnormal = (learned[name].shape[-2] for name in CONTEXTS[:2])
        return {"n_ctx": normal, "ab_ctx": abnormal, **deep_prompt_settings(learned)}


def official_parameters(state_dict: Mapping[str, Any]) -> dict[str, Tensor]:
    """The learnt tensors of an authors' file, without its token buffers and unused layers.

    Raises:
        WeightsError: it is not such a file.
    """
    return official_prompts(state_dict, "GlocalCLIP's authors", CONTEXTS)

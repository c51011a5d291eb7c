"""GenCLIP: generalising CLIP prompts for zero-shot anomaly detection; a reconstruction.

Kim et al., 2025, https://arxiv.org/abs/2504.14919; the authors published no code and no weights, and this
file was written without the full text of the paper. Its numbers are not the paper's.

Idea: a normal and an abnormal prompt share learnt query tokens. During training a second copy of the tokens
is shifted by what each layer of the image encoder says about the image, so that the tokens themselves learn
what does not depend on the image. Two branches score an image: the vision branch with shifts and class name,
and the query branch with neither; their maps are averaged. Class names that mean little to CLIP ("pcb1") are
replaced by a general word.

Confirmed (abstract, repository page and summaries of the paper):

* general query prompts: learnable tokens that the normal and the abnormal prompt share;
* multi-layer vision prompts: for each layer, one linear layer of the mean over all tokens of that layer
  (class token included), added to the query tokens; each layer's patches are compared with prompts of their
  own;
* training with focal and Dice losses on the maps of the layers; CLIP stays frozen;
* two branches at inference, vision-enhanced with class name and query-only, joined for the map;
* class name filtering by an automatic criterion;
* the score of the image comes from the largest values of the map, not from the class token.

Our design, where nothing is known:

* the rest is AnomalyCLIP's: value-value stream, layers at the ends of the quarters of the image encoder, deep
  prompts in the text encoder (rounded to half precision as in its code), temperature 0.07, optimiser and 15
  epochs; the number of query tokens is 4, and all learnt tensors start from N(0, 0.02^2);
* the prompts are "[query] NAME." and "[query] damaged NAME."; the query branch says "object";
* filtering: a name stays if "a photo of a NAME" resembles CLIP's feature of the image at least as much as "a
  photo of an object". It is decided for each image by itself, so that a batch gives what single images give;
* both branches have the same weight in the loss and in the map. The loss always has both: `branches` decides
  about inference alone;
* the score of the image is the mean of the largest 1 % of the map before smoothing (`top_ratio`).

The journal version (Pattern Recognition 178, 2026) replaces filtering by an adaptive alignment of terms,
whose details are not known; it is not built.

The prompts of the vision branch depend on the image, so the text encoder runs for each image.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Literal

import torch
from torch import Tensor, nn

from zsad.files.fields import Above, AtLeast, AtMost
from zsad.methods.base import DEFAULT_CLASS, Method, MethodConfig, Sigma, State, Support, Temperature
from zsad.methods.functional.checks import check_masks
from zsad.methods.functional.losses import pixel_losses
from zsad.methods.functional.maps import gaussian_filter, grid_side, mean_of_largest, to_grid, upsample
from zsad.methods.functional.patches import first_value_value_layer, layers_to_use, resolve_dpam_layer
from zsad.methods.functional.similarity import cosine_similarity, similarity_softmax
from zsad.methods.prompts.object_agnostic import resolve_depth
from zsad.methods.prompts.queries import QueryPrompts, query_token_ids
from zsad.methods.prompts.templates import PromptSet, TextEnsemble
from zsad.methods.training import TrainingDefaults
from zsad.types import MethodInfo, RawOutput

if TYPE_CHECKING:
    from typing_extensions import Self

    from zsad.backbones.clip import CLIP, ClipConfig

INFO = MethodInfo(
    name="genclip",
    title="GenCLIP",
    year=2025,
    paper="https://arxiv.org/abs/2504.14919",
    code=None,
    needs_training=True,
    uses_class_names=True,
    scores_batch_jointly=False,
    is_reconstruction=True,
)

# Class name filtering compares an image with both: the given name and the general word.
NAME_PROMPTS = PromptSet(("a photo of a {}",), (f"a photo of an {DEFAULT_CLASS}",), ("{}",))


@dataclass(frozen=True, kw_only=True)
class Config(MethodConfig):
    """Settings.

    Attributes:
        features_list: 1-based layers of the image encoder, each with a vision prompt and a map; None for the
            ends of the four quarters, (6, 12, 18, 24) of 24 layers.
        n_query: number of query tokens, which the normal and the abnormal prompt share.
        depth: last layer of the text encoder with a deep prompt (layer 1 has none); None for 9, or for the
            number of layers if that is smaller.
        t_n_ctx: number of deep prompt vectors in a layer.
        dpam_layer: AnomalyCLIP's constant: the value-value stream covers the last dpam_layer - 1 layers; None
            for 20 of 24 layers, and for the same share of another number.
        sigma: standard deviation of the Gaussian filter over the map, in pixels; 0 switches it off.
        top_ratio: share of the pixels with the largest map values whose mean is the score of the image.
        name_filtering: whether "object" replaces a class name that resembles the image less than "object".
        branches: branches that score an image: "vision" (prompts shifted by the image, with the class name),
            "query" (query tokens alone), or the mean of "both".
        temperature: temperature of the softmax over the normal and the abnormal prompt.
        round_prompts_to_half: whether deep prompts pass through half precision, as in AnomalyCLIP's code.
    """

    features_list: tuple[int, ...] | None = None
    n_query: Annotated[int, AtLeast(1)] = 4
    depth: int | None = None
    t_n_ctx: int = 4
    dpam_layer: int | None = None
    sigma: Sigma = 4.0
    top_ratio: Annotated[float, Above(0), AtMost(1)] = 0.01
    name_filtering: bool = True
    branches: Literal["both", "vision", "query"] = "both"
    temperature: Temperature = 0.07
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
            features_list=layers_to_use(self.features_list, towers.vision.layers),
            depth=resolve_depth(self.depth, towers.text.layers),
            dpam_layer=resolve_dpam_layer(self.dpam_layer, towers.vision.layers),
        )


@dataclass(frozen=True)
class Features:
    """The frozen part of a batch.

    Attributes:
        image_features: (B, E) float32 CLIP's feature of the image, not normalised; filters class names.
        layer_means: (B, T, W) float32 mean over all tokens of each used layer of the image encoder.
        patch_features: (B, T, N, E) float32 patches of the value-value stream in the joint space, not
            normalised.
    """

    image_features: Tensor
    layer_means: Tensor
    patch_features: Tensor


@dataclass(frozen=True)
class NamedPrompts(State):
    """What depends on the class names, but not on the image.

    Attributes:
        token_ids: (C, 2, 2, L) int64 prompts about the class name, then about "object"; normal then abnormal.
        name_features: (C, 2, E) float32 unit vectors of both names, by which an image chooses.
        query_features: (1, 2, E) float32 prompts of the query branch, normal then abnormal, not normalised.
    """

    token_ids: Tensor
    name_features: Tensor
    query_features: Tensor


class GenCLIP(Method[Config, Features, NamedPrompts]):
    """See the module's description."""

    SHAPE_FIELDS = frozenset({"features_list", "n_query", "depth", "t_n_ctx"})
    AUTHORS_ACTIVATION = "quick_gelu"
    FEATURES = Features
    FEATURE_FIELDS = frozenset({"features_list", "dpam_layer"})
    TRAINING = TrainingDefaults(
        epochs=15,
        batch_size=8,
        learning_rate=1e-3,
        notes="AnomalyCLIP's settings: the authors' own are not known.",
    )

    def __init__(self, backbone: CLIP, config: Config) -> None:
        """Fresh prompts from torch's global random numbers.

        Raises:
            ConfigError: a setting is impossible for this backbone.
        """
        towers = backbone.config
        super().__init__(backbone, config.resolved(towers))
        self.layers = layers_to_use(self.config.features_list, towers.vision.layers)
        self.value_value_from = first_value_value_layer(self.config.dpam_layer, towers.vision.layers)
        self.prompts = QueryPrompts(
            self.backbone,
            self.layers,
            n_query=self.config.n_query,
            depth=resolve_depth(self.config.depth, towers.text.layers),
            t_n_ctx=self.config.t_n_ctx,
            round_prompts_to_half=self.config.round_prompts_to_half,
        )
        self.names = TextEnsemble(self.backbone, NAME_PROMPTS)

    def prepare(self, classes: Sequence[str], support: Support | None = None) -> NamedPrompts:
        """The prompts about the class names and about "object"; the query branch is already encoded."""
        name_features = self.names.encode(classes)
        context_length = self.backbone.config.text.context_length
        different = list(dict.fromkeys((DEFAULT_CLASS, *classes)))
        token_ids = query_token_ids(different, self.config.n_query, context_length).to(name_features.device)
        general = token_ids[:1]
        rows = [torch.stack([token_ids[different.index(name)], general[0]]) for name in classes]
        query_features = self.prompts.encode(self.backbone, general[0])[None]
        return NamedPrompts(torch.stack(rows), name_features, query_features)

    @torch.no_grad()
    def features(self, images: Tensor) -> Features:
        """One pass through the image encoder; no gradients, because nothing in it is learnt."""
        visual = self.backbone.visual
        output = visual(images, taps=self.layers, value_value_from=self.value_value_from)
        means = [output.tokens[layer].float().mean(dim=1) for layer in self.layers]
        patches = torch.stack([output.value_tokens[layer][:, 1:] for layer in self.layers], dim=1)
        return Features(
            visual.project(output.class_token).float(),
            torch.stack(means, dim=1),
            visual.project(patches).float(),
        )

    def score(self, features: Features, state: NamedPrompts) -> RawOutput:
        """Mean map of the branches and of the layers; its largest values are the score of the image."""
        branches = self._probabilities(features, state, self._branches)
        abnormal = torch.stack([patches[..., 1].mean(dim=1) for patches in branches.values()]).mean(dim=0)
        size = self._image_size(features)
        maps = upsample(to_grid(abnormal[..., None])[:, 0], size)
        scores = mean_of_largest(maps, max(1, round(self.config.top_ratio * size * size)))
        return RawOutput(scores, gaussian_filter(maps, self.config.sigma))

    def loss_from_features(
        self, features: Features, masks: Tensor, labels: Tensor, classes: Sequence[str] | None = None
    ) -> dict[str, Tensor]:
        """Focal and Dice losses of both branches, summed over the layers.

        L = sum over branches and layers of Focal(P, G) + Dice(P_abnormal, G) + Dice(P_normal, 1 - G)

        Source: focal and Dice losses on the maps of the layers are GenCLIP's (2504.14919); that there are two
        Dice losses, and the equal weights, are ours.

        Args:
            features: features of the batch.
            masks: (B, S, S) or (B, 1, S, S) in {0, 1}.
            labels: not used, because the score of the image comes from the map.
            classes: one name for all images, or one per image; None means "object" for all.

        Returns:
            "vision_focal", "vision_dice_abnormal", "vision_dice_normal", and the same for "query".
        """
        size = self._image_size(features)
        masks = check_masks(masks, len(features.patch_features), size)
        branches = self._probabilities(
            features, self.prepare(classes or [DEFAULT_CLASS]), ("vision", "query")
        )
        return {
            f"{branch}_{name}": term
            for branch, patches in branches.items()
            for name, term in pixel_losses(
                upsample(to_grid(patches), size), masks, [1.0] * len(self.layers)
            ).items()
        }

    def trainable(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Query tokens, the projections of the layers' means, and the deep prompts."""
        yield from self.prompts.named_parameters()

    @property
    def _branches(self) -> tuple[str, ...]:
        """Names of the branches that score an image."""
        return ("vision", "query") if self.config.branches == "both" else (self.config.branches,)

    def _image_size(self, features: Features) -> int:
        """Pixels a side of the images that the features were made from."""
        return grid_side(features.patch_features.shape[-2]) * self.backbone.config.vision.patch_size

    def _probabilities(
        self, features: Features, state: NamedPrompts, branches: Sequence[str]
    ) -> dict[str, Tensor]:
        """(B, T, N, 2) probabilities of the patches, normal then abnormal, by branch."""
        patches, temperature = features.patch_features, self.config.temperature
        found = {}
        if "vision" in branches:
            text = self._vision_features(features, state)
            by_layer = similarity_softmax(patches.flatten(0, 1), text.flatten(0, 1), temperature)
            found["vision"] = by_layer.reshape(*patches.shape[:-1], -1)
        if "query" in branches:
            found["query"] = similarity_softmax(patches, state.query_features, temperature)
        return found

    def _vision_features(self, features: Features, state: NamedPrompts) -> Tensor:
        """(B, T, 2, E) prompts of each image and layer, normal then abnormal, not normalised."""
        shifts = self.prompts.shifts(features.layer_means)  # (B, T, D)
        images, layers = shifts.shape[:2]
        token_ids = self._chosen(features, state).expand(images, -1, -1)
        prompts = token_ids[:, None].expand(-1, layers, -1, -1)  # (B, T, 2, L)
        shifts = shifts[:, :, None].expand(-1, -1, prompts.shape[2], -1)
        encoded = self.prompts.encode(self.backbone, prompts.flatten(0, 2), shifts.flatten(0, 2))
        return encoded.reshape(images, layers, prompts.shape[2], -1)

    def _chosen(self, features: Features, state: NamedPrompts) -> Tensor:
        """(B or C, 2, L) prompts about the class name, or about "object" where that fits an image better."""
        named, general = state.token_ids.unbind(dim=1)
        if not self.config.name_filtering:
            return named
        own, other = cosine_similarity(features.image_features, state.name_features).unbind(dim=-1)
        return torch.where((own >= other)[:, None, None], named, general)

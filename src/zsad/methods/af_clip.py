"""AF-CLIP: anomaly-focused CLIP adaptation for zero-shot anomaly detection.

ACM Multimedia 2025, https://github.com/Faustinaqq/AF-CLIP (the repository stands for the paper here).

Idea: CLIP sees objects and not their defects, so one small adaptor turns its features to what is anomalous.
The tokens of four layers of the frozen image encoder are averaged over neighbourhoods of 1, 3 and 5 patches,
which gives twelve sets. One adaptor, a self-attention layer that all sets share, brings each of them into the
joint space, where it is compared with the prompts "without defect." and "with defect.". Learnt vectors before
both prompts are the same, and no class name is used. The logits of all sets are added before one softmax,
which gives the score of the image from the class token and the map from the patches. With references, the
distance of the raw patches of each set to the nearest reference patch is added.

What the released code does and the paper does not say (kept, so that published results can be reproduced):

* the learnt vectors stand before the start mark of the prompts;
* the adaptor has no residual connection;
* a mask is reduced to the patch grid by reading four of its pixels for each patch; where these are half and
  half, the patch is neither normal nor anomalous;
* patches are aligned with those of their own image only, but the means are over the pairs of the whole batch,
  so the images of a step cannot be shared out between devices;
* with references, the largest distance of an image is taken before upsampling and smoothing.

Deviations from the released code:

* with references, its image score is a distance plus `alpha` times a probability, which may exceed 1; here it
  is divided by 1 + `alpha`, which changes no order;
* references may be any number of images, not only as many as fit into one batch;
* on a backbone without 24 layers, the ends of the four quarters of the image encoder give the patches.

The authors' files (`visa_prompt.pt`, `visa_adaptor.pt` and two for MVTec AD, in their repository, which has
no licence file) hold pickled modules. zsad does not open them, because unpickling runs their code. Nor were
numbers of the authors' code recorded: the tests compare with an independent computation in plain loops.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zsad.backbones.scaled_dot_product import attend
from zsad.backbones.tokenizer import tokenize
from zsad.errors import ConfigError
from zsad.files.fields import AtLeast
from zsad.methods.base import Method, MethodConfig, Sigma, State, Support, Temperature, Weight
from zsad.methods.functional.alignment import alignment_loss, binary_focal_loss, reduced_masks
from zsad.methods.functional.checks import check_masks
from zsad.methods.functional.maps import gaussian_filter, grid_side, in_parts, to_grid, upsample
from zsad.methods.functional.matching import nearest_distance
from zsad.methods.functional.neighbourhoods import token_sets
from zsad.methods.functional.patches import layers_to_use
from zsad.methods.functional.references import ReferenceMemory
from zsad.methods.training import TrainingDefaults
from zsad.types import MethodInfo, RawOutput

if TYPE_CHECKING:
    from zsad.backbones.clip import CLIP

PROMPTS = ("without defect.", "with defect.")
HEADS, HEAD_WIDTH = 8, 64
INITIAL_STD = 0.01
REFERENCES_AT_ONCE = 4

INFO = MethodInfo(
    name="af_clip",
    title="AF-CLIP",
    year=2025,
    paper="https://github.com/Faustinaqq/AF-CLIP",
    code="https://github.com/Faustinaqq/AF-CLIP",
    needs_training=True,
    uses_class_names=False,
    scores_batch_jointly=False,
    references="own",
)


@dataclass(frozen=True, kw_only=True)
class Config(MethodConfig):
    """Settings, by the names of the authors' code where it has one.

    Attributes:
        features_list: 1-based layers of the image encoder whose tokens are used; None for the ends of the
            four quarters, (6, 12, 18, 24) of 24 layers.
        scales: sizes of the neighbourhoods, odd numbers of patches along one side.
        prompt_len: number of learnt vectors before the prompts.
        alpha: weight of the zero-shot map and score where there are references.
        sigma: standard deviation of the Gaussian filter over the map, in pixels; 0 switches it off.
        temperature: temperature of the softmax over normal and abnormal.
        gamma: exponent of the focal losses.
        lambda1: weight of the losses of the map.
        lambda2: weight of the alignment of the patches.
    """

    features_list: tuple[int, ...] | None = None
    scales: tuple[int, ...] = (1, 3, 5)
    prompt_len: Annotated[int, AtLeast(1)] = 12
    alpha: Weight = 0.1
    sigma: Sigma = 4.0
    temperature: Temperature = 0.07
    gamma: Annotated[float, AtLeast(0)] = 4.0
    lambda1: Weight = 1.0
    lambda2: Weight = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.scales or any(size < 1 or size % 2 == 0 for size in self.scales):
            raise ConfigError(f"scales {tuple(self.scales)}: use odd numbers of patches, such as 1, 3 and 5")


@dataclass(frozen=True)
class AFClipState(State):
    """Text and reference features.

    Attributes:
        text_features: (2, E) float32 unit vectors, normal then abnormal.
        memory: raw patches of the references in each token set; None for zero-shot scoring.
    """

    text_features: Tensor
    memory: ReferenceMemory | None = None


@dataclass(frozen=True)
class Features:
    """The frozen part of a batch.

    Attributes:
        tokens: (B, T, 1 + N, D) float32 tokens after each of the T used layers, class token first, before the
            final layer norm.
    """

    tokens: Tensor


class Adaptor(nn.Module):
    """Layer norm, self-attention over all tokens of an image, and a linear layer; no residual connection."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * HEADS * HEAD_WIDTH, bias=False)
        self.output = nn.Linear(HEADS * HEAD_WIDTH, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, L, D) -> (B, L, D)."""
        batch, length, _ = tokens.shape
        projected = self.query_key_value(self.norm(tokens)).reshape(batch, length, 3, HEADS, HEAD_WIDTH)
        query, key, value = projected.permute(2, 0, 3, 1, 4).unbind(dim=0)
        attended = attend(query, key, value)
        adapted: Tensor = self.output(attended.transpose(1, 2).flatten(2))
        return adapted


class AFClip(Method[Config, Features, AFClipState]):
    """See the module's description."""

    SHAPE_FIELDS = frozenset({"prompt_len"})
    AUTHORS_ACTIVATION = "quick_gelu"
    FEATURES = Features
    FEATURE_FIELDS = frozenset({"features_list"})
    WEIGHTS_NOTE = (
        "the files of AF-CLIP's authors (in their repository, without a licence) are pickled modules, which "
        "zsad does not open: train with `zsad train --method af_clip`"
    )
    LOSS_IS_MEAN = False
    TRAINING = TrainingDefaults(epochs=2, batch_size=8, learning_rate=1e-4)
    tokens: Tensor

    def __init__(self, backbone: CLIP, config: Config) -> None:
        """Fresh parameters from torch's global random numbers.

        Raises:
            ConfigError: a setting is impossible for this backbone.
        """
        layers = layers_to_use(config.features_list, backbone.config.vision.layers)
        super().__init__(backbone, replace(config, features_list=layers))
        self.layers = layers
        text, ids = backbone.config.text, tokenize(PROMPTS, cut=True)
        most = text.context_length - ids.shape[1]
        if config.prompt_len > most:
            raise ConfigError(f"prompt_len {config.prompt_len}: this text encoder has room for 1 to {most}")
        self.register_buffer("tokens", ids, persistent=False)
        self.state_prompt_embedding = nn.Parameter(
            torch.randn(1, config.prompt_len, text.width) * INITIAL_STD
        )
        self.adaptor = Adaptor(backbone.config.vision.width)

    def prepare(self, classes: Sequence[str], support: Support | None = None) -> AFClipState:
        """The two learnt prompts and, with references, the memory of their patches."""
        encoder = text_in_single_precision(self.backbone)
        words = encoder.embed_tokens(self.tokens)
        learnt = self.state_prompt_embedding.expand(len(words), -1, -1)
        ends = self.tokens.argmax(dim=-1) + self.config.prompt_len
        encoded = encoder.encode_embeddings(torch.cat([learnt, words], dim=1), ends)
        text_features = F.normalize(encoded.float(), dim=-1)
        memory = self.memory_of(support)
        if memory is None:
            return AFClipState(text_features)
        return AFClipState(text_features, memory, map_range=(0.0, 1.0 + self.config.alpha))

    @torch.no_grad()
    def remember(self, images: Tensor) -> ReferenceMemory:
        """Raw patches of each token set, of length 1."""

        def read(part: Tensor) -> tuple[Tensor, ...]:
            sets = token_sets(self.features(part).tokens, self.config.scales)
            return tuple(F.normalize(tokens[:, 1:], dim=-1) for tokens in sets)

        return ReferenceMemory.of(in_parts(read, images, REFERENCES_AT_ONCE))

    @torch.no_grad()
    def features(self, images: Tensor) -> Features:
        """One pass through the image encoder; no gradients, because nothing in it is learnt."""
        output = self.backbone.visual(images, taps=self.layers)
        return Features(torch.stack([output.tokens[layer] for layer in self.layers], dim=1).float())

    def score(self, features: Features, state: AFClipState) -> RawOutput:
        """Abnormal probabilities of class token and patches; with references, distances are added."""
        probabilities, _ = self._judge(features, state.text_features)
        scores, patches = probabilities[:, 0], probabilities[:, 1:]
        if state.memory is not None:
            alpha, distances = self.config.alpha, self._distances(features, state.memory)
            scores = (distances.amax(dim=1) + alpha * scores) / (1 + alpha)
            patches = distances + alpha * patches
        grid = to_grid(patches[..., None])[:, 0]
        maps = upsample(grid, grid.shape[-1] * self.backbone.config.vision.patch_size)
        return RawOutput(scores, gaussian_filter(maps, self.config.sigma))

    def loss_from_features(
        self, features: Features, masks: Tensor, labels: Tensor, classes: Sequence[str] | None = None
    ) -> dict[str, Tensor]:
        """Focal loss of the image, focal and L1 loss of the patches, and the alignment of the patches.

        L = F(s, y) + lambda1 [ F(M, G) + |M - G| ] + lambda2 mean over the token sets of L_align

        Source: the authors' code; F has the exponent `gamma`, and G is the mask on the patch grid.

        Args:
            features: features of the batch.
            masks: (B, S, S) or (B, 1, S, S) in {0, 1}.
            labels: (B,) in {0, 1}.
            classes: not used.

        Returns:
            "image", "focal", "l1" and "alignment", weights included.
        """
        side, config = grid_side(features.tokens.shape[2] - 1), self.config
        masks = check_masks(masks, len(labels), side * self.backbone.config.vision.patch_size)
        targets = reduced_masks(masks, side).flatten(1)
        with torch.autocast(masks.device.type, enabled=False):
            probabilities, sets = self._judge(features, self.prepare(()).text_features)
            image, patches = probabilities[:, 0], probabilities[:, 1:]
            alignment = torch.stack([alignment_loss(tokens[:, 1:], targets) for tokens in sets]).mean()
            return {
                "image": binary_focal_loss(image, labels.float(), config.gamma),
                "focal": config.lambda1 * binary_focal_loss(patches, targets, config.gamma),
                "l1": config.lambda1 * F.l1_loss(patches, targets),
                "alignment": config.lambda2 * alignment,
            }

    def trainable(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The learnt vectors of the prompts and the adaptor."""
        yield "state_prompt_embedding", self.state_prompt_embedding
        yield from self.adaptor.named_parameters(prefix="adaptor")

    def _judge(self, features: Features, text_features: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Abnormal probabilities (B, 1 + N), and the adapted token sets (B, 1 + N, E) of length 1."""
        sets = [
            F.normalize(self._project(self.adaptor(tokens)), dim=-1)
            for tokens in token_sets(features.tokens, self.config.scales)
        ]
        # Cosines are linear in the tokens, so the sets can be added before they are compared.
        logits = torch.stack(sets).sum(dim=0) @ text_features.T / self.config.temperature
        return torch.softmax(logits, dim=-1)[..., 1], sets

    def _project(self, tokens: Tensor) -> Tensor:
        """(..., D) -> (..., E) in single precision, because the sum of many sets magnifies rounding."""
        visual, norm = self.backbone.visual, self.backbone.visual.ln_post
        weight, bias = norm.weight.float(), norm.bias.float()
        return F.layer_norm(tokens, norm.normalized_shape, weight, bias, norm.eps) @ visual.proj.float()

    def _distances(self, features: Features, memory: ReferenceMemory) -> Tensor:
        """(B, N) in [0, 1], distance of each patch to the nearest reference patch, averaged over the sets."""
        sets = token_sets(features.tokens, self.config.scales)
        found = [
            nearest_distance(tokens[:, 1:], known) for tokens, known in zip(sets, memory.levels, strict=True)
        ]
        return torch.stack(found).mean(dim=0)


def text_in_single_precision(backbone: CLIP) -> CLIP:
    """A network whose text encoder computes in single precision: the given one, or a copy of that encoder.

    The two prompts differ little, and the sum of many token sets magnifies what rounding does to them.
    """
    if backbone.text_projection.dtype == torch.float32:
        return backbone
    twin = backbone.view()
    del twin.visual
    return twin.float()

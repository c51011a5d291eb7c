"""WinCLIP and WinCLIP+: window-based zero-shot and few-normal-shot anomaly classification and segmentation.

Jeong et al., CVPR 2023, https://arxiv.org/abs/2303.14814; the authors published no code.

Idea: nothing is trained. A normal and an abnormal text vector are averages over every state word in every
template. The score of the image is the abnormal probability of its class token. For the map, small windows of
patches go through the image encoder one by one, each with the class token, as if the rest of the image did
not exist; a patch gets the harmonic mean of the windows that cover it, and the harmonic mean over window
sizes and the whole image. With a few references (WinCLIP+), distances to the nearest reference feature are
averaged in.

What the paper leaves open, and the choice here, which is that of the re-implementation in anomalib:

* temperature 0.07 (CLIP's own is 0.01; the order of images by score does not change, the harmonic means
  do);
* patch features for references: the tokens after the final layer norm, not projected;
* with references the map is (zero-shot + distance) / 2 and the score (zero-shot + largest distance) / 2.

`prompt_set="paper"` takes the paper's 22 templates, brings the vector of each prompt to length 1, averages,
and brings the mean to length 1. `prompt_set="anomalib"` takes the 21 entries of the re-implementations (one
of the 22 is missing, another stands in the place of a third) and averages without normalising. Both score by
cosine.

Deviation: distances below 0, which only rounding causes, become 0.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from zsad.errors import ConfigError
from zsad.methods.base import Method, MethodConfig, State, Support, Temperature
from zsad.methods.functional.maps import grid_side, upsample
from zsad.methods.functional.matching import nearest_distance
from zsad.methods.functional.references import ReferenceMemory
from zsad.methods.functional.similarity import similarity_softmax
from zsad.methods.prompts.state_words import StateWords, own_prompts
from zsad.methods.prompts.templates import TextEnsemble, prompt_set
from zsad.types import MethodInfo, PositionInterpolation, RawOutput

if TYPE_CHECKING:
    from zsad.backbones.clip import CLIP

# Bounds the memory of a pass over windows; the widest layer of an image encoder of width 896 takes 120 MB.
MOST_TOKENS_AT_ONCE = 8192
REFERENCES_AT_ONCE = 4

INFO = MethodInfo(
    name="winclip",
    title="WinCLIP",
    year=2023,
    paper="https://arxiv.org/abs/2303.14814",
    code=None,
    needs_training=False,
    uses_class_names=True,
    scores_batch_jointly=False,
    references="own",
    checked_by="re-implementation",
)


@dataclass(frozen=True, kw_only=True)
class Config(MethodConfig):
    """Settings, by the paper's terms.

    Attributes:
        scales: window sizes in patches of one side; the whole image is always one more.
        temperature: temperature of the softmax over normal and abnormal.
        prompt_set: "paper" or "anomalib", see the module's description.
        state_words: the user's own words in place of the paper's state words and templates; None for the
            paper's.
    """

    scales: tuple[int, ...] = (2, 3)
    temperature: Temperature = 0.07
    prompt_set: Literal["paper", "anomalib"] = "paper"
    state_words: StateWords | None = None
    position_interpolation: PositionInterpolation = "bicubic_antialias"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not all(scale >= 1 for scale in self.scales):
            raise ConfigError(f"scales are window sizes of 1 patch or more, got {self.scales}")


@dataclass(frozen=True)
class WinCLIPState(State):
    """Text and reference features.

    Attributes:
        text_features: (C, 2, E) float32, normal then abnormal.
        memory: patch tokens of the references, then their window embeddings of each scale; None for
            zero-shot scoring.
    """

    text_features: Tensor
    memory: ReferenceMemory | None


@dataclass(frozen=True)
class Features:
    """Everything that WinCLIP computes from a batch.

    Attributes:
        image_features: (B, E) float32 image embedding, not normalised.
        patch_tokens: (B, N, D) float32 after the final layer norm, not projected.
        window_features: (B, W, E) float32 window embeddings, scale after scale.
    """

    image_features: Tensor
    patch_tokens: Tensor
    window_features: Tensor


class WinCLIP(Method[Config, Features, WinCLIPState]):
    """See the module's description."""

    def __init__(self, backbone: CLIP, config: Config) -> None:
        super().__init__(backbone, config)
        self.text = TextEnsemble(
            self.backbone, own_prompts(prompt_set(config.prompt_set), config.state_words)
        )

    @torch.no_grad()
    def prepare(self, classes: Sequence[str], support: Support | None = None) -> WinCLIPState:
        """Text features of the classes and, with references, their memory."""
        return WinCLIPState(self.text.encode(classes), self.memory_of(support))

    @torch.no_grad()
    def remember(self, images: Tensor) -> ReferenceMemory:
        """Patch tokens (D), then window embeddings (E) of each scale."""
        parts = [self.features(part) for part in torch.split(images, REFERENCES_AT_ONCE)]
        tokens = torch.cat([part.patch_tokens for part in parts])
        windows = torch.cat([part.window_features for part in parts])
        return ReferenceMemory.of([tokens, *self._split(windows, grid_side(tokens.shape[1]))])

    @torch.no_grad()
    def features(self, images: Tensor) -> Features:
        """The whole image once, and every window by itself.

        Raises:
            ConfigError: a window is larger than the patch grid of the images.
        """
        visual = self.backbone.visual
        embedded = visual.embed(images)
        tokens = visual.ln_pre(embedded)
        for block in visual.transformer.blocks():
            tokens = block(tokens)
        windows = [self._encode_windows(embedded, scale) for scale in self.config.scales]
        return Features(
            visual.project(tokens[:, 0]).float(),
            visual.ln_post(tokens[:, 1:]).float(),
            torch.cat(windows, dim=1),
        )

    def score(self, features: Features, state: WinCLIPState) -> RawOutput:
        """Zero-shot scores and maps; with references, the mean of these and of the distances to them."""
        grid = grid_side(features.patch_tokens.shape[1])
        temperature = self.config.temperature
        scores = similarity_softmax(features.image_features, state.text_features, temperature)[:, 1]
        windows = similarity_softmax(features.window_features, state.text_features, temperature)[..., 1]
        inverse = 1 / scores[:, None, None]
        for scale, window_scores in zip(self.config.scales, self._split(windows, grid), strict=True):
            inverse = inverse + 1 / harmonic_window_mean(window_scores, grid, scale)
        maps = (1 + len(self.config.scales)) / inverse
        if state.memory is not None:
            distances = self._distances(features, state.memory, grid)
            scores = (scores + distances.amax(dim=(1, 2))) / 2
            maps = (maps + distances) / 2
        return RawOutput(scores, upsample(maps, grid * self.backbone.config.vision.patch_size))

    def _encode_windows(self, embedded: Tensor, scale: int) -> Tensor:
        """Embeddings (B, W, E) float32 of all windows of one size.

        Args:
            embedded: (B, 1 + N, D) tokens with positions, before `ln_pre`.
            scale: patches of one side of a window.
        """
        visual = self.backbone.visual
        batch, _, width = embedded.shape
        indices = window_indices(grid_side(embedded.shape[1] - 1), scale).to(embedded.device)
        indices = F.pad(
            indices + 1, (1, 0)
        )  # (W, 1 + scale^2): token 0, the class token, goes with each window
        # The blocks of an exported graph cannot depend on the size of the batch.
        together = 1 if torch.compiler.is_compiling() else batch
        at_once = max(1, MOST_TOKENS_AT_ONCE // (together * indices.shape[1]))
        encoded = []
        for chunk in torch.split(indices, at_once):
            sequences = embedded[:, chunk].reshape(-1, chunk.shape[1], width)
            encoded.append(
                visual.project(visual.encode_tokens(sequences)).float().reshape(batch, len(chunk), -1)
            )
        return torch.cat(encoded, dim=1)

    def _split(self, windows: Tensor, grid: int) -> Sequence[Tensor]:
        """Separates the windows (B, W, ...) of all scales by scale."""
        counts = [(grid - scale + 1) ** 2 for scale in self.config.scales]
        ends = list(itertools.accumulate(counts))
        return [windows[:, end - count : end] for count, end in zip(counts, ends, strict=True)]

    def _distances(self, features: Features, memory: ReferenceMemory, grid: int) -> Tensor:
        """Mean distance (B, G, G) to the nearest reference over single patches and all window sizes.

        Source: WinCLIP (2303.14814), section 4.3.
        """
        tokens, *known_windows = memory.levels
        levels = [nearest_distance(features.patch_tokens, tokens).reshape(-1, grid, grid)]
        windows = self._split(features.window_features, grid)
        for scale, found, known in zip(self.config.scales, windows, known_windows, strict=True):
            levels.append(harmonic_window_mean(nearest_distance(found, known), grid, scale))
        return torch.stack(levels).mean(dim=0)


def window_indices(grid: int, window: int) -> Tensor:
    """The patches under each square window, stride 1.

    Source: WinCLIP (2303.14814), section 4.2.

    Args:
        grid: G, patches along one side.
        window: patches along one side of a window, 1 to G.

    Returns:
        (W, window * window) int64 patch numbers, W = (G - window + 1) ** 2 windows in row-major order.

    Raises:
        ConfigError: the window does not fit into the grid.

    Example:
        >>> window_indices(3, 2).tolist()
        [[0, 1, 3, 4], [1, 2, 4, 5], [3, 4, 6, 7], [4, 5, 7, 8]]
    """
    if not 1 <= window <= grid:
        raise ConfigError(f"a window of {window} patches does not fit into a grid of {grid}: use 1 to {grid}")
    numbers = torch.arange(grid * grid).reshape(1, 1, grid, grid).float()
    return F.unfold(numbers, window)[0].T.long().contiguous()


def harmonic_window_mean(window_scores: Tensor, grid: int, window: int) -> Tensor:
    """Distributes window scores to patches by the harmonic mean over the windows that cover a patch.

    M(p) = n_p / sum over the n_p windows w covering p of 1 / M_w

    Source: WinCLIP (2303.14814), section 4.2, equation 5.

    Args:
        window_scores: (B, W) in [0, 1], windows in the order of `window_indices`.
        grid: G, patches along one side.
        window: patches along one side of a window.

    Returns:
        (B, G, G) in [0, 1]; 0 wherever one of the covering windows scores 0.

    Example:
        >>> harmonic_window_mean(torch.tensor([[0.5, 1.0, 0.5, 1.0]]), grid=3, window=2)[0, 0]
        tensor([0.5000, 0.6667, 1.0000])
    """
    side = grid - window + 1
    inverse = (1.0 / window_scores).reshape(-1, 1, side, side)
    spread = torch.ones(1, 1, window, window, dtype=inverse.dtype, device=inverse.device)
    covering = F.conv_transpose2d(torch.ones_like(inverse[:1]), spread)
    return (covering / F.conv_transpose2d(inverse, spread))[:, 0]

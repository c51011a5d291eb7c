"""MuSc: mutual scoring of unlabelled images, without training and without prompts.

Li et al., ICLR 2024, https://arxiv.org/abs/2401.16753; code https://github.com/xrli-U/MuSc.

Idea: normal patches recur. Each image of a product is compared with all other images of it, none of which is
known to be normal: a normal patch has a close match in most of them, an anomalous one in few. The score of a
patch is its mean distance to the nearest patch of those 30 % of the other images that match it best. Patches
come from four layers and are averaged over neighbourhoods of 1, 3 and 5 patches of one side (LNAMD). The
score of the image is the maximum of its map, smoothed over the images whose class tokens are most alike
(RsCIN).

All images that are scored together are compared with each other, so they must show the same product, and a
score changes with the other images of the batch. Memory grows with the number of images, time with its
square; score sets that are too large in parts of a few hundred images. A single image cannot be scored.

What the released code does and the paper does not say (kept):

* at any other image size than the weights' own (so at 518 with ViT-L/14-336) the code rebuilds OpenAI's
  network with the exact GELU instead of the QuickGELU that it was trained with; at the native size it keeps
  QuickGELU. `zsad.load` decides by its `image_size`. A setting `activation=...` always wins;
* position tables are resized bicubically, without antialiasing;
* the layer norm before the neighbourhood means covers the whole map of an image, and neighbourhoods that
  reach over the border are filled with zeros and still divided by their full size;
* k = 1, 2, 3 is the authors' choice for MVTec AD; for VisA they took 1, 8, 9.

Deviations from the released code:

* with fewer than 5 images, 30 % of the others is less than one image, and the code's mean is NaN; here at
  least one other image is used. An interval that holds no image takes the one at its lower end;
* a k of more than the number of images counts as all of them; the code fails;
* equal scores become 0 in the min-max normalisation; the code's are NaN;
* re-scored values are cut to [0, 1], which they leave only if class tokens point in opposite directions;
* with another number of layers than 24, those at the end of each quarter are used (6, 12, 18, 24 in the
  paper).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from zsad.errors import ConfigError
from zsad.methods.base import PAPERS_IMAGE_SIZE, Method, MethodConfig, State, Support
from zsad.methods.functional.maps import grid_side, in_parts, min_max, to_grid, upsample
from zsad.methods.functional.matching import chord, mutual_similarity
from zsad.methods.functional.patches import layers_to_use
from zsad.types import MethodInfo, PositionInterpolation, RawOutput

if TYPE_CHECKING:
    from zsad.backbones.clip import CLIP

IMAGES_AT_ONCE = 8

INFO = MethodInfo(
    name="musc",
    title="MuSc",
    year=2024,
    paper="https://arxiv.org/abs/2401.16753",
    code="https://github.com/xrli-U/MuSc",
    needs_training=False,
    uses_class_names=False,
    scores_batch_jointly=True,
    checked_by="authors",
)


@dataclass(frozen=True, kw_only=True)
class Config(MethodConfig):
    """Settings, by the names of the authors' code.

    Attributes:
        features_list: 1-based layers of the image encoder whose patches are used; None for 6, 12, 18, 24 of
            24 layers, and for the ends of the quarters of another number.
        r_list: sides of the neighbourhoods in patches, odd.
        interval: share of the other images that counts for a patch, from the best match (0) to the worst (1).
        rscin_k: numbers of most similar images, itself included, over which the score of an image is
            smoothed; the results are averaged. None for the maximum of the map, a distance that may exceed 1.
        activation: activation of the MLPs; None for gelu on OpenAI's weights, but quick_gelu at their native
            image size, and for what the weights were trained with on all others.
    """

    features_list: tuple[int, ...] | None = None
    r_list: tuple[int, ...] = (1, 3, 5)
    interval: tuple[float, ...] = (0.0, 0.3)
    rscin_k: tuple[int, ...] | None = (1, 2, 3)
    position_interpolation: PositionInterpolation = "bicubic"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.r_list or not all(r >= 1 and r % 2 == 1 for r in self.r_list):
            raise ConfigError(f"r_list holds odd numbers of patches of 1 or more, got {self.r_list}")
        if len(self.interval) != 2 or not 0 <= self.interval[0] < self.interval[1] <= 1:
            raise ConfigError(
                f"interval holds two rising shares between 0 and 1, as in (0.0, 0.3), got {self.interval}"
            )
        if self.rscin_k is not None and not (self.rscin_k and all(k >= 1 for k in self.rscin_k)):
            raise ConfigError(
                f"rscin_k holds numbers of images of 1 or more (None switches it off), got {self.rscin_k}"
            )


@dataclass(frozen=True)
class Features:
    """Vectors that are compared between the images of a batch.

    Attributes:
        image_features: (B, E) float32 image embedding, unit vectors.
        patch_tokens: (B, T, N, D) float32 patches after each of the T used layers, before the final layer
            norm.
    """

    image_features: Tensor
    patch_tokens: Tensor


class MuSc(Method[Config, Features, State]):
    """See the module's description."""

    EXPORT = "it compares the images of a folder with each other and cannot score one alone; auto exports"
    AUTHORS_ACTIVATION = "gelu"
    NATIVE_SIZE_KEEPS_ACTIVATION = True
    PAPER_IMAGE_SIZE = PAPERS_IMAGE_SIZE

    def __init__(self, backbone: CLIP, config: Config) -> None:
        """Nothing is learnt.

        Raises:
            ConfigError: a setting is impossible for this backbone.
        """
        chosen = layers_to_use(config.features_list, backbone.config.vision.layers)
        super().__init__(backbone, replace(config, features_list=chosen))
        self.layers = chosen

    def prepare(self, classes: Sequence[str], support: Support | None = None) -> State:
        """Nothing: neither prompts nor references are used."""
        return State()

    @torch.no_grad()
    def features(self, images: Tensor) -> Features:
        """A few images at a time through the image encoder, because whole folders come in one batch."""
        return Features(*in_parts(self._read, images, IMAGES_AT_ONCE))

    def score(self, features: Features, state: State) -> RawOutput:
        """Mutual scores, averaged over layers and neighbourhoods.

        Raises:
            ConfigError: there is only one image.
        """
        count, layers, patches, _ = features.patch_tokens.shape
        if count < 2:
            raise ConfigError(
                "musc compares images with each other and needs at least 2 of the same product at once "
                "(far more is better), got 1: give predict a list or a folder, or choose another "
                "method; fit scores each image alone and always needs another one, such as auto"
            )
        total = features.patch_tokens.new_zeros(count, patches)
        for layer in range(layers):
            for r in self.config.r_list:
                compared = self._compared(features.patch_tokens[:, layer], r)
                total = total + mutual_scores(compared, self.config.interval)
        side = grid_side(patches)
        grids = (total / (layers * len(self.config.r_list))).reshape(count, side, side)
        maps = upsample(grids, side * self.backbone.config.vision.patch_size, align_corners=True)
        scores = maps.amax(dim=(1, 2))
        if self.config.rscin_k is not None:
            scores = smooth_over_similar(scores, features.image_features, self.config.rscin_k)
        return RawOutput(scores, maps)

    def _read(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The fields of `Features` of a few images."""
        visual = self.backbone.visual
        output = visual(images, taps=self.layers)
        tokens = torch.stack([output.tokens[layer][:, 1:] for layer in self.layers], dim=1)
        return F.normalize(visual.project(output.class_token).float(), dim=-1), tokens.float()

    @staticmethod
    def _compared(patch_tokens: Tensor, r: int) -> Tensor:
        """(B, N, D) of one layer, as neighbourhoods of r patches of one side, a few images at a time."""

        def described(part: Tensor) -> tuple[Tensor]:
            return (neighbourhood_features(normalise_maps(to_grid(part)), r),)

        return in_parts(described, patch_tokens, IMAGES_AT_ONCE)[0]

    @property
    def map_range(self) -> tuple[float, float]:
        """From an exact match to unit vectors at a right angle, which have nothing in common."""
        return (0.0, 2**0.5)


def normalise_maps(grids: Tensor) -> Tensor:
    """Brings the mean of each image's whole map to 0 and its variance to 1.

    Args:
        grids: (B, D, G, G) patches of one layer.

    Returns:
        (B, D, G, G).
    """
    return F.layer_norm(grids, grids.shape[1:])


def neighbourhood_features(grids: Tensor, r: int) -> Tensor:
    """Mean over each patch's neighbourhood, brought to length 1.

    Beyond the border are zeros, and all sums are divided by r * r.

    Source: MuSc (2401.16753), section 3.2 (LNAMD).

    Args:
        grids: (B, D, G, G) patches of one layer.
        r: side of the neighbourhood in patches, odd.

    Returns:
        (B, N, D) unit vectors, N = G * G.
    """
    means = F.avg_pool2d(grids, r, stride=1, padding=r // 2, count_include_pad=True)
    return F.normalize(means.flatten(2).transpose(1, 2), dim=-1)


def mutual_scores(features: Tensor, interval: Sequence[float] = (0.0, 0.3)) -> Tensor:
    """How badly each patch matches the other images.

    a_i(p) = mean of d_ij(p) over the j != i whose rank lies in the interval,
    d_ij(p) = min_q | z_i(p) - z_j(q) |

    Source: MuSc (2401.16753), section 3.3 (MSM).

    Args:
        features: (B, N, D) unit vectors of B >= 2 images.
        interval: two rising shares of the other images, from the best match on; see `ranks_that_count`.

    Returns:
        (B, N) in [0, 2].

    Example:
        >>> here, there = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
        >>> mutual_scores(torch.stack([here, here, there])[:, None]).flatten().round(decimals=4)
        tensor([0.0000, 0.0000, 1.4142])
    """
    first, end = ranks_that_count(len(features) - 1, interval)
    closest = closest_similarities(features)
    scores = []
    for similarities in closest:  # image by image, because ranking needs several copies
        best = similarities.topk(end, dim=0).values[first:]
        scores.append(chord(best).mean(dim=0))
    return torch.stack(scores)


def closest_similarities(features: Tensor) -> Tensor:
    """Cosine of each patch and its nearest patch in each image.

    The result is the largest tensor of this method: B * B * N numbers, less than the patches themselves as
    long as the number of images is below T * D. Each pair of images is compared once for both directions.

    Args:
        features: (B, N, D) unit vectors.

    Returns:
        (B, B, N): [i, j, p] for patch p of image i in image j; -inf for an image in itself, which is no
        match.
    """
    count, patches, _ = features.shape
    closest = features.new_full((count, count, patches), -torch.inf)
    for index in range(count - 1):
        later = slice(index + 1, count)
        closest[index, later], closest[later, index] = mutual_similarity(features[index], features[later])
    return closest


def ranks_that_count(others: int, interval: Sequence[float]) -> tuple[int, int]:
    """The ranks [first, end) of the other images that count, at least one of them.

    Args:
        others: number of other images, 1 or more.
        interval: two rising shares in [0, 1]; both limits are rounded down, as the authors do.

    Example:
        >>> [ranks_that_count(others, (0.0, 0.3)) for others in (100, 11, 2)]
        [(0, 30), (0, 3), (0, 1)]
    """
    first, end = (int(others * share) for share in interval)
    first = min(first, others - 1)
    return first, max(end, first + 1)


def smooth_over_similar(scores: Tensor, image_features: Tensor, ks: Sequence[int]) -> Tensor:
    """Image scores, averaged over the most similar images.

    c'_i = mean over k of  sum_j w_ij c_j / sum_j w_ij,  j the k images of largest w_ij = cos(f_i, f_j)

    Source: MuSc (2401.16753), section 3.4 (RsCIN).

    Args:
        scores: (B,), of any range; they are brought to [0, 1] first.
        image_features: (B, E) unit vectors.
        ks: numbers of images, the image itself included; more than B counts as B.

    Returns:
        (B,) in [0, 1].

    Example:
        >>> smooth_over_similar(torch.tensor([1.0, 3.0]), torch.eye(2), ks=[1])
        tensor([0., 1.])
    """
    scores = min_max(scores)
    similarity = image_features @ image_features.T
    smoothed = []
    for k in ks:
        weights, neighbours = similarity.topk(min(k, len(scores)), dim=1)
        smoothed.append((weights * scores[neighbours]).sum(dim=1) / weights.sum(dim=1))
    return torch.stack(smoothed).mean(dim=0).clamp(0, 1)

"""AnoVL: vision-language models without training, adapted to each test image.

Deng, Zhang, Bao and Li, 2023, https://arxiv.org/abs/2308.15939; code https://github.com/hq-deng/AnoVL.

Idea: hand-written prompts are contrastive (each normal state has an abnormal counterpart) and name the domain
("industrial photo", "surface image"). The score of the image is the mean abnormal probability of its class
token over 22 views of it (turned, shifted, mirrored, grey). For the map, patches come from the value-value
attention of all layers. Then a small adapter is trained on each test image by itself for 5 steps: its patches
shall be certain of their class, and patches with noise added shall look abnormal.

The authors run OpenCLIP's ViT-B-16-plus-240 (LAION-400M) at 240 pixels.

What the released code does and the paper does not say (kept):

* cosines go into the softmax as they are (temperature 1), so probabilities stay close to one half;
* the vectors of the prompts are averaged without bringing them to length 1 first;
* the adapter works on patches that are not brought to length 1, and so does the noise;
* the map is averaged over 3 x 3 patches, the border repeated, before it is enlarged with corners aligned;
* carpet, leather, grid, tile and wood are textures, everything else is an object (`textures` changes that);
* macaroni1 and macaroni2 are written "macaroni".

Deviations from the released code:

* its optimiser serves all images of a category, so that its moments from one image bend the steps on the
  next. Here each image has a fresh optimiser, and fresh random numbers of the same seed: its result depends
  on nothing but the image, and a batch equals its single images;
* on VisA the authors cut each image into two overlapping square tiles instead of taking views, and use the
  adapter that is `adapter="linear"` here. The tiles are not offered;
* quarter turns move pixels exactly, without interpolation.

With `tta_steps=0` nothing is adapted, and `score` is a plain function of its tensors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from zsad.errors import ConfigError
from zsad.files.fields import Above, AtLeast
from zsad.methods.base import Method, MethodConfig, State, Support, Temperature
from zsad.methods.functional.descent import AdamW
from zsad.methods.functional.maps import in_parts, to_grid, upsample
from zsad.methods.functional.similarity import similarity_softmax
from zsad.methods.prompts.domain import TEXTURES, ClassTexts, DomainAwareTexts
from zsad.types import MethodInfo, PositionInterpolation, RawOutput

if TYPE_CHECKING:
    from zsad.backbones.clip import CLIP

VIEWS_AT_ONCE = 32
GREY_WEIGHTS = (0.299, 0.587, 0.114)
ROTATIONS = tuple(math.pi * sixteenths / 16 for sixteenths in (-4, -3, -2, -1, 1, 2, 3, 4))
SHIFTS = tuple((a, b) for size in (0.2, 0.1) for a in (size, -size) for b in (size, -size))

INFO = MethodInfo(
    name="anovl",
    title="AnoVL",
    year=2023,
    paper="https://arxiv.org/abs/2308.15939",
    code="https://github.com/hq-deng/AnoVL",
    needs_training=False,
    uses_class_names=True,
    scores_batch_jointly=False,
)


@dataclass(frozen=True, kw_only=True)
class Config(MethodConfig):
    """Settings, by the paper's terms.

    Attributes:
        views: whether the score of the image is a mean over 22 views; False for the image alone, which is 22
            times faster.
        tta_steps: steps of test-time adaptation for each image; 0 switches it off.
        tta_lr: learning rate of AdamW.
        adapter: "text" weighs the vectors of the single prompts (the authors' choice on MVTec AD), "linear"
            maps patches to patches (their choice on VisA).
        noise_std: standard deviation of the noise on patches that shall look abnormal.
        seed: seed of the adapter's first weights and of the noise.
        textures: class names that are surfaces instead of objects.
        temperature: temperature of the softmax over normal and abnormal.
        value_value_from: first layer with value-value attention, 1-based.
    """

    views: bool = True
    tta_steps: Annotated[int, AtLeast(0)] = 5
    tta_lr: Annotated[float, Above(0)] = 1e-3
    adapter: Literal["text", "linear"] = "text"
    noise_std: Annotated[float, AtLeast(0)] = 0.055
    seed: int = 111
    textures: tuple[str, ...] = TEXTURES
    temperature: Temperature = 1.0
    value_value_from: int = 1
    position_interpolation: PositionInterpolation = "bicubic_antialias"


@dataclass(frozen=True)
class AnoVLState(State):
    """Features of the prompts.

    Attributes:
        texts: features for each class name; equal names share their tensors.
    """

    texts: tuple[ClassTexts, ...]


@dataclass(frozen=True)
class Features:
    """Everything that AnoVL computes from a batch.

    Attributes:
        view_features: (B, V, E) float32 embeddings of the views of each image, not normalised.
        patch_features: (B, N, E) float32 value-value patches in the joint space, not normalised.
    """

    view_features: Tensor
    patch_features: Tensor


class AnoVL(Method[Config, Features, AnoVLState]):
    """See the module's description."""

    EXPORT = "it trains an adapter on each image; tta_steps=0 (--set tta_steps=0) leaves that out and exports"

    def __init__(self, backbone: CLIP, config: Config) -> None:
        """Nothing is learnt that outlives an image.

        Raises:
            ConfigError: the image encoder has no such layer.
        """
        layers = backbone.config.vision.layers
        if not 1 <= config.value_value_from <= layers:
            raise ConfigError(
                f"value_value_from {config.value_value_from}: this image encoder has layers 1 to {layers}"
            )
        super().__init__(backbone, config)
        self.text = DomainAwareTexts(self.backbone, config.textures)

    @property
    def why_not_exportable(self) -> str:
        """The test-time adaptation; "" without it."""
        return self.EXPORT if self.config.tta_steps else ""

    def prepare(self, classes: Sequence[str], support: Support | None = None) -> AnoVLState:
        """Features of the prompts of the classes."""
        return AnoVLState(self.text.encode(classes))

    @torch.no_grad()
    def features(self, images: Tensor) -> Features:
        """The image once for its patches, and its views for their class tokens."""
        visual = self.backbone.visual
        last = self.backbone.config.vision.layers
        output = visual(images, value_value_from=self.config.value_value_from, value_taps=(last,))
        patches = visual.project(output.value_tokens[last][:, 1:]).float()
        whole = visual.project(output.class_token).float()[:, None]
        if not self.config.views:
            return Features(whole, patches)
        others = self._embed_views(altered_views(images))
        return Features(torch.cat([whole, others], dim=1), patches)

    def _embed_views(self, views: Tensor) -> Tensor:
        """Embeddings (B, V, E) float32 of views (B, V, 3, S, S), some at a time."""

        def embed(part: Tensor) -> tuple[Tensor]:
            return (self.backbone.encode_image(part).float(),)

        embedded = in_parts(embed, views.flatten(0, 1), VIEWS_AT_ONCE)[0]
        return embedded.reshape(*views.shape[:2], -1)

    def score(self, features: Features, state: AnoVLState) -> RawOutput:
        """Mean score of the views, and the map of the adapted patches."""
        temperature = self.config.temperature
        means = torch.stack([texts.means for texts in state.texts])
        scores = similarity_softmax(features.view_features, means, temperature)[..., 1].mean(dim=1)
        patches = features.patch_features
        if self.config.tta_steps > 0:
            texts = state.texts if len(state.texts) > 1 else state.texts * len(patches)
            adapted = [
                adapt_patches(tokens, text, self.config) for tokens, text in zip(patches, texts, strict=True)
            ]
            patches = torch.stack(adapted)
        grids = to_grid(similarity_softmax(patches, means, temperature)[..., 1:])
        smoothed = F.avg_pool2d(F.pad(grids, (1, 1, 1, 1), mode="replicate"), 3, stride=1)[:, 0]
        size = grids.shape[-1] * self.backbone.config.vision.patch_size
        return RawOutput(scores, upsample(smoothed, size, align_corners=True))


def altered_views(images: Tensor) -> Tensor:
    """The 21 changed views of each image: turned, shifted, mirrored, grey, turned by quarters.

    Beyond the border the image is mirrored (the border pixels are not repeated). Shifts are in units of half
    a side. Grey is computed from the normalised images, as the authors do.

    Source: the released code of AnoVL.

    Args:
        images: (B, 3, S, S) normalised images.

    Returns:
        (B, 21, 3, S, S): 8 rotations, 8 shifts, 1 mirrored, 1 grey, 3 quarter turns.
    """
    turned = [
        _warp(images, ((math.cos(angle), -math.sin(angle), 0.0), (math.sin(angle), math.cos(angle), 0.0)))
        for angle in ROTATIONS
    ]
    shifted = [_warp(images, ((1.0, 0.0, across), (0.0, 1.0, down))) for across, down in SHIFTS]
    weights = images.new_tensor(GREY_WEIGHTS).reshape(1, 3, 1, 1)
    grey = (images * weights).sum(dim=1, keepdim=True).expand_as(images)
    quarters = [torch.rot90(images, turns, dims=(2, 3)) for turns in (1, 2, 3)]
    return torch.stack([*turned, *shifted, images.flip(-1), grey, *quarters], dim=1)


def _warp(images: Tensor, matrix: Sequence[Sequence[float]]) -> Tensor:
    """Images seen through an affine map of coordinates in [-1, 1]."""
    theta = images.new_tensor(matrix)[None]
    grid = F.affine_grid(theta, [1, *images.shape[1:]], align_corners=True)
    grid = grid.expand(images.shape[0], -1, -1, -1)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=True)


def adapt_patches(patches: Tensor, texts: ClassTexts, config: Config) -> Tensor:
    """Patches of one image, after training an adapter on them alone.

    z' = (z + h(z)) / 2,  h(z) = T^t tanh(W z / |z| + b)  or  W z / |z| + b
    loss = mean_p( -sum_c p_c log p_c ) + mean_p( -log q_abnormal - log p_normal ) / 2

    where p are the probabilities of z', q those of the adapted z + noise, and T the vectors of the single
    prompts. The gradients are written out, so that the steps are plain products: predictions run without
    automatic gradients, and exporters can follow.

    Source: AnoVL (2308.15939), section 3.4, in the form of the released code.

    Args:
        patches: (N, E), not normalised.
        texts: features of the prompts of the image's class.
        config: steps, learning rate, adapter, noise and seed.

    Returns:
        (N, E), without gradient.
    """
    z = patches.detach()
    means, single = texts.means.detach(), texts.single.detach()
    width = z.shape[1]
    rows = len(single) if config.adapter == "text" else width
    generator = torch.Generator().manual_seed(config.seed)
    # The default initialisation of a linear layer, drawn on the CPU: the same on every device.
    bound = 1 / math.sqrt(width)
    weight = _uniform((rows, width), bound, generator).to(z)
    bias = _uniform((rows,), bound, generator).to(z)
    mix = single if config.adapter == "text" else None
    steps = AdamW([weight, bias], config.tta_lr)
    for _ in range(config.tta_steps):
        noisy = z + config.noise_std * torch.randn(z.shape, generator=generator).to(z)
        gradients = []
        for tokens in (z, noisy):
            log_chances = _log_chances(_adapted(tokens, weight, bias, mix), means, config.temperature)
            chances = log_chances.exp()
            if tokens is z:  # d/dlogits of the entropy, and of -log p_normal / 2
                entropy = -(chances * log_chances).sum(dim=-1, keepdim=True)
                wanted = chances.new_tensor([1.0, 0.0])
                errors = -chances * (log_chances + entropy) + 0.5 * (chances - wanted)
            else:  # d/dlogits of -log q_abnormal / 2
                errors = 0.5 * (chances - chances.new_tensor([0.0, 1.0]))
            gradients.append(
                _gradients(tokens, errors / len(z), weight, bias, mix, means / config.temperature)
            )
        steps.take([first + second for first, second in zip(*gradients, strict=True)])
    return _adapted(z, weight, bias, mix)


def _adapted(tokens: Tensor, weight: Tensor, bias: Tensor, mix: Tensor | None) -> Tensor:
    """Z' of tokens z, both (N, E); `mix` holds the vectors T of the adapter "text"."""
    moved = F.linear(F.normalize(tokens, dim=-1), weight, bias)
    return 0.5 * tokens + 0.5 * (moved if mix is None else moved.tanh() @ mix)


def _log_chances(tokens: Tensor, means: Tensor, temperature: float) -> Tensor:
    """(N, 2) logarithms of the probabilities of normal and abnormal."""
    return torch.log_softmax(F.normalize(tokens, dim=-1) @ means.T / temperature, dim=-1)


def _gradients(
    tokens: Tensor, errors: Tensor, weight: Tensor, bias: Tensor, mix: Tensor | None, means: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of weight and bias by the chain rule.

    Args:
        tokens: (N, E) inputs of the adapter.
        errors: (N, 2) gradients of the logits.
        weight: (R, E) of the adapter.
        bias: (R,) of the adapter.
        mix: (R, E) vectors T of the adapter "text"; None for the adapter "linear".
        means: (2, E) features of normal and abnormal, divided by the temperature.
    """
    unit = F.normalize(tokens, dim=-1)
    moved = F.linear(unit, weight, bias)
    bent = moved if mix is None else moved.tanh()
    adapted = 0.5 * tokens + 0.5 * (bent if mix is None else bent @ mix)
    length = adapted.norm(dim=-1, keepdim=True)
    direction = adapted / length
    pulled = errors @ means
    of_adapted = (pulled - direction * (direction * pulled).sum(dim=-1, keepdim=True)) / length
    of_moved = 0.5 * of_adapted if mix is None else 0.5 * (of_adapted @ mix.T) * (1 - bent.square())
    return of_moved.T @ unit, of_moved.sum(dim=0)


def _uniform(shape: tuple[int, ...], bound: float, generator: torch.Generator) -> Tensor:
    """Random numbers between -bound and bound."""
    return (2 * torch.rand(shape, generator=generator) - 1) * bound

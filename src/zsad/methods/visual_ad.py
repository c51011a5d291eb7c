"""VisualAD: two learnt tokens inside the image encoder in place of any text.

CVPR 2026, https://arxiv.org/abs/2603.07952; code https://github.com/7HHHHH/VisualAD.

Idea: an anomaly token and a normal token enter CLIP's frozen image encoder before its first block, beside the
class token, and exchange information with the patches in every block. For each of four layers, spatial
cross-attention (SCA) adds to both tokens what a few learnt queries find among the patches of that layer, and
a self-alignment function (SAF), two linear layers, changes the patches. The map of a layer is the difference
of the cosines between its patches and the two tokens; maps are added up. The score of the image is the mean
of the top 1 % of the pixels. There is no text encoder, so class names mean nothing.

What the released code does:

* both tokens have the position of the class token, and the final layer norm of the image encoder is trained
  with them; here it is a copy, so that other methods on the same network keep theirs;
* at one revision, its test script forgets the trained layer norm, and reported numbers may come from it; here
  it is always used;
* gradients of each token are shortened to a norm of 1;
* it learns for 2 epochs on MVTec AD, but for 1 on VisA.

Deviations from the released code:

* the score of the image passes through a sigmoid, as it does in the loss, so that it lies in [0, 1]; the
  order of images stays the same;
* the learning rate stays constant. Theirs follows a cosine from epoch to epoch, which in the second epoch on
  MVTec AD takes that of the tokens to 0.55 of its start;
* the top 1 % of small maps holds at least one pixel;
* DINOv2 as image encoder is not offered;
* with another number of layers than 24, those at the end of each quarter are used (6, 12, 18, 24 in the
  paper).

The tests compare with plain loops, because no numbers of the authors' code were recorded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zsad.backbones.catalog import MVTEC, VISA, authors_weights
from zsad.errors import WeightsError
from zsad.files.fields import AtLeast
from zsad.methods.base import Method, MethodConfig, Sigma, State, Support
from zsad.methods.functional.checks import check_masks, check_tensors
from zsad.methods.functional.losses import dice_loss, focal_loss
from zsad.methods.functional.maps import gaussian_filter, mean_of_largest, to_grid, upsample
from zsad.methods.functional.patches import layers_to_use
from zsad.methods.functional.spatial_attention import (
    SelfAlignment,
    SpatialCrossAttention,
    clipped_gradient,
    contrast,
)
from zsad.methods.training import TrainingDefaults
from zsad.types import MethodInfo, RawOutput

if TYPE_CHECKING:
    from zsad.backbones.clip import CLIP

TOP_SHARE = 0.01
MARGIN = 0.5
LARGEST_GRADIENT = 1.0

INFO = MethodInfo(
    name="visual_ad",
    title="VisualAD",
    year=2026,
    paper="https://arxiv.org/abs/2603.07952",
    code="https://github.com/7HHHHH/VisualAD",
    needs_training=True,
    uses_class_names=False,
    scores_batch_jointly=False,
)

FILES = "https://raw.githubusercontent.com/7HHHHH/VisualAD/main/weight"
PAGE = "https://github.com/7HHHHH/VisualAD"

WEIGHTS = (
    authors_weights(
        "visual_ad-trained-on-visa",
        f"{FILES}/train_on_visa/CLIP.pth",
        PAGE,
        VISA,
        activation="quick_gelu",
        notes="no checksum is known, and the repository has no licence file; the paper's numbers on MVTec AD",
    ),
    authors_weights(
        "visual_ad-trained-on-mvtec",
        f"{FILES}/train_on_mvtec/CLIP.pth",
        PAGE,
        MVTEC,
        activation="quick_gelu",
        notes="no checksum is known, and the repository has no licence file; the paper's numbers on VisA",
    ),
)


@dataclass(frozen=True, kw_only=True)
class Config(MethodConfig):
    """Settings, by the names of the authors' code.

    Attributes:
        features_list: 1-based layers of the image encoder whose patches are used; None for 6, 12, 18, 24 of
            24 layers, and for the ends of the quarters of another number.
        num_anchors: number of learnt queries of each layer's cross-attention.
        max_patches: largest number of patches of an image, each of which has a learnt position.
        sigma: standard deviation of the Gaussian filter over the map, in pixels; 0 switches it off.
    """

    features_list: tuple[int, ...] | None = None
    num_anchors: Annotated[int, AtLeast(1)] = 4
    max_patches: Annotated[int, AtLeast(1)] = 1536
    sigma: Sigma = 4.0


@dataclass(frozen=True)
class Features:
    """The images themselves, because what is learnt enters the image encoder.

    Attributes:
        images: (B, 3, S, S) resized and normalised images.
    """

    images: Tensor


class VisualAD(Method[Config, Features, State]):
    """See the module's description."""

    SHAPE_FIELDS = frozenset({"features_list", "num_anchors", "max_patches"})
    AUTHORS_ACTIVATION = "quick_gelu"
    IMAGE_TERMS = frozenset({"image", "tokens"})
    LOSS_IS_MEAN = False  # the gradients of the tokens are clipped over the whole step
    TRAINING = TrainingDefaults(
        epochs=1,
        batch_size=8,
        learning_rate=1e-3,
        optimizer="adamw",
        betas=(0.9, 0.999),
        weight_decay=0.01,
        rates=(("ln_post.", 0.1), ("cross_attn.", 0.1), ("layer_transforms.", 0.1)),
        on={"mvtec": {"epochs": 2}},
    )

    def __init__(self, backbone: CLIP, config: Config) -> None:
        """Fresh tokens and modules from torch's global random numbers.

        Raises:
            ConfigError: a setting is impossible for this backbone.
        """
        chosen = layers_to_use(config.features_list, backbone.config.vision.layers)
        super().__init__(backbone, replace(config, features_list=chosen))
        self.layers = chosen
        width = backbone.config.vision.width
        self.anomaly_token = nn.Parameter(0.1 * width**-0.5 * torch.randn(width))
        self.normal_token = nn.Parameter(0.1 * width**-0.5 * torch.randn(width))
        self.ln_post = nn.LayerNorm(width)
        with torch.no_grad():
            for own, plain in zip(
                self.ln_post.parameters(), backbone.visual.ln_post.parameters(), strict=True
            ):
                own.copy_(plain)
        self.cross_attn = nn.ModuleDict(
            {
                f"layer_{layer}": SpatialCrossAttention(width, config.num_anchors, config.max_patches)
                for layer in chosen
            }
        )
        self.layer_transforms = nn.ModuleDict({f"layer_{layer}": SelfAlignment(width) for layer in chosen})

    def prepare(self, classes: Sequence[str], support: Support | None = None) -> State:
        """Nothing: there is no text."""
        return State()

    def features(self, images: Tensor) -> Features:
        """The images: tokens enter the image encoder before its first block."""
        return Features(images)

    def score(self, features: Features, state: State) -> RawOutput:
        """The smoothed sum of the layers' maps, and the mean of its top 1 % through a sigmoid."""
        grids, _ = self._contrasts(features.images)
        # Upsampling is linear, so the layers can be added up before it.
        maps = upsample(grids.sum(dim=1), int(features.images.shape[-1]))
        maps = gaussian_filter(maps, self.config.sigma)
        return RawOutput(torch.sigmoid(top_mean(maps)), maps)

    @property
    def map_range(self) -> tuple[float, float]:
        """A difference of two cosines for each layer."""
        return (-2.0 * len(self.layers), 2.0 * len(self.layers))

    def loss_from_features(
        self, features: Features, masks: Tensor, labels: Tensor, classes: Sequence[str] | None = None
    ) -> dict[str, Tensor]:
        """Losses of the image, of the tokens and of the pixels.

        L = BCE(sigmoid(top1%(sum_l m_l)), y) + max(0, cos(a, n) + 1/2)
            + sum_l [ Focal(sigmoid(m_l), G) + Dice(sigmoid(m_l), G) ],  a and n the tokens of the last layer

        Source: VisualAD (2603.07952), as in the authors' train.py.

        Args:
            features: features of the batch.
            masks: (B, S, S) or (B, 1, S, S) in {0, 1}.
            labels: (B,) in {0, 1}.
            classes: not used.

        Returns:
            "image", "tokens", "focal" and "dice_abnormal".
        """
        size = int(features.images.shape[-1])
        masks = check_masks(masks, len(features.images), size)
        grids, tokens = self._contrasts(features.images)
        with torch.autocast(masks.device.type, enabled=False):
            maps = upsample(grids.float(), size)
            layers = torch.sigmoid(maps).unbind(dim=1)
            cosines = F.cosine_similarity(tokens[:, 0].float(), tokens[:, 1].float(), dim=-1)
            pairs = [torch.stack([1 - layer, layer], dim=1) for layer in layers]
            return {
                "image": F.binary_cross_entropy_with_logits(top_mean(maps.sum(dim=1)), labels.float()),
                "tokens": (cosines + MARGIN).clamp(min=0).mean(),
                "focal": torch.stack([focal_loss(pair, masks) for pair in pairs]).sum(),
                "dice_abnormal": torch.stack([dice_loss(layer, masks) for layer in layers]).sum(),
            }

    def trainable(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Both tokens, the layer norm, and the two modules of each layer."""
        yield from (each for each in self.named_parameters() if not each[0].startswith("backbone."))

    def load_official(self, state_dict: Mapping[str, Any]) -> None:
        """Takes the file of the authors' training, in which tokens, layer norm and modules lie apart."""
        self.load_learned(official_tensors(state_dict))

    @classmethod
    def official_config(cls, state_dict: Mapping[str, Any]) -> dict[str, Any]:
        """`features_list`, `num_anchors` and `max_patches` from the names and shapes of the modules."""
        found = official_tensors(state_dict)
        queries = {name: each for name, each in found.items() if name.endswith(".anchor_queries")}
        positions = [each for name, each in found.items() if name.endswith(".pos_encoding")]
        layers = tuple(sorted(int(name.split(".")[1].removeprefix("layer_")) for name in queries))
        return {
            "features_list": layers,
            "num_anchors": next(iter(queries.values())).shape[0],
            "max_patches": positions[0].shape[1],
        }

    def _contrasts(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, G, G) difference of the cosines by layer, and (B, 2, D) both tokens at the last layer."""
        tokens, patches = self._encode(images)
        grids = []
        for layer, level in zip(self.layers, patches, strict=True):
            informed = self.cross_attn[f"layer_{layer}"](tokens, level)
            aligned = self.layer_transforms[f"layer_{layer}"](level)
            grids.append(to_grid(contrast(aligned.float(), informed.float())[..., None])[:, 0])
        return torch.stack(grids, dim=1), informed

    def _encode(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Both tokens (B, 2, D) after the last block, and patches (B, N, D) of each used layer, normed."""
        visual = self.backbone.visual
        learnt = [
            clipped_gradient(each, LARGEST_GRADIENT) for each in (self.anomaly_token, self.normal_token)
        ]
        # Both differ little from their position at first, which a lower precision would round away.
        tokens = torch.stack(learnt) + visual.positional_embedding[0].float()
        weight, bias = visual.ln_pre.weight.float(), visual.ln_pre.bias.float()
        tokens = F.layer_norm(tokens, tokens.shape[-1:], weight, bias, visual.ln_pre.eps)
        x: Tensor = visual.ln_pre(visual.embed(images))
        x = torch.cat([tokens.to(x.dtype).expand(x.shape[0], -1, -1), x], dim=1)
        kept = {}
        for number, block in enumerate(visual.transformer.blocks(), start=1):
            x = block(x)
            if number in self.layers:
                kept[number] = self.ln_post(x[:, 3:].float())
        return self.ln_post(x[:, :2].float()), [kept[layer] for layer in self.layers]


def top_mean(maps: Tensor) -> Tensor:
    """Mean of the largest 1 % of the pixels of each map, of one at least.

    Args:
        maps: (B, S, S).

    Returns:
        (B,).

    Example:
        >>> top_mean(torch.arange(200.0).reshape(1, 10, 20))
        tensor([198.5000])
    """
    return mean_of_largest(maps, max(1, int(TOP_SHARE * maps[0].numel())))


def official_tensors(state_dict: Mapping[str, Any]) -> dict[str, Tensor]:
    """The learnt tensors of an authors' file, by the names of this method.

    Raises:
        WeightsError: it is no such file.
    """
    parts = [state_dict.get(name) for name in ("cross_attn", "layer_transforms")]
    if not all(isinstance(part, Mapping) and part for part in parts):
        raise WeightsError(
            "not a file of VisualAD's authors: expected entries 'anomaly_token', 'cross_attn' and "
            f"'layer_transforms', found {', '.join(map(str, list(state_dict)[:5])) or 'nothing'}"
        )
    attention, transforms = (dict(part) for part in parts if part is not None)
    found = {
        **{name: state_dict.get(name) for name in ("anomaly_token", "normal_token")},
        **{f"ln_post.{name}": state_dict.get(f"ln_post_{name}") for name in ("weight", "bias")},
        **{f"cross_attn.{name.removeprefix('layer_attentions.')}": each for name, each in attention.items()},
        **{
            f"layer_transforms.{layer}.{name}": each
            for layer, module in transforms.items()
            for name, each in dict(module).items()
        },
    }
    check_tensors("VisualAD's authors", found)
    # Their tokens have an axis of length 1 in front.
    return {name: each.flatten() if name.endswith("_token") else each for name, each in found.items()}

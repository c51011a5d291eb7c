"""Convolutional stems of hybrid vision transformers: image in, patch embeddings out.

A plain ViT cuts the image into patches with one strided convolution. A hybrid one (Dosovitskiy et al. 2021,
section 3.1) computes the patch embeddings with a small convolutional network, which a two-core machine trains
far faster than a transformer from scratch. `tiny` starts from EfficientNet-Lite2 (Tan & Le 2019; Apache-2.0).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zsad.backbones.selection import largest
from zsad.errors import unknown_name

_WIDENING = "stages.5.0.expand"  # of the first block of stride 32, which reads the level of stride 16
_IMAGES_AT_ONCE = 4  # on a processor: more take longer, fewer leave holes in the memory that add up


@dataclass(frozen=True)
class Stage:
    """A run of inverted-bottleneck blocks: `repeats` blocks, the first with `stride`."""

    channels: int
    repeats: int
    kernel: int
    stride: int
    expansion: int


# EfficientNet-Lite2: B0's stages, 1.1 times as wide and 1.2 times as deep; no squeeze-excitation, ReLU6.
LITE2_STAGES = (
    Stage(16, 1, 3, 1, 1),
    Stage(24, 3, 3, 2, 6),
    Stage(48, 3, 5, 2, 6),
    Stage(88, 4, 3, 2, 6),
    Stage(120, 4, 5, 1, 6),
    Stage(208, 5, 5, 2, 6),
    Stage(352, 1, 3, 1, 6),
)


class SameConv2d(nn.Conv2d):
    """Convolution with TensorFlow's "same" padding: the odd pixel goes to the right and the bottom.

    The output has ceil(size / stride) pixels on one side. Batch normalisation is folded into weight and bias.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C', ceil(H / stride), ceil(W / stride))."""
        kernel, stride = self.kernel_size[0], self.stride[0]
        if stride == 1:
            return F.conv2d(x, self.weight, self.bias, 1, kernel // 2, 1, self.groups)
        height, width = x.shape[-2:]
        vertical = max((-(-height // stride) - 1) * stride + kernel - height, 0)
        horizontal = max((-(-width // stride) - 1) * stride + kernel - width, 0)
        x = F.pad(x, (horizontal // 2, horizontal - horizontal // 2, vertical // 2, vertical - vertical // 2))
        return F.conv2d(x, self.weight, self.bias, stride, 0, 1, self.groups)


class InvertedBottleneck(nn.Module):
    """Expand 1x1, filter depthwise, project 1x1; with a skip where shapes allow (MobileNetV2, ReLU6)."""

    def __init__(self, channels: int, out_channels: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = channels * expansion
        self.expand = SameConv2d(channels, hidden, 1) if expansion > 1 else None
        self.depthwise = SameConv2d(hidden, hidden, kernel, stride, groups=hidden)
        self.project = SameConv2d(hidden, out_channels, 1)
        self.skip = stride == 1 and channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C', H / stride, W / stride)."""
        hidden = x if self.expand is None else F.relu6(self.expand(x), inplace=True)
        out: Tensor = self.project(F.relu6(self.depthwise(hidden), inplace=True))
        return x + out if self.skip else out


class EfficientNetLiteTrunk(nn.Module):
    """The convolutional pyramid of EfficientNet-Lite, batch normalisation folded, classifier left out."""

    def __init__(self, stages: tuple[Stage, ...] = LITE2_STAGES) -> None:
        super().__init__()
        self.first = SameConv2d(3, 32, 3, 2)
        self.stages = nn.ModuleList()
        channels = 32
        for stage in stages:
            blocks = []
            for index in range(stage.repeats):
                stride = stage.stride if index == 0 else 1
                blocks.append(
                    InvertedBottleneck(channels, stage.channels, stage.kernel, stride, stage.expansion)
                )
                channels = stage.channels
            self.stages.append(nn.Sequential(*blocks))

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, S, S) to the output of every stage, finest first."""
        x = F.relu6(self.first(images), inplace=True)
        outputs = []
        for stage in self.stages:
            x = stage(x)
            outputs.append(x)
        return outputs


def self_novelty(features: Tensor, neighbours: int = 8) -> Tensor:
    """How little each position resembles the rest of its own image.

    An anomaly is rare within its image, whatever the image shows, so this is what a small network finds
    hardest to learn and profits from most. It is mutual scoring within one image (MuSc, ICLR 2024,
    section 3.2); the position itself and its eight neighbours are left out, because they overlap.

    Args:
        features: (B, C, G, G).
        neighbours: number of most similar positions that the second channel averages.

    Returns:
        (B, 3, G, G) float32: 1 - cosine to the most similar position, 1 - mean cosine to the `neighbours`
        most similar ones (both in [0, 2], channels standardised within the image), and the distance from
        the image's mean in units of its spread.
    """
    side = features.shape[-1]
    tokens = features.float().flatten(2).transpose(1, 2)  # (B, N, C)
    centred = tokens - tokens.mean(dim=1, keepdim=True)
    spread = centred.square().mean(dim=1, keepdim=True).sqrt()
    distance = centred.norm(dim=-1) / (spread.norm(dim=-1) + 1e-4)
    directions = F.normalize(centred / (spread + 1e-4), dim=-1)
    similarity = directions @ directions.transpose(1, 2)  # (B, N, N)
    row = torch.arange(side * side, device=features.device) // side
    column = torch.arange(side * side, device=features.device) % side
    close = ((row[:, None] - row).abs() <= 1) & ((column[:, None] - column).abs() <= 1)
    best = largest(similarity.masked_fill(close, -1.0), min(neighbours, side * side))
    novelty = torch.stack([1 - best[..., 0], 1 - best.mean(dim=-1), distance], dim=1)
    return novelty.view(-1, 3, side, side)


@dataclass(frozen=True)
class StemOutput:
    """What a hybrid stem says of images beside their patch embeddings.

    Attributes:
        levels: (B, C, H, W) levels of the pyramid, finest first.
        stem: the stem, which widens a level only where somebody reads it.
    """

    levels: tuple[Tensor, ...]
    stem: EfficientNetLiteStem

    @property
    def on_patch_grid(self) -> tuple[Tensor, Tensor]:
        """The level on the patch grid (B, 120, G, G), and what `EfficientNetLiteStem.widened` makes of it."""
        return self.levels[1], self.stem.widened(self.levels[1])


class EfficientNetLiteStem(nn.Module):
    """Patch embeddings of stride 16 from three levels of the trunk's pyramid and their self-novelty.

    The stride-8 level is folded 2x2 into channels, so that thin defects keep their place; the stride-32 level
    is enlarged and adds context. One 1x1 convolution maps all of it to the width of the encoder.
    """

    patch_size = 16

    def __init__(self, width: int) -> None:
        super().__init__()
        self.trunk = EfficientNetLiteTrunk()
        self.projection = nn.Conv2d(4 * 48 + 120 + 352 + 9, width, 1)

    def pyramid(self, images: Tensor) -> list[Tensor]:
        """(B, 3, S, S) to the trunk's levels of stride 8, 16 and 32 (48, 120 and 352 channels)."""
        images = images.contiguous(memory_format=torch.channels_last)
        if images.device.type != "cpu" or torch.compiler.is_compiling():
            return self._levels(images)
        parts = [self._levels(part) for part in torch.split(images, _IMAGES_AT_ONCE)]
        return parts[0] if len(parts) == 1 else [torch.cat(level) for level in zip(*parts, strict=True)]

    def _levels(self, images: Tensor) -> list[Tensor]:
        levels = self.trunk(images)
        return [levels[2], levels[4], levels[6]]

    def combine(self, fine: Tensor, middle: Tensor, coarse: Tensor) -> Tensor:
        """Three levels to what the projection reads: (B, 673, S / 16, S / 16)."""
        enlarged = F.interpolate(coarse, size=middle.shape[-2:], mode="bilinear", align_corners=False)
        novelty = [self_novelty(level) for level in (F.avg_pool2d(fine, 2), middle, enlarged)]
        folded = F.pixel_unshuffle(fine, 2)
        return torch.cat(
            [folded, middle, enlarged, *(channel.to(middle.dtype) for channel in novelty)], dim=1
        )

    def widened(self, middle: Tensor) -> Tensor:
        """The level of stride 16 to the widened input of the next block: (B, 720, S / 16, S / 16).

        What leaves a block has gone through a linear bottleneck, where the cosine of two patches says less.
        """
        return F.relu6(self.trunk.get_submodule(_WIDENING)(middle))

    def embed(self, levels: Sequence[Tensor]) -> Tensor:
        """Levels of `pyramid` to patch embeddings (B, width, S / 16, S / 16)."""
        out: Tensor = self.projection(self.combine(*levels))
        return out

    def read(self, images: Tensor) -> tuple[Tensor, StemOutput]:
        """Patch embeddings (B, width, S / 16, S / 16), and what else the stem says of the images."""
        levels = tuple(self.pyramid(images))
        return self.embed(levels), StemOutput(levels, self)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) to (B, width, S / 16, S / 16); S must be a multiple of 16."""
        return self.embed(self.pyramid(images))


def build_stem(name: str, width: int) -> EfficientNetLiteStem:
    """A stem by the name that a `VisionConfig` holds.

    Args:
        name: "efficientnet_lite2".
        width: channels of the patch embeddings.

    Raises:
        ConfigError: the name is unknown.
    """
    if name != "efficientnet_lite2":
        raise unknown_name("stem", name, ["patch", "efficientnet_lite2"])
    return EfficientNetLiteStem(width)

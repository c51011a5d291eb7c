"""CLIP's image encoder: an image in, its class token and the patches of chosen blocks out.

Parameter names are those of OpenAI's release.

Source: Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision".

Shapes: B images, S pixels of one side, N = G*G patches, D encoder width, E joint width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from zsad.backbones.attention import DeepPrompts, resize_positions
from zsad.backbones.recording import listener
from zsad.backbones.transformer import Transformer
from zsad.errors import ConfigError
from zsad.files.fields import Count  # noqa: TC001 - read by from_plain

if TYPE_CHECKING:
    from zsad.backbones.stems import StemOutput
    from zsad.types import Activation, PositionInterpolation

# Number of tokens that pass the last block if only the class token is read. One is enough, but a processor
# multiplies a few rows differently and rounds differently, so that a result would depend on its batch.
LAST_ROWS = 16


@dataclass(frozen=True)
class VisionConfig:
    """Shape of the image encoder.

    Attributes:
        image_size: pixels of one side that the position table was made for.
        patch_size: pixels of one side of a patch.
        width: D, width of the encoder.
        layers: number of blocks.
        heads: attention heads of a block.
        stem: "patch" for CLIP's strided convolution, or a name that `zsad.backbones.stems` knows.
    """

    image_size: Count
    patch_size: Count
    width: Count
    layers: Count
    heads: Count
    stem: str = "patch"

    @property
    def grid(self) -> int:
        """Patches along one side at `image_size`."""
        return self.image_size // self.patch_size


@dataclass(frozen=True)
class VisionOutput:
    """Result of one pass through the image encoder; row 0 of token tensors is the class token.

    Attributes:
        class_token: (B, D) after the last block, before `ln_post`.
        tokens: block of `taps` -> (B, 1 + N, D), the original stream after that block.
        value_tokens: block of `taps` or `value_taps` -> (B, 1 + N, D), the value-value stream after that
            block, and the original stream before the value-value stream starts. Empty without taps.
        stem: what a hybrid stem says beside its patch embeddings; None for plain patches.
    """

    class_token: Tensor
    tokens: dict[int, Tensor]
    value_tokens: dict[int, Tensor]
    stem: StemOutput | None = None


@dataclass(frozen=True)
class ResizedPositions:
    """A position table for another grid, with the state of its source, which shows whether it is up to date.

    Attributes:
        source: the parameter that it was made from.
        state: address, device, type and version that the parameter had then.
        resized: (1 + N, D) resized table.
    """

    source: Tensor
    state: tuple[object, ...]
    resized: Tensor


class VisionTower(nn.Module):
    """Image -> class token and patch tokens.

    Attributes:
        config: shape of the encoder.
        position_interpolation: how the position table is resized for images of another size.
    """

    def __init__(
        self,
        config: VisionConfig,
        embed_dim: int,
        activation: Activation,
        position_interpolation: PositionInterpolation = "bicubic_antialias",
    ) -> None:
        super().__init__()
        self.config = config
        self.position_interpolation: PositionInterpolation = position_interpolation
        width = config.width
        if config.stem == "patch":
            self.conv1 = nn.Conv2d(3, width, config.patch_size, stride=config.patch_size, bias=False)
        else:
            from zsad.backbones.stems import build_stem

            self.stem = build_stem(config.stem, width)
            if self.stem.patch_size != config.patch_size:
                raise ConfigError(
                    f"stem {config.stem!r} makes patches of {self.stem.patch_size} pixels, "
                    f"but the configuration says {config.patch_size}"
                )
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.positional_embedding = nn.Parameter(torch.empty(config.grid**2 + 1, width))
        self.ln_pre = nn.LayerNorm(width)
        self.transformer = Transformer(width, config.layers, config.heads, activation)
        self.ln_post = nn.LayerNorm(width)
        self.proj = nn.Parameter(torch.empty(width, embed_dim))
        self._resized_positions: dict[tuple[int, str], ResizedPositions] = {}
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Random weights for training from scratch."""
        for parameter in (self.class_embedding, self.positional_embedding, self.proj):
            nn.init.normal_(parameter, std=self.config.width**-0.5)
        self.transformer.reset_parameters()

    def embed(self, images: Tensor) -> Tensor:
        """Patch embedding, class token and positions, before `ln_pre`.

        Args:
            images: (B, 3, S, S) normalised images, S a multiple of the patch size.

        Returns:
            (B, 1 + N, D).

        Raises:
            ConfigError: the images are not square, or S is not a multiple of the patch size.
        """
        return self._embed(images)[0]

    def _embed(self, images: Tensor) -> tuple[Tensor, StemOutput | None]:
        """What `embed` returns, and what a hybrid stem says beside it."""
        height, width = int(images.shape[-2]), int(images.shape[-1])  # a tracer returns tensors here
        check_image_size(height, width, self.config.patch_size)
        images = images.to(self.class_embedding.dtype)
        patches, stem = (self.conv1(images), None) if self.config.stem == "patch" else self.stem.read(images)
        patches = patches.flatten(2).transpose(1, 2)
        class_token = self.class_embedding.expand(patches.shape[0], 1, -1)
        embedded = torch.cat([class_token, patches], dim=1)
        return embedded + self.positions(height // self.config.patch_size), stem

    def positions(self, grid: int) -> Tensor:
        """The position table for a patch grid, computed once per grid and kept until the weights change.

        Run one image before exporting: the graph then holds the table instead of the interpolation.

        Args:
            grid: patches along one side.

        Returns:
            (1 + grid*grid, D); the parameter itself at its native grid.
        """
        table = self.positional_embedding
        if grid == self.config.grid:
            return table
        key = (grid, self.position_interpolation)
        kept = self._resized_positions.get(key)
        if torch.compiler.is_compiling() or torch.jit.is_tracing():  # type: ignore[attr-defined,no-untyped-call]
            # A tracer's tensors must not be kept; a table kept earlier enters the graph as a constant.
            return kept.resized if kept else resize_positions(table, grid, self.position_interpolation)
        if table.requires_grad and torch.is_grad_enabled():
            return resize_positions(table, grid, self.position_interpolation)
        # Loading, moving and optimiser steps each change one of these.
        version = None if table.is_inference() else table._version
        state = (table.data_ptr(), table.device, table.dtype, version)
        if kept is None or kept.source is not table or kept.state != state:
            # Outside inference mode, so that a table computed in prediction also serves training.
            with torch.inference_mode(False), torch.no_grad():
                resized = resize_positions(table.detach(), grid, self.position_interpolation)
            kept = ResizedPositions(table, state, resized)
            self._resized_positions[key] = kept
        return kept.resized

    def forward(
        self,
        images: Tensor,
        taps: Sequence[int] = (),
        value_value_from: int | None = None,
        deep_prompts: DeepPrompts | None = None,
        value_taps: Sequence[int] = (),
    ) -> VisionOutput:
        """All blocks in one pass.

        The value-value stream starts as a copy of the original one at the input of block `value_value_from`;
        each block from there on adds its value-value attention of `ln_1(original stream)`, and no MLP
        (AnomalyCLIP, section 3.3, DPAM).

        Args:
            images: (B, 3, S, S) normalised images, S a multiple of the patch size.
            taps: 1-based block numbers after which tokens are returned.
            value_value_from: first block of the value-value stream; None for no such stream.
            deep_prompts: tokens appended after the patches (AdaCLIP); dropped from everything returned.
            value_taps: 1-based block numbers after which only the value-value stream is returned. Unread
                values are not computed: the original stream's patches of the last block, if only the
                value-value stream is tapped there.

        Returns:
            Class token and tapped tokens.

        Raises:
            ConfigError: a block number or the image size is impossible, or value taps are given without a
                value-value stream.
        """
        layers = self.config.layers
        check_blocks((*taps, *value_taps), value_value_from, layers)
        if value_value_from is None and len(value_taps):
            raise ConfigError("value_taps need a value-value stream: set value_value_from")
        values = {*taps, *value_taps} if value_value_from is not None else set()
        if deep_prompts is not None:
            deep_prompts.check(layers)
        recording = listener() if deep_prompts is None else None
        if recording is not None:
            taps = (*taps, *recording.taps)
        embedded, stem = self._embed(images)
        x: Tensor = self.ln_pre(embedded)
        length = x.shape[1]
        value = x
        tokens: dict[int, Tensor] = {}
        value_tokens: dict[int, Tensor] = {}
        for number, block in enumerate(self.transformer.blocks(), start=1):
            prompts = deep_prompts.before(number, x.shape[0], x) if deep_prompts is not None else None
            if prompts is not None:
                x = torch.cat([x[:, :length], prompts], dim=1)
            rows = LAST_ROWS if number == layers and number not in taps else None
            if value_value_from is not None and value_value_from <= number <= max(values, default=0):
                x, step = block.forward_dual(x, rows)
                value = value + step[:, :length]
            else:
                x = block(x, rows=rows)
                value = x[:, :length]
            if number in taps:
                tokens[number] = x[:, :length]
            if number in values:
                value_tokens[number] = value
        if recording is not None:
            recording.take(images, tokens, stem)
        return VisionOutput(x[:, 0], tokens, value_tokens, stem)

    def encode_tokens(self, tokens: Tensor) -> Tensor:
        """Runs embedded tokens through the blocks, for instance those of WinCLIP's windows.

        Args:
            tokens: (M, L, D) from `embed`, class token first.

        Returns:
            (M, D) class token of the last block, before `ln_post`.
        """
        x: Tensor = self.ln_pre(tokens)
        *earlier, last = self.transformer.blocks()
        for block in earlier:
            x = block(x)
        class_token: Tensor = last(x, rows=LAST_ROWS)[:, 0]
        return class_token

    def project(self, tokens: Tensor) -> Tensor:
        """Final norm and projection into the joint space: (..., D) -> (..., E), not normalised."""
        projected: Tensor = self.ln_post(tokens) @ self.proj
        return projected


def check_blocks(taps: Sequence[int], value_value_from: int | None, layers: int) -> None:
    """Refuses block numbers that an image encoder does not have.

    Raises:
        ConfigError: naming these numbers.
    """
    outside = sorted(tap for tap in taps if not 1 <= tap <= layers)
    if outside:
        raise ConfigError(f"taps {outside} are not blocks of this image encoder: choose from 1 to {layers}")
    if value_value_from is not None and not 1 <= value_value_from <= layers:
        raise ConfigError(
            f"the value-value stream must start at a block from 1 to {layers}, got {value_value_from}"
        )


def check_image_size(height: int, width: int, patch_size: int) -> None:
    """Refuses images that the patch size does not divide.

    Raises:
        ConfigError: the message holds the nearest sizes that fit.
    """
    if height != width:
        raise ConfigError(f"images must be square tensors (B, 3, S, S), got {height} x {width} pixels")
    if height % patch_size or height == 0:
        below = height // patch_size * patch_size
        near = f"{below} or {below + patch_size}" if below else str(patch_size)
        raise ConfigError(
            f"image size {height} is not a multiple of the patch size {patch_size}: the nearest are {near}"
        )
